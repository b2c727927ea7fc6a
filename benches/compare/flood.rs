//! A load that never leaves the kernel (`program/load.c`): `hairpin bench` is its own limit at some 300,000 packets a second on
//! one core, less than half of what a core relays in the kernel.
//!
//! `hairpin bench` sets up allocations and sends a packet of each flow. Those are learnt where the server receives them,
//! before anybody else sees them. From then on the load's core sends the same frames again and again
//! (BPF_PROG_TEST_RUN with live frames), so that as many are under way as with `hairpin bench`; what arrives at the load's
//! side is counted and thrown away. The server sees no difference.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{Array, MapData};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifier, SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

use crate::awake::monotonic;
use crate::network::{LINKS, Namespace, Network};

/// As clang made it (`build.rs`), if it was there.
#[cfg(kernel_programs)]
static PROGRAM: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/load.o")));
#[cfg(not(kernel_programs))]
static PROGRAM: Option<&[u8]> = None;

/// Packets under way, as `hairpin bench` has it.
const UNDER_WAY: u64 = 192;
/// As in the program.
const FRAME_LEN_MAX: usize = 1280;
const LEARNT: u32 = 0;
const SENT: u32 = 1;
const RECEIVED: u32 = 2;
const WINDOW: u32 = 4;
/// Frames of one run of the program: a fraction of a second, after which it is looked whether the time is over.
const FRAMES_PER_RUN: u32 = 1 << 18;
/// At most in a row before the rest of the core's work is done.
const BATCH: u32 = 32;
/// With nothing back for so long, what is under way is lost.
const GIVE_UP: Duration = Duration::from_millis(20);

/// Whether it is built in.
pub fn is_built() -> bool {
    PROGRAM.is_some()
}

/// The load, and what it has learnt.
pub struct Flood {
    program: Ebpf,
    numbers: Numbers,
    learners: Vec<SchedClassifierLink>,
}

/// What came of it.
pub struct Outcome {
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub from: u64,
    /// The same.
    pub until: u64,
    /// Packets that came back meanwhile.
    pub received: u64,
    /// Packets that did not.
    pub lost: u64,
}

struct Numbers(Array<MapData, u64>);

impl Numbers {
    fn get(&self, which: u32) -> u64 {
        self.0.get(&which, 0).unwrap_or(0)
    }

    fn set(&mut self, which: u32, value: u64) -> Result<(), String> {
        self.0.set(which, value, 0).map_err(explain)
    }
}

impl Flood {
    /// Begins to learn.
    ///
    /// # Errors
    /// What the kernel does not allow.
    pub fn new(network: &Network) -> Result<Self, String> {
        let bytes = PROGRAM.ok_or("the kernel's load was built without clang")?;
        let [inside, outside] = [interfaces(&network.server)?, interfaces(&network.load)?];
        let mut program = EbpfLoader::new()
            .override_global("clients_inside", &inside[0], true)
            .override_global("peers_inside", &inside[1], true)
            .override_global("clients_outside", &outside[0], true)
            .override_global("peers_outside", &outside[1], true)
            .load(bytes)
            .map_err(explain)?;
        let numbers = program.take_map("numbers").expect("its own").try_into().map_err(explain)?;
        let (program, learners) = attach(program, &network.server, "learn")?;
        Ok(Self { program, numbers: Numbers(numbers), learners })
    }

    /// How many flows it has seen.
    pub fn learnt(&self) -> u64 {
        self.numbers.get(LEARNT)
    }

    /// Sends for so many seconds, after a warm-up that does not count.
    ///
    /// # Errors
    /// What the kernel does not allow.
    pub fn run(self, network: &Network, warm_up: f64, seconds: f64) -> Result<Outcome, String> {
        let Self { program, mut numbers, learners } = self;
        drop(learners);
        let (mut program, _sinks) = attach(program, &network.load, "sink")?;
        numbers.set(WINDOW, UNDER_WAY)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_over);
        thread::scope(|scope| {
            let watcher = scope.spawn(move || {
                let outcome = watch(&mut numbers, warm_up, seconds);
                // Nothing more is sent, so that the last run ends soon.
                let stopped = numbers.set(WINDOW, 0);
                is_over.store(true, Ordering::Relaxed);
                stopped.and(outcome)
            });
            let sent = network.load.run(move || {
                let generator: &mut Xdp = program.program_mut("generate").expect("its own").try_into()?;
                generator.load()?;
                while !until.load(Ordering::Relaxed) {
                    let attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
                    let data_in = Some(&[0; FRAME_LEN_MAX][..]);
                    generator.test_run(TestRunOptions {
                        data_in,
                        repeat: FRAMES_PER_RUN,
                        attrs,
                        ..TestRunOptions::new()
                    })?;
                }
                Ok::<_, aya::programs::ProgramError>(())
            });
            let outcome = watcher.join().map_err(|_| "a thread has failed".to_owned())?;
            sent.map_err(explain)?;
            outcome
        })
    }
}

/// Looks how it goes.
fn watch(numbers: &mut Numbers, warm_up: f64, seconds: f64) -> Result<Outcome, String> {
    let [start, end] = [warm_up, warm_up + seconds].map(Duration::from_secs_f64);
    let began = Instant::now();
    let mut first: Option<(u64, u64)> = None;
    let (mut lost, mut last, mut last_at) = (0, 0, began);
    loop {
        thread::sleep(Duration::from_millis(1));
        let (now, received) = (Instant::now(), numbers.get(RECEIVED));
        if received != last {
            (last, last_at) = (received, now);
        } else if now - last_at > GIVE_UP {
            // What comes after all is more than was sent, for a while.
            let missing = numbers.get(SENT).saturating_sub(received);
            numbers.set(RECEIVED, received + missing)?;
            lost += missing;
            (last, last_at) = (received + missing, now);
        }
        match first {
            None if now - began >= start => {
                // What a server has lost while it warmed up is not under way any more.
                numbers.set(WINDOW, 0)?;
                thread::sleep(GIVE_UP);
                numbers.set(RECEIVED, numbers.get(SENT))?;
                numbers.set(WINDOW, UNDER_WAY)?;
                thread::sleep(GIVE_UP);
                (first, lost) = (Some((monotonic(), numbers.get(RECEIVED))), 0);
            }
            Some((from, before)) if now - began >= end => {
                let received = (numbers.get(RECEIVED) - before).saturating_sub(lost);
                return Ok(Outcome { from, until: monotonic(), received, lost });
            }
            _ => {}
        }
    }
}

/// Attaches a program to both links of a side, before whatever else is attached there later.
fn attach(mut program: Ebpf, side: &Namespace, name: &'static str) -> Result<(Ebpf, Vec<SchedClassifierLink>), String> {
    side.run(move || {
        let part: &mut SchedClassifier = program.program_mut(name).expect("its own").try_into().map_err(explain)?;
        part.load().map_err(explain)?;
        let mut links = Vec::new();
        for link in LINKS {
            let options = TcAttachOptions::TcxOrder(LinkOrder::default());
            let link = part.attach_with_options(link, TcAttachType::Ingress, options).map_err(explain)?;
            links.push(part.take_link(link).map_err(explain)?);
        }
        Ok((program, links))
    })
}

/// The indices of both links of a side.
fn interfaces(side: &Namespace) -> Result<[u32; 2], String> {
    let index = |link| {
        let text = side.run(move || std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex")));
        text.ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| format!("{link} has no index"))
    };
    Ok([index(LINKS[0])?, index(LINKS[1])?])
}

/// All of it: the first line alone says little.
fn explain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
