//! The agent's metrics, and the small HTTP server that shows them.
//!
//! Labels are words of this program or of a pool's configuration; ids of workers and jobs never are, so that the number
//! of series stays bounded.
//!
//! Never here: gRPC.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use remuda_wire::v1;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Step {
    step: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeType {
    r#type: &'static str,
}

/// Everything the agent counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    runs: Family<Result, Counter>,
    steps: Family<Step, Histogram>,
    probe_failures: Family<ProbeType, Counter>,
    sessions: Counter,
    jobs: Counter,
    running: Gauge,
    heartbeat_age: Gauge<f64, std::sync::atomic::AtomicU64>,
    heartbeat_at: Mutex<Option<Instant>>,
}

/// A millisecond to half a minute, doubling.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

impl Metrics {
    /// Metrics at zero.
    pub fn new() -> Arc<Metrics> {
        let metrics = Metrics {
            registry: Mutex::new(Registry::with_prefix("remuda_agent")),
            runs: Family::default(),
            steps: Family::new_with_constructor(seconds as fn() -> Histogram),
            probe_failures: Family::default(),
            sessions: Counter::default(),
            jobs: Counter::default(),
            running: Gauge::default(),
            heartbeat_age: Gauge::default(),
            heartbeat_at: Mutex::new(None),
        };
        {
            let mut registry = metrics.registry.lock();
            registry.register("runs", "Cleaning runs by result", metrics.runs.clone());
            let about = "How long cleaning steps took";
            registry.register_with_unit("step", about, Unit::Seconds, metrics.steps.clone());
            registry.register("probe_failures", "Health probes that failed", metrics.probe_failures.clone());
            registry.register("sessions", "Sessions opened", metrics.sessions.clone());
            registry.register("jobs", "Jobs started", metrics.jobs.clone());
            registry.register("runs_at_work", "Cleaning runs at work now", metrics.running.clone());
            let about = "Time since a heartbeat was answered";
            registry.register_with_unit("heartbeat_age", about, Unit::Seconds, metrics.heartbeat_age.clone());
        }
        Arc::new(metrics)
    }

    /// A session was opened.
    pub fn session_opened(&self) {
        self.sessions.inc();
    }

    /// A heartbeat was answered.
    pub fn heartbeat_answered(&self) {
        *self.heartbeat_at.lock() = Some(Instant::now());
    }

    /// How long ago a heartbeat was answered; none before the first.
    pub fn heartbeat_age(&self) -> Option<Duration> {
        self.heartbeat_at.lock().map(|at| at.elapsed())
    }

    /// A job was started.
    pub fn job_started(&self) {
        self.jobs.inc();
    }

    /// A run has begun.
    pub fn run_began(&self) {
        self.running.inc();
    }

    /// A run has ended, with its receipt or without one.
    pub fn run_ended(&self, plan: &v1::CleaningPlan, receipt: Option<&v1::CleaningReceipt>) {
        self.running.dec();
        let result = match receipt {
            None => "cancelled",
            Some(receipt) if receipt.steps.iter().all(|step| step.observed) => "observed",
            Some(_) => "failed",
        };
        self.runs.get_or_create(&Result { result }).inc();
        let Some(receipt) = receipt else { return };
        for (step, planned) in receipt.steps.iter().zip(&plan.steps) {
            let took = step.took.and_then(|took| Duration::try_from(took).ok()).unwrap_or_default();
            let labels = Step { step: kind_word(planned.kind()), outcome: outcome_word(step.outcome()) };
            self.steps.get_or_create(&labels).observe(took.as_secs_f64());
        }
        for (probe, planned) in receipt.probes.iter().zip(&plan.probes).filter(|(probe, _)| !probe.passed) {
            tracing::warn!(probe = probe.name, detail = probe.detail, "probe failed");
            self.probe_failures.get_or_create(&ProbeType { r#type: probe_word(planned) }).inc();
        }
    }

    /// All of it in the text form of OpenMetrics.
    pub fn text(&self) -> String {
        self.heartbeat_age.set(self.heartbeat_age().map_or(0.0, |age| age.as_secs_f64()));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock())
            .expect("writing to a string does not fail");
        text
    }
}

fn kind_word(kind: v1::step::Kind) -> &'static str {
    match kind {
        v1::step::Kind::Stop => "stop",
        v1::step::Kind::Strays => "strays",
        v1::step::Kind::Mounts => "mounts",
        v1::step::Kind::Files => "files",
        v1::step::Kind::Temp => "temp",
        v1::step::Kind::Hook => "hook",
        v1::step::Kind::Unspecified => "unknown",
    }
}

fn outcome_word(outcome: v1::step_result::Outcome) -> &'static str {
    match outcome {
        v1::step_result::Outcome::Done => "done",
        v1::step_result::Outcome::TimedOut => "timed_out",
        v1::step_result::Outcome::Skipped => "skipped",
        v1::step_result::Outcome::Failed | v1::step_result::Outcome::Unspecified => "failed",
    }
}

fn probe_word(probe: &v1::Probe) -> &'static str {
    match &probe.action {
        Some(v1::probe::Action::Tcp(_)) => "tcp",
        Some(v1::probe::Action::Http(_)) => "http",
        Some(v1::probe::Action::Exec(_)) => "exec",
        Some(v1::probe::Action::Grpc(_)) => "grpc",
        None => "unknown",
    }
}

/// Listens for `/metrics`, `/livez` and `/readyz`. `ready` says whether a session is live.
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    ready: impl Fn() -> bool + Clone + Send + Sync + 'static,
    stop: CancellationToken,
) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            // Out of descriptors, most likely: wait for some to be given back.
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (metrics, ready, stop) = (Arc::clone(&metrics), ready.clone(), stop.clone());
            tokio::spawn(async move {
                let service = service_fn(move |asked: Request<Incoming>| {
                    std::future::ready(Ok::<_, Infallible>(answer(&asked, &metrics, &ready)))
                });
                let serving = hyper::server::conn::http1::Builder::new()
                    .timer(hyper_util::rt::TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    // A client that breaks off is its own affair.
                    _ = serving => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    });
    Ok(bound)
}

fn answer(asked: &Request<Incoming>, metrics: &Metrics, ready: &impl Fn() -> bool) -> Response<String> {
    let (status, text) = match asked.uri().path() {
        "/metrics" => (StatusCode::OK, metrics.text()),
        "/livez" => (StatusCode::OK, "[+]agent ok\n".to_owned()),
        "/readyz" if ready() => (StatusCode::OK, "[+]session ok\n".to_owned()),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "[-]session none\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response
}
