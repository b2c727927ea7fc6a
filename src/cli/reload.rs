//! `hairpin reload`: what SIGHUP does, with an answer.

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::admin_client::Whereabouts;
use super::{Outcome, print};

/// Have a running server read its configuration again.
///
/// A faulty one changes nothing: what is wrong is printed with its place in the file, and the exit code is 1.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: Whereabouts,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let answer = arguments.server.ask(Method::POST, "/v1/reload")?;
    if arguments.server.json {
        return print(answer);
    }
    let words = |key: &str| {
        let entries = answer[key].as_array().map_or(&[][..], Vec::as_slice);
        entries.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let changed = words("changed");
    print(if changed.is_empty() { "nothing has changed".into() } else { format!("changed: {}", changed.join(" ")) })?;
    let late = words("needs_restart");
    if !late.is_empty() {
        print(format_args!("from the next start on: {}", late.join(" ")))?;
    }
    words("notes").iter().try_for_each(|note| print(format_args!("note: {note}")))
}
