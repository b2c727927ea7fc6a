//! What one run of the lab needs from the machine: namespaces, and a private directory that is always cleaned up.
//!
//! [`Session::enter`] comes first in `main`, before any thread exists. Run as root it changes nothing; run as anyone
//! else (or as a root without capabilities, as in a container) it enters a user namespace in which it may build networks. It also makes the session's directory
//! (0700, below `/tmp/netlab-UID/`), in which everything temporary lives: browser profiles, configuration, patchbay's
//! hosts files, the control socket. The directory goes when the session is dropped; what a killed session left is
//! removed by the next one, which can tell because the kernel has released its lock.

use std::fmt;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, unshare};

use crate::process;

/// Chromium makes `B/N/tmp/org.chromium.Chromium.XXXXXX/SingletonSocket` below it, and 107 characters are allowed.
const DIRECTORY_LENGTH_MAX: usize = 48;

/// The directory of this process's session, while there is one, for [`end_at_once`].
static DIRECTORY: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Ends the process in the middle of whatever it does, and leaves neither programs nor its session's directory behind;
/// namespaces end with the process.
pub fn end_at_once(code: i32) -> ! {
    process::kill_all();
    if let Some(directory) = DIRECTORY.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // If a program still wrote into it, the rest goes when the next session starts.
        let _ = std::fs::remove_dir_all(directory);
    }
    std::process::exit(code)
}

/// The lab cannot run on this machine: why, and what would change that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CannotRun {
    /// What is missing.
    pub reason: String,
    /// What to do about it.
    pub advice: String,
}

impl CannotRun {
    pub(crate) fn new(reason: impl Into<String>, advice: impl Into<String>) -> CannotRun {
        CannotRun { reason: reason.into(), advice: advice.into() }
    }
}

impl fmt::Display for CannotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason, self.advice)
    }
}

impl std::error::Error for CannotRun {}

/// A process that may build labs. Keep it alive as long as any of them.
#[derive(Debug)]
pub struct Session {
    directory: PathBuf,
    /// Held, not read: as long as it is locked, other sessions leave the directory alone.
    _lock: Flock<File>,
}

