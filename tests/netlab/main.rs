//! The lab's scenarios against this build of the server: real browsers behind real NATs.
//!
//! A process can only enter a user namespace before it has threads, hence no test harness: `cargo test --test netlab
//! WORD` runs the scenarios with WORD in their name, one line each. What cannot run here says SKIP and why.

use std::path::PathBuf;
use std::process::ExitCode;

use netlab::{Options, Session, suite};

fn main() -> ExitCode {
    let session = Session::enter();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for scenario in suite::all() {
            println!("{}: test", scenario.name());
        }
        for pair in netlab::matrix::representative() {
            println!("{}: test", pair.name());
        }
        return ExitCode::SUCCESS;
    }
    // `cargo test -- --skip x` and the like are meant for harnesses; only a bare word is a filter.
    let filter = arguments.iter().find(|argument| !argument.starts_with('-')).map_or("", String::as_str);
    let options = Options {
        turn_binary: Some(env!("CARGO_BIN_EXE_hairpin").into()),
        output: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("netlab"),
        ..Options::default()
    };
    let tally = suite::run(&session, &options, filter);
    if tally.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
