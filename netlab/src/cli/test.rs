//! `netlab test [FILTER]`

use std::process::ExitCode;

use anyhow::{Result, bail};
use netlab::suite::{self, Tally};
use netlab::{Options, Session};

use super::files::{ReportFiles, server};

/// Runs the scenarios. Fails if any of them did, or if there was nothing to run.
pub fn test(filter: &str, files: &ReportFiles, options: &Options) -> Result<ExitCode> {
    let session = Session::enter();
    if let Ok(session) = &session {
        super::clean_up_when_interrupted(session)?;
    }
    let records = suite::run_recorded(&session, options, filter);
    files.files().write(&format!("The lab's scenarios, with {}", server(options)), &records)?;
    match Tally::of(&records) {
        Tally { failed: 1.., .. } => Ok(ExitCode::FAILURE),
        Tally { passed: 0, skipped: 0, .. } => {
            bail!("no scenario's name contains {filter:?}; `netlab list` shows them")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
