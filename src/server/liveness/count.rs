//! Who is silent: the leader's count of sessions and waiters, on log time that is handed in.
//!
//! The count begins anew with each term, with a first period long enough for every agent to be heard. Silences that come
//! too many at once are not believed: an agent's death is its own, while many at once are a network's or a replica's.
//!
//! Invariants
//! * Nobody is owed an end before their own deadline.
//! * While an alarm lasts no session is owed an end.
//!
//! Never here: clocks, proposing, the network.

use std::collections::{BTreeMap, BTreeSet};

use remuda_registry::{LogTime, Millis, ReplicaId, SessionId, WaiterId};

/// Bounds of the count.
pub mod limits {
    use remuda_registry::Millis;

    /// A session is silent after this long at least.
    pub const SILENT_MIN: Millis = Millis::secs(5);
    /// And after so many intervals.
    pub const SILENT_BEATS: u64 = 3;
    /// A waiter that nobody vouched for is dropped after this long.
    pub const WAITER: Millis = Millis::secs(10);
    /// Heartbeats that the leader takes per second, of all agents together.
    pub const BEATS_PER_SECOND: u64 = 2_000;
    /// Silences within a period that are never too many.
    pub const MASS_MIN: usize = 3;
    /// Share of the sessions whose silence within a period is too much: one in so many.
    pub const MASS_SHARE: usize = 4;
    /// The rest must be stable for so many periods.
    pub const STABLE_PERIODS: u64 = 3;
    /// An alarm lasts for so many periods at most.
    pub const ALARM_PERIODS: u64 = 10;
    /// Ends owed at once.
    pub const OWED_MAX: usize = 256;
    /// An end that was owed and did not come is owed again after this long.
    pub const AGAIN: Millis = Millis::secs(1);
}

/// One session as the leader counts it.
#[derive(Debug, Clone)]
struct Seen {
    silent_at: LogTime,
    through: ReplicaId,
    silent_since: Option<LogTime>,
    owed_at: Option<LogTime>,
}

/// What the leader should propose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owed {
    /// Sessions to end.
    pub sessions: Vec<SessionId>,
    /// Waiters to drop.
    pub waiters: Vec<WaiterId>,
    /// An alarm began: so many sessions fell silent within one period.
    pub alarm: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Alarm {
    since: LogTime,
    last_change: LogTime,
}

/// The leader's count.
#[derive(Debug)]
pub struct Core {
    interval_min: Millis,
    interval_max: Millis,
    sessions: BTreeMap<SessionId, Seen>,
    waiters: BTreeMap<WaiterId, (LogTime, Option<LogTime>)>,
    alarm: Option<Alarm>,
}

impl Core {
    /// A count of nobody, with the bounds of heartbeat intervals.
    pub fn new(interval_min: Millis, interval_max: Millis) -> Self {
        Self { interval_min, interval_max, sessions: BTreeMap::new(), waiters: BTreeMap::new(), alarm: None }
    }

    /// How often agents should be heard.
    pub fn interval(&self) -> Millis {
        let wanted = Millis(self.sessions.len() as u64 * 1_000 / limits::BEATS_PER_SECOND);
        wanted.clamp(self.interval_min, self.interval_max)
    }

    /// A session is silent after this long.
    pub fn silent_after(&self) -> Millis {
        limits::SILENT_MIN.max(Millis(self.interval().0 * limits::SILENT_BEATS))
    }

    /// A new term: nothing that was counted before holds.
    pub fn begin(&mut self) {
        *self = Self::new(self.interval_min, self.interval_max);
    }

    /// Takes on what the state has and forgets what it no longer has. `first` is true for the first look of a term.
    pub fn sync(
        &mut self,
        now: LogTime,
        here: ReplicaId,
        first: bool,
        sessions: BTreeSet<SessionId>,
        waiters: BTreeSet<WaiterId>,
    ) {
        let grace = if first { Millis(3 * self.interval_max.0).max(self.silent_after()) } else { self.silent_after() };
        self.sessions.retain(|session, _| sessions.contains(session));
        for session in sessions {
            let seen = Seen { silent_at: now + grace, through: here, silent_since: None, owed_at: None };
            self.sessions.entry(session).or_insert(seen);
        }
        self.waiters.retain(|waiter, _| waiters.contains(waiter));
        for waiter in waiters {
            self.waiters.entry(waiter).or_insert((now + limits::WAITER, None));
        }
    }

    /// A session was heard. False where it is not counted.
    pub fn beat(&mut self, now: LogTime, session: SessionId, through: ReplicaId) -> bool {
        let silent_at = now + self.silent_after();
        let Some(seen) = self.sessions.get_mut(&session) else { return false };
        // The first period of a term is longer than what a beat gives.
        let silent_at = silent_at.max(seen.silent_at);
        *seen = Seen { silent_at, through, silent_since: None, owed_at: None };
        true
    }

