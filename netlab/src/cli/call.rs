//! `netlab call A B`: B is another browser or a phone.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use netlab::accounting::Direction;
use netlab::browser::BrowserKind;
use netlab::call::{CallPlan, CallReport, Offer, Policy};
use netlab::options::Tools;
use netlab::report::PageReport;
use netlab::running::RunningLab;
use netlab::scenario::summary;
use netlab::sip;
use netlab::sip::call::{SipPlan, SipReport};
use netlab::topology::Topology;
use netlab::turn::Setup;
use netlab::{Options, Session, say};

use super::control::{Answer, Plan, choose_lab};

/// Longer than any call can take beside the talking, so that a lab that hangs does not hang us.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);

#[derive(Args)]
pub struct CallArguments {
    /// The browser that calls
    caller: String,
    /// The browser or phone that is called
    callee: String,
    /// The caller's browser
    #[arg(long, value_enum, value_name = "BROWSER", default_value = "chromium")]
    caller_browser: BrowserArgument,
    /// The callee's browser
    #[arg(long, value_enum, value_name = "BROWSER", default_value = "chromium")]
    callee_browser: BrowserArgument,
    /// Which paths the pages may use
    #[arg(long, value_enum, default_value = "all")]
    policy: PolicyArgument,
    /// Offer TURN over this transport only (default: STUN, and TURN over UDP and TCP)
    #[arg(long, value_enum, conflicts_with = "stun_only")]
    transport: Option<TransportArgument>,
    /// Offer no TURN at all
    #[arg(long)]
    stun_only: bool,
    /// Save a picture of the caller's page, in Chromium, during the call as a PNG
    #[arg(long, value_name = "FILE")]
    screenshot: Option<PathBuf>,
    /// How long to go on talking before hanging up
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=600))]
    seconds: u16,
    /// Without a running lab: the topology to build for this call
    #[arg(long, default_value = "internet")]
    topology: String,
    /// Which lab, if several are running: the number `netlab list` shows
    #[arg(long)]
    lab: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BrowserArgument {
    Chromium,
    Firefox,
}

#[derive(Clone, Copy, ValueEnum)]
enum PolicyArgument {
    All,
    Relay,
}

#[derive(Clone, Copy, ValueEnum)]
enum TransportArgument {
    Udp,
    Tcp,
    Tls,
}

impl BrowserArgument {
    fn kind(self) -> BrowserKind {
        match self {
            BrowserArgument::Chromium => BrowserKind::Chromium,
            BrowserArgument::Firefox => BrowserKind::Firefox,
        }
    }
}

impl CallArguments {
    /// What is to be done in a lab of this topology.
    fn plan(&self, topology: &Topology) -> Result<Plan> {
        let plan = self.call_plan()?;
        topology.browser(&plan.caller)?;
        if topology.phone(&plan.callee).is_err() {
            topology.browser(&plan.callee)?;
            return Ok(Plan::Browsers(plan));
        }
        if self.caller_browser == BrowserArgument::Firefox || self.callee_browser == BrowserArgument::Firefox {
            bail!("phones are called from Chromium only; leave out --caller-browser and --callee-browser");
        }
        Ok(Plan::Phone(SipPlan {
            browser: plan.caller,
            phone: plan.callee,
            offer: plan.offer,
            policy: plan.policy,
            digits: String::new(),
            talk_seconds: plan.talk_seconds,
            screenshot: plan.screenshot,
        }))
    }

    fn call_plan(&self) -> Result<CallPlan> {
        let offer = match (self.stun_only, self.transport) {
            (true, _) => Offer::StunOnly,
            (false, None) => Offer::StunAndTurn,
            (false, Some(TransportArgument::Udp)) => Offer::TurnUdp,
            (false, Some(TransportArgument::Tcp)) => Offer::TurnTcp,
            (false, Some(TransportArgument::Tls)) => Offer::TurnTls,
        };
        let policy = match self.policy {
            PolicyArgument::All => Policy::All,
            PolicyArgument::Relay => Policy::Relay,
        };
        // The lab that writes the picture may have been started in another directory.
        let screenshot = self.screenshot.as_ref().map(std::path::absolute).transpose()?;
        Ok(CallPlan {
            caller: self.caller.clone(),
            callee: self.callee.clone(),
            browsers: [self.caller_browser, self.callee_browser].map(BrowserArgument::kind),
            offer,
            policy,
            talk_seconds: self.seconds,
            fault: None,
            screenshot,
        })
    }
}

