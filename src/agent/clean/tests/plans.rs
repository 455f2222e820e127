//! Plans as data: order, skipping, hooks, time, cancellation, repetition.

use std::fs;
use std::time::Instant;

use remuda_wire::v1::ExecProbe;
use remuda_wire::v1::Probe;
use remuda_wire::v1::probe::Action;

use super::*;
use crate::host::trial::NEVER;
use crate::host::trial::lives;
use crate::host::trial::pid_in;

const SOON: Duration = Duration::from_secs(10);

fn exec(name: &str, command: &[&str]) -> Probe {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    Probe { name: name.to_owned(), action: Some(Action::Exec(ExecProbe { command })), ..Probe::default() }
}

#[tokio::test]
async fn a_receipt_answers_the_whole_plan() {
    let bench = Bench::without(&["cgroup"]);
    let mut plan = plan(&ALL);
    plan.generation = 42;
    plan.steps.push(hook("hook", "echo all is well", SOON));
    plan.probes = vec![exec("yes", &["true"]), exec("no", &["false"])];
    bench.start(7, "echo x > file").await;
    let receipt = clean(&bench, 8, &plan).await;
    assert_clean(&bench, &receipt);
    assert_eq!((receipt.version, receipt.generation), (1, 42));
    let names: Vec<&str> = receipt.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["stop", "strays", "mounts", "files", "temp", "hook"]);
    assert!(receipt.steps.iter().all(|step| step.tries == 1 && step.took.is_some() && step.evidence.len() <= 1024));
    assert!(step(&receipt, "hook").evidence.contains("all is well"), "{receipt:#?}");
    let probes: Vec<(&str, bool)> = receipt.probes.iter().map(|probe| (probe.name.as_str(), probe.passed)).collect();
    assert_eq!(probes, [("yes", true), ("no", false)]);
    assert!(receipt.measures.unwrap().disk_free_bytes > 0 && receipt.took.is_some());
    assert!(receipt.missing_capabilities.iter().any(|line| line.starts_with("cgroup: ")));
}

#[tokio::test]
async fn a_worker_that_never_had_a_lease_is_cleaned_all_the_same() {
    for bench in Bench::with_and_without_groups() {
        let receipt = clean(&bench, 1, &plan(&ALL)).await;
        assert_clean(&bench, &receipt);
        assert!(receipt.steps.iter().all(|step| step.removed == 0 && step.tries == 1));
    }
}

#[tokio::test]
async fn an_unknown_step_fails_and_the_rest_is_skipped() {
    let bench = Bench::without(&[]);
    let mut plan = plan(&ALL);
    plan.steps[1].kind = 17;
    plan.probes = vec![exec("yes", &["true"])];
    let receipt = clean(&bench, 1, &plan).await;
    let outcomes: Vec<Outcome> = receipt.steps.iter().map(StepResult::outcome).collect();
    assert_eq!(outcomes, [Outcome::Done, Outcome::Failed, Outcome::Skipped, Outcome::Skipped, Outcome::Skipped]);
    assert!(receipt.steps[1].evidence.contains("17") && !receipt.steps[1].observed);
    assert_eq!(receipt.steps[4].evidence, "strays failed before");
    assert!(!receipt.probes[0].passed);
}

#[tokio::test]
async fn a_failing_hook_is_tried_again() {
    let bench = Bench::without(&[]);
    let tries = bench.outside.join("tries");
    let script = format!("echo >> {0}; [ $(wc -l < {0}) = 3 ]", tries.display());
    let mut plan = plan(&[]);
    plan.steps = vec![Step { retries: 4, ..hook("flaky", &script, SOON) }];
    assert_eq!(clean(&bench, 1, &plan).await.steps[0].tries, 3);
    plan.steps = vec![Step { retries: 1, ..hook("bad", "echo reason >&2; exit 4", SOON) }];
    let bad = clean(&bench, 2, &plan).await.steps.remove(0);
    assert_eq!((bad.outcome(), bad.tries), (Outcome::Failed, 2));
    assert!(bad.evidence.contains("reason") && bad.evidence.contains('4'), "{bad:?}");
}

