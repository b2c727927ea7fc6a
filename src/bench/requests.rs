//! Loads of requests: Binding, and allocations set up and taken down. Many clients at once, each with one question under
//! way.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::client::{Client, Post, REQUEST_LEN_MAX, error_code, socket};
use super::{BenchError, Cost, Latency, Meter, RequestLoad, RequestResult, Target};
use crate::net::{UdpSocket, clock};
use crate::stun::{AttributeType, Class, Message, MessageWriter, Method, Seal, TransactionId};

/// A question without an answer for this long is lost.
const PATIENCE_NANOS: u64 = 1_000_000_000;
/// Between two looks for lost questions.
const NAP: Duration = Duration::from_millis(100);

/// One client of a load.
trait Asker {
    fn socket(&self) -> &UdpSocket;

    /// Writes the next question, of which the answer is to be handed to [`Asker::heard`].
    fn ask(&mut self, buffer: &mut [u8], id: TransactionId) -> usize;

    /// Takes an answer in.
    fn heard(&mut self, answer: &Message<'_>) -> Result<Heard, BenchError>;

    /// After the load: gives back what is still held.
    fn leave(&mut self, _post: &mut Post) {}

    /// Another client for the next unit, if it needs one. Whether the socket is a new one.
    fn renew(&mut self) -> Result<bool, BenchError> {
        Ok(false)
    }
}

/// What an answer means.
#[derive(PartialEq, Eq)]
enum Heard {
    /// The next question follows.
    GoOn,
    /// A unit of the load is complete.
    Unit,
    /// Begin again with another client.
    Again,
}

struct Binding(UdpSocket);

impl Asker for Binding {
    fn socket(&self) -> &UdpSocket {
        &self.0
    }

    fn ask(&mut self, buffer: &mut [u8], id: TransactionId) -> usize {
        MessageWriter::new(buffer, Method::Binding, Class::Request, id).finish(Seal::None, false)
    }

    fn heard(&mut self, answer: &Message<'_>) -> Result<Heard, BenchError> {
        match error_code(answer) {
            None => Ok(Heard::Unit),
            Some(code) => Err(BenchError::Refused("Binding", code)),
        }
    }
}

/// A client that comes, is challenged, allocates, permits, binds a channel, deletes and goes.
struct Allocating<'t> {
    target: &'t Target,
    client: Client,
    peer: SocketAddr,
    step: usize,
}

const STEPS: [(&str, Method); 5] = [
    ("Allocate", Method::Allocate),
    ("Allocate", Method::Allocate),
    ("CreatePermission", Method::CreatePermission),
    ("ChannelBind", Method::ChannelBind),
    ("Refresh", Method::Refresh),
];

impl Asker for Allocating<'_> {
    fn socket(&self) -> &UdpSocket {
        &self.client.socket
    }

    fn ask(&mut self, buffer: &mut [u8], id: TransactionId) -> usize {
        let peer = self.peer;
        let method = STEPS[self.step].1;
        if self.step == 0 {
            return Client::write_bare_allocate(buffer, id);
        }
        self.client.write(buffer, id, method, |writer| match method {
            Method::Allocate => writer.u32(AttributeType::REQUESTED_TRANSPORT, 17 << 24),
            Method::CreatePermission => writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer),
            Method::ChannelBind => {
                writer.u32(AttributeType::CHANNEL_NUMBER, 0x4000 << 16);
                writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
            }
            _ => writer.u32(AttributeType::LIFETIME, 0),
        })
    }

    fn heard(&mut self, answer: &Message<'_>) -> Result<Heard, BenchError> {
        match (self.step, error_code(answer)) {
            (0, Some(401)) => self.client.take_challenge(answer, &self.target.password)?,
            // Some servers remember a 5-tuple for a while after its allocation, and ports come round again.
            (_, Some(437)) => {
                self.step = 0;
                return Ok(Heard::Again);
            }
            (_, Some(code)) => return Err(BenchError::Refused(STEPS[self.step].0, code)),
            (_, None) => {}
        }
        self.step = (self.step + 1) % STEPS.len();
        Ok(if self.step == 0 { Heard::Unit } else { Heard::GoOn })
    }

    fn leave(&mut self, post: &mut Post) {
        // There may be no allocation yet, or no more: then the server says so.
        if self.step > 0 {
            let _ = self.client.delete(post);
        }
    }

    fn renew(&mut self) -> Result<bool, BenchError> {
        self.client = Client::new(self.target)?;
        Ok(true)
    }
}

/// Binding requests: each answer is a unit.
///
/// # Errors
/// When the server refuses, or its process cannot be watched.
pub fn binding(target: &Target, load: &RequestLoad, meter: Option<Meter>) -> Result<RequestResult, BenchError> {
    let mut post = Post::new()?;
    let askers = (0..load.clients).map(|_| socket(target.client_address).map(Binding)).collect::<Result<_, _>>()?;
    run(target, load, meter, &mut post, askers)
}

