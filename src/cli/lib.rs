//! The remuda command.
