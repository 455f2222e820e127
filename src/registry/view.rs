//! Read-only questions about a state: single keys, never scans.
