//! The runner of a script: applies its commands on a bench and writes down what came of them.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

use goldenscript::{Command as Line, Context, Runner};
use remuda_registry::pool::PoolSpec;
use remuda_registry::worker::Worker;
use remuda_registry::{Applied, Command, PoolId, Request, WorkerId, due};

use crate::bench::Bench;
use crate::parse::{self, Args};

/// What a script remembers beside the bench.
pub(crate) struct Script {
    pub(crate) bench: Bench,
    /// Settings of pools by generation, as the script made them.
    pub(crate) specs: BTreeMap<(PoolId, u64), Arc<PoolSpec>>,
    /// Requests of an entry in the making.
    batch: Option<Vec<Request>>,
}

type Output = Result<String, Box<dyn Error>>;

impl Script {
    pub(crate) fn new() -> Self {
        Self { bench: Bench::new(), specs: BTreeMap::new(), batch: None }
    }

    /// Applies or gathers a request.
    fn request(&mut self, request: Request) -> Output {
        match &mut self.batch {
            Some(batch) => {
                batch.push(request);
                Ok(String::new())
            }
            None => self.entry(vec![request]),
        }
    }

    /// Applies an entry and tells all about it.
    fn entry(&mut self, requests: Vec<Request>) -> Output {
        let before = self.bench.workers();
        let saved: Vec<_> = requests.iter().filter_map(|request| spec_of(&request.command)).collect();
        let applied = self.bench.entry(requests);
        for (pool, spec) in saved {
            let generation = self.specs.keys().filter(|(known, _)| *known == pool).count() as u64 + 1;
            if applied.results.iter().any(|result| matches!(result, Ok(remuda_registry::Outcome::PoolSaved { .. }))) {
                self.specs.insert((pool, generation), spec);
            }
        }
        self.tell(&applied, &before)
    }

    fn tell(&self, applied: &Applied, before: &BTreeMap<WorkerId, Worker>) -> Output {
        let mut out = String::new();
        for result in &applied.results {
            match result {
                Ok(outcome) => writeln!(out, "@{} {outcome}", self.bench.revision)?,
                Err(refusal) => writeln!(out, "@{} refused {}: {refusal}", self.bench.revision, refusal.code())?,
            }
        }
        for event in &applied.events {
            writeln!(out, "  * {event}")?;
        }
        if applied.mark {
            writeln!(out, "  * (digest mark)")?;
        }
        let after = self.bench.workers();
        for (id, worker) in &after {
            if before.get(id) != Some(worker) {
                writeln!(out, "  = {}", show(worker))?;
            }
        }
        for id in before.keys().filter(|id| !after.contains_key(id)) {
            writeln!(out, "  - {id}")?;
        }
        Ok(out)
    }

    /// Applies what is due until nothing is; each round is one entry.
    fn settle(&mut self) -> Output {
        let mut out = String::new();
        for _ in 0..100 {
            let owed = due(&self.bench.state);
            if owed.is_empty() {
                return Ok(out);
            }
            let names: Vec<_> = owed.iter().map(Command::name).collect();
            writeln!(out, "due {}", names.join(" "))?;
            out += &self.entry(owed.into_iter().map(Request::unmarked).collect())?;
        }
        Err(format!("after 100 rounds there is still due: {:?}", due(&self.bench.state)).into())
    }

    fn show(&self, args: &mut Args<'_>) -> Output {
        let mut out = String::new();
        let only = args.word();
        for (id, worker) in self.bench.workers() {
            if only.is_none_or(|only| parse::worker_id(only) == id) {
                writeln!(out, "= {}", show(&worker))?;
            }
        }
        Ok(if out.is_empty() { "none\n".into() } else { out })
    }

    fn due(&self) -> Output {
        let owed = due(&self.bench.state);
        let mut out = String::new();
        for command in &owed {
            writeln!(out, "{command:?}")?;
        }
        Ok(if out.is_empty() { "nothing\n".into() } else { out })
    }
}

impl Runner for Script {
    type Command = Line;

    fn run(&mut self, line: &Line, _context: &Context) -> Output {
        let mut args = Args::new(line);
        let out = match line.name.as_str() {
            "after" => {
                self.bench.now += args.duration()?.0;
                String::new()
            }
            "wait" => {
                self.bench.now += args.duration()?.0;
                self.entry(vec![Request::unmarked(Command::Tick)])?
            }
            "term" => {
                self.bench.term = args.number()?;
                String::new()
            }
            "gap" => {
                self.bench.gap = true;
                String::new()
            }
            "begin" => {
                self.batch = Some(Vec::new());
                String::new()
            }
            "commit" => {
                let requests = self.batch.take().ok_or("commit without begin")?;
                self.entry(requests)?
            }
            "due" => self.due()?,
            "settle" => self.settle()?,
            "show" => self.show(&mut args)?,
            _ => {
                let request = parse::request(self, &line.name, &mut args)?;
                self.request(request)?
            }
        };
        args.end()?;
        Ok(out)
    }

    fn end_script(&mut self) -> Result<(), Box<dyn Error>> {
        let digest = self.bench.state.digest();
        let (reloaded, replayed) = (self.bench.reloaded(), self.bench.replayed());
        reloaded.check()?;
        if reloaded.digest() != digest {
            return Err("the state that its rows make has another digest".into());
        }
        if replayed.digest() != digest {
            return Err("the state that its log makes has another digest".into());
        }
        if due(&reloaded) != due(&self.bench.state) {
            return Err("what is due after a restart differs".into());
        }
        Ok(())
    }
}

fn spec_of(command: &Command) -> Option<(PoolId, Arc<PoolSpec>)> {
    if let Command::CreatePool { pool, spec, .. } | Command::UpdatePool { pool, spec, .. } = command {
        return Some((pool.clone(), Arc::new((**spec).clone())));
    }
    None
}

/// A worker's row in one line.
fn show(worker: &Worker) -> String {
    let mut line = format!("{} {}", worker.id, worker.state);
    if let Some(cleaning) = worker.cleaning() {
        if cleaning.not_before > cleaning.assigned.at {
            line += &format!(" not_before={}", cleaning.not_before);
        }
        if let Some(why) = cleaning.stop_only {
            line += &format!(" stop_only={why}");
        }
    }
    if let Some(session) = worker.session {
        line += &format!(" session={session}");
    }
    line += &format!(" token={} uses={}", worker.token, worker.uses);
    if worker.ladder > 0 {
        line += &format!(" ladder={}", worker.ladder);
    }
    if let Some(order) = &worker.cordon {
        line += &format!(" cordoned_by={}", order.actor);
    }
    if let Some(drain) = &worker.drain {
        line += &format!(" drain_at={}", drain.deadline);
    }
    if let Some(next) = &worker.next {
        line += &format!(" next={}", next.then);
    }
    if worker.released.is_some() {
        line += " released";
    }
    line
}