/// New clients, each of which is challenged and then sends Allocate, CreatePermission, ChannelBind and Refresh with lifetime
/// zero: that is one unit.
///
/// # Errors
/// When the server refuses, or its process cannot be watched.
pub fn allocate(target: &Target, load: &RequestLoad, meter: Option<Meter>) -> Result<RequestResult, BenchError> {
    let mut post = Post::new()?;
    let peer = SocketAddr::new(target.peer_address, 9);
    let asker = |_| Client::new(target).map(|client| Allocating { target, client, peer, step: 0 });
    let askers = (0..load.clients).map(asker).collect::<Result<_, _>>()?;
    run(target, load, meter, &mut post, askers)
}

/// A question under way.
struct Waiting {
    asker: usize,
    since: u64,
}

fn run<A: Asker>(
    target: &Target,
    load: &RequestLoad,
    meter: Option<Meter>,
    post: &mut Post,
    mut askers: Vec<A>,
) -> Result<RequestResult, BenchError> {
    let outcome = drive(target, load, meter, post, &mut askers);
    askers.iter_mut().for_each(|asker| asker.leave(post));
    outcome
}

fn drive<A: Asker>(
    target: &Target,
    load: &RequestLoad,
    meter: Option<Meter>,
    post: &mut Post,
    askers: &mut [A],
) -> Result<RequestResult, BenchError> {
    let poll_error = |error| BenchError::Socket("wait for events", error);
    let mut poll = Poll::new().map_err(poll_error)?;
    for (index, asker) in askers.iter().enumerate() {
        let mut source = SourceFd(&asker.socket().as_raw_fd());
        poll.registry().register(&mut source, Token(index), Interest::READABLE).map_err(poll_error)?;
    }
    let mut events = Events::with_capacity(1024);
    let mut waiting: HashMap<TransactionId, Waiting> = HashMap::new();
    let mut buffer = [0; REQUEST_LEN_MAX];
    let mut ask = |post: &mut Post, askers: &mut [A], waiting: &mut HashMap<_, _>, asker: usize| {
        let id = post.transaction_id();
        let len = askers[asker].ask(&mut buffer, id);
        post.send(askers[asker].socket(), target.server, &buffer[..len]);
        waiting.insert(id, Waiting { asker, since: clock::monotonic().0 });
    };
    for asker in 0..askers.len() {
        ask(post, askers, &mut waiting, asker);
    }
    let from = clock::monotonic().0 + load.warm_up.as_nanos() as u64;
    let until = from + load.duration.as_nanos() as u64;
    let (mut units, mut lost, mut latency) = (0, 0, Latency::default());
    let mut before = None;
    let mut next_look = from;
    let mut ask_again = Vec::new();
    while clock::monotonic().0 < until {
        poll.poll(&mut events, Some(NAP)).map_err(poll_error)?;
        let now = clock::monotonic().0;
        let is_measured = now >= from;
        if is_measured && before.is_none() {
            before = Some(meter.map(|meter| meter.read()).transpose().map_err(BenchError::Cost)?);
        }
        for event in &events {
            let Token(index) = event.token();
            post.received.clear();
            while let Ok(count) = post.received.receive(askers[index].socket()) {
                for slot in 0..count {
                    let packet = post.received.packet(slot);
                    let Ok(answer) = Message::parse(packet.message()) else { continue };
                    let Some(asked) = waiting.remove(&answer.transaction_id()) else { continue };
                    let heard = askers[asked.asker].heard(&answer)?;
                    if heard != Heard::GoOn && askers[asked.asker].renew()? {
                        let mut source = SourceFd(&askers[asked.asker].socket().as_raw_fd());
                        poll.registry()
                            .register(&mut source, Token(asked.asker), Interest::READABLE)
                            .map_err(poll_error)?;
                    }
                    if is_measured {
                        units += u64::from(heard == Heard::Unit);
                        latency.record(clock::monotonic().0.saturating_sub(asked.since));
                    }
                    ask_again.push(asked.asker);
                }
                post.received.clear();
            }
        }
        for asker in ask_again.drain(..) {
            ask(post, askers, &mut waiting, asker);
        }
        if now >= next_look {
            next_look = now + PATIENCE_NANOS / 4;
            let gone: Vec<TransactionId> = waiting
                .iter()
                .filter(|(_, asked)| now.saturating_sub(asked.since) > PATIENCE_NANOS)
                .map(|(id, _)| *id)
                .collect();
            for id in gone {
                let asked = waiting.remove(&id).expect("it was there");
                lost += u64::from(is_measured);
                ask(post, askers, &mut waiting, asked.asker);
            }
        }
    }
    let elapsed = Duration::from_nanos(clock::monotonic().0 - from);
    let cost: Option<Cost> = match (meter, before.flatten()) {
        (Some(meter), Some(before)) => Some(meter.since(before).map_err(BenchError::Cost)?),
        _ => None,
    };
    Ok(RequestResult { elapsed, units, lost, latency, cost })
}
