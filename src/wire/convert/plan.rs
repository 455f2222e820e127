//! Plans, probes and receipts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use remuda_registry::Millis;
use remuda_registry::plan::{
    CheckReceipt, CleaningPlan, Evidence, Measures, PlanStep, PostCondition, Probe, ProbeAction, Receipt, StepKind,
    StepOutcome, StepReceipt,
};

use super::{Violations, duration, limits};
use crate::v1;

/// The parameter of a hook that holds its command, as a JSON list.
const COMMAND: &str = "command";
/// A step that names no timeout.
const STEP_TIMEOUT: Millis = Millis::secs(10);
/// Bytes of evidence that are taken from one step or probe of a receipt.
const STEP_EVIDENCE_BYTES: usize = 1_024;

/// A frozen plan with what an agent needs beside it.
#[derive(Debug, Clone, Copy)]
pub struct Frozen<'a> {
    /// The steps, probes and folders.
    pub plan: &'a CleaningPlan,
    /// The pool's generation.
    pub generation: u64,
    /// From TERM to KILL.
    pub stop_grace: Millis,
    /// For the whole run.
    pub timeout: Millis,
}

/// Steps of a pool's settings.
pub(super) fn steps_in(found: &mut Violations, field: &str, steps: &[v1::Step]) -> Vec<PlanStep> {
    steps.iter().enumerate().filter_map(|(at, step)| step_in(found, &format!("{field}[{at}]"), step)).collect()
}

fn step_in(found: &mut Violations, field: &str, step: &v1::Step) -> Option<PlanStep> {
    found.require(is_name(&step.name), &format!("{field}.name"), "must have the form [a-z][a-z0-9-]{0,30}");
    found.require(step.retries <= 10, &format!("{field}.retries"), "must be at most 10");
    let timeout = found.duration(&format!("{field}.timeout"), step.timeout.as_ref()).unwrap_or(STEP_TIMEOUT);
    found.require(timeout > Millis(0), &format!("{field}.timeout"), "must be above zero");
    let (kind, post_condition) = match step.kind() {
        v1::step::Kind::Stop => (StepKind::Stop, PostCondition::NoProcesses),
        v1::step::Kind::Strays => (StepKind::Strays, PostCondition::NoProcesses),
        v1::step::Kind::Mounts => (StepKind::Mounts, PostCondition::NoMounts),
        v1::step::Kind::Files => (StepKind::Files, PostCondition::NoFiles),
        v1::step::Kind::Temp => (StepKind::Temp, PostCondition::NoFiles),
        v1::step::Kind::Hook => (StepKind::Hook, PostCondition::ExitZero),
        v1::step::Kind::Unspecified => {
            found.add(format!("{field}.kind"), "must be a kind of this version");
            return None;
        }
    };
    let mut parameters = BTreeMap::new();
    if kind == StepKind::Hook {
        command_in(found, &format!("{field}.command"), &step.command);
        parameters.insert(COMMAND.to_owned(), serde_json::Value::from(step.command.clone()).to_string());
    } else {
        found.require(step.command.is_empty(), &format!("{field}.command"), "is for KIND_HOOK only");
    }
    let name = Arc::from(step.name.as_str());
    Some(PlanStep { name, kind, timeout, retries: step.retries, post_condition, parameters })
}

fn command_in(found: &mut Violations, field: &str, command: &[String]) {
    found.require(command.first().is_some_and(|program| !program.is_empty()), field, "must name a program");
    found.require(command.len() <= limits::ARGUMENTS_MAX, field, "must have at most 64 arguments");
    let fits = |argument: &String| argument.len() <= 4_096 && !argument.contains('\0');
    found.require(command.iter().all(fits), field, "must have arguments of at most 4096 bytes without zero bytes");
}

/// Steps, probes and hooks have names of one form.
fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=31).contains(&bytes.len())
        && bytes[0].is_ascii_lowercase()
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// Steps as a message has them.
pub(super) fn steps_out(steps: &[PlanStep]) -> Vec<v1::Step> {
    let out = |step: &PlanStep| v1::Step {
        name: step.name.to_string(),
        kind: kind_out(&step.kind).into(),
        timeout: Some(duration(step.timeout)),
        retries: step.retries,
        command: step.parameters.get(COMMAND).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
    };
    steps.iter().map(out).collect()
}

