//! `returns`: how workers came back.
//!
//! Never here: returning one, see `leases.rs`.

use remuda_client::Client;
use remuda_wire::v1;

use crate::args::{Context, ReturnGetArgs, ReturnsCommand};
use crate::failure::Failure;
use crate::{names, output};

pub(crate) async fn returns(context: &Context, command: ReturnsCommand) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        ReturnsCommand::List(args) => {
            let parent = match (&args.pool, &args.worker) {
                (Some(pool), _) => names::pool(pool),
                (None, Some(worker)) => names::worker(&client, worker).await?.to_string(),
                (None, None) => String::new(),
            };
            let request = v1::ListReturnsRequest { parent, page_size: 1000, ..Default::default() };
            output::print(context.output, &client.list(request).await?)
        }
        ReturnsCommand::Get(args) => {
            let name = return_name(&client, &args).await?;
            let ret = client.wait_return(&name, args.wait).await?;
            output::print(context.output, &v1::GetReturnResponse { header: None, ret: Some(ret) })
        }
    }
}

async fn return_name(client: &Client, args: &ReturnGetArgs) -> Result<String, Failure> {
    if args.name.contains("/returns/") {
        return Ok(args.name.clone());
    }
    let worker = names::worker(client, &args.name).await?;
    let request = v1::GetWorkerRequest { name: worker.to_string(), read: None };
    let last = client.ask(request).await?.worker.map(|w| w.last_return).unwrap_or_default();
    if last.is_empty() { Err(Failure::NotFound(format!("{worker} has not been returned yet"))) } else { Ok(last) }
}
