//! The workers of this agent at work: each one's duties, and the hands that carry out what they say.
//!
//! ```text
//!   session ──Input──┐                       ┌──> clean::run, at most `max_parallel_cleans` at once
//!   execution ─Input─┼─> one task per worker ┼──> the state folder (synced before the next action)
//!   runs, reports ───┘    (job::Duties)      └──> ReportCleaning, until answered or superseded
//! ```
//! A worker's task is the only one that touches its [`Duties`]; others send it inputs and read the [`View`] that it
//! publishes after each step. Runs and reports are tasks of their own, which send back how they ended.
//!
//! Invariants
//! * A run's task is never aborted: it is cancelled by its token and then awaited, and only then `RunJoined` is sent.
//! * A place among the runs at work is held until the run is joined.
//!
//! Never here: decisions, see `job.rs`; the protocol of sessions, see `session.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use remuda_wire::v1;
use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::failpoint;
use crate::folder::{FolderError, StateFolder, WorkerRecord};
use crate::job::{Action, Duties, Facts, Heard, Input, JobFact, JobVerdict, LeaseOrder, RunOrder};
use crate::link::Link;
use crate::metrics::Metrics;

mod report;

/// A fact that cannot be written (a full disk) is tried again after this long; nothing else happens to the worker
/// meanwhile.
const PERSIST_PAUSE: Duration = Duration::from_secs(1);

/// What carries out a run.
pub trait Cleaner: Send + Sync + 'static {
    /// Carries out the run's plan for the worker. Resolves only when everything it started has ended, also after
    /// `cancel`; none when there is no receipt.
    fn clean(
        &self,
        worker: &str,
        order: &RunOrder,
        cancel: CancellationToken,
    ) -> BoxFuture<'static, Option<v1::CleaningReceipt>>;
}

/// What others may know of a worker.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The facts as they are on disk or about to be.
    pub facts: Facts,
    /// The run that heartbeats must name.
    pub progress: Option<(u64, Heard)>,
    /// Whether a run is anywhere between assignment and answer.
    pub cleaning: bool,
    /// The lease whose holder may execute.
    pub lease: Option<LeaseOrder>,
    /// The lease that was open last: its holder may still read what its job left.
    pub last: Option<LeaseOrder>,
}

/// What all workers of an agent share.
pub struct Shared {
    /// Where facts are kept.
    pub folder: Arc<StateFolder>,
    /// The way to the replicas.
    pub link: Arc<Link>,
    /// The agent's id.
    pub agent: String,
    /// What carries out runs.
    pub cleaner: Arc<dyn Cleaner>,
    /// Places among the runs at work.
    pub places: Arc<Semaphore>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The highest session known to have ended.
    pub ended: watch::Sender<u64>,
    /// The last revision that the watch has passed.
    pub passed: watch::Sender<u64>,
    /// Every task of the workers.
    pub tasks: TaskTracker,
    /// Cancelled when the agent stops.
    pub stop: CancellationToken,
}

/// The workers of an agent.
pub struct Crew {
    members: BTreeMap<String, Member>,
    shared: Arc<Shared>,
}

/// One worker, as others reach it.
#[derive(Clone)]
pub struct Member {
    /// Its name, `pools/{pool}/workers/{worker}`.
    pub name: String,
    inputs: mpsc::UnboundedSender<Message>,
    view: watch::Receiver<View>,
    gate: Arc<Mutex<()>>,
}

enum Message {
    Input(Input),
    Turn { run: u64, place: OwnedSemaphorePermit },
    AskJob { job: JobFact, answer: oneshot::Sender<JobVerdict> },
}

impl Crew {
    /// Starts a task for each worker, given by its local name and its record. Needs a tokio runtime.
    pub fn start(workers: Vec<(String, WorkerRecord)>, shared: Arc<Shared>) -> Arc<Crew> {
        let members = workers.into_iter().map(|(local, record)| {
            let name = format!("pools/{}/workers/{local}", record.pool);
            let (inputs, received) = mpsc::unbounded_channel();
            let gate = Arc::new(Mutex::new(()));
            let duties = Duties::new(record.facts);
            let (publish, view) = watch::channel(View { facts: duties.facts().clone(), ..View::default() });
            let hands = Hands {
                name: name.clone(),
                local,
                pool: record.pool,
                duties,
                lease: None,
                last: None,
                gate: Arc::clone(&gate),
                inputs: inputs.downgrade(),
                publish,
                began: Instant::now(),
                wake: None,
                waiting: None,
                place: None,
                run: None,
                report: None,
                asked: None,
                shared: Arc::clone(&shared),
            };
            shared.tasks.spawn(hands.work(received));
            (name.clone(), Member { name, inputs, view, gate })
        });
        Arc::new(Crew { members: members.collect(), shared })
    }

