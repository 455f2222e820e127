//! The client port: connections in, gRPC services behind their front.
//!
//! The accept loop is ours, so that the end of a replica is bounded: connections are asked to finish, and what has not
//! finished by the deadline is dropped. tonic's own shutdown would wait for an idle client without bound.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use remuda_wire::FILE_DESCRIPTOR_SET;
use remuda_wire::v1::agent_service_server::AgentServiceServer;
use remuda_wire::v1::cluster_service_server::ClusterServiceServer;
use remuda_wire::v1::event_service_server::EventServiceServer;
use remuda_wire::v1::lease_service_server::LeaseServiceServer;
use remuda_wire::v1::pool_service_server::PoolServiceServer;
use remuda_wire::v1::worker_service_server::WorkerServiceServer;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::service::Replica;
use crate::service::agent::AgentService;
use crate::service::cluster::ClusterService;
use crate::service::event::EventService;
use crate::service::front::Front;
use crate::service::lease::LeaseService;
use crate::service::pool::PoolService;
use crate::service::worker::WorkerService;

/// Bounds of the client port.
mod limits {
    use std::time::Duration;

    /// Connections at once; more wait in the listener's queue.
    pub(super) const CONNECTIONS: usize = 16_384;
    /// Calls at once on one connection.
    pub(super) const STREAMS: u32 = 1_024;
    /// A silent connection is asked whether it lives.
    pub(super) const PING_EVERY: Duration = Duration::from_secs(30);
    /// And dropped without an answer.
    pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(10);
    /// For connections to finish at the end: calls that wait are ended by then, and what is left of the shutdown's 15 s is
    /// the log's. A connection that never spoke would not finish at all.
    pub(super) const FINISH: Duration = Duration::from_secs(4);
    /// Pause after a failed accept, such as too many open files.
    pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
}

/// The services' names in the health protocol; the empty one is the whole server.
const SERVICES: [&str; 8] = [
    "",
    "remuda-readiness",
    "remuda.v1.PoolService",
    "remuda.v1.WorkerService",
    "remuda.v1.LeaseService",
    "remuda.v1.EventService",
    "remuda.v1.AgentService",
    "remuda.v1.ClusterService",
];

/// Says in the health protocol whether the replica serves.
pub async fn set_health(reporter: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}

/// All services of a replica.
///
/// # Errors
/// Where the descriptors do not make a reflection service.
pub fn routes(replica: &Arc<Replica>) -> Result<(Routes, HealthReporter), tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut routes = Routes::new(health)
        .add_service(PoolServiceServer::new(PoolService::new(replica.clone())))
        .add_service(WorkerServiceServer::new(WorkerService::new(replica.clone())))
        .add_service(LeaseServiceServer::new(LeaseService::new(replica.clone())))
        .add_service(EventServiceServer::new(EventService::new(replica.clone())))
        .add_service(AgentServiceServer::new(AgentService::new(replica.clone())))
        .add_service(ClusterServiceServer::new(ClusterService::new(replica.clone())));
    if replica.settings.reflection {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        routes = routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?);
    }
    Ok((routes.prepare(), reporter))
}

/// Accepts until `closed`, then waits until every connection has finished, though not for long.
pub async fn serve(listener: TcpListener, routes: Routes, replica: Arc<Replica>, closed: impl Future<Output = ()>) {
    let mut builder = Builder::new(TokioExecutor::new()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits::PING_EVERY)
        .keep_alive_timeout(limits::PING_TIMEOUT)
        .max_concurrent_streams(limits::STREAMS);
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(limits::CONNECTIONS));
    tokio::pin!(closed);
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { break };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = &mut closed => break,
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection delays small writes");
        }
        let service = TowerToHyperService::new(Front::new(routes.clone(), replica.clone()));
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits::FINISH, graceful.shutdown()).await.is_err() {
        tracing::info!("connections that did not finish are dropped");
    }
}

/// How often health follows readiness.
pub const HEALTH_EVERY: Duration = Duration::from_millis(500);
