//! The agent as a whole: what is made at its start, and in which order it ends.
//!
//! ```text
//!   StateFolder (lock) ─> Host ─> Crew (a task per worker) ─> Executions on `listen` ─> Presence (sessions)
//! ```
//! An agent that stops leaves jobs running, because their supervisors and files outlive it: the next process finds them
//! by the facts in the state folder, and goes on where this one ended. With `drain`, or when the parent that
//! `exit_with_parent` speaks of has died, jobs are ended first.
//!
//! Invariants
//! * When [`run`] returns, nothing that it started goes on, other than jobs with their supervisors.
//!
//! Never here: signals (the caller's), decisions about workers.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use remuda_wire::agent::v1::execution_service_server::ExecutionServiceServer;
use remuda_wire::v1;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::capability::Switches;
use crate::clean;
use crate::config::{AgentConfig, CgroupMode, WorkerConfig};
use crate::execution::{Executions, job_lost};
use crate::folder::{StateFolder, WorkerRecord};
use crate::host::Host;
use crate::job::{Facts, RunOrder};
use crate::link::Link;
use crate::metrics::{self, Metrics};
use crate::runner::{Cleaner, Crew, Shared};
use crate::session::{Introduction, Presence};
use crate::supervisor::{HIDDEN, Launcher};

#[cfg(test)]
mod tests;

/// Bounds of the end.
mod limits {
    use std::time::Duration;

    /// Connections that are still open after this long are dropped.
    pub(super) const SERVING_ENDS: Duration = Duration::from_secs(2);
    /// Grace between TERM and KILL for jobs whose lease says none.
    pub(super) const STOP_GRACE: Duration = Duration::from_secs(5);
}

/// Runs an agent until `shutdown`, or until the parent dies where the configuration says so.
///
/// # Errors
/// The state folder is in use or damaged, the host cannot be used, or a listener cannot be bound.
pub async fn run(config: AgentConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    let launcher = config.supervisor.as_ref().map_or_else(Launcher::own, |program| Launcher::new(program, [HIDDEN]));
    let agent = Agent::start(&config, launcher).await?;
    let orphaned = CancellationToken::new();
    if config.exit_with_parent {
        watch_parent(orphaned.clone());
    }
    agent.live(&shutdown, &orphaned, config.drain).await
}