    /// All workers, by name.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// One worker.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.get(name)
    }

    /// What they share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The runs that a heartbeat must name.
    pub fn progress(&self) -> Vec<v1::RunProgress> {
        let of = |member: &Member| {
            let (run, heard) = member.view.borrow().progress?;
            let phase = match heard {
                Heard::Nothing => return None,
                Heard::Queued => v1::run_progress::Phase::Queued,
                Heard::Started => v1::run_progress::Phase::Started,
            };
            Some(v1::RunProgress { worker: member.name.clone(), run, phase: phase.into() })
        };
        self.members().filter_map(of).collect()
    }

    /// The workers known to be retired for good, which each heartbeat acknowledges.
    pub fn retired(&self) -> Vec<String> {
        self.members().filter(|m| m.view.borrow().facts.retired.is_some()).map(|m| m.name.clone()).collect()
    }

    /// Whether any worker is being cleaned.
    pub fn cleaning(&self) -> bool {
        self.members().any(|member| member.view.borrow().cleaning)
    }

    /// Ends all runs and waits until everything that the workers' tasks started is joined. Jobs are left alone.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Member {
    /// Tells the worker what happened.
    pub fn tell(&self, input: Input) {
        // Its task ends only when the agent stops, and then nothing matters any more.
        let _ = self.inputs.send(Message::Input(input));
    }

    /// What may be known of it, as it changes.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Keeps runs from beginning while a job is being started. Whoever holds it must look again whether the lease is
    /// still open: a run passes the gate after its lease was closed, so a job is started before the run, which stops
    /// it, or not at all.
    pub async fn gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().await
    }

    /// Asks whether the job of this lease may be started; it is written down when it may.
    pub async fn ask_job(&self, job: JobFact) -> JobVerdict {
        let (answer, verdict) = oneshot::channel();
        let _ = self.inputs.send(Message::AskJob { job, answer });
        verdict.await.unwrap_or(JobVerdict::NotYet)
    }
}

/// One worker's task.
struct Hands {
    name: String,
    local: String,
    pool: String,
    duties: Duties,
    lease: Option<LeaseOrder>,
    last: Option<LeaseOrder>,
    gate: Arc<Mutex<()>>,
    /// Weak, so that the task ends when nobody else can send to it.
    inputs: mpsc::WeakUnboundedSender<Message>,
    publish: watch::Sender<View>,
    began: Instant,
    wake: Option<u64>,
    /// Ends the wait for a place.
    waiting: Option<CancellationToken>,
    /// The place that has just been given, until a run takes it.
    place: Option<OwnedSemaphorePermit>,
    run: Option<(u64, CancellationToken)>,
    report: Option<(u64, CancellationToken)>,
    asked: Option<oneshot::Sender<JobVerdict>>,
    shared: Arc<Shared>,
}

impl Hands {
    async fn work(mut self, mut received: mpsc::UnboundedReceiver<Message>) {
        let stop = self.shared.stop.clone();
        loop {
            let wake = self.wake.map(|at| self.began + Duration::from_millis(at));
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let message = tokio::select! {
                message = received.recv() => message,
                () = sleep => Some(Message::Input(Input::Woke)),
                () = stop.cancelled() => None,
            };
            let Some(message) = message else { break };
            self.take(message).await;
        }
        // Runs and reports are tasks of the tracker: cancelled here, joined by whoever waits for it.
        for (_, cancel) in self.run.iter().chain(&self.report) {
            cancel.cancel();
        }
        if let Some(waiting) = &self.waiting {
            waiting.cancel();
        }
    }

    async fn take(&mut self, message: Message) {
        let input = match message {
            Message::Input(input) => input,
            Message::Turn { run, place } => {
                self.place = Some(place);
                Input::Turn { run }
            }
            Message::AskJob { job: JobFact { epoch, boot_id, asked }, answer } => {
                self.asked = Some(answer);
                Input::JobAsked { epoch, boot_id, asked }
            }
        };
        let now = u64::try_from(self.began.elapsed().as_millis()).expect("an agent does not live that long");
        self.wake = self.wake.filter(|at| *at > now);
        for action in self.duties.step(now, input) {
            if !self.act(action).await {
                return;
            }
        }
        // A place that no run took goes back.
        self.place = None;
        self.publish.send_replace(View {
            facts: self.duties.facts().clone(),
            progress: self.duties.progress(),
            cleaning: self.duties.cleaning(),
            lease: self.lease.clone(),
            last: self.last.clone(),
        });
    }