/// Makes a call in the running lab, or in one built for it, and prints what came of it. Exit code 1 without a call.
pub fn call(arguments: &CallArguments, options: &Options) -> Result<ExitCode> {
    let started = Instant::now();
    let lab = choose_lab(arguments.lab)?;
    let topology = Topology::load(lab.as_ref().map_or(&arguments.topology, |lab| &lab.topology))?;
    let plan = arguments.plan(&topology)?;
    let answer = match lab {
        Some(lab) => {
            let patience = ANSWER_PATIENCE + Duration::from_secs(arguments.seconds.into());
            call_through(UnixStream::connect(lab.socket()).context("the lab does not listen")?, patience, &plan)?
        }
        None => call_alone(&topology, options, &plan)?,
    };
    let (connected, summary) = match (&plan, &answer) {
        (_, Answer::Problem(problem)) => bail!("{problem}"),
        (Plan::Browsers(plan), Answer::Report(report)) => {
            print(plan, report);
            (report.connected(), summary(report))
        }
        (Plan::Phone(plan), Answer::PhoneReport(report)) => {
            print_phone_call(plan, report);
            (report.connected(), sip::scenario::summary(report))
        }
        _ => bail!("the lab has answered another question (is it another version of netlab?)"),
    };
    say!("{:.1} s: {summary}", started.elapsed().as_secs_f64());
    Ok(if connected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn call_through(lab: UnixStream, patience: Duration, plan: &Plan) -> Result<Answer> {
    lab.set_read_timeout(Some(patience))?;
    writeln!(&lab, "{}", serde_json::to_string(plan)?).context("cannot speak to the lab")?;
    let mut line = String::new();
    BufReader::new(lab).read_line(&mut line).context("the lab does not answer")?;
    if line.is_empty() {
        bail!("the lab ended before the call did");
    }
    serde_json::from_str(&line).context("the lab's answer is odd (is it another version of netlab?)")
}

fn call_alone(topology: &Topology, options: &Options, plan: &Plan) -> Result<Answer> {
    let session = Session::enter()?;
    super::clean_up_when_interrupted(&session)?;
    let browsers = match plan {
        Plan::Browsers(plan) => plan.browsers,
        Plan::Phone(_) => [BrowserKind::Chromium; 2],
    };
    let tools = Tools::find(options, &browsers)?;
    super::runtime()?.block_on(async {
        let running = RunningLab::start(&session, &tools, options, topology, Setup::Configured, "call").await?;
        Ok(plan.carry_out(&running).await)
    })
}

fn print(plan: &CallPlan, report: &CallReport) {
    for (name, page) in [(&plan.caller, &report.caller), (&plan.callee, &report.callee)] {
        print_page(name, page);
    }
    if report.relayed.packets_to_peers > 0 {
        say!("relayed by the server");
        print_direction("to peers", &report.accounts.to_peers);
        print_direction("to clients", &report.accounts.to_clients);
        if plan.policy == Policy::All && plan.browsers.contains(&BrowserKind::Firefox) {
            say!("  not compared: Firefox says over which pair it received with --policy relay only");
        } else if report.connected() {
            match report.accounts.check() {
                Ok(()) => say!("  browsers and server agree"),
                Err(problem) => say!("  browsers and server disagree: {problem}"),
            }
        }
    }
    if let Some(file) = &plan.screenshot {
        say!("screenshot: {}", file.display());
    }
}

fn print_page(name: &str, page: &PageReport) {
    say!("{name}: {:?}", page.outcome);
    for entry in &page.timeline {
        say!("  {:>6} ms  {}", entry.milliseconds, entry.what);
    }
    if let Some(pair) = &page.selected {
        let place = |candidate: &netlab::report::Candidate| {
            let address = candidate.address.as_deref().unwrap_or("?");
            format!("{candidate} {address}:{}", candidate.port.unwrap_or_default())
        };
        say!("  path       {} — {}", place(&pair.local), place(&pair.remote));
    }
    let (audio, video, data) = (&page.media.audio, &page.media.video, &page.data);
    say!("  audio      {} packets sent, {} received", audio.sent_packets, audio.received_packets);
    say!("  video      {} frames sent, {} received", video.sent_frames, video.received_frames);
    say!("  data       {} messages sent, {} received and right", data.sent_messages, data.verified_messages);
}

fn print_phone_call(plan: &SipPlan, report: &SipReport) {
    let heard = |pitch: Option<u32>| pitch.map_or_else(|| "nothing".to_owned(), |pitch| format!("{pitch} Hz"));
    print_page(&plan.browser, &report.page.page);
    say!("  heard      {}", heard(report.page.heard_hertz));
    if let Some(phone) = &report.phone {
        say!("{}:", plan.phone);
        for (name, media) in std::iter::once(("audio", &phone.audio)).chain(phone.video.iter().map(|it| ("video", it)))
        {
            let codec = media.decoder.as_deref().unwrap_or("no codec");
            say!("  {name:10} {} packets sent, {} received, {codec}", media.sent_packets, media.received_packets);
        }
        say!("  heard      {}", heard(phone.heard_hertz));
    }
    if report.relayed.packets_to_peers > 0 {
        say!("relayed by the server");
        print_direction("to peers", &report.accounts.to_peers);
        print_direction("to clients", &report.accounts.to_clients);
        match report.accounts.check() {
            Ok(()) => say!("  both ends and server agree"),
            Err(problem) => say!("  both ends and server disagree: {problem}"),
        }
    }
    if let Some(file) = &plan.screenshot {
        say!("screenshot: {}", file.display());
    }
}

fn print_direction(name: &str, direction: &Direction) {
    say!(
        "  {name:10} {} bytes in {} packets; its clients: {} bytes in {} packets, and {} ICE messages",
        direction.server_bytes,
        direction.server_packets,
        direction.browser_bytes,
        direction.browser_packets,
        direction.ice_messages
    );
}
