//! What a client sends, and what it makes of the answers: retries, ids, hints, leases, returns.

mod fake;

use std::time::Duration;

use fake::{Replica, error, error_with, header};
use remuda_client::wire::v1;
use remuda_client::{Acquire, Client, Lease, LeaseKey, Outcome, Patience, Secret, WorkerReturnError};
use tonic::Code;

const WORKER: &str = "pools/ci/workers/w-1";

/// Waits until `holds`, and fails after five seconds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), wait).await.unwrap_or_else(|_| panic!("waited for {what}"));
}

fn granted(seconds: i64) -> v1::RenewalResult {
    v1::RenewalResult {
        granted: Some(prost_types::Duration { seconds, nanos: 0 }),
        renew_after: Some(prost_types::Duration { seconds: seconds / 3, nanos: 0 }),
        ..Default::default()
    }
}

fn renew_all(replica: &Replica, seconds: i64) {
    replica.scripts.renew.set(move |request, _| {
        let results = request.renewals.iter().map(|r| v1::RenewalResult {
            worker: r.worker.clone(),
            epoch: r.epoch,
            ..granted(seconds)
        });
        Ok(v1::RenewLeasesResponse { header: header(3), results: results.collect() })
    });
}

fn lease(epoch: u64) -> v1::AcquireWorkerResponse {
    let lease = v1::Lease { worker: WORKER.into(), epoch, granted_revision: 2, ..Default::default() };
    v1::AcquireWorkerResponse { header: header(2), lease: Some(lease), waited: false }
}

fn key(worker: &str) -> LeaseKey {
    LeaseKey {
        worker: worker.parse().unwrap(),
        job: "j".parse().unwrap(),
        epoch: 7,
        secret: Secret::random(),
        granted_revision: 1,
        execution_endpoint: String::new(),
    }
}

fn return_request() -> v1::ReturnWorkerRequest {
    v1::ReturnWorkerRequest { worker: WORKER.into(), ..Default::default() }
}

#[tokio::test]
async fn a_retry_goes_elsewhere_under_the_same_request_id() {
    let (a, b) = (Replica::start().await, Replica::start().await);
    for replica in [&a, &b] {
        replica.scripts.give_back.set(|_, _| Err(error(Code::Unavailable, "NO_LEADER", "absent")));
    }
    let client = Client::new([a.url(), b.url()]).unwrap();
    let tried = client.write_with(Patience::within(Duration::from_millis(400)), return_request()).await;
    let failed = tried.unwrap_err();
    assert_eq!((failed.reason(), failed.outcome()), ("NO_LEADER", Outcome::Absent));
    let (at_a, at_b) = (a.scripts.give_back.seen(), b.scripts.give_back.seen());
    assert!(!at_a.is_empty() && !at_b.is_empty(), "both were tried");
    let mut options: Vec<_> = at_a.into_iter().chain(at_b).map(|r| r.request.unwrap()).collect();
    options.sort_by_key(|o| o.attempt);
    assert!(
        options.iter().all(|o| (&o.request_id, o.not_after_ms) == (&options[0].request_id, options[0].not_after_ms))
    );
    assert_eq!(options.iter().map(|o| o.attempt).collect::<Vec<_>>(), (1..=options.len() as u32).collect::<Vec<_>>());
    assert!(options[0].not_after_ms >= 1_060_000, "log time and the window");
}

#[tokio::test]
async fn the_next_request_says_what_was_answered() {
    let a = Replica::start().await;
    a.scripts.give_back.set(|_, _| Ok(v1::ReturnWorkerResponse { header: header(2), return_name: "r".into() }));
    let client = Client::new([a.url()]).unwrap();
    for _ in 0..2 {
        client.write(return_request()).await.unwrap();
    }
    let options: Vec<_> = a.scripts.give_back.seen().into_iter().map(|r| r.request.unwrap()).collect();
    assert_eq!(options.iter().map(|o| o.answered_below).collect::<Vec<_>>(), [1, 2]);
    assert_ne!(options[0].request_id, options[1].request_id);
    assert_eq!(a.scripts.time.seen().len(), 1, "log time was heard with the first answer");
}

