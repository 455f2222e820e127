//! Connections to the other replicas, one per purpose, made when first used and again when lost.
//!
//! Never here: what is sent.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use remuda_wire::raft::v1::peer_service_client::PeerServiceClient;
use tonic::transport::{Channel, Endpoint};

/// The generated client over a cached connection.
pub type PeerClient = PeerServiceClient<Channel>;

/// Bytes of one message. A frame of many entries is bounded to a few MiB by the log; this leaves room.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Bytes in flight per stream: enough for a full pipe at 10 Gbit/s and 3 ms.
const WINDOW_BYTES: u32 = 4 << 20;
/// A peer that does not answer a SYN is down; the next try comes soon.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// An idle connection is asked for life this often ...
const KEEPALIVE_EVERY: Duration = Duration::from_millis(500);
/// ... and given up after this long without an answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Entries, and votes.
    Append,
    /// Heartbeats.
    Heartbeat,
    /// Snapshots.
    Snapshot,
    /// Everything that is not openraft's.
    Node,
}

/// All connections of one replica.
#[derive(Debug, Default)]
pub struct Channels {
    open: Mutex<HashMap<(String, Purpose), Channel>>,
}

impl Channels {
    /// A client for the replica at `endpoint` (`host:port`). Nothing is dialled yet.
    ///
    /// # Errors
    /// Where `endpoint` is no address.
    pub fn client(&self, endpoint: &str, purpose: Purpose) -> Result<PeerClient, tonic::transport::Error> {
        let mut open = self.open.lock();
        let key = (endpoint.to_owned(), purpose);
        let channel = match open.get(&key) {
            Some(channel) => channel.clone(),
            None => {
                let channel = connect(endpoint)?;
                open.insert(key, channel.clone());
                channel
            }
        };
        Ok(PeerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}

fn connect(endpoint: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 2);
    Ok(endpoint.connect_lazy())
}
