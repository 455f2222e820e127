//! Words of a script to commands of the registry.
//!
//! What is left out is what the truth of the moment would be: `return w1` returns the live lease of `w1`, `report w1`
//! reports its open run, clean, under its session. What is stale is written out: `report w1 run=3`.

use std::error::Error;
use std::str::FromStr;
use std::sync::Arc;

use goldenscript::{ArgumentConsumer, Command as Line};
use remuda_registry::command::{
    AcquireWorker, Bootstrap, JobPresence, OpenSession, Operation, RunProgress, TrimTable, WorkerPresence,
};
use remuda_registry::frame::RequestMark;
use remuda_registry::lease::{JobOutcome, Renewal};
use remuda_registry::plan::{CleaningPlan, Receipt, StepOutcome};
use remuda_registry::pool::{Policy, PoolSpec};
use remuda_registry::selector::{Condition, Labels, Requirement, Selector};
use remuda_registry::worker::{RunStage, Then, Worker};
use remuda_registry::{
    AgentId, ClientId, ClusterId, Command, Digest, Identity, LogTime, Millis, PoolId, ReplicaId, Request, RequestId,
    Revision, SecretHash, SessionId, Token, WaiterId, WorkerId,
};

use crate::bench::{receipt, session_of};
use crate::script::Script;

type Parsed<T> = Result<T, Box<dyn Error>>;

/// The arguments of a line, taken one by one.
pub(crate) struct Args<'a>(ArgumentConsumer<'a>);

impl<'a> Args<'a> {
    pub(crate) fn new(line: &'a Line) -> Self {
        Self(line.consume_args())
    }

    /// The next word.
    pub(crate) fn word(&mut self) -> Option<&'a str> {
        self.0.next_pos()
    }

    fn need(&mut self) -> Parsed<&'a str> {
        self.word().ok_or_else(|| "a word is missing".into())
    }

    /// The value of a key.
    fn key(&mut self, key: &str) -> Option<&'a str> {
        self.0.take_key(key)
    }

    fn parsed<T: FromStr<Err: Error + 'static>>(&mut self, key: &str) -> Parsed<Option<T>> {
        Ok(self.key(key).map(str::parse).transpose()?)
    }

    fn millis(&mut self, key: &str) -> Parsed<Option<Millis>> {
        self.key(key).map(millis).transpose()
    }

    fn count(&mut self, key: &str) -> Parsed<Option<u32>> {
        self.parsed(key)
    }

    fn token(&mut self, key: &str) -> Parsed<Option<Token>> {
        Ok(self.parsed(key)?.map(Token))
    }

    pub(crate) fn duration(&mut self) -> Parsed<Millis> {
        millis(self.need()?)
    }

    pub(crate) fn number(&mut self) -> Parsed<u64> {
        Ok(self.need()?.parse()?)
    }

    /// Nothing is left.
    pub(crate) fn end(&self) -> Parsed<()> {
        self.0.reject_next()
    }

    /// Whether a bare word like `now` follows.
    fn flag(&mut self, flag: &str) -> Parsed<bool> {
        match self.word() {
            None => Ok(false),
            Some(word) if word == flag => Ok(true),
            Some(word) => Err(format!("unexpected {word}").into()),
        }
    }
}

fn millis(text: &str) -> Parsed<Millis> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits.parse()?;
    Ok(match &text[digits.len()..] {
        "ms" => Millis(number),
        "s" => Millis::secs(number),
        "m" => Millis::mins(number),
        "h" => Millis::hours(number),
        unit => return Err(format!("unknown unit {unit:?} in {text}").into()),
    })
}

/// `w1` is a worker of pool `ci`, `p/w1` one of pool `p`.
pub(crate) fn worker_id(text: &str) -> WorkerId {
    let (pool, name) = text.split_once('/').unwrap_or(("ci", text));
    WorkerId::new(pool, name)
}

