//! What a relayed packet, a request, a connection costs this build, coturn, and a forwarder that knows nothing of TURN.
//!
//! ```text
//!   namespace "load", one core                     namespace "server", another core
//!   ┌──────────────────────────┐   clients link   ┌───────────────────────────────┐
//!   │ hairpin bench:           ├──────────────────┤ Hairpin, coturn or forwarder, │
//!   │ clients and peers        ├──────────────────┤ one at a time                 │
//!   └──────────────────────────┘    peers link    └───────────────────────────────┘
//! ```
//!
//! `make bench`, or `make bench ARGUMENTS="--only relay --rounds 3"`; `--help` lists the rest. Lives here:
//! `network.rs` (namespaces, links, which core does what), `contestants.rs` (the servers), `forwarder.rs` (the limit),
//! `kernel_forwarder.rs` (the limit in the kernel), `flood.rs` (a load in the kernel), `awake.rs` (what interrupts take),
//! `rows.rs` (what is measured, and the goals), `round.rs` (one measurement), `disturbance.rs` (what else the machine
//! did), `profile.rs` (where the time goes), `scraper.rs` (who asks for metrics meanwhile), `soak.rs` (a long run, another command), `results.rs` (medians, ratios), `table.rs` (what is printed), `machine.rs` (what it was measured on).
//!
//! It needs root, since only root may say which core receives packets. What cannot run here says SKIP and why.

#![forbid(unsafe_code)]

mod awake;
mod contestants;
mod disturbance;
mod flood;
mod forwarder;
mod kernel_forwarder;
mod machine;
mod network;
mod options;
mod profile;
mod results;
mod round;
mod rows;
mod scraper;
mod soak;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};

use contestants::Contestant;
use network::Network;
use options::Options;
use results::{Document, Sample};
use round::Bench;
use rows::{Row, Section};

fn main() -> ExitCode {
    let arguments = std::env::args_os().collect::<Vec<_>>();
    if arguments.get(1).is_some_and(|word| word == forwarder::COMMAND) {
        return forwarder::main(&arguments[2..]);
    }
    if arguments.get(1).is_some_and(|word| word == soak::COMMAND) {
        return soak::main(&arguments[2..]);
    }
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let rows = options.rows()?;
    if options.list {
        rows.iter().for_each(|row| println!("{:<28}{}", row.name, row.title));
        return Ok(());
    }
    let mut document = Document::read(&options.json)?;
    if !options.render {
        if let Err(reason) = network::can_run() {
            println!("SKIP: {reason}");
            return Ok(());
        }
        if !options::own_build().is_file() {
            return Err(format!("{} is not there: build it first", options::own_build().display()));
        }
        let scratch = Scratch::new()?;
        measure(options, &rows, &mut document, &scratch)?;
    }
    println!("\n{}", table::text(&document));
    if let Some(path) = &options.markdown {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let text = table::insert_all(&text, &document).map_err(|error| format!("{}: {error}", path.display()))?;
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn measure(options: &Options, rows: &[Row], document: &mut Document, scratch: &Scratch) -> Result<(), String> {
    machine::raise_descriptor_limit();
    let network = Network::new(options.server_cpu(), options.load_cpu())?;
    network.check_steering()?;
    let bench = Bench { network: &network, options, scratch: &scratch.0, certificate: contestants::certificate() };
    document.machine = machine::describe(options);
    let mut failed = Vec::new();
    for row in rows {
        let contestants = Contestant::all_for(row, options);
        if let Some(reason) = row.missing(&contestants) {
            println!("SKIP {}: {reason}", row.name);
            continue;
        }
        println!("{}: {}", row.name, row.title);
        network.complete_checksums(row.section == Section::Kernel)?;
        let mut rounds = Vec::new();
        let mut failure = None;
        'rounds: for number in 0..options.rounds() {
            let mut round: Vec<Sample> = Vec::new();
            for position in 0..contestants.len() {
                // A B C, C A B, B C A: nobody always comes first, or always after the same.
                let contestant =
                    &contestants[(position + contestants.len() - number % contestants.len()) % contestants.len()];
                match bench.sample(row, contestant) {
                    Ok(sample) => {
                        println!("  {}", sample.line(row));
                        round.push(sample);
                    }
                    // The other rows may fare better.
                    Err(problem) => {
                        eprintln!("{problem}");
                        failure = Some(problem);
                        break 'rounds;
                    }
                }
            }
            rounds.push(round);
        }
        if failure.is_some() {
            failed.push(row.name);
            continue;
        }
        document.put(row, rounds);
        document.write(&options.json)?;
    }
    match failed[..] {
        [] => Ok(()),
        _ => Err(format!("not measured, as said above: {}", failed.join(", "))),
    }
}

/// Configurations and logs of servers; gone when the run is over, also after Ctrl-C.
struct Scratch(PathBuf);

impl Scratch {
    /// To be made before there is any thread: all of them leave the signals to one.
    fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("hairpin-compare-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let ends: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        ends.thread_block().map_err(|error| format!("cannot wait for signals: {error}"))?;
        let to_remove = path.clone();
        std::thread::spawn(move || {
            let signal = ends.wait();
            let _ = fs::remove_dir_all(to_remove);
            // Namespaces end with the threads that hold them, servers with the thread that started them.
            std::process::exit(signal.map_or(1, |signal| 128 + signal as i32));
        });
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