    /// Carries out an action; false when the agent stops and nothing may follow it.
    async fn act(&mut self, action: Action) -> bool {
        match action {
            Action::Persist(facts) => return self.persist(facts).await,
            Action::WakeAt(at) => self.wake = Some(self.wake.map_or(at, |known| known.min(at))),
            Action::Queue { run } => self.queue(run),
            Action::Unqueue { run } => {
                tracing::info!(worker = self.name, run, "run superseded while it waited");
                if let Some(waiting) = self.waiting.take() {
                    waiting.cancel();
                }
            }
            Action::Start(order) => self.start(order),
            Action::Cancel { run } => {
                tracing::info!(worker = self.name, run, "run superseded, cancelling it");
                if let Some((_, cancel)) = self.run.as_ref().filter(|(current, _)| *current == run) {
                    cancel.cancel();
                }
            }
            Action::Report { session, run, receipt } => self.report(session, run, &receipt),
            Action::DropReport { run } => {
                if let Some((_, cancel)) = self.report.take_if(|(current, _)| *current == run) {
                    cancel.cancel();
                }
            }
            Action::OpenLease(lease) => {
                tracing::info!(worker = self.name, epoch = lease.epoch, job = lease.job_id, "lease opened");
                self.last = Some(lease.clone());
                self.lease = Some(lease);
            }
            Action::CloseLease { epoch } => {
                tracing::info!(worker = self.name, epoch, "lease closed");
                self.lease = None;
            }
            Action::Job { verdict, .. } => {
                if let Some(asked) = self.asked.take() {
                    // Whoever asked may have gone; the fact stays written down, and the next one finds it begun.
                    let _ = asked.send(verdict);
                }
            }
        }
        true
    }

    /// Writes the facts and does not return before they are synced, for what follows relies on them. False when the
    /// agent stops before that.
    async fn persist(&self, facts: Facts) -> bool {
        let record = WorkerRecord::new(&self.pool, facts);
        while let Err(error) = self.save(&record).await {
            tracing::error!(worker = self.name, %error, "facts cannot be written, the worker waits");
            tokio::select! {
                () = tokio::time::sleep(PERSIST_PAUSE) => {}
                () = self.shared.stop.cancelled() => return false,
            }
        }
        true
    }

    async fn save(&self, record: &WorkerRecord) -> Result<(), FolderError> {
        let (folder, local, record) = (Arc::clone(&self.shared.folder), self.local.clone(), record.clone());
        let saved = tokio::task::spawn_blocking(move || folder.save_worker(&local, &record)).await;
        failpoint::hit("agent.facts.after_sync");
        saved.expect("writing a record does not panic")
    }

    fn queue(&mut self, run: u64) {
        let cancel = self.shared.stop.child_token();
        self.waiting = Some(cancel.clone());
        let (places, inputs) = (Arc::clone(&self.shared.places), self.inputs.clone());
        self.shared.tasks.spawn(async move {
            let place = tokio::select! {
                place = places.acquire_owned() => place.expect("the places are never closed"),
                () = cancel.cancelled() => return,
            };
            if let Some(inputs) = inputs.upgrade() {
                let _ = inputs.send(Message::Turn { run, place });
            }
        });
    }

    fn start(&mut self, order: RunOrder) {
        self.waiting = None;
        let place = self.place.take().expect("a run is started only by its turn, which brings a place");
        let cancel = self.shared.stop.child_token();
        let (run, name, inputs) = (order.run, self.name.clone(), self.inputs.clone());
        self.run = Some((run, cancel.clone()));
        let (cleaner, metrics) = (Arc::clone(&self.shared.cleaner), Arc::clone(&self.shared.metrics));
        let gate = Arc::clone(&self.gate);
        self.shared.tasks.spawn(async move {
            tracing::info!(worker = name, run, attempt = order.attempt, cause = order.cause, "run started");
            metrics.run_began();
            drop(gate.lock().await);
            let began = Instant::now();
            let cleaning = tokio::spawn(cleaner.clean(&name, &order, cancel));
            let receipt = cleaning.await.unwrap_or_else(|error| {
                tracing::error!(worker = name, run, %error, "run failed to run");
                None
            });
            let elapsed = began.elapsed();
            metrics.run_ended(&order.plan, receipt.as_ref());
            tracing::info!(worker = name, run, ?elapsed, receipt = receipt.is_some(), "run joined");
            drop(place);
            if let Some(inputs) = inputs.upgrade() {
                let _ = inputs.send(Message::Input(Input::RunJoined { run, receipt: receipt.map(Arc::new) }));
            }
        });
    }

    fn report(&mut self, session: u64, run: u64, receipt: &Arc<v1::CleaningReceipt>) {
        let cancel = self.shared.stop.child_token();
        self.report = Some((run, cancel.clone()));
        let message = v1::ReportCleaningRequest {
            agent_id: self.shared.agent.clone(),
            session,
            worker: self.name.clone(),
            run,
            receipt: Some(receipt.as_ref().clone()),
        };
        let (shared, inputs) = (Arc::clone(&self.shared), self.inputs.clone());
        self.shared.tasks.spawn(async move {
            tokio::select! {
                () = report::send(&shared, message) => {}
                () = cancel.cancelled() => return,
            }
            if let Some(inputs) = inputs.upgrade() {
                let _ = inputs.send(Message::Input(Input::Answered { run }));
            }
        });
    }
}
