//! `[offload]`: what the kernel is to relay by itself.

use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Checker;
use crate::config::values::Mistake;
use crate::config::{Offload, OffloadMode, written};

/// The kernel's IFNAMSIZ counts the zero behind the name.
const INTERFACE_BYTES_MAX: usize = 15;
/// The most is far more than a machine relays; each takes some 0.7 KB of the kernel's memory.
const FLOWS: RangeInclusive<i64> = 1_024..=4_194_304;
/// More would be a slip: each interface costs every packet of every socket a look-up.
const INTERFACES_MAX: usize = 64;

impl Checker<'_> {
    pub(super) fn offload(&mut self, written: &written::Offload) -> Offload {
        let modes = [OffloadMode::Auto, OffloadMode::Tc, OffloadMode::Xdp, OffloadMode::Off];
        let offload = Offload {
            mode: self.word("offload.mode", &written.mode, &modes.map(|mode| (mode.label(), mode))),
            interfaces: written.interfaces.clone(),
            flows: self.count("offload.flows", written.flows, FLOWS) as u32,
            pin: (!written.pin.is_empty()).then(|| PathBuf::from(&written.pin)),
        };
        for (index, name) in offload.interfaces.iter().enumerate() {
            let key = format!("offload.interfaces[{index}]");
            if name.is_empty()
                || name.len() > INTERFACE_BYTES_MAX
                || name.contains(|letter: char| letter == '/' || letter.is_whitespace())
            {
                let wrong = format!("{name:?} cannot be the name of an interface");
                self.problem(key, Mistake::new(wrong, "write it as `ip link` shows it, like \"eth0\""));
            } else if !self.machine.is_another && nix::net::if_::if_nametoindex(name.as_str()).is_err() {
                self.note("offload.interfaces", format!("there is no interface {name:?} on this machine now."));
            }
        }
        if offload.interfaces.len() > INTERFACES_MAX {
            let wrong = format!("{} interfaces are too many", offload.interfaces.len());
            self.problem("offload.interfaces", Mistake::new(wrong, format!("write at most {INTERFACES_MAX}")));
        }
        if let Some(pin) = &offload.pin {
            self.pin(pin, &written.pin);
        }
        offload
    }

    /// The server makes the directory, but no file system.
    fn pin(&mut self, pin: &Path, written: &str) {
        const KEY: &str = "offload.pin";
        if !pin.is_absolute() {
            let wrong = format!("{written:?} is not a whole path");
            let fix = "write a directory of a BPF file system, like \"/sys/fs/bpf/hairpin\", or \"\"";
            self.problem(KEY, Mistake::new(wrong, fix));
            return;
        }
        if self.machine.is_another {
            return;
        }
        let there = pin.ancestors().map(statfs).find(|found| !matches!(found, Err(Errno::ENOENT)));
        match there {
            Some(Ok(system)) if system.filesystem_type() != BPF_FS_MAGIC => {
                let wrong = format!("{written:?} is in no BPF file system");
                let fix = format!(
                    "mount one there, `mkdir -p {written} && mount -t bpf bpf {written}`, or write a directory of one, like \
                     \"/sys/fs/bpf/hairpin\""
                );
                self.problem(KEY, Mistake::new(wrong, fix));
            }
            Some(Ok(_)) => self.owner_of_pin(pin, written),
            // Only root may look into /sys/fs/bpf, and not only root may check a configuration.
            Some(Err(errno)) => self.note(KEY, format!("{written:?} cannot be looked at ({}).", errno.desc())),
            None => {}
        }
    }

    /// Whoever could write there could have the server go on with another's flows.
    fn owner_of_pin(&mut self, pin: &Path, written: &str) {
        let Ok(about) = fs::symlink_metadata(pin) else { return };
        if !about.is_dir() {
            let wrong = format!("{written:?} is no directory");
            self.problem("offload.pin", Mistake::new(wrong, "write one that the server has for itself"));
        } else if about.mode() & 0o022 != 0 {
            let wrong = format!("{written:?} can be written to by others than its owner");
            self.problem("offload.pin", Mistake::new(wrong, format!("`chmod 0700 {written}`")));
        }
    }
}
