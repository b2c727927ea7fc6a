//! `seeds FOLDER`: writes what every target starts from.

use std::path::PathBuf;
use std::process::ExitCode;

// Everything here is built with coverage, which libFuzzer collects.
use libfuzzer_sys as _;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: seeds FOLDER");
        return ExitCode::from(2);
    };
    match hairpin_fuzz::seeds::write(&PathBuf::from(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
