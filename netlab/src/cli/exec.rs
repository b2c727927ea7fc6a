//! `netlab exec NODE -- COMMAND…`

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sched::{CloneFlags, setns};

use super::control::choose_lab;

#[derive(Args)]
pub struct ExecArguments {
    /// Which lab, if several are running: the number `netlab list` shows
    #[arg(long)]
    pub(super) lab: Option<u32>,
    /// A host or router of the lab
    pub(super) node: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub(super) command: Vec<String>,
}

/// Becomes the command, inside the node. Returns only on failure.
pub fn exec(arguments: &ExecArguments) -> Result<ExitCode> {
    let lab = choose_lab(arguments.lab)?.context("no lab is running; start one with `netlab up`")?;
    let Some(thread) = lab.threads.get(&arguments.node) else {
        let known = lab.threads.keys().cloned().collect::<Vec<_>>().join(", ");
        bail!("there is no node {:?} in the lab; use one of {known}", arguments.node);
    };
    let here = std::env::current_dir();
    let process = format!("/proc/{}/ns", lab.process);
    let node = format!("/proc/{}/task/{thread}/ns", lab.process);
    let open =
        |path: String| File::open(&path).with_context(|| format!("cannot open {path}; is the lab still running?"));
    // All are opened before any is entered: the next mount namespace may show another /proc.
    let network = open(format!("{node}/net"))?;
    let mounts = open(format!("{node}/mnt"))?;
    if std::fs::read_link(format!("{process}/user"))? != std::fs::read_link(Path::new("/proc/self/ns/user"))? {
        let user = open(format!("{process}/user"))?;
        setns(user, CloneFlags::CLONE_NEWUSER).context("cannot enter the lab's user namespace")?;
    }
    setns(network, CloneFlags::CLONE_NEWNET).context("cannot enter the node's network namespace")?;
    setns(mounts, CloneFlags::CLONE_NEWNS).context("cannot enter the node's mount namespace")?;
    if let Ok(here) = here {
        // Entering a mount namespace moves a process to the root directory. Staying there is no reason to fail.
        let _ = std::env::set_current_dir(here);
    }
    let error = Command::new(&arguments.command[0]).args(&arguments.command[1..]).exec();
    Err(error).with_context(|| format!("cannot run {}", arguments.command[0]))
}
