//! The `remuda` command with failpoints, for crash and cluster tests. Not for users.

fn main() -> std::process::ExitCode {
    remuda::main()
}
