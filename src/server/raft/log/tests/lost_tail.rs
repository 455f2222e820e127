//! A leader loses the end of its log that it had already sent, and comes back at once.
//!
//! A leader sends entries while it writes them itself, and two followers are a quorum: what they acknowledge is committed
//! even if the leader dies before its own sync. With openraft's default, `enable_leader_restore`, a leader that restarts
//! goes on under its old vote without an election, at the end of its *local* log: it gives the log id of the committed
//! entry to another one. The followers compare log ids, find that they have it, and acknowledge. Nobody notices.
//!
//! So Remuda turns leader restore off, and the restarted replica must be elected or follow. Both are run here, with real
//! logs and a network of function calls. If the first one ever stops diverging, openraft has closed the hole.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::Config;
use openraft::OptionalSend;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::machine::{Content, Machine};
use super::open;
use crate::raft::log::LogStore;
use crate::raft::types::{Identity, Member, Payload, ReplicaId, StoreId, TypeConfig};

type Raft = openraft::Raft<TypeConfig, Machine>;

/// Who can be reached.
#[derive(Clone, Default)]
struct Switchboard {
    replicas: Arc<Mutex<BTreeMap<ReplicaId, Raft>>>,
}

struct Line {
    switchboard: Switchboard,
    target: ReplicaId,
}

impl Line {
    fn raft(&self) -> Result<Raft, Unreachable<TypeConfig>> {
        let raft = self.switchboard.replicas.lock().get(&self.target).cloned();
        raft.ok_or_else(|| Unreachable::new(&io::Error::other("the replica is down")))
    }
}

fn lost(error: impl std::error::Error + 'static) -> Unreachable<TypeConfig> {
    Unreachable::new(&error)
}

impl RaftNetworkFactory<TypeConfig> for Switchboard {
    type Network = Line;

    async fn new_client(&mut self, target: ReplicaId, _: &Member) -> Line {
        Line { switchboard: self.clone(), target }
    }
}

impl RaftNetworkV2<TypeConfig> for Line {
    type SnapshotData = Content;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self.raft()?.append_entries(request).await.map_err(lost)?)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self.raft()?.vote(request).await.map_err(lost)?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self.raft()?.pre_vote(request).await.map_err(lost)?)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, Content>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Ok(self.raft()?.install_full_snapshot(vote, snapshot).await.map_err(lost)?)
    }
}

struct Replica {
    raft: Raft,
    log: LogStore,
    machine: Machine,
}

/// Starts a replica on the log in `folder`. It does not stand for election until it is told to.
async fn start(id: ReplicaId, folder: &Path, switchboard: &Switchboard, restore: bool) -> Replica {
    let config = Config {
        heartbeat_interval: 50,
        election_timeout_min: 300,
        election_timeout_max: 600,
        enable_pre_vote: Some(true),
        enable_elect: false,
        enable_leader_restore: Some(restore),
        ..Config::default()
    };
    let log = open_when_free(folder).await;
    let machine = Machine::default();
    let config = Arc::new(config.validate().unwrap());
    let raft = Raft::new(id, config, switchboard.clone(), log.clone(), machine.clone()).await.unwrap();
    switchboard.replicas.lock().insert(id, raft.clone());
    Replica { raft, log, machine }
}

