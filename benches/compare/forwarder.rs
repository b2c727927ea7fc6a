//! The limit: what moving datagrams between sockets costs when nothing is checked; for clients on TCP see `streams.rs`.
//!
//! A client is told what it wants to hear: its first request is challenged, every other succeeds, and the peer of its
//! channel is whoever it named. From then on four bytes come off on the way out and go on on the way back, with one
//! look-up by the client's address and whole batches of datagrams in each system call. It has no lifetimes, permissions,
//! credentials or limits, and belongs into no network but the one in `network.rs`.

mod streams;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use hairpin::stun::{AttributeType, Class, Message, MessageWriter, Method, Seal, read_xor_address};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt,
    sockopt::{RcvBuf, SndBuf},
};

use self::streams::Streams;
use crate::kernel_forwarder::{self, KernelForwarder};

/// The last argument of this program, when the forwarder is to have the kernel do it.
pub const IN_KERNEL: &str = "in-kernel";
/// The first argument of this program, when it is to be the forwarder.
pub const COMMAND: &str = "forwarder";

const BATCH: usize = 64;
const DATAGRAM_LEN_MAX: usize = 2048;
/// A ChannelData header.
const HEADER_LEN: usize = 4;
const LISTENER: Token = Token(usize::MAX);
const LISTENER_BUFFER_BYTES: usize = 4 << 20;
const RELAY_BUFFER_BYTES: usize = 512 << 10;

/// Runs until it is killed.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let word = |index: usize| arguments.get(index).and_then(|word| word.to_str()).unwrap_or_default();
    let (Ok(listen), Ok(relays)) = (word(0).parse::<SocketAddrV4>(), word(1).parse::<Ipv4Addr>()) else {
        eprintln!("usage: {COMMAND} ADDRESS:PORT RELAY-ADDRESS");
        return ExitCode::FAILURE;
    };
    crate::machine::raise_descriptor_limit();
    let in_kernel = word(2) == IN_KERNEL;
    let ended = Forwarder::new(listen, relays, in_kernel).and_then(|mut forwarder| forwarder.run());
    eprintln!("{}", ended.expect_err("it runs until something fails"));
    ExitCode::FAILURE
}

/// An allocation, reduced.
struct Flow {
    socket: UdpSocket,
    client: SockaddrIn,
    relayed: SocketAddr,
    peer: Option<SockaddrIn>,
    header: [u8; HEADER_LEN],
}

/// Datagrams, with room for a header in front of each.
type Arena = [[u8; HEADER_LEN + DATAGRAM_LEN_MAX]; BATCH];

struct Forwarder {
    listener: UdpSocket,
    listen: SocketAddrV4,
    relays: Ipv4Addr,
    kernel: Option<KernelForwarder>,
    poll: Poll,
    flows: Vec<Flow>,
    by_client: HashMap<SocketAddrV4, usize, ahash::RandomState>,
    received: Box<MultiHeaders<SockaddrIn>>,
    sent: Box<MultiHeaders<SockaddrIn>>,
    arena: Box<Arena>,
    streams: Streams,
}

