//! Duties under messages that are late, doubled, out of order and of ended sessions, and under crashes of the agent.
//!
//! A registry's log is made at random: tokens grow, and each revision shows the worker Cleaning, Busy or at rest. What
//! the agent hears of it is drawn from all that was ever said. The judge knows only what was started and what was
//! admitted, and none of the rules by which the duties decide.

use super::*;

/// xorshift64*: the same seed gives the same history everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(drawn).expect("31 bits") % bound
    }
}

/// What has been seen to happen on the worker, over all of the agent's lives.
#[derive(Default)]
struct Judge {
    running: Option<u64>,
    newest_started: u64,
    newest_admitted: u64,
    starts: usize,
    admissions: usize,
    cancels: usize,
    crashes: usize,
    stale: usize,
}

impl Judge {
    fn see(&mut self, actions: &[Action], disk: &mut Facts) {
        for action in actions {
            match action {
                Action::Persist(facts) => {
                    assert!(facts.seen >= disk.seen && facts.finished >= disk.finished, "facts only grow");
                    *disk = facts.clone();
                }
                Action::Start(order) => {
                    assert_eq!(self.running, None, "two runs at once");
                    assert!(order.run > self.newest_started, "a run was started twice, or after a newer one");
                    assert!(order.run > self.newest_admitted, "a Busy worker was cleaned");
                    assert!(disk.seen >= order.run, "started before it was synced");
                    (self.running, self.newest_started) = (Some(order.run), order.run);
                    self.starts += 1;
                }
                Action::Cancel { run } => {
                    assert_eq!(self.running, Some(*run), "only what runs is cancelled");
                    self.cancels += 1;
                }
                Action::OpenLease(lease) => {
                    assert_eq!(self.running, None, "a lease was opened over a run");
                    assert!(lease.epoch > self.newest_started, "a lease older than a run was opened");
                }
                Action::Job { epoch, verdict: JobVerdict::Admitted } => {
                    assert_eq!(self.running, None, "a job was admitted over a run");
                    assert!(*epoch > self.newest_started && *epoch > self.newest_admitted, "admitted twice, or late");
                    assert!(disk.job.as_ref().is_some_and(|job| job.epoch == *epoch), "admitted before it was synced");
                    self.newest_admitted = *epoch;
                    self.admissions += 1;
                }
                Action::Job { verdict: JobVerdict::Stale { .. }, .. } => self.stale += 1,
                Action::WakeAt(_)
                | Action::Queue { .. }
                | Action::Unqueue { .. }
                | Action::Report { .. }
                | Action::DropReport { .. }
                | Action::CloseLease { .. }
                | Action::Job { .. } => {}
            }
        }
    }
}

/// The next entry of the registry's log: what it shows of the worker, under a token that never falls.
fn next(random: &mut Random, token: &mut u64) -> Assigned {
    let duty = match random.below(4) {
        0 => Duty::Rest,
        1 => {
            *token += 1;
            Duty::Serve(LeaseOrder {
                epoch: *token,
                job_id: String::new(),
                secret_sha256: Vec::new(),
                stop_grace: 0,
                folders: Vec::new(),
                interrupted: random.below(8) == 0,
            })
        }
        _ => {
            *token += 1;
            Duty::Clean(RunOrder {
                run: *token,
                attempt: 1,
                cause: String::new(),
                begin_after: random.below(3) as u64 * 10,
                plan: Arc::default(),
                epoch: 0,
                heard: Heard::Nothing,
            })
        }
    };
    Assigned { token: *token, duty }
}

fn live(seed: u64, judge: &mut Judge) {
    let mut random = Random(seed * 2 + 1);
    let (mut token, mut session, mut now) = (0, 1, 0);
    let mut log: Vec<(u64, Assigned)> = Vec::new();
    let mut disk = Facts::default();
    let mut duties = Duties::new(disk.clone());
    *judge = Judge { running: None, newest_started: 0, newest_admitted: 0, ..std::mem::take(judge) };
    for _ in 0..400 {
        now += 5;
        let input = match random.below(16) {
            0..4 => {
                log.push((session, next(&mut random, &mut token)));
                continue;
            }
            // Mostly the newest, else anything that was ever said: a lagging replica, a stream of an ended session.
            4..9 if !log.is_empty() => {
                let at = if random.below(3) == 0 { random.below(log.len()) } else { log.len() - 1 };
                let (of, assigned) = log[at].clone();
                let of = if random.below(4) == 0 { of } else { session };
                Input::Assigned { session: of, revision: at as u64, assigned }
            }
            9 => {
                session += 1;
                Input::SessionOpened { session, revision: log.len() as u64 }
            }
            10 | 11 => Input::Turn { run: random.below(token as usize + 1) as u64 },
            12 => match judge.running.take() {
                Some(run) => Input::RunJoined { run, receipt: (random.below(4) > 0).then(Arc::default) },
                None => Input::Woke,
            },
            13 => Input::Answered { run: random.below(token as usize + 1) as u64 },
            14 => Input::JobAsked {
                epoch: (token + 1).saturating_sub(random.below(4) as u64),
                boot_id: String::new(),
                asked: String::new(),
            },
            _ if random.below(6) == 0 => {
                // The process dies with all that it ran; what was synced is what the next one knows.
                (judge.running, judge.crashes) = (None, judge.crashes + 1);
                duties = Duties::new(disk.clone());
                session += 1;
                Input::SessionOpened { session, revision: log.len() as u64 }
            }
            // A place is free for whatever is queued.
            _ => match duties.progress() {
                Some((run, Heard::Queued)) => Input::Turn { run },
                _ => Input::Woke,
            },
        };
        let actions = duties.step(now, input);
        judge.see(&actions, &mut disk);
    }
}

#[test]
fn no_history_cleans_a_busy_worker_or_runs_two_things_at_once() {
    let mut judge = Judge::default();
    for seed in 1..=2_000 {
        live(seed, &mut judge);
    }
    // The histories reach what they are about.
    for (what, often) in [
        ("starts", judge.starts),
        ("admissions", judge.admissions),
        ("cancels", judge.cancels),
        ("crashes", judge.crashes),
        ("stale askers", judge.stale),
    ] {
        assert!(often > 500, "only {often} {what}");
    }
}
