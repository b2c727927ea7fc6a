//! One connection of a client over one transport: bytes out, arrivals in, always with a deadline.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use socket2::{Domain, Protocol, Socket, Type};

#[cfg(feature = "dtls")]
use crate::dtls::Dtls;
use crate::wire::Message;

/// How long to wait for what must come.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// Between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
    /// Spoken by the suite if it was built with the feature `dtls`.
    Dtls,
}

pub const UDP: &[Transport] = &[Transport::Udp];
pub const TCP: &[Transport] = &[Transport::Tcp];
pub const TLS: &[Transport] = &[Transport::Tls];
pub const STREAMS: &[Transport] = &[Transport::Tcp, Transport::Tls];
pub const DTLS: &[Transport] = &[Transport::Dtls];
pub const DATAGRAMS: &[Transport] = &[Transport::Udp, Transport::Dtls];

impl Transport {
    pub const ALL: [Self; 4] = [Self::Udp, Self::Tcp, Self::Tls, Self::Dtls];

    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Dtls => "dtls",
        })
    }
}

/// What came.
#[derive(Clone)]
pub enum Arrival {
    Stun(Message),
    ChannelData {
        number: u16,
        data: Vec<u8>,
        /// Bytes behind the data, up to the end of the frame.
        padding: usize,
    },
    /// Neither.
    Other(Vec<u8>),
    /// The server closed the connection.
    Closed,
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stun(message) => write!(f, "{message}"),
            Self::ChannelData { number, data, .. } => write!(f, "ChannelData {number:#06x} [{} bytes]", data.len()),
            Self::Other(bytes) => write!(f, "0x{}", hex::encode(&bytes[..bytes.len().min(64)])),
            Self::Closed => write!(f, "the connection was closed"),
        }
    }
}

pub struct Link {
    socket: Connection,
    pub local: SocketAddr,
    pub server: SocketAddr,
    /// Of a stream, what does not make a frame yet.
    received: Vec<u8>,
}

enum Connection {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    #[cfg(feature = "dtls")]
    Dtls(Box<Dtls>),
}

