//! Loads of requests: Binding, allocations set up and taken down, and whole set-ups from the connection on.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use super::client::Step;
use super::dialogue::{Event, Party, Plan, converse};
use super::link::{Post, udp_socket};
use super::own::{ThreadClock, Watch, make_room_for};
use super::{BenchError, Latency, Meter, OwnCost, Progress, RequestLoad, RequestResult, Target};
use crate::net::{UdpSocket, clock};

/// What a unit of a load of requests is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requests {
    /// Binding and its answer.
    Binding,
    /// Allocate (challenged first), CreatePermission, ChannelBind, and Refresh with lifetime zero, by a new client, which
    /// over TCP and TLS means a new connection.
    Allocate,
    /// The connection and its handshake, Allocate (challenged first), CreatePermission, ChannelBind, until a first packet
    /// has come to the peer; then Refresh with lifetime zero, and the connection is closed.
    Setup,
}

impl Requests {
    const fn steps(self) -> &'static [Step] {
        match self {
            Self::Binding => &[Step::Binding],
            Self::Allocate => &[Step::Challenge, Step::Allocate, Step::Permit, Step::BindChannel, Step::Delete],
            Self::Setup => {
                &[Step::Challenge, Step::Allocate, Step::Permit, Step::BindChannel, Step::FirstPacket, Step::Delete]
            }
        }
    }
}

#[derive(Default)]
struct Tally {
    units: u64,
    unanswered: u64,
    latency: Latency,
    clock: ThreadClock,
}

/// Lets the load run; `progress` is told every second.
///
/// # Errors
/// When the server refuses, or its process cannot be watched.
pub fn requests(
    target: &Target,
    kind: Requests,
    load: &RequestLoad,
    meter: Option<Meter>,
    progress: &mut dyn FnMut(Progress),
) -> Result<RequestResult, BenchError> {
    make_room_for(load.clients + 2 * load.threads)?;
    let threads = load.threads.clamp(1, load.clients);
    let start = clock::monotonic().0;
    let from = start + load.warm_up.as_nanos() as u64;
    let until = from + load.duration.as_nanos() as u64;
    let watch = Watch::default();
    thread::scope(|scope| {
        let watch = &watch;
        let runs: Vec<_> = (0..threads)
            .map(|thread| {
                let clients = load.clients / threads + usize::from(thread < load.clients % threads);
                scope.spawn(move || run(target, kind, clients, from, until, watch))
            })
            .collect();
        let is_over = || runs.iter().any(thread::ScopedJoinHandle::is_finished);
        watch.sleep_until(from, &is_over, progress);
        let before = meter.map(|meter| meter.read()).transpose().map_err(BenchError::Cost)?;
        watch.sleep_until(until, &is_over, progress);
        let elapsed = Duration::from_nanos(clock::monotonic().0.saturating_sub(from).max(1));
        let cost = meter.zip(before).map(|(meter, before)| meter.since(before)).transpose();
        let mut all = Tally::default();
        let mut own = OwnCost::default();
        for run in runs {
            let tally = run.join().expect("a thread that does not panic")?;
            all.units += tally.units;
            all.unanswered += tally.unanswered;
            all.latency.add(&tally.latency);
            own.join(&tally.clock.spent());
        }
        Ok(RequestResult {
            elapsed,
            units: all.units,
            lost: all.unanswered,
            latency: all.latency,
            cost: cost.map_err(BenchError::Cost)?,
            own,
        })
    })
}

fn run(
    target: &Target,
    kind: Requests,
    clients: usize,
    from: u64,
    until: u64,
    watch: &Watch,
) -> Result<Tally, BenchError> {
    let mut post = Post::new()?;
    // Permissions are for an address, and a channel's port is that of the socket where first packets arrive.
    let peer = SocketAddr::new(target.peer_address, 9);
    let arrivals = (kind == Requests::Setup).then(|| udp_socket(target.peer_address)).transpose()?;
    let peer = arrivals.as_ref().map_or(peer, UdpSocket::local_address);
    let mut parties = (0..clients).map(|index| Party::new(target, index, peer)).collect::<Result<Vec<_>, _>>()?;
    let mut tally = Tally::default();
    let plan = Plan { steps: kind.steps(), at_once: clients, is_endless: true, renews: kind != Requests::Binding };
    let outcome = converse(target, &mut post, &mut parties, plan, arrivals.as_ref(), |event| {
        let now = clock::monotonic().0;
        let is_measured = (from..until).contains(&now);
        tally.clock.look(now, is_measured);
        match event {
            Event::Waited(nanos) => tally.clock.waited(nanos),
            Event::Answer(nanos) if is_measured && kind != Requests::Setup => tally.latency.record(nanos),
            Event::Unit(nanos) => {
                if is_measured {
                    tally.units += 1;
                    if kind == Requests::Setup {
                        tally.latency.record(nanos);
                    }
                }
                watch.done(1);
            }
            Event::Unanswered if is_measured => tally.unanswered += 1,
            Event::Answer(_) | Event::Unanswered => {}
        }
        Ok(now < until)
    });
    tally.clock.stop();
    if outcome.is_err() {
        // Those beside the one that failed still hold allocations. If they do not, the server says so: no error.
        let plan = Plan { steps: &[Step::Delete], at_once: 1, is_endless: false, renews: false };
        for party in parties.iter_mut().filter(|party| party.client.relayed.is_some()) {
            let _ = converse(target, &mut post, std::slice::from_mut(party), plan, None, |_| Ok(true));
        }
    }
    outcome.map(|()| tally)
}
