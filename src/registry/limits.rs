//! Every bound of the registry, each with its reason.
//!
//! A bound that a pool may choose within is in [`crate::pool`]; these hold for the whole group.

use crate::time::Millis;

/// Commands in one frame: an entry must stay small enough to replicate within a tick.
pub const FRAME_COMMANDS_MAX: usize = 256;
/// Commands that one call of `due` returns: one frame's worth.
pub const DUE_MAX: usize = FRAME_COMMANDS_MAX;
/// Waiters granted in one entry: bounds an entry that frees many workers at once; `grants_owed` holds the rest.
pub const GRANTS_PER_ENTRY_MAX: usize = 256;
/// Classes (distinct label sets) in a pool: a new selector is matched against every class once.
pub const CLASSES_PER_POOL_MAX: usize = 1_000;
/// Distinct selectors with waiters in a pool: a freed worker asks each one that matches its class.
pub const WAITING_SELECTORS_PER_POOL_MAX: usize = 1_000;
/// Selectors of a pool whose matching classes are remembered: above that the least recently made is forgotten.
pub const SELECTOR_CACHE_MAX: usize = 4_096;
/// Requirements in one selector: each is evaluated against each class once.
pub const SELECTOR_REQUIREMENTS_MAX: usize = 64;
/// Workers of one agent: an entry that opens or ends its session touches each of them.
pub const WORKERS_PER_AGENT_MAX: usize = 1_024;
/// Labels of a worker, and its annotations: they travel in every answer.
pub const LABELS_MAX: usize = 64;
/// Steps in a cleaning plan.
pub const PLAN_STEPS_MAX: usize = 64;
/// Entries of a receipt, of each kind: every step or probe of a plan, and as many that this version does not know.
pub const RECEIPT_ENTRIES_MAX: usize = 2 * PLAN_STEPS_MAX;
/// Bytes of evidence kept with a step, a check or a reason: enough for a human, too little to fill a disk.
pub const EVIDENCE_BYTES_MAX: usize = 4_096;
/// Bytes of free text in an operator's reason.
pub const REASON_BYTES_MAX: usize = 1_024;
/// Longest time for which an acquire may wait.
pub const WAIT_MAX: Millis = Millis::hours(1);
/// Default window in which a request may be retried.
pub const REQUEST_WINDOW: Millis = Millis::secs(60);
/// Longest window: outcome rows must not live for ever.
pub const REQUEST_WINDOW_MAX: Millis = Millis::mins(10);
/// How much older than the leader's a client's idea of log time may be.
pub const REQUEST_TIME_AGE_MAX: Millis = Millis::secs(30);
/// How long a request id that waited lives after its waiter or unclaimed grant is gone.
pub const REQUEST_LINGER: Millis = Millis::secs(60);
/// Unanswered outcome rows of one client library.
pub const OUTCOMES_PER_CLIENT_MAX: usize = 4_096;
/// Outcome rows in all: 64 bytes each.
pub const OUTCOMES_MAX: usize = if cfg!(test) { 5_000 } else { 1_000_000 };
/// Hold-back of timed commands after an election or a gap in quorum acknowledgement.
pub const GRACE: Millis = Millis::secs(5);
/// No timed command is held back longer than this past its deadline: graces must not stack for ever.
pub const GRACE_PAST_DEADLINE_MAX: Millis = Millis::secs(15);
/// An interrupted holder has at most this long to return its worker.
pub const INTERRUPTED_DEADLINE_MAX: Millis = Millis::secs(60);
/// The replacement of a run (by a new session) that counts as a failed attempt.
pub const REPLACEMENTS_MAX: u32 = 10;
/// Priority points that waiting adds: one per this long, up to the pool's cap.
pub const PRIORITY_RISE_EVERY: Millis = Millis::secs(30);
/// Share of a pool that idle checks may hold at once, in permille; at least one worker.
pub const IDLE_CHECK_PERMILLE_MAX: usize = 50;
/// Rows that one trim removes: an entry's work stays bounded.
pub const TRIM_ROWS_MAX: usize = 1_024;
/// Age at which events are trimmed.
pub const EVENTS_AGE_MAX: Millis = Millis::hours(1);
/// Events kept at most.
pub const EVENTS_MAX: usize = 1_000_000;
/// Age at which ended returns are trimmed.
pub const RETURNS_AGE_MAX: Millis = Millis::hours(24);
/// Ended returns kept at most; failed ones go last.
pub const RETURNS_MAX: usize = 100_000;
/// Revisions between digest marks.
pub const DIGEST_MARK_REVISIONS: u64 = 10_000;
/// Log time between digest marks.
pub const DIGEST_MARK_EVERY: Millis = Millis::mins(10);
/// Digest marks whose reports are kept.
pub const DIGEST_MARKS_MAX: usize = 16;
/// The token counter starts at `unix_ms * 2^20`: no restore or second bootstrap can draw an old token again.
pub const TOKENS_PER_MILLISECOND_BITS: u32 = 20;
/// The feature level that this build writes at bootstrap and the highest that it knows.
pub const FEATURE_LEVEL: u32 = 1;
/// Waiters of a pool: a queue that long is an outage, and each costs memory on every replica.
pub const WAITERS_PER_POOL_MAX: u64 = 100_000;
/// Retired rows that go with their pool: one entry removes them all.
pub const POOL_DELETE_ROWS_MAX: u64 = 4_096;
/// Bytes of a pool's or a worker's name.
pub const NAME_BYTES_MAX: usize = 63;
/// Bytes of any other id: jobs, agents, requests, holders.
pub const ID_BYTES_MAX: usize = 256;
/// Rows and events are trimmed this long after they may be, so that one entry removes many.
pub const TRIM_SLACK: Millis = Millis::secs(10);
