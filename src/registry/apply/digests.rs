//! Digest marks: where replicas compare their states.
//!
//! A mark is each revision divisible by [`DIGEST_MARK_REVISIONS`](crate::limits::DIGEST_MARK_REVISIONS) and each entry
//! that carries log time past a multiple of [`DIGEST_MARK_EVERY`](crate::limits::DIGEST_MARK_EVERY).
//!
//! Invariants
//! * The first report per replica and mark counts.
//! * Two values without a majority stop all writes; a majority settles it.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::event::Fact;
use crate::group::Mark;
use crate::id::{ReplicaId, Revision};
use crate::limits;
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::time::LogTime;

use super::entry::Entry;

impl Entry<'_> {
    /// Makes this entry a mark, if it is one.
    pub(super) fn mark(&mut self, before: LogTime) -> bool {
        let revision = self.moment.revision;
        let every = limits::DIGEST_MARK_EVERY.0;
        let passes = before.0 / every < self.now().0 / every;
        if self.state.group().cluster.is_none() || !(passes || revision.0.is_multiple_of(limits::DIGEST_MARK_REVISIONS))
        {
            return false;
        }
        self.state.marks.put(revision, Mark::default());
        if self.state.marks.len() > limits::DIGEST_MARKS_MAX {
            let diverged = self.state.group().diverged;
            let oldest = self.state.marks.iter().map(|(mark, _)| *mark).find(|mark| Some(*mark) != diverged);
            self.state.marks.remove(&oldest.expect("there are more marks than one"));
        }
        true
    }

    pub(super) fn report_digest(
        &mut self,
        revision: Revision,
        replica: ReplicaId,
        digest: Digest,
    ) -> Result<Outcome, Refusal> {
        let voters = self.state.group().voters.clone();
        let mark = self.state.marks.get(&revision);
        let wanted = mark.filter(|mark| voters.contains(&replica) && !mark.reports.contains_key(&replica));
        let Some(settled) = wanted.map(|mark| mark.agreed) else {
            return Err(Refusal::DigestNotWanted { mark: revision });
        };
        let mark = self.state.marks.edit(&revision).expect("it was found a moment ago");
        mark.reports.insert(replica, digest);
        if let Some(agreed) = settled {
            if digest != agreed {
                self.note(Fact::DigestAgreed { mark: revision, digest: agreed, differing: vec![replica] });
            }
            return Ok(Outcome::DigestNoted);
        }
        let reports = mark.reports.clone();
        let mut counts: BTreeMap<Digest, usize> = BTreeMap::new();
        for value in reports.values() {
            *counts.entry(*value).or_default() += 1;
        }
        if let Some((agreed, _)) = counts.iter().find(|(_, count)| **count * 2 > voters.len()) {
            self.settle(revision, *agreed, &reports);
        } else if counts.len() > 1 && self.state.group().diverged.is_none() {
            self.state.edit_group().diverged = Some(revision);
            self.note(Fact::DigestDiverged { mark: revision });
        }
        Ok(Outcome::DigestNoted)
    }

    fn settle(&mut self, mark: Revision, agreed: Digest, reports: &BTreeMap<ReplicaId, Digest>) {
        self.state.marks.edit(&mark).expect("the caller has found the mark").agreed = Some(agreed);
        if self.state.group().diverged == Some(mark) {
            let open = self.state.marks.iter().find(|(_, mark)| mark.is_disputed()).map(|(mark, _)| *mark);
            self.state.edit_group().diverged = open;
        }
        let differing = reports.iter().filter(|(_, value)| **value != agreed).map(|(replica, _)| *replica).collect();
        self.note(Fact::DigestAgreed { mark, digest: agreed, differing });
    }
}
