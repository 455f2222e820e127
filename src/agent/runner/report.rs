//! Reporting a run: the same report, sent until it is answered.
//!
//! An answer that was lost may have had its effect; the registry gives the first answer again. A refusal ends the
//! reporting, because what is owed now comes by the watch; that the session has ended is told to the session's loops.
//!
//! Never here: giving up by itself; whoever supersedes the run drops this future.

use remuda_wire::v1;

use super::Shared;
use crate::failpoint;
use crate::link::{Backoff, Failure, call, request};

/// Sends a report until it is answered, by whichever replica.
pub(super) async fn send(shared: &Shared, message: v1::ReportCleaningRequest) {
    let (mut route, mut backoff) = (shared.link.route(), Backoff::of_calls());
    let (worker, run) = (message.worker.as_str(), message.run);
    loop {
        failpoint::hit("agent.report.before_send");
        let failure = match call(route.agents().report_cleaning(request(message.clone()))).await {
            Ok(answer) => {
                failpoint::hit("agent.report.after_answer");
                let (accepted, reason) = (answer.accepted, answer.reason);
                tracing::info!(worker, run, accepted, reason, "report answered");
                return;
            }
            Err(failure) => failure,
        };
        if failure.session_ended() {
            shared.ended.send_if_modified(|known| {
                let newer = message.session > *known;
                *known = (*known).max(message.session);
                newer
            });
        }
        match failure {
            Failure::Refused { reason, detail, .. } => {
                tracing::warn!(worker, run, reason, detail, "report refused");
                return;
            }
            Failure::Again(why) => {
                tracing::debug!(worker, run, replica = route.url(), why, "report not answered");
                route.next();
                tokio::time::sleep(backoff.pause()).await;
            }
        }
    }
}
