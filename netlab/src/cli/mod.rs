//! The command line: arguments, and one file a command.

mod call;
mod capture;
mod control;
mod exec;
mod files;
mod list;
mod matrix;
mod probe_nat;
mod test;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use netlab::options::{Offload, TurnServerChoice};
use netlab::session::end_at_once;
use netlab::{Options, Session};
use tokio::signal::unix::{SignalKind, signal};

/// The exit code of an interrupted command, as shells have it: 128 and SIGINT.
const INTERRUPTED: i32 = 130;

/// A network-namespace lab: NATs, routers and real browsers calling each other through a TURN server.
#[derive(Parser)]
#[command(name = "netlab", version)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Common {
    /// The TURN server to run in the lab
    #[arg(long, global = true, value_enum, default_value = "hairpin")]
    turn_server: TurnServerArgument,
    /// Its executable (default: the hairpin built beside netlab, or turnserver from PATH)
    #[arg(long, global = true, value_name = "PATH")]
    turn_binary: Option<PathBuf>,
    /// Whether Hairpin may have the kernel relay established channels, which takes root, or does it all itself
    #[arg(long, global = true, value_enum, default_value = "on")]
    offload: OffloadArgument,
    /// Chromium's executable
    #[arg(long, global = true, value_name = "PATH")]
    chromium: Option<PathBuf>,
    /// Firefox's executable
    #[arg(long, global = true, value_name = "PATH")]
    firefox: Option<PathBuf>,
    /// JsSIP bundled into one file, as .ci/install makes it
    #[arg(long, global = true, value_name = "PATH")]
    jssip: Option<PathBuf>,
    /// Where logs and results go
    #[arg(long, global = true, value_name = "DIR", default_value = "netlab-out")]
    output: PathBuf,
    /// Keep what the TURN server and both browsers sent and received, as pcap files, of every call that is not as expected
    #[arg(long, global = true)]
    capture: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum TurnServerArgument {
    Hairpin,
    Coturn,
}

#[derive(Clone, Copy, ValueEnum)]
enum OffloadArgument {
    On,
    Off,
}

#[derive(Subcommand)]
enum Command {
    /// List topologies, scenarios and running labs
    List,
    /// Draw a topology
    Show {
        /// Its name, or the path of a .toml file
        topology: String,
        /// Draw it into this file too, as SVG
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Build a topology and keep it for playing until Ctrl-C
    Up {
        /// Its name, or the path of a .toml file
        #[arg(default_value = "internet")]
        topology: String,
    },
    /// Run a command in a node (host or router) of a running lab
    Exec(exec::ExecArguments),
    /// Let two browsers call each other, in a running lab if there is one
    Call(call::CallArguments),
    /// Run scenarios and print one line each
    Test {
        /// Only those whose name contains this
        #[arg(default_value = "")]
        filter: String,
        /// Without a filter: not only the representative ones
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        files: files::ReportFiles,
    },
    /// Let browsers behind every NAT call browsers behind every other, without and with TURN
    Matrix(matrix::MatrixArguments),
    /// Say in the words of RFC 4787 what the NATs in front of a host do
    ProbeNat(probe_nat::ProbeArguments),
    /// Write what a node of a running lab sends and receives to a file, until Ctrl-C (tcpdump)
    Capture(capture::CaptureArguments),
}

impl Common {
    fn options(&self) -> Options {
        Options {
            turn_server: match self.turn_server {
                TurnServerArgument::Hairpin => TurnServerChoice::Hairpin,
                TurnServerArgument::Coturn => TurnServerChoice::Coturn,
            },
            turn_binary: self.turn_binary.clone(),
            offload: match self.offload {
                OffloadArgument::On => Offload::On,
                OffloadArgument::Off => Offload::Off,
            },
            chromium: self.chromium.clone(),
            firefox: self.firefox.clone(),
            jssip: self.jssip.clone(),
            output: self.output.clone(),
            all: false,
            capture: self.capture,
        }
    }
}

/// Parses the command line and obeys it.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let options = arguments.common.options();
    let done = match &arguments.command {
        Command::List => list::list(),
        Command::Show { topology, svg } => list::show(topology, svg.as_deref()),
        Command::Up { topology } => up::up(topology, &options),
        Command::Exec(exec) => exec::exec(exec),
        Command::Call(call) => call::call(call, &options),
        Command::Test { filter, all, files } => test::test(filter, files, &Options { all: *all, ..options }),
        Command::Matrix(matrix) => matrix::matrix(matrix, &options),
        Command::ProbeNat(probe) => probe_nat::probe_nat(probe, &options),
        Command::Capture(capture) => capture::capture(capture),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("netlab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Lets Ctrl-C (or SIGTERM, SIGHUP) end the process without leaving anything of its session behind.
fn clean_up_when_interrupted(_session: &Session) -> Result<()> {
    let runtime = runtime()?;
    let interrupted = {
        let _inside = runtime.enter();
        interruption()?
    };
    std::thread::spawn(move || {
        runtime.block_on(interrupted);
        end_at_once(INTERRUPTED);
    });
    Ok(())
}

/// What ends when somebody asks the process to end. From now on that does not kill it.
fn interruption() -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

/// The runtime every command with a lab uses: one thread, since the nodes have threads of their own.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
