//! Where `test` and `matrix` write what came of a run.

use std::path::PathBuf;

use clap::Args;
use netlab::Options;
use netlab::options::TurnServerChoice;
use netlab::results::Files;

#[derive(Args)]
pub struct ReportFiles {
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the results as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write the results as one HTML page, with links to the logs
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl ReportFiles {
    pub fn files(&self) -> Files {
        Files { json: self.json.clone(), junit: self.junit.clone(), html: self.html.clone() }
    }
}

/// The server under test, for titles.
pub fn server(options: &Options) -> &'static str {
    match options.turn_server {
        TurnServerChoice::Hairpin => "Hairpin",
        TurnServerChoice::Coturn => "coturn",
    }
}
