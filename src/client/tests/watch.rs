//! A watch goes on where it broke, shows nothing twice and skips nothing in silence.

mod fake;

use std::time::Duration;

use fake::{Replica, error, header};
use remuda_client::wire::v1;
use remuda_client::{Client, From, Part, WatchOptions};
use tonic::{Code, Status};

fn events(revision: u64) -> Result<v1::WatchEventsResponse, Status> {
    let event = |ordinal| v1::Event { revision, ordinal, ..Default::default() };
    Ok(v1::WatchEventsResponse {
        header: header(revision),
        events: vec![event(0), event(1)],
        resume_token: format!("t{revision}"),
        ..Default::default()
    })
}

fn bookmark(revision: u64) -> Result<v1::WatchEventsResponse, Status> {
    Ok(v1::WatchEventsResponse {
        header: header(revision),
        bookmark: true,
        resume_token: format!("t{revision}"),
        ..Default::default()
    })
}

fn options(from: From, no_follow: bool) -> WatchOptions {
    WatchOptions { from, no_follow, ..Default::default() }
}

async fn next(changes: &mut remuda_client::Changes) -> Option<Result<Part, remuda_client::Error>> {
    tokio::time::timeout(Duration::from_secs(10), changes.next()).await.expect("the watch goes on")
}

fn revision(part: Option<Result<Part, remuda_client::Error>>) -> u64 {
    match part {
        Some(Ok(Part::Events { events, .. })) => events[0].revision,
        other => panic!("expected events, got {other:?}"),
    }
}

#[tokio::test]
async fn a_broken_stream_goes_on_elsewhere_with_the_last_token() {
    let (a, b) = (Replica::start().await, Replica::start().await);
    for replica in [&a, &b] {
        replica.scripts.watch.set(|request, _| match request.resume_token.as_str() {
            "" => Ok(vec![events(5), events(6), Err(error(Code::Unavailable, "SHUTTING_DOWN", "absent"))]),
            // One that shows a revision again is wrong; the caller must not see it.
            "t6" => Ok(vec![events(6), events(7), bookmark(9)]),
            other => panic!("an unknown token {other}"),
        });
    }
    let client = Client::new([a.url(), b.url()]).unwrap();
    let mut changes = client.watch(options(From::Revision(5), false));
    for expected in [5, 6, 7] {
        assert_eq!(revision(next(&mut changes).await), expected);
    }
    assert!(matches!(next(&mut changes).await, Some(Ok(Part::Bookmark { revision: 9, .. }))));
    assert_eq!(changes.token(), Some("t9"));
    let (at_a, at_b) = (a.scripts.watch.seen(), b.scripts.watch.seen());
    assert_eq!((at_a.len(), at_b.len()), (1, 1), "the one that broke off was left");
    let (first, second) = if at_a[0].resume_token.is_empty() { (&at_a[0], &at_b[0]) } else { (&at_b[0], &at_a[0]) };
    assert_eq!((first.start_revision, second.start_revision, second.min_revision), (5, 0, 6));
}

#[tokio::test]
async fn what_is_gone_is_said() {
    let a = Replica::start().await;
    a.scripts.watch.set(|_, _| Err(error(Code::OutOfRange, "REVISION_COMPACTED", "absent")));
    let client = Client::new([a.url()]).unwrap();
    let mut changes = client.watch(options(From::Revision(1), false));
    let failed = next(&mut changes).await.expect("an error").expect_err("an error");
    assert!(failed.is("REVISION_COMPACTED"));
    assert!(next(&mut changes).await.is_none(), "and nothing follows");
}

#[tokio::test]
async fn from_now_on_begins_where_now_was_though_the_first_stream_breaks() {
    let a = Replica::start().await;
    a.scripts.list_pools.set(|_, _| Ok(v1::ListPoolsResponse { header: header(41), ..Default::default() }));
    a.scripts.watch.set(|_, before| match before {
        0 => Ok(vec![Err(Status::unavailable("gone"))]),
        _ => Ok(vec![events(42)]),
    });
    let client = Client::new([a.url()]).unwrap();
    let mut changes = client.watch(options(From::Now, false));
    assert_eq!(revision(next(&mut changes).await), 42);
    let starts: Vec<_> = a.scripts.watch.seen().iter().map(|r| r.start_revision).collect();
    assert_eq!(starts, [42, 42]);
    assert_eq!(a.scripts.list_pools.seen().len(), 1);
}

#[tokio::test]
async fn a_slow_consumer_resumes_after_what_it_got() {
    let a = Replica::start().await;
    a.scripts.watch.set(|request, _| match request.resume_token.as_str() {
        "" => Ok(vec![events(5), Err(error(Code::ResourceExhausted, "SLOW_CONSUMER", "absent"))]),
        _ => Ok(vec![events(6)]),
    });
    let client = Client::new([a.url()]).unwrap();
    let mut changes = client.watch(options(From::Revision(5), false));
    assert_eq!(revision(next(&mut changes).await), 5);
    assert_eq!(revision(next(&mut changes).await), 6);
}

#[tokio::test]
async fn one_that_does_not_follow_ends() {
    let a = Replica::start().await;
    a.scripts.watch.set(|_, _| Ok(vec![events(5), bookmark(8)]));
    let client = Client::new([a.url()]).unwrap();
    let mut changes = client.watch(options(From::Revision(1), true));
    assert_eq!(revision(next(&mut changes).await), 5);
    assert!(matches!(next(&mut changes).await, Some(Ok(Part::Bookmark { revision: 8, .. }))));
    assert!(next(&mut changes).await.is_none());
}

#[tokio::test]
async fn workers_that_broke_off_begin_anew_and_say_so() {
    let a = Replica::start().await;
    let workers = |n| {
        Ok(v1::WatchEventsResponse { header: header(4), initial: vec![v1::Worker::default(); n], ..Default::default() })
    };
    a.scripts.watch.set(move |request, before| {
        assert!(request.send_initial);
        match before {
            0 => Ok(vec![workers(2), workers(1), Err(Status::unavailable("gone"))]),
            _ => Ok(vec![workers(3), bookmark(4)]),
        }
    });
    let client = Client::new([a.url()]).unwrap();
    let mut changes = client.watch(options(From::Workers, false));
    let mut firsts = Vec::new();
    while let Some(Ok(Part::Workers { workers, first })) = next(&mut changes).await {
        firsts.push((workers.len(), first));
    }
    assert_eq!(firsts, [(2, true), (1, false), (3, true)]);
    assert_eq!(changes.token(), Some("t4"));
}
