//! The grid of real calls: browsers behind every NAT call browsers behind every other.
//!
//! Every pair first calls with nothing but STUN: it must succeed, without a relay, or fail, as RFC 4787 lets one expect
//! ([`model`]). Where it fails it calls again with TURN, which must succeed with a relayed address on at least one side.

use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use anyhow::Result;

use crate::browser::BrowserKind;
use crate::call::{CallPlan, CallReport, Offer, Policy};
use crate::nat::Nat;
use crate::nat::model::{self, Order};
use crate::options::{Options, Tools};
use crate::results::{Cell, Outcome, Record, Verdict, files_in};
use crate::running::RunningLab;
use crate::scenario::{Expectation, summary};
use crate::session::{CannotRun, Session};
use crate::topology::Topology;
use crate::turn::Setup;

/// Two browsers behind two NATs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The caller's NAT and the callee's.
    pub nats: [Nat; 2],
    /// The caller's browser and the callee's.
    pub browsers: [BrowserKind; 2],
    /// What is offered where STUN is not enough, one call each.
    pub offers: Vec<Offer>,
}

/// NATs of a few pairs that no scenario has and that show both kinds of outcome.
const REPRESENTATIVE: [[Nat; 2]; 3] = [
    [Nat::FullCone, Nat::Symmetric],
    [Nat::AddressDependent, Nat::PortRestrictedRandom],
    [Nat::PortRestricted, Nat::Symmetric],
];

/// A few pairs in Chromium: within a minute.
pub fn representative() -> Vec<Pair> {
    representative_in(&[[BrowserKind::Chromium; 2]], &[Offer::StunAndTurn])
}

/// The same pairs in every one of these combinations of browsers.
pub fn representative_in(browsers: &[[BrowserKind; 2]], offers: &[Offer]) -> Vec<Pair> {
    let pair = |browsers: &[BrowserKind; 2], nats| Pair { nats, browsers: *browsers, offers: offers.to_vec() };
    browsers.iter().flat_map(|browsers| REPRESENTATIVE.map(|nats| pair(browsers, nats))).collect()
}

/// All pairs of NATs, in every combination of browsers. Who calls whom makes little difference and twice the time, so
/// that of two NATs only one calls the other, unless `both_ways`.
pub fn pairs(nats: &[Nat], browsers: &[[BrowserKind; 2]], offers: &[Offer], both_ways: bool) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for browsers in browsers {
        for (row, first) in nats.iter().enumerate() {
            let from = if both_ways { 0 } else { row };
            for second in &nats[from..] {
                pairs.push(Pair { nats: [*first, *second], browsers: *browsers, offers: offers.to_vec() });
            }
        }
    }
    pairs
}

/// What can be expected with nothing but STUN: `None` where it depends on whose packet is first.
pub fn expected_directly(nats: [Nat; 2]) -> Option<bool> {
    let [first, second] = Order::BOTH.map(|order| model::reaches(nats, order));
    (first == second).then_some(first)
}

impl Pair {
    /// Its name: the directory of its logs.
    pub fn name(&self) -> String {
        let [caller, callee] = self.nats.map(Nat::name);
        let usual = self.browsers == [BrowserKind::Chromium; 2];
        let browsers = if usual { String::new() } else { format!("-{}", self.grid().to_lowercase().replace(' ', "-")) };
        format!("matrix-{caller}-{callee}{browsers}")
    }

    fn grid(&self) -> String {
        let [caller, callee] = self.browsers;
        format!("{caller} calls {callee}")
    }

    /// Makes its calls in a lab of its own. Takes seconds; blocks.
    pub fn run(&self, session: &Result<Session, CannotRun>, options: &Options) -> Vec<Record> {
        let (since, started) = (SystemTime::now(), Instant::now());
        let mut records = Vec::new();
        if let Err((verdict, line)) = self.calls(session, options, &mut records) {
            let what = format!("{} and {}", self.nats[0], self.nats[1]);
            records.push(self.record(&what, verdict, None, started, line));
        }
        let failed = records.iter().any(|record| record.verdict == Verdict::Failed);
        let files = files_in(&self.output(options), since, failed);
        for record in &mut records {
            record.files.clone_from(&files);
        }
        records
    }

    fn output(&self, options: &Options) -> PathBuf {
        options.output.join(self.name())
    }

