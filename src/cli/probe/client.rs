//! A small TURN client that speaks through the `stun` and `turn` crates, so that another implementation than ours has
//! to understand the answers. Blocking, with deadlines: the command does one thing at a time.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use ::stun::attributes::{ATTR_NONCE, ATTR_REALM, ATTR_USERNAME};
use ::stun::error_code::{CODE_STALE_NONCE, CODE_UNAUTHORIZED, ErrorCode, ErrorCodeAttribute};
use ::stun::integrity::MessageIntegrity;
use ::stun::message::{
    CLASS_ERROR_RESPONSE, CLASS_INDICATION, CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, Getter, METHOD_SEND, Message,
    MessageType, Method, Setter,
};
use ::stun::textattrs::TextAttribute;
use rustls::{ClientConnection, StreamOwned};

use ::turn::proto::chandata::ChannelData;
use ::turn::proto::channum::ChannelNumber;
use ::turn::proto::data::Data;
use ::turn::proto::peeraddr::PeerAddress;

use super::trust::Trust;
use crate::stun::stream::{Frame, next_frame};

/// How long a connection may take to open, and an answer to arrive.
const PATIENCE: Duration = Duration::from_secs(5);
/// First retransmission over UDP; doubles each time (RFC 8489 §6.2.1).
const RETRANSMIT_AFTER: Duration = Duration::from_millis(500);

/// Why a transaction failed.
#[derive(Debug)]
pub enum Failure {
    /// Nothing came back in time.
    Silence,
    /// The socket said no.
    Socket(io::Error),
    /// An error response.
    Refused {
        /// 300–699.
        code: u16,
        /// As the server put it.
        reason: String,
    },
    /// The TLS handshake.
    Tls(String),
    /// No address to try.
    Unresolved(String),
    /// The answer makes no sense, or its integrity does not hold.
    Garbled(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence => write!(f, "no answer within {} s", PATIENCE.as_secs()),
            Self::Socket(error) => error.fmt(f),
            Self::Refused { code, reason } => write!(f, "refused with {code} {reason}"),
            Self::Tls(what) | Self::Unresolved(what) => f.write_str(what),
            Self::Garbled(what) => write!(f, "answered, but {what}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

impl From<::stun::Error> for Failure {
    fn from(error: ::stun::Error) -> Self {
        Self::Garbled(error.to_string())
    }
}

/// Something that arrived from a peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A Data indication.
    Indication(SocketAddr, Vec<u8>),
    /// ChannelData.
    Channel(u16, Vec<u8>),
}

enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream, Vec<u8>),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>, Vec<u8>),
}

/// One connection to a server.
pub struct Client {
    link: Link,
    credentials: Option<(String, String)>,
    realm: String,
    nonce: String,
    inbox: VecDeque<Vec<u8>>,
}

impl Client {
    /// Opens a connection.
    ///
    /// # Errors
    /// What the socket says.
    pub fn connect(server: SocketAddr, tcp: bool, credentials: Option<(String, String)>) -> Result<Self, Failure> {
        let link = if tcp {
            let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
            stream.set_nodelay(true)?;
            Link::Tcp(stream, Vec::new())
        } else {
            let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
            let socket = UdpSocket::bind(any)?;
            socket.connect(server)?;
            Link::Udp(socket)
        };
        let (realm, nonce) = (String::new(), String::new());
        Ok(Self { link, credentials, realm, nonce, inbox: VecDeque::new() })
    }

    /// Goes on with TLS; says which version.
    ///
    /// # Errors
    /// [`Failure::Tls`].
    pub fn shake_hands(self, host: &str, trust: &Trust) -> Result<(Self, String), Failure> {
        let Link::Tcp(stream, _) = self.link else { return Err(Failure::Tls("TLS needs TCP".into())) };
        stream.set_read_timeout(Some(PATIENCE))?;
        let (stream, version) = trust.shake_hands(host, stream)?;
        Ok((Self { link: Link::Tls(Box::new(stream), Vec::new()), ..self }, version))
    }

