//! Conversions: what is accepted, what is refused, and that nothing is lost on the way there and back.

use std::collections::HashMap;

use prost_types::{Duration, FieldMask};
use remuda_registry::command::JobPresence;
use remuda_registry::lease::JobOutcome;
use remuda_registry::plan::{StepKind, StepOutcome};
use remuda_registry::pool::PoolSpec;
use remuda_registry::{Command, RequestId};

use super::*;
use crate::v1;

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn fields<T: std::fmt::Debug>(result: Result<T, Violations>) -> Vec<String> {
    let mut fields: Vec<_> = result.unwrap_err().0.into_iter().map(|violation| violation.field).collect();
    fields.sort();
    fields.dedup();
    fields
}

fn spec() -> v1::PoolSpec {
    v1::PoolSpec {
        description: "runners".into(),
        choice: v1::Choice::LeastUsed.into(),
        lease: Some(v1::LeaseSettings { ttl: seconds(20), max: seconds(3_600), stop_grace: seconds(2) }),
        cleaning: Some(v1::CleaningSettings {
            timeout: seconds(40),
            attempts: 4,
            steps: vec![
                v1::Step {
                    name: "stop".into(),
                    kind: v1::step::Kind::Stop.into(),
                    timeout: seconds(5),
                    ..Default::default()
                },
                v1::Step {
                    name: "wipe".into(),
                    kind: v1::step::Kind::Hook.into(),
                    timeout: seconds(5),
                    retries: 2,
                    command: vec!["/bin/wipe".into(), "a b".into(), "\"c\"".into()],
                },
            ],
            folders: vec!["/srv/scratch".into()],
            ..Default::default()
        }),
        health: Some(v1::HealthSettings {
            disk_free_bytes: Some(5),
            runnable_per_cpu_permille: Some(2_000),
            probes: vec![
                v1::Probe {
                    name: "web".into(),
                    action: Some(v1::probe::Action::Http(v1::HttpProbe {
                        host: "::1".into(),
                        port: 80,
                        path: "/health?x=1".into(),
                    })),
                    ..Default::default()
                },
                v1::Probe {
                    name: "port".into(),
                    action: Some(v1::probe::Action::Tcp(v1::TcpProbe { host: String::new(), port: 22 })),
                    ..Default::default()
                },
            ],
            ..Default::default()
        }),
        max_uses: 7,
        max_age: seconds(86_400),
        idle_check: seconds(300),
        priority_max: 3,
        ..Default::default()
    }
}

fn create(spec: v1::PoolSpec) -> Result<PoolSpec, Violations> {
    let request = v1::CreatePoolRequest { pool_id: "ci".into(), spec: Some(spec), ..Default::default() };
    pool::create_in(&request).map(|(_, spec)| spec)
}

#[test]
fn settings_survive_the_way_out_and_in_again() {
    for given in [spec(), v1::PoolSpec::default()] {
        let made = create(given).unwrap();
        let shown = pool::spec_out(&made);
        assert_eq!(create(shown).unwrap(), made);
    }
}

#[test]
fn settings_arrive_as_they_were_meant() {
    let made = create(spec()).unwrap();
    assert_eq!(made.cleaning.stop_grace, Millis::secs(2));
    assert_eq!(made.cleaning.attempts, 4);
    assert_eq!(made.plan.steps[1].kind, StepKind::Hook);
    assert_eq!(made.plan.folders, ["/srv/scratch"]);
    assert_eq!(made.thresholds.disk_free_bytes_min, Some(5));
    assert_eq!(made.thresholds.inodes_free_permille_min, Some(20));
    assert_eq!(pool::spec_out(&made).cleaning.unwrap().steps[1].command[2], "\"c\"");
    let probes = pool::spec_out(&made).health.unwrap().probes;
    let expected = v1::HttpProbe { host: "::1".into(), port: 80, path: "/health?x=1".into() };
    assert_eq!(probes[0].action, Some(v1::probe::Action::Http(expected)));
}

#[test]
fn a_short_timeout_shrinks_the_default_plan_with_it() {
    let cleaning = v1::CleaningSettings { timeout: seconds(6), ..Default::default() };
    let made = create(v1::PoolSpec { cleaning: Some(cleaning), ..Default::default() }).unwrap();
    assert!(made.plan.budget() < Millis::secs(6));
}

#[test]
fn all_violations_of_settings_are_told_at_once() {
    let mut bad = spec();
    bad.choice = 99;
    bad.lease = Some(v1::LeaseSettings { ttl: seconds(0), max: seconds(-1), stop_grace: None });
    bad.description = "x".repeat(257);
    let cleaning = bad.cleaning.as_mut().unwrap();
    cleaning.folders = vec!["relative".into(), "/a/../b".into(), "/".into()];
    cleaning.steps[0].name = "Stop!".into();
    cleaning.steps[0].kind = 77;
    bad.health.as_mut().unwrap().probes[1].action = None;
    let found = fields(create(bad));
    for field in [
        "spec.choice",
        "spec.lease.ttl",
        "spec.lease.max",
        "spec.description",
        "spec.cleaning.folders",
        "spec.cleaning.steps[0].name",
        "spec.cleaning.steps[0].kind",
        "spec.health.probes[1].action",
    ] {
        assert!(found.contains(&field.to_owned()), "{field} is missing in {found:?}");
    }
}

