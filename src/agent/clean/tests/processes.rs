//! Processes that do not want to end.

use super::*;
use crate::host::trial::ended;
use crate::host::trial::lives;
use crate::host::trial::pid_in;
use crate::host::trial::skip;
use crate::host::trial::until;
use crate::process;
use crate::supervisor;

#[tokio::test]
async fn a_daemon_that_forked_twice_is_ended() {
    for bench in Bench::with_and_without_groups() {
        let script = "setsid sh -c 'sleep 1000 & echo $! > daemon' & wait; echo bye";
        let lease = bench.start(7, script).await;
        let daemon = pid_in(&lease.work().join("daemon")).await;
        ended(&lease).await;
        assert!(lives(daemon), "it outlived the job");
        let receipt = clean(&bench, 8, &plan(&ALL)).await;
        assert_clean(&bench, &receipt);
        assert!(!lives(daemon));
        assert_eq!(step(&receipt, "stop").removed, 1, "{receipt:#?}");
        assert_eq!(step(&receipt, "strays").removed, 0, "nothing was left for it");
    }
}

#[tokio::test]
async fn a_daemon_without_environment_is_ended() {
    for bench in Bench::with_and_without_groups() {
        let pid = bench.outside.join("pid");
        let script = format!("env -i setsid sh -c 'cd /; sleep 1000 & echo $! > {}' & wait", pid.display());
        let lease = bench.start(7, &script).await;
        let daemon = pid_in(&pid).await;
        ended(&lease).await;
        let receipt = clean(&bench, 8, &plan(&ALL)).await;
        assert_clean(&bench, &receipt);
        assert!(!lives(daemon));
    }
}

#[tokio::test]
async fn one_that_ignores_term_is_killed_after_the_grace() {
    for bench in Bench::with_and_without_groups() {
        let lease = bench.start(7, "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done").await;
        let job = pid_in(&lease.work().join("pid")).await;
        let receipt = clean(&bench, 8, &plan(&ALL)).await;
        assert_clean(&bench, &receipt);
        assert!(!lives(job));
        let stop = step(&receipt, "stop");
        assert!(stop.evidence.contains("killed="), "{stop:?}");
        assert!(Duration::try_from(stop.took.unwrap()).unwrap() >= Duration::from_millis(200), "the grace was given");
    }
}

#[tokio::test]
async fn one_that_heeds_term_is_not_killed() {
    for bench in Bench::with_and_without_groups() {
        let said = bench.outside.join("said");
        let script =
            format!("trap 'echo bye > {}; exit 0' TERM; echo $$ > pid; while :; do sleep 0.01; done", said.display());
        let lease = bench.start(7, &script).await;
        pid_in(&lease.work().join("pid")).await;
        let mut plan = plan(&ALL);
        plan.stop_grace = Some(to_wire(Duration::from_secs(9)));
        let receipt = clean(&bench, 8, &plan).await;
        assert_clean(&bench, &receipt);
        assert_eq!(std::fs::read_to_string(&said).unwrap(), "bye\n");
        assert!(!step(&receipt, "stop").evidence.contains("killed"));
    }
}

#[tokio::test]
async fn a_stopped_process_hears_term() {
    for bench in Bench::with_and_without_groups() {
        let lease = bench.start(7, "sleep 1000 & echo $! > pid; kill -STOP $!; wait").await;
        let job = pid_in(&lease.work().join("pid")).await;
        until("stopped", || matches!(process::read(job), Ok(Some(process)) if process.state == b'T')).await;
        let receipt = clean(&bench, 8, &plan(&ALL)).await;
        assert_clean(&bench, &receipt);
        assert!(!lives(job));
    }
}

#[tokio::test]
async fn a_frozen_group_is_ended() {
    let bench = Bench::without(&[]);
    let lease = bench.start(7, "echo $$ > pid; sleep 1000").await;
    let job = pid_in(&lease.work().join("pid")).await;
    let Some(group) = lease.group() else { return skip("no usable cgroup v2") };
    std::fs::write(group.child("job").path().join("cgroup.freeze"), "1").unwrap();
    let receipt = clean(&bench, 8, &plan(&ALL)).await;
    assert_clean(&bench, &receipt);
    assert!(!lives(job));
}

