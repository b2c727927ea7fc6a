//! `[offload]`: what the kernel is to relay by itself.

use std::ops::RangeInclusive;
use std::path::PathBuf;

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
        if offload.pin.as_ref().is_some_and(|path| !path.is_absolute()) {
            let wrong = format!("{:?} is not a whole path", written.pin);
            let fix = "write a directory of a BPF file system, like \"/sys/fs/bpf/hairpin\", or \"\"";
            self.problem("offload.pin", Mistake::new(wrong, fix));
        }
        offload
    }
}
