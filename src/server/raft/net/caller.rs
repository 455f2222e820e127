//! Who calls whom: the identity that every peer call carries, and its check.
//!
//! A replica that lost its data and came back under its old number must neither vote nor be taken for the one that
//! made promises. Its store id tells: the first membership entry fixed every member's. The caller says its own and the
//! one that it means to reach, so one check at the callee covers both directions.
//!
//! Invariants
//! * A call between stores that the membership does not know under these numbers has no effect.
//!
//! Never here: secrets; this is protection against accidents, not against attackers.

use std::sync::Arc;

use arc_swap::ArcSwap;
use remuda_wire::raft::v1 as peer;
use tonic::Status;

use crate::raft::identity::Identity;
use crate::raft::types::{Member, Membership, ReplicaId};

/// What a replica knows of itself and of the members, as far as peer calls need it.
#[derive(Debug)]
pub struct Parties {
    identity: Identity,
    known: ArcSwap<Known>,
}

/// The part that grows: empty before bootstrap.
#[derive(Debug, Default)]
struct Known {
    cluster: String,
    membership: Membership,
}

impl Parties {
    /// A replica that knows nobody yet.
    pub fn new(identity: Identity) -> Parties {
        Parties { identity, known: ArcSwap::default() }
    }

    /// Who this replica is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The cluster's id; empty before bootstrap.
    pub fn cluster(&self) -> String {
        self.known.load().cluster.clone()
    }

    /// The members.
    pub fn members(&self) -> Vec<(ReplicaId, Member)> {
        self.known.load().membership.nodes().map(|(id, member)| (*id, member.clone())).collect()
    }

    /// One member.
    pub fn member(&self, id: ReplicaId) -> Option<Member> {
        self.known.load().membership.get_node(&id).cloned()
    }

    /// Takes note of the cluster's id and the members.
    pub fn learn(&self, cluster: String, membership: Membership) {
        self.known.store(Arc::new(Known { cluster, membership }));
    }

    /// What a call to `callee` carries.
    pub fn caller(&self, callee: ReplicaId, member: Option<&Member>) -> peer::Caller {
        peer::Caller {
            cluster_id: self.cluster(),
            replica_id: self.identity.replica,
            store_id: self.identity.store.to_string(),
            callee_id: callee,
            callee_store_id: member.map_or_else(String::new, |member| member.store_id.to_string()),
        }
    }

    /// Checks who calls, and that this is whom they mean.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` naming what differs.
    pub fn check(&self, caller: Option<&peer::Caller>) -> Result<ReplicaId, Status> {
        let caller = caller.ok_or_else(|| Status::invalid_argument("the call does not say who calls"))?;
        let wrong = |text: String| Err(Status::failed_precondition(text));
        let me = self.identity;
        if caller.callee_id != me.replica {
            return wrong(format!("this is replica {}, not {}", me.replica, caller.callee_id));
        }
        if !caller.callee_store_id.is_empty() && caller.callee_store_id != me.store.to_string() {
            return wrong(format!("this is store {}, the member was {}", me.store, caller.callee_store_id));
        }
        let known = self.known.load();
        if !known.cluster.is_empty() && !caller.cluster_id.is_empty() && known.cluster != caller.cluster_id {
            return wrong(format!("this is cluster {}, not {}", known.cluster, caller.cluster_id));
        }
        match known.membership.get_node(&caller.replica_id) {
            Some(member) if member.store_id.to_string() != caller.store_id => {
                wrong(format!("replica {} was admitted with store {}", caller.replica_id, member.store_id))
            }
            None if known.membership.nodes().next().is_some() => {
                wrong(format!("replica {} is no member", caller.replica_id))
            }
            Some(_) | None => Ok(caller.replica_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::raft::types::StoreId;

    fn party(replica: ReplicaId, store: u128) -> Parties {
        Parties::new(Identity { replica, store: StoreId(store) })
    }

    fn member(store: u128) -> Member {
        Member { store_id: StoreId(store), ..Default::default() }
    }

    #[test]
    fn only_the_admitted_stores_talk() {
        let nodes = BTreeMap::from([(1, member(11)), (2, member(22))]);
        let membership = Membership::new(vec![BTreeSet::from([1, 2])], nodes).unwrap();
        let two = party(2, 22);
        let call = |from: &Parties, to, store| two.check(Some(&from.caller(to, Some(&member(store)))));
        assert_eq!(call(&party(1, 99), 2, 22).unwrap(), 1, "before the first membership everybody may call");
        two.learn("c".into(), membership.clone());
        assert_eq!(call(&party(1, 11), 2, 22).unwrap(), 1);
        assert!(call(&party(1, 99), 2, 22).is_err(), "the caller lost its store");
        assert!(call(&party(1, 11), 2, 99).is_err(), "the callee lost the store that is meant");
        assert!(call(&party(1, 11), 3, 22).is_err(), "another replica is meant");
        assert!(call(&party(4, 44), 2, 22).is_err(), "no member");
        let other = party(1, 11);
        other.learn("d".into(), membership);
        assert!(call(&other, 2, 22).is_err(), "another cluster");
        assert!(two.check(None).is_err());
    }
}
