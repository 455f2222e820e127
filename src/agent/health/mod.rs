//! Whether a host and a worker are fit for the next job: measures and probes.
//!
//! Measures are integers read from the kernel, compared with thresholds where the receipt is judged. Probes ask what the
//! pool's owner asks; each try has its time, and one that hangs is killed and named.
//!
//! Never here: thresholds and verdicts.

mod measure;
mod probe;

pub use measure::measure;
pub use probe::probe;

#[cfg(test)]
mod tests;
