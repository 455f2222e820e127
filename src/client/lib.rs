//! The Rust client of a Remuda cluster.
//!
//! A [`Client`] follows the leader, tries every call again without doing anything twice, renews the leases it holds,
//! and goes on watching where a broken stream ended.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use remuda_client::{Acquire, Client};
//!
//! let client = Client::new(["127.0.0.1:7400", "127.0.0.1:7410", "127.0.0.1:7420"])?;
//! let job = "build-17".parse()?;
//! let lease = client.acquire(&Acquire::new("pools/default", job).wait(Duration::from_secs(30))).await?;
//! // .. work on lease.worker(); lease.standing() says what may be believed ..
//! client.return_worker_to_pool(lease.worker(), lease.job()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Never here: storage, Raft, and anything else of the server's.

mod acquire;
mod client;
mod clock;
pub mod endpoints;
mod error;
pub mod execution;
mod lease;
mod name;
mod requests;
mod retry;
mod returning;
mod rpc;
mod watch;

pub use acquire::Acquire;
pub use client::Client;
pub use clock::BootInstant;
pub use error::{DOMAIN, Error, Outcome, Violation, reason};
pub use lease::{Ended, Lease, LeaseKey, Secret, Standing, believed_until};
pub use name::{JobId, WorkerId};
pub use remuda_wire as wire;
pub use retry::{Answered, Attempt, Headed, Patience};
pub use returning::WorkerReturnError;
pub use rpc::{Call, Paged, Write};
pub use watch::{Changes, From, Part, WatchOptions};