    /// Sends a request and waits for its answer, authenticating when the server asks for it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn request(
        &mut self,
        method: Method,
        attributes: impl Fn() -> Vec<Box<dyn Setter>>,
    ) -> Result<Message, Failure> {
        let mut fresh_nonces = 0;
        loop {
            match self.transact(method, attributes()) {
                Err((Failure::Refused { code, .. }, Some(answer)))
                    if self.credentials.is_some()
                        && (code == CODE_UNAUTHORIZED.0 && self.nonce.is_empty() || code == CODE_STALE_NONCE.0)
                        && fresh_nonces < 2 =>
                {
                    fresh_nonces += 1;
                    self.realm = TextAttribute::get_from_as(&answer, ATTR_REALM)?.text;
                    self.nonce = TextAttribute::get_from_as(&answer, ATTR_NONCE)?.text;
                }
                result => return result.map_err(|(failure, _)| failure),
            }
        }
    }

    fn transact(
        &mut self,
        method: Method,
        mut attributes: Vec<Box<dyn Setter>>,
    ) -> Result<Message, (Failure, Option<Message>)> {
        let plain = |failure: Failure| (failure, None);
        let mut request = Message::new();
        request.new_transaction_id().map_err(|error| plain(error.into()))?;
        request.set_type(MessageType::new(method, CLASS_REQUEST));
        let mut integrity = None;
        if let Some((username, password)) = &self.credentials
            && !self.nonce.is_empty()
        {
            attributes.push(Box::new(TextAttribute::new(ATTR_USERNAME, username.clone())));
            attributes.push(Box::new(TextAttribute::new(ATTR_REALM, self.realm.clone())));
            attributes.push(Box::new(TextAttribute::new(ATTR_NONCE, self.nonce.clone())));
            let key = (username.clone(), self.realm.clone(), password.clone());
            let long_term = MessageIntegrity::new_long_term_integrity(key.0, key.1, key.2);
            attributes.push(Box::new(long_term.clone()));
            integrity = Some(long_term);
        }
        request.write_header();
        for attribute in &attributes {
            attribute.add_to(&mut request).map_err(|error| plain(error.into()))?;
        }
        let answer = self.exchange(&request).map_err(plain)?;
        if answer.typ.class == CLASS_ERROR_RESPONSE {
            let mut error = ErrorCodeAttribute { code: ErrorCode(0), reason: Vec::new() };
            error.get_from(&answer).map_err(|error| plain(error.into()))?;
            let reason = String::from_utf8_lossy(&error.reason).into_owned();
            return Err((Failure::Refused { code: error.code.0, reason }, Some(answer)));
        }
        if answer.typ.class != CLASS_SUCCESS_RESPONSE {
            return Err(plain(Failure::Garbled("not with a response".into())));
        }
        if let Some(integrity) = integrity {
            let mut checked = answer.clone();
            integrity
                .check(&mut checked)
                .map_err(|_| plain(Failure::Garbled("its MESSAGE-INTEGRITY is wrong".into())))?;
        }
        Ok(answer)
    }

    /// Sends, over UDP again and again, until the response with the same transaction id arrives.
    fn exchange(&mut self, request: &Message) -> Result<Message, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut wait = RETRANSMIT_AFTER;
        self.write(&request.raw)?;
        let mut again = Instant::now() + wait;
        loop {
            let until = if matches!(self.link, Link::Udp(_)) { again.min(deadline) } else { deadline };
            match self.read(until)? {
                Some(bytes) if bytes.get(8..20) == Some(&request.transaction_id.0[..]) => {
                    let mut answer = Message::new();
                    answer.unmarshal_binary(&bytes)?;
                    return Ok(answer);
                }
                Some(other) => self.inbox.push_back(other),
                None if Instant::now() >= deadline => return Err(Failure::Silence),
                None => {
                    self.write(&request.raw)?;
                    wait *= 2;
                    again = Instant::now() + wait;
                }
            }
        }
    }

    /// Sends application data in a Send indication.
    ///
    /// # Errors
    /// What the socket says.
    pub fn send_indication(&mut self, peer: SocketAddr, data: &[u8]) -> Result<(), Failure> {
        let mut message = Message::new();
        message.build(&[
            Box::new(::stun::agent::TransactionId::new()),
            Box::new(MessageType::new(METHOD_SEND, CLASS_INDICATION)),
            Box::new(PeerAddress { ip: peer.ip(), port: peer.port() }),
            Box::new(Data(data.to_vec())),
        ])?;
        self.write(&message.raw)
    }

    /// Sends application data on a channel.
    ///
    /// # Errors
    /// What the socket says.
    pub fn send_channel_data(&mut self, number: u16, data: &[u8]) -> Result<(), Failure> {
        let mut message = ChannelData { data: data.to_vec(), number: ChannelNumber(number), raw: Vec::new() };
        message.encode();
        self.write(&message.raw)
    }

    /// The next application data.
    ///
    /// # Errors
    /// [`Failure::Silence`] when none comes before `deadline`.
    pub fn receive(&mut self, deadline: Instant) -> Result<Received, Failure> {
        let bytes = match self.inbox.pop_front() {
            Some(bytes) => bytes,
            None => self.read(deadline)?.ok_or(Failure::Silence)?,
        };
        if ChannelData::is_channel_data(&bytes) {
            let mut message = ChannelData { raw: bytes, ..ChannelData::default() };
            message.decode().map_err(|error| Failure::Garbled(error.to_string()))?;
            return Ok(Received::Channel(message.number.0, message.data));
        }
        let mut message = Message::new();
        message.unmarshal_binary(&bytes)?;
        let (mut peer, mut data) = (PeerAddress::default(), Data::default());
        peer.get_from(&message)?;
        data.get_from(&message)?;
        Ok(Received::Indication(SocketAddr::new(peer.ip, peer.port), data.0))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match &mut self.link {
            Link::Udp(socket) => socket.send(bytes).map(drop)?,
            Link::Tcp(stream, _) => stream.write_all(bytes)?,
            Link::Tls(stream, _) => stream.write_all(bytes)?,
        }
        Ok(())
    }

    /// One message, or nothing when `deadline` passes.
    fn read(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>, Failure> {
        let mut chunk = [0; 65_536];
        loop {
            if let Link::Tcp(_, buffered) | Link::Tls(_, buffered) = &mut self.link {
                match next_frame(buffered) {
                    Ok(Frame::Complete { len }) => return Ok(Some(buffered.drain(..len).collect())),
                    Ok(Frame::Incomplete { .. }) => {}
                    Err(_) => return Err(Failure::Garbled("not in STUN".into())),
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let read = match &mut self.link {
                Link::Udp(socket) => socket.set_read_timeout(Some(left)).and_then(|()| socket.recv(&mut chunk)),
                Link::Tcp(stream, _) => stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut chunk)),
                Link::Tls(stream, _) => stream.sock.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut chunk)),
            };
            match (read, &mut self.link) {
                (Ok(len), Link::Udp(_)) => return Ok(Some(chunk[..len].to_vec())),
                (Ok(0), _) => return Err(Failure::Garbled("the server closed the connection".into())),
                (Ok(len), Link::Tcp(_, buffered) | Link::Tls(_, buffered)) => buffered.extend_from_slice(&chunk[..len]),
                (Err(error), _) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                (Err(error), _) => return Err(error.into()),
            }
        }
    }
}