/// What [`run`] has started.
pub(crate) struct Agent {
    host: Arc<Host>,
    crew: Arc<Crew>,
    pub(crate) presence: Presence,
    /// Refuses new executions, while those under way go on.
    closing: CancellationToken,
    /// Ends everything.
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Agent {
    pub(crate) async fn start(config: &AgentConfig, launcher: Launcher) -> anyhow::Result<Agent> {
        let folder = Arc::new(StateFolder::open(&config.state_dir)?);
        let identity = folder.identity()?;
        let host = open_host(config, launcher)?;
        let boot_id = crate::process::boot_id().context("the boot id cannot be read")?;
        let (stop, closing) = (CancellationToken::new(), CancellationToken::new());
        let records = config.workers.iter().map(|worker| Ok((worker.name.clone(), record(&folder, worker)?)));
        let records = records.collect::<anyhow::Result<Vec<_>>>()?;
        let labels = described(config, &records);
        let shared = Arc::new(Shared {
            link: Link::new(&config.endpoints)?,
            agent: identity.id.clone(),
            cleaner: Arc::new(Plans { host: Arc::clone(&host) }),
            places: Arc::new(Semaphore::new(config.max_parallel_cleans as usize)),
            metrics: Metrics::new(),
            ended: watch::Sender::new(0),
            passed: watch::Sender::new(0),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
            folder,
        });
        let live = watch::Sender::new(false);
        if let Some(address) = config.admin {
            let seen = live.subscribe();
            let ready = move || *seen.borrow();
            let bound = metrics::serve(address, Arc::clone(&shared.metrics), ready, stop.clone()).await;
            let bound = bound.with_context(|| format!("admin: {address} cannot be bound"))?;
            tracing::info!(%bound, "metrics served");
        }
        let listener = TcpListener::bind(config.listen).await;
        let listener = listener.with_context(|| format!("listen: {} cannot be bound", config.listen))?;
        let bound = listener.local_addr()?;
        let crew = Crew::start(records, shared);
        let executions = Executions {
            crew: Arc::clone(&crew),
            host: Arc::clone(&host),
            boot_id: boot_id.clone(),
            closing: closing.clone(),
            stop: stop.clone(),
        };
        let serving = serve(listener, executions, live.subscribe(), stop.clone())?;
        let capabilities = host.capabilities();
        let introduction = Introduction {
            machine_id: machine_id(),
            boot_id: boot_id.clone(),
            execution_endpoint: config.advertise.clone().unwrap_or_else(|| format!("http://{bound}")),
            capabilities: capabilities.present(),
            missing_capabilities: capabilities.missing(),
        };
        let (agent, endpoint) = (&identity.id, &introduction.execution_endpoint);
        tracing::info!(agent, endpoint, missing = ?introduction.missing_capabilities, "agent started");
        let workers = introduce(Arc::clone(&crew), Arc::clone(&host), labels, boot_id);
        let presence = Presence { identity, introduction, crew: Arc::clone(&crew), workers, live };
        Ok(Agent { host, crew, presence, closing, stop, serving })
    }

    /// Lives until `shutdown` or until it is `orphaned`, then ends.
    pub(crate) async fn live(
        self,
        shutdown: &CancellationToken,
        orphaned: &CancellationToken,
        drain: bool,
    ) -> anyhow::Result<()> {
        let ended = tokio::select! {
            kept = self.presence.keep(&self.stop) => kept.context("the state folder failed"),
            () = self.until_ended(shutdown, orphaned, drain) => Ok(()),
        };
        self.end().await;
        // What a job still runs in is not empty, and stays.
        self.host.dissolve();
        tracing::info!("agent stopped");
        ended
    }

    /// Waits for a reason to end, and ends jobs where it asks for that while the agent is still present.
    async fn until_ended(&self, shutdown: &CancellationToken, orphaned: &CancellationToken, drain: bool) {
        tokio::select! {
            () = shutdown.cancelled() => tracing::info!(drain, "asked to stop"),
            () = orphaned.cancelled() => tracing::info!("the parent is gone"),
        }
        self.closing.cancel();
        if drain || orphaned.is_cancelled() {
            self.end_jobs().await;
        }
    }

    /// Ends every job on this host, those of earlier processes included.
    async fn end_jobs(&self) {
        let mut ending = tokio::task::JoinSet::new();
        for member in self.crew.members() {
            let grace = member.view().borrow().last.as_ref().map(|lease| Duration::from_millis(lease.stop_grace));
            let roots = self.host.roots(&member.name);
            let epochs = roots.and_then(|roots| Ok((roots.epochs()?, roots)));
            let (epochs, roots) = match epochs {
                Ok(found) => found,
                Err(error) => {
                    tracing::error!(worker = member.name, %error, "leases' folders cannot be listed");
                    continue;
                }
            };
            for lease in epochs.into_iter().map(|epoch| roots.lease(epoch)) {
                let (worker, grace) = (member.name.clone(), grace.unwrap_or(limits::STOP_GRACE));
                ending.spawn(async move {
                    let observed = clean::stop(&lease, grace, &CancellationToken::new()).await;
                    tracing::info!(worker, epoch = lease.epoch(), ?observed, "job ended");
                });
            }
        }
        ending.join_all().await;
    }

    /// Ends and joins everything but jobs.
    async fn end(&self) {
        self.closing.cancel();
        self.stop.cancel();
        self.crew.stop().await;
        let abort = self.serving.abort_handle();
        let waited = tokio::time::timeout(limits::SERVING_ENDS, async {
            while !self.serving.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        if waited.await.is_err() {
            tracing::info!("dropping connections that stay open");
            abort.abort();
        }
    }
}

fn open_host(config: &AgentConfig, launcher: Launcher) -> anyhow::Result<Arc<Host>> {
    let mut without = std::env::var("REMUDA_WITHOUT").unwrap_or_default();
    if config.cgroup == CgroupMode::Off {
        without.push_str(",cgroup");
    }
    let names = without.split(',').map(str::trim).filter(|name| !name.is_empty());
    let switches = Switches::without(names).map_err(|error| anyhow::anyhow!("REMUDA_WITHOUT: {error}"))?;
    Host::open(&config.state_dir, &switches, launcher)
        .with_context(|| format!("the host's part of {} cannot be used", config.state_dir.display()))
}

/// The record of a configured worker. It stays in the pool it was registered in until its row there is retired.
fn record(folder: &StateFolder, worker: &WorkerConfig) -> anyhow::Result<WorkerRecord> {
    let fresh = WorkerRecord::new(&worker.pool, Facts::default());
    let record = match folder.worker(&worker.name)? {
        Some(known) if known.pool == worker.pool => return Ok(known),
        Some(known) if known.facts.retired.is_none() => {
            let (name, pool, wanted) = (&worker.name, &known.pool, &worker.pool);
            tracing::error!(name, pool, wanted, "worker stays in its pool until it is retired there");
            return Ok(known);
        }
        Some(_) | None => fresh,
    };
    // Written before it is registered anywhere, so that no crash can forget where it was.
    folder.save_worker(&worker.name, &record)?;
    Ok(record)
}

/// Labels and annotations by full name.
fn described(config: &AgentConfig, records: &[(String, WorkerRecord)]) -> BTreeMap<String, WorkerConfig> {
    let full = |record: &WorkerRecord, worker: &WorkerConfig| format!("pools/{}/workers/{}", record.pool, worker.name);
    let both = records.iter().zip(&config.workers);
    both.map(|((_, record), worker)| (full(record, worker), worker.clone())).collect()
}

/// What is said of each worker in an open, as of the moment of the call.
fn introduce(
    crew: Arc<Crew>,
    host: Arc<Host>,
    described: BTreeMap<String, WorkerConfig>,
    boot_id: String,
) -> Arc<dyn Fn() -> Vec<v1::SessionWorker> + Send + Sync> {
    Arc::new(move || {
        let living = crew.members().filter(|member| member.view().borrow().facts.retired.is_none());
        let workers = living.map(|member| {
            let facts = member.view().borrow().facts.clone();
            let lost = host.roots(&member.name).and_then(|roots| job_lost(&facts, &roots.lease(facts.epoch), &boot_id));
            let job = match lost {
                _ if facts.epoch == 0 => v1::session_worker::Job::Unspecified,
                Ok(false) => v1::session_worker::Job::Alive,
                Ok(true) => v1::session_worker::Job::Lost,
                Err(error) => {
                    // Not known to be lost: saying so would end a job that may run.
                    tracing::error!(worker = member.name, %error, "the job's records cannot be read");
                    v1::session_worker::Job::Alive
                }
            };
            let known = described.get(&member.name);
            let labels = known.map(|known| known.labels.clone().into_iter().collect()).unwrap_or_default();
            let annotations = known.map(|known| known.annotations.clone().into_iter().collect()).unwrap_or_default();
            v1::SessionWorker { name: member.name.clone(), labels, annotations, epoch: facts.epoch, job: job.into() }
        });
        workers.collect()
    })
}

/// Serves executions, health and reflection until `stop`.
fn serve(
    listener: TcpListener,
    executions: Executions,
    mut live: watch::Receiver<bool>,
    stop: CancellationToken,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(remuda_wire::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("remuda.agent.v1.ExecutionService")
            .with_service_name("grpc.health.v1.Health")
    };
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(ExecutionServiceServer::new(executions))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.clone().cancelled_owned());
    tokio::spawn(async move {
        loop {
            // Without a session executions still go on; what is not ready is taking on new ones.
            let status = if *live.borrow_and_update() {
                tonic_health::ServingStatus::Serving
            } else {
                tonic_health::ServingStatus::NotServing
            };
            reporter.set_service_status("remuda.agent.v1.ExecutionService", status).await;
            tokio::select! {
                changed = live.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    });
    Ok(tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "executions are not served any more");
        }
    }))
}

