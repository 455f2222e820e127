//! Every call of the public API, as a property of its request message.
//!
//! A request knows its service, its method and its answer, and a write knows where its request options go. So the rest
//! of the crate has one way to send, and `client.ask(GetWorkerRequest { .. })` is checked by the compiler.
//!
//! Never here: trying again, see `retry.rs`.

use std::time::Duration;

use remuda_wire::v1::{self, RequestOptions, ResponseHeader};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::retry::Headed;

/// A request of the public API with its one answer.
pub trait Call: Clone + Send + Sync + 'static {
    /// What answers it.
    type Answer: Headed + Send + 'static;

    /// Sends it once.
    fn send(
        self,
        channel: Channel,
        timeout: Duration,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

/// A request that has an effect, and so carries what makes it safe to send again.
pub trait Write: Call {
    /// Sets the request options.
    fn stamp(&mut self, options: RequestOptions);
}

/// A request for a list in pages.
pub trait Paged: Call {
    /// Asks for the page of this token.
    fn at_page(&mut self, token: String);
    /// The token of the page after this answer; empty at the end.
    fn next_page(answer: &Self::Answer) -> &str;
    /// Adds a later page to an earlier one.
    fn join(whole: &mut Self::Answer, page: Self::Answer);
}

macro_rules! calls {
    ($($client:ty { $($request:ident => $method:ident, $answer:ident;)+ })+) => {$($(
        impl Headed for v1::$answer {
            fn header(&self) -> Option<&ResponseHeader> {
                self.header.as_ref()
            }
        }

        impl Call for v1::$request {
            type Answer = v1::$answer;

            async fn send(self, channel: Channel, timeout: Duration) -> Result<Response<Self::Answer>, Status> {
                let mut request = Request::new(self);
                request.set_timeout(timeout);
                <$client>::new(channel).$method(request).await
            }
        }
    )+)+};
}

calls! {
    v1::pool_service_client::PoolServiceClient<Channel> {
        CreatePoolRequest => create_pool, CreatePoolResponse;
        GetPoolRequest => get_pool, GetPoolResponse;
        ListPoolsRequest => list_pools, ListPoolsResponse;
        UpdatePoolRequest => update_pool, UpdatePoolResponse;
        DeletePoolRequest => delete_pool, DeletePoolResponse;
        GetPoolStatsRequest => get_pool_stats, GetPoolStatsResponse;
    }
    v1::worker_service_client::WorkerServiceClient<Channel> {
        GetWorkerRequest => get_worker, GetWorkerResponse;
        ListWorkersRequest => list_workers, ListWorkersResponse;
        CordonWorkerRequest => cordon_worker, CordonWorkerResponse;
        UncordonWorkerRequest => uncordon_worker, UncordonWorkerResponse;
        DrainWorkerRequest => drain_worker, DrainWorkerResponse;
        SetMaintenanceRequest => set_maintenance, SetMaintenanceResponse;
        ResumeWorkerRequest => resume_worker, ResumeWorkerResponse;
        RetireWorkerRequest => retire_worker, RetireWorkerResponse;
        ReleaseWorkerRequest => release_worker, ReleaseWorkerResponse;
    }
    v1::lease_service_client::LeaseServiceClient<Channel> {
        AcquireWorkerRequest => acquire_worker, AcquireWorkerResponse;
        CancelAcquireRequest => cancel_acquire, CancelAcquireResponse;
        RenewLeasesRequest => renew_leases, RenewLeasesResponse;
        ReturnWorkerRequest => return_worker, ReturnWorkerResponse;
        GetLeaseRequest => get_lease, GetLeaseResponse;
        GetReturnRequest => get_return, GetReturnResponse;
        ListReturnsRequest => list_returns, ListReturnsResponse;
        GetRequestOutcomeRequest => get_request_outcome, GetRequestOutcomeResponse;
    }
    v1::agent_service_client::AgentServiceClient<Channel> {
        OpenSessionRequest => open_session, OpenSessionResponse;
        HeartbeatRequest => heartbeat, HeartbeatResponse;
        ReportCleaningRequest => report_cleaning, ReportCleaningResponse;
    }
    v1::cluster_service_client::ClusterServiceClient<Channel> {
        GetClusterStatusRequest => get_cluster_status, GetClusterStatusResponse;
        GetTimeRequest => get_time, GetTimeResponse;
        TransferLeaderRequest => transfer_leader, TransferLeaderResponse;
    }
}

macro_rules! writes {
    ($($request:ident)+) => {$(
        impl Write for v1::$request {
            fn stamp(&mut self, options: RequestOptions) {
                self.request = Some(options);
            }
        }
    )+};
}

writes! {
    CreatePoolRequest UpdatePoolRequest DeletePoolRequest
    CordonWorkerRequest UncordonWorkerRequest DrainWorkerRequest SetMaintenanceRequest ResumeWorkerRequest
    RetireWorkerRequest ReleaseWorkerRequest
    AcquireWorkerRequest CancelAcquireRequest ReturnWorkerRequest
}

macro_rules! paged {
    ($($request:ident $items:ident;)+) => {$(
        impl Paged for v1::$request {
            fn at_page(&mut self, token: String) {
                self.page_token = token;
            }

            fn next_page(answer: &Self::Answer) -> &str {
                &answer.next_page_token
            }

            fn join(whole: &mut Self::Answer, page: Self::Answer) {
                whole.$items.extend(page.$items);
                whole.next_page_token = page.next_page_token;
            }
        }
    )+};
}

paged! {
    ListPoolsRequest pools;
    ListWorkersRequest workers;
    ListReturnsRequest returns;
}