fn kind_out(kind: &StepKind) -> v1::step::Kind {
    match kind {
        StepKind::Stop => v1::step::Kind::Stop,
        StepKind::Strays => v1::step::Kind::Strays,
        StepKind::Mounts => v1::step::Kind::Mounts,
        StepKind::Files => v1::step::Kind::Files,
        StepKind::Temp => v1::step::Kind::Temp,
        StepKind::Hook => v1::step::Kind::Hook,
        // No release makes these yet; an agent reports a step that it does not know as failed.
        StepKind::Baseline | StepKind::Other(_) => v1::step::Kind::Unspecified,
    }
}

/// Probes of a pool's settings.
pub(super) fn probes_in(found: &mut Violations, field: &str, probes: &[v1::Probe]) -> Vec<Probe> {
    probes.iter().enumerate().filter_map(|(at, probe)| probe_in(found, &format!("{field}[{at}]"), probe)).collect()
}

fn probe_in(found: &mut Violations, field: &str, probe: &v1::Probe) -> Option<Probe> {
    found.require(is_name(&probe.name), &format!("{field}.name"), "must have the form [a-z][a-z0-9-]{0,30}");
    let mut time = |name: &str, value: &Option<prost_types::Duration>, default: Millis| {
        let found_or_default = found.duration(&format!("{field}.{name}"), value.as_ref()).unwrap_or(default);
        let fits = found_or_default <= Millis::mins(10);
        found.require(fits, &format!("{field}.{name}"), "must be at most ten minutes");
        found_or_default
    };
    let initial_delay = time("initial_delay", &probe.initial_delay, Millis(0));
    let period = time("period", &probe.period, Millis::secs(10));
    let timeout = time("timeout", &probe.timeout, Millis::secs(1));
    found.require(timeout > Millis(0), &format!("{field}.timeout"), "must be above zero");
    for (name, threshold) in
        [("success_threshold", probe.success_threshold), ("failure_threshold", probe.failure_threshold)]
    {
        found.require(threshold <= 100, &format!("{field}.{name}"), "must be at most 100");
    }
    let Some(action) = &probe.action else {
        found.add(format!("{field}.action"), "must be one of tcp, http, exec and grpc");
        return None;
    };
    Some(Probe {
        name: Arc::from(probe.name.as_str()),
        action: action_in(found, field, action),
        initial_delay,
        period,
        timeout,
        success_threshold: if probe.success_threshold == 0 { 1 } else { probe.success_threshold },
        failure_threshold: if probe.failure_threshold == 0 { 3 } else { probe.failure_threshold },
    })
}

fn action_in(found: &mut Violations, field: &str, action: &v1::probe::Action) -> ProbeAction {
    let mut address = |kind: &str, host: &str, port: u32| {
        found.require((1..=65_535).contains(&port), &format!("{field}.{kind}.port"), "must be from 1 to 65535");
        let well_formed = host.len() <= 253 && !host.contains(|c: char| c.is_whitespace() || "/@?#".contains(c));
        found.require(well_formed, &format!("{field}.{kind}.host"), "must be a host name or an address");
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    };
    match action {
        v1::probe::Action::Tcp(probe) => ProbeAction::Tcp { address: address("tcp", &probe.host, probe.port) },
        v1::probe::Action::Http(probe) => {
            let address = address("http", &probe.host, probe.port);
            let path = if probe.path.is_empty() { "/" } else { &probe.path };
            let well_formed = path.starts_with('/') && path.len() <= 2_048 && !path.contains(char::is_whitespace);
            found.require(well_formed, &format!("{field}.http.path"), "must begin with / and hold no blanks");
            ProbeAction::Http { url: format!("http://{address}{path}") }
        }
        v1::probe::Action::Exec(probe) => {
            command_in(found, &format!("{field}.exec.command"), &probe.command);
            ProbeAction::Exec { command: probe.command.clone() }
        }
        v1::probe::Action::Grpc(probe) => {
            let address = address("grpc", &probe.host, probe.port);
            ProbeAction::Grpc { address, service: probe.service.clone() }
        }
    }
}

/// Probes as a message has them.
pub(super) fn probes_out(probes: &[Probe]) -> Vec<v1::Probe> {
    let out = |probe: &Probe| v1::Probe {
        name: probe.name.to_string(),
        action: Some(action_out(&probe.action)),
        initial_delay: Some(duration(probe.initial_delay)),
        period: Some(duration(probe.period)),
        timeout: Some(duration(probe.timeout)),
        success_threshold: probe.success_threshold,
        failure_threshold: probe.failure_threshold,
    };
    probes.iter().map(out).collect()
}

