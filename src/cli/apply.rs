//! `pool apply`: makes the pools of a file be as the file says, and tells what it changed.
//!
//! What an update would bring is asked of the cluster itself with `validate_only`, so that defaults do not show as
//! changes and `--dry-run` says exactly what the real thing would do.
//!
//! Never here: removing pools that the file does not name.

use remuda_client::Client;
use remuda_wire::v1::{CreatePoolRequest, GetPoolRequest, Pool, PoolSpec, UpdatePoolRequest};
use serde_json::{Value, json};

use crate::args::{ApplyArgs, Context};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::spec::{self, Wanted};

/// What became of one pool.
struct Applied {
    pool: String,
    /// `created`, `updated` or `unchanged`.
    what: &'static str,
    /// One line per setting that differs.
    changes: Vec<String>,
}

pub(crate) async fn apply(context: &Context, args: ApplyArgs) -> Result<(), Failure> {
    let shown = args.file.display();
    let text = std::fs::read_to_string(&args.file).map_err(|e| Failure::usage(format!("{shown}: {e}")))?;
    let wanted = spec::file(&text).map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(|p| format!("{shown}:{p}")).collect();
        Failure::usage(lines.join("\n       "))
    })?;
    let client = context.client()?;
    let mut done = Vec::new();
    for pool in wanted {
        let applied = one(&client, pool, args.dry_run).await;
        // What was done before a failure is told as well.
        match applied {
            Ok(applied) => done.push(applied),
            Err(failure) => {
                print(context.output, &done, args.dry_run)?;
                return Err(failure);
            }
        }
    }
    print(context.output, &done, args.dry_run)
}

async fn one(client: &Client, wanted: Wanted, dry_run: bool) -> Result<Applied, Failure> {
    let pool = wanted.name.clone();
    let found = client.ask(GetPoolRequest { name: pool.clone(), read: None }).await;
    let current = match found {
        Ok(answer) => answer.pool.unwrap_or_default(),
        Err(error) if error.code() == tonic::Code::NotFound => {
            let pool_id = pool.trim_start_matches("pools/").to_owned();
            let request = CreatePoolRequest { pool_id, spec: Some(wanted.spec), request: None, validate_only: dry_run };
            client.write(request).await?;
            return Ok(Applied { pool, what: "created", changes: Vec::new() });
        }
        Err(error) => return Err(error.into()),
    };
    let target = Pool { name: pool.clone(), etag: current.etag, spec: Some(wanted.spec), ..Default::default() };
    let update = |validate_only| UpdatePoolRequest {
        pool: Some(target.clone()),
        update_mask: None,
        request: None,
        validate_only,
    };
    let then = client.write(update(true)).await?.pool.unwrap_or_default();
    let changes = changes(current.spec.as_ref(), then.spec.as_ref());
    if changes.is_empty() {
        return Ok(Applied { pool, what: "unchanged", changes });
    }
    if !dry_run {
        client.write(update(false)).await?;
    }
    Ok(Applied { pool, what: "updated", changes })
}

fn print(format: Format, done: &[Applied], dry_run: bool) -> Result<(), Failure> {
    if format == Format::Table {
        let note = if dry_run { " (dry run)" } else { "" };
        for applied in done {
            output::line(&format!("{} {}{note}", applied.pool, applied.what))?;
            applied.changes.iter().try_for_each(|change| output::line(&format!("  {change}")))?;
        }
        return Ok(());
    }
    let one = |a: &Applied| json!({"pool": a.pool, "result": a.what, "changes": a.changes, "dryRun": dry_run});
    output::value(format, &json!({"pools": done.iter().map(one).collect::<Vec<_>>()}), Some("pools"))
}

/// The settings that differ, by their path in JSON.
fn changes(from: Option<&PoolSpec>, to: Option<&PoolSpec>) -> Vec<String> {
    let [from, to] = [from, to].map(|spec| spec.map_or(Value::Null, output::json));
    let mut found = Vec::new();
    differ("", &from, &to, &mut found);
    found
}

fn differ(path: &str, from: &Value, to: &Value, found: &mut Vec<String>) {
    if from == to {
        return;
    }
    let (Value::Object(old), Value::Object(new)) = (from, to) else {
        found.push(format!("{path}: {from} -> {to}"));
        return;
    };
    let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        differ(&below, old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null), found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let (old, mask) = spec::settings(&["lease.ttl=45s".into(), "max_uses=3".into()]).expect("good settings");
        let (new, _) = spec::settings(&["lease.ttl=50s".into(), "max_uses=3".into()]).expect("good settings");
        assert_eq!(mask.len(), 2);
        assert_eq!(changes(Some(&old), Some(&old)), Vec::<String>::new());
        assert_eq!(changes(Some(&old), Some(&new)), ["lease.ttl: \"45s\" -> \"50s\""]);
    }
}