/// Any text's stand-in for a hash.
fn secret(text: &str) -> SecretHash {
    let mut hash = [0; 32];
    let bytes = text.as_bytes();
    let length = bytes.len().min(hash.len());
    hash[..length].copy_from_slice(&bytes[..length]);
    SecretHash(hash)
}

/// `c/7` is numbered, anything else named. (A `#` would begin a comment.)
fn request_id(text: &str) -> Parsed<RequestId> {
    Ok(match text.split_once('/') {
        Some((client, seq)) => RequestId::Numbered { client: ClientId::from(client), seq: seq.parse()? },
        None => RequestId::Named(text.into()),
    })
}

fn identity(text: &str) -> Identity {
    let mut identity = [0; 16];
    for (index, byte) in text.bytes().enumerate() {
        identity[index % 16] ^= byte.rotate_left(u32::try_from(index % 7).expect("below seven"));
    }
    Identity(identity)
}

/// The request of a line; `id=` gives it a mark.
pub(crate) fn request(script: &Script, name: &str, args: &mut Args<'_>) -> Parsed<Request> {
    let mark = mark(script, args)?;
    let command = command(script, name, args)?;
    let mark = mark.map(|(mark, same)| RequestMark {
        identity: identity(same.unwrap_or(&format!("{} {:?}", mark.not_after, command))),
        ..mark
    });
    Ok(Request { mark, command })
}

/// `id=c/1 [not_after=60s] [retry=yes] [answered_below=1] [identity=text]`; `not_after` counts from the bootstrap.
fn mark<'a>(script: &Script, args: &mut Args<'a>) -> Parsed<Option<(RequestMark, Option<&'a str>)>> {
    let Some(id) = args.key("id") else { return Ok(None) };
    let not_after = args.millis("not_after")?;
    let mark = RequestMark {
        id: request_id(id)?,
        identity: Identity::default(),
        not_after: not_after.map_or(LogTime(script.bench.now) + Millis::secs(60), |at| LogTime(at.0)),
        retry: args.key("retry").is_some(),
        answered_below: args.parsed("answered_below")?.unwrap_or(0),
    };
    Ok(Some((mark, args.key("identity"))))
}

fn command(script: &Script, name: &str, args: &mut Args<'_>) -> Parsed<Command> {
    Ok(match name {
        "bootstrap" => bootstrap(args)?,
        "pool" => Command::CreatePool {
            pool: pool(args)?,
            spec: Box::new(spec(PoolSpec::default(), args)?),
            actor: actor(args),
        },
        "update-pool" => update_pool(script, args)?,
        "delete-pool" => Command::DeletePool { pool: pool(args)?, etag: args.parsed("etag")?, actor: actor(args) },
        "open" => open(script, args)?,
        "end-session" => Command::EndSession { session: SessionId(args.number()?) },
        "acquire" => acquire(args)?,
        "cancel" => cancel(script, args)?,
        "renew" => renew(script, args)?,
        "return" => begin_return(script, args)?,
        "progress" => progress(script, args)?,
        "report" => report(script, args)?,
        "cordon" | "uncordon" | "drain" | "maintain" | "resume" | "retire" | "release" | "hold" => operate(name, args)?,
        "ack-retired" => {
            let (worker, row) = worker(script, args)?;
            let session = args.parsed("session")?.map_or(session_of(row.as_ref()), SessionId);
            Command::AcknowledgeRetired { worker, session }
        }
        "drop-waiter" => Command::DropWaiter { waiter: WaiterId(args.number()?) },
        "expire-waiter" => Command::ExpireWaiter { waiter: WaiterId(args.number()?) },
        "grant-owed" => Command::GrantOwed { pool: pool(args)? },
        "trim" => Command::Trim { table: trim_table(args.need()?)? },
        "digest" => Command::ReportDigest {
            mark: Revision(args.number()?),
            replica: ReplicaId(args.number()?),
            digest: Digest([u8::try_from(args.number()?)?; 16]),
        },
        "tick" => Command::Tick,
        "raise-level" => Command::RaiseFeatureLevel { level: u32::try_from(args.number()?)? },
        _ => timed(script, name, args)?,
    })
}