/// The tasks of a stopped replica let go of its log one after the other.
async fn open_when_free(folder: &Path) -> LogStore {
    let deadline = Instant::now() + LONG;
    loop {
        match open(folder) {
            Ok(log) => return log,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const LONG: Duration = Duration::from_secs(30);

async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "no end of waiting for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn payloads(replica: &Replica) -> Vec<String> {
    let content = replica.machine.content();
    let text = |payload: &Payload| String::from_utf8(payload.bytes().to_vec()).unwrap();
    content.payloads.iter().map(|(id, payload)| format!("{}: {}", id.index, text(payload))).collect()
}

/// Writes at whichever of `replicas` leads, again until one accepts it.
async fn write(replicas: &[&Replica], text: &str) {
    let deadline = Instant::now() + LONG;
    loop {
        for replica in replicas {
            let payload = Payload::from(text.as_bytes().to_vec());
            let write = replica.raft.client_write(payload);
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(5), write).await {
                return;
            }
        }
        assert!(Instant::now() < deadline, "nobody accepts {text:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the restarted leader and a follower applied in the end.
async fn lose_the_tail(restore: bool) -> (Vec<String>, Vec<String>) {
    let folders: Vec<TempDir> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let switchboard = Switchboard::default();
    let mut replicas = Vec::new();
    for (id, folder) in (1..).zip(&folders) {
        LogStore::create(folder.path(), Identity { replica: id, store: StoreId(id.into()) }).unwrap();
        replicas.push(start(id, folder.path(), &switchboard, restore).await);
    }
    let members = (1..=3).map(|id: ReplicaId| (id, Member { store_id: StoreId(id.into()), ..Member::default() }));
    replicas[0].raft.initialize(members.collect::<BTreeMap<_, _>>()).await.unwrap();
    replicas[0].raft.trigger().elect(false).await.unwrap();
    write(&[&replicas[0]], "kept").await;
    let leader = replicas.remove(0);
    wait_for("the first entry everywhere", || replicas.iter().all(|replica| payloads(replica) == payloads(&leader)))
        .await;
    wait_for("the leader's log on disk", || leader.log.handle().stalled_for().is_none()).await;

    // The leader's disk is slow from here on: what it sends, it has not written.
    leader.log.lose_what_is_not_written();
    let write_slowly = tokio::spawn({
        let raft = leader.raft.clone();
        async move { raft.client_write(Payload::from(b"committed".to_vec())).await.map(drop).map_err(drop) }
    });
    let committed = |replica: &Replica| payloads(replica).iter().any(|text| text.ends_with(": committed"));
    wait_for("a commit by the followers", || replicas.iter().all(committed)).await;

    // It dies and comes back before anybody else stands for election.
    switchboard.replicas.lock().remove(&1);
    write_slowly.abort();
    leader.raft.shutdown().await.unwrap();
    drop(leader);
    let back = start(1, folders[0].path(), &switchboard, restore).await;
    if restore {
        write(&[&back], "another").await;
    } else {
        replicas.iter().chain([&back]).for_each(|replica| replica.raft.runtime_config().elect(true));
        write(&[&replicas[0], &replicas[1], &back], "another").await;
    }
    let another = |replica: &Replica| payloads(replica).iter().any(|text| text.ends_with(": another"));
    wait_for("the next entry at the restarted replica", || another(&back)).await;
    if !restore {
        wait_for("the next entry everywhere", || replicas.iter().all(another)).await;
        assert_eq!(payloads(&replicas[0]), payloads(&replicas[1]), "the two followers");
    }
    let end = (payloads(&back), payloads(&replicas[0]));
    for replica in replicas.iter().chain([&back]) {
        replica.raft.shutdown().await.unwrap();
    }
    end
}

fn run(restore: bool) -> (Vec<String>, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(lose_the_tail(restore))
}

#[test]
fn without_leader_restore_a_lost_tail_comes_back_from_the_others() {
    let (restarted, follower) = run(false);
    assert_eq!(restarted, follower);
    let texts: Vec<&str> = restarted.iter().filter_map(|text| text.split(": ").nth(1)).collect();
    assert_eq!(texts, ["kept", "committed", "another"], "what was committed stays, what comes later follows");
}

#[test]
fn with_leader_restore_replicas_diverge() {
    let (restarted, follower) = run(true);
    println!("restarted leader: {restarted:?}\nfollower: {follower:?}");
    let index = |log: &[String], text: &str| log.iter().find_map(|entry| entry.strip_suffix(text).map(str::to_owned));
    let (left, right) = (index(&restarted, ": another"), index(&follower, ": committed"));
    assert!(left.is_some() && left == right, "the same index, two entries: {restarted:?} and {follower:?}");
}