impl Link {
    /// Connects, from a port of its own unless one is given.
    ///
    /// # Errors
    /// Those of the sockets; of TLS, those of the handshake.
    pub fn open(
        transport: Transport,
        server: SocketAddr,
        name: &str,
        from: Option<SocketAddr>,
        alpn: &[&[u8]],
    ) -> io::Result<Self> {
        let (kind, protocol) = match transport {
            Transport::Udp | Transport::Dtls => (Type::DGRAM, Protocol::UDP),
            Transport::Tcp | Transport::Tls => (Type::STREAM, Protocol::TCP),
        };
        let socket = Socket::new(Domain::for_address(server), kind, Some(protocol))?;
        if let Some(from) = from {
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())?;
        }
        socket.connect_timeout(&server.into(), PATIENCE)?;
        let local = socket.local_addr()?.as_socket().expect("an IP socket");
        let socket = match transport {
            Transport::Udp => Connection::Udp(socket.into()),
            #[cfg(feature = "dtls")]
            Transport::Dtls => Connection::Dtls(Box::new(Dtls::connect(socket.into(), name)?)),
            #[cfg(not(feature = "dtls"))]
            Transport::Dtls => return Err(io::ErrorKind::Unsupported.into()),
            Transport::Tls => {
                let name = match name.parse::<IpAddr>() {
                    Ok(ip) => ServerName::from(ip),
                    Err(_) => ServerName::try_from(name.to_owned()).map_err(io::Error::other)?,
                };
                let mut config = tls_config(rustls::ALL_VERSIONS);
                config.alpn_protocols = alpn.iter().map(|label| label.to_vec()).collect();
                let session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
                let tcp: TcpStream = socket.into();
                tcp.set_nodelay(true)?;
                tcp.set_read_timeout(Some(PATIENCE))?;
                let mut stream = StreamOwned::new(session, tcp);
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                Connection::Tls(Box::new(stream))
            }
            Transport::Tcp => {
                let tcp: TcpStream = socket.into();
                tcp.set_nodelay(true)?;
                Connection::Tcp(tcp)
            }
        };
        Ok(Self { socket, local, server, received: Vec::new() })
    }

    pub fn transport(&self) -> Transport {
        match self.socket {
            Connection::Udp(_) => Transport::Udp,
            Connection::Tcp(_) => Transport::Tcp,
            Connection::Tls(_) => Transport::Tls,
            #[cfg(feature = "dtls")]
            Connection::Dtls(_) => Transport::Dtls,
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.socket {
            Connection::Udp(socket) => match socket.send(bytes) {
                // An earlier datagram's ICMP error is told to whoever sends next: again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => socket.send(bytes).map(drop),
                sent => sent.map(drop),
            },
            Connection::Tcp(stream) => stream.write_all(bytes),
            Connection::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            #[cfg(feature = "dtls")]
            Connection::Dtls(association) => association.send(bytes),
        }
    }

    /// The next arrival; `None` when there is none before the deadline.
    pub fn receive(&mut self, deadline: Instant) -> Option<Arrival> {
        loop {
            if self.transport().is_stream()
                && let Some(frame) = take_frame(&mut self.received)
            {
                return Some(frame);
            }
            match self.read(deadline)? {
                Ok(bytes) if self.transport().is_stream() => self.received.extend(bytes),
                Ok(bytes) => return Some(datagram(&bytes)),
                Err(Arrival::Closed) => return Some(Arrival::Closed),
                Err(_) => {}
            }
        }
    }

    /// The next bytes of a stream that has become a pipe (RFC 6062 §5.4); empty at its end.
    pub fn receive_raw(&mut self, deadline: Instant) -> Option<Vec<u8>> {
        if !self.received.is_empty() {
            return Some(std::mem::take(&mut self.received));
        }
        match self.read(deadline)? {
            Ok(bytes) => Some(bytes),
            Err(_) => Some(Vec::new()),
        }
    }

    /// `None` is the deadline; an error is an arrival of its own.
    fn read(&mut self, deadline: Instant) -> Option<Result<Vec<u8>, Arrival>> {
        let mut bytes = vec![0; 70_000];
        loop {
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            // The kernel takes zero for "for ever".
            let left = Some(left.max(Duration::from_millis(1)));
            let read = match &mut self.socket {
                Connection::Udp(socket) => socket.set_read_timeout(left).and_then(|()| socket.recv(&mut bytes)),
                Connection::Tcp(stream) => stream.set_read_timeout(left).and_then(|()| stream.read(&mut bytes)),
                Connection::Tls(stream) => stream.sock.set_read_timeout(left).and_then(|()| stream.read(&mut bytes)),
                #[cfg(feature = "dtls")]
                Connection::Dtls(association) => {
                    association.socket().set_read_timeout(left).and_then(|()| association.receive(&mut bytes))
                }
            };
            match read {
                Ok(0) if self.transport().is_stream() => return Some(Err(Arrival::Closed)),
                Ok(len) => {
                    bytes.truncate(len);
                    return Some(Ok(bytes));
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionRefused if !self.transport().is_stream() => {}
                    _ => return Some(Err(Arrival::Closed)),
                },
            }
        }
    }

    /// Says that nothing more will be sent.
    pub fn shut_down_writing(&mut self) {
        match &mut self.socket {
            Connection::Udp(_) => {}
            Connection::Tcp(stream) => drop(stream.shutdown(std::net::Shutdown::Write)),
            Connection::Tls(stream) => {
                stream.conn.send_close_notify();
                // If the server has gone already there is nobody to tell.
                let _ = stream.flush();
            }
            #[cfg(feature = "dtls")]
            Connection::Dtls(association) => association.close(),
        }
    }

    /// The TLS session, to be asked what was agreed upon.
    pub fn tls(&self) -> Option<&ClientConnection> {
        match &self.socket {
            Connection::Tls(stream) => Some(&stream.conn),
            _ => None,
        }
    }

    /// The socket itself, for its options.
    pub fn socket(&self) -> socket2::SockRef<'_> {
        match &self.socket {
            Connection::Udp(socket) => socket.into(),
            Connection::Tcp(stream) => stream.into(),
            Connection::Tls(stream) => (&stream.sock).into(),
            #[cfg(feature = "dtls")]
            Connection::Dtls(association) => association.socket().into(),
        }
    }
}

fn datagram(bytes: &[u8]) -> Arrival {
    match bytes {
        [0x40..=0x7F, _, l0, l1, data @ ..] => {
            let len = usize::from(u16::from_be_bytes([*l0, *l1]));
            if len > data.len() {
                return Arrival::Other(bytes.to_vec());
            }
            let number = u16::from_be_bytes([bytes[0], bytes[1]]);
            Arrival::ChannelData { number, data: data[..len].to_vec(), padding: data.len() - len }
        }
        _ => Message::read(bytes).map_or_else(|_| Arrival::Other(bytes.to_vec()), Arrival::Stun),
    }
}

/// Cuts the first whole frame off a stream.
fn take_frame(received: &mut Vec<u8>) -> Option<Arrival> {
    let &[first, _, l0, l1, ..] = &received[..] else {
        return None;
    };
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let whole = match first {
        0..=3 => 20 + len,
        0x40..=0x7F => 4 + len.next_multiple_of(4),
        _ => return Some(Arrival::Other(std::mem::take(received))),
    };
    (received.len() >= whole).then(|| datagram(&received.drain(..whole).collect::<Vec<u8>>()))
}

/// Believes every certificate: who the server is, is known from the command line.
pub fn tls_config(versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .expect("the provider has suites for both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believer(provider)))
        .with_no_client_auth()
}

#[derive(Debug)]
struct Believer(Arc<CryptoProvider>);

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