/// Cancels `orphaned` at the end of standard input, the parent's pipe.
fn watch_parent(orphaned: CancellationToken) {
    // A thread, because a read of standard input cannot be cancelled; it ends with the process.
    std::thread::spawn(move || {
        let mut ignored = [0; 64];
        while matches!(std::io::stdin().read(&mut ignored), Ok(read) if read > 0) {}
        orphaned.cancel();
    });
}

/// What tells this machine from another; containers without a machine id are told apart by their host name.
fn machine_id() -> String {
    let written = ["/etc/machine-id", "/var/lib/dbus/machine-id"].iter();
    let written = written.filter_map(|path| std::fs::read_to_string(path).ok());
    let mut written = written.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    written.next().unwrap_or_else(|| format!("host-{}", rustix::system::uname().nodename().to_string_lossy()))
}

/// Carries out cleaning plans on this host.
struct Plans {
    host: Arc<Host>,
}

impl Cleaner for Plans {
    fn clean(
        &self,
        worker: &str,
        order: &RunOrder,
        cancel: CancellationToken,
    ) -> BoxFuture<'static, Option<v1::CleaningReceipt>> {
        let (roots, worker) = (self.host.roots(worker), worker.to_owned());
        let (plan, run) = (Arc::clone(&order.plan), order.run);
        Box::pin(async move {
            let roots = roots.inspect_err(|error| tracing::error!(worker, %error, "no folder for the worker")).ok()?;
            let receipt = clean::run(&plan, &clean::Target { roots, run }, cancel).await;
            receipt.inspect_err(|why| tracing::info!(worker, run, ?why, "run ended without a receipt")).ok()
        })
    }
}
