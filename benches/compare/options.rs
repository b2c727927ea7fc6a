//! What the program may be told.

use std::path::PathBuf;

use clap::Parser;

use crate::rows::{self, Row};

/// Compare this build with coturn and a bare forwarder: server CPU per packet, request and connection.
#[derive(Debug, Parser)]
pub struct Options {
    /// Measure only these rows, or those that begin with one of these words, separated by commas
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    only: Vec<String>,
    /// Compare only these of hairpin, before, coturn, forwarder, no-recorder, scraped, no-offload, kernel-forwarder, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    servers: Vec<String>,
    /// How often each row is measured with each server [default: 7; with --quick 3, with --tiny 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds measured each time [default: 3; with --quick 1, with --tiny 0.4]
    #[arg(long)]
    seconds: Option<f64>,
    /// Few rounds, short ones: to see whether something has changed much
    #[arg(long)]
    quick: bool,
    /// As short as can be, and without repeating what was disturbed: to see whether it works
    #[arg(long, conflicts_with = "quick")]
    tiny: bool,
    /// Also say where the time of the server's core goes, by perf
    #[arg(long)]
    pub profile: bool,
    /// Measure all rows as those of the kernel are: by what is left to a program that keeps the server's core awake
    #[arg(long)]
    pub awake: bool,
    /// Tell the rows, and measure none
    #[arg(long)]
    pub list: bool,
    /// Where results are kept; rows measured now replace those in it
    #[arg(long, value_name = "FILE", default_value_os_t = own_build().with_file_name("compare.json"))]
    pub json: PathBuf,
    /// Measure nothing, but show what is kept
    #[arg(long)]
    pub render: bool,
    /// Write the tables between the markers of this document
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// The server's core
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    server_cpu: usize,
    /// The load's core
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    load_cpu: usize,
    /// The Hairpin to compare; the load is always this build's
    #[arg(long, value_name = "FILE", default_value_os_t = own_build())]
    pub hairpin: PathBuf,
    /// Another Hairpin to compare it with: what there was before a change
    #[arg(long, value_name = "FILE")]
    pub before: Option<PathBuf>,
    /// The coturn to compare it with [default: turnserver, where programs are installed]
    #[arg(long, value_name = "FILE")]
    pub coturn: Option<PathBuf>,
}

/// The `hairpin` that was built with this program, and lies beside it.
pub fn own_build() -> PathBuf {
    std::env::current_exe().unwrap_or_default().with_file_name("hairpin")
}

impl Options {
    /// The rows that were asked for.
    ///
    /// # Errors
    /// When there is none.
    pub fn rows(&self) -> Result<Vec<Row>, String> {
        let mut rows = rows::all();
        if !self.only.is_empty() {
            let is_name = |word: &str| rows::all().iter().any(|row| row.name == word);
            let is_wanted = |name: &str, word: &str| name == word || (!is_name(word) && name.starts_with(word));
            rows.retain(|row| self.only.iter().any(|word| is_wanted(row.name, word)));
        }
        match rows.is_empty() {
            true => Err(format!("no row begins with {:?}; --list tells them", self.only.join(" or "))),
            false => Ok(rows),
        }
    }

    /// Whether this contestant takes part.
    pub fn is_wanted(&self, contestant: &str) -> bool {
        self.servers.is_empty() || self.servers.iter().any(|name| name == contestant)
    }

    /// How often each row is measured with each server.
    pub fn rounds(&self) -> usize {
        let default = if self.tiny {
            1
        } else if self.quick {
            3
        } else {
            7
        };
        self.rounds.unwrap_or(default).max(1)
    }

    /// Seconds measured each time.
    pub fn seconds(&self) -> f64 {
        let default = if self.tiny {
            0.4
        } else if self.quick {
            1.0
        } else {
            3.0
        };
        self.seconds.unwrap_or(default)
    }

    /// Seconds before that.
    pub fn warm_up(&self) -> f64 {
        if self.tiny { 0.1 } else { 0.5 }
    }

    /// How often a disturbed measurement is repeated.
    pub fn repetitions(&self) -> usize {
        if self.tiny { 0 } else { 2 }
    }

    /// The server's core.
    pub fn server_cpu(&self) -> usize {
        self.server_cpu
    }

    /// The load's core.
    pub fn load_cpu(&self) -> usize {
        self.load_cpu
    }
}
