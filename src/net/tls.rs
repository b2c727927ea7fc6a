//! TLS on a connection: the handshake, and afterwards records in and out, without waiting.
//!
//! The signature of a handshake costs what a hundred packets cost, so it belongs on a thread that relays nothing; see
//! `shard::handshakes`. What follows it is symmetric and runs in the shard.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::{CipherSuite, InvalidMessage, PeerIncompatible, ServerConfig, ServerConnection};

use super::certificate::Identity;
use super::tcp::Last;

/// ALPN-7443-2-01: TURN, and STUN alone.
pub(super) const ALPN_PROTOCOLS: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];

/// No handshake needs more from a client than this.
const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;

/// Bytes read at a time during the handshake.
const HANDSHAKE_READ_BYTES: usize = 4096;

/// Bytes encrypted at a time, into four records of the largest size: what waits as ciphertext cannot be dropped any
/// more, so it is kept small, and large enough for one system call to be worth it.
const ENCRYPT_BYTES: usize = 64 * 1024;

/// The first byte of every record of a handshake.
const HANDSHAKE_RECORD: u8 = 22;

/// The length of the session id in the first bytes of a client: behind the heads of record and message, version and
/// random bytes. Its suites come next.
const SESSION_ID_AT: usize = 5 + 4 + 2 + 32;

const CHACHA_SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// Why a handshake came to nothing; a metric label each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// It took longer than allowed (abuse S6).
    Timeout,
    /// The client went away.
    Closed,
    /// Its bytes are not TLS (abuse S19).
    NotTls,
    /// It offers no version from 1.2 on.
    Version,
    /// It offers no suite, group or signature that the server has, or that fits the certificate.
    NothingInCommon,
    /// It wants an application protocol, and neither of the two there are (ALPN-7443-2-03).
    ApplicationProtocol,
    /// It said no, mostly to the certificate.
    RefusedByClient,
    /// It broke the protocol.
    Protocol,
}

impl HandshakeFailure {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::Timeout,
        Self::Closed,
        Self::NotTls,
        Self::Version,
        Self::NothingInCommon,
        Self::ApplicationProtocol,
        Self::RefusedByClient,
        Self::Protocol,
    ];

    /// Its name in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::NotTls => "not_tls",
            Self::Version => "version",
            Self::NothingInCommon => "nothing_in_common",
            Self::ApplicationProtocol => "application_protocol",
            Self::RefusedByClient => "refused_by_client",
            Self::Protocol => "protocol",
        }
    }

    fn of(error: &rustls::Error) -> Self {
        use PeerIncompatible as Incompatible;
        use rustls::Error;
        match error {
            Error::PeerIncompatible(
                Incompatible::Tls12NotOffered
                | Incompatible::Tls12NotOfferedOrEnabled
                | Incompatible::ServerTlsVersionIsDisabledByOurConfig
                | Incompatible::SupportedVersionsExtensionRequired
                // Clients that end before TLS 1.2 do not know this extension, and that is seen first.
                | Incompatible::SignatureAlgorithmsExtensionRequired,
            ) => Self::Version,
            Error::PeerIncompatible(_) => Self::NothingInCommon,
            Error::NoApplicationProtocol => Self::ApplicationProtocol,
            Error::AlertReceived(_) => Self::RefusedByClient,
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            _ => Self::Protocol,
        }
    }
}

/// How far a handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Waiting for the client.
    Going,
    /// Messages can be exchanged.
    Done {
        /// The client has asked for `stun.nat-discovery`: Binding and nothing else (ALPN-7443-2-04).
        binding_only: bool,
    },
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decrypted {
    /// Bytes taken from the socket.
    pub(super) count: usize,
    /// There will be no more.
    pub(super) is_end: bool,
}

/// A connection that speaks TLS.
pub struct TlsStream {
    pub(super) tcp: TcpStream,
    session: ServerConnection,
    handshake_bytes: usize,
    /// Instead, until the client has said what it likes, for one that likes AES less.
    without_aes: Option<Arc<ServerConfig>>,
}

impl TlsStream {
    /// Takes an accepted connection; the client has the first word.
    ///
    /// # Errors
    /// Memory or random numbers are missing.
    pub fn new(tcp: TcpStream, identity: &Identity) -> Result<Self, rustls::Error> {
        let session = ServerConnection::new(Arc::clone(&identity.config))?;
        Ok(Self { tcp, session, handshake_bytes: 0, without_aes: Some(Arc::clone(&identity.without_aes)) })
    }

    /// Whether the first byte of a connection is that of a TLS client (MUX-7983-7-03).
    pub const fn is_client_hello(first: u8) -> bool {
        first == HANDSHAKE_RECORD
    }

