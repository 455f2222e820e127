//! Jobs under real supervisors: output, input, signals, ends, and what outlives whom.

use super::*;
use crate::host::trial::Bench;
use crate::host::trial::ended;
use crate::host::trial::pid_in;
use crate::host::trial::until;

fn output(lease: &Lease, stream: Stream) -> String {
    let mut text = Vec::new();
    while let Some(chunk) = read_output(lease, stream, text.len() as u64, 5).unwrap() {
        assert_eq!(chunk.offset, text.len() as u64, "nothing was dropped");
        text.extend(chunk.data);
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_job_has_its_folders_and_its_end_is_on_record() {
    for bench in Bench::with_and_without_groups() {
        let lease = bench.start(7, "pwd; echo $TMPDIR $HOME $REMUDA_WORKER $REMUDA_EPOCH; echo no >&2; exit 3").await;
        let exit = ended(&lease).await;
        assert_eq!((exit.code, exit.signal, exit.failure.as_str()), (3, 0, ""));
        let text = output(&lease, Stream::Stdout);
        let [work, tmp, home] = [lease.work(), lease.tmp(), lease.home()].map(|path| path.display().to_string());
        assert_eq!(text, format!("{work}\n{tmp} {home} pools/ci/workers/w-1 7\n"));
        assert_eq!(output(&lease, Stream::Stderr), "no\n");
        assert_eq!((exit.stdout_bytes, exit.stderr_bytes), (text.len() as u64, 3));
        changed(&lease, exit.stdout_bytes, exit.stderr_bytes).await;
    }
}

#[tokio::test]
async fn one_execution_per_lease_whoever_asks() {
    let bench = Bench::without(&[]);
    let lease = bench.roots.lease(7);
    assert_eq!(standing(&lease).unwrap(), Standing::None);
    let command = ["sh", "-c", "echo once >> ran; sleep 1000"].map(str::to_owned).to_vec();
    let spec = JobSpec { command, ..JobSpec::default() };
    let (one, two) = tokio::join!(start(&lease, &spec), start(&lease, &spec));
    one.unwrap();
    two.unwrap();
    assert_eq!(start(&lease, &spec).await.unwrap(), Started::Existing);
    until("the job's first act", || lease.work().join("ran").exists()).await;
    assert!(stop(&lease, Duration::from_secs(5), &Default::default()).await.unwrap());
    assert_eq!(fs::read_to_string(lease.work().join("ran")).unwrap(), "once\n");
    assert!(matches!(standing(&lease).unwrap(), Standing::Ended(Exit { signal: 15, .. })), "the end is on record");
}

#[tokio::test]
async fn nothing_starts_after_the_stop() {
    let bench = Bench::without(&[]);
    let lease = bench.roots.lease(7);
    fs::create_dir_all(lease.folder()).unwrap();
    assert!(stop(&lease, Duration::from_secs(5), &Default::default()).await.unwrap());
    let spec = JobSpec { command: vec!["true".to_owned()], ..JobSpec::default() };
    assert!(matches!(start(&lease, &spec).await, Err(StartError::Stopped)));
    assert_eq!(standing(&lease).unwrap(), Standing::None);
}

#[tokio::test]
async fn commands_that_cannot_be_started_end_like_in_a_shell() {
    let bench = Bench::without(&[]);
    let cases = [("/nowhere/x", 127, "NOT_FOUND"), ("/proc/self/mountinfo", 126, "NOT_EXECUTABLE")];
    for (epoch, (program, code, reason)) in (1..).zip(cases) {
        let lease = bench.roots.lease(epoch);
        let spec = JobSpec { command: vec![program.to_owned()], ..JobSpec::default() };
        start(&lease, &spec).await.unwrap();
        let exit = ended(&lease).await;
        assert_eq!(exit.code, code, "{program}");
        assert!(exit.failure.starts_with(reason), "{}", exit.failure);
    }
}

#[tokio::test]
async fn input_is_taken_once_and_ends() {
    let bench = Bench::without(&[]);
    let lease = bench.roots.lease(7);
    let spec = JobSpec { command: vec!["cat".to_owned()], input: true, ..JobSpec::default() };
    start(&lease, &spec).await.unwrap();
    assert_eq!(write_input(&lease, 0, b"hello ", false).unwrap(), 6);
    until("an echo", || output(&lease, Stream::Stdout) == "hello ").await;
    assert_eq!(write_input(&lease, 0, b"hello wor", false).unwrap(), 9, "repeated bytes are dropped");
    assert_eq!(write_input(&lease, 20, b"gap", false).unwrap(), 9, "bytes beyond a gap are refused");
    assert_eq!(write_input(&lease, 9, b"ld", true).unwrap(), 11);
    assert_eq!(write_input(&lease, 11, b"late", false).unwrap(), 11, "nothing follows the end");
    assert_eq!(ended(&lease).await.code, 0);
    assert_eq!(output(&lease, Stream::Stdout), "hello world");
}

#[tokio::test]
async fn input_is_pushed_back_while_the_job_is_behind() {
    let bench = Bench::without(&[]);
    let lease = bench.roots.lease(7);
    let command = ["sh", "-c", "while [ ! -e go ]; do sleep 0.01; done; wc -c"].map(str::to_owned).to_vec();
    start(&lease, &JobSpec { command, input: true, ..JobSpec::default() }).await.unwrap();
    let data = vec![b'x'; 1 << 20];
    let mut accepted = 0;
    for _ in 0..20 {
        accepted = write_input(&lease, accepted, &data, false).unwrap();
    }
    assert!(accepted <= limits::INPUT_BEHIND + limits::INPUT_SEGMENT, "{accepted} bytes wait");
    fs::write(lease.work().join("go"), "").unwrap();
    let total = 40 << 20;
    until("all input accepted", || {
        let end = usize::try_from((total - accepted).min(1 << 20)).unwrap();
        accepted = write_input(&lease, accepted, &data[..end], accepted + end as u64 == total).unwrap();
        accepted == total
    })
    .await;
    write_input(&lease, total, b"", true).unwrap();
    ended(&lease).await;
    assert_eq!(output(&lease, Stream::Stdout).trim(), total.to_string());
}

#[tokio::test]
async fn signals_reach_the_whole_group() {
    let bench = Bench::without(&[]);
    let script = "trap 'echo hup' HUP; sleep 1000 & echo $! > child; while :; do wait; done";
    let lease = bench.start(7, script).await;
    let child = pid_in(&lease.work().join("child")).await;
    assert!(signal(&lease, 1).unwrap());
    until("the trap", || output(&lease, Stream::Stdout) == "hup\n").await;
    until("the child's end", || !crate::host::trial::lives(child)).await;
    assert!(signal(&lease, 9).unwrap());
    assert_eq!(ended(&lease).await.signal, 9);
    until("the supervisor's end", || !signal(&lease, 15).unwrap()).await;
    assert!(signal(&lease, 0).is_err() && signal(&lease, 400).is_err());
}

#[test]
fn a_job_outlives_what_started_it() {
    let bench = Bench::without(&[]);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let script = "while [ ! -e go ]; do sleep 0.01; done; echo still here";
    let lease = runtime().block_on(bench.start(7, script));
    assert!(matches!(standing(&lease).unwrap(), Standing::Running { .. }));
    fs::write(lease.work().join("go"), "").unwrap();
    runtime().block_on(async {
        assert_eq!(ended(&lease).await.code, 0);
        assert_eq!(output(&lease, Stream::Stdout), "still here\n");
    });
}

#[tokio::test]
async fn a_supervisor_that_vanishes_or_a_reboot_is_a_lost_job() {
    let bench = Bench::without(&[]);
    let lease = bench.start(7, "sleep 1000").await;
    let mut taken = taken(&lease).unwrap().unwrap();
    process::signal(taken.supervisor, rustix::process::Signal::KILL, true).unwrap();
    until("the supervisor's end", || !process::is_alive(taken.supervisor)).await;
    assert!(matches!(standing(&lease).unwrap(), Standing::Lost { why } if why.contains("supervisor")));
    taken.boot_id = "another".to_owned();
    record::write(&lease.folder().join("lease.json"), &taken).unwrap();
    assert!(matches!(standing(&lease).unwrap(), Standing::Lost { why } if why.contains("restarted")));
}

#[tokio::test]
async fn the_end_is_recorded_while_a_daemon_holds_the_output() {
    let bench = Bench::without(&[]);
    let lease = bench.start(7, "(while :; do echo daemon; sleep 0.01; done) & echo main; exit 0").await;
    until("the record", || matches!(standing(&lease), Ok(Standing::Ended(_)))).await;
    assert!(output(&lease, Stream::Stdout).contains("main\n"));
    let before = output_len(&lease, Stream::Stdout).unwrap();
    until("more of the daemon", || output_len(&lease, Stream::Stdout).unwrap() > before).await;
}