impl Forwarder {
    fn new(listen: SocketAddrV4, relays: Ipv4Addr, in_kernel: bool) -> std::io::Result<Self> {
        let listener = socket(listen, LISTENER_BUFFER_BYTES)?;
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), LISTENER, Interest::READABLE)?;
        let streams = Streams::new(listen, relays, poll.registry())?;
        Ok(Self {
            listener,
            listen,
            relays,
            kernel: in_kernel.then(KernelForwarder::new).transpose()?,
            poll,
            flows: Vec::new(),
            by_client: HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4)),
            received: Box::new(MultiHeaders::preallocate(BATCH, None)),
            sent: Box::new(MultiHeaders::preallocate(BATCH, None)),
            arena: vec![[0; HEADER_LEN + DATAGRAM_LEN_MAX]; BATCH].try_into().expect("as many as it has"),
            streams,
        })
    }

    fn run(&mut self) -> std::io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            self.poll.poll(&mut events, None)?;
            for event in &events {
                match event.token() {
                    LISTENER => while self.take_from_clients()? == BATCH {},
                    streams::LISTENER => self.streams.accept(self.poll.registry())?,
                    token if Streams::is_relay(token) => {
                        self.streams.take_from_peers(token, &mut self.received, &mut self.arena);
                    }
                    token if Streams::is_connection(token) => {}
                    Token(flow) => while self.take_from_peers(flow) == BATCH {},
                }
            }
            for event in events.iter().filter(|event| Streams::is_connection(event.token())) {
                self.streams.take_from_client(event.token());
            }
        }
    }

    /// Takes one batch from the listener; how many datagrams it had.
    fn take_from_clients(&mut self) -> std::io::Result<usize> {
        let heard = receive(&self.listener, &mut self.received, &mut self.arena);
        let mut at = 0;
        while let Some((client, len)) = heard.get(at) {
            let Some(flow) = self.by_client.get(client).copied().filter(|_| self.is_channel_data(at)) else {
                let message = self.arena[at][HEADER_LEN..][..*len].to_vec();
                self.answer(*client, &message)?;
                at += 1;
                continue;
            };
            // A run of one client leaves in one call.
            let more = heard[at..].iter().take_while(|(other, _)| other == client).count();
            let run = (at..at + more).take_while(|at| self.is_channel_data(*at)).count();
            let Flow { socket, peer: Some(peer), .. } = &self.flows[flow] else {
                at += run;
                continue;
            };
            let data = (at..at + run).map(|at| {
                let len = u16::from_be_bytes([self.arena[at][HEADER_LEN + 2], self.arena[at][HEADER_LEN + 3]]);
                let end = (2 * HEADER_LEN + usize::from(len)).min(HEADER_LEN + heard[at].1);
                (*peer, &self.arena[at][2 * HEADER_LEN..end])
            });
            send(socket, &mut self.sent, data);
            at += run;
        }
        Ok(heard.len())
    }

    fn is_channel_data(&self, at: usize) -> bool {
        (0x40..0x50).contains(&self.arena[at][HEADER_LEN])
    }

    /// Takes one batch from a relay; how many datagrams it had.
    fn take_from_peers(&mut self, flow: usize) -> usize {
        let flow = &self.flows[flow];
        let heard = receive(&flow.socket, &mut self.received, &mut self.arena);
        for (at, (_, len)) in heard.iter().enumerate() {
            flow.write_header(&mut self.arena[at], *len);
        }
        let arena = &self.arena;
        let data = heard.iter().enumerate().map(|(at, (_, len))| (flow.client, &arena[at][..HEADER_LEN + len]));
        send(&self.listener, &mut self.sent, data);
        heard.len()
    }

    fn answer(&mut self, client: SocketAddrV4, request: &[u8]) -> std::io::Result<()> {
        let mut reply = [0; 512];
        let len = reply_to(request, &mut reply, || {
            let flow = self.flow_of(client)?;
            Ok(&mut self.flows[flow])
        })?;
        let is_bound = Message::parse(request).is_ok_and(|message| message.method() == Method::ChannelBind);
        if is_bound {
            self.hand_to_kernel(client)?;
        }
        len.map_or(Ok(()), |len| self.listener.send_to(&reply[..len], client).map(drop))
    }

    /// Has the kernel forward for a client whose channel is bound, if it is to.
    fn hand_to_kernel(&mut self, client: SocketAddrV4) -> std::io::Result<()> {
        let flow = self.flow_of(client)?;
        let Flow { relayed, peer, header, .. } = &self.flows[flow];
        let (SocketAddr::V4(relay), Some(peer), Some(kernel)) = (*relayed, *peer, &mut self.kernel) else {
            return Ok(());
        };
        let peer = SocketAddrV4::new(peer.ip(), peer.port());
        kernel.add(&kernel_forwarder::Flow {
            client,
            server: self.listen,
            relay,
            peer,
            channel: [header[0], header[1]],
        })
    }

    fn flow_of(&mut self, client: SocketAddrV4) -> std::io::Result<usize> {
        if let Some(flow) = self.by_client.get(&client) {
            return Ok(*flow);
        }
        let (flow, token) = (Flow::open(client, self.relays)?, self.flows.len());
        self.poll.registry().register(&mut SourceFd(&flow.socket.as_raw_fd()), Token(token), Interest::READABLE)?;
        self.flows.push(flow);
        self.by_client.insert(client, token);
        Ok(token)
    }
}

