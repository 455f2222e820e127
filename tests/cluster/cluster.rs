//! A cluster under test: three replicas, agents with their workers, a client, a watcher, and the verdict at the end.
//!
//! Invariants
//! * Whatever a test does, no process and no file of its cluster outlives it.
//! * A test passes only if afterwards every worker is Available, the replicas have one state, and no judge objects.
//!
//! Never here: what a test tries.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use remuda_client::{Acquire, Client, LeaseKey, Patience, execution::Output};
use remuda_tests::guarantees::history::{Call, Effect};
use remuda_wire::v1;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::history::{Asked, Recorder};
use crate::permit::Permit;
use crate::ports::Ports;
use crate::process::Process;

/// Bounds on a loaded machine. A test that needs them fails; one that passes is far below.
pub(crate) mod limits {
    use std::time::Duration;

    /// A whole test.
    pub(crate) const TEST: Duration = Duration::from_secs(90);
    /// Election, first cleaning, catching up, and whatever else a test waits for.
    pub(crate) const WAIT: Duration = Duration::from_secs(30);
    /// Between two questions to the cluster.
    pub(crate) const ASK: Duration = Duration::from_millis(30);
    /// A stopped agent.
    pub(crate) const STOP: Duration = Duration::from_secs(15);
}

/// The pool of all workers.
pub(crate) const POOL: &str = "pools/default";
/// How many replicas.
pub(crate) const REPLICAS: u16 = 3;

/// What a test's cluster is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Workers of each agent.
    pub(crate) agents: &'static [u16],
    /// Orders for every replica's failpoints, behind its gate.
    pub(crate) replicas_fail: &'static str,
    /// Orders for every agent's failpoints, behind its gate.
    pub(crate) agents_fail: &'static str,
}

impl Default for Shape {
    fn default() -> Self {
        Self { agents: &[2], replicas_fail: "", agents_fail: "" }
    }
}

/// A running cluster. Fields are dropped in this order: processes before their folder, ports and permit last.
pub(crate) struct Cluster {
    pub(crate) replicas: Vec<Process>,
    pub(crate) agents: Vec<Process>,
    pub(crate) client: Client,
    pub(crate) ports: Ports,
    recorder: Recorder,
    folder: TempDir,
    workers: usize,
    jobs: AtomicU64,
    passed: bool,
}

