//! Group commit on a real leader: many clients at once share the syncs of its log.
//!
//! Never here: how fast it is.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use remuda_client::Client;
use remuda_wire::v1;

use crate::cluster::{Cluster, Shape, tried};

/// Clients at once.
const CLIENTS: u32 = 64;
/// How long each writes.
const TIME: Duration = Duration::from_secs(3);
/// Commands that one sync must make durable on average.
const COMMANDS_PER_SYNC: f64 = 4.0;

/// The sum of a counter over its labels, as a replica's admin port tells it.
fn counter(cluster: &Cluster, replica: usize, name: &str) -> Result<f64> {
    let id = u16::try_from(replica)? + 1;
    let mut stream = TcpStream::connect(cluster.ports.admin(id))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: replica\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let lines = text.lines().filter(|line| line.starts_with(name));
    let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    ensure!(!values.is_empty(), "{name} is not among the metrics");
    Ok(values.iter().sum())
}

/// Makes a pool and removes it, again and again.
async fn write(client: Client, number: u32, until: Instant) -> Result<u64> {
    let pool_id = format!("load-{number}");
    let mut commands = 0;
    while Instant::now() < until {
        client.write(v1::CreatePoolRequest { pool_id: pool_id.clone(), ..Default::default() }).await?;
        client.write(v1::DeletePoolRequest { name: format!("pools/{pool_id}"), ..Default::default() }).await?;
        commands += 2;
    }
    Ok(commands)
}

#[test]
fn the_commands_of_many_clients_share_syncs() {
    tried(Shape { agents: &[1], ..Shape::default() }, async |cluster| {
        let leader = cluster.leader(None).await?;
        let look = |name| counter(cluster, leader, name);
        let before = (look("remuda_raft_log_commands_total")?, look("remuda_raft_log_syncs_total")?);
        let end = Instant::now() + TIME;
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let client = Client::new(cluster.endpoints().split(','))?;
            clients.push(tokio::spawn(write(client, number, end)));
        }
        let mut answered = 0;
        for client in clients {
            answered += client.await.context("a client panicked")??;
        }
        let after = (look("remuda_raft_log_commands_total")?, look("remuda_raft_log_syncs_total")?);
        let (commands, syncs) = (after.0 - before.0, after.1 - before.1);
        println!("{answered} commands answered; {commands} in {syncs} syncs, {:.1} per sync", commands / syncs);
        ensure!(commands >= answered as f64, "{answered} commands were answered, the log has {commands}");
        ensure!(commands / syncs >= COMMANDS_PER_SYNC, "{commands} commands in {syncs} syncs");
        Ok(())
    });
}
