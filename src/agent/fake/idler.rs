//! A cleaner that does nothing and keeps a log of it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use remuda_wire::v1;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::job::RunOrder;
use crate::runner::Cleaner;

/// A cleaner that does nothing, for as long as it is held.
#[derive(Default)]
pub(crate) struct Idler {
    hold: watch::Sender<bool>,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    at_work: Vec<(String, u64)>,
    finished: Vec<(String, u64)>,
    most: usize,
    overlapped: bool,
}

impl Idler {
    /// Holds runs, those under way too, or lets them go.
    pub(crate) fn hold(&self, hold: bool) {
        self.hold.send_replace(hold);
    }

    /// Runs under way.
    pub(crate) fn at_work(&self) -> Vec<(String, u64)> {
        self.log.lock().at_work.clone()
    }

    /// Runs that were carried out to the end.
    pub(crate) fn finished(&self) -> Vec<(String, u64)> {
        self.log.lock().finished.clone()
    }

    /// How many were at work at once, at most.
    pub(crate) fn most_at_once(&self) -> usize {
        self.log.lock().most
    }

    /// Whether a worker ever had two at once.
    pub(crate) fn overlapped(&self) -> bool {
        self.log.lock().overlapped
    }
}

impl Cleaner for Idler {
    fn clean(
        &self,
        worker: &str,
        order: &RunOrder,
        cancel: CancellationToken,
    ) -> BoxFuture<'static, Option<v1::CleaningReceipt>> {
        let (mut hold, log) = (self.hold.subscribe(), Arc::clone(&self.log));
        let (entry, plan) = ((worker.to_owned(), order.run), Arc::clone(&order.plan));
        Box::pin(async move {
            {
                let mut log = log.lock();
                log.overlapped |= log.at_work.iter().any(|(other, _)| *other == entry.0);
                log.at_work.push(entry.clone());
                log.most = log.most.max(log.at_work.len());
            }
            let done = tokio::select! {
                () = async { drop(hold.wait_for(|hold| !hold).await) } => true,
                () = cancel.cancelled() => {
                    // What is cancelled takes its time to end.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    false
                }
            };
            let mut log = log.lock();
            log.at_work.retain(|other| *other != entry);
            if !done {
                return None;
            }
            log.finished.push(entry);
            let result =
                |step: &v1::Step| v1::StepResult { name: step.name.clone(), observed: true, ..Default::default() };
            let steps = plan.steps.iter().map(result).collect();
            Some(v1::CleaningReceipt { version: 1, steps, ..Default::default() })
        })
    }
}
