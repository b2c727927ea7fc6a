//! The requirements of the standards, each put to a running server over each transport: one case an id.
//!
//! `make conformance` runs them against our own binary; `make conformance SERVER=turn:host:port USERNAME=… PASSWORD=…`
//! against any other, and `--against coturn` against Debian's, which it starts itself. The result is a table by section
//! of the RFCs, for people, as `--json`, or written into a document with `--markdown`.
//!
//! How it is built, in the order of reading:
//! * `case.rs`: a case has an id of the checklist, a level, the transports it applies to, what it needs, and a test that
//!   reads like the checklist's column "Test". It passes, fails with what was expected and received, or does not apply.
//! * `rfc….rs`: the cases, by document and section.
//! * `bench.rs`, `client.rs`, `link.rs`, `dtls.rs`: what a test works with. `wire.rs`, `drafts.rs`, `numbers.rs`: STUN, written and
//!   read by hand. Nothing of the server's own code is used: two halves of one mind agree on wrong things.
//! * `profiles.rs`, `cable.rs`, `coturn.rs`, `foreign.rs`: where servers come from, and which needs each configuration
//!   meets. A case runs against the first that meets all of its; without one it does not apply, and says what it needs.
//! * `run.rs`, `table.rs`: several cases at a time, and what came out.
//!
//! Nothing waits for silence: what must not be answered is followed by a Binding request on the same socket (or, towards
//! a peer, by data that must arrive), and everything before that answer counts. What must come has eight seconds. What
//! takes minutes of real time runs with `--slow` only; `tests/rfc` has it in virtual time.

mod bench;
mod cable;
mod case;
mod client;
mod coturn;
mod drafts;
#[cfg(feature = "dtls")]
mod dtls;
mod foreign;
mod link;
mod local;
mod neighbours;
mod numbers;
mod profiles;
mod rest_credentials;
mod rfc5780;
mod rfc6062;
mod rfc7350;
mod rfc7635;
mod rfc8016;
mod rfc8489_attributes;
mod rfc8489_credentials;
mod rfc8489_messages;
mod rfc8656_allocate;
mod rfc8656_general;
mod rfc8656_relaying;
mod rfc8656_security;
mod run;
mod table;
mod wire;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};

use case::{Need, Section, Stop};
use client::Credentials;
use link::Transport;
use local::Running;

