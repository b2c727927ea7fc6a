//! What is between a client and the server: a UDP socket, or a connection with or without TLS. Nothing waits.

use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustls::ClientConnection;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{BenchError, Target, Transport};
use crate::net::tcp::{PartialMessage, SendBuffer};
use crate::net::{Datagram, ReceiveBatch, SendBatch, SocketErrors, UdpSocket};
use crate::stun::TransactionId;
use crate::turn::IpFields;

/// Each socket's kernel buffers, in bytes: what a burst of a whole window can be.
const SOCKET_BUFFER_BYTES: usize = 1 << 20;
/// Bytes that may wait in front of a connection that takes no more.
const STREAM_BYTES_MAX: usize = 256 * 1024;
/// Bytes read from a connection at a time.
const READ_BYTES: usize = 64 * 1024;

/// Buffers that all clients of a thread use in turn.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) received: ReceiveBatch,
    pub(super) sender: SendBatch,
    pub(super) errors: SocketErrors,
    raw: Box<[u8]>,
    next_id: u64,
    session: u32,
}

impl Post {
    pub(super) fn new() -> Result<Self, BenchError> {
        let received = ReceiveBatch::new().map_err(|error| BenchError::Socket("reserve memory", error))?;
        let mut session = [0; 4];
        getrandom::fill(&mut session).map_err(|error| BenchError::Socket("draw random numbers", error.into()))?;
        Ok(Self {
            received,
            sender: SendBatch::new(),
            errors: SocketErrors::default(),
            raw: vec![0; READ_BYTES].into_boxed_slice(),
            next_id: 0,
            session: u32::from_ne_bytes(session),
        })
    }

    /// Distinct in this thread, and from those of others.
    pub(super) fn transaction_id(&mut self) -> TransactionId {
        self.next_id += 1;
        let mut id = [0; 12];
        id[..4].copy_from_slice(&self.session.to_be_bytes());
        id[4..].copy_from_slice(&self.next_id.to_be_bytes());
        TransactionId(id)
    }
}

/// A UDP socket on some port of this address.
pub(super) fn udp_socket(address: IpAddr) -> Result<UdpSocket, BenchError> {
    UdpSocket::relay(SocketAddr::new(address, 0), SOCKET_BUFFER_BYTES, false).map_err(|error| {
        BenchError::Socket("open a UDP socket (--client-address and --peer-address must be this machine's)", error)
    })
}

/// The way to the server.
#[derive(Debug)]
pub(super) enum Link {
    Udp(UdpSocket),
    Stream(Box<Stream>),
}

/// A connection. It may still be on its way; what is written then waits.
#[derive(Debug)]
pub(super) struct Stream {
    tcp: TcpStream,
    tls: Option<ClientConnection>,
    partial: PartialMessage,
    out: SendBuffer,
}

impl Link {
    /// From this local address.
    pub(super) fn open(target: &Target, from: IpAddr) -> Result<Self, BenchError> {
        let tls = match &target.transport {
            Transport::Udp => return udp_socket(from).map(Self::Udp),
            Transport::Tcp => None,
            Transport::Tls { config, name } => Some(
                ClientConnection::new(Arc::clone(config), name.clone())
                    .map_err(|error| BenchError::Tls(error.to_string()))?,
            ),
        };
        let tcp = connect(target.server, from).map_err(|error| BenchError::Socket("connect to the server", error))?;
        let (partial, out) = (PartialMessage::default(), SendBuffer::new(STREAM_BYTES_MAX));
        Ok(Self::Stream(Box::new(Stream { tcp, tls, partial, out })))
    }

    pub(super) const fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    pub(super) fn descriptor(&self) -> RawFd {
        match self {
            Self::Udp(socket) => socket.as_raw_fd(),
            Self::Stream(stream) => stream.tcp.as_raw_fd(),
        }
    }

    pub(super) fn register(&self, registry: &Registry, token: usize) -> Result<(), BenchError> {
        let interest = if self.is_stream() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        registry
            .register(&mut SourceFd(&self.descriptor()), Token(token), interest)
            .map_err(|error| BenchError::Socket("wait for events", error))
    }

    /// Sends a request.
    pub(super) fn ask(&mut self, post: &mut Post, server: SocketAddr, request: &[u8]) -> Result<(), BenchError> {
        match self {
            Self::Udp(socket) => {
                let datagram = Datagram { to: server, source: None, bytes: request, ip: IpFields::default() };
                post.sender.send(socket, [datagram], &mut post.errors);
                Ok(())
            }
            Self::Stream(stream) => {
                stream.out.push_control(request);
                stream.push_padding(request.len());
                stream.flush()
            }
        }
    }