#[test]
fn a_mask_takes_only_what_it_names() {
    let now = create(spec()).unwrap();
    let given = v1::PoolSpec { description: "other".into(), max_uses: 1, ..Default::default() };
    let pool = Some(v1::Pool { name: "pools/ci".into(), spec: Some(given), ..Default::default() });
    let mask = |paths: &[&str]| Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
    let request = v1::UpdatePoolRequest { pool: pool.clone(), update_mask: mask(&["max_uses"]), ..Default::default() };
    let merged = pool::merged(&request, &now).unwrap();
    assert_eq!(merged.reuse.max_uses, Some(1));
    assert_eq!(merged.description, "runners");
    assert_eq!(merged.plan, now.plan);
    let request = v1::UpdatePoolRequest { pool: pool.clone(), update_mask: mask(&["uses"]), ..Default::default() };
    assert_eq!(fields(pool::update_in(&request)), ["update_mask"]);
    let request = v1::UpdatePoolRequest { pool, ..Default::default() };
    assert_eq!(pool::merged(&request, &now).unwrap().description, "other");
}

fn acquire() -> v1::AcquireWorkerRequest {
    v1::AcquireWorkerRequest {
        pool: "pools/ci".into(),
        job_id: "build-1".into(),
        job_labels: HashMap::from([("team".into(), "a".into())]),
        selector: "os=linux".into(),
        secret_sha256: vec![7; 32],
        ttl: seconds(30),
        ..Default::default()
    }
}

#[test]
fn an_acquire_is_read_and_all_its_faults_are_told() {
    let made = lease::acquire_in(&acquire()).unwrap();
    assert_eq!((made.pool.as_str(), made.job.as_str(), made.ttl), ("ci", "build-1", Some(Millis::secs(30))));
    let bad = v1::AcquireWorkerRequest {
        pool: "ci".into(),
        job_id: String::new(),
        job_labels: HashMap::from([("a b".into(), "c d".into())]),
        selector: "a in".into(),
        secret_sha256: vec![1],
        ttl: seconds(-1),
        wait: seconds(3_601),
        ..Default::default()
    };
    let found = fields(lease::acquire_in(&bad));
    let expected = ["job_id", "job_labels", "pool", "request.request_id", "secret_sha256", "selector", "ttl", "wait"];
    assert_eq!(found, expected);
}

#[test]
fn a_return_needs_epoch_and_secret() {
    let good = v1::ReturnWorkerRequest {
        worker: "pools/ci/workers/w".into(),
        job_id: "j".into(),
        epoch: 5,
        secret: vec![1],
        outcome: v1::JobOutcome::Broken.into(),
        request: None,
    };
    match lease::return_in(&good).unwrap() {
        Command::BeginReturn { outcome, .. } => assert_eq!(outcome, JobOutcome::Broken),
        other => panic!("{other:?}"),
    }
    let bad = v1::ReturnWorkerRequest { outcome: 9, ..Default::default() };
    assert_eq!(fields(lease::return_in(&bad)), ["epoch", "job_id", "outcome", "secret", "worker"]);
}

#[test]
fn renewals_are_told_apart_by_their_place() {
    let good = v1::Renewal { worker: "pools/ci/workers/w".into(), epoch: 1, secret: vec![1], ttl: None };
    let bad = v1::Renewal { epoch: 0, ..good.clone() };
    let request = v1::RenewLeasesRequest { renewals: vec![good, bad] };
    assert_eq!(fields(lease::renewals_in(&request)), ["renewals[1].epoch"]);
    assert_eq!(fields(lease::renewals_in(&v1::RenewLeasesRequest::default())), ["renewals"]);
}