    /// The connection under it.
    pub fn tcp(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// The name that the client has asked for, if it has asked for one. Known when the handshake is over.
    pub(super) fn server_name(&self) -> Option<&str> {
        self.session.server_name()
    }

    /// Reads what has come, and answers. Anything may cost a signature. Costs no more than the client sends.
    /// `is_read_closed` says that no more will come: otherwise an event tells of what a short read has not seen.
    ///
    /// # Errors
    /// It is over; the client has been told why if it takes a few bytes more.
    pub fn handshake(&mut self, is_read_closed: bool) -> Result<Handshake, HandshakeFailure> {
        let mut bytes = [0; HANDSHAKE_READ_BYTES];
        let mut has_more = true;
        while has_more && self.session.is_handshaking() {
            let count = match read(&mut self.tcp, &mut bytes) {
                Ok(0) => return Err(HandshakeFailure::Closed),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(HandshakeFailure::Closed),
            };
            has_more = count == bytes.len() || is_read_closed;
            if self.handshake_bytes == 0 {
                if bytes[0] != HANDSHAKE_RECORD {
                    return Err(HandshakeFailure::NotTls);
                }
                if let Some(config) = self.without_aes.take().filter(|_| prefers_chacha(&bytes[..count])) {
                    self.session = ServerConnection::new(config).map_err(|_| HandshakeFailure::Protocol)?;
                }
            }
            self.handshake_bytes += count;
            if self.handshake_bytes > HANDSHAKE_BYTES_MAX {
                return Err(HandshakeFailure::Protocol);
            }
            let mut rest = &bytes[..count];
            while !rest.is_empty() {
                let taken = self.session.read_tls(&mut rest).map_err(|_| HandshakeFailure::Protocol)?;
                let result = self.session.process_new_packets();
                if let Err(error) = result {
                    // An alert waits to be sent; whether it arrives is the client's loss.
                    let _ = self.flush();
                    return Err(HandshakeFailure::of(&error));
                }
                if taken == 0 {
                    return Err(HandshakeFailure::Closed);
                }
            }
        }
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(HandshakeFailure::Closed),
            _ if self.session.is_handshaking() => Ok(Handshake::Going),
            // What could not be written yet is written by whoever owns the connection from now on.
            _ => Ok(Handshake::Done { binding_only: self.session.alpn_protocol() == Some(ALPN_PROTOCOLS[1]) }),
        }
    }

    /// Reads once from the socket into `raw`, and puts what it means into `plain`, which is emptied before.
    ///
    /// # Errors
    /// As the system says; `InvalidData` if it is not TLS any more.
    pub(super) fn receive(&mut self, raw: &mut [u8], plain: &mut Vec<u8>) -> io::Result<Decrypted> {
        plain.clear();
        // What came together with the end of the handshake. The end may have been seen before, too.
        if self.take_plaintext(plain)? {
            return Ok(Decrypted { count: 0, is_end: true });
        }
        let count = match read(&mut self.tcp, raw) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !plain.is_empty() => {
                return Ok(Decrypted { count: 0, is_end: false });
            }
            result => result?,
        };
        // Messages carry their length, so an end without close_notify cannot cut one short unnoticed.
        let mut is_end = count == 0;
        let mut rest = &raw[..count];
        while !rest.is_empty() && !is_end {
            let taken = self.session.read_tls(&mut rest)?;
            let result = self.session.process_new_packets();
            let has_closed = match result {
                Ok(state) => state.peer_has_closed(),
                Err(error) => {
                    let _ = self.flush();
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            self.take_plaintext(plain)?;
            is_end = has_closed || taken == 0;
        }
        Ok(Decrypted { count, is_end })
    }

    /// Whether the client has said that there will be no more.
    fn take_plaintext(&mut self, plain: &mut Vec<u8>) -> io::Result<bool> {
        let mut reader = self.session.reader();
        loop {
            let chunk = match reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            let len = chunk.len();
            if len == 0 {
                return Ok(true);
            }
            plain.extend_from_slice(chunk);
            reader.consume(len);
        }
    }

    /// Whether records wait for the client to take them.
    pub(super) fn wants_write(&self) -> bool {
        self.session.wants_write()
    }

    /// Says that there will be no more, as far as that can be said without waiting.
    pub(super) fn say_goodbye(&mut self) {
        if self.flush().is_ok() {
            self.session.send_close_notify();
            while self.session.wants_write()
                && self.session.write_tls(&mut Last(&self.tcp)).is_ok_and(|written| written > 0)
            {}
        }
    }
}

/// Bytes written are encrypted at once, as few records as they fit in, and leave with as few system calls.
impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let taken = self.session.writer().write(&bytes[..bytes.len().min(ENCRYPT_BYTES)])?;
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Fails with `WouldBlock` while records wait.
    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.tcp) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

/// Whether the first suite in a ClientHello is one with ChaCha20, as clients have it whose processor is slow at AES. A
/// hint: what cannot be told from the first bytes of a connection is left to the order of the server.
fn prefers_chacha(bytes: &[u8]) -> bool {
    let is_reserved = |suite: [u8; 2]| suite[0] == suite[1] && suite[0] & 0x0F == 0x0A;
    let suites = || {
        let id_len = usize::from(*bytes.get(SESSION_ID_AT)?);
        bytes
            .get(SESSION_ID_AT + 1 + id_len + 2..)?
            .as_chunks::<2>()
            .0
            .iter()
            .copied()
            .find(|suite| !is_reserved(*suite))
    };
    suites().is_some_and(|first| CHACHA_SUITES.contains(&CipherSuite::from(u16::from_be_bytes(first))))
}

/// Reads once, or fails as the system does; zero is the end.
pub(super) fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