#[tokio::test]
async fn a_decision_is_final() {
    let (a, b) = (Replica::start().await, Replica::start().await);
    for replica in [&a, &b] {
        replica.scripts.give_back.set(|_, _| Err(error(Code::FailedPrecondition, "STALE_LEASE", "absent")));
    }
    let client = Client::new([a.url(), b.url()]).unwrap();
    assert!(client.write(return_request()).await.unwrap_err().is("STALE_LEASE"));
    assert_eq!(a.scripts.give_back.seen().len() + b.scripts.give_back.seen().len(), 1);
}

#[tokio::test]
async fn a_decision_after_a_lost_answer_is_believed_unless_the_request_was_forgotten() {
    for (reason, outcome) in [("STALE_LEASE", Outcome::Absent), ("REQUEST_TOO_OLD", Outcome::Unknown)] {
        let a = Replica::start().await;
        a.scripts.give_back.set(move |_, before| match before {
            0 => Err(error(Code::Unavailable, "OUTCOME_UNKNOWN", "unknown")),
            _ => Err(error(Code::FailedPrecondition, reason, "absent")),
        });
        let client = Client::new([a.url()]).unwrap();
        let failed = client.write(return_request()).await.unwrap_err();
        assert_eq!((failed.reason(), failed.outcome()), (reason, outcome));
    }
}

#[tokio::test]
async fn what_may_have_happened_is_unknown_and_what_was_never_sent_is_absent() {
    let a = Replica::start().await;
    a.scripts.give_back.set(|_, _| Err(error(Code::Unavailable, "OUTCOME_UNKNOWN", "unknown")));
    let client = Client::new([a.url()]).unwrap();
    let brief = || Patience::within(Duration::from_millis(200));
    assert_eq!(client.write_with(brief(), return_request()).await.unwrap_err().outcome(), Outcome::Unknown);

    let gone = Replica::start().await.url();
    until("the port to be closed", || std::net::TcpStream::connect(gone.trim_start_matches("http://")).is_err()).await;
    let client = Client::new([gone]).unwrap();
    let failed = client.ask_with(brief().with_effect(), v1::GetTimeRequest {}).await.unwrap_err();
    assert_eq!((failed.reason(), failed.outcome()), ("UNREACHABLE", Outcome::Absent));
}

#[tokio::test]
async fn a_dead_replica_is_passed_over() {
    let gone = Replica::start().await.url();
    let a = Replica::start().await;
    let client = Client::new([gone, a.url()]).unwrap();
    for _ in 0..4 {
        client.ask(v1::GetTimeRequest {}).await.unwrap();
    }
    assert_eq!(a.scripts.time.seen().len(), 4);
}

#[tokio::test]
async fn an_answer_tells_where_the_leader_is() {
    let (a, leader) = (Replica::start().await, Replica::start().await);
    let told = v1::ResponseHeader {
        leader_endpoint: leader.address.to_string(),
        leader_term: 3,
        log_time_ms: 1,
        ..Default::default()
    };
    a.scripts.time.set(move |_, _| Ok(v1::GetTimeResponse { header: Some(told.clone()) }));
    let client = Client::new([a.url()]).unwrap();
    client.ask(v1::GetTimeRequest {}).await.unwrap();
    client.ask(v1::GetTimeRequest {}).await.unwrap();
    assert_eq!((a.scripts.time.seen().len(), leader.scripts.time.seen().len()), (1, 1));
}

#[tokio::test]
async fn a_dropped_waiter_queues_again_under_a_new_id_and_a_grant_is_claimed() {
    let a = Replica::start().await;
    a.scripts.acquire.set(|_, before| match before {
        0 => Err(error(Code::Aborted, "WAITER_DROPPED", "absent")),
        _ => Ok(v1::AcquireWorkerResponse { waited: true, ..lease(9) }),
    });
    renew_all(&a, 30);
    let client = Client::new([a.url()]).unwrap();
    let asked = Acquire::new("pools/ci", "j".parse().unwrap()).wait(Duration::from_secs(20));
    let lease = client.acquire(&asked).await.unwrap();
    assert_eq!(lease.epoch(), 9);
    assert!(lease.standing().held_until.is_some(), "claimed before it was given out");
    let ids: Vec<_> = a.scripts.acquire.seen().into_iter().map(|r| r.request.unwrap().request_id).collect();
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
    assert!(a.scripts.cancel.seen().is_empty());
}

