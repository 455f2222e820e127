//! `events`: what happened, from a revision or a token on, to the present or beyond it.
//!
//! Without `--since` the events that are still kept are shown, or with `--follow` those from now on. The token to go on
//! from is told on stderr at the end.
//!
//! Never here: keeping a stream alive; the client does.

use std::time::Duration;

use remuda_client::{Client, Error, Part, WatchOptions};
use remuda_wire::v1::WatchEventsResponse;

use crate::args::{Context, EventsArgs};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::{names, tables};

/// Facts of REVISION_COMPACTED that name the oldest revision kept.
const OLDEST: [&str; 3] = ["oldest_revision", "compact_revision", "oldest"];

/// Without `--follow` a cluster that nobody reaches is told as soon as by other commands.
const GIVE_UP: Duration = Duration::from_secs(10);

pub(crate) async fn events(context: &Context, args: EventsArgs) -> Result<(), Failure> {
    let client = context.client()?;
    let parent = match (&args.pool, &args.worker) {
        (Some(pool), _) => names::pool(pool),
        (None, Some(worker)) => names::worker(&client, worker).await?.to_string(),
        (None, None) => String::new(),
    };
    let from = match &args.since {
        Some(since) => match since.parse() {
            Ok(revision) => remuda_client::From::Revision(revision),
            Err(_) => remuda_client::From::Token(since.clone()),
        },
        None if args.follow => remuda_client::From::Now,
        None => remuda_client::From::Revision(1),
    };
    let options = WatchOptions {
        parent,
        selector: args.selector,
        from,
        no_follow: !args.follow,
        give_up: (!args.follow).then_some(GIVE_UP),
    };
    match show(&client, context.output, &options).await {
        // Nobody asked for what is gone.
        Err(Failure::Call(error)) if args.since.is_none() && error.is("REVISION_COMPACTED") => {
            let oldest = oldest(&error).ok_or(Failure::Call(error))?;
            show(&client, context.output, &WatchOptions { from: remuda_client::From::Revision(oldest), ..options })
                .await
        }
        done => done,
    }
}

fn oldest(error: &Error) -> Option<u64> {
    OLDEST.iter().find_map(|key| error.fact(key)?.parse().ok())
}

async fn show(client: &Client, format: Format, options: &WatchOptions) -> Result<(), Failure> {
    let mut changes = client.watch(options.clone());
    // A document has an end; what goes on for ever is printed line by line.
    let whole = options.no_follow && matches!(format, Format::Json | Format::Yaml);
    let mut all = WatchEventsResponse::default();
    while let Some(part) = changes.next().await {
        let Part::Events { events, token } = part? else { continue };
        if whole {
            all.events.extend(events);
            all.resume_token = token;
            continue;
        }
        for event in &events {
            output::line(&if format == Format::Table {
                tables::event(event)
            } else {
                output::json(event).to_string()
            })?;
        }
    }
    if whole {
        output::print(format, &all)?;
    }
    if let Some(token) = changes.token() {
        eprintln!("token: {token}");
    }
    Ok(())
}