/// Commands that name a worker and the token they believe in.
fn timed(script: &Script, name: &str, args: &mut Args<'_>) -> Parsed<Command> {
    let (worker, row) = worker(script, args)?;
    let newest = row.as_ref().map_or(Token(0), |row| row.token);
    let token = args.token("token")?.unwrap_or(newest);
    Ok(match name {
        "end-lease" => Command::EndLease { worker, epoch: args.token("epoch")?.unwrap_or(newest) },
        "end-run" => Command::EndRun { worker, run: args.token("run")?.unwrap_or(newest) },
        "admit" => Command::Admit { worker, token },
        "idle-check" => Command::BeginIdleCheck { worker, token },
        "retry" => Command::RetryWorker { worker, token },
        "give-up" => Command::GiveUpWorker { worker, token },
        "remove" => Command::RemoveWorker { worker, token },
        _ => return Err(format!("unknown command {name}").into()),
    })
}

fn worker(script: &Script, args: &mut Args<'_>) -> Parsed<(WorkerId, Option<Worker>)> {
    let id = worker_id(args.need()?);
    let row = script.bench.worker(&id);
    Ok((id, row))
}

fn pool(args: &mut Args<'_>) -> Parsed<PoolId> {
    Ok(PoolId::from(args.need()?))
}

fn actor(args: &mut Args<'_>) -> Arc<str> {
    args.key("actor").unwrap_or("alice").into()
}

fn bootstrap(args: &mut Args<'_>) -> Parsed<Command> {
    let voters = args.key("voters").unwrap_or("1,2,3").split(',');
    Ok(Command::Bootstrap(Bootstrap {
        cluster: ClusterId::from(args.key("cluster").unwrap_or("test")),
        unix_ms: args.parsed("unix_ms")?.unwrap_or(0),
        voters: voters.map(|voter| Ok(ReplicaId(voter.parse()?))).collect::<Parsed<_>>()?,
    }))
}

fn spec(mut spec: PoolSpec, args: &mut Args<'_>) -> Parsed<PoolSpec> {
    macro_rules! set {
        ($($key:literal $kind:ident $($field:ident).+),+ $(,)?) => {$(
            if let Some(value) = args.$kind($key)? {
                spec.$($field).+ = value.into();
            }
        )+};
    }
    set! {
        "ttl" millis lease.ttl, "lease_max" millis lease.max, "start_within" millis cleaning.start_within,
        "queue_max" millis cleaning.queue_max, "timeout" millis cleaning.timeout,
        "attempts" count cleaning.attempts, "backoff" millis cleaning.backoff,
        "backoff_max" millis cleaning.backoff_max, "ready_max_age" millis ready_max_age,
        "idle_check" millis idle_check, "retry_after" millis maintenance.retry_after,
        "retry_after_max" millis maintenance.retry_after_max, "retries" count maintenance.retries,
        "max_age" millis reuse.max_age, "lost" millis retention.lost, "retired" millis retention.retired,
        "hold_max_age" millis retention.hold_max_age, "priority_max" count priority_max,
    }
    if let Some(max_uses) = args.parsed("max_uses")? {
        spec.reuse.max_uses = Some(max_uses);
    }
    if let Some(runnable) = args.parsed("runnable_max")? {
        spec.thresholds.runnable_per_cpu_permille_max = Some(runnable);
    }
    spec.policy = match args.key("policy") {
        None => spec.policy,
        Some("lru") => Policy::LeastRecentlyUsed,
        Some("mru") => Policy::MostRecentlyUsed,
        Some("least_used") => Policy::LeastUsed,
        Some(policy) => return Err(format!("unknown policy {policy}").into()),
    };
    if let Some(probe) = args.key("probe") {
        spec.plan.probes.push(remuda_registry::plan::Probe {
            name: probe.into(),
            action: remuda_registry::plan::ProbeAction::Tcp { address: "localhost:1".into() },
            initial_delay: Millis(0),
            period: Millis::secs(1),
            timeout: Millis::secs(1),
            success_threshold: 1,
            failure_threshold: 3,
        });
    }
    if args.key("steps") == Some("none") {
        spec.plan.steps.clear();
    }
    Ok(spec)
}

