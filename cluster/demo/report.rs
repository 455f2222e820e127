//! What the demonstration prints: the cluster's own answers, and the verdict line by line.

use crate::answers::{Event, PoolStats, Return, Worker, short, word};

/// The lines of the verdict.
#[derive(Default)]
pub(crate) struct Verdict {
    lines: Vec<(bool, String)>,
}

impl Verdict {
    /// Adds a line.
    pub(crate) fn says(&mut self, holds: bool, line: impl Into<String>) {
        self.lines.push((holds, line.into()));
    }

    /// Prints all lines; true if all hold.
    pub(crate) fn print(&self) -> bool {
        heading("Verdict");
        for (holds, line) in &self.lines {
            println!("  {} {line}", if *holds { "ok    " } else { "FAILED" });
        }
        let all = self.lines.iter().all(|(holds, _)| *holds);
        println!("\n{}", if all { "Everything holds." } else { "Something does not hold." });
        all
    }
}

/// A heading.
pub(crate) fn heading(text: &str) {
    println!("\n== {text}");
}

/// Every worker with state, uses and last return.
pub(crate) fn workers(workers: &[Worker]) {
    heading("Workers");
    println!("  {:<24} {:<12} {:>4}  last return", "worker", "state", "uses");
    for w in workers {
        println!("  {:<24} {:<12} {:>4}  {}", short(&w.name), word(&w.state), w.uses, short(&w.last_return));
    }
}

/// Every return with its steps and times.
pub(crate) fn returns(returns: &[Return]) {
    heading("Returns");
    for r in returns {
        println!("  {} of {}: {} in {}", r.job_id, short(&r.worker), word(&r.result), r.took);
        let log: Vec<String> = r.steps.iter().map(|s| format!("{} +{} (term {})", s.name, s.after, s.term)).collect();
        println!("      log:     {}", log.join(", "));
        let seen: Vec<String> =
            r.receipt.steps.iter().map(|s| format!("{} {} ({} removed)", s.name, s.took, s.removed)).collect();
        println!("      receipt: {}", seen.join(", "));
    }
}

/// The events of one return.
pub(crate) fn events(of: &str, events: &[&Event]) {
    heading(&format!("Events of the return of {of}"));
    for e in events {
        println!(
            "  revision {:>4}.{} term {}  {:<26} {:>11} -> {:<11} {} after {}",
            e.revision,
            e.ordinal,
            e.term,
            e.kind,
            word(&e.from),
            word(&e.to),
            e.cause,
            if e.elapsed.is_empty() { "0s" } else { &e.elapsed },
        );
    }
}

/// The story's four figures.
pub(crate) fn figures(stats: &PoolStats) {
    heading("The four figures");
    let percent = |permille: u32| format!("{}.{} %", permille / 10, permille % 10);
    println!(
        "  return success  {:>8}   ({} of {})",
        percent(stats.return_success_permille),
        stats.returns_succeeded,
        stats.returns_succeeded + stats.returns_failed
    );
    println!("  health pass     {:>8}", percent(stats.health_pass_permille));
    println!("  return latency  p50 {}, p99 {}, longest {}", stats.return_p50, stats.return_p99, stats.return_max);
    println!(
        "  reuse           {:>8}   of {} leases on a worker that had served before",
        percent(stats.reuse_permille),
        stats.leases
    );
}
