//! Executions with real supervisors.
