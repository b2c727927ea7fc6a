//! Scenarios: a topology, what its routers do, who calls whom with which ICE servers, and what must come of it.
//!
//! [`all`] is the suite. [`Scenario::run`] builds a lab of its own for each, so that none sees another's traffic.
//!
//! Two rules keep the assertions honest. That a direct path exists is shown by a call that is offered STUN only and
//! works; that a relay is needed, by the same call failing and then, offered TURN, working with a relayed address on
//! at least one side. Nothing ever asserts a direct path while TURN is offered: which of two working pairs a browser
//! prefers is its own business.

mod calls;
mod expect;
mod faults;
mod firefox;
mod places;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::browser::BrowserKind;
use crate::call::{CallPlan, CallReport, Offer, Policy};
use crate::fault::Fault;
use crate::options::{Options, Tools};
use crate::report::PageReport;
use crate::running::RunningLab;
use crate::session::{CannotRun, Session};
use crate::topology::{Nat, Service, Topology};
use crate::turn::{Setup, TurnServerKind};
use crate::{impair, proxy};

pub use expect::Expectation;
pub(crate) use expect::problem_of;

/// How a scenario ended, with measurements of one kind or another.
#[derive(Clone, Debug)]
pub enum Outcome<M = CallReport> {
    /// Everything was as expected.
    Passed {
        /// One line: selected pairs, times, bytes.
        summary: String,
        /// What was measured.
        measurements: Box<M>,
    },
    /// It cannot be run here: why, and what to do.
    Skipped(String),
    /// Something was not as expected: what, and where the logs are.
    Failed(String),
}

/// One scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// A short name, for filters and directories.
    pub name: &'static str,
    /// What is shown, as a sentence.
    pub sentence: &'static str,
    topology: &'static str,
    nats: Vec<(&'static str, Nat)>,
    udp_blocked_at: Option<&'static str>,
    https_only_at: &'static [&'static str],
    caller: &'static str,
    callee: &'static str,
    browsers: [BrowserKind; 2],
    offer: Offer,
    policy: Policy,
    setup: Setup,
    fault: Option<Fault>,
    expectation: Expectation,
    representative: bool,
}

/// The suite: every theme has a file with its table.
pub fn all() -> Vec<Scenario> {
    [calls::scenarios(), places::scenarios(), faults::scenarios(), firefox::scenarios()].concat()
}

/// L calling M across the Internet with STUN and TURN offered, which must connect through a relay; the methods say how a
/// scenario differs. The suite's are made of this, and so are those of other packages:
///
/// ```
/// use netlab::call::Offer::StunOnly;
/// use netlab::scenario::{Expectation::NoCall, scenario};
/// use netlab::topology::Nat::{PortRestricted, Symmetric};
///
/// scenario("no-way", "L behind a symmetric NAT and M behind a port-restricted one cannot talk with nothing but STUN")
///     .with_nats(Symmetric, PortRestricted)
///     .offering(StunOnly)
///     .expecting(NoCall);
/// ```
pub fn scenario(name: &'static str, sentence: &'static str) -> Scenario {
    Scenario {
        name,
        sentence,
        topology: "internet",
        nats: Vec::new(),
        udp_blocked_at: None,
        https_only_at: &[],
        caller: "browser-l",
        callee: "browser-m",
        browsers: [BrowserKind::Chromium; 2],
        offer: Offer::StunAndTurn,
        policy: Policy::All,
        setup: Setup::Configured,
        fault: None,
        expectation: Expectation::Relayed,
        representative: true,
    }
}

impl Scenario {
    /// On another topology than `internet`.
    pub fn on(mut self, topology: &'static str) -> Scenario {
        self.topology = topology;
        self
    }

    /// With these NATs in front of L's coffee shop and of M's home.
    pub fn with_nats(mut self, coffee_shop: Nat, home: Nat) -> Scenario {
        self.nats = vec![("coffee-shop", coffee_shop), ("home", home)];
        self
    }