fn update_pool(script: &Script, args: &mut Args<'_>) -> Parsed<Command> {
    let pool = pool(args)?;
    let last = script.specs.range((pool.clone(), 0)..=(pool.clone(), u64::MAX)).next_back();
    let old = last.map_or_else(PoolSpec::default, |(_, spec)| (**spec).clone());
    let etag = args.parsed("etag")?;
    Ok(Command::UpdatePool { pool, spec: Box::new(spec(old, args)?), etag, actor: actor(args) })
}

/// `open a1 w1 w2 [inc=2] [machine=m1] [boot=b1] [key=k] [labels=a:b,c:d] [lost=w1] [epoch=3]`.
fn open(script: &Script, args: &mut Args<'_>) -> Parsed<Command> {
    let agent = args.need()?;
    let labels: Labels = pairs(args.key("labels"));
    let lost = args.key("lost");
    let epoch = args.token("epoch")?;
    let mut open = OpenSession {
        agent: AgentId::from(agent),
        key: secret(args.key("key").unwrap_or(agent)),
        incarnation: args.parsed("inc")?.unwrap_or(1),
        machine: args.key("machine").unwrap_or(agent).into(),
        boot: args.key("boot").unwrap_or("boot-1").into(),
        endpoint: "http://host:1".into(),
        capabilities: Vec::new(),
        missing_capabilities: Vec::new(),
        version: "test".into(),
        workers: Vec::new(),
    };
    while let Some(name) = args.word() {
        let worker = worker_id(name);
        let lease = script.bench.worker(&worker).and_then(|row| row.lease().map(|lease| lease.epoch));
        let job = if lost == Some(name) { JobPresence::Lost } else { JobPresence::Alive };
        open.workers.push(WorkerPresence {
            worker,
            labels: labels.clone(),
            annotations: Labels::new(),
            epoch: epoch.or(lease),
            job,
        });
    }
    Ok(Command::OpenSession(Box::new(open)))
}

/// `a:b,c:d`.
fn pairs(text: Option<&str>) -> Labels {
    let pairs = text.unwrap_or_default().split(',').filter_map(|pair| pair.split_once(':'));
    pairs.map(|(key, value)| (key.into(), value.into())).collect()
}

/// `a:b` must be so, `!a` must be absent, `a` present.
fn selector(text: Option<&str>) -> Selector {
    let terms = text.unwrap_or_default().split(',').filter(|term| !term.is_empty());
    let requirement = |term: &str| match (term.split_once(':'), term.strip_prefix('!')) {
        (Some((key, value)), _) => Requirement { key: key.into(), condition: Condition::In([value.into()].into()) },
        (None, Some(key)) => Requirement { key: key.into(), condition: Condition::DoesNotExist },
        (None, None) => Requirement { key: term.into(), condition: Condition::Exists },
    };
    Selector::new(terms.map(requirement).collect())
}

fn acquire(args: &mut Args<'_>) -> Parsed<Command> {
    let job = args.need()?;
    Ok(Command::AcquireWorker(Box::new(AcquireWorker {
        pool: PoolId::from(args.key("pool").unwrap_or("ci")),
        selector: selector(args.key("select")),
        name: args.key("name").map(Into::into),
        job: job.into(),
        job_labels: Labels::new(),
        holder: "bob".into(),
        secret: secret(args.key("secret").unwrap_or(job)),
        ttl: args.millis("ttl")?,
        wait: args.millis("wait")?.unwrap_or(Millis(0)),
        priority: args.parsed("priority")?.unwrap_or(0),
    })))
}

