//! `netlab capture NODE`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::exec::{ExecArguments, exec};

#[derive(Args)]
pub struct CaptureArguments {
    /// Which lab, if several are running: the number `netlab list` shows
    #[arg(long)]
    lab: Option<u32>,
    /// A host or router of the lab
    node: String,
    /// The file (default: NODE.pcap here)
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// What to capture, as tcpdump has it: udp port 3478
    #[arg(last = true)]
    filter: Vec<String>,
}

/// Becomes tcpdump, inside the node. Returns only on failure.
pub fn capture(arguments: &CaptureArguments) -> Result<ExitCode> {
    let file = arguments.write.clone().unwrap_or_else(|| format!("{}.pcap", arguments.node).into());
    let file = std::path::absolute(file)?.to_string_lossy().into_owned();
    let mut command: Vec<String> = ["tcpdump", "-i", "any", "-n", "-U", "-Z", "root", "-w"].map(str::to_owned).to_vec();
    command.push(file);
    command.extend(arguments.filter.iter().cloned());
    exec(&ExecArguments { lab: arguments.lab, node: arguments.node.clone(), command })
}
