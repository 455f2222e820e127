//! Properties of the registry under random commands.
//!
//! A seed is a run of more than ten thousand commands, most of them sensible, some stale or wrong. The bench asserts
//! after each that `check()` holds and that a refusal changed nothing; here the rest is asserted. A failure names its
//! seed; `REMUDA_SEED=n` runs that one alone.

#[path = "../bench/mod.rs"]
mod bench;
mod chaos;

use std::collections::BTreeMap;

use chaos::Chaos;
use remuda_registry::limits::DUE_MAX;
use remuda_registry::{Command, Request, due};

/// Commands per run.
const COMMANDS: usize = 16_000;
/// How often each kind must be accepted in a run.
const ACCEPTED_MIN: u64 = 100;
/// Runs in one test.
const SEEDS: u64 = 3;

/// All kinds but three: a group is bootstrapped once, there is no higher feature level yet, and grants are owed only
/// after hundreds of workers were freed at once (`a_crowd_is_served_in_bounded_entries`).
const KINDS: [&str; 26] = [
    "CreatePool",
    "UpdatePool",
    "DeletePool",
    "OpenSession",
    "EndSession",
    "AcquireWorker",
    "CancelAcquire",
    "RenewLeases",
    "BeginReturn",
    "EndLease",
    "ReportProgress",
    "CompleteCleaning",
    "EndRun",
    "Admit",
    "BeginIdleCheck",
    "RetryWorker",
    "GiveUpWorker",
    "RemoveWorker",
    "AcknowledgeRetired",
    "Operate",
    "DropWaiter",
    "ExpireWaiter",
    "Trim",
    "ReportDigest",
    "Tick",
    "Renewal",
];

fn seeds() -> Vec<u64> {
    match std::env::var("REMUDA_SEED") {
        Ok(seed) => vec![seed.parse().expect("REMUDA_SEED is a number")],
        Err(_) => (1..=SEEDS).collect(),
    }
}

/// Applies what is due until nothing is, and asserts that this ends in time.
fn settle(chaos: &mut Chaos) {
    let (mut rounds, mut owed) = (0, 0);
    loop {
        let commands = due(&chaos.bench.state);
        if commands.is_empty() {
            return;
        }
        assert!(commands.len() <= DUE_MAX, "due returned {} commands", commands.len());
        rounds += 1;
        owed += commands.len();
        let last = format!("{commands:?}");
        chaos.entry(commands.into_iter().map(Request::unmarked).collect());
        assert!(rounds <= owed.div_ceil(DUE_MAX) + 3, "round {rounds} after {owed} commands, the last: {last}");
    }
}

/// The same state from disk and from the log.
fn assert_restored(chaos: &Chaos, with_replay: bool) {
    let digest = chaos.bench.state.digest();
    let reloaded = chaos.bench.reloaded();
    assert_eq!(reloaded.digest(), digest, "the state of the rows differs at {}", chaos.bench.revision);
    assert_eq!(reloaded.check(), Ok(()), "the state of the rows is broken at {}", chaos.bench.revision);
    assert_eq!(due(&reloaded), due(&chaos.bench.state), "what is due differs after a restart");
    if with_replay {
        assert_eq!(chaos.bench.replayed().digest(), digest, "the state of the log differs");
    }
}

/// One run.
fn run(seed: u64) {
    let mut chaos = Chaos::new(seed);
    for number in 0..COMMANDS {
        chaos.step();
        if number % 500 == 499 {
            settle(&mut chaos);
        }
        if number % 2_000 == 1_999 {
            assert_restored(&chaos, false);
        }
    }
    settle(&mut chaos);
    assert_restored(&chaos, true);
    println!("seed {seed}: accepted {:?}, refused {:?}", chaos.accepted, chaos.refused);
    let rare: BTreeMap<_, _> = KINDS
        .iter()
        .map(|kind| (*kind, chaos.accepted.get(kind).copied().unwrap_or(0)))
        .filter(|(_, accepted)| *accepted < ACCEPTED_MIN)
        .collect();
    assert!(rare.is_empty(), "seed {seed}: accepted too rarely: {rare:?}");
}

#[test]
fn random_commands_keep_every_invariant() {
    let runs: Vec<_> = seeds().into_iter().map(|seed| (seed, std::thread::spawn(move || run(seed)))).collect();
    let failed: Vec<_> = runs.into_iter().filter_map(|(seed, run)| run.join().err().map(|_| seed)).collect();
    assert!(failed.is_empty(), "seeds {failed:?} failed; REMUDA_SEED=n runs one alone");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = || {
        let mut chaos = Chaos::new(7);
        for _ in 0..1_000 {
            chaos.step();
        }
        (chaos.bench.state.digest(), chaos.bench.log)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_restart_at_any_point_goes_on_the_same_way() {
    let mut chaos = Chaos::new(11);
    let mut restarted = None;
    for number in 0..2_000 {
        chaos.step();
        if number == 1_000 {
            restarted = Some((chaos.bench.log.len(), chaos.bench.reloaded()));
        }
    }
    let (from, mut state) = restarted.expect("the run is long enough");
    for (revision, term, bytes) in &chaos.bench.log[from..] {
        let frame = remuda_registry::Frame::decode(bytes).expect("it was encoded here");
        remuda_registry::apply(&mut state, remuda_registry::Revision(*revision), *term, &frame);
    }
    assert_eq!(state.digest(), chaos.bench.state.digest());
}

#[test]
fn a_crowd_is_served_in_bounded_entries() {
    let mut chaos = Chaos::new(3);
    let granted = chaos.crowd(600);
    assert_eq!(granted.first().copied(), Some(256), "one entry grants at most 256");
    assert_eq!(granted.iter().sum::<usize>(), 600, "and the rest is owed: {granted:?}");
    assert!(due(&chaos.bench.state).iter().all(|command| !matches!(command, Command::GrantOwed { .. })));
}
