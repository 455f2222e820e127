//! What operators have ordered of a worker and what is still to come of it.
//!
//! What cannot be done at once, because the worker is leased or being cleaned, waits here for the end of that.
//!
//! Invariants
//! * A drain stands only while its worker is Busy under a cordon; what a drain wants next is taken back with it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::time::LogTime;

/// What an operator wants after the lease or the cleaning, instead of Ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Then {
    /// Rest in Ready (a drain's default).
    Ready,
    /// Go to Maintenance(Operator).
    Maintenance,
    /// Go to Retired(Operator).
    Retired,
    /// Stop the job only, then Maintenance(Held).
    Held,
}

/// An operator's signature under what they asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Who asked.
    pub actor: Arc<str>,
    /// Why, in their words.
    pub reason: Arc<str>,
    /// When.
    pub at: LogTime,
}

/// Cordon, deadline and what comes after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// The lease ends here; renewals never pass it.
    pub deadline: LogTime,
    /// By whom and why.
    pub order: Order,
}

/// What an order of what comes next belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OrderedBy {
    /// An operator's own order.
    Operator,
    /// A drain, with which it is taken back.
    Drain,
    /// The holder declared the worker broken, and it was lost before it could be stopped.
    Holder,
}

/// Taken instead of Ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// Where to go.
    pub then: Then,
    /// What it belongs to.
    pub by: OrderedBy,
    /// By whom and why.
    pub order: Order,
}