#[test]
fn request_ids_are_numbered_or_named() {
    let numbered = RequestId::Numbered { client: "0123456789abcdef".into(), seq: 7 };
    assert_eq!(request::id_in("0123456789abcdef/7"), Ok(numbered.clone()));
    assert_eq!(request::id_out(&numbered), "0123456789abcdef/7");
    for named in ["a", "a/07", "a/-1", "/7", "2f1e0c9a-7c1d-4a55-9d3a-0d5a7f6f4f11"] {
        assert_eq!(request::id_in(named), Ok(RequestId::Named(named.into())), "{named}");
    }
    for wrong in ["", "a b", "ä", "a\n", &"a".repeat(37)] {
        assert!(request::id_in(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn identity_follows_the_effect_and_not_the_attempt() {
    let mark = |options: v1::RequestOptions, command: &Command| {
        let mut found = Violations::default();
        let mark = request::mark_in(&mut found, "request", Some(&options), "M", command);
        assert_eq!(found, Violations::default());
        mark.unwrap()
    };
    let options = v1::RequestOptions { request_id: "c/5".into(), not_after_ms: 9, attempt: 1, answered_below: 3 };
    let one = Command::AcquireWorker(Box::new(lease::acquire_in(&acquire()).unwrap()));
    let two = {
        let request = v1::AcquireWorkerRequest { job_id: "build-2".into(), ..acquire() };
        Command::AcquireWorker(Box::new(lease::acquire_in(&request).unwrap()))
    };
    let first = mark(options.clone(), &one);
    assert!(!first.retry);
    let again = mark(v1::RequestOptions { attempt: 2, answered_below: 4, ..options.clone() }, &one);
    assert!(again.retry);
    assert_eq!(first.identity, again.identity);
    assert_ne!(first.identity, mark(options.clone(), &two).identity);
    assert_ne!(first.identity, mark(v1::RequestOptions { not_after_ms: 10, ..options }, &one).identity);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let refused = |options: v1::RequestOptions| {
        let mut found = Violations::default();
        request::mark_in(&mut found, "request", Some(&options), "M", &Command::Tick);
        fields(found.finish(Some(())))
    };
    let options = |id: &str| v1::RequestOptions { request_id: id.into(), not_after_ms: 1, ..Default::default() };
    assert_eq!(refused(options("")), ["request.request_id"]);
    assert_eq!(refused(v1::RequestOptions { not_after_ms: 0, ..options("a") }), ["request.not_after_ms"]);
    assert_eq!(refused(v1::RequestOptions { answered_below: 1, ..options("a") }), ["request.answered_below"]);
    assert_eq!(refused(v1::RequestOptions { answered_below: 6, ..options("a/5") }), ["request.answered_below"]);
}

#[test]
fn a_session_names_each_worker_once() {
    let worker = v1::SessionWorker { name: "pools/ci/workers/w".into(), job: 2, epoch: 4, ..Default::default() };
    let good = v1::OpenSessionRequest {
        agent_id: "agent-0001".into(),
        agent_key: vec![1; 32],
        incarnation: 1,
        machine_id: "m".into(),
        boot_id: "b".into(),
        workers: vec![worker.clone()],
        capabilities: vec!["z".into(), "a".into(), "z".into()],
        ..Default::default()
    };
    let made = agent::open_session_in(&good).unwrap();
    assert_eq!(made.workers[0].job, JobPresence::Lost);
    assert_eq!(made.capabilities.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["a", "z"]);
    let twice = v1::OpenSessionRequest { workers: vec![worker.clone(), worker], ..good };
    assert_eq!(fields(agent::open_session_in(&twice)), ["workers"]);
    let found = fields(agent::open_session_in(&v1::OpenSessionRequest::default()));
    assert_eq!(found, ["agent_id", "agent_key", "boot_id", "incarnation", "machine_id", "workers"]);
}

#[test]
fn a_receipt_survives_the_way_in_and_out_again() {
    let receipt = v1::CleaningReceipt {
        version: 1,
        generation: 3,
        steps: vec![v1::StepResult {
            name: "stop".into(),
            outcome: v1::step_result::Outcome::TimedOut.into(),
            observed: true,
            took: Some(Duration { seconds: 1, nanos: 5_000_000 }),
            tries: 2,
            evidence: "pid 7".into(),
            removed: 4,
            left: 1,
        }],
        measures: Some(v1::Measures { disk_free_bytes: 9, cpu_pressure_centipercent: Some(4), ..Default::default() }),
        probes: vec![v1::ProbeResult { name: "web".into(), passed: true, took: seconds(1), detail: "ok".into() }],
        took: seconds(2),
        missing_capabilities: vec!["cgroup".into()],
    };
    let request = v1::ReportCleaningRequest {
        agent_id: "agent-0001".into(),
        session: 1,
        worker: "pools/ci/workers/w".into(),
        run: 2,
        receipt: Some(receipt.clone()),
    };
    match agent::report_in(&request).unwrap() {
        Command::CompleteCleaning { receipt: made, .. } => {
            assert_eq!(made.steps[0].outcome, StepOutcome::TimedOut);
            assert_eq!(plan::receipt_out(&made), receipt);
        }
        other => panic!("{other:?}"),
    }
    let found = fields(agent::report_in(&v1::ReportCleaningRequest::default()));
    assert_eq!(found, ["agent_id", "receipt", "receipt.version", "run", "session", "worker"]);
}

#[test]
fn durations_are_rounded_up_and_bounded() {
    let read = |seconds, nanos| {
        let mut found = Violations::default();
        let millis = found.duration("d", Some(&Duration { seconds, nanos }));
        found.finish(millis)
    };
    assert_eq!(read(1, 1), Ok(Millis(1_001)));
    assert_eq!(read(0, 0), Ok(Millis(0)));
    for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0), (i64::MIN, i32::MIN)] {
        assert!(read(seconds, nanos).is_err(), "{seconds}.{nanos}");
    }
}

#[test]
fn words_are_upper_snake() {
    assert_eq!(word("LeaseExpired"), "LEASE_EXPIRED");
    assert_eq!(word("Ready"), "READY");
}