fn cancel(script: &Script, args: &mut Args<'_>) -> Parsed<Command> {
    let request = request_id(args.need()?)?;
    let until = args.millis("until")?;
    let not_after = until.map_or(LogTime(script.bench.now) + Millis::secs(60), |at| LogTime(at.0));
    Ok(Command::CancelAcquire { request, not_after })
}

/// `renew w1 w2 [epoch=3] [secret=j1] [ttl=10s]`.
fn renew(script: &Script, args: &mut Args<'_>) -> Parsed<Command> {
    let (epoch, ttl, told) = (args.token("epoch")?, args.millis("ttl")?, args.key("secret"));
    let mut renewals = Vec::new();
    while let Some(name) = args.word() {
        let worker = worker_id(name);
        let row = script.bench.worker(&worker);
        let lease = row.as_ref().and_then(|row| row.lease());
        let known = lease.map_or(SecretHash::default(), |lease| lease.secret);
        renewals.push(Renewal {
            worker,
            epoch: epoch.or(lease.map(|lease| lease.epoch)).unwrap_or(Token(0)),
            secret: told.map_or(known, secret),
            ttl,
        });
    }
    Ok(Command::RenewLeases { renewals })
}

/// `return w1 [job=j1] [epoch=3] [secret=j1] [outcome=broken]`.
fn begin_return(script: &Script, args: &mut Args<'_>) -> Parsed<Command> {
    let (worker, row) = worker(script, args)?;
    let lease = row.as_ref().and_then(|row| row.lease());
    let job = args.key("job").map(Into::into).or(lease.map(|lease| lease.job.clone()));
    let job = job.unwrap_or_else(|| "none".into());
    let told = args.key("secret").map(secret).or(lease.map(|lease| lease.secret));
    Ok(Command::BeginReturn {
        worker,
        epoch: args.token("epoch")?.or(lease.map(|lease| lease.epoch)).unwrap_or(Token(0)),
        secret: told.unwrap_or_else(|| secret(job.as_str())),
        job,
        outcome: match args.key("outcome") {
            None | Some("success") => JobOutcome::Success,
            Some("failure") => JobOutcome::Failure,
            Some("broken") => JobOutcome::Broken,
            Some(outcome) => return Err(format!("unknown outcome {outcome}").into()),
        },
    })
}

/// `progress w1 queued|started [run=3] [session=1]`.
fn progress(script: &Script, args: &mut Args<'_>) -> Parsed<Command> {
    let (worker, row) = worker(script, args)?;
    let stage = match args.need()? {
        "queued" => RunStage::Queued,
        "started" => RunStage::Started,
        stage => return Err(format!("unknown stage {stage}").into()),
    };
    let run = args.token("run")?.or(row.as_ref().map(|row| row.token)).unwrap_or(Token(0));
    let session = args.parsed("session")?.map_or(session_of(row.as_ref()), SessionId);
    Ok(Command::ReportProgress { runs: vec![RunProgress { worker, run, session, stage }] })
}

/// `report w1 [run=3] [session=1]` and what went wrong: `failed=stop`, `timed_out=stop`, `unobserved=files`,
/// `omit=files`, `low=disk|inodes|memory`, `runnable=9000`, `probe_failed=db`, `unmeasured=disk`, `shared=yes`.
fn report(script: &Script, args: &mut Args<'_>) -> Parsed<Command> {
    let (worker, row) = worker(script, args)?;
    let cleaning = row.as_ref().and_then(|row| row.cleaning());
    let closed = row.as_ref().and_then(|row| row.closed.as_ref());
    let run = args.token("run")?.or(cleaning.map(|open| open.run)).or(closed.map(|closed| closed.run));
    let session = args.parsed("session")?.map_or(session_of(row.as_ref()), SessionId);
    let latest = script.specs.range((worker.pool.clone(), 0)..=(worker.pool.clone(), u64::MAX)).next_back();
    let generation = cleaning.map_or(latest.map_or(1, |((_, generation), _)| *generation), |open| open.generation);
    let spec = script.specs.get(&(worker.pool.clone(), generation));
    let mut plan = spec.map_or_else(CleaningPlan::default, |spec| spec.plan.clone());
    if cleaning.is_some_and(|open| open.stop_only.is_some()) {
        plan = plan.stop_only();
    }
    let mut receipt = receipt::clean(&plan, args.parsed("generation")?.unwrap_or(generation));
    spoil(&mut receipt, args)?;
    Ok(Command::CompleteCleaning { worker, run: run.unwrap_or(Token(0)), session, receipt: Box::new(receipt) })
}

