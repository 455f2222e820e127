//! `dev`: a whole cluster on this machine, made of real processes: this binary again, as replicas and agents.
//!
//! ```text
//!   remuda dev ──pipe──> remuda server x N  ──log──> D/logs/replica-i.log    D/dev.json: who runs, replaced atomically
//!       │ └──────pipe──> remuda agent  x M  ──log──> D/logs/agent-j.log      D/config/*.toml: what each was started with
//!       └─ stdout: the client endpoints, then `ready`
//! ```
//!
//! The pipe is each child's standard input. Nobody writes to it: its end tells the child that this process is gone.
//!
//! Never here: anything that a cluster started by hand could not do.

mod children;
mod config;
mod file;
mod ports;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use remuda_client::{Client, Error};
use remuda_wire::v1::{CreatePoolRequest, ListWorkersRequest, PoolSpec, worker::State};
use tokio_util::sync::CancellationToken;

use crate::args::DevArgs;
use crate::failure::Failure;
use crate::output;
use crate::signals::Signals;
use children::Children;
use ports::Ports;

/// Bounds of a development cluster.
mod limits {
    use std::time::Duration;

    /// From the first start until every worker is Available, on a loaded machine.
    pub(super) const READY: Duration = Duration::from_secs(180);
    /// Between two looks at what is not ready yet.
    pub(super) const LOOK: Duration = Duration::from_millis(50);
}

/// The pool of all workers.
const POOL: &str = "default";

/// The folder of one cluster: given and kept, or temporary and removed.
enum Folder {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn make(given: Option<PathBuf>) -> Result<Self, Failure> {
        let bad = |e: std::io::Error| Failure::other(format!("cannot make the data folder: {e}"));
        match given {
            Some(path) => {
                std::fs::create_dir_all(&path).map_err(bad)?;
                Ok(Self::Given(path.canonicalize().map_err(bad)?))
            }
            None => Ok(Self::Temporary(tempfile::Builder::new().prefix("remuda-dev-").tempdir().map_err(bad)?)),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    fn close(self) {
        if let Self::Temporary(folder) = self {
            let path = folder.path().to_owned();
            if let Err(error) = folder.close() {
                eprintln!("warning: cannot remove {}: {error}", path.display());
            }
        }
    }
}

pub(crate) async fn dev(args: DevArgs) -> ExitCode {
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

async fn serve(args: DevArgs) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let ports = Ports::take(args.base_port)?;
    let folder = Folder::make(args.data_dir.clone())?;
    eprintln!("data and logs: {}", folder.path().display());
    let children = Arc::new(Children::new(folder.path().to_owned(), !args.no_restart)?);
    let result = tokio::select! {
        result = bring_up(&args, &ports, folder.path(), &children) => match result {
            Ok(()) => tokio::select! {
                _ = signals.next() => Ok(()),
                why = children.hopeless() => Err(why),
            },
            Err(failure) => Err(failure),
        },
        why = children.hopeless() => Err(why),
        _ = signals.next() => Ok(()),
    };
    children.stop().await;
    folder.close();
    result
}

/// Starts everything, and says so once every worker is on offer.
async fn bring_up(args: &DevArgs, ports: &Ports, folder: &Path, children: &Arc<Children>) -> Result<(), Failure> {
    for id in 1..=args.replicas {
        children.start(config::replica(folder, ports, id, args.replicas)?);
    }
    let endpoints: Vec<String> = (1..=args.replicas).map(|id| ports.client(id)).collect();
    for endpoint in &endpoints {
        say(endpoint)?;
    }
    let client = Client::new(&endpoints)?;
    let until = Instant::now() + limits::READY;
    make_pool(&client, until).await?;
    for id in 1..=args.workers {
        children.start(config::agent(folder, ports, id, &endpoints)?);
    }
    wait_for_workers(&client, args.workers, until).await?;
    children.all_well();
    say("ready")
}

/// Says something on stdout; the cluster runs on when nobody reads it.
fn say(line: &str) -> Result<(), Failure> {
    match output::line(line) {
        Err(Failure::Unread) => Ok(()),
        said => said,
    }
}

async fn make_pool(client: &Client, until: Instant) -> Result<(), Failure> {
    loop {
        let spec = PoolSpec { description: "made by remuda dev".to_owned(), ..Default::default() };
        let request = CreatePoolRequest { pool_id: POOL.to_owned(), spec: Some(spec), ..Default::default() };
        match client.write(request).await {
            Ok(_) => return Ok(()),
            Err(error) if error.code() == tonic::Code::AlreadyExists => return Ok(()),
            Err(error) => again(error, until).await?,
        }
    }
}

async fn wait_for_workers(client: &Client, workers: u16, until: Instant) -> Result<(), Failure> {
    let wanted: Vec<String> = (1..=workers).map(|id| format!("pools/{POOL}/workers/{}", config::worker(id))).collect();
    loop {
        let request = ListWorkersRequest { parent: format!("pools/{POOL}"), page_size: 1000, ..Default::default() };
        match client.list(request).await {
            Ok(list) => {
                let available =
                    |name: &String| list.workers.iter().any(|w| w.name == *name && w.state() == State::Available);
                if wanted.iter().all(available) {
                    return Ok(());
                }
                if Instant::now() > until {
                    let late: Vec<_> = wanted.into_iter().filter(|name| !available(name)).collect();
                    return Err(Failure::Unhealthy(format!("not available in time: {}", late.join(", "))));
                }
                tokio::time::sleep(limits::LOOK).await;
            }
            Err(error) => again(error, until).await?,
        }
    }
}

/// Goes on after an error while there is time.
async fn again(error: Error, until: Instant) -> Result<(), Failure> {
    if Instant::now() > until {
        return Err(error.into());
    }
    tokio::time::sleep(limits::LOOK).await;
    Ok(())
}

/// Waits, but not longer than `token` permits. False when it was cancelled.
async fn pause(duration: Duration, token: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep(duration) => true,
        () = token.cancelled() => false,
    }
}
