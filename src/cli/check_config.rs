//! `hairpin check-config FILE`

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, print, this_machine};
use crate::config;

/// Check a configuration file without starting.
///
/// Prints everything that would keep the server from starting with it, each with line, key and remedy, and exits
/// with 1; or what is allowed but perhaps not meant, and exits with 0. It also looks at this machine: addresses that
/// the file names must exist here, and files it names must be readable.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The file, in TOML; config.example.toml explains every key.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let checked = config::load(Some(&arguments.file), &this_machine()?).map_err(|errors| errors.to_string())?;
    for note in &checked.notes {
        print(format_args!("note: {note}"))?;
    }
    print(format_args!("{}: good", arguments.file.display()))
}
