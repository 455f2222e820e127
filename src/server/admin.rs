//! Admin HTTP: metrics, health, the digest of a revision, and what was committed.
//!
//! It is served from the first moment on, so that a replica that waits for its peers says for which.
//!
//! Never here: writes. What is served has no secrets, and the listener is on loopback unless told otherwise.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use remuda_registry::Revision;
use remuda_registry::selector::Selector;
use remuda_wire::json::to_json;
use remuda_wire::name::Parent;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::service::Replica;
use crate::watch::events::{EventStream, Wanted};
use crate::watch::narrate::Narrator;

/// Bookmarks of a followed log: they show that it is alive.
const LOG_PROGRESS: Duration = Duration::from_secs(10);

/// What the admin port serves from.
pub struct Admin {
    /// The replica, once it runs.
    pub replica: OnceLock<Arc<Replica>>,
    /// What its start waits for.
    pub progress: watch::Receiver<String>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Recent digests.
    pub narrator: Arc<Narrator>,
    /// True once the replica stops accepting.
    pub closing: watch::Receiver<bool>,
}

/// Serves until the process ends or the replica is closed.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let mut closing = admin.closing.clone();
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/version", get(version))
        .route("/digest", get(digest))
        .route("/log", get(log))
        .with_state(admin);
    let closed = async move {
        // A sender that is gone has closed too.
        let _ = closing.wait_for(|closing| *closing).await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(closed).await {
        tracing::error!(%error, "the admin port failed");
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    if let Some(replica) = admin.replica.get() {
        admin.metrics.look(&replica.node);
        if replica.node.clock().leads_in().is_some() {
            admin.metrics.look_at_peers(&replica.node).await;
        }
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], admin.metrics.text()).into_response()
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn version() -> Response {
    let version = serde_json::json!({ "version": env!("CARGO_PKG_VERSION") });
    axum::Json(version).into_response()
}

#[derive(Deserialize)]
struct Verbose {
    verbose: Option<String>,
}

async fn readyz(State(admin): State<Arc<Admin>>, Query(query): Query<Verbose>) -> Response {
    let checks = checks(&admin);
    let ready = checks.iter().all(|(_, problem)| problem.is_none());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::new();
    if query.verbose.is_some() || !ready {
        for (name, problem) in &checks {
            match problem {
                None => text.push_str(&format!("[+]{name} ok\n")),
                Some(problem) => text.push_str(&format!("[-]{name} failed: {problem}\n")),
            }
        }
    }
    text.push_str(if ready { "ok\n" } else { "not ready\n" });
    (status, text).into_response()
}

/// The checks of readiness, each with what is wrong.
fn checks(admin: &Admin) -> Vec<(&'static str, Option<String>)> {
    let closing = admin.closing.borrow().then(|| "this replica is stopping".to_owned());
    let Some(replica) = admin.replica.get() else {
        return vec![("start", Some(admin.progress.borrow().clone())), ("closing", closing)];
    };
    let contact = replica.in_contact().err().map(|failure| failure.message);
    let disk = replica.node.disk_is_low().then(|| "below the reserve".to_owned());
    vec![("start", None), ("leader", contact), ("disk", disk), ("closing", closing)]
}

#[derive(Deserialize)]
struct At {
    revision: u64,
}

async fn digest(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<At>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Ok(Query(at)) = query else { return bad("give ?revision=N") };
    match admin.narrator.digest(Revision(at.revision)) {
        Some(digest) => {
            axum::Json(serde_json::json!({ "revision": at.revision, "digest": digest.to_string() })).into_response()
        }
        None => {
            let text = "the digest of this revision is not kept: it is ahead, before this run, or too far back\n";
            (StatusCode::NOT_FOUND, text).into_response()
        }
    }
}

fn bad(text: &'static str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response()
}

#[derive(Deserialize)]
struct Asked {
    from: Option<u64>,
    follow: Option<bool>,
}

/// Everything committed from a revision on: one JSON message per revision that did something, as it commits.
async fn log(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Ok(Query(asked)) = query else { return bad("give ?from=N&follow=true") };
    let Some(replica) = admin.replica.get().cloned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "not started\n").into_response();
    };
    let applied = replica.node.applied().borrow().revision;
    let wanted = Wanted {
        parent: Parent::All,
        selector: Selector::default(),
        next: Revision(asked.from.unwrap_or(1).max(1)),
        initial: false,
        progress: LOG_PROGRESS,
        until: (!asked.follow.unwrap_or(false)).then_some(applied),
    };
    let open = match EventStream::open(replica.clone(), wanted).await {
        Ok(open) => open,
        Err(failure) => return (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", failure.message)).into_response(),
    };
    let lines = stream::unfold(Some((open, admin)), |open| async move {
        let (mut open, admin) = open?;
        match open.next().await? {
            Ok(message) => {
                let revision = message.header.as_ref().map_or(0, |header| header.revision);
                let mut line = to_json("remuda.v1.WatchEventsResponse", &message).unwrap_or_default();
                if let Some(digest) = admin.narrator.digest(Revision(revision)) {
                    line["digest"] = digest.to_string().into();
                }
                Some((Ok::<_, std::convert::Infallible>(format!("{line}\n")), Some((open, admin))))
            }
            Err(failure) => {
                let line = serde_json::json!({ "error": failure.reason.name, "message": failure.message });
                Some((Ok(format!("{line}\n")), None))
            }
        }
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}
