//! What the log measures about itself.
//!
//! The counters are shared handles: the log's threads write them, and whoever serves metrics registers clones of them.
//!
//! Never here: names of other parts' metrics, any decision.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Handles to the log's metrics; clones share their values.
#[derive(Debug, Clone)]
pub struct LogMetrics {
    /// Batches written, synced or not.
    pub batches: Counter,
    /// Syncs of the write-ahead log.
    pub syncs: Counter,
    /// Entries written.
    pub entries: Counter,
    /// Commands in these entries.
    pub commands: Counter,
    /// Bytes of these entries.
    pub bytes: Counter,
    /// Entries that one sync made durable, of syncs that did so.
    pub entries_per_sync: Histogram,
    /// Commands that one sync made durable, of syncs that did so.
    pub commands_per_sync: Histogram,
    /// Seconds from the end of a write to the end of its sync.
    pub sync_seconds: Histogram,
    /// Seconds of the write before the sync.
    pub write_seconds: Histogram,
    /// Requests that wait for the writer.
    pub queued: Gauge,
    /// Entries that readers got from the database because the tail in memory no longer held them.
    pub cold_reads: Counter,
}

impl Default for LogMetrics {
    fn default() -> LogMetrics {
        let counts = || Histogram::new(exponential_buckets(1.0, 2.0, 14));
        let seconds = || Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        LogMetrics {
            batches: Counter::default(),
            syncs: Counter::default(),
            entries: Counter::default(),
            commands: Counter::default(),
            bytes: Counter::default(),
            entries_per_sync: counts(),
            commands_per_sync: counts(),
            sync_seconds: seconds(),
            write_seconds: seconds(),
            queued: Gauge::default(),
            cold_reads: Counter::default(),
        }
    }
}

impl LogMetrics {
    /// Names the metrics in `registry`; its prefix is the caller's.
    pub fn register(&self, registry: &mut Registry) {
        let log = registry.sub_registry_with_prefix("log");
        log.register("batches", "Batches written, synced or not", self.batches.clone());
        log.register("syncs", "Syncs of the write-ahead log", self.syncs.clone());
        log.register("entries", "Entries written", self.entries.clone());
        log.register("commands", "Commands in the entries written", self.commands.clone());
        log.register_with_unit("written", "Bytes of the entries written", Unit::Bytes, self.bytes.clone());
        log.register("entries_per_sync", "Entries that one sync made durable", self.entries_per_sync.clone());
        log.register("commands_per_sync", "Commands that one sync made durable", self.commands_per_sync.clone());
        log.register_with_unit("sync", "Time of a sync", Unit::Seconds, self.sync_seconds.clone());
        log.register_with_unit("write", "Time of a write before its sync", Unit::Seconds, self.write_seconds.clone());
        log.register("queued", "Requests that wait for the log writer", self.queued.clone());
        log.register("cold_reads", "Entries read from disk instead of memory", self.cold_reads.clone());
    }
}
