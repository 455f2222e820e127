//! From a folder and a list of peers to a member of a cluster.
//!
//! A replica with a vote or entries has been a member and goes on. One without asks every peer who they are, each
//! second, without limit:
//!
//! | what the peers say | what follows |
//! |---|---|
//! | a membership names it with another store | it has lost its data: `REPLICA_LOST` |
//! | a membership names it with this store | it runs, and waits for entries |
//! | all answered, all are empty | the lowest id initializes with the stores it was told; the others ask on |
//! | anything else, so any silence | it asks on, and says whom it waits for |
//!
//! Invariants
//! * Two replicas never initialize: all must be seen empty, and only the lowest id acts. What it writes fixes each
//!   member's store for ever.
//!
//! Never here: proposing the bootstrap command (the leader does, whoever it is, while the state lacks one).

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use remuda_wire::raft::v1 as peer;
use tokio::sync::watch;

use super::identity::Identity;
use super::net::channel::{Channels, Purpose};
use super::types::{Member, ReplicaId};

/// Pause between two rounds of questions.
const ROUND: Duration = Duration::from_secs(1);
/// A peer that takes longer counts as silent in this round.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);

/// What a replica says of itself.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// Who it is.
    pub identity: Identity,
    /// Its log and vote were empty when it started.
    pub empty: bool,
    /// Where other replicas reach it.
    pub peer: String,
    /// Where clients reach it.
    pub client: String,
}

impl Introduction {
    /// The answer to `Identify`, with the members that are known by now.
    pub fn answer(&self, members: &[(ReplicaId, Member)]) -> peer::IdentifyResponse {
        let member = |(id, member): &(ReplicaId, Member)| peer::PeerMember {
            id: *id,
            peer_endpoint: member.peer.clone(),
            client_endpoint: member.client.clone(),
            store_id: member.store_id.to_string(),
        };
        peer::IdentifyResponse {
            replica_id: self.identity.replica,
            store_id: self.identity.store.to_string(),
            cluster_id: String::new(),
            empty: self.empty && members.is_empty(),
            members: members.iter().map(member).collect(),
            peer_endpoint: self.peer.clone(),
            client_endpoint: self.client.clone(),
        }
    }
}

/// How a replica comes to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// It is the one to initialize, with these members.
    Initialize(BTreeMap<ReplicaId, Member>),
    /// It runs and waits to hear from the others.
    Join,
}

/// A membership names this replica with another store: the data it promised to keep is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("REPLICA_LOST: replica {replica} was admitted with store {admitted}, this folder is store {found}")]
pub struct ReplicaLost {
    /// This replica.
    pub replica: ReplicaId,
    /// The store that the membership names.
    pub admitted: String,
    /// The store in the folder.
    pub found: String,
}

/// Asks `peers` (this replica included) until its part is clear. `progress` says what it waits for.
///
/// # Errors
/// [`ReplicaLost`].
pub async fn find_part(
    me: &Introduction,
    peers: &BTreeMap<ReplicaId, String>,
    channels: &Channels,
    progress: &watch::Sender<String>,
) -> Result<Part, ReplicaLost> {
    let mut said = String::new();
    loop {
        let asked = peers.iter().filter(|(id, _)| **id != me.identity.replica);
        let answers =
            join_all(asked.map(|(id, endpoint)| async { (*id, ask(me, *id, endpoint, channels).await) })).await;
        match judge(me, &answers.into_iter().collect()) {
            Judgement::Lost(lost) => return Err(lost),
            Judgement::Part(part) => return Ok(part),
            Judgement::Wait(reason) => {
                if reason != said {
                    tracing::info!(%reason, "waiting to become a member");
                    said.clone_from(&reason);
                }
                progress.send_replace(reason);
            }
        }
        tokio::time::sleep(ROUND).await;
    }
}

enum Judgement {
    Lost(ReplicaLost),
    Part(Part),
    Wait(String),
}

type Answers = BTreeMap<ReplicaId, Result<peer::IdentifyResponse, String>>;

