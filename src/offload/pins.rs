//! Maps and links in a BPF file system: the program stays attached when the process dies, relays what lives until it ends,
//! and the next process goes on with it.
//!
//! There is a folder for what one build of the program, for so many flows, has in one network namespace; its name says all
//! that. So nobody goes on with what is laid out otherwise, and whatever has another name is out of date.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use aya::maps::MapInfo;
use aya::programs::links::{FdLink, PinnedLink};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::geteuid;

use super::memory::{Key, Memory};
use super::syscall;

/// How the names of our folders begin.
const PREFIX: &str = "hairpin-";
/// The program at tc, and the one in drivers.
pub(super) const TCX: &str = "tcx";
pub(super) const XDP: &str = "xdp";
/// The maps that an attached program works with. File names of a BPF file system must not have dots.
pub(super) const MAPS: [&str; 6] = ["flows", "places", "counts", "cards", "exits", "tried"];

/// How often a lock is asked for. A program that this process is just starting holds what is open here as well, until it
/// has become that program; so does a process that is about to end.
const LOCK_TRIES: u32 = 50;
/// Between two of these.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Ours of these, for as long as the process lives.
#[derive(Debug)]
pub(super) struct Pins {
    folder: PathBuf,
    /// Of the directory, against a second process.
    _lock: File,
}

impl Pins {
    /// Makes the directory if it is not there; what is out of date or incomplete goes, and a note says so.
    ///
    /// # Errors
    /// A sentence: what is wrong with the directory.
    pub(super) fn open(directory: &Path, tag: u64, flows: u32, notes: &mut Vec<String>) -> Result<Self, String> {
        let lock = lock(directory)?;
        let folder = directory.join(format!("{PREFIX}{tag:016x}"));
        let failed = |error: io::Error| format!("{}: {error}", directory.display());
        for other in folders(directory).map_err(failed)? {
            let why = match check(&other, flows) {
                _ if other != folder => "is of another program, another number of flows or another network namespace",
                Err(why) => why,
                Ok(()) => continue,
            };
            remove(&other).map_err(failed)?;
            notes.push(format!("what an earlier process has left {why}, and is replaced"));
        }
        if !folder.is_dir() {
            DirBuilder::new().mode(0o700).create(&folder).map_err(failed)?;
        }
        Ok(Self { folder, _lock: lock })
    }

    /// Where a map is.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What an earlier process has attached to this interface, if it still is.
    pub(super) fn adopt(&self, hook: &str, interface: u32) -> Option<OwnedFd> {
        let path = self.link(hook, interface);
        let link = syscall::open_pinned(&path).ok()?;
        // The interface may have gone, and its number have been given to another one.
        if syscall::interface_of(link.as_fd()).is_ok_and(|index| index == interface) {
            return Some(link);
        }
        let _ = fs::remove_file(path);
        None
    }

    /// Keeps what was attached to an interface.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn keep(&self, hook: &str, interface: u32, link: FdLink) -> Result<PinnedLink, String> {
        link.pin(self.link(hook, interface)).map_err(|error| super::attach::explain("keeping it", &error))
    }

    /// Has what is attached there go with whoever holds it.
    pub(super) fn release(&self, hook: &str, interface: u32) {
        // That it is not there is as good.
        let _ = fs::remove_file(self.link(hook, interface));
    }

    /// Takes away what is attached to any interface but these.
    pub(super) fn release_others(&self, kept: &[(&str, u32)]) {
        let kept: Vec<PathBuf> = kept.iter().map(|(hook, interface)| self.link(hook, *interface)).collect();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_link = name.to_str().is_some_and(|name| [TCX, XDP].iter().any(|hook| name.starts_with(*hook)));
            if is_link && !kept.contains(&entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Keeps nothing any more: what is attached goes with the process.
    ///
    /// # Errors
    /// Whatever the system says: EACCES without the rights that the process was started with.
    pub(super) fn end(&self) -> io::Result<()> {
        remove(&self.folder)
    }

    fn link(&self, hook: &str, interface: u32) -> PathBuf {
        self.folder.join(format!("{hook}-{interface}"))
    }
}

/// Takes away what earlier processes have left in a directory, for one that does without.
///
/// # Errors
/// A sentence: what is wrong with the directory.
pub(super) fn forget(directory: &Path) -> Result<(), String> {
    if !directory.exists() {
        return Ok(());
    }
    let _lock = lock(directory)?;
    let left = folders(directory).and_then(|folders| folders.iter().try_for_each(|folder| remove(folder)));
    left.map_err(|error| format!("{}: {error}", directory.display()))
}

/// Makes sure of a directory, and that nobody else uses it.
fn lock(directory: &Path) -> Result<File, String> {
    let name = directory.display();
    if !directory.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| format!("{name}: {error}"))?;
    }
    match statfs(directory) {
        Ok(system) if system.filesystem_type() == BPF_FS_MAGIC => {}
        Ok(_) => return Err(format!("{name} is in no BPF file system; `mount -t bpf bpf {name}` makes it one")),
        Err(error) => return Err(format!("{name}: {}", error.desc())),
    }
    let about = fs::symlink_metadata(directory).map_err(|error| format!("{name}: {error}"))?;
    if !about.is_dir() || ![0, geteuid().as_raw()].contains(&about.uid()) || about.mode() & 0o022 != 0 {
        return Err(format!(
            "{name} must be a directory that belongs to root or to this process's user, and that nobody else may write \
             to; `chmod 0700 {name}`, and `chown` if need be"
        ));
    }
    let file = File::open(directory).map_err(|error| format!("{name}: {error}"))?;
    let mut tries = (1..LOCK_TRIES).map(|_| {
        let tried = file.try_lock();
        if tried.is_err() {
            thread::sleep(LOCK_PAUSE);
        }
        tried
    });
    match tries.find(Result::is_ok).unwrap_or_else(|| file.try_lock()) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(format!("{name} is in use by another process; each has one of its own")),
        Err(TryLockError::Error(error)) => Err(format!("{name}: {error}")),
    }
}

/// Whether all maps are there, and as long as they are to be: aya takes whatever it finds.
fn check(folder: &Path, flows: u32) -> Result<(), &'static str> {
    for name in MAPS {
        let Ok(map) = MapInfo::from_pin(folder.join(name)) else { return Err("cannot be read") };
        let sizes = (map.key_size(), map.value_size(), map.max_entries());
        let is_right = match name {
            "flows" => sizes == (4, Memory::ENTRY_LEN as u32, 2 * flows),
            "places" => sizes == (size_of::<Key>() as u32, 4, 2 * flows),
            _ => true,
        };
        if !is_right {
            return Err("is laid out in another way");
        }
    }
    Ok(())
}

/// Those of ours in a directory.
fn folders(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    let ours = entries.iter().filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)));
    Ok(ours.map(fs::DirEntry::path).collect())
}

/// Links first: what relays is not to lose its maps before.
fn remove(folder: &Path) -> io::Result<()> {
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort_by_key(|path| MAPS.iter().any(|map| path.ends_with(map)));
    files.iter().try_for_each(fs::remove_file)?;
    fs::remove_dir(folder)
}