#[tokio::test]
async fn a_dropped_acquire_is_cancelled_by_its_id() {
    let a = Replica::start().await;
    *a.scripts.acquire_takes.lock().unwrap() = Duration::from_secs(60);
    a.scripts.acquire.set(|_, _| Ok(lease(9)));
    a.scripts.cancel.set(|_, _| Ok(v1::CancelAcquireResponse { header: header(3), met: "WAITER".into() }));
    let client = Client::new([a.url()]).unwrap();
    let asked = Acquire::new("pools/ci", "j".parse().unwrap()).wait(Duration::from_secs(30));
    let acquiring = tokio::spawn({
        let client = client.clone();
        async move { client.acquire(&asked).await.map(|_| ()) }
    });
    until("the acquire to be sent", || a.scripts.acquire.seen().len() == 1).await;
    acquiring.abort();
    until("the cancel", || a.scripts.cancel.seen().len() == 1).await;
    let acquired = a.scripts.acquire.seen()[0].request.clone().unwrap();
    let cancelled = &a.scripts.cancel.seen()[0];
    assert_eq!(cancelled.acquire_request_id, acquired.request_id);
    assert_eq!(cancelled.acquire_not_after_ms, acquired.not_after_ms);
}

#[tokio::test]
async fn an_acquire_that_was_cancelled_is_absent_unless_its_lease_is_held() {
    for (met, outcome) in [("WAITER", Outcome::Absent), ("HELD", Outcome::Unknown)] {
        let a = Replica::start().await;
        // An unknown outcome that no other attempt mends: something on the way decides.
        a.scripts.acquire.set(|_, _| Err(error(Code::Internal, "INTERNAL", "unknown")));
        a.scripts.cancel.set(move |_, _| Ok(v1::CancelAcquireResponse { header: header(3), met: met.into() }));
        let client = Client::new([a.url()]).unwrap();
        let failed = client.acquire(&Acquire::new("pools/ci", "j".parse().unwrap())).await.unwrap_err();
        assert_eq!((failed.reason(), failed.outcome()), ("INTERNAL", outcome));
        assert_eq!(a.scripts.cancel.seen().len(), 1);
    }
}

#[tokio::test]
async fn all_leases_are_renewed_in_one_call_and_the_holder_is_told_of_the_end() {
    let a = Replica::start().await;
    renew_all(&a, 2);
    let client = Client::new([a.url()]).unwrap();
    let mut first = client.hold(key(WORKER));
    let second = client.hold(key("pools/ci/workers/w-2"));
    until("both to be renewed in one call", || a.scripts.renew.seen().iter().any(|r| r.renewals.len() == 2)).await;
    until("belief", || second.standing().held_until.is_some()).await;
    a.scripts.renew.set(|request, _| {
        let result = |r: &v1::Renewal| match r.worker.as_str() {
            WORKER => v1::RenewalResult { refused: "LEASE_ENDED".into(), ..named(r) },
            _ => v1::RenewalResult { interrupted: true, ..named(r) },
        };
        Ok(v1::RenewLeasesResponse { header: header(4), results: request.renewals.iter().map(result).collect() })
    });
    let ended = tokio::time::timeout(Duration::from_secs(5), first.ended()).await.unwrap();
    assert_eq!(ended.reason, "LEASE_ENDED");
    until("the other to be told", || second.standing().interrupted).await;
    assert_eq!(second.standing().ended, None);
}

fn named(renewal: &v1::Renewal) -> v1::RenewalResult {
    v1::RenewalResult { worker: renewal.worker.clone(), epoch: renewal.epoch, ..granted(2) }
}