#[tokio::test]
async fn a_hook_that_hangs_is_killed_with_its_daemons() {
    for bench in Bench::with_and_without_groups() {
        let pid = bench.outside.join("pid");
        let script = format!("setsid sleep 1000 & echo $! > {}; sleep 1000", pid.display());
        let mut plan = plan(&[]);
        plan.steps = vec![hook("hangs", &script, Duration::from_secs(1))];
        let begun = Instant::now();
        let receipt = clean(&bench, 1, &plan).await;
        assert_eq!(receipt.steps[0].outcome(), Outcome::TimedOut, "{receipt:#?}");
        assert!(begun.elapsed() < NEVER, "its time was kept");
        assert!(!lives(pid_in(&pid).await));
        assert!(bench.roots.groups().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_hook_leaves_no_daemon() {
    for bench in Bench::with_and_without_groups() {
        let pid = bench.outside.join("pid");
        let script = format!("setsid sh -c 'sleep 1000 & echo $! > {}' & wait", pid.display());
        let mut plan = plan(&[]);
        plan.steps = vec![hook("daemon", &script, SOON)];
        let receipt = clean(&bench, 1, &plan).await;
        assert_eq!(receipt.steps[0].outcome(), Outcome::Done, "{receipt:#?}");
        assert!(receipt.steps[0].evidence.contains("left-behind=1"), "{receipt:#?}");
        assert!(!lives(pid_in(&pid).await));
    }
}

#[tokio::test]
async fn cancelling_waits_for_what_was_started() {
    for bench in Bench::with_and_without_groups() {
        let pid = bench.outside.join("pid");
        let mut plan = plan(&ALL);
        plan.steps.push(hook("hangs", &format!("echo $$ > {}; sleep 1000", pid.display()), Duration::from_secs(60)));
        let (target, cancel) = (Target { roots: bench.roots.clone(), run: 1 }, CancellationToken::new());
        let running = tokio::spawn({
            let cancel = cancel.clone();
            async move { run(&plan, &target, cancel).await }
        });
        let hook = pid_in(&pid).await;
        assert!(lives(hook));
        cancel.cancel();
        assert_eq!(running.await.unwrap().unwrap_err(), Interrupted::Cancelled);
        assert!(!lives(hook) && bench.roots.groups().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_cancelled_walk_has_ended_and_is_done_again() {
    let bench = Bench::without(&[]);
    let lease = bench.roots.lease(7);
    for folder in 0..200 {
        let folder = lease.work().join(format!("{folder}"));
        fs::create_dir_all(&folder).unwrap();
        (0..50).for_each(|file| fs::write(folder.join(format!("{file}")), "").unwrap());
    }
    let (target, cancel) = (Target { roots: bench.roots.clone(), run: 8 }, CancellationToken::new());
    let running = tokio::spawn({
        let cancel = cancel.clone();
        async move { run(&plan(&ALL), &target, cancel).await }
    });
    crate::host::trial::until("the walk", || !lease.folder().exists()).await;
    cancel.cancel();
    if let Err(interrupted) = running.await.unwrap() {
        assert_eq!(interrupted, Interrupted::Cancelled);
        let entries = |folder: PathBuf| fs::read_dir(folder).unwrap().count();
        let before = entries(bench.roots.aside());
        std::thread::yield_now();
        assert_eq!(entries(bench.roots.aside()), before, "nobody walks any more");
    }
    // The next run, of the next token, finds the rest.
    let receipt = clean(&bench, 9, &plan(&ALL)).await;
    assert_clean(&bench, &receipt);
}

#[tokio::test]
async fn what_appears_after_its_step_is_residue() {
    let bench = Bench::without(&[]);
    let left = bench.roots.folder().join("left-by-a-hook");
    let mut plan = plan(&ALL);
    plan.steps.push(hook("sloppy", &format!("touch {}", left.display()), SOON));
    let receipt = clean(&bench, 1, &plan).await;
    let last = receipt.steps.last().unwrap();
    assert_eq!((last.outcome(), last.left), (Outcome::Failed, 1));
    assert!(last.evidence.contains("left-by-a-hook"), "{last:?}");
    plan.steps.pop();
    let receipt = clean(&bench, 2, &plan).await;
    assert_clean(&bench, &receipt);
    assert!(!left.exists() && step(&receipt, "files").removed == 1);
}

#[tokio::test]
async fn the_plans_time_bounds_its_steps() {
    let bench = Bench::without(&[]);
    let mut plan = plan(&[]);
    plan.steps = vec![hook("long", "sleep 1000", Duration::from_secs(600)), hook("later", "true", SOON)];
    plan.timeout = Some(to_wire(Duration::from_millis(500)));
    let receipt = clean(&bench, 1, &plan).await;
    assert_eq!(receipt.steps[0].outcome(), Outcome::TimedOut);
    assert_eq!(receipt.steps[1].outcome(), Outcome::Skipped);
}

#[tokio::test]
async fn what_must_survive_cleaning_does() {
    let bench = Bench::without(&[]);
    fs::write(bench.roots.kept().join("pool"), "ci").unwrap();
    let receipt = clean(&bench, 1, &plan(&ALL)).await;
    assert_clean(&bench, &receipt);
    assert_eq!(fs::read_to_string(bench.roots.kept().join("pool")).unwrap(), "ci");
}