    /// Somebody vouched for a waiter.
    pub fn vouch(&mut self, now: LogTime, waiter: WaiterId) {
        self.waiters.insert(waiter, (now + limits::WAITER, None));
    }

    /// Sessions that are silent.
    pub fn silent(&self) -> usize {
        self.sessions.values().filter(|seen| seen.silent_since.is_some()).count()
    }

    /// What is owed now.
    pub fn tick(&mut self, now: LogTime) -> Owed {
        let mut owed = Owed::default();
        let fell = self.mark_silent(now);
        let period = self.interval();
        match &mut self.alarm {
            None => {
                let recent = self.recent(now, period);
                if fell > 0 && self.is_mass(now, period, recent) {
                    self.alarm = Some(Alarm { since: now, last_change: now });
                    owed.alarm = Some(recent);
                }
            }
            Some(alarm) => {
                if fell > 0 {
                    alarm.last_change = now;
                }
                let stable = now.since(alarm.last_change) >= Millis(limits::STABLE_PERIODS * period.0);
                let spent = now.since(alarm.since) >= Millis(limits::ALARM_PERIODS * period.0);
                if stable || spent {
                    self.alarm = None;
                }
            }
        }
        if self.alarm.is_none() {
            owed.sessions = self.owed_sessions(now);
        }
        for (waiter, (drop_at, owed_at)) in &mut self.waiters {
            let again = owed_at.is_none_or(|at| now.since(at) >= limits::AGAIN);
            if *drop_at <= now && again && owed.waiters.len() < limits::OWED_MAX {
                *owed_at = Some(now);
                owed.waiters.push(*waiter);
            }
        }
        owed
    }

    /// Marks those whose deadline has passed, and counts them.
    fn mark_silent(&mut self, now: LogTime) -> usize {
        let mut fell = 0;
        for seen in self.sessions.values_mut() {
            if seen.silent_at <= now && seen.silent_since.is_none() {
                seen.silent_since = Some(now);
                fell += 1;
            }
        }
        fell
    }

    fn recent(&self, now: LogTime, period: Millis) -> usize {
        let recent = |seen: &&Seen| seen.silent_since.is_some_and(|since| now.since(since) < period);
        self.sessions.values().filter(recent).count()
    }

    /// Whether too many fell silent within one period.
    fn is_mass(&self, now: LogTime, period: Millis, recent: usize) -> bool {
        if recent > limits::MASS_MIN.max(self.sessions.len() / limits::MASS_SHARE) {
            return true;
        }
        let mut through: BTreeMap<ReplicaId, (usize, usize)> = BTreeMap::new();
        for seen in self.sessions.values() {
            let (all, silent) = through.entry(seen.through).or_default();
            *all += 1;
            *silent += usize::from(seen.silent_since.is_some_and(|since| now.since(since) < period));
        }
        through.values().any(|(all, silent)| *all >= 2 && all == silent)
    }

