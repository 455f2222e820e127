//! Responses as tables, for people. Columns may change; scripts use JSON.
//!
//! Never here: anything that cannot be found in the message.

use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use remuda_wire::v1;

/// A response that people can read.
pub(crate) trait Tabular {
    /// The text to print; empty for nothing.
    fn table(&self) -> String;
}

fn rows(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    table.to_string().lines().map(|l| l.trim().to_owned()).collect::<Vec<_>>().join("\n")
}

fn facts(rows: Vec<(&str, String)>) -> String {
    let width = rows.iter().map(|(k, _)| k.len()).max().unwrap_or(0);
    let shown = rows.iter().filter(|(_, v)| !v.is_empty());
    shown.map(|(k, v)| format!("{k:width$}  {v}")).collect::<Vec<_>>().join("\n")
}

/// A word of an enum without its prefix: STATE_AVAILABLE is Available.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    let rest = name.strip_prefix(prefix).unwrap_or(name);
    if rest == "UNSPECIFIED" {
        return String::new();
    }
    let mut words = rest.split('_').map(|w| {
        let (first, rest) = w.split_at(w.len().min(1));
        format!("{first}{}", rest.to_lowercase())
    });
    let first = words.next().unwrap_or_default();
    words.fold(first, |text, w| text + &w)
}

pub(crate) fn state(state: v1::worker::State) -> String {
    word(state.as_str_name(), "STATE_")
}

/// `pools/p/workers/w` as `p/w`.
pub(crate) fn short(name: &str) -> String {
    name.replacen("pools/", "", 1).replacen("/workers/", "/", 1)
}

pub(crate) fn span(duration: Option<prost_types::Duration>) -> String {
    let Some(duration) = duration.and_then(|d| Duration::try_from(d).ok()) else { return String::new() };
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}