fn spoil(receipt: &mut Receipt, args: &mut Args<'_>) -> Parsed<()> {
    for (key, outcome) in [
        ("failed", StepOutcome::Failed),
        ("timed_out", StepOutcome::TimedOut),
        ("unsupported", StepOutcome::Unsupported),
        ("unobserved", StepOutcome::Done),
    ] {
        if let Some(name) = args.key(key) {
            let step = receipt::step(receipt, name).ok_or_else(|| format!("no step {name}"))?;
            (step.outcome, step.observed) = (outcome, false);
        }
    }
    if let Some(name) = args.key("omit") {
        receipt.steps.retain(|step| &*step.name != name);
    }
    match args.key("low") {
        None => {}
        Some("disk") => receipt.measures.disk_free_bytes = Some(1),
        Some("inodes") => receipt.measures.inodes_free_permille = Some(1),
        Some("memory") => receipt.measures.memory_available_bytes = Some(1),
        Some(what) => return Err(format!("unknown measure {what}").into()),
    }
    if args.key("unmeasured") == Some("disk") {
        receipt.measures.disk_free_bytes = None;
    }
    if let Some(runnable) = args.parsed("runnable")? {
        receipt.measures.runnable_per_cpu_permille = Some(runnable);
    }
    if let Some(name) = args.key("probe_failed") {
        let check = receipt.checks.iter_mut().find(|check| &*check.name == name);
        check.ok_or_else(|| format!("no probe {name}"))?.passed = false;
    }
    receipt.shared_residue = args.key("shared").is_some();
    Ok(())
}

/// `drain w1 [within=10s] [then=ready] [actor=alice] [reason=why] [etag=1]`; `maintain`, `retire`, `hold`: `[now]`.
fn operate(name: &str, args: &mut Args<'_>) -> Parsed<Command> {
    let worker = worker_id(args.need()?);
    let operation = match name {
        "cordon" => Operation::Cordon,
        "uncordon" => Operation::Uncordon,
        "drain" => Operation::Drain {
            within: args.millis("within")?.unwrap_or(Millis(0)),
            then: match args.key("then") {
                None | Some("ready") => Then::Ready,
                Some("maintenance") => Then::Maintenance,
                Some("retired") => Then::Retired,
                Some(then) => return Err(format!("unknown end {then}").into()),
            },
        },
        "maintain" => Operation::Maintain { now: args.flag("now")? },
        "resume" => Operation::Resume,
        "retire" => Operation::Retire { now: args.flag("now")? },
        "release" => Operation::Release,
        "hold" => Operation::Hold { now: args.flag("now")? },
        _ => return Err(format!("unknown operation {name}").into()),
    };
    let reason = args.key("reason").unwrap_or("because").into();
    Ok(Command::Operate { worker, operation, actor: actor(args), reason, etag: args.parsed("etag")? })
}

fn trim_table(text: &str) -> Parsed<TrimTable> {
    Ok(match text {
        "events" => TrimTable::Events,
        "returns" => TrimTable::Returns,
        "outcomes" => TrimTable::Outcomes,
        _ => return Err(format!("unknown table {text}").into()),
    })
}
