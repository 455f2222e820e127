//! The `remuda` executable.

fn main() {}
