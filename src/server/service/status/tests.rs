//! Every reason becomes a status with all that the API promises.

use remuda_registry::{Revision, WorkerId};
use remuda_wire::reasons::ALL;

use super::*;

fn header() -> ResponseHeader {
    ResponseHeader {
        cluster_id: "c".into(),
        revision: 7,
        term: 3,
        served_by: 2,
        leader_endpoint: "h:1".into(),
        leader_term: 3,
        log_time_ms: 9,
        stale: false,
    }
}

#[test]
fn every_error_says_where_when_and_whether_it_happened() {
    for reason in ALL {
        let status = Failure::new(reason, "words").status(&header());
        assert_eq!(status.code(), reason.code, "{}", reason.name);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.name, DOMAIN));
        for key in ["outcome", "revision", "term", "served_by", "leader_endpoint"] {
            assert!(info.metadata.contains_key(key), "{} lacks {key}", reason.name);
        }
        assert_eq!(info.metadata["outcome"] == "unknown", reason.effect == Effect::Unknown);
        assert_eq!(details.retry_info().is_some(), reason.retry_after_ms > 0);
        assert_eq!(details.precondition_failure().is_some(), reason.code == Code::FailedPrecondition);
        assert!(details.help().is_some());
    }
}

#[test]
fn all_violations_are_told() {
    let mut found = Violations::default();
    found.add("a", "too small");
    found.add("b.c", "too big");
    let status = Failure::from(found).status(&header());
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|v| v.field.clone()).collect();
    assert_eq!(fields, ["a", "b.c"]);
}

#[test]
fn a_newer_hint_replaces_an_older_one_and_never_the_other_way() {
    let hint = |term| LeaderHint { id: remuda_registry::ReplicaId(3), client: "new:1".into(), term };
    let leader = |term| {
        let status = Failure::from(ProposeError::NoLeader { hint: Some(hint(term)) }).status(&header());
        status.get_error_details().error_info().unwrap().metadata["leader_endpoint"].clone()
    };
    assert_eq!(leader(4), "new:1");
    assert_eq!(leader(2), "h:1");
}

#[test]
fn a_stale_caller_hears_what_superseded_it() {
    let worker = WorkerId::new("ci", "w");
    let refusal = Refusal::StaleLease {
        worker,
        presented: remuda_registry::Token(3),
        current: remuda_registry::Token(9),
        state: remuda_registry::worker::StateKind::Busy,
        job: Some("j".into()),
    };
    let status = Failure::from(refusal).status(&header());
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.metadata["current_token"], "9");
    assert_eq!(info.metadata["job_id"], "j");
    assert_eq!(details.resource_info().unwrap().resource_name, "pools/ci/workers/w");
}

#[test]
fn a_refusal_given_before_keeps_its_code() {
    let code = remuda_registry::RefusalCode::PoolExists;
    let failure = Failure::from(Refusal::RefusedBefore { code, revision: Revision(5) });
    assert_eq!(failure.reason, reasons::POOL_EXISTS);
}
