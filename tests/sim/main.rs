//! The simulation: registry, `due` and the agents' duties under a network and processes that fail, from a seed.
//!
//! One thread, one queue, no clock. In the safety phase messages are lost, late and doubled, leaders are deposed or cut
//! off, replicas lag and start anew, agents crash in the middle of anything, hosts go down, clients die or sleep. In the
//! liveness phase none of that happens, and clients go on; in the end they stop, and every worker must be at rest. The
//! judges of `remuda_tests::guarantees` read the whole history of every seed.
//!
//! `REMUDA_SEED=n` runs one seed and tells more; `REMUDA_SEEDS=n` runs that many.
//!
//! Invariants
//! * The same seed gives the same history.
//! * A rule that is broken on purpose is found.

mod agent;
mod client;
mod cluster;
mod record;
#[allow(dead_code, reason = "the registry's tests use the rest")]
#[path = "../../src/registry/tests/bench/rng.rs"]
mod rng;
mod watcher;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use remuda_registry::worker::WorkerState;
use remuda_tests::guarantees::history::{Ending, History};
use remuda_tests::guarantees::{Verdict, judge};
use world::{Broken, Faults, Phase, World};

/// Seeds of one test.
const SEEDS: u64 = 200;
/// Seeds in which a broken rule must be found at least once.
const SEEDS_BROKEN: u64 = 100;
/// The safety phase, in milliseconds of the world.
const SAFETY_MS: u64 = 90_000;
/// Clients go on for this long after the faults have ended.
const LIVENESS_MS: u64 = 60_000;
/// And everything comes to rest within this: the longest lease, grace and cleaning one after another.
const QUIET_MS: u64 = 75_000;
/// Messages delivered per seed, at least.
const DELIVERED_MIN: u64 = 2_000;
/// Leader changes per seed, and crashes of agents, at least.
const CHANGES_MIN: u64 = 5;

/// What a seed came to.
struct Run {
    history: History,
    verdicts: Vec<Verdict>,
    faults: Faults,
    trace: u64,
    /// Grants made after the faults had ended.
    lively: u64,
}

/// Runs a seed to its end.
fn run(seed: u64, broken: Option<Broken>) -> Run {
    let mut world = World::new(seed, broken);
    world.run(SAFETY_MS);
    while world.faults.leader_changes < CHANGES_MIN {
        world.depose();
        let later = world.now + 3_000;
        world.run(later);
    }
    while world.faults.agent_crashes < CHANGES_MIN {
        for agent in 0..world::AGENTS {
            world.crash(agent, false);
        }
        let later = world.now + 10_000;
        world.run(later);
    }
    world.phase = Phase::Liveness;
    let (safe, grants) = (world.now, world.faults.grants);
    world.run(safe + LIVENESS_MS);
    let lively = world.faults.grants - grants;
    world.phase = Phase::Quiet;
    world.run(safe + LIVENESS_MS + QUIET_MS);
    assert!(world.cluster.has_leader(), "nobody leads though nothing fails");
    world.catch_up();
    for watcher in 0..world.watchers.len() {
        world.show(watcher);
    }
    end(&mut world);
    let mut history = std::mem::take(&mut world.record.history);
    history.watches = world.watchers.drain(..).map(|watcher| watcher.watch).collect();
    let verdicts = judge(&history);
    Run { history, verdicts, faults: world.faults, trace: world.trace, lively }
}

/// Writes down where each worker came to rest.
fn end(world: &mut World) {
    let state = world.cluster.newest();
    state.check().expect("the state keeps its invariants");
    for worker in state.workers() {
        let holder_alive = match &worker.state {
            WorkerState::Busy(lease) => world.clients.iter().any(|client| client.holds(&worker.id, lease.epoch)),
            _ => false,
        };
        world.record.history.endings.push(Ending {
            worker: worker.id.to_string(),
            state: Some(record::condition(worker.state.kind())),
            cordoned: worker.cordon.is_some(),
            agent_alive: world.agents[World::host_of(&worker.id)].up,
            holder_alive,
        });
    }
}

