//! Relaying in the kernel: loaded at start, switched off and on with the configuration, and told about.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{info, warn};

use super::run::SharedShards;
use crate::config::{Config, OffloadMode};
use crate::offload::{Counters, Kernel, Mode, Settings, Status, Way};
use crate::shard::{ListenAddress, Mirrors};

/// Cloning is cheap; all clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Offload(Arc<State>);

#[derive(Debug)]
struct State {
    /// What the server was started with.
    started: OffloadMode,
    /// How many there are, whatever a later configuration says.
    shards: u16,
    /// If it could be had.
    kernel: Option<Kernel>,
    /// Whether what is bound is mirrored.
    is_on: AtomicBool,
    /// In one sentence, why not.
    why_not: Mutex<String>,
}

/// What an operator is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub(super) is_on: bool,
    /// Why it is not; empty if it is.
    pub(super) why_not: String,
    pub(super) status: Status,
    pub(super) counters: Counters,
}

const NOT_WANTED: &str = "offload.mode is \"off\"";

impl Offload {
    /// Loads the program and attaches it, if it is wanted; says what came of it. To be called before rights are given up.
    pub(super) fn load(config: &Config, listening: &[ListenAddress]) -> Self {
        let started = config.offload.mode;
        let (kernel, why_not) = match started {
            OffloadMode::Off => (None, NOT_WANTED.to_owned()),
            mode => match load(config, listening) {
                Ok(kernel) => (Some(kernel), String::new()),
                Err(why) => {
                    tell_unavailable(mode, &why);
                    (None, why)
                }
            },
        };
        match (&kernel, &config.offload.pin) {
            (Some(kernel), _) => tell(started, kernel.status()),
            // Nobody else would end what an earlier process has left.
            (None, Some(directory)) => {
                if let Err(why) = Kernel::forget(directory) {
                    warn!(event = "offload_pins_left", %why);
                }
            }
            (None, None) => {}
        }
        Self(Arc::new(State {
            started,
            shards: config.shards.count,
            kernel,
            is_on: AtomicBool::new(false),
            why_not: Mutex::new(why_not),
        }))
    }

    /// As in a server that was started without.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(Arc::new(State {
            started: OffloadMode::Off,
            shards: 1,
            kernel: None,
            is_on: AtomicBool::new(false),
            why_not: Mutex::new(NOT_WANTED.to_owned()),
        }))
    }

    /// Whether there is a program to talk to.
    pub(super) fn is_loaded(&self) -> bool {
        self.0.kernel.is_some()
    }

    /// Whether changing to this mode takes another start.
    pub(super) fn needs_restart(&self, mode: OffloadMode) -> bool {
        mode != OffloadMode::Off && mode != self.0.started
    }

    /// Has the shards mirror what is bound, or not, as this mode has it.
    pub(super) fn switch(&self, config: &Config, shards: &SharedShards) {
        if !self.is_loaded() {
            return;
        }
        let is_on = config.offload.mode != OffloadMode::Off;
        if self.0.is_on.swap(is_on, Ordering::Relaxed) == is_on {
            return;
        }
        let why_not = if is_on { "" } else { NOT_WANTED };
        why_not.clone_into(&mut self.0.why_not.lock().unwrap_or_else(PoisonError::into_inner));
        let state = Arc::clone(&self.0);
        let mirrors = is_on.then(|| {
            Mirrors::new(move |shard| {
                let kernel = state.kernel.as_ref().expect("looked at above, and never taken away");
                kernel.mirror(shard, state.shards)
            })
        });
        shards.with(|shards| shards.offload(mirrors.as_ref()));
        if is_on {
            info!(event = "offload_on", "data on channels of clients over UDP is relayed in the kernel");
        } else {
            info!(event = "offload_off", "this process relays everything itself");
        }
    }

    /// For an end in good order, when nothing is relayed any more: nothing is to stay in the kernel.
    pub(super) fn end(&self) {
        if let Some(Err(why)) = self.0.kernel.as_ref().map(Kernel::keep_nothing) {
            info!(event = "offload_pins_kept", %why, "they relay nothing, and the next process goes on with them");
        }
    }

    /// How things are now.
    pub(super) fn report(&self) -> Report {
        let state = &self.0;
        Report {
            is_on: state.is_on.load(Ordering::Relaxed),
            why_not: state.why_not.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            status: state.kernel.as_ref().map(|kernel| kernel.status().clone()).unwrap_or_default(),
            counters: state.kernel.as_ref().map(Kernel::counters).unwrap_or_default(),
        }
    }
}

fn settings(config: &Config, listening: &[ListenAddress]) -> Settings {
    let own = listening.iter().map(|listen| listen.address.ip());
    let relays = config.shards.turn.relays.iter().map(|relay| relay.bind);
    Settings {
        mode: match config.offload.mode {
            OffloadMode::Auto => Mode::Auto,
            OffloadMode::Tc => Mode::Tc,
            OffloadMode::Xdp => Mode::Xdp,
            OffloadMode::Off => Mode::Off,
        },
        interfaces: config.offload.interfaces.clone(),
        addresses: own.chain(relays).collect(),
        flows: config.offload.flows,
        pin: config.offload.pin.clone(),
    }
}

fn load(config: &Config, listening: &[ListenAddress]) -> Result<Kernel, String> {
    if config.confinement.user.is_some() && !maps_outlive_rights() {
        return Err(
            "with process.user nothing could be told to it any more, for Linux before 5.19 asks for rights each \
                    time; have hairpin started as that user, with CAP_BPF and CAP_NET_ADMIN"
                .to_owned(),
        );
    }
    Kernel::load(&settings(config, listening)).map_err(|why| why.to_string())
}

/// Whether a process without rights may change maps that it has open.
fn maps_outlive_rights() -> bool {
    let restricted = std::fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled");
    if restricted.is_ok_and(|text| text.trim() == "0") {
        return true;
    }
    let Ok(system) = nix::sys::utsname::uname() else { return true };
    let mut numbers = system.release().to_str().unwrap_or_default().split('.').map_while(|word| word.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 19)
}

fn tell_unavailable(mode: OffloadMode, why: &str) {
    if mode == OffloadMode::Auto {
        info!(event = "offload_unused", why, "this process relays everything itself");
    } else {
        let mode = mode.label();
        warn!(event = "offload_unavailable", mode, why, "this process relays everything itself");
    }
}

fn tell(mode: OffloadMode, status: &Status) {
    for interface in &status.interfaces {
        let (name, way, why) = (&interface.name, interface.way, &interface.why);
        let is_as_wished = match mode {
            OffloadMode::Auto | OffloadMode::Off => true,
            OffloadMode::Tc => matches!(way, Way::Tcx | Way::Clsact),
            OffloadMode::Xdp => way == Way::Xdp,
        };
        if is_as_wished {
            info!(event = "offload_attached", interface = name, way = way.label(), why);
        } else {
            let mode = mode.label();
            warn!(event = "offload_attached_otherwise", mode, interface = name, way = way.label(), why);
        }
    }
    for note in &status.notes {
        info!(event = "offload_note", "{note}");
    }
    info!(event = "offload_loaded", flows = status.flows, adopted = status.adopted);
}