#[tokio::test]
async fn renewal_ends_with_the_last_handle() {
    let a = Replica::start().await;
    renew_all(&a, 1);
    let client = Client::new([a.url()]).unwrap();
    let lease: Lease = client.hold(key(WORKER));
    until("a renewal", || !a.scripts.renew.seen().is_empty()).await;
    drop(client);
    let sent = a.scripts.renew.seen().len();
    // Three times the interval: a task that went on would have sent by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(a.scripts.renew.seen().len() <= sent + 1, "at most the one under way");
    drop(lease);
}

fn ended(result: v1::r#return::Result, reason: &str) -> v1::GetReturnResponse {
    let ret = v1::Return { result: result.into(), reason: reason.into(), ..Default::default() };
    v1::GetReturnResponse { header: header(9), ret: Some(ret) }
}

async fn returned(result: v1::r#return::Result, reason: &'static str) -> Result<(), WorkerReturnError> {
    let a = Replica::start().await;
    renew_all(&a, 30);
    let name = format!("{WORKER}/returns/7");
    a.scripts.give_back.set(move |_, _| Ok(v1::ReturnWorkerResponse { header: header(8), return_name: name.clone() }));
    a.scripts.get_return.set(move |_, before| match before {
        0 => Ok(ended(v1::r#return::Result::Unspecified, "")),
        _ => Ok(ended(result, reason)),
    });
    let client = Client::new([a.url()]).unwrap();
    let lease = client.hold(key(WORKER));
    let done = client.return_worker_to_pool(lease.worker(), lease.job()).await;
    assert_eq!(lease.standing().ended.map(|e| e.reason).as_deref(), Some("RETURNED"));
    let sent = &a.scripts.give_back.seen()[0];
    assert_eq!((sent.epoch, &sent.secret[..]), (7, &lease.key().secret.bytes()[..]));
    let again = client.return_worker_to_pool(lease.worker(), lease.job()).await;
    assert!(matches!(again, Err(WorkerReturnError::NotHeld { .. })));
    done
}

#[tokio::test]
async fn a_return_ends_as_its_receipt_says() {
    use v1::r#return::Result as Ended;
    assert!(returned(Ended::Accepted, "").await.is_ok());
    assert!(returned(Ended::Retired, "SPENT").await.is_ok());
    assert!(matches!(returned(Ended::Lost, "").await, Err(WorkerReturnError::Lost { .. })));
    match returned(Ended::Maintenance, "DISK_LOW").await {
        Err(WorkerReturnError::Maintenance { return_name, reason, .. }) => {
            assert_eq!((return_name.as_str(), reason.as_str()), ("pools/ci/workers/w-1/returns/7", "DISK_LOW"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_return_whose_first_answer_is_kept_no_more_is_known_by_how_the_lease_ended() {
    for (job, expected) in [("j", true), ("another", false)] {
        let a = Replica::start().await;
        renew_all(&a, 30);
        a.scripts.give_back.set(move |_, _| {
            let facts = [("cause", "RETURNED"), ("job_id", job), ("return", "pools/ci/workers/w-1/returns/7")];
            Err(error_with(Code::FailedPrecondition, "LEASE_ENDED", "absent", &facts))
        });
        let client = Client::new([a.url()]).unwrap();
        let begun = client.begin_return(&key(WORKER), v1::JobOutcome::Success).await;
        assert_eq!(begun.as_deref().ok(), expected.then_some("pools/ci/workers/w-1/returns/7"), "{begun:?}");
    }
}

#[tokio::test]
async fn a_stale_lease_is_no_return() {
    let a = Replica::start().await;
    renew_all(&a, 30);
    a.scripts.give_back.set(|_, _| Err(error(Code::FailedPrecondition, "STALE_LEASE", "absent")));
    let client = Client::new([a.url()]).unwrap();
    let lease = client.hold(key(WORKER));
    let done = client.return_worker_to_pool(lease.worker(), lease.job()).await;
    assert!(matches!(done, Err(WorkerReturnError::Stale(_))), "{done:?}");
}
