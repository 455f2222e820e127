//! The `remuda` command.

fn main() -> std::process::ExitCode {
    remuda::main()
}
