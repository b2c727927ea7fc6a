//! `hairpin kill`: ends sessions.

use clap::Args;
use hyper::Method;

use super::admin_client::{Whereabouts, query};
use super::sessions::{Filter, counted};
use super::{Outcome, print};

/// End sessions of a running server.
///
/// They end as if they had expired: the client may allocate anew if its credentials are still good. To keep somebody
/// out, take the credentials away (auth.users, auth.secrets) and reload.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    filter: Filter,

    /// All sessions, when nothing else says which.
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    server: Whereabouts,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let all = arguments.all.then_some("true");
    let query = query(arguments.filter.parameters().into_iter().chain([("all", all)]));
    let answer = arguments.server.ask(Method::DELETE, &format!("/v1/sessions?{query}"))?;
    if arguments.server.json {
        return print(answer);
    }
    let lost = answer["shards_without_answer"].as_u64().unwrap_or_default();
    print(format_args!("{} ended", counted(answer["ended"].as_u64().unwrap_or_default())))?;
    if lost > 0 {
        return Err(format!("{lost} threads of the server did not answer\n    fix: try again"));
    }
    Ok(())
}
