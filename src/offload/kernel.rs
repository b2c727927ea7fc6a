//! Loads the program and attaches it.

use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use aya::maps::{Map, MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::attach;
use super::interfaces;
use super::memory::{Memory, Owned};
use super::mirror::{Abilities, Mirror};
use super::pins::{self, Pins};
use super::settings::{Counters, Mode, PassedUp, Settings, Status, Unavailable, Way};
use super::system::{self, Defaults, Forwarding};
use super::trial::{self, Trial};
use super::xdp;
use crate::turn::Offload;

/// As clang made it (`build.rs`).
static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/offload.o"));

/// The program, loaded and attached. It goes when this is dropped, unless it is pinned.
pub struct Kernel {
    memory: Arc<Memory>,
    counts: PerCpuArray<MapData, u64>,
    abilities: Abilities,
    status: Status,
    /// What the program had counted before.
    counted: Counters,
    pins: Option<Pins>,
    // Dropped in this order: links before what they need.
    _links: Vec<attach::Link>,
    program: OwnedFd,
    in_driver: Option<OwnedFd>,
    _rest: Ebpf,
    _forwarding: Vec<Forwarding>,
}

impl Kernel {
    /// Loads the program and attaches it to each interface that the settings ask for, as well as it goes.
    ///
    /// Needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (before Linux 5.8 CAP_SYS_ADMIN); afterwards nothing here needs any of
    /// them, from Linux 5.19 on.
    ///
    /// # Errors
    /// One line for the operator, if not a single interface has it in the end.
    pub fn load(settings: &Settings) -> Result<Self, Unavailable> {
        Self::load_with(settings, true)
    }

    /// The same as if this kernel had no tcx, for tests.
    ///
    /// # Errors
    /// As there.
    pub fn load_without_tcx(settings: &Settings) -> Result<Self, Unavailable> {
        Self::load_with(settings, false)
    }

    fn load_with(settings: &Settings, tcx: bool) -> Result<Self, Unavailable> {
        if settings.mode == Mode::Off {
            return Err(Unavailable("it is switched off".to_owned()));
        }
        if system::has_own_clock() {
            let why =
                "this process runs in a time namespace with a clock of its own, which the kernel's programs do not see";
            return Err(Unavailable(why.to_owned()));
        }
        let wanted = interfaces::wanted(settings).map_err(Unavailable)?;
        let Some(first) = wanted.first() else {
            let why = "no interface but lo carries an address that is listened on or relayed at; name one in the setting \
                       of the interfaces to have it there all the same";
            return Err(Unavailable(why.to_owned()));
        };
        let defaults = Defaults::read(&first.name);
        let (forwarding, abilities, mut notes) = forward(defaults)?;
        let flows = settings.flows.clamp(1, Settings::FLOWS_MAX);
        let pins = settings.pin.as_deref().and_then(|directory| {
            Pins::open(directory, tag(flows, defaults), flows, &mut notes)
                .map_err(|why| notes.push(format!("nothing is kept for the next process: {why}")))
                .ok()
        });
        let mut program = load(flows, defaults, pins.as_ref())?;
        let memory = share(&program, flows)?;
        let ended = end_all(&memory);
        if ended > 0 {
            notes.push(format!("{ended} flows that an earlier process has left have been ended"));
        }
        let counts = program.take_map("counts").and_then(|map| PerCpuArray::try_from(map).ok());
        let counts = counts.expect("the program has this map");
        let counted = counted(&counts);
        let (links, interfaces) = attach::attach(&mut program, settings, tcx, &wanted, pins.as_ref());
        let adopted = links.iter().any(|link| matches!(link, attach::Link::Adopted(_)));
        if interfaces.iter().all(|interface| interface.way == Way::UserSpace) {
            let reasons: Vec<_> = interfaces.iter().map(|on| format!("{}: {}", on.name, on.why)).collect();
            return Err(Unavailable(reasons.join("; ")));
        }
        let descriptor = attach::descriptor(&mut program)?;
        let in_driver = xdp::descriptor(&mut program);
        Ok(Self {
            memory,
            counts,
            abilities,
            status: Status { interfaces, notes, flows, adopted },
            counted,
            pins,
            _links: links,
            program: descriptor,
            in_driver,
            _rest: program,
            _forwarding: forwarding,
        })
    }

    /// The part of the flows that this shard of so many has. Whatever lived there ends. A shard's former mirror, and all
    /// those for another number of shards, have to be dropped before: places have one owner, and nothing can be mirrored
    /// by a second.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn mirror(&self, shard: u16, shards: u16) -> Box<dyn Offload> {
        assert!(shard < shards, "there is no such shard");
        let from = |shard: u16| 2 * (u64::from(self.status.flows) * u64::from(shard) / u64::from(shards)) as u32;
        let entries = Owned::claim(Arc::clone(&self.memory), from(shard)..from(shard + 1));
        Box::new(Mirror::new(entries, self.abilities))
    }

    /// What the program for tc does to a frame that comes in at the interface with this index (0: lo), `segments` of them
    /// merged into one where that is more than 1, tried so many times; the last is shown. The flows count it like any
    /// other. Needs CAP_BPF and CAP_NET_ADMIN. For tests and measurements.
    ///
    /// # Errors
    /// Whatever the system says: EINVAL for frames that no card could have received.
    pub fn try_at_tc(&self, interface: u32, segments: u32, frame: &[u8], repeat: u32) -> io::Result<Trial> {
        trial::run_tc(self.program.as_fd(), interface, segments, frame, repeat)
    }

    /// The same of the program for drivers, if it was asked for. It leaves what is to go another way to the one for tc:
    /// see there.
    ///
    /// # Errors
    /// ENOENT if it is not loaded; whatever else the system says.
    pub fn try_at_xdp(&self, interface: u32, frame: &[u8], repeat: u32) -> io::Result<Trial> {
        let program = self.in_driver.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        trial::run_xdp(program.as_fd(), interface, frame, repeat)
    }

    /// What was chosen, and why.
    pub const fn status(&self) -> &Status {
        &self.status
    }

    /// What the program has counted since this process has it. A system call for each number.
    pub fn counters(&self) -> Counters {
        let mut counters = counted(&self.counts);
        let before = self.counted.relayed.iter().chain(&self.counted.passed_up);
        for (count, before) in counters.relayed.iter_mut().chain(&mut counters.passed_up).zip(before) {
            *count -= before;
        }
        counters
    }

    /// Keeps nothing for the next process: the program goes with this one. Not called, it stays attached where it was to be
    /// kept, and relays what lives there until that ends.
    ///
    /// # Errors
    /// EACCES if the process has given up the rights that it takes; whatever else the system says.
    pub fn keep_nothing(&self) -> io::Result<()> {
        self.pins.as_ref().map_or(Ok(()), Pins::end)
    }

    /// Takes away what earlier processes have left in a directory, for one that relays nothing in the kernel.
    ///
    /// # Errors
    /// A sentence: what is wrong with the directory.
    pub fn forget(directory: &Path) -> Result<(), Unavailable> {
        pins::forget(directory).map_err(Unavailable)
    }
}