fn action_out(action: &ProbeAction) -> v1::probe::Action {
    let split = |address: &str| {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        (host.trim_matches(['[', ']']).to_owned(), port.parse().unwrap_or(0))
    };
    match action {
        ProbeAction::Tcp { address } => {
            let (host, port) = split(address);
            v1::probe::Action::Tcp(v1::TcpProbe { host, port })
        }
        ProbeAction::Http { url } => {
            let rest = url.strip_prefix("http://").unwrap_or(url);
            let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
            let (host, port) = split(address);
            v1::probe::Action::Http(v1::HttpProbe { host, port, path: format!("/{path}") })
        }
        ProbeAction::Exec { command } => v1::probe::Action::Exec(v1::ExecProbe { command: command.clone() }),
        ProbeAction::Grpc { address, service } => {
            let (host, port) = split(address);
            v1::probe::Action::Grpc(v1::GrpcProbe { host, port, service: service.clone() })
        }
    }
}

/// Further folders: absolute, without `..`, and none of the system's own.
pub(super) fn folders_in(found: &mut Violations, field: &str, folders: &[String]) -> Vec<String> {
    const SYSTEM: [&str; 14] = [
        "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/proc", "/root", "/run", "/sbin", "/sys", "/usr",
        "/var",
    ];
    found.require(folders.len() <= limits::FOLDERS_MAX, field, "must have at most 64 entries");
    let mut seen = BTreeSet::new();
    for folder in folders {
        let plain = folder.starts_with('/')
            && folder.len() <= 4_096
            && !folder.contains('\0')
            && folder.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
        found.require(plain, field, &format!("{folder:?} must be an absolute path without empty parts, `.` and `..`"));
        found.require(!SYSTEM.contains(&folder.as_str()), field, &format!("{folder:?} is a folder of the system"));
        found.require(seen.insert(folder), field, &format!("{folder:?} is listed twice"));
    }
    folders.to_vec()
}

/// A frozen plan as an agent gets it; `stop_only` cuts it to its stop steps.
pub fn plan_out(frozen: Frozen<'_>, stop_only: bool) -> v1::CleaningPlan {
    let cut = stop_only.then(|| frozen.plan.stop_only());
    let plan = cut.as_ref().unwrap_or(frozen.plan);
    v1::CleaningPlan {
        version: 1,
        generation: frozen.generation,
        steps: steps_out(&plan.steps),
        stop_grace: Some(duration(frozen.stop_grace)),
        folders: plan.folders.clone(),
        probes: probes_out(&plan.probes),
        timeout: Some(duration(frozen.timeout)),
    }
}

/// A receipt that an agent reports.
pub(super) fn receipt_in(found: &mut Violations, field: &str, receipt: &v1::CleaningReceipt) -> Receipt {
    found.require(receipt.version == 1, &format!("{field}.version"), "must be 1");
    let most = remuda_registry::limits::PLAN_STEPS_MAX;
    found.require(receipt.steps.len() <= most, &format!("{field}.steps"), "must have at most 64 entries");
    found.require(receipt.probes.len() <= most, &format!("{field}.probes"), "must have at most 64 entries");
    let missing = &receipt.missing_capabilities;
    let fits = missing.len() <= limits::CAPABILITIES_MAX && missing.iter().all(|name| name.len() <= 256);
    found.require(fits, &format!("{field}.missing_capabilities"), "must have at most 64 entries of 256 bytes");
    let took = found.duration(&format!("{field}.took"), receipt.took.as_ref()).unwrap_or_default();
    let mut steps = Vec::with_capacity(receipt.steps.len());
    for (at, step) in receipt.steps.iter().enumerate() {
        let field = format!("{field}.steps[{at}]");
        found.require(is_name(&step.name), &format!("{field}.name"), "must have the form [a-z][a-z0-9-]{0,30}");
        let took = found.duration(&format!("{field}.took"), step.took.as_ref()).unwrap_or_default();
        steps.push(StepReceipt {
            name: Arc::from(step.name.as_str()),
            outcome: outcome_in(step.outcome()),
            observed: step.observed,
            tries: step.tries,
            took,
            evidence: evidence_in(&step.evidence),
            removed: step.removed,
            left: step.left,
        });
    }
    let mut checks = Vec::with_capacity(receipt.probes.len());
    for (at, probe) in receipt.probes.iter().enumerate() {
        let field = format!("{field}.probes[{at}]");
        found.require(is_name(&probe.name), &format!("{field}.name"), "must have the form [a-z][a-z0-9-]{0,30}");
        let took = found.duration(&format!("{field}.took"), probe.took.as_ref()).unwrap_or_default();
        let evidence = evidence_in(&probe.detail);
        checks.push(CheckReceipt { name: Arc::from(probe.name.as_str()), passed: probe.passed, took, evidence });
    }
    Receipt {
        generation: receipt.generation,
        steps,
        measures: receipt.measures.as_ref().map(measures_in).unwrap_or_default(),
        checks,
        took,
        shared_residue: false,
        missing_capabilities: missing.clone(),
    }
}

