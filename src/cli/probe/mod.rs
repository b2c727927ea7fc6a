//! `hairpin probe`: does a server work, and if not, which step fails?

mod client;
mod trust;
mod uri;
mod walk;

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use serde::Serialize;

use self::trust::Trust;
use self::uri::Uri;
use self::walk::{Step, walk};
use super::{CommandLine, Outcome, print};

/// Try a STUN or TURN server as a client would, step by step, and say which step fails.
///
/// Works with any server. With turn: it allocates twice, and lets the two relayed addresses talk to each other.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What to try, like stun:example.org, turn:example.org:3478?transport=tcp, or turns:example.org
    uri: Uri,
    /// User name for turn:
    #[arg(long, requires = "password")]
    user: Option<String>,
    /// Password for turn:
    #[arg(long, env = "HAIRPIN_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// With TLS: believe certificates of this PEM file as well as this system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print one JSON document instead of lines
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    steps: &'a [Step],
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let credentials = arguments.user.clone().zip(arguments.password.clone());
    if arguments.uri.is_turn && credentials.is_none() {
        let missing = "turn: needs credentials; add --user NAME --password PASSWORD, or probe stun: instead";
        CommandLine::command().error(ErrorKind::MissingRequiredArgument, missing).exit();
    }
    let trust = Trust::new(arguments.ca.as_deref())?;
    let mut written = Ok(());
    let steps = walk(&arguments.uri, credentials, &trust, |step| {
        if !arguments.json && written.is_ok() {
            written = print(line(step));
        }
    });
    written?;
    let failed = steps.iter().find(|step| !step.ok);
    if arguments.json {
        let report = Report { ok: failed.is_none(), steps: &steps };
        print(serde_json::to_string_pretty(&report).expect("plain data is always JSON"))?;
    }
    match failed {
        None => Ok(()),
        Some(step) => Err(format!("{} failed", step.name)),
    }
}

fn line(step: &Step) -> String {
    let mark = if step.ok { "ok  " } else { "FAIL" };
    let mut line = format!("{mark} {:<8} {:>5} ms  {}", step.name, step.milliseconds, step.detail);
    if let Some(usually) = step.usually {
        write!(line, "\n              usually: {usually}").expect("a string takes everything");
    }
    line
}
