//! `netlab call A B`

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
use netlab::topology::Topology;
use netlab::turn::Setup;
use netlab::{Options, Session};

use super::control::{Answer, choose_lab};

/// Longer than any call can take beside the talking, so that a lab that hangs does not hang us.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);

#[derive(Args)]
pub struct CallArguments {
    /// The browser that calls
    caller: String,
    /// The browser that is called
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
    fn plan(&self) -> Result<CallPlan> {
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
    let plan = arguments.plan()?;
    let started = Instant::now();
    let report = match choose_lab(arguments.lab)? {
        Some(lab) => call_through(UnixStream::connect(lab.socket()).context("the lab does not listen")?, &plan)?,
        None => call_alone(arguments, options, &plan)?,
    };
    print(&plan, &report);
    println!("{:.1} s: {}", started.elapsed().as_secs_f64(), summary(&report));
    Ok(if report.connected() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn call_through(lab: UnixStream, plan: &CallPlan) -> Result<CallReport> {
    lab.set_read_timeout(Some(ANSWER_PATIENCE + Duration::from_secs(plan.talk_seconds.into())))?;
    writeln!(&lab, "{}", serde_json::to_string(plan)?).context("cannot speak to the lab")?;
    let mut line = String::new();
    BufReader::new(lab).read_line(&mut line).context("the lab does not answer")?;
    if line.is_empty() {
        bail!("the lab ended before the call did");
    }
    match serde_json::from_str(&line).context("the lab's answer is odd (is it another version of netlab?)")? {
        Answer::Report(report) => Ok(*report),
        Answer::Problem(problem) => bail!(problem),
    }
}

fn call_alone(arguments: &CallArguments, options: &Options, plan: &CallPlan) -> Result<CallReport> {
    let topology = Topology::load(&arguments.topology)?;
    topology.browser(&plan.caller)?;
    topology.browser(&plan.callee)?;
    let session = Session::enter()?;
    super::clean_up_when_interrupted(&session)?;
    let tools = Tools::find(options, &plan.browsers)?;
    super::runtime()?.block_on(async {
        RunningLab::start(&session, &tools, options, &topology, Setup::Configured, "call").await?.call(plan).await
    })
}

fn print(plan: &CallPlan, report: &CallReport) {
    for (name, page) in [(&plan.caller, &report.caller), (&plan.callee, &report.callee)] {
        print_page(name, page);
    }
    if report.relayed.packets_to_peers > 0 {
        println!("relayed by the server");
        print_direction("to peers", &report.accounts.to_peers);
        print_direction("to clients", &report.accounts.to_clients);
        if plan.policy == Policy::All && plan.browsers.contains(&BrowserKind::Firefox) {
            println!("  not compared: Firefox says over which pair it received with --policy relay only");
        } else if report.connected() {
            match report.accounts.check() {
                Ok(()) => println!("  browsers and server agree"),
                Err(problem) => println!("  browsers and server disagree: {problem}"),
            }
        }
    }
    if let Some(file) = &plan.screenshot {
        println!("screenshot: {}", file.display());
    }
}

fn print_page(name: &str, page: &PageReport) {
    println!("{name}: {:?}", page.outcome);
    for entry in &page.timeline {
        println!("  {:>6} ms  {}", entry.milliseconds, entry.what);
    }
    if let Some(pair) = &page.selected {
        let place = |candidate: &netlab::report::Candidate| {
            let address = candidate.address.as_deref().unwrap_or("?");
            format!("{candidate} {address}:{}", candidate.port.unwrap_or_default())
        };
        println!("  path       {} — {}", place(&pair.local), place(&pair.remote));
    }
    let (audio, video, data) = (&page.media.audio, &page.media.video, &page.data);
    println!("  audio      {} packets sent, {} received", audio.sent_packets, audio.received_packets);
    println!("  video      {} frames sent, {} received", video.sent_frames, video.received_frames);
    println!("  data       {} messages sent, {} received and right", data.sent_messages, data.verified_messages);
}

fn print_direction(name: &str, direction: &Direction) {
    println!(
        "  {name:10} {} bytes in {} packets; browsers: {} bytes in {} packets, and {} ICE messages",
        direction.server_bytes,
        direction.server_packets,
        direction.browser_bytes,
        direction.browser_packets,
        direction.ice_messages
    );
}