#[tokio::test]
async fn one_that_left_its_group_and_tree_is_a_stray() {
    let bench = Bench::without(&[]);
    let lease = bench.start(7, "setsid sh -c 'sleep 1000 & echo $! > daemon' & wait; sleep 1000").await;
    let daemon = pid_in(&lease.work().join("daemon")).await;
    let Some(base) = &bench.roots.host().capabilities().cgroup else { return skip("no usable cgroup v2") };
    if std::fs::write(base.join("cgroup.procs"), daemon.to_string()).is_err() {
        return skip("processes cannot be moved out of a group");
    }
    // Without its supervisor nothing ties the daemon to the lease but its mark.
    let supervisor = supervisor::taken(&lease).unwrap().unwrap().supervisor;
    process::signal(supervisor, rustix::process::Signal::KILL, true).unwrap();
    until("the supervisor's end", || !process::is_alive(supervisor)).await;
    let receipt = clean(&bench, 8, &plan(&ALL)).await;
    assert_clean(&bench, &receipt);
    assert!(!lives(daemon));
    let strays = step(&receipt, "strays");
    assert!(strays.removed == 1 && strays.evidence.contains("stray-by-mark=1"), "{strays:?}");
}

#[tokio::test]
async fn one_without_a_mark_is_known_by_its_files() {
    let bench = Bench::without(&["cgroup"]);
    let lease = bench.start(7, "env -i setsid sh -c 'exec sleep 1000 > log' & echo $! > daemon; sleep 1000").await;
    let daemon = pid_in(&lease.work().join("daemon")).await;
    let sleeps = || matches!(process::read(daemon), Ok(Some(process)) if process.name == b"sleep");
    until("the daemon", sleeps).await;
    let taken = supervisor::taken(&lease).unwrap().unwrap();
    process::signal(taken.supervisor, rustix::process::Signal::KILL, true).unwrap();
    process::signal(taken.main.unwrap(), rustix::process::Signal::KILL, true).unwrap();
    until("the family's end", || !process::is_alive(taken.supervisor) && !process::is_alive(taken.main.unwrap())).await;
    let receipt = clean(&bench, 8, &plan(&ALL)).await;
    assert_clean(&bench, &receipt);
    assert!(!lives(daemon));
    assert!(step(&receipt, "strays").evidence.contains("stray-by-cwd=1"), "{receipt:#?}");
}

#[tokio::test]
async fn somebody_who_was_there_before_is_not_touched() {
    use std::io::Write;
    let bench = Bench::without(&[]);
    let mut shell = std::process::Command::new("sh").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let pid = i32::try_from(shell.id()).unwrap();
    // The lease must be younger by at least one clock tick.
    let before = process::read(pid).unwrap().unwrap().id.start;
    until("a later tick", || {
        let mut probe = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let start = process::read(i32::try_from(probe.id()).unwrap()).unwrap().unwrap().id.start;
        probe.kill().unwrap();
        probe.wait().unwrap();
        start > before
    })
    .await;
    let lease = bench.start(7, "true").await;
    writeln!(shell.stdin.as_mut().unwrap(), "cd {}", lease.work().display()).unwrap();
    let there = || std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == lease.work());
    until("the visit", there).await;
    let receipt = clean(&bench, 8, &plan(&ALL)).await;
    assert_clean(&bench, &receipt);
    assert!(lives(pid));
    assert!(step(&receipt, "strays").evidence.contains("bystander=1"), "{receipt:#?}");
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[tokio::test]
async fn forks_faster_than_signals_end_too() {
    for bench in Bench::with_and_without_groups() {
        let script = "trap '' TERM; f() { while :; do (sleep 0.02) & sleep 0.002; done; }; f & f & echo $$ > pid; wait";
        let lease = bench.start(7, script).await;
        pid_in(&lease.work().join("pid")).await;
        let receipt = clean(&bench, 8, &plan(&ALL)).await;
        assert_clean(&bench, &receipt);
    }
}

#[tokio::test]
async fn a_newer_lease_is_not_touched() {
    let bench = Bench::without(&[]);
    let old = bench.start(7, "sleep 1000").await;
    let new = bench.start(9, "sleep 1000").await;
    let target = Target { roots: bench.roots.clone(), run: 8 };
    let ran = run(&plan(&ALL), &target, CancellationToken::new()).await;
    assert_eq!(ran.unwrap_err(), Interrupted::Superseded { epoch: 9 });
    for lease in [&old, &new] {
        assert!(matches!(supervisor::standing(lease).unwrap(), supervisor::Standing::Running { .. }));
    }
    assert!(supervisor::stop(&old, Duration::ZERO, &CancellationToken::new()).await.unwrap());
    assert!(matches!(supervisor::standing(&new).unwrap(), supervisor::Standing::Running { .. }));
}
