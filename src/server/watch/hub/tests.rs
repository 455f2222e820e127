//! The ring, the inboxes, and what order the head keeps.

use std::time::Duration;

use remuda_registry::{AgentId, Digest, LogTime};

use super::*;

fn event(fact: Fact) -> Event {
    Event { at: LogTime(1), wall_ms: 1, term: 1, fact }
}

fn ended(session: u64) -> Event {
    event(Fact::SessionEnded { agent: AgentId::from("agent-01"), session: SessionId(session) })
}

fn publish(hub: &Hub, revision: u64, events: Vec<Event>) {
    hub.published(Published {
        revision: Revision(revision),
        term: 1,
        log_time: LogTime(1),
        digest: Digest::default(),
        events: events.into(),
    });
}

fn revisions(since: Since) -> (Vec<u64>, u64) {
    match since {
        Since::Batches { batches, through } => (batches.iter().map(|b| b.revision.0).collect(), through.0),
        Since::Earlier => panic!("the ring begins later"),
    }
}

#[test]
fn a_watcher_resumes_where_it_stopped() {
    let hub = Hub::new(100);
    for revision in 1..=10 {
        publish(&hub, revision, if revision % 2 == 0 { vec![ended(revision)] } else { Vec::new() });
    }
    assert_eq!(revisions(hub.since(Revision(1), 100)), (vec![2, 4, 6, 8, 10], 10));
    assert_eq!(revisions(hub.since(Revision(5), 2)), (vec![6, 8], 8));
    assert_eq!(revisions(hub.since(Revision(9), 2)), (vec![10], 10));
    assert_eq!(revisions(hub.since(Revision(11), 2)), (vec![], 10));
    publish(&hub, 11, Vec::new());
    assert_eq!(revisions(hub.since(Revision(11), 2)), (vec![], 11));
}

#[test]
fn what_left_the_ring_is_said_to_be_earlier() {
    let hub = Hub::new(3);
    for revision in 1..=5 {
        publish(&hub, revision, vec![ended(revision)]);
    }
    assert!(matches!(hub.since(Revision(2), 10), Since::Earlier));
    assert_eq!(revisions(hub.since(Revision(3), 10)), (vec![3, 4, 5], 5));
    assert_eq!(hub.behind(Revision(2)), (3, true));
    assert_eq!(hub.behind(Revision(5)), (1, false));
}

#[test]
fn a_batch_stays_whole_or_leaves_whole() {
    let hub = Hub::new(3);
    publish(&hub, 1, vec![ended(1), ended(2)]);
    publish(&hub, 2, vec![ended(3), ended(4)]);
    assert!(matches!(hub.since(Revision(1), 10), Since::Earlier));
    assert_eq!(revisions(hub.since(Revision(2), 10)), (vec![2], 2));
}

#[tokio::test]
async fn only_those_who_wait_for_a_key_are_woken() {
    let hub = Hub::new(10);
    let mine = hub.inbox(vec![Key::Session(SessionId(1))]);
    let other = hub.inbox(vec![Key::Session(SessionId(2)), Key::Waiter(WaiterId(2))]);
    publish(&hub, 1, vec![ended(1)]);
    let woken = tokio::time::timeout(Duration::from_secs(5), mine.next()).await.unwrap();
    assert_eq!(woken, BTreeSet::from([Key::Session(SessionId(1))]));
    assert!(other.take().is_empty());
    assert!(mine.take().is_empty());
}

#[tokio::test]
async fn a_jump_wakes_everyone() {
    let hub = Hub::new(10);
    publish(&hub, 1, vec![ended(9)]);
    let inbox = hub.inbox(vec![Key::Session(SessionId(1)), Key::Session(SessionId(2))]);
    hub.jumped(Revision(50));
    let woken = tokio::time::timeout(Duration::from_secs(5), inbox.next()).await.unwrap();
    assert_eq!(woken.len(), 2);
    assert!(matches!(hub.since(Revision(50), 1), Since::Earlier));
    assert_eq!(revisions(hub.since(Revision(51), 1)), (vec![], 50));
}

#[test]
fn a_dropped_inbox_leaves_nothing_behind() {
    let hub = Hub::new(10);
    drop(hub.inbox(vec![Key::Session(SessionId(1))]));
    assert!(hub.inboxes.lock().is_empty());
}