    fn calls(
        &self,
        session: &Result<Session, CannotRun>,
        options: &Options,
        records: &mut Vec<Record>,
    ) -> Result<(), (Verdict, String)> {
        let failed = |error: anyhow::Error| (Verdict::Failed, format!("{error:#}"));
        let session = session.as_ref().map_err(|reason| (Verdict::Skipped, reason.to_string()))?;
        options.check().map_err(|mistake| (Verdict::Failed, mistake))?;
        let tools = Tools::find(options, &self.browsers).map_err(|missing| (Verdict::Skipped, missing.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(error.into()))?;
        let topology = || -> Result<Topology> {
            let topology = Topology::load("internet")?.with_nat("coffee-shop", self.nats[0])?;
            Ok(topology.with_nat("home", self.nats[1])?)
        };
        runtime.block_on(async {
            let topology = topology().map_err(failed)?;
            let name = self.name();
            let lab = RunningLab::start(session, &tools, options, &topology, Setup::Configured, &name);
            let lab = lab.await.map_err(failed)?;
            let connected = self.call(&lab, Offer::StunOnly, records).await.map_err(failed)?;
            if !connected {
                for offer in &self.offers {
                    self.call(&lab, *offer, records).await.map_err(failed)?;
                }
            }
            Ok(())
        })
    }

    /// Makes one call; whether it was connected.
    async fn call(&self, lab: &RunningLab, offer: Offer, records: &mut Vec<Record>) -> Result<bool> {
        let started = Instant::now();
        let plan = CallPlan {
            caller: "browser-l".to_owned(),
            callee: "browser-m".to_owned(),
            browsers: self.browsers,
            offer,
            policy: Policy::All,
            talk_seconds: 0,
            fault: None,
            screenshot: None,
        };
        let report = lab.call(&plan).await?;
        let expectation = match offer {
            Offer::StunOnly => match expected_directly(self.nats) {
                Some(true) => Expectation::Direct,
                Some(false) => Expectation::NoCall,
                None if report.connected() => Expectation::Direct,
                None => Expectation::NoCall,
            },
            // STUN alone has failed this time, but the packets of another call may come in the other order.
            _ if expected_directly(self.nats).is_none() => Expectation::Connected,
            _ => Expectation::Relayed,
        };
        // Which pair Firefox has received over is known only if all are relayed: see `accounting`.
        let countable = !self.browsers.contains(&BrowserKind::Firefox);
        let checked = if countable { expectation.check(&report) } else { expectation.check_path(&report) };
        let (verdict, line) = match checked {
            Ok(()) => (Verdict::Passed, summary(&report)),
            Err(problem) => (Verdict::Failed, format!("{problem}; {}", summary(&report))),
        };
        let (suffix, offered) = match offer {
            Offer::StunOnly => ("", "STUN only"),
            Offer::TurnUdp => ("-turn-udp", "TURN over UDP"),
            Offer::TurnTcp => ("-turn-tcp", "TURN over TCP"),
            Offer::TurnTls => ("-turn-tls", "TURN over TLS"),
            _ => ("-turn", "STUN and TURN"),
        };
        let what = format!("{} and {}, {offered}", self.nats[0], self.nats[1]);
        let record = self.record(&what, verdict, Some(&report), started, line);
        records.push(Record { name: self.name() + suffix, ..record });
        Ok(report.connected())
    }

    fn record(
        &self,
        sentence: &str,
        verdict: Verdict,
        report: Option<&CallReport>,
        started: Instant,
        line: String,
    ) -> Record {
        Record {
            name: self.name(),
            sentence: sentence.to_owned(),
            verdict,
            path: report.map(Outcome::of),
            seconds: started.elapsed().as_secs_f64(),
            connected_milliseconds: report.and_then(CallReport::connected_milliseconds),
            line,
            recovery: None,
            cell: Some(Cell { grid: self.grid(), caller: self.nats[0].to_string(), callee: self.nats[1].to_string() }),
            files: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_grid_has_every_pair_once() {
        let browsers = [[BrowserKind::Chromium; 2], [BrowserKind::Firefox; 2]];
        let half = pairs(&Nat::PRESETS, &browsers, &[Offer::StunAndTurn], false);
        let all = pairs(&Nat::PRESETS, &browsers, &[Offer::StunAndTurn], true);
        assert_eq!([half.len(), all.len()], [2 * 78, 2 * 144]);
        let names: std::collections::BTreeSet<_> = all.iter().map(Pair::name).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn the_representative_pairs_show_both_outcomes() {
        let directly: Vec<_> = representative().iter().map(|pair| expected_directly(pair.nats)).collect();
        assert_eq!(directly, [Some(true), Some(true), Some(false)]);
        assert_eq!(expected_directly([Nat::BareMasquerade, Nat::PortRestricted]), None);
    }
}
