//! A snapshot on its way: the manifest, then each file in chunks; received into a folder of its own.
//!
//! ```text
//!   sender    head{vote, meta, manifest} · file · chunk … · file · chunk … · end ──> receiver
//!   receiver  incoming-<n>/, files synced ──> openraft ──> state::install
//! ```
//!
//! Checksums are compared at installation, over what is on disk by then. No limit on the whole transfer: each chunk
//! must be taken, and each must come, within one.
//!
//! Invariants
//! * A transfer that ends early leaves nothing: its folder goes with the handle.
//!
//! Never here: what the files mean.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::SnapshotResponse;
use remuda_wire::raft::v1 as peer;
use remuda_wire::raft::v1::install_snapshot_request::Part;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::channel::PeerClient;
use super::{frame, stream};
use crate::failpoint;
use crate::raft::state::manifest::{CHUNK_BYTES, Manifest};
use crate::raft::state::record::{decode_meta, encode_meta};
use crate::raft::state::{Shared, SnapshotDir};
use crate::raft::types::{TypeConfig, Vote};

/// Longest pause between two chunks, either way.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that installation may take after the last chunk.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(300);
/// Chunks read ahead.
const QUEUE_CHUNKS: usize = 4;

/// Sends a snapshot and waits until it is installed or refused.
///
/// # Errors
/// Where it could not be sent, or was not answered in time.
pub async fn send(
    mut client: PeerClient,
    caller: peer::Caller,
    vote: Vote,
    snapshot: SnapshotDir,
) -> Result<SnapshotResponse<TypeConfig>, RPCError<TypeConfig>> {
    let (parts, queue) = mpsc::channel(QUEUE_CHUNKS);
    let feeder = tokio::spawn(feed(parts, caller, vote, snapshot));
    // The answer comes after the last part is taken in, so the parts are fed while it is awaited; once all are out, it
    // has a limit of its own.
    let call = client.install_snapshot(ReceiverStream::new(queue));
    tokio::pin!(call);
    let answer = tokio::select! {
        answer = &mut call => answer,
        fed = feeder => match fed.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => tokio::time::timeout(INSTALL_TIMEOUT, call)
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("the snapshot's installation is overdue"))),
            Err(error) => return Err(RPCError::Network(NetworkError::new(&error))),
        },
    };
    let body = answer.map_err(|status| stream::refused(&status))?.into_inner().body;
    frame::take_installed(body).map_err(|error| RPCError::Network(NetworkError::new(&error)))
}

async fn feed(
    parts: mpsc::Sender<peer::InstallSnapshotRequest>,
    caller: peer::Caller,
    vote: Vote,
    snapshot: SnapshotDir,
) -> io::Result<()> {
    let head = peer::SnapshotHead {
        caller: Some(caller),
        vote: frame::put_lone_vote(&vote),
        meta: encode_meta(snapshot.meta()).into(),
        manifest: snapshot.manifest().encode().into(),
    };
    put(&parts, Part::Head(head)).await?;
    for entry in &snapshot.manifest().files {
        let file = peer::SnapshotFile { name: entry.name.clone(), length: entry.length };
        put(&parts, Part::File(file)).await?;
        let mut file = Arc::new(File::open(snapshot.path().join(&entry.name))?);
        loop {
            let (back, chunk) =
                tokio::task::spawn_blocking(move || read_chunk(file)).await.map_err(io::Error::other)?;
            file = back;
            let chunk = chunk?;
            if chunk.is_empty() {
                break;
            }
            put(&parts, Part::Chunk(chunk)).await?;
            failpoint::hit("net.snapshot.mid_send");
        }
    }
    put(&parts, Part::End(peer::SnapshotEnd {})).await?;
    drop(parts);
    Ok(())
}

fn read_chunk(file: Arc<File>) -> (Arc<File>, io::Result<Bytes>) {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    let read = (&*file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
    (file, read.map(|_| chunk.into()))
}

async fn put(parts: &mpsc::Sender<peer::InstallSnapshotRequest>, part: Part) -> io::Result<()> {
    let request = peer::InstallSnapshotRequest { part: Some(part) };
    match tokio::time::timeout(CHUNK_TIMEOUT, parts.send(request)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the receiver ended the snapshot's stream")),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the receiver does not take the snapshot's chunks")),
    }
}

/// The first part of a snapshot's stream.
///
/// # Errors
/// What is wrong with it.
pub async fn receive_head(parts: &mut Streaming<peer::InstallSnapshotRequest>) -> Result<peer::SnapshotHead, Status> {
    match next(parts).await? {
        Part::Head(head) => Ok(head),
        Part::File(_) | Part::Chunk(_) | Part::End(_) => {
            Err(Status::invalid_argument("a snapshot begins with its head"))
        }
    }
}

/// Receives the files of a snapshot. The folder is removed when the handle is dropped before it was installed.
///
/// # Errors
/// What is wrong with the stream or the disk.
pub async fn receive(
    shared: &Shared,
    head: &peer::SnapshotHead,
    parts: &mut Streaming<peer::InstallSnapshotRequest>,
) -> Result<SnapshotDir, Status> {
    let manifest = Manifest::decode(&head.manifest).map_err(bad)?;
    let meta = decode_meta(&head.meta).map_err(bad)?;
    let path = shared.next_incoming();
    tokio::fs::create_dir(&path).await.map_err(disk)?;
    let snapshot = SnapshotDir::new(path.clone(), manifest.clone(), meta, true);
    let mut file: Option<File> = None;
    loop {
        match next(parts).await? {
            Part::Head(_) => return Err(Status::invalid_argument("a second head")),
            Part::File(begun) => {
                close(file.take()).await?;
                if !manifest.files.iter().any(|entry| entry.name == begun.name && entry.length == begun.length) {
                    return Err(Status::invalid_argument(format!("file `{}` is not in the manifest", begun.name)));
                }
                file = Some(create(path.join(&begun.name)).await?);
            }
            Part::Chunk(chunk) => {
                let open = file.take().ok_or_else(|| Status::invalid_argument("bytes of no file"))?;
                file = Some(append(open, chunk).await?);
                failpoint::hit("net.snapshot.mid_receive");
            }
            Part::End(_) => {
                close(file.take()).await?;
                return Ok(snapshot);
            }
        }
    }
}

async fn next(parts: &mut Streaming<peer::InstallSnapshotRequest>) -> Result<Part, Status> {
    let message = tokio::time::timeout(CHUNK_TIMEOUT, parts.message()).await;
    let message = message.map_err(|_| Status::deadline_exceeded("the sender's next chunk is overdue"))??;
    message.and_then(|request| request.part).ok_or_else(|| Status::aborted("the snapshot's stream ended early"))
}

async fn create(path: PathBuf) -> Result<File, Status> {
    blocking(move || File::create_new(path)).await
}

async fn append(mut file: File, chunk: Bytes) -> Result<File, Status> {
    blocking(move || file.write_all(&chunk).map(|()| file)).await
}

async fn close(file: Option<File>) -> Result<(), Status> {
    match file {
        Some(file) => blocking(move || file.sync_all()).await,
        None => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))?.map_err(disk)
}

fn bad(error: io::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

fn disk(error: io::Error) -> Status {
    Status::unavailable(format!("the snapshot cannot be stored: {error}"))
}
