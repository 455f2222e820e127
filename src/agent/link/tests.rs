//! Which errors are answers, and how pauses grow.

use tonic_types::ErrorDetails;

use super::*;

#[test]
fn what_a_replica_decided_is_a_refusal_and_the_rest_is_sent_again() {
    for code in [Code::FailedPrecondition, Code::NotFound, Code::InvalidArgument, Code::AlreadyExists] {
        let details = ErrorDetails::with_error_info("SESSION_ENDED", "remuda", [("current".into(), "9".into())]);
        let failure = Failure::of(&Status::with_error_details(code, "words", details));
        assert!(failure.session_ended(), "{failure:?}");
        let Failure::Refused { facts, detail, .. } = failure else { panic!("a refusal") };
        assert_eq!((facts["current"].as_str(), detail.as_str()), ("9", "words"));
    }
    for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Unknown, Code::ResourceExhausted] {
        assert!(matches!(Failure::of(&Status::new(code, "")), Failure::Again(_)), "{code:?}");
    }
    assert!(!Failure::of(&Status::unavailable("SESSION_ENDED")).session_ended(), "words decide nothing");
}

#[test]
fn pauses_are_random_parts_of_bounds_that_double_up_to_a_limit() {
    let mut backoff = Backoff::of_calls();
    let mut bound = limits::PAUSE_MIN;
    for _ in 0..20 {
        assert!(backoff.pause() <= bound);
        bound = (bound * 2).min(limits::PAUSE_MAX);
    }
    backoff.reset();
    assert!(backoff.pause() <= limits::PAUSE_MIN);
    let distinct: std::collections::BTreeSet<_> = (0..20).map(|_| backoff.pause()).collect();
    assert!(distinct.len() > 10, "{distinct:?}");
}

#[tokio::test]
async fn a_route_goes_round_all_replicas() {
    let endpoints = ["http://a:1", "http://b:1", "http://c:1"].map(str::to_owned);
    let mut route = Link::new(&endpoints).unwrap().route();
    let mut seen: Vec<_> = (0..3)
        .map(|_| {
            route.next();
            route.url().to_owned()
        })
        .collect();
    seen.sort();
    assert_eq!(seen, endpoints);
    assert!(Link::new(&[]).is_err());
    assert!(Link::new(&["not a url".into()]).is_err());
}
