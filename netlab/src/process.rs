//! Starting programs inside a node so that none can outlive the lab, and finding them first.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How long a program may take to obey SIGTERM before it is killed.
const TERMINATION_PATIENCE: Duration = Duration::from_secs(1);

/// Where system tools live that an ordinary user's PATH often lacks.
const SYSTEM_DIRECTORIES: &[&str] = &["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// The process groups that run, by number, for [`kill_all`].
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A running program and everything it started (its process group); dropping it kills them all.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a program in the namespace of `node`, in a process group of its own.
    ///
    /// The kernel kills it when the lab's thread for that node ends, however that happens.
    ///
    /// # Errors
    /// The program cannot be executed; the message names it.
    pub fn spawn(node: &patchbay::Device, mut command: Command) -> Result<Process> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.process_group(0);
        die_with_parent(&mut command);
        // patchbay's worker for a node is one thread that lives as long as the lab: the right parent for a death signal.
        let child = node
            .spawn_command_sync(command)
            .with_context(|| format!("cannot start {program} on node {:?}", node.name()))?;
        running().insert(child.id());
        Ok(Process { child })
    }

    /// The program's process id, which is also its group's.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end, waits a little, and kills what is left.
    pub fn terminate(&mut self) {
        if running().contains(&self.id()) {
            signal(self.id(), Signal::SIGTERM);
            let deadline = Instant::now() + TERMINATION_PATIENCE;
            while self.exit_status().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            self.kill();
        }
    }

    /// Kills it and everything it started, and waits for its end.
    pub fn kill(&mut self) {
        // Once only: the number may belong to somebody else afterwards.
        if running().remove(&self.id()) {
            signal(self.id(), Signal::SIGKILL);
            let _ = self.child.wait();
            reap(self.id());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills every program of every lab of this process, for one that is about to exit without dropping anything.
pub fn kill_all() {
    for group in std::mem::take(&mut *running()) {
        signal(group, Signal::SIGKILL);
        reap(group);
    }
}

fn running() -> MutexGuard<'static, BTreeSet<u32>> {
    RUNNING.lock().expect("nobody panics while holding the list of process groups")
}

fn signal(group: u32, signal: Signal) {
    // The group may be gone already: that is what is wanted.
    let _ = killpg(Pid::from_raw(group as i32), signal);
}

/// Reaps a group that has been killed: as a subreaper (see [`crate::Session`]) we have inherited what the program had
/// started, and not every machine has an init that would do it.
fn reap(group: u32) {
    let deadline = Instant::now() + TERMINATION_PATIENCE;
    loop {
        match waitpid(Pid::from_raw(-(group as i32)), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Asks the kernel to kill the child when the thread that starts it ends.
#[allow(unsafe_code)] // std has no safe way to ask for a parent-death signal
fn die_with_parent(command: &mut Command) {
    let ask = || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl is a bare system call and the
    // closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(ask) };
}

/// Finds a program by name in PATH and the system directories, or accepts a path to one.
pub fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Path::new(name).is_file().then(|| PathBuf::from(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from));
    directories.map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}