    /// Sends application data in its frames; how many of them were taken.
    pub(super) fn send<'b>(
        &mut self,
        post: &mut Post,
        server: SocketAddr,
        messages: impl Iterator<Item = &'b [u8]>,
    ) -> Result<u64, BenchError> {
        match self {
            Self::Udp(socket) => {
                let datagrams =
                    messages.map(|bytes| Datagram { to: server, source: None, bytes, ip: IpFields::default() });
                Ok(post.sender.send(socket, datagrams, &mut post.errors).datagrams)
            }
            Self::Stream(stream) => {
                let mut taken = 0;
                for message in messages {
                    if stream.out.push_data(message) {
                        stream.push_padding(message.len());
                        taken += 1;
                    }
                }
                if !stream.out.is_blocked() {
                    stream.flush()?;
                }
                Ok(taken)
            }
        }
    }

    /// The other side may take bytes again.
    pub(super) fn flush(&mut self) -> Result<(), BenchError> {
        match self {
            Self::Udp(_) => Ok(()),
            Self::Stream(stream) => {
                stream.out.unblock();
                stream.flush()
            }
        }
    }

    /// Hands over every message that has come.
    pub(super) fn receive(&mut self, post: &mut Post, mut take: impl FnMut(&[u8])) -> Result<(), BenchError> {
        match self {
            Self::Udp(socket) => {
                receive_datagrams(socket, &mut post.received, take);
                Ok(())
            }
            Self::Stream(stream) => stream.receive(&mut post.raw, &mut take),
        }
    }

    /// Says goodbye where the protocol has a word for it.
    pub(super) fn close(self) {
        if let Self::Stream(mut stream) = self
            && let Some(tls) = &mut stream.tls
        {
            tls.send_close_notify();
            // Whether the server hears it is no part of the measurement.
            let _ = stream.flush();
        }
    }
}

/// Hands over every datagram that has come.
pub(super) fn receive_datagrams(socket: &UdpSocket, batch: &mut ReceiveBatch, mut take: impl FnMut(&[u8])) {
    loop {
        batch.clear();
        let room = batch.room();
        match batch.receive(socket) {
            Ok(count) => {
                for slot in 0..count {
                    take(batch.message(slot));
                }
                if count < room {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // ICMP about an earlier datagram: the server may be starting. It is told once.
            Err(_) => {}
        }
    }
}

fn connect(server: SocketAddr, from: IpAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.set_tcp_nodelay(true)?;
    // What is closed leaves no TIME_WAIT behind, of which a minute's set-ups would take every port. Nothing is under way
    // then: the server has answered the last Refresh.
    socket.set_linger(Some(Duration::ZERO))?;
    match socket.connect(&server.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

impl Stream {
    /// Messages are padded to four bytes on connections (RFC 8656 §12.5).
    fn push_padding(&mut self, len: usize) {
        self.out.push_control(&[0; 3][..len.next_multiple_of(4) - len]);
    }

    fn flush(&mut self) -> Result<(), BenchError> {
        let result = match &mut self.tls {
            None => self.out.write_to(&mut self.tcp),
            Some(tls) => self.out.write_to(&mut Encrypting { tcp: &mut self.tcp, tls }),
        };
        result.map_err(|error| self.broken("write to the server", error))
    }

    /// A connection that could not be made says so with the first use.
    fn broken(&self, what: &'static str, error: io::Error) -> BenchError {
        match SockRef::from(&self.tcp).take_error() {
            Ok(Some(error)) => BenchError::Socket("connect to the server", error),
            _ if error.kind() == io::ErrorKind::ConnectionRefused => BenchError::Socket("connect to the server", error),
            _ if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                BenchError::Closed
            }
            _ => BenchError::Socket(what, error),
        }
    }

    fn receive(&mut self, raw: &mut [u8], take: &mut impl FnMut(&[u8])) -> Result<(), BenchError> {
        let lost_framing = |_| BenchError::Nonsense("a message on a connection");
        let mut take = |message: &[u8]| {
            take(message);
            true
        };
        loop {
            let count = match self.tcp.read(raw) {
                Ok(0) => return Err(BenchError::Closed),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.broken("read from the server", error)),
            };
            let Some(tls) = &mut self.tls else {
                self.partial.feed(&raw[..count], &mut take).map_err(lost_framing)?;
                continue;
            };
            let mut rest = &raw[..count];
            while !rest.is_empty() {
                let taken = tls.read_tls(&mut rest).map_err(|error| BenchError::Socket("read TLS", error))?;
                let result = tls.process_new_packets();
                if let Err(error) = result {
                    let _ = tls.write_tls(&mut self.tcp);
                    return Err(BenchError::Tls(error.to_string()));
                }
                if taken == 0 {
                    return Err(BenchError::Closed);
                }
                let mut reader = tls.reader();
                while let Ok(chunk) = reader.fill_buf() {
                    let len = chunk.len();
                    if len == 0 {
                        return Err(BenchError::Closed);
                    }
                    self.partial.feed(chunk, &mut take).map_err(lost_framing)?;
                    reader.consume(len);
                }
            }
            if tls.wants_write() {
                self.flush()?;
            }
        }
    }
}

/// Encrypts what is written; before the handshake is over it waits in the session.
struct Encrypting<'s> {
    tcp: &'s mut TcpStream,
    tls: &'s mut ClientConnection,
}

impl Write for Encrypting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let taken = self.tls.writer().write(&bytes[..bytes.len().min(READ_BYTES)])?;
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(self.tcp) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Not connected yet.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
