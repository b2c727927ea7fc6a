//! A session of relayed packets: allocations set up once, on several threads, then trials one after the other.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use super::own::{OwnSockets, Watch, make_room_for};
use super::traffic::{PAYLOAD_LEN_MAX, PAYLOAD_LEN_MIN};
use super::worker::{PEERS_MAX, Stretch, Tally, Worker};
use super::{BenchError, Cost, Meter, Pace, Progress, RelayLoad, RelayResult, Target, TrialRule};
use crate::net::clock;

/// Time for every thread to hear that a trial begins.
const LEAD_NANOS: u64 = 5_000_000;

enum Command {
    Run(Stretch),
    Keep,
    TakeDown,
}

enum Answer {
    Ready(OwnSockets),
    Ran(Box<Tally>),
    Done,
}

type Outcome = Result<Answer, BenchError>;

/// Allocations that stand, ready for trials.
pub struct Session<'s> {
    workers: Vec<(Sender<Command>, Receiver<Outcome>)>,
    sockets: OwnSockets,
    watch: &'s Watch,
    meter: Option<Meter>,
    /// Resident memory of the server before and after the set-up, in bytes.
    resident: Option<[u64; 2]>,
    progress: &'s mut dyn FnMut(Progress),
}

/// Sets a load up, hands it over for trials, and takes it down. `progress` is told every second of a trial.
///
/// # Errors
/// When the server refuses or is silent, when its process cannot be watched, or what `trials` says.
///
/// # Panics
/// If a payload is out of bounds or there is no allocation.
pub fn relay<R>(
    target: &Target,
    load: &RelayLoad,
    meter: Option<Meter>,
    progress: &mut dyn FnMut(Progress),
    trials: impl FnOnce(&mut Session<'_>) -> Result<R, BenchError>,
) -> Result<R, BenchError> {
    let bounds = PAYLOAD_LEN_MIN..=PAYLOAD_LEN_MAX;
    assert!(bounds.contains(&load.shape.payload_min()) && bounds.contains(&load.shape.payload_max()), "{load:?}");
    assert!(load.allocations > 0, "{load:?}");
    let unit = if load.relay_to_relay { 2 } else { 1 };
    if !load.allocations.is_multiple_of(unit) || load.allocations / unit < load.threads {
        return Err(BenchError::Uneven(load.allocations));
    }
    make_room_for(load.allocations + PEERS_MAX + 4 * load.threads)?;
    let resident = || meter.map(|meter| meter.read()).transpose().map_err(BenchError::Cost);
    let before = resident()?;
    let watch = Watch::default();
    thread::scope(|scope| {
        let units = load.allocations / unit;
        let mut first = 0;
        let mut workers = Vec::with_capacity(load.threads);
        for thread in 0..load.threads {
            let allocations = unit * (units / load.threads + usize::from(thread < units % load.threads));
            let (commands, to_do) = channel();
            let (tell, answers) = channel();
            let watch = &watch;
            scope.spawn(move || work(target, load, watch, first, allocations, &to_do, &tell));
            workers.push((commands, answers));
            first += allocations;
        }
        let sockets = OwnSockets::default();
        let mut session = Session { workers, sockets, watch: &watch, meter, resident: None, progress };
        let outcome = session.begin().and_then(|()| {
            session.resident = before.zip(resident()?).map(|(before, after)| [before.resident, after.resident]);
            trials(&mut session)
        });
        let end = session.ask(|_| Command::TakeDown);
        let result = outcome?;
        end.map(|_| result)
    })
}

/// The life of a thread; it ends when nobody asks any more.
fn work(
    target: &Target,
    load: &RelayLoad,
    watch: &Watch,
    first: usize,
    allocations: usize,
    to_do: &Receiver<Command>,
    tell: &Sender<Outcome>,
) {
    let mut worker = match Worker::new(target, load, watch, first, allocations) {
        Ok(worker) => worker,
        Err(error) => {
            // Whoever has gone has seen another thread's error.
            let _ = tell.send(Err(error));
            return;
        }
    };
    let mut answer = Ok(Answer::Ready(worker.sockets()));
    while tell.send(answer).is_ok()
        && let Ok(command) = to_do.recv()
    {
        answer = match command {
            Command::Run(stretch) => worker.run(stretch).map(|tally| Answer::Ran(Box::new(tally))),
            Command::Keep => worker.keep_all().map(|()| Answer::Done),
            Command::TakeDown => {
                let _ = tell.send(worker.take_down().map(|()| Answer::Done));
                return;
            }
        };
    }
}

impl Session<'_> {
    fn begin(&mut self) -> Result<(), BenchError> {
        for answer in self.answers()? {
            if let Answer::Ready(sockets) = answer {
                self.sockets.join(sockets);
            }
        }
        Ok(())
    }

    fn ask(&self, command: impl Fn(usize) -> Command) -> Result<Vec<Answer>, BenchError> {
        for (index, (commands, _)) in self.workers.iter().enumerate() {
            // A thread that has failed has said why.
            let _ = commands.send(command(index));
        }
        self.answers()
    }

    /// One of each thread.
    fn answers(&self) -> Result<Vec<Answer>, BenchError> {
        let all: Vec<Option<Outcome>> = self.workers.iter().map(|(_, answers)| answers.recv().ok()).collect();
        all.into_iter().flatten().collect()
    }

    /// Resident memory of the server before and after the set-up, in bytes, if its process is known.
    pub const fn resident(&self) -> Option<[u64; 2]> {
        self.resident
    }

    /// Sends for a while and says what became of it.
    ///
    /// # Errors
    /// When a connection breaks, or the server's process cannot be watched.
    pub fn trial(&mut self, rule: &TrialRule) -> Result<RelayResult, BenchError> {
        let start = clock::monotonic().0 + LEAD_NANOS;
        let from = start + rule.warm_up.as_nanos() as u64;
        let until = from + rule.duration.as_nanos() as u64;
        let threads = self.workers.len();
        let part = |index: usize| match rule.pace {
            Pace::Window(window) => Pace::Window((window / threads + usize::from(index < window % threads)).max(1)),
            Pace::Rate(rate) => Pace::Rate(rate / threads as f64),
        };
        let drops = self.sockets.drops();
        for (index, (commands, _)) in self.workers.iter().enumerate() {
            let _ = commands.send(Command::Run(Stretch { pace: part(index), start, from, until }));
        }
        self.watch.sleep_until(from, &|| false, self.progress);
        let before = self.meter.map(|meter| meter.read()).transpose().map_err(BenchError::Cost)?;
        let measured_from = clock::monotonic().0;
        self.watch.sleep_until(until, &|| false, self.progress);
        let cost = self.cost_since(before)?;
        let elapsed = Duration::from_nanos((clock::monotonic().0 - measured_from).max(1));
        let mut all = Tally::default();
        for answer in self.answers()? {
            let Answer::Ran(tally) = answer else { continue };
            all.offered += tally.offered;
            all.delivered += tally.delivered;
            all.reordered += tally.reordered;
            all.duplicated += tally.duplicated;
            all.corrupted += tally.corrupted;
            all.latency.add(&tally.latency);
            all.own.join(&tally.own);
        }
        all.own.socket_drops = self.sockets.drops().saturating_sub(drops);
        let Tally { offered, delivered, reordered, duplicated, corrupted, latency, own } = all;
        Ok(RelayResult { elapsed, offered, delivered, reordered, duplicated, corrupted, latency, own, cost })
    }

    fn cost_since(&self, before: Option<super::cost::Reading>) -> Result<Option<Cost>, BenchError> {
        let cost = self.meter.zip(before).map(|(meter, before)| meter.since(before)).transpose();
        cost.map_err(BenchError::Cost)
    }

    /// Lets every client renew allocation and channel once; what that takes the server, and how long it lasts.
    ///
    /// # Errors
    /// When the server refuses, or its process cannot be watched.
    pub fn keep(&mut self) -> Result<(Duration, Option<Cost>), BenchError> {
        let before = self.meter.map(|meter| meter.read()).transpose().map_err(BenchError::Cost)?;
        let began = clock::monotonic().0;
        self.ask(|_| Command::Keep)?;
        let elapsed = Duration::from_nanos(clock::monotonic().0 - began);
        Ok((elapsed, self.cost_since(before)?))
    }

    /// Does nothing for a while; what that takes the server.
    ///
    /// # Errors
    /// When its process cannot be watched.
    pub fn rest(&mut self, duration: Duration) -> Result<(Duration, Option<Cost>), BenchError> {
        let before = self.meter.map(|meter| meter.read()).transpose().map_err(BenchError::Cost)?;
        let began = clock::monotonic().0;
        self.watch.sleep_until(began + duration.as_nanos() as u64, &|| false, self.progress);
        let elapsed = Duration::from_nanos(clock::monotonic().0 - began);
        Ok((elapsed, self.cost_since(before)?))
    }
}