fn evidence_in(text: &str) -> Evidence {
    Evidence::new(&text[..text.floor_char_boundary(STEP_EVIDENCE_BYTES)])
}

fn outcome_in(outcome: v1::step_result::Outcome) -> StepOutcome {
    match outcome {
        v1::step_result::Outcome::Done => StepOutcome::Done,
        v1::step_result::Outcome::Failed | v1::step_result::Outcome::Unspecified => StepOutcome::Failed,
        v1::step_result::Outcome::TimedOut => StepOutcome::TimedOut,
        v1::step_result::Outcome::Skipped => StepOutcome::Skipped,
    }
}

fn outcome_out(outcome: &StepOutcome) -> v1::step_result::Outcome {
    match outcome {
        StepOutcome::Done => v1::step_result::Outcome::Done,
        StepOutcome::Failed | StepOutcome::Unsupported | StepOutcome::Other(_) => v1::step_result::Outcome::Failed,
        StepOutcome::TimedOut => v1::step_result::Outcome::TimedOut,
        StepOutcome::Skipped => v1::step_result::Outcome::Skipped,
    }
}

fn measures_in(measures: &v1::Measures) -> Measures {
    Measures {
        disk_free_bytes: Some(measures.disk_free_bytes),
        disk_free_permille: Some(u64::from(measures.disk_free_permille)),
        inodes_free_permille: Some(u64::from(measures.inodes_free_permille)),
        memory_available_bytes: Some(measures.memory_available_bytes),
        runnable_per_cpu_permille: Some(u64::from(measures.runnable_per_cpu_permille)),
        cpu_pressure_centipercent: measures.cpu_pressure_centipercent.map(u64::from),
        memory_pressure_centipercent: measures.memory_pressure_centipercent.map(u64::from),
        io_pressure_centipercent: measures.io_pressure_centipercent.map(u64::from),
        load1_permille: Some(u64::from(measures.load1_permille)),
        clock_skew_ms: None,
    }
}

fn measures_out(measures: &Measures) -> v1::Measures {
    let small = |value: Option<u64>| value.map(|value| u32::try_from(value).unwrap_or(u32::MAX));
    v1::Measures {
        disk_free_bytes: measures.disk_free_bytes.unwrap_or(0),
        disk_free_permille: small(measures.disk_free_permille).unwrap_or(0),
        inodes_free_permille: small(measures.inodes_free_permille).unwrap_or(0),
        memory_available_bytes: measures.memory_available_bytes.unwrap_or(0),
        runnable_per_cpu_permille: small(measures.runnable_per_cpu_permille).unwrap_or(0),
        cpu_pressure_centipercent: small(measures.cpu_pressure_centipercent),
        memory_pressure_centipercent: small(measures.memory_pressure_centipercent),
        io_pressure_centipercent: small(measures.io_pressure_centipercent),
        load1_permille: small(measures.load1_permille).unwrap_or(0),
    }
}

/// A receipt as a message has it.
pub fn receipt_out(receipt: &Receipt) -> v1::CleaningReceipt {
    let step = |step: &StepReceipt| v1::StepResult {
        name: step.name.to_string(),
        outcome: outcome_out(&step.outcome).into(),
        observed: step.observed,
        took: Some(duration(step.took)),
        tries: step.tries,
        evidence: step.evidence.0.clone(),
        removed: step.removed,
        left: step.left,
    };
    let probe = |check: &CheckReceipt| v1::ProbeResult {
        name: check.name.to_string(),
        passed: check.passed,
        took: Some(duration(check.took)),
        detail: check.evidence.0.clone(),
    };
    v1::CleaningReceipt {
        version: 1,
        generation: receipt.generation,
        steps: receipt.steps.iter().map(step).collect(),
        measures: Some(measures_out(&receipt.measures)),
        probes: receipt.checks.iter().map(probe).collect(),
        took: Some(duration(receipt.took)),
        missing_capabilities: receipt.missing_capabilities.clone(),
    }
}