/// The table above.
fn judge(me: &Introduction, answers: &Answers) -> Judgement {
    let heard: Vec<_> = answers.iter().filter_map(|(id, answer)| Some((*id, answer.as_ref().ok()?))).collect();
    let own = me.identity.store.to_string();
    let named = heard.iter().flat_map(|(_, answer)| &answer.members).filter(|member| member.id == me.identity.replica);
    let mut named_with_this_store = false;
    for member in named {
        if member.store_id != own {
            let (replica, admitted) = (me.identity.replica, member.store_id.clone());
            return Judgement::Lost(ReplicaLost { replica, admitted, found: own });
        }
        named_with_this_store = true;
    }
    if named_with_this_store {
        return Judgement::Part(Part::Join);
    }
    if let Some((id, reason)) = answers.iter().find_map(|(id, answer)| Some((id, answer.as_ref().err()?))) {
        return Judgement::Wait(format!("peer {id} does not answer: {reason}"));
    }
    if let Some((id, _)) = heard.iter().find(|(_, answer)| !answer.empty) {
        return Judgement::Wait(format!("peer {id} is a member of something that does not name this replica"));
    }
    let lowest = answers.keys().next().is_none_or(|first| me.identity.replica < *first);
    if !lowest {
        return Judgement::Wait("all peers are empty; the lowest id is to initialize".to_owned());
    }
    let own = Member { peer: me.peer.clone(), client: me.client.clone(), store_id: me.identity.store };
    let mut members = BTreeMap::from([(me.identity.replica, own)]);
    for (id, answer) in heard {
        let Ok(store_id) = answer.store_id.parse() else {
            return Judgement::Wait(format!("peer {id} says store id `{}`", answer.store_id));
        };
        let (peer, client) = (answer.peer_endpoint.clone(), answer.client_endpoint.clone());
        members.insert(id, Member { peer, client, store_id });
    }
    Judgement::Part(Part::Initialize(members))
}

async fn ask(
    me: &Introduction,
    id: ReplicaId,
    endpoint: &str,
    channels: &Channels,
) -> Result<peer::IdentifyResponse, String> {
    let mut client = channels.client(endpoint, Purpose::Node).map_err(|error| error.to_string())?;
    let caller = peer::Caller {
        cluster_id: String::new(),
        replica_id: me.identity.replica,
        store_id: me.identity.store.to_string(),
        callee_id: id,
        callee_store_id: String::new(),
    };
    let call = client.identify(peer::IdentifyRequest { caller: Some(caller) });
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, call).await.map_err(|_| "no answer in time".to_owned())?;
    let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
    if answer.replica_id == id { Ok(answer) } else { Err(format!("{endpoint} is replica {}", answer.replica_id)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::StoreId;

    fn introduction(replica: ReplicaId) -> Introduction {
        let identity = Identity { replica, store: StoreId(u128::from(replica) * 11) };
        Introduction { identity, empty: true, peer: format!("p{replica}:1"), client: format!("c{replica}:1") }
    }

    fn members(stores: [u128; 3]) -> Vec<(ReplicaId, Member)> {
        let member = |store| Member { store_id: StoreId(store), ..Default::default() };
        (1..).zip(stores.map(member)).collect()
    }

    fn empty(replica: ReplicaId) -> (ReplicaId, Result<peer::IdentifyResponse, String>) {
        (replica, Ok(introduction(replica).answer(&[])))
    }

    #[test]
    fn only_the_lowest_of_three_empty_replicas_initializes() {
        match judge(&introduction(1), &Answers::from([empty(2), empty(3)])) {
            Judgement::Part(Part::Initialize(found)) => {
                let stores: Vec<_> = found.iter().map(|(id, member)| (*id, member.store_id)).collect();
                assert_eq!(stores, [(1, StoreId(11)), (2, StoreId(22)), (3, StoreId(33))]);
            }
            _ => panic!("replica 1 is to initialize"),
        }
        assert!(matches!(judge(&introduction(2), &Answers::from([empty(1), empty(3)])), Judgement::Wait(_)));
    }

    #[test]
    fn a_silent_peer_is_waited_for() {
        let answers = Answers::from([empty(2), (3, Err("refused".into()))]);
        assert!(matches!(judge(&introduction(1), &answers), Judgement::Wait(reason) if reason.contains("peer 3")));
    }

    #[test]
    fn a_membership_decides_even_while_others_are_silent() {
        let named =
            |stores| Answers::from([(2, Ok(introduction(2).answer(&members(stores)))), (3, Err("down".into()))]);
        assert!(matches!(judge(&introduction(1), &named([11, 22, 33])), Judgement::Part(Part::Join)));
        match judge(&introduction(1), &named([99, 22, 33])) {
            Judgement::Lost(lost) => assert_eq!(lost.replica, 1),
            _ => panic!("store 99 was admitted, this is 11"),
        }
    }

    #[test]
    fn a_member_of_something_else_is_waited_for() {
        let strange = Introduction { empty: false, ..introduction(2) };
        let answers = Answers::from([(2, Ok(strange.answer(&[]))), empty(3)]);
        assert!(matches!(judge(&introduction(1), &answers), Judgement::Wait(_)));
    }
}