    fn owed_sessions(&mut self, now: LogTime) -> Vec<SessionId> {
        let mut owed = Vec::new();
        for (session, seen) in &mut self.sessions {
            let again = seen.owed_at.is_none_or(|at| now.since(at) >= limits::AGAIN);
            if seen.silent_since.is_some() && again && owed.len() < limits::OWED_MAX {
                seen.owed_at = Some(now);
                owed.push(*session);
            }
        }
        owed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplicaId = ReplicaId(1);
    const B: ReplicaId = ReplicaId(2);

    fn core(sessions: u64) -> Core {
        let mut core = Core::new(Millis::secs(1), Millis::secs(10));
        core.sync(LogTime(0), A, true, (1..=sessions).map(SessionId).collect(), BTreeSet::new());
        core
    }

    /// Beats all sessions but `but` each second from `from` to `to`, half of them through each replica.
    fn beat(core: &mut Core, sessions: u64, but: &[u64], from: u64, to: u64) -> Vec<(u64, Owed)> {
        let mut owed = Vec::new();
        for ms in (from..=to).step_by(100) {
            if ms % 1_000 == 0 {
                for session in (1..=sessions).filter(|session| !but.contains(session)) {
                    core.beat(LogTime(ms), SessionId(session), if session % 2 == 0 { A } else { B });
                }
            }
            let tick = core.tick(LogTime(ms));
            if tick != Owed::default() {
                owed.push((ms, tick));
            }
        }
        owed
    }

    #[test]
    fn nobody_is_ended_in_the_first_period_of_a_term() {
        let mut core = core(1);
        assert_eq!(core.tick(LogTime(29_900)), Owed::default());
        assert_eq!(core.tick(LogTime(30_000)).sessions, [SessionId(1)]);
    }

    #[test]
    fn a_silent_session_is_owed_its_end_once_and_again_if_it_does_not_come() {
        let mut core = core(9);
        assert_eq!(beat(&mut core, 9, &[], 0, 40_000), []);
        let owed = beat(&mut core, 9, &[7], 40_100, 46_900);
        assert_eq!(owed.len(), 2, "{owed:?}");
        assert_eq!(owed[0], (45_000, Owed { sessions: vec![SessionId(7)], ..Owed::default() }));
        assert_eq!(owed[1].0, 46_000);
    }

    #[test]
    fn a_beat_in_time_takes_silence_back() {
        let mut core = core(9);
        beat(&mut core, 9, &[], 0, 40_000);
        beat(&mut core, 9, &[7], 40_100, 44_900);
        core.beat(LogTime(44_950), SessionId(7), A);
        assert_eq!(beat(&mut core, 9, &[], 45_000, 60_000), []);
    }

    #[test]
    fn many_silences_at_once_are_an_alarm_and_end_only_when_the_rest_is_stable() {
        let mut core = core(20);
        beat(&mut core, 20, &[], 0, 40_000);
        let silent: Vec<u64> = (1..=8).collect();
        let owed = beat(&mut core, 20, &silent, 40_100, 47_900);
        assert_eq!(owed, [(45_000, Owed { alarm: Some(8), ..Owed::default() })]);
        let owed = beat(&mut core, 20, &silent, 48_000, 48_000);
        assert_eq!(owed[0].1.sessions.len(), 8);
    }

    #[test]
    fn an_alarm_whose_silent_sessions_come_back_ends_nobody() {
        let mut core = core(20);
        beat(&mut core, 20, &[], 0, 40_000);
        let silent: Vec<u64> = (1..=8).collect();
        beat(&mut core, 20, &silent, 40_100, 46_900);
        assert_eq!(beat(&mut core, 20, &[], 47_000, 70_000), []);
    }

    #[test]
    fn all_sessions_of_one_replica_are_an_alarm() {
        let mut core = core(20);
        beat(&mut core, 20, &[], 0, 40_000);
        // Two sessions come through a third replica, which dies.
        for ms in (41_000..=44_000).step_by(1_000) {
            for session in 1..=18 {
                core.beat(LogTime(ms), SessionId(session), A);
            }
        }
        core.beat(LogTime(41_000), SessionId(19), ReplicaId(3));
        core.beat(LogTime(41_000), SessionId(20), ReplicaId(3));
        let owed = core.tick(LogTime(46_000));
        assert_eq!(owed, Owed { alarm: Some(2), ..Owed::default() });
    }

    #[test]
    fn an_alarm_lasts_ten_periods_at_most() {
        let mut core = core(40);
        beat(&mut core, 40, &[], 0, 40_000);
        let mut ended_at = None;
        for ms in (40_000..=60_000).step_by(100) {
            // Each second two more are heard for the last time, so that from 45 s on the rest is never stable.
            let silent = (ms - 40_000) / 1_000 * 2 + 11;
            for session in silent + 1..=40 {
                core.beat(LogTime(ms), SessionId(session), A);
            }
            if !core.tick(LogTime(ms)).sessions.is_empty() && ended_at.is_none() {
                ended_at = Some(ms);
            }
        }
        let ended_at = ended_at.expect("the alarm must end");
        assert!((54_000..=56_500).contains(&ended_at), "{ended_at}");
    }

    #[test]
    fn a_waiter_without_anybody_is_dropped_after_ten_seconds() {
        let mut core = core(0);
        core.sync(LogTime(0), A, false, BTreeSet::new(), BTreeSet::from([WaiterId(1), WaiterId(2)]));
        core.vouch(LogTime(5_000), WaiterId(2));
        assert_eq!(core.tick(LogTime(9_900)), Owed::default());
        assert_eq!(core.tick(LogTime(10_000)).waiters, [WaiterId(1)]);
        assert_eq!(core.tick(LogTime(15_000)).waiters, [WaiterId(1), WaiterId(2)]);
    }

    #[test]
    fn the_interval_bounds_the_total_rate() {
        assert_eq!(core(10).interval(), Millis::secs(1));
        assert_eq!(core(6_000).interval(), Millis::secs(3));
        assert_eq!(core(100_000).interval(), Millis::secs(10));
        assert_eq!(core(6_000).silent_after(), Millis::secs(9));
    }
}