/// Runs a test on a cluster of its own.
pub(crate) fn tried(shape: Shape, test: impl AsyncFnOnce(&mut Cluster) -> Result<()>) {
    let _permit = Permit::take();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let done = runtime.block_on(async {
        let work = async {
            let mut cluster = Cluster::start(shape).await?;
            test(&mut cluster).await?;
            cluster.judge().await?;
            cluster.close().await
        };
        tokio::time::timeout(limits::TEST, work).await.unwrap_or_else(|_| bail!("not done after {:?}", limits::TEST))
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Err(error) = done {
        panic!("{error:?}");
    }
}

/// Asks until there is an answer. An error counts as none yet, and is told if none comes.
pub(crate) async fn until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let began = Instant::now();
    let mut last = None;
    loop {
        match tokio::time::timeout(limit, ask()).await {
            Ok(Ok(Some(answer))) => return Ok(answer),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => last = Some(error),
            Err(_) => {}
        }
        if began.elapsed() > limit {
            return Err(last.unwrap_or_else(|| anyhow!("not yet")).context(format!("waited {limit:?} for {what}")));
        }
        tokio::time::sleep(limits::ASK).await;
    }
}

impl Cluster {
    async fn start(shape: Shape) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("remuda-cluster-").tempdir()?;
        let ports = Ports::take()?;
        let replicas: Result<Vec<_>> = (1..=REPLICAS).map(|id| replica(folder.path(), &ports, id)).collect();
        let mut workers = 0;
        let mut agents = Vec::new();
        for (id, count) in (1..).zip(shape.agents) {
            agents.push(agent(folder.path(), &ports, id, workers + 1..=workers + count)?);
            workers += count;
        }
        let client = Client::new((1..=REPLICAS).map(|id| ports.client(id)))?;
        let recorder = Recorder::new(&client);
        let mut cluster = Self {
            replicas: replicas?,
            agents,
            client,
            ports,
            recorder,
            folder,
            workers: usize::from(workers),
            jobs: AtomicU64::new(0),
            passed: false,
        };
        for replica in &mut cluster.replicas {
            replica.start(shape.replicas_fail)?;
        }
        cluster.make_pool().await?;
        for agent in &mut cluster.agents {
            agent.start(shape.agents_fail)?;
        }
        cluster.all_available().await?;
        Ok(cluster)
    }

    async fn make_pool(&self) -> Result<()> {
        until("a leader and a pool", limits::WAIT, async || {
            let request = v1::CreatePoolRequest { pool_id: "default".into(), ..Default::default() };
            match self.client.write(request).await {
                Err(error) if error.code() != tonic::Code::AlreadyExists => Err(error.into()),
                _ => Ok(Some(())),
            }
        })
        .await
    }

    /// Waits until every worker is Available.
    pub(crate) async fn all_available(&self) -> Result<Vec<v1::Worker>> {
        until("every worker to be Available", limits::WAIT, async || {
            let request = v1::ListWorkersRequest { parent: POOL.into(), page_size: 100, ..Default::default() };
            let workers = self.client.list(request).await?.workers;
            let states: Vec<_> = workers.iter().map(|worker| (worker.name.clone(), worker.state())).collect();
            let all = states.len() == self.workers && states.iter().all(|(_, s)| *s == v1::worker::State::Available);
            ensure!(all, "{states:?}");
            Ok(Some(workers))
        })
        .await
    }

    /// Who leads, as the replicas say who answer; never `except`.
    pub(crate) async fn leader(&self, except: Option<usize>) -> Result<usize> {
        until("a leader", limits::WAIT, async || {
            let status = self.client.ask(v1::GetClusterStatusRequest {}).await?;
            let leader = usize::try_from(status.leader_id)?.checked_sub(1);
            Ok(leader.filter(|leader| Some(*leader) != except))
        })
        .await
    }

    /// Where a replica serves clients; counted from 0.
    pub(crate) fn endpoint(&self, replica: usize) -> String {
        self.ports.client(u16::try_from(replica).expect("three replicas") + 1)
    }

    /// All endpoints, as the command line takes them.
    pub(crate) fn endpoints(&self) -> String {
        (0..usize::from(REPLICAS)).map(|replica| self.endpoint(replica)).collect::<Vec<_>>().join(",")
    }

    /// A worker for a new job, held for a minute and not renewed.
    pub(crate) async fn acquire(&self) -> Result<LeaseKey> {
        self.acquire_for(Duration::from_secs(60)).await
    }

    /// A worker for a new job, held for `ttl` and not renewed.
    pub(crate) async fn acquire_for(&self, ttl: Duration) -> Result<LeaseKey> {
        let job = format!("job-{}", self.jobs.fetch_add(1, Ordering::Relaxed));
        let wait = Duration::from_secs(20);
        let mut acquire = Acquire::new(POOL, job.parse()?).wait(wait);
        acquire.ttl = Some(ttl);
        let asked = self.recorder.asked();
        let (key, _) = self.client.acquire_unheld(&acquire).await.context("acquire")?;
        self.note_acquire(asked, &key, wait);
        Ok(key)
    }

    /// Notes an acquire that was answered.
    pub(crate) fn note_acquire(&self, asked: Asked, key: &LeaseKey, wait: Duration) {
        let call = Call::Acquire {
            pool: "default".into(),
            job: key.job.to_string(),
            wait_ms: u64::try_from(wait.as_millis()).expect("short"),
            any: true,
        };
        let effect = Effect::Granted { worker: key.worker.to_string(), epoch: key.epoch };
        self.recorder.answered(asked, call, key.granted_revision, effect, 0);
    }

    /// Asks for the return of a worker, and gives the answer that came.
    pub(crate) async fn begin_return(&self, key: &LeaseKey) -> Result<v1::ReturnWorkerResponse> {
        let request = v1::ReturnWorkerRequest {
            worker: key.worker.to_string(),
            job_id: key.job.to_string(),
            epoch: key.epoch,
            secret: key.secret.bytes().to_vec(),
            outcome: v1::JobOutcome::Success.into(),
            request: None,
        };
        let asked = self.recorder.asked();
        let answered = self.client.write_with(Patience::within(limits::WAIT), request).await.context("return")?;
        let header = answered.answer.header.clone().context("every answer has a header")?;
        let call = Call::Return { worker: key.worker.to_string(), job: key.job.to_string(), epoch: key.epoch };
        // A retry is answered at a later revision than the one that it repeats.
        let events = self.events_of("WORKER_RETURNING", key).await?;
        let began = events.iter().find(|event| event.return_name == answered.answer.return_name);
        let began =
            began.with_context(|| format!("{} was acknowledged and has no event", answered.answer.return_name))?;
        ensure!(began.revision <= header.revision, "{header:?} {began:?}");
        let effect = Effect::Returned { return_id: key.epoch };
        self.recorder.answered(asked, call, began.revision, effect, header.served_by);
        Ok(answered.answer)
    }

    /// Waits until a return was accepted.
    pub(crate) async fn accepted(&self, return_name: &str) -> Result<v1::Return> {
        Ok(self.client.finish_return(return_name, limits::WAIT).await?)
    }

    /// A moment now, for a call that the test makes itself.
    pub(crate) fn asked(&self) -> Asked {
        self.recorder.asked()
    }

    /// Runs a shell script as the lease's job, to its end.
    pub(crate) async fn run_job(&self, key: &LeaseKey, script: &str) -> Result<()> {
        let execution = self.client.execution(key)?;
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        execution.start(command, Default::default(), false).await.context("start of the job")?;
        let mut attachment = execution.attach();
        while let Some(part) = attachment.next().await {
            if let Output::Exit(status) = part? {
                ensure!(status.code == 0, "the job ended with {status:?}");
                return Ok(());
            }
        }
        bail!("the job's output ended without its exit")
    }

    /// Waits for an entry that the leader writes because time passes, so that the next second is quiet.
    pub(crate) async fn tick(&self) -> Result<()> {
        let revision = async || -> Result<u64> {
            let answer = self.client.ask(v1::ListPoolsRequest::default()).await?;
            Ok(answer.header.context("every answer has a header")?.revision)
        };
        let before = revision().await?;
        until("a tick", Duration::from_secs(5), async || Ok((revision().await? > before).then_some(()))).await
    }

    /// Every event so far.
    pub(crate) async fn events(&self) -> Result<Vec<v1::Event>> {
        crate::history::all_events(&self.client).await
    }

    /// The events of one kind for one worker.
    pub(crate) async fn events_of(&self, kind: &str, key: &LeaseKey) -> Result<Vec<v1::Event>> {
        let worker = key.worker.to_string();
        Ok(self.events().await?.into_iter().filter(|event| event.kind == kind && event.worker == worker).collect())
    }

    /// Waits until all replicas, all of which must run, have the same state; then asks the judges.
    async fn judge(&self) -> Result<()> {
        let workers = self.all_available().await?;
        until("all replicas to have one state", limits::WAIT, async || {
            let status = self.client.ask(v1::GetClusterStatusRequest {}).await?;
            let states: Vec<_> = status.replicas.iter().map(|replica| (replica.applied, &replica.digest)).collect();
            let alike = states.len() == usize::from(REPLICAS) && states.windows(2).all(|pair| pair[0] == pair[1]);
            ensure!(alike && !states[0].1.is_empty(), "{states:?}");
            Ok(Some(()))
        })
        .await?;
        self.recorder.judge(self.events().await?, &workers)
    }

    /// Stops everything and looks that nothing is left.
    async fn close(mut self) -> Result<()> {
        for agent in self.agents.iter_mut().filter(|agent| agent.runs()) {
            agent.signal(Signal::TERM)?;
        }
        for agent in self.agents.iter_mut().filter(|agent| agent.runs()) {
            let status = agent.ended(limits::STOP).await?;
            ensure!(status.success(), "{} ended with {status}", agent.name);
        }
        for replica in &mut self.replicas {
            replica.kill()?;
        }
        let left = leftovers(self.folder.path());
        ensure!(left.is_empty(), "left behind: {left:?}");
        self.passed = true;
        Ok(())
    }

    fn tell(&self) -> String {
        let mut text = String::new();
        for process in self.replicas.iter().chain(&self.agents) {
            let _ = writeln!(text, "---- {} marks {:?}\n{}", process.name, process.marks(), process.tail());
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.passed {
            return;
        }
        eprintln!("{}", self.tell());
        for process in self.agents.iter_mut().chain(&mut self.replicas) {
            let _ = process.kill();
        }
        // Supervisors and jobs outlive an agent on purpose.
        for pid in leftovers(self.folder.path()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Processes that work in the cluster's folder, or whose command names it.
pub(crate) fn leftovers(folder: &Path) -> Vec<i32> {
    let name = folder.display().to_string();
    let processes = procfs::process::all_processes().into_iter().flatten().flatten();
    let ours = processes.filter(|process| {
        let there = process.cwd().is_ok_and(|cwd| cwd.starts_with(folder));
        there || process.cmdline().is_ok_and(|words| words.iter().any(|word| word.contains(&name)))
    });
    ours.map(|process| process.pid).collect()
}

/// Processes whose command contains `word`.
pub(crate) fn processes_with(word: &str) -> Vec<i32> {
    let processes = procfs::process::all_processes().into_iter().flatten().flatten();
    let ours = processes.filter(|process| process.cmdline().is_ok_and(|words| words.iter().any(|w| w.contains(word))));
    ours.map(|process| process.pid).collect()
}

fn replica(folder: &Path, ports: &Ports, id: u16) -> Result<Process> {
    let members: Vec<String> =
        (1..=REPLICAS).map(|i| format!("\"{i}={},{}\"", ports.peer(i), ports.client(i))).collect();
    let text = format!(
        "replica_id = {id}\ndata_dir = {:?}\ncluster = [{}]\n[listen]\nclient = {:?}\npeer = {:?}\nadmin = {:?}\n",
        folder.join(format!("replica-{id}")),
        members.join(", "),
        ports.client(id),
        ports.peer(id),
        ports.admin(id),
    );
    let file = folder.join(format!("replica-{id}.toml"));
    std::fs::write(&file, text)?;
    Ok(Process::new(format!("replica-{id}"), folder, "server", &file))
}

fn agent(folder: &Path, ports: &Ports, id: u16, workers: std::ops::RangeInclusive<u16>) -> Result<Process> {
    let endpoints: Vec<String> = (1..=REPLICAS).map(|i| format!("{:?}", ports.client(i))).collect();
    let mut text = format!(
        "endpoints = [{}]\nstate_dir = {:?}\nlisten = {:?}\n",
        endpoints.join(", "),
        folder.join(format!("agent-{id}")),
        ports.executions(id),
    );
    for worker in workers {
        let _ = write!(text, "[[workers]]\npool = \"default\"\nname = \"w-{worker}\"\n");
    }
    let file = folder.join(format!("agent-{id}.toml"));
    std::fs::write(&file, text)?;
    Ok(Process::new(format!("agent-{id}"), folder, "agent", &file))
}
