//! Watching: the hub that hears what is applied, and the streams that are fed from it.
//!
//! ```text
//!   apply ──published──> Hub ──ring──> events ─┐
//!                         │                    ├── pulled by the transport when the client can take more
//!                         └──keys──> inboxes ──┴──> assignments, returns, waiting acquires
//! ```
//!
//! Streams are pulled: a client that does not read costs its cursor, nothing else.

pub mod assignments;
pub mod events;
pub mod hub;
pub mod narrate;
pub mod resume;

pub use hub::{Batch, Hub, Inbox, Key, Since};