impl Flow {
    fn open(client: SocketAddrV4, relays: Ipv4Addr) -> std::io::Result<Self> {
        let socket = socket(SocketAddrV4::new(relays, 0), RELAY_BUFFER_BYTES)?;
        let relayed = socket.local_addr()?;
        Ok(Self { socket, client: client.into(), relayed, peer: None, header: [0; HEADER_LEN] })
    }

    /// In front of so many bytes from the peer.
    fn write_header(&self, message: &mut [u8], len: usize) {
        message[..2].copy_from_slice(&self.header[..2]);
        message[2..HEADER_LEN].copy_from_slice(&(len as u16).to_be_bytes());
    }
}

/// Writes what a client wants to hear; how long that is. `flow` is the one of this client, which it may be the first to ask
/// for.
fn reply_to<'f>(
    request: &[u8],
    reply: &mut [u8],
    flow: impl FnOnce() -> std::io::Result<&'f mut Flow>,
) -> std::io::Result<Option<usize>> {
    let Some(request) = Message::parse(request).ok().filter(|message| message.class() == Class::Request) else {
        return Ok(None);
    };
    let is_challenge = request.method() == Method::Allocate && request.first(AttributeType::USERNAME).is_none();
    let class = if is_challenge { Class::Error } else { Class::Success };
    let mut writer = MessageWriter::new(reply, request.method(), class, request.transaction_id());
    if is_challenge {
        writer.attribute(AttributeType::ERROR_CODE, &[0, 0, 4, 1]);
        writer.attribute(AttributeType::REALM, b"bench");
        writer.attribute(AttributeType::NONCE, b"nonce");
    } else if request.method() == Method::Allocate {
        writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, flow()?.relayed);
        writer.u32(AttributeType::LIFETIME, 3600);
    } else if request.method() == Method::ChannelBind {
        let channel = request.first(AttributeType::CHANNEL_NUMBER).and_then(|value| value.first_chunk::<2>());
        let peer = request.first(AttributeType::XOR_PEER_ADDRESS);
        let peer = peer.and_then(|value| read_xor_address(value, request.transaction_id()).ok());
        if let (Some(channel), Some(SocketAddr::V4(peer))) = (channel, peer) {
            let flow = flow()?;
            flow.peer = Some(peer.into());
            flow.header[..2].copy_from_slice(channel);
        }
    }
    Ok(Some(writer.finish(Seal::None, false)))
}

fn socket(address: SocketAddrV4, buffer_bytes: usize) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, RcvBuf, &buffer_bytes)?;
    setsockopt(&socket, SndBuf, &buffer_bytes)?;
    Ok(socket)
}

/// Reads a batch behind the headers' places in the arena: senders and lengths. Errors are others' ICMP, and no datagram.
fn receive(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrIn>,
    arena: &mut Arena,
) -> arrayvec::ArrayVec<(SocketAddrV4, usize), BATCH> {
    let mut slices = arena.each_mut().map(|slot| [IoSliceMut::new(&mut slot[HEADER_LEN..])]);
    let heard = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None);
    let heard = heard.into_iter().flatten();
    heard
        .map(|message| (message.address.map_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), Into::into), message.bytes))
        .collect()
}

/// Sends a batch. What does not fit into the socket's buffer is lost, as it would be on a link.
fn send<'d>(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrIn>,
    datagrams: impl Iterator<Item = (SockaddrIn, &'d [u8])>,
) {
    let (to, slices): (arrayvec::ArrayVec<_, BATCH>, arrayvec::ArrayVec<_, BATCH>) =
        datagrams.map(|(to, bytes)| (Some(to), [IoSlice::new(bytes)])).unzip();
    let none: [ControlMessage<'_>; 0] = [];
    let _ = sendmmsg(socket.as_raw_fd(), headers, slices.iter(), &to[..], none, MsgFlags::MSG_DONTWAIT);
}