pub(crate) fn moment(at: Option<prost_types::Timestamp>) -> String {
    let at = at.and_then(|t| jiff::Timestamp::new(t.seconds, t.nanos).ok());
    at.map(|t| t.strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

fn labels(labels: &std::collections::HashMap<String, String>) -> String {
    let mut pairs: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.sort();
    pairs.join(",")
}

fn permille(share: u32) -> String {
    format!("{}.{} %", share / 10, share % 10)
}

/// What a worker's state is about, in a few words.
fn about(worker: &v1::Worker) -> String {
    if let Some(lease) = &worker.lease {
        let marks = [(lease.interrupted, " interrupted"), (lease.agent_silent, " agent silent")];
        let marks: String = marks.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        return format!("job {}{marks}", lease.job_id);
    }
    if let Some(run) = &worker.run {
        return format!("{} attempt {} {}", run.cause, run.attempt, run.phase);
    }
    if let Some(maintenance) = &worker.maintenance {
        return format!("{} {}", maintenance.reason, maintenance.subject).trim_end().to_owned();
    }
    if !worker.retired_reason.is_empty() {
        return worker.retired_reason.clone();
    }
    worker.cordon.as_ref().map(|c| format!("cordoned by {} {}", c.actor, c.reason)).unwrap_or_default()
}

impl Tabular for v1::ListWorkersResponse {
    fn table(&self) -> String {
        let row = |w: &v1::Worker| {
            let cordoned = if w.cordon.is_some() { " (cordoned)" } else { "" };
            vec![
                short(&w.name),
                state(w.state()) + cordoned,
                moment(w.since),
                w.uses.to_string(),
                about(w),
                labels(&w.labels),
            ]
        };
        rows(&["WORKER", "STATE", "SINCE", "USES", "ABOUT", "LABELS"], self.workers.iter().map(row))
    }
}

fn worker(worker: Option<&v1::Worker>) -> String {
    let Some(w) = worker else { return String::new() };
    let maintenance = w.maintenance.as_ref();
    facts(vec![
        ("worker", w.name.clone()),
        ("state", state(w.state())),
        ("since", moment(w.since)),
        ("about", about(w)),
        ("evidence", maintenance.map(|m| m.evidence.clone()).unwrap_or_default()),
        ("cordon", w.cordon.as_ref().map(|c| format!("{} {} {}", c.actor, c.reason, c.then)).unwrap_or_default()),
        ("epoch", w.lease.as_ref().map(|l| l.epoch.to_string()).unwrap_or_default()),
        ("uses", w.uses.to_string()),
        ("labels", labels(&w.labels)),
        ("annotations", labels(&w.annotations)),
        ("agent", w.agent.clone()),
        ("executions", w.execution_endpoint.clone()),
        ("capabilities", w.capabilities.join(" ")),
        ("missing", w.missing_capabilities.join(" ")),
        ("last return", w.last_return.clone()),
        ("registered", moment(w.registered_at)),
        ("revision", w.revision.to_string()),
    ])
}

macro_rules! one_worker {
    ($($message:ident)+) => {$(
        impl Tabular for v1::$message {
            fn table(&self) -> String {
                worker(self.worker.as_ref())
            }
        }
    )+};
}

one_worker! {
    GetWorkerResponse CordonWorkerResponse UncordonWorkerResponse DrainWorkerResponse SetMaintenanceResponse
    ResumeWorkerResponse RetireWorkerResponse ReleaseWorkerResponse
}

fn counts(counts: Option<&v1::WorkerCounts>) -> String {
    let Some(c) = counts else { return String::new() };
    let named = [
        (c.available, "available"),
        (c.busy, "busy"),
        (c.cleaning, "cleaning"),
        (c.ready, "ready"),
        (c.maintenance, "maintenance"),
        (c.lost, "lost"),
        (c.retired, "retired"),
    ];
    let some: Vec<_> = named.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    if some.is_empty() { "none".to_owned() } else { some.join(", ") }
}

impl Tabular for v1::ListPoolsResponse {
    fn table(&self) -> String {
        let row = |p: &v1::Pool| {
            let about = p.spec.as_ref().map(|s| s.description.clone()).unwrap_or_default();
            vec![short(&p.name), counts(p.workers.as_ref()), p.waiting.to_string(), p.generation.to_string(), about]
        };
        rows(&["POOL", "WORKERS", "WAITING", "GENERATION", "DESCRIPTION"], self.pools.iter().map(row))
    }
}

fn pool(pool: Option<&v1::Pool>) -> String {
    let Some(p) = pool else { return String::new() };
    let head = facts(vec![
        ("pool", p.name.clone()),
        ("workers", counts(p.workers.as_ref())),
        ("waiting", p.waiting.to_string()),
        ("generation", p.generation.to_string()),
    ]);
    let spec = p.spec.as_ref().map(crate::output::json).and_then(|v| serde_saphyr::to_string(&v).ok());
    format!("{head}\n\n{}", spec.unwrap_or_default().trim_end())
}

macro_rules! one_pool {
    ($($message:ident)+) => {$(
        impl Tabular for v1::$message {
            fn table(&self) -> String {
                pool(self.pool.as_ref())
            }
        }
    )+};
}

one_pool! { GetPoolResponse CreatePoolResponse UpdatePoolResponse }

impl Tabular for v1::DeletePoolResponse {
    fn table(&self) -> String {
        String::new()
    }
}

impl Tabular for v1::GetPoolStatsResponse {
    fn table(&self) -> String {
        let Some(s) = &self.stats else { return String::new() };
        let mut failed: Vec<_> = s.returns_failed_by_reason.iter().map(|(k, v)| format!("{v} {k}")).collect();
        failed.sort();
        let ended = s.returns_succeeded + s.returns_failed;
        facts(vec![
            ("pool", s.pool.clone()),
            ("workers", counts(s.workers.as_ref())),
            ("waiting", s.waiting.to_string()),
            ("return success", format!("{} of {ended} ended returns", permille(s.return_success_permille))),
            ("health pass", format!("{} of {}", permille(s.health_pass_permille), s.health_passed + s.health_failed)),
            (
                "return latency",
                format!("p50 {}, p99 {}, max {}", span(s.return_p50), span(s.return_p99), span(s.return_max)),
            ),
            ("reuse", format!("{} of {} leases", permille(s.reuse_permille), s.leases)),
            ("returns open", s.returns_open.to_string()),
            ("returns failed", failed.join(", ")),
        ])
    }
}

impl Tabular for v1::GetLeaseResponse {
    fn table(&self) -> String {
        let Some(l) = &self.lease else { return String::new() };
        facts(vec![
            ("worker", l.worker.clone()),
            ("job", l.job_id.clone()),
            ("epoch", l.epoch.to_string()),
            ("remaining", span(l.remaining)),
            ("executions", l.execution_endpoint.clone()),
        ])
    }
}

impl Tabular for v1::RenewLeasesResponse {
    fn table(&self) -> String {
        let row = |r: &v1::RenewalResult| {
            let drain =
                r.draining.as_ref().map(|c| format!("draining by {} {}", c.actor, c.reason)).unwrap_or_default();
            let marks = [(r.interrupted, "interrupted"), (r.agent_silent, "agent silent")];
            let mut marks: Vec<_> = marks.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_owned()).collect();
            marks.extend((!drain.is_empty()).then_some(drain));
            vec![short(&r.worker), span(r.granted), span(r.renew_after), marks.join(", ")]
        };
        rows(&["WORKER", "GRANTED", "RENEW AFTER", "ABOUT"], self.results.iter().map(row))
    }
}

impl Tabular for v1::ReturnWorkerResponse {
    fn table(&self) -> String {
        self.return_name.clone()
    }
}

fn result(ret: &v1::Return) -> String {
    let result = word(ret.result().as_str_name(), "RESULT_");
    let result = if result.is_empty() { "in progress".to_owned() } else { result };
    if ret.reason.is_empty() { result } else { format!("{result} {}", ret.reason) }
}

impl Tabular for v1::ListReturnsResponse {
    fn table(&self) -> String {
        let row = |r: &v1::Return| {
            let steps: Vec<_> = r.steps.iter().map(|s| s.name.to_lowercase()).collect();
            vec![
                short(&r.worker),
                r.epoch.to_string(),
                r.job_id.clone(),
                r.cause.clone(),
                result(r),
                span(r.took),
                moment(r.began_at),
                steps.join(" "),
            ]
        };
        let header = ["WORKER", "EPOCH", "JOB", "CAUSE", "RESULT", "TOOK", "BEGAN", "STEPS"];
        rows(&header, self.returns.iter().map(row))
    }
}

impl Tabular for v1::GetReturnResponse {
    fn table(&self) -> String {
        let Some(r) = &self.ret else { return String::new() };
        let head = facts(vec![
            ("return", r.name.clone()),
            ("job", r.job_id.clone()),
            ("cause", r.cause.clone()),
            ("result", result(r)),
            ("evidence", r.evidence.clone()),
            ("began", moment(r.began_at)),
            ("took", span(r.took)),
        ]);
        let step = |s: &v1::ReturnStep| {
            let place = format!("{} in term {}", s.revision, s.term);
            vec![s.name.clone(), s.attempt.to_string(), span(s.after), place, s.detail.clone()]
        };
        let steps = rows(&["STEP", "ATTEMPT", "AFTER", "REVISION", "DETAIL"], r.steps.iter().map(step));
        let Some(receipt) = &r.receipt else { return format!("{head}\n\n{steps}") };
        let result = |s: &v1::StepResult| {
            let outcome = word(s.outcome().as_str_name(), "OUTCOME_");
            let seen = if s.observed { "observed" } else { "not observed" };
            vec![s.name.clone(), outcome, seen.to_owned(), span(s.took), s.removed.to_string(), s.evidence.clone()]
        };
        let header = ["CLEANING", "OUTCOME", "AFTERWARDS", "TOOK", "REMOVED", "EVIDENCE"];
        let cleaning = rows(&header, receipt.steps.iter().map(result));
        format!("{head}\n\n{steps}\n\n{cleaning}")
    }
}

/// One event in one line.
pub(crate) fn event(e: &v1::Event) -> String {
    let mut parts = vec![format!("{}.{}", e.revision, e.ordinal), moment(e.at), e.kind.clone()];
    let concerned = if e.worker.is_empty() { &e.pool } else { &e.worker };
    parts.push(short(concerned));
    let (from, to) = (state(e.from()), state(e.to()));
    if !to.is_empty() {
        parts.push(if from.is_empty() { to } else { format!("{from} -> {to}") });
    }
    parts.extend([e.cause.clone(), e.detail.clone()]);
    let named = [("job", &e.job_id), ("by", &e.actor)];
    parts.extend(named.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}={v}")));
    let numbered = [("epoch", e.epoch), ("run", e.run), ("attempt", u64::from(e.attempt)), ("term", e.term)];
    parts.extend(numbered.iter().filter(|(_, v)| *v > 0).map(|(k, v)| format!("{k}={v}")));
    parts.retain(|p| !p.is_empty());
    parts.join("  ")
}

impl Tabular for v1::WatchEventsResponse {
    fn table(&self) -> String {
        self.events.iter().map(event).collect::<Vec<_>>().join("\n")
    }
}

impl Tabular for v1::GetClusterStatusResponse {
    fn table(&self) -> String {
        let row = |r: &v1::Replica| {
            vec![
                r.id.to_string(),
                r.role.to_lowercase(),
                r.client_endpoint.clone(),
                r.peer_endpoint.clone(),
                r.last_log.to_string(),
                r.applied.to_string(),
                span(r.last_contact),
                r.digest.chars().take(12).collect(),
            ]
        };
        let header = ["REPLICA", "ROLE", "CLIENTS", "PEERS", "LOG", "APPLIED", "LAST CONTACT", "DIGEST"];
        let term = self.header.as_ref().map_or(0, |h| h.term);
        let head = facts(vec![
            ("cluster", self.header.as_ref().map(|h| h.cluster_id.clone()).unwrap_or_default()),
            ("leader", if self.leader_id == 0 { "none".to_owned() } else { self.leader_id.to_string() }),
            ("term", term.to_string()),
            ("feature level", self.feature_level.to_string()),
            ("version", self.version.clone()),
        ]);
        format!("{head}\n\n{}", rows(&header, self.replicas.iter().map(row)))
    }
}

impl Tabular for v1::TransferLeaderResponse {
    fn table(&self) -> String {
        format!("replica {} leads", self.leader_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lose_their_prefix() {
        assert_eq!(word("STATE_AVAILABLE", "STATE_"), "Available");
        assert_eq!(word("OUTCOME_TIMED_OUT", "OUTCOME_"), "TimedOut");
        assert_eq!(word("STATE_UNSPECIFIED", "STATE_"), "");
        assert_eq!(short("pools/ci/workers/w-1"), "ci/w-1");
    }

    #[test]
    fn an_event_fits_on_one_line() {
        let event_of = v1::Event {
            revision: 9,
            ordinal: 1,
            kind: "WORKER_CLEANED".into(),
            worker: "pools/p/workers/w".into(),
            from: v1::worker::State::Cleaning.into(),
            to: v1::worker::State::Ready.into(),
            run: 3,
            ..Default::default()
        };
        assert_eq!(event(&event_of), "9.1  WORKER_CLEANED  p/w  Cleaning -> Ready  run=3");
    }
}