    /// With a router that drops UDP.
    pub fn with_udp_blocked_at(mut self, router: &'static str) -> Scenario {
        self.udp_blocked_at = Some(router);
        self
    }

    /// With routers that let out nothing but TCP to port 443.
    pub fn with_https_only_at(mut self, routers: &'static [&'static str]) -> Scenario {
        self.https_only_at = routers;
        self
    }

    /// Between these browsers.
    pub fn between(mut self, caller: &'static str, callee: &'static str) -> Scenario {
        (self.caller, self.callee) = (caller, callee);
        self
    }

    /// In the caller's and the callee's browser.
    pub fn in_browsers(mut self, caller: BrowserKind, callee: BrowserKind) -> Scenario {
        self.browsers = [caller, callee];
        self
    }

    /// With pages that allow relayed paths only.
    pub fn relay_only(mut self) -> Scenario {
        self.policy = Policy::Relay;
        self
    }

    /// With a server that has no configuration.
    pub fn out_of_the_box(mut self) -> Scenario {
        self.setup = Setup::OutOfTheBox;
        self
    }

    /// With these ICE servers.
    pub fn offering(mut self, offer: Offer) -> Scenario {
        self.offer = offer;
        self
    }

    /// With something that breaks in mid-call.
    pub fn breaking(mut self, fault: Fault) -> Scenario {
        self.fault = Some(fault);
        self
    }

    /// What must come of it.
    pub fn expecting(mut self, expectation: Expectation) -> Scenario {
        self.expectation = expectation;
        self
    }

    /// Leaves it to `netlab test --all`: another one shows nearly the same, or it takes long.
    pub fn only_when_asked(mut self) -> Scenario {
        self.representative = false;
        self
    }

    /// Whether it belongs to the set that runs when nothing in particular is asked for.
    pub fn representative(&self) -> bool {
        self.representative
    }

    /// The topology it runs on, its changes made.
    ///
    /// # Errors
    /// The scenario names something the topology does not have.
    pub fn topology(&self) -> Result<Topology> {
        let mut topology = Topology::load(self.topology)?;
        for (router, nat) in &self.nats {
            topology = topology.with_nat(router, *nat)?;
        }
        if let Some(router) = self.udp_blocked_at {
            topology = topology.with_udp_blocked(router)?;
        }
        for router in self.https_only_at {
            topology = topology.with_https_only(router)?;
        }
        topology.browser(self.caller)?;
        topology.browser(self.callee)?;
        Ok(topology)
    }

    /// Builds its lab, makes its call, checks what came of it, and takes the lab down again. Takes seconds; blocks.
    pub fn run(&self, session: &Session, options: &Options) -> Outcome {
        if let Err(mistake) = options.check() {
            return Outcome::Failed(mistake);
        }
        let tools = match Tools::find(options, &self.browsers) {
            Ok(tools) => tools,
            Err(missing) => return Outcome::Skipped(missing.to_string()),
        };
        if let (Setup::OutOfTheBox, TurnServerKind::Coturn(_)) = (self.setup, &tools.turn) {
            return Outcome::Skipped("coturn does not serve browsers without configuration".to_owned());
        }
        let relays_in_kernel = self.expectation.needs_the_kernel() || self.fault == Some(Fault::RelayingSwitched);
        if relays_in_kernel && let Err(missing) = tools.turn.relays_in_kernel() {
            return Outcome::Skipped(missing.to_string());
        }
        if let Err(missing) = self.check_machine() {
            return Outcome::Skipped(missing.to_string());
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return Outcome::Failed(format!("cannot make an async runtime: {error}")),
        };
        match runtime.block_on(self.call(session, &tools, options)) {
            Ok(report) => self.judge(report, &options.output.join(self.name)),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        }
    }

    /// What this scenario needs beside what every lab does.
    fn check_machine(&self) -> Result<(), CannotRun> {
        let Ok(topology) = self.topology() else { return Ok(()) };
        if topology.servers(Service::Proxy).next().is_some() {
            proxy::program()?;
        }
        if let Some(fault) = &self.fault {
            fault.missing()?;
        }
        impair::missing_for(&topology)
    }

    async fn call(&self, session: &Session, tools: &Tools, options: &Options) -> Result<CallReport> {
        let topology = self.topology()?;
        let running = RunningLab::start(session, tools, options, &topology, self.setup, self.name).await?;
        let plan = CallPlan {
            caller: self.caller.to_owned(),
            callee: self.callee.to_owned(),
            browsers: self.browsers,
            offer: self.offer,
            policy: self.policy,
            talk_seconds: 0,
            fault: self.fault.clone(),
            screenshot: None,
        };
        running.call(&plan).await
    }

    fn judge(&self, report: CallReport, output: &Path) -> Outcome {
        let summary = summary(&report);
        match self.expectation.check(&report) {
            Ok(()) => Outcome::Passed { summary, measurements: Box::new(report) },
            Err(problem) => Outcome::Failed(format!("{problem}; {summary}; logs in {}", display(output))),
        }
    }
}

