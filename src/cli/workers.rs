//! `worker`: looking at workers, and what operators do with them.
//!
//! Never here: leases, see `leases.rs`.

use remuda_client::{Client, WorkerId};
use remuda_wire::v1::{self, Then, worker::State};

use crate::args::{Context, StateWord, ThenWord, WorkerCommand, WorkerListArgs, WorkerOrderArgs};
use crate::failure::Failure;
use crate::{names, output};

/// Makes the request of an order from what every order has; further fields follow.
macro_rules! order {
    ($client:expr, $args:expr, $request:ident { $($field:ident = $value:expr),* }) => {{
        let args: WorkerOrderArgs = $args;
        let worker: WorkerId = names::worker(&$client, &args.worker).await?;
        let actor = args.actor.unwrap_or_else(actor);
        let request = v1::$request { name: worker.to_string(), actor, reason: args.reason, $($field: $value,)* ..Default::default() };
        $client.write(request).await?
    }};
}

pub(crate) async fn worker(context: &Context, command: WorkerCommand) -> Result<(), Failure> {
    let (client, format) = (context.client()?, context.output);
    match command {
        WorkerCommand::List(args) => output::print(format, &list(&client, args).await?),
        WorkerCommand::Get(args) => {
            let worker = names::worker(&client, &args.worker).await?;
            let request = v1::GetWorkerRequest { name: worker.to_string(), read: None };
            output::print(format, &client.ask(request).await?)
        }
        WorkerCommand::Cordon(args) => output::print(format, &order!(client, args, CordonWorkerRequest {})),
        WorkerCommand::Uncordon(args) => output::print(format, &order!(client, args, UncordonWorkerRequest {})),
        WorkerCommand::Resume(args) => output::print(format, &order!(client, args, ResumeWorkerRequest {})),
        WorkerCommand::Release(args) => output::print(format, &order!(client, args, ReleaseWorkerRequest {})),
        WorkerCommand::Retire(args) => {
            let now = args.now;
            output::print(format, &order!(client, args.order, RetireWorkerRequest { now = now }))
        }
        WorkerCommand::Maintenance(args) => {
            let (now, hold) = (args.now, args.hold);
            output::print(format, &order!(client, args.order, SetMaintenanceRequest { now = now, hold = hold }))
        }
        WorkerCommand::Drain(args) => {
            let then = match args.then {
                ThenWord::Ready => Then::Ready,
                ThenWord::Maintenance => Then::Maintenance,
                ThenWord::Retired => Then::Retired,
            };
            let deadline = args.deadline.and_then(|d| d.try_into().ok());
            let request = order!(client, args.order, DrainWorkerRequest { deadline = deadline, then = then.into() });
            output::print(format, &request)
        }
    }
}

async fn list(client: &Client, args: WorkerListArgs) -> Result<v1::ListWorkersResponse, Failure> {
    let consistency = if args.stale { v1::Consistency::Stale } else { v1::Consistency::Linearizable };
    let request = v1::ListWorkersRequest {
        parent: args.pool.as_deref().map(names::pool).unwrap_or_default(),
        selector: args.selector,
        states: args.state.into_iter().map(|s| state(s).into()).collect(),
        page_size: 1000,
        page_token: String::new(),
        read: Some(v1::ReadOptions { consistency: consistency.into(), min_revision: 0 }),
    };
    Ok(client.list(request).await?)
}

fn state(word: StateWord) -> State {
    match word {
        StateWord::Cleaning => State::Cleaning,
        StateWord::Ready => State::Ready,
        StateWord::Available => State::Available,
        StateWord::Busy => State::Busy,
        StateWord::Maintenance => State::Maintenance,
        StateWord::Lost => State::Lost,
        StateWord::Retired => State::Retired,
    }
}

/// Who asks, as far as this process knows; at most what the API takes.
fn actor() -> String {
    const CHARS_MAX: usize = 64;
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let user = user.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{user}@{host}").chars().take(CHARS_MAX).collect()
}