/// The violations of a run, or what made it stop.
fn violations(seed: u64, broken: Option<Broken>) -> Vec<String> {
    match catch_unwind(AssertUnwindSafe(|| run(seed, broken))) {
        Ok(run) => run.verdicts.into_iter().flat_map(|verdict| verdict.violations).collect(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            vec![text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()]
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn seeds() -> Vec<u64> {
    match number("REMUDA_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("REMUDA_SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

/// Judges one seed; what is wrong with it.
fn failures(seed: u64, totals: &Mutex<(Faults, BTreeMap<&'static str, u64>)>) -> Vec<String> {
    let run = match catch_unwind(AssertUnwindSafe(|| run(seed, None))) {
        Ok(run) => run,
        Err(_) => return vec![format!("seed {seed}: stopped, see above")],
    };
    let mut found = Vec::new();
    for verdict in &run.verdicts {
        found.extend(verdict.violations.iter().map(|text| format!("seed {seed}: {}: {text}", verdict.promise)));
        if verdict.judged == 0 {
            found.push(format!("seed {seed}: {} judged nothing", verdict.promise));
        }
    }
    let enough = [
        ("messages", run.faults.delivered, DELIVERED_MIN),
        ("leader changes", run.faults.leader_changes, CHANGES_MIN),
        ("agent crashes", run.faults.agent_crashes, CHANGES_MIN),
        ("grants after the faults", run.lively, 10),
    ];
    for (what, count, least) in enough {
        if count < least {
            found.push(format!("seed {seed}: only {count} {what} of {least}"));
        }
    }
    let mut totals = totals.lock().expect("no test panics while it holds this");
    totals.0.add(&run.faults);
    for verdict in &run.verdicts {
        *totals.1.entry(verdict.promise).or_default() += verdict.judged;
    }
    found
}

#[test]
fn every_promise_holds_under_every_seed() {
    let seeds = seeds();
    let (next, totals) = (AtomicU64::new(0), Mutex::default());
    let found = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).expect("small"))
                {
                    let failures = failures(*seed, &totals);
                    found.lock().expect("no test panics while it holds this").extend(failures);
                }
            });
        }
    });
    let (faults, judged) = totals.into_inner().expect("no thread panicked");
    println!("{} seeds: {faults:?}\njudged: {judged:?}", seeds.len());
    let found = found.into_inner().expect("no thread panicked");
    let shown = found.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(found.is_empty(), "{} violations; REMUDA_SEED=n runs one seed alone:\n{shown}", found.len());
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [1, 2, 3] {
        let (first, second) = (run(seed, None), run(seed, None));
        assert_eq!((first.trace, first.faults), (second.trace, second.faults), "seed {seed}");
        assert!(first.history == second.history, "seed {seed}: two histories");
    }
}

/// Some seed finds it, by a violation that says this.
fn is_found(broken: Broken, says: &str) {
    let mut other = None;
    for seed in 1..=SEEDS_BROKEN {
        let found = violations(seed, Some(broken));
        if let Some(violation) = found.iter().find(|text| text.contains(says)) {
            println!("{broken:?} is found by seed {seed}: {violation}");
            return;
        }
        other = other.or(found.into_iter().next());
    }
    panic!("{broken:?} was not found by {says:?}; something else: {other:?}");
}

#[test]
fn a_return_under_a_stale_epoch_is_found() {
    is_found(Broken::EpochCheck, "ended no lease");
}

#[test]
fn a_report_of_a_stale_run_is_found() {
    is_found(Broken::RunCheck, "observed: ");
}

#[test]
fn a_lost_event_is_found() {
    is_found(Broken::DropEvent, "was sent as");
}

#[test]
fn a_run_that_was_not_joined_is_found() {
    is_found(Broken::SkipJoin, "a run acted under");
}

#[test]
fn an_early_acknowledgement_is_found() {
    is_found(Broken::EarlyAck, "left no event");
}

#[test]
fn a_bare_verdict_is_found() {
    is_found(Broken::BareVerdict, "observed: Some(");
}