/// One line about a call: which pair, how soon, how much.
pub fn summary(report: &CallReport) -> String {
    if !report.connected() {
        let outcomes = report.pages().map(|page| format!("{:?}", page.outcome).to_lowercase());
        return format!("no call ({}/{})", outcomes[0], outcomes[1]);
    }
    if let Some(recovery) = &report.recovery {
        let [caller, callee] = report.pages().map(PageReport::selected_types);
        return format!("{recovery}; then {caller} and {callee}");
    }
    let milestone = |name: &str| report.pages().iter().filter_map(|page| page.milestones.get(name)).max().copied();
    let video = report.caller.media.video.received_frames + report.callee.media.video.received_frames;
    let sent: u64 = report.pages().iter().filter_map(|page| page.selected.as_ref()).map(|pair| pair.bytes_sent).sum();
    let mut line = format!(
        "{} and {}, connected after {} ms, {video} frames, {} kB sent",
        report.caller.selected_types(),
        report.callee.selected_types(),
        milestone("connected").unwrap_or_default(),
        sent / 1000,
    );
    if report.relayed.bytes_to_peers > 0 {
        let accounts = &report.accounts.to_peers;
        line += &format!(
            ", relayed {} kB (browsers {} kB + {} ICE messages)",
            accounts.server_bytes / 1000,
            accounts.browser_bytes / 1000,
            accounts.ice_messages
        );
    }
    if report.relayed.packets_in_kernel > 0 {
        let percent = report.relayed.packets_in_kernel * 100 / report.relayed.packets().max(1);
        line += &format!(", {percent} % of the packets by the kernel");
    }
    line
}

fn display(output: &Path) -> String {
    output.canonicalize().unwrap_or_else(|_| PathBuf::from(output)).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_fits_its_topology_and_has_a_name_of_its_own() {
        let mut names = std::collections::BTreeSet::new();
        for scenario in all() {
            scenario.topology().unwrap();
            assert!(names.insert(scenario.name), "{} is there twice", scenario.name);
        }
    }

    /// See `accounting`: what Firefox has received over which pair is known only if all of them are relayed.
    #[test]
    fn firefox_calls_through_relays_only() {
        for scenario in all() {
            let firefox = scenario.browsers.contains(&BrowserKind::Firefox);
            assert!(!firefox || scenario.policy == Policy::Relay, "{}", scenario.name);
        }
    }

    #[test]
    fn a_direct_path_is_never_asserted_while_turn_is_offered() {
        for scenario in all() {
            let direct = matches!(scenario.expectation, Expectation::Direct | Expectation::HostToHost);
            assert!(!direct || scenario.offer == Offer::StunOnly, "{}", scenario.name);
        }
    }
}
