//! The Remuda client library.