/// Puts the requirements of the STUN and TURN standards to a server.
#[derive(Parser)]
#[command(name = "conformance")]
struct Arguments {
    /// The server: turn:host[:port] or turns:host[:port]. Without it Hairpin is started, in several configurations.
    #[arg(long, value_name = "URI")]
    server: Option<String>,
    /// The user name of long-term credentials.
    #[arg(long, default_value = "", requires = "server")]
    username: String,
    /// Its password.
    #[arg(long, default_value = "", requires = "server")]
    password: String,
    /// This machine's IPv4 address as the server sees it, if a socket does not know it.
    #[arg(long, value_name = "IP", requires = "server")]
    peer_address: Option<IpAddr>,
    /// What the server has: see --needs.
    #[arg(long, value_name = "NAME[=VALUE]", value_delimiter = ',', requires = "server")]
    has: Vec<String>,
    /// Another implementation, started like ours.
    #[arg(long, conflicts_with = "server")]
    against: Option<Implementation>,
    /// Starts Hairpin at the other end of a cable, where the kernel relays for it, which takes root.
    #[arg(long, conflicts_with_all = ["server", "against"])]
    in_kernel: bool,
    /// Only the requirements whose id starts with this.
    #[arg(long, value_name = "ID-PREFIX")]
    only: Option<String>,
    /// Also what takes minutes.
    #[arg(long)]
    slow: bool,
    /// Cases at the same time.
    #[arg(long, value_name = "NUMBER", default_value_t = 12)]
    jobs: usize,
    /// Also what was said in cases that failed.
    #[arg(long)]
    transcripts: bool,
    /// Writes all that came out as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table between the markers of this document.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Lists the cases and runs none.
    #[arg(long)]
    list: bool,
    /// Lists what a server may have, and runs nothing.
    #[arg(long)]
    needs: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Implementation {
    Hairpin,
    Coturn,
}

/// Every case, in the order of the checklist.
fn sections() -> Vec<Section> {
    let sections = [
        rfc8489_messages::sections(),
        rfc8489_credentials::sections(),
        rfc8489_attributes::sections(),
        rfc8656_general::sections(),
        rfc8656_allocate::sections(),
        rfc8656_relaying::sections(),
        rfc8656_security::sections(),
        rfc6062::sections(),
        rfc8016::sections(),
        rfc7635::sections(),
        rfc5780::sections(),
        neighbours::sections(),
        rfc7350::sections(),
    ];
    sections.into_iter().flatten().collect()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let sections = sections();
    if arguments.needs {
        for need in Need::value_variants() {
            let value = need.to_possible_value().expect("none is hidden");
            println!("{:<20} {}", need.label(), value.get_help().map(ToString::to_string).unwrap_or_default());
        }
        return ExitCode::SUCCESS;
    }
    if arguments.list {
        for case in sections.iter().flat_map(|section| &section.cases) {
            println!("{:<24} {:<6} {}", case.id, case.level, case.title);
        }
        return ExitCode::SUCCESS;
    }
    if arguments.in_kernel
        && let Some(code) = cable::enter()
    {
        return code;
    }
    match put_to_the_test(&arguments, &sections) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well.
fn put_to_the_test(arguments: &Arguments, sections: &[Section]) -> Result<bool, String> {
    let began = Instant::now();
    let implementation = arguments.against.unwrap_or(Implementation::Hairpin);
    let mut running: Vec<Running> = Vec::new();
    let mut foreign = None;
    let name = match (&arguments.server, implementation) {
        (Some(uri), _) => {
            let user = Credentials::new(&arguments.username, &arguments.password);
            foreign = Some(foreign::probe(uri, user, arguments.peer_address, &arguments.has)?);
            uri.clone()
        }
        (None, Implementation::Hairpin) if arguments.in_kernel => {
            running = profiles::start_over_a_cable()?;
            "hairpin in the kernel".to_owned()
        }
        (None, Implementation::Hairpin) => {
            running = profiles::start()?;
            "hairpin".to_owned()
        }
        (None, Implementation::Coturn) => {
            running = coturn::start()?;
            "coturn".to_owned()
        }
    };
    let targets = running.iter().map(|running| &running.target).chain(&foreign).collect();
    let plan = run::Plan { targets, only: arguments.only.clone(), slow: arguments.slow, jobs: arguments.jobs.max(1) };
    let endings = run::run(sections, &plan);
    let rows = table::rows(&endings);
    println!("{name}\n{}", table::text(&rows, arguments.transcripts));
    println!("in {} s", began.elapsed().as_secs());
    if let Some(running) = running.first().filter(|_| arguments.in_kernel) {
        let share = cable::share(running.directory())?;
        println!("{share} % of the packets were relayed by the kernel");
        if share == 0.0 {
            return Err("none: see offload_on and offload_unused in the server's log".to_owned());
        }
    }
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&table::json(&name, &rows)).expect("it is only text and numbers");
        std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    if let Some(file) = &arguments.markdown {
        let document = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let document = table::insert(&document, &name, &table::markdown(&rows))
            .map_err(|error| format!("{}: {error}", file.display()))?;
        std::fs::write(file, document).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let of = |ending: &run::Ending| {
        let is_it =
            |known: &&(&str, Transport, &str)| ending.case.id.starts_with(known.0) && ending.transport == known.1;
        profiles::KNOWN_FAILURES.iter().find(is_it).filter(|_| name == "hairpin")
    };
    let failures = endings.iter().filter(|ending| matches!(ending.result, Err(Stop::Failed(_))));
    let (known, unexpected): (Vec<_>, Vec<_>) =
        failures.map(|ending| (ending, of(ending))).partition(|(_, why)| why.is_some());
    for (ending, why) in known {
        let why = why.map_or("", |known| known.2);
        println!("{} is known to fail over {}: {why}", ending.case.id, ending.transport);
    }
    Ok(unexpected.is_empty())
}
