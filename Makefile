# Two commands matter: `make demo` and `make test`.

TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: demo test check fix figures deps

## The main job: three replicas, four workers, a leader killed in the middle of a return.
demo: deps
	cargo build --workspace --bins
	$(TARGET)/debug/remuda-demo

## All tests that fit 15 minutes; prints the seconds of each part.
test:
	.ci/deps check
	.ci/test

## Format, lints, protocol and docs; changes nothing.
check:
	.ci/deps check
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --features remuda/chaos -- -D warnings
	$${XDG_CACHE_HOME:-$$HOME/.cache}/remuda/tools/bin/buf lint
	$${XDG_CACHE_HOME:-$$HOME/.cache}/remuda/tools/bin/buf format --diff --exit-code
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

## Puts right what can be put right by machine.
fix:
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

## The README's figures, from a release build. Takes about a quarter of an hour.
figures: deps
	cargo build --release --workspace --bins
	$(TARGET)/release/remuda-demo figures

deps:
	@.ci/deps
