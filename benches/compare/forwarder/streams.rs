//! The limit for clients on TCP: the fewest system calls that carry what has come.
//!
//! One look at epoll; whatever peers have sent to a relay comes with one call and leaves with one to the client, from where
//! it lies. Clients are read after that, since what was written to them has acknowledged what they sent, and what one has
//! written together leaves as one message that the kernel cuts apart (UDP_SEGMENT). Who reads slowly loses what comes.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;

use arrayvec::ArrayVec;
use hairpin::stun::stream::{FRAME_LEN_MAX, Frame, next_frame};
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, sendmsg};

use super::{Arena, BATCH, Flow, HEADER_LEN, receive, reply_to};

/// Tokens from here on are those of streams: two for each client, first its connection and then its relay.
pub const TOKENS: usize = 1 << 32;
/// The listener's.
pub const LISTENER: Token = Token(usize::MAX - 1);
/// Bytes read from a connection at a time.
const READ_BYTES: usize = 64 * 1024;
/// The payload of a message that is cut apart.
const RUN_BYTES_MAX: usize = 65_000;

struct Client {
    stream: TcpStream,
    flow: Flow,
    /// The start of a message.
    partial: Vec<u8>,
    /// What the kernel did not take.
    unsent: Vec<u8>,
}

/// All clients on TCP. A place is never given to another.
pub struct Streams {
    listener: TcpListener,
    relays: Ipv4Addr,
    clients: Vec<Option<Client>>,
    raw: Box<[u8]>,
}

impl Streams {
    /// Listens.
    pub fn new(listen: SocketAddrV4, relays: Ipv4Addr, registry: &Registry) -> io::Result<Self> {
        let mut listener = TcpListener::bind(listen.into())?;
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        let raw = vec![0; FRAME_LEN_MAX + READ_BYTES].into();
        Ok(Self { listener, relays, clients: Vec::new(), raw })
    }

    /// Takes in whoever waits.
    pub fn accept(&mut self, registry: &Registry) -> io::Result<()> {
        while let Ok((mut stream, client)) = self.listener.accept() {
            let SocketAddr::V4(client) = client else { continue };
            stream.set_nodelay(true)?;
            let flow = Flow::open(client, self.relays)?;
            let token = TOKENS + 2 * self.clients.len();
            registry.register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)?;
            registry.register(&mut SourceFd(&flow.socket.as_raw_fd()), Token(token + 1), Interest::READABLE)?;
            self.clients.push(Some(Client { stream, flow, partial: Vec::new(), unsent: Vec::new() }));
        }
        Ok(())
    }

    /// Whether a token of a stream is that of a relay.
    pub fn is_relay(token: Token) -> bool {
        (TOKENS..LISTENER.0).contains(&token.0) && token.0 % 2 == 1
    }

    /// Whether it is that of a connection.
    pub fn is_connection(token: Token) -> bool {
        (TOKENS..LISTENER.0).contains(&token.0) && token.0.is_multiple_of(2)
    }

    /// Brings a client what its peers have sent.
    pub fn take_from_peers(&mut self, token: Token, headers: &mut MultiHeaders<SockaddrIn>, arena: &mut Arena) {
        let place = &mut self.clients[(token.0 - TOKENS) / 2];
        loop {
            let Some(client) = place else { return };
            let heard = receive(&client.flow.socket, headers, arena);
            for (at, (_, len)) in heard.iter().enumerate() {
                client.flow.write_header(&mut arena[at], *len);
            }
            let mut slices = ArrayVec::<IoSlice<'_>, { 2 * BATCH }>::new();
            for (at, (_, len)) in heard.iter().enumerate() {
                slices.push(IoSlice::new(&arena[at][..HEADER_LEN + len]));
                slices.push(IoSlice::new(&[0; 3][..len.next_multiple_of(4) - len]));
            }
            if !slices.is_empty() && client.send(&slices).is_err() {
                *place = None;
            }
            if heard.len() < BATCH {
                return;
            }
        }
    }

    /// Does what a client asks for, and brings peers what it has sent.
    pub fn take_from_client(&mut self, token: Token) {
        let place = &mut self.clients[(token.0 - TOKENS) / 2];
        if place.as_mut().is_some_and(|client| client.take(&mut self.raw).is_err()) {
            *place = None;
        }
    }
}

impl Client {
    /// Sends messages, or nothing of them while something waits.
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        if !self.unsent.is_empty() {
            return Ok(());
        }
        let mut taken = match self.stream.write_vectored(slices) {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        for slice in slices {
            let skipped = taken.min(slice.len());
            taken -= skipped;
            self.unsent.extend_from_slice(&slice[skipped..]);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(taken) => drop(self.unsent.drain(..taken)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take(&mut self, raw: &mut [u8]) -> io::Result<()> {
        self.flush()?;
        loop {
            let begun = self.partial.len();
            raw[..begun].copy_from_slice(&self.partial);
            let count = match self.stream.read(&mut raw[begun..begun + READ_BYTES]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let used = self.forward(&raw[..begun + count])?;
            self.partial.clear();
            self.partial.extend_from_slice(&raw[used..begun + count]);
            if count < READ_BYTES {
                return Ok(());
            }
        }
    }

    /// Deals with whole messages; how many bytes they were.
    fn forward(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut run = ArrayVec::<IoSlice<'_>, BATCH>::new();
        let mut at = 0;
        while let Ok(Frame::Complete { len }) = next_frame(&bytes[at..]) {
            let message = &bytes[at..at + len];
            at += len;
            if !(0x40..0x50).contains(&message[0]) {
                let mut reply = [0; 512];
                if let Some(len) = reply_to(message, &mut reply, || Ok(&mut self.flow))? {
                    self.send(&[IoSlice::new(&reply[..len])])?;
                }
                continue;
            }
            let len = usize::from(u16::from_be_bytes([message[2], message[3]]));
            let payload = IoSlice::new(&message[HEADER_LEN..HEADER_LEN + len]);
            let is_alike = run.last().is_none_or(|last| last.len() == len);
            if run.is_full() || !is_alike || (run.len() + 1) * len > RUN_BYTES_MAX {
                self.send_run(&run);
                run.clear();
            }
            run.push(payload);
        }
        self.send_run(&run);
        Ok(at)
    }

    /// Sends datagrams of one length. What the kernel does not take is lost, as it would be on a link.
    fn send_run(&self, run: &[IoSlice<'_>]) {
        let (Some(peer), Some(first)) = (&self.flow.peer, run.first()) else { return };
        let segment = first.len() as u16;
        let controls = [ControlMessage::UdpGsoSegments(&segment)];
        let controls = if run.len() > 1 { &controls[..] } else { &[] };
        let _ = sendmsg(self.flow.socket.as_raw_fd(), run, controls, MsgFlags::MSG_DONTWAIT, Some(peer));
    }
}
