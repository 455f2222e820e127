//! The smallest state machine that openraft accepts: it remembers every payload that was applied.
//!
//! Clones share their content, so a test can look into the machine of a running node.

use std::io;
use std::sync::Arc;

use futures_util::{Stream, TryStreamExt};
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;

use crate::raft::types::{Answer, LogId, Payload, SnapshotMeta, StoredMembership, TypeConfig, term_of};

/// What was applied.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
    /// Every payload with its log id, in order.
    pub(super) payloads: Vec<(LogId, Payload)>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Machine {
    content: Arc<Mutex<Content>>,
    snapshot: Arc<Mutex<Option<SnapshotOf<TypeConfig, Content>>>>,
}

impl Machine {
    /// A copy of what was applied by now.
    pub(super) fn content(&self) -> Content {
        self.content.lock().clone()
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Content;
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let content = self.content.lock();
        Ok((content.applied, content.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let id = entry.log_id;
            {
                let mut content = self.content.lock();
                content.applied = Some(id);
                match entry.payload {
                    EntryPayload::Blank => {}
                    EntryPayload::Normal(payload) => content.payloads.push((id, payload)),
                    EntryPayload::Membership(members) => content.membership = StoredMembership::new(Some(id), members),
                }
            }
            if let Some(responder) = responder {
                responder.send(Answer { revision: id.index, term: term_of(&id), results: Vec::new() });
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Machine> {
        Some(self.clone())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Content) -> Result<(), io::Error> {
        *self.content.lock() = Content {
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
            payloads: snapshot.payloads.clone(),
        };
        *self.snapshot.lock() = Some(SnapshotOf::<TypeConfig, Content> { meta: meta.clone(), snapshot });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, Content>>, io::Error> {
        Ok(self.snapshot.lock().clone())
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = Content;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, Content>, io::Error> {
        let content = self.content();
        let meta = SnapshotMeta { last_log_id: content.applied, last_membership: content.membership.clone() };
        let snapshot = SnapshotOf::<TypeConfig, Content> { meta, snapshot: content };
        *self.snapshot.lock() = Some(snapshot.clone());
        Ok(snapshot)
    }
}