/// What the program has ever counted.
fn counted(counts: &PerCpuArray<MapData, u64>) -> Counters {
    let read = |index: usize| {
        let values = counts.get(&(index as u32), 0);
        values.map_or(0, |values| values.iter().sum())
    };
    let mut counters = Counters::default();
    let directions = counters.relayed.len();
    counters.relayed = std::array::from_fn(read);
    counters.passed_up = std::array::from_fn(|reason| read(directions + reason));
    counters
}

/// Ends every flow that there is: nobody knows them. How many there were.
fn end_all(memory: &Arc<Memory>) -> usize {
    let mut entries = Owned::claim(Arc::clone(memory), 0..memory.entries());
    // Two directions each.
    (0..memory.entries()).filter(|place| entries.clear(*place)).count().div_ceil(2)
}

/// Says whose maps are laid out alike and whose program is the same, here.
fn tag(flows: u32, defaults: Defaults) -> u64 {
    let mut hasher = DefaultHasher::new();
    let namespace = fs::read_link("/proc/thread-self/ns/net").unwrap_or_default();
    (PROGRAM, flows, defaults, namespace).hash(&mut hasher);
    hasher.finish()
}

impl fmt::Debug for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Kernel").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Switches on what next hops need. One family will do.
fn forward(defaults: Defaults) -> Result<(Vec<Forwarding>, Abilities, Vec<String>), Unavailable> {
    let (four, six) = (Forwarding::ipv4(), Forwarding::ipv6());
    let abilities = Abilities { ipv4: four.is_ok(), ipv6: six.is_ok(), labels: defaults.labels };
    match (four, six) {
        (Err(four), Err(_)) => Err(four),
        (Ok(four), Ok(six)) => Ok((vec![four, six], abilities, Vec::new())),
        (Ok(one), Err(why)) => Ok((vec![one], abilities, vec![format!("IPv6 stays in user space: {why}")])),
        (Err(why), Ok(one)) => Ok((vec![one], abilities, vec![format!("IPv4 stays in user space: {why}")])),
    }
}

fn load(flows: u32, defaults: Defaults, pins: Option<&Pins>) -> Result<Ebpf, Unavailable> {
    // Before Linux 5.11 maps count as locked memory, of which little is allowed.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let mut loader = EbpfLoader::new();
    loader.map_max_entries("flows", 2 * flows).map_max_entries("places", 2 * flows);
    loader.override_global("hops_ipv4", &defaults.hops_ipv4, true);
    loader.override_global("hops_ipv6", &defaults.hops_ipv6, true);
    for map in pins.map(|_| pins::MAPS).into_iter().flatten() {
        loader.map_pin_path(map, pins.expect("there are any").map(map));
    }
    loader.load(PROGRAM).map_err(|error| Unavailable(attach::explain("loading maps", &error)))
}

/// Maps the array of flows into this process.
fn share(program: &Ebpf, flows: u32) -> Result<Arc<Memory>, Unavailable> {
    let descriptor = |name: &str| -> io::Result<OwnedFd> {
        match program.map(name) {
            Some(Map::Array(map) | Map::HashMap(map)) => map.fd().as_fd().try_clone_to_owned(),
            _ => unreachable!("the program has a map {name} of this kind"),
        }
    };
    let memory = descriptor("flows").and_then(|array| Memory::new(&array, descriptor("places")?, 2 * flows));
    memory.map(Arc::new).map_err(|error| Unavailable(format!("the map of flows cannot be mapped into memory: {error}")))
}

const _: () = assert!(PassedUp::ALL.len() == 12, "as counters.h has it");
