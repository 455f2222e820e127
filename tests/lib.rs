//! The promises of Remuda as judges over a history; beside them, as test targets, the simulation and the cluster tests.
//!
//! Never here: a decision of the registry. What judges must not share what it judges.

pub mod guarantees;
