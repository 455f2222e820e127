//! `cluster`, the replicas and their leader; and `explain`, which needs none.
//!
//! Never here: membership, which cannot be changed yet.

use std::time::Duration;

use remuda_client::Patience;
use remuda_wire::reasons;
use remuda_wire::v1::{GetClusterStatusRequest, GetClusterStatusResponse, TransferLeaderRequest};

use crate::args::{ClusterCommand, Context, ExplainArgs};
use crate::failure::{Failure, OWN};
use crate::output;

/// Twice what a replica takes at most for handing over.
const TRANSFER: Duration = Duration::from_secs(15);

pub(crate) async fn cluster(context: &Context, command: ClusterCommand) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        ClusterCommand::Status(args) => {
            let mut status = client.ask(GetClusterStatusRequest {}).await?;
            let served_by = status.header.as_ref().map_or(0, |h| h.served_by);
            // The leader knows most. The first answer told where it is, so that the next call goes there.
            if status.leader_id != 0
                && status.leader_id != served_by
                && let Ok(of_leader) = client.ask(GetClusterStatusRequest {}).await
            {
                status = of_leader;
            }
            output::print(context.output, &status)?;
            judge(&status, args.check)
        }
        ClusterCommand::Transfer(args) => {
            let patience = Patience { total: TRANSFER, attempt: TRANSFER / 2, ..Patience::default() }.with_effect();
            let answered = client.ask_with(patience, TransferLeaderRequest { to: args.to }).await?;
            output::print(context.output, &answered.answer)
        }
    }
}

/// No leader is always unhealthy; with `--check` a replica that is not reached is, too.
fn judge(status: &GetClusterStatusResponse, check: bool) -> Result<(), Failure> {
    if status.leader_id == 0 {
        return Err(Failure::Unhealthy("the cluster has no leader".to_owned()));
    }
    let away: Vec<_> = status.replicas.iter().filter(|r| r.role == "UNREACHABLE").map(|r| r.id.to_string()).collect();
    if check && !away.is_empty() {
        return Err(Failure::Unhealthy(format!("not reached: replica {}", away.join(", "))));
    }
    Ok(())
}

/// Prints what a reason means.
pub(crate) fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let Some(name) = &args.reason else {
        let cluster = reasons::ALL.iter().map(|r| (r.name, r.meaning));
        let own = OWN.iter().map(|(name, meaning, _)| (*name, *meaning));
        return cluster.chain(own).try_for_each(|(name, meaning)| output::line(&format!("{name:24} {meaning}")));
    };
    let name = name.to_uppercase();
    if let Some((name, meaning, remedy)) = OWN.iter().find(|(own, ..)| *own == name) {
        return output::line(&format!("{name} (given by the client)\n\n{meaning}\n\nWhat to do: {remedy}"));
    }
    match reasons::find(&name) {
        Some(reason) => output::line(reasons::explain(reason).trim_end()),
        None => Err(Failure::NotFound(format!("there is no reason {name}; `remuda explain` lists them"))),
    }
}

#[cfg(test)]
mod tests {
    use remuda_wire::v1::Replica;

    use super::*;

    #[test]
    fn health_is_a_status() {
        let replica = |role: &str| Replica { id: 2, role: role.into(), ..Default::default() };
        let status = |leader_id, role| GetClusterStatusResponse {
            leader_id,
            replicas: vec![replica(role)],
            ..Default::default()
        };
        let code = |status, check| judge(&status, check).err().map(|f| f.status());
        assert_eq!(code(status(0, "FOLLOWER"), false), Some(10));
        assert_eq!(code(status(1, "UNREACHABLE"), false), None);
        assert_eq!(code(status(1, "UNREACHABLE"), true), Some(10));
        assert_eq!(code(status(1, "FOLLOWER"), true), None);
    }

    #[test]
    fn an_unknown_reason_is_not_found() {
        let explain = |reason: &str| explain(&ExplainArgs { reason: Some(reason.into()) }).err().map(|f| f.status());
        assert_eq!(explain("NO_SUCH_REASON"), Some(3));
        assert_eq!(explain("no_leader"), None);
        assert_eq!(explain("UNREACHABLE"), None);
    }
}
