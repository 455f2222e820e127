//! `pool`: creating, changing and looking at pools.
//!
//! Never here: reading files of pools, see `apply.rs`.

use prost_types::FieldMask;
use remuda_wire::v1;

use crate::args::{Context, PoolCommand, PoolWriteArgs};
use crate::failure::Failure;
use crate::{apply, names, output, spec};

pub(crate) async fn pool(context: &Context, command: PoolCommand) -> Result<(), Failure> {
    let format = context.output;
    match command {
        PoolCommand::Apply(args) => apply::apply(context, args).await,
        PoolCommand::Create(args) => {
            let (spec, _) = settings(&args)?;
            let pool_id = names::pool(&args.pool).trim_start_matches("pools/").to_owned();
            let request =
                v1::CreatePoolRequest { pool_id, spec: Some(spec), request: None, validate_only: args.dry_run };
            output::print(format, &context.client()?.write(request).await?)
        }
        PoolCommand::Update(args) => {
            let (spec, paths) = settings(&args)?;
            if paths.is_empty() {
                return Err(Failure::usage("nothing to update; give --set KEY=VALUE"));
            }
            let pool = v1::Pool { name: names::pool(&args.pool), spec: Some(spec), ..Default::default() };
            let request = v1::UpdatePoolRequest {
                pool: Some(pool),
                update_mask: Some(FieldMask { paths }),
                request: None,
                validate_only: args.dry_run,
            };
            output::print(format, &context.client()?.write(request).await?)
        }
        PoolCommand::List => {
            let request = v1::ListPoolsRequest { page_size: 1000, ..Default::default() };
            output::print(format, &context.client()?.list(request).await?)
        }
        PoolCommand::Get(args) => {
            let request = v1::GetPoolRequest { name: names::pool(&args.pool), read: None };
            output::print(format, &context.client()?.ask(request).await?)
        }
        PoolCommand::Delete(args) => {
            let request = v1::DeletePoolRequest { name: names::pool(&args.pool), ..Default::default() };
            output::print(format, &context.client()?.write(request).await?)
        }
        PoolCommand::Stats(args) => {
            let request = v1::GetPoolStatsRequest { name: names::pool(&args.pool), read: None };
            output::print(format, &context.client()?.ask(request).await?)
        }
    }
}

fn settings(args: &PoolWriteArgs) -> Result<(v1::PoolSpec, Vec<String>), Failure> {
    spec::settings(&args.set).map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(|p| format!("--set {p}")).collect();
        Failure::usage(lines.join("\n       "))
    })
}
