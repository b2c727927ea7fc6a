//! The command line: one file a command.
//!
//! Lives here: arguments, what is printed for people and programs on the standard output, exit codes. May import
//! everything of ours. Nothing that runs longer than it takes to print: the server's life is in `ops`, the meaning of a
//! configuration in `config`.
//!
//! Exit codes: 0 done; 1 refused or failed, with the reason on the standard error output; 2 wrong arguments.

#![forbid(unsafe_code)]

mod admin_client;
mod banner;
mod bench;
mod certificates;
mod check_config;
mod credentials;
mod dns_records;
mod drain;
mod explain;
mod kill;
mod probe;
mod reload;
mod serve;
mod sessions;
mod stats;
pub mod uri;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Machine;

/// A STUN/TURN server for the public Internet.
///
/// Without a configuration file it serves at once: on port 3478 of all addresses, with a secret it makes up, printing
/// what a browser needs to use it.
#[derive(Debug, Parser)]
#[command(name = "hairpin", version, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),
    CheckConfig(check_config::Arguments),
    Credentials(credentials::Arguments),
    DnsRecords(dns_records::Arguments),
    Probe(probe::Arguments),
    Bench(bench::Arguments),
    Sessions(sessions::Arguments),
    Kill(kill::Arguments),
    Explain(explain::Arguments),
    /// Let no new allocations in; those that exist live on.
    Drain(drain::Arguments),
    /// Let new allocations in again.
    Undrain(drain::Arguments),
    Reload(reload::Arguments),
    Stats(stats::Arguments),
}

/// Parses the arguments of this process and does what they say.
pub fn run() -> ExitCode {
    let line = CommandLine::parse_from(bench::with_mode(std::env::args_os().collect()));
    let outcome = match line.command {
        None => serve::run(&line.serve),
        Some(Command::Serve(arguments)) => serve::run(&arguments),
        Some(Command::CheckConfig(arguments)) => check_config::run(&arguments),
        Some(Command::Credentials(arguments)) => credentials::run(&arguments),
        Some(Command::DnsRecords(arguments)) => dns_records::run(&arguments),
        Some(Command::Probe(arguments)) => probe::run(&arguments),
        Some(Command::Bench(arguments)) => bench::run(&arguments),
        Some(Command::Sessions(arguments)) => sessions::run(&arguments),
        Some(Command::Kill(arguments)) => kill::run(&arguments),
        Some(Command::Explain(arguments)) => explain::run(&arguments),
        Some(Command::Drain(arguments)) => drain::run(&arguments, true),
        Some(Command::Undrain(arguments)) => drain::run(&arguments, false),
        Some(Command::Reload(arguments)) => reload::run(&arguments),
        Some(Command::Stats(arguments)) => stats::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// The environment variable that names the configuration file where no argument does.
const CONFIG_VARIABLE: &str = "HAIRPIN_CONFIG";

/// What a command that failed says: whole lines, without a line end.
type Outcome = Result<(), String>;

/// Writes a line to the standard output; whoever reads it may be gone.
fn print(line: impl std::fmt::Display) -> Outcome {
    writeln!(std::io::stdout(), "{line}").map_err(|error| format!("the standard output cannot be written: {error}"))
}

fn this_machine() -> Result<Machine, String> {
    Machine::this().map_err(|error| format!("the network interfaces of this machine cannot be listed: {error}"))
}
