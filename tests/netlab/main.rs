//! The lab against this build of the server: real browsers behind real NATs.
//!
//! First the lab's own suite, then [`sentences`], then a few pairs of the grid against coturn, the control: what fails
//! there, too, is the lab's fault. A process can only enter a user namespace before it has threads, hence no test harness:
//! `cargo test --test netlab WORD` runs what has WORD in its name, one line each. What cannot run here says SKIP and why.

mod sentences;

use std::path::PathBuf;
use std::process::ExitCode;

use netlab::options::TurnServerChoice;
use netlab::{Options, Session, matrix, say, suite};

fn main() -> ExitCode {
    let session = Session::enter();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        let suite = suite::all().into_iter().map(|case| case.name().to_owned());
        let sentences = sentences::all().into_iter().map(|scenario| scenario.name.to_owned());
        for name in suite.chain(matrix::representative().iter().map(matrix::Pair::name)).chain(sentences) {
            say!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    // `cargo test -- --skip x` and the like are meant for harnesses; only a bare word is a filter.
    let filter = arguments.iter().find(|argument| !argument.starts_with('-')).map_or("", String::as_str);
    let output = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let hairpin = Options {
        turn_binary: Some(env!("CARGO_BIN_EXE_hairpin").into()),
        output: output.join("netlab"),
        ..Options::default()
    };
    let mut tally = suite::run(&session, &hairpin, filter);
    say!("Sentences:");
    tally += suite::run_these(&session, &hairpin, filter, sentences::all());
    if filter.is_empty() || filter.contains("matrix") {
        say!("The same pairs with coturn:");
        let coturn = Options {
            turn_server: TurnServerChoice::Coturn,
            output: output.join("netlab-coturn"),
            ..Options::default()
        };
        tally += suite::run(&session, &coturn, if filter.is_empty() { "matrix" } else { filter });
        say!("In all: {tally}");
    }
    if tally.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
