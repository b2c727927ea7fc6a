//! The suite's calls to phones.

use std::path::Path;

use anyhow::Result;

use super::SipTools;
use super::call::{SipPlan, SipReport};
use super::expect::SipExpectation;
use crate::browser::BrowserKind;
use crate::call::{Offer, Policy};
use crate::options::{Options, Tools};
use crate::running::RunningLab;
use crate::scenario::Outcome;
use crate::session::Session;
use crate::topology::Topology;
use crate::turn::Setup;

/// One scenario.
#[derive(Clone, Debug)]
pub struct SipScenario {
    /// A short name, for filters and directories.
    pub name: &'static str,
    /// What is shown, as a sentence.
    pub sentence: &'static str,
    topology: &'static str,
    browser: &'static str,
    phone: &'static str,
    expectation: SipExpectation,
}

/// The suite's.
pub fn all() -> Vec<SipScenario> {
    vec![
        SipScenario {
            name: "sip",
            sentence: "M registers at a SIP server and calls a SIP client, audio and video; both are relayed",
            topology: "sip",
            browser: "browser-m",
            phone: "phone-s",
            expectation: SipExpectation::VideoCall,
        },
        SipScenario {
            name: "pstn",
            sentence: "M calls a telephone by its number, through a gateway: Opus, relayed, on its side, G.711 and M's digits there",
            topology: "pstn",
            browser: "browser-m",
            phone: "phone-p",
            expectation: SipExpectation::TelephoneCall,
        },
    ]
}

impl SipScenario {
    /// The topology it runs on.
    ///
    /// # Errors
    /// The scenario names something the topology does not have.
    pub fn topology(&self) -> Result<Topology> {
        let topology = Topology::load(self.topology)?;
        topology.browser(self.browser)?;
        topology.phone(self.phone)?;
        Ok(topology)
    }

    /// Builds its lab, makes its call, checks what came of it, and takes the lab down again. Takes seconds; blocks.
    pub fn run(&self, session: &Session, options: &Options) -> Outcome<SipReport> {
        if let Err(mistake) = options.check() {
            return Outcome::Failed(mistake);
        }
        let tools = Tools::find(options, &[BrowserKind::Chromium]);
        let tools = match tools.and_then(|tools| SipTools::find(options.jssip.as_deref()).map(|_| tools)) {
            Ok(tools) => tools,
            Err(missing) => return Outcome::Skipped(missing.to_string()),
        };
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return Outcome::Failed(format!("cannot make an async runtime: {error}")),
        };
        match runtime.block_on(self.call(session, &tools, options)) {
            Ok(report) => self.judge(report, &options.output.join(self.name)),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        }
    }

    async fn call(&self, session: &Session, tools: &Tools, options: &Options) -> Result<SipReport> {
        let running =
            RunningLab::start(session, tools, options, &self.topology()?, Setup::Configured, self.name).await?;
        let plan = SipPlan {
            browser: self.browser.to_owned(),
            phone: self.phone.to_owned(),
            offer: Offer::TurnUdp,
            policy: Policy::Relay,
            digits: self.expectation.digits().to_owned(),
            talk_seconds: 0,
            screenshot: None,
        };
        running.call_phone(&plan).await
    }

    fn judge(&self, report: SipReport, output: &Path) -> Outcome<SipReport> {
        let summary = summary(&report);
        match self.expectation.check(&report) {
            Ok(()) => Outcome::Passed { summary, measurements: Box::new(report) },
            Err(problem) => Outcome::Failed(format!("{problem}; {summary}; logs in {}", output.display())),
        }
    }
}

/// One line about a call: how soon, which codecs, how much.
pub fn summary(report: &SipReport) -> String {
    let page = &report.page.page;
    if !report.connected() {
        return format!("no call ({:?})", page.outcome).to_lowercase();
    }
    let milestone = |name: &str| page.milestones.get(name).copied().unwrap_or_default();
    let codec = |codec: &Option<String>| codec.clone().unwrap_or_else(|| "nothing".to_owned());
    let mut line = format!(
        "{}, registered after {} ms, established after {} ms, {} – {}",
        page.selected_types(),
        milestone("registered"),
        milestone("established"),
        codec(&page.media.audio.sent_codec),
        codec(&report.phone.as_ref().and_then(|phone| phone.audio.decoder.clone())),
    );
    if let Some(phone) = &report.phone {
        let packets = page.media.audio.received_packets;
        line += &format!(", audio {packets}/{} packets", phone.audio.received_packets);
        if report.video {
            line += &format!(", video {}/{} frames", page.media.video.received_frames, phone.shown_frames);
        }
    }
    let accounts = &report.accounts.to_peers;
    line + &format!(
        ", relayed {} kB (both ends {} kB + {} ICE messages)",
        accounts.server_bytes / 1000,
        accounts.browser_bytes / 1000,
        accounts.ice_messages
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_fits_its_topology_and_has_a_name_of_its_own() {
        let browsers = crate::scenario::all();
        for scenario in all() {
            scenario.topology().unwrap();
            assert!(browsers.iter().all(|other| other.name != scenario.name), "{} is there twice", scenario.name);
        }
    }
}