impl Session {
    /// Makes the process able to build networks. Call it once, first thing in `main`.
    ///
    /// # Errors
    /// The process already has threads, namespaces are forbidden here, or the private directory cannot be made.
    pub fn enter() -> Result<Session, CannotRun> {
        let base = base_directory();
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count());
        if threads != 1 {
            return Err(CannotRun::new(
                format!("the process already has {threads} threads and can no longer change its namespaces"),
                "call netlab::Session::enter() first thing in main (a test target needs harness = false)",
            ));
        }
        if !may_make_networks() {
            // Not when root: with the initial user namespace kept, a server in the lab can still load eBPF.
            patchbay::init_userns().map_err(|error| {
                CannotRun::new(format!("cannot enter a user namespace ({error:#})"), namespace_advice())
            })?;
        }
        probe_namespaces()?;
        // A browser's helpers outlive it by a moment when it is killed; they come to us and are reaped there.
        if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
            return Err(CannotRun::new(format!("cannot become a subreaper ({error})"), "use Linux 3.4 or later"));
        }
        Session::in_directory(&base)
            .map_err(|error| CannotRun::new(format!("{error:#}"), "point TMPDIR at a directory this user can write to"))
    }

    /// The session's private directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A new empty directory in the session's own, with a short name.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new_directory(&self) -> Result<PathBuf> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = self.directory.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        make_private_directory(&directory)?;
        Ok(directory)
    }

    fn in_directory(base: &Path) -> Result<Session> {
        make_private_directory(base)?;
        // Held until the new directory has its own lock; without it another session could take it for a leftover.
        let turnstile = File::options().create(true).append(true).open(base.join("turnstile"))?;
        let _turnstile = Flock::lock(turnstile, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        remove_leftovers(base);
        let directory = base.join(std::process::id().to_string());
        if directory.as_os_str().len() > DIRECTORY_LENGTH_MAX {
            bail!("{} is too long a path for the sockets that go into it", directory.display());
        }
        make_private_directory(&directory)?;
        let lock = lock(&directory).with_context(|| format!("cannot lock {}", directory.display()))?;
        set_temporary_directory(&directory);
        *DIRECTORY.lock().unwrap_or_else(PoisonError::into_inner) = Some(directory.clone());
        Ok(Session { directory, _lock: lock })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Makes `directory` the process's TMPDIR, for patchbay: it puts hosts files there under names that two labs of one
/// machine could share.
#[allow(unsafe_code)] // `set_var`
fn set_temporary_directory(directory: &Path) {
    // SAFETY: `Session::enter` has seen that this is the only thread (the one of its probe has been joined), so nothing
    // reads the environment meanwhile.
    unsafe { std::env::set_var("TMPDIR", directory) };
}

/// The directory that holds the sessions of this user: `/tmp/netlab-UID`, with the user id outside any namespace.
pub fn base_directory() -> PathBuf {
    std::env::temp_dir().join(format!("netlab-{}", nix::unistd::getuid()))
}

/// The directories of this user's live sessions.
pub fn live_sessions(base: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(base) else {
        return Vec::new();
    };
    let directories = entries.flatten().map(|entry| entry.path());
    directories.filter(|directory| directory.is_dir() && lock(directory).is_err()).collect()
}

/// Removes the directories of sessions that were killed before they could do it.
fn remove_leftovers(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else { return };
    for directory in entries.flatten().map(|entry| entry.path()) {
        // Whoever holds the lock may remove the directory: its owner, or we because the owner is dead.
        if let Ok(_lock) = lock(&directory) {
            let _ = std::fs::remove_dir_all(&directory);
        }
    }
}

fn lock(directory: &Path) -> Result<Flock<File>> {
    let file = File::options().create(true).append(true).open(directory.join("lock"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
}

/// Makes a directory that only this user can enter, or checks that an existing one is such.
fn make_private_directory(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("cannot make the directory {}", path.display())),
    }
    let found = path.symlink_metadata().with_context(|| format!("cannot examine {}", path.display()))?;
    if !found.is_dir() || found.uid() != nix::unistd::getuid().as_raw() || found.mode() & 0o077 != 0 {
        bail!("{} exists and is not a private directory of this user; remove it", path.display());
    }
    Ok(())
}

/// Whether this process has CAP_NET_ADMIN and CAP_SYS_ADMIN.
fn may_make_networks() -> bool {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    effective & (NET_ADMIN | SYS_ADMIN) == NET_ADMIN | SYS_ADMIN
}

/// Tries, on a thread that then ends, what the lab does for each node.
fn probe_namespaces() -> Result<(), CannotRun> {
    let probe = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS));
    match probe.join() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            Err(CannotRun::new(format!("cannot make network and mount namespaces ({error})"), namespace_advice()))
        }
        Err(_) => Err(CannotRun::new("the namespace probe panicked", "report this as a bug")),
    }
}

/// What to do about forbidden namespaces, as specific as the kernel lets us be.
fn namespace_advice() -> String {
    let setting = |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
    for (name, forbidding, allowing) in [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("user/max_user_namespaces", "0", "10000"),
    ] {
        if setting(name).trim() == forbidding {
            return format!("run `sysctl -w {}={allowing}` as root, or run netlab as root", name.replace('/', "."));
        }
    }
    "run netlab as root; in a container, allow it unshare(2) (for example --privileged)".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_and_live_sessions_stay() {
        let base = std::env::temp_dir().join(format!("netlab-test-{}", std::process::id()));
        make_private_directory(&base).unwrap();
        for name in ["dead", "alive"] {
            make_private_directory(&base.join(name)).unwrap();
            std::fs::write(base.join(name).join("file"), "").unwrap();
        }
        let held = lock(&base.join("alive")).unwrap();
        remove_leftovers(&base);
        assert!(!base.join("dead").exists());
        assert_eq!(live_sessions(&base), [base.join("alive")]);
        drop(held);
        std::fs::remove_dir_all(&base).unwrap();
    }
}
