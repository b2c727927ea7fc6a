//! `netlab matrix`

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use netlab::browser::BrowserKind;
use netlab::call::Offer;
use netlab::matrix::{Pair, pairs, representative_in};
use netlab::nat::Nat;
use netlab::suite::{Tally, run_pair};
use netlab::{Options, Session, say};

use super::files::{ReportFiles, server};

#[derive(Args)]
pub struct MatrixArguments {
    /// Only these NATs, as in topology files: none,full-cone,…
    #[arg(long, value_name = "PRESETS", value_delimiter = ',', conflicts_with = "representative")]
    nats: Vec<String>,
    /// Which browsers; two of them make all four combinations
    #[arg(long, value_enum, value_delimiter = ',', default_value = "chromium")]
    browsers: Vec<BrowserArgument>,
    /// How to reach TURN where STUN is not enough, a call each (default: one with UDP and TCP)
    #[arg(long, value_enum, value_delimiter = ',')]
    transports: Vec<TransportArgument>,
    /// Let each of two NATs call the other
    #[arg(long, conflicts_with = "representative")]
    both_ways: bool,
    /// Only the few pairs that are part of `netlab test`
    #[arg(long)]
    representative: bool,
    #[command(flatten)]
    files: ReportFiles,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BrowserArgument {
    Chromium,
    Firefox,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TransportArgument {
    Udp,
    Tcp,
    Tls,
}

impl MatrixArguments {
    fn pairs(&self) -> Result<Vec<Pair>> {
        let nats = self.nats.iter().map(|name| Nat::preset(name)).collect::<Result<Vec<_>, _>>();
        let nats = nats.map_err(anyhow::Error::msg)?;
        let nats = if nats.is_empty() { Nat::PRESETS.to_vec() } else { nats };
        let kinds: Vec<_> = self
            .browsers
            .iter()
            .map(|browser| match browser {
                BrowserArgument::Chromium => BrowserKind::Chromium,
                BrowserArgument::Firefox => BrowserKind::Firefox,
            })
            .collect();
        let browsers: Vec<_> = kinds.iter().flat_map(|caller| kinds.iter().map(|callee| [*caller, *callee])).collect();
        let mut offers: Vec<_> = self
            .transports
            .iter()
            .map(|transport| match transport {
                TransportArgument::Udp => Offer::TurnUdp,
                TransportArgument::Tcp => Offer::TurnTcp,
                TransportArgument::Tls => Offer::TurnTls,
            })
            .collect();
        if offers.is_empty() {
            offers.push(Offer::StunAndTurn);
        }
        Ok(match self.representative {
            true => representative_in(&browsers, &offers),
            false => pairs(&nats, &browsers, &offers, self.both_ways),
        })
    }
}

/// Makes the grid's calls, one pair after the other. Fails if any was not as expected.
pub fn matrix(arguments: &MatrixArguments, options: &Options) -> Result<ExitCode> {
    let pairs = arguments.pairs()?;
    let session = Session::enter();
    if let Ok(session) = &session {
        super::clean_up_when_interrupted(session)?;
    }
    let (started, total) = (Instant::now(), pairs.len());
    let width = pairs.iter().map(|pair| pair.name().len()).max().unwrap_or_default();
    let mut records = Vec::new();
    for (number, pair) in pairs.iter().enumerate() {
        let elapsed = started.elapsed().as_secs();
        let progress = format!("[{:>3}/{total}, {:>2}:{:02}] ", number + 1, elapsed / 60, elapsed % 60);
        records.extend(run_pair(pair, &session, options, width, &progress));
        // After every pair, so that a run that is interrupted leaves what it has found.
        arguments.files.files().write(&title(options), &records)?;
    }
    let tally = Tally::of(&records);
    say!("{tally}, {} s", started.elapsed().as_secs());
    match tally {
        Tally { failed: 1.., .. } => Ok(ExitCode::FAILURE),
        Tally { passed: 0, skipped: 0, .. } => bail!("there is no pair to try"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn title(options: &Options) -> String {
    format!("Every NAT against every other, with {}", server(options))
}
