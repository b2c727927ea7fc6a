//! `hairpin drain` and `hairpin undrain`.

use clap::Args;
use hyper::Method;

use super::admin_client::Whereabouts;
use super::sessions::counted;
use super::{Outcome, print};

/// Of both commands.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: Whereabouts,
}

pub(super) fn run(arguments: &Arguments, is_draining: bool) -> Outcome {
    let answer = arguments.server.ask(Method::POST, if is_draining { "/v1/drain" } else { "/v1/undrain" })?;
    if arguments.server.json {
        return print(answer);
    }
    let sessions = counted(answer["sessions"].as_u64().unwrap_or_default());
    print(format_args!("{}, {sessions}", answer["state"].as_str().unwrap_or_default()))
}
