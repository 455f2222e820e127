//! `faithful_events`: one event per transition; ordered, unique, reliable, atomic per revision, resumable; what is
//! gone is said, never skipped.
//!
//! The committed log is judged for order; each watch is then compared with it, event by event.

use super::Verdict;
use super::history::{Event, History, Watch, WatchItem};

/// Judges the promise.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::new("faithful_events");
    judge_log(history, &mut verdict);
    for watch in &history.watches {
        judge_watch(history, watch, &mut verdict);
    }
    verdict
}

/// Positions grow without a hole, terms and log time never fall.
fn judge_log(history: &History, verdict: &mut Verdict) {
    for pair in history.events.windows(2) {
        let [before, after] = pair else { continue };
        let follows = if after.revision == before.revision {
            after.ordinal == before.ordinal + 1
        } else {
            after.revision > before.revision && after.ordinal == 0
        };
        verdict.require(follows, || format!("{:?} follows {:?}", after.position(), before.position()));
        verdict.require(after.term >= before.term, || {
            format!("{:?}: term {} after {}", after.position(), after.term, before.term)
        });
        verdict.require(after.log_time >= before.log_time, || {
            format!("{:?}: log time {} after {}", after.position(), after.log_time, before.log_time)
        });
    }
}

/// What the log owes a watch above `passed` and up to `until`.
fn owed<'a>(history: &'a History, watch: &'a Watch, passed: u64, until: u64) -> impl Iterator<Item = &'a Event> {
    let from = history.events.partition_point(|event| event.revision <= passed);
    let to = history.events.partition_point(|event| event.revision <= until);
    history.events[from..to.max(from)].iter().filter(|event| event.worker.starts_with(&watch.prefix))
}

fn judge_watch(history: &History, watch: &Watch, verdict: &mut Verdict) {
    let name = &watch.name;
    let mut passed = None;
    for item in &watch.items {
        match (item, passed) {
            (WatchItem::From(revision), _) => passed = Some(*revision),
            (WatchItem::Compacted(oldest), at) => {
                verdict.require(at.is_none_or(|at| at < *oldest), || {
                    format!("watch {name}: {oldest} is the oldest kept, but {at:?} was asked for")
                });
                passed = None;
            }
            (WatchItem::Batch(events), Some(at)) => passed = Some(judge_batch(history, watch, at, events, verdict)),
            (WatchItem::Bookmark(revision), Some(at)) => {
                let skipped = owed(history, watch, at, *revision).next();
                verdict.require(*revision >= at, || format!("watch {name}: bookmark {revision} after {at}"));
                verdict.require(skipped.is_none(), || format!("watch {name}: bookmark {revision} skips {skipped:?}"));
                passed = Some(at.max(*revision));
            }
            (WatchItem::Batch(_) | WatchItem::Bookmark(_), None) => {
                verdict.require(false, || format!("watch {name}: sent {item:?} without a beginning"));
            }
        }
    }
}

/// One batch is all that one revision owes, and nothing between it and the last was left out.
fn judge_batch(history: &History, watch: &Watch, passed: u64, events: &[Event], verdict: &mut Verdict) -> u64 {
    let name = &watch.name;
    let Some(revision) = events.first().map(|event| event.revision) else {
        verdict.require(false, || format!("watch {name}: an empty batch after {passed}"));
        return passed;
    };
    verdict.require(revision > passed, || format!("watch {name}: {revision} again or out of order after {passed}"));
    let skipped = owed(history, watch, passed, revision.saturating_sub(1)).next();
    verdict.require(skipped.is_none(), || format!("watch {name}: {skipped:?} was skipped before {revision}"));
    let expected = owed(history, watch, revision.saturating_sub(1), revision);
    let same = expected.eq(events.iter());
    verdict.require(same, || format!("watch {name}: revision {revision} was sent as {events:?}"));
    revision.max(passed)
}

#[cfg(test)]
mod tests {
    use super::super::sample::{good, rejected};
    use super::*;

    fn batch(history: &mut History, index: usize) -> &mut Vec<Event> {
        let batches = history.watches[0].items.iter_mut().filter_map(|item| match item {
            WatchItem::Batch(events) => Some(events),
            WatchItem::From(_) | WatchItem::Bookmark(_) | WatchItem::Compacted(_) => None,
        });
        batches.into_iter().nth(index).unwrap()
    }

    #[test]
    fn a_dropped_batch_is_rejected() {
        let mut bad = good();
        let first = bad.watches[0].items.iter().position(|item| matches!(item, WatchItem::Batch(_))).unwrap();
        bad.watches[0].items.remove(first);
        rejected(judge, &bad, "was skipped before");
    }

    #[test]
    fn a_batch_that_was_sent_twice_is_rejected() {
        let mut bad = good();
        let first = bad.watches[0].items.iter().position(|item| matches!(item, WatchItem::Batch(_))).unwrap();
        let twice = bad.watches[0].items[first].clone();
        bad.watches[0].items.insert(first + 1, twice);
        rejected(judge, &bad, "again or out of order");
    }

    #[test]
    fn half_a_revision_is_rejected() {
        let mut bad = good();
        let whole = (0..).find(|index| batch(&mut bad, *index).len() > 1).unwrap();
        batch(&mut bad, whole).pop();
        rejected(judge, &bad, "was sent as");
    }

    #[test]
    fn an_event_that_was_never_committed_is_rejected() {
        let mut bad = good();
        batch(&mut bad, 0)[0].epoch = 12_345;
        rejected(judge, &bad, "was sent as");
    }

    #[test]
    fn a_bookmark_that_skips_is_rejected() {
        let mut bad = good();
        let last = bad.to_revision;
        bad.watches[0].items.truncate(1);
        bad.watches[0].items.push(WatchItem::Bookmark(last));
        rejected(judge, &bad, "skips");
    }

    #[test]
    fn a_silent_gap_is_rejected_and_a_compaction_that_says_so_is_not() {
        let mut said = good();
        let items = &mut said.watches[0].items;
        items.truncate(2);
        let last = said.to_revision;
        items.extend([WatchItem::Compacted(last), WatchItem::From(last), WatchItem::Bookmark(last)]);
        assert!(judge(&said).holds());
        said.watches[0].items.retain(|item| !matches!(item, WatchItem::Compacted(_) | WatchItem::From(_)));
        rejected(judge, &said, "without a beginning");
    }

    #[test]
    fn swapped_events_in_the_log_are_rejected() {
        let mut bad = good();
        bad.events.swap(2, 3);
        rejected(judge, &bad, "follows");
    }

    #[test]
    fn time_that_runs_backwards_is_rejected() {
        let mut bad = good();
        bad.events.last_mut().unwrap().log_time = 0;
        rejected(judge, &bad, "log time 0 after");
    }
}
