//! A client reduced to what a load needs: it allocates, permits, binds a channel and deletes, one question at a time.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{BenchError, Target};
use crate::net::{Datagram, ReceiveBatch, SendBatch, SocketErrors, UdpSocket, clock};
use crate::stun::{
    AttributeType, Class, Message, MessageWriter, Method, Seal, TransactionId, integrity, read_xor_address,
};
use crate::turn::{IpFields, Now};

/// Each socket's kernel buffers, in bytes: what a burst of a whole window can be.
pub(super) const SOCKET_BUFFER_BYTES: usize = 1 << 20;
/// RFC 8489 §6.2.1 begins with half a second; the first retransmission is rarely needed here.
const RETRANSMIT: Duration = Duration::from_millis(500);
const TRIES: u32 = 6;
/// Between two looks at a socket that has nothing.
const LOOK_AGAIN: Duration = Duration::from_micros(20);
pub(super) const REQUEST_LEN_MAX: usize = 1024;

/// Buffers that all clients use in turn.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) received: ReceiveBatch,
    pub(super) sender: SendBatch,
    pub(super) errors: SocketErrors,
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
            next_id: 0,
            session: u32::from_ne_bytes(session),
        })
    }

    /// Distinct in this process, and from those of others.
    pub(super) fn transaction_id(&mut self) -> TransactionId {
        self.next_id += 1;
        let mut id = [0; 12];
        id[..4].copy_from_slice(&self.session.to_be_bytes());
        id[4..].copy_from_slice(&self.next_id.to_be_bytes());
        TransactionId(id)
    }

    pub(super) fn send(&mut self, socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) {
        let datagram = Datagram { to, source: None, bytes, ip: IpFields::default() };
        self.sender.send(socket, [datagram], &mut self.errors);
    }

    /// Asks until an answer comes.
    fn ask(
        &mut self,
        socket: &UdpSocket,
        to: SocketAddr,
        what: &'static str,
        id: TransactionId,
        request: &[u8],
    ) -> Result<Vec<u8>, BenchError> {
        for _ in 0..TRIES {
            self.send(socket, to, request);
            let until = Now(clock::monotonic().0 + RETRANSMIT.as_nanos() as u64);
            while clock::monotonic() < until {
                self.received.clear();
                match self.received.receive(socket) {
                    Ok(count) => {
                        for slot in 0..count {
                            let packet = self.received.packet(slot);
                            let is_answer = Message::parse(packet.message()).is_ok_and(|message| {
                                message.transaction_id() == id && message.class() != Class::Request
                            });
                            if is_answer {
                                return Ok(packet.message().to_vec());
                            }
                        }
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::sleep(LOOK_AGAIN),
                    // ICMP: the server may be starting.
                    Err(_) => std::thread::sleep(LOOK_AGAIN),
                }
            }
        }
        Err(BenchError::Silence(what))
    }
}

/// Somebody with credentials and a socket.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: UdpSocket,
    server: SocketAddr,
    username: String,
    key: [u8; 16],
    realm: Vec<u8>,
    nonce: Vec<u8>,
}

/// A UDP socket on some port of this address.
pub(super) fn socket(address: IpAddr) -> Result<UdpSocket, BenchError> {
    UdpSocket::relay(SocketAddr::new(address, 0), SOCKET_BUFFER_BYTES, false)
        .map_err(|error| BenchError::Socket("open a UDP socket (raise `ulimit -n` for many)", error))
}

impl Client {
    /// With a socket of its own, and not challenged yet.
    pub(super) fn new(target: &Target) -> Result<Self, BenchError> {
        Ok(Self {
            socket: socket(target.client_address)?,
            server: target.server,
            username: target.username.clone(),
            key: [0; 16],
            realm: Vec::new(),
            nonce: Vec::new(),
        })
    }

    /// The same, challenged.
    pub(super) fn challenged(target: &Target, post: &mut Post) -> Result<Self, BenchError> {
        let mut client = Self::new(target)?;
        let id = post.transaction_id();
        let mut request = [0; REQUEST_LEN_MAX];
        let len = Self::write_bare_allocate(&mut request, id);
        let answer = post.ask(&client.socket, client.server, "Allocate", id, &request[..len])?;
        let answer = Message::parse(&answer).map_err(|_| BenchError::Nonsense("Allocate"))?;
        client.take_challenge(&answer, &target.password)?;
        Ok(client)
    }

    /// An Allocate without credentials; its length.
    pub(super) fn write_bare_allocate(request: &mut [u8], id: TransactionId) -> usize {
        let mut writer = MessageWriter::new(request, Method::Allocate, Class::Request, id);
        writer.u32(AttributeType::REQUESTED_TRANSPORT, 17 << 24);
        writer.finish(Seal::None, false)
    }

    /// Takes realm and nonce over.
    pub(super) fn take_challenge(&mut self, answer: &Message<'_>, password: &str) -> Result<(), BenchError> {
        let (Some(realm), Some(nonce)) = (answer.first(AttributeType::REALM), answer.first(AttributeType::NONCE))
        else {
            return Err(BenchError::Nonsense("Allocate"));
        };
        self.realm = realm.to_vec();
        self.nonce = nonce.to_vec();
        self.key = integrity::long_term_key_md5(&self.username, &String::from_utf8_lossy(realm), password);
        Ok(())
    }

    /// A request with credentials; the success response, or why not.
    fn request(
        &mut self,
        post: &mut Post,
        what: &'static str,
        method: Method,
        write: impl Fn(&mut MessageWriter<'_>),
    ) -> Result<Vec<u8>, BenchError> {
        for is_last in [false, true] {
            let id = post.transaction_id();
            let mut request = [0; REQUEST_LEN_MAX];
            let len = self.write(&mut request, id, method, &write);
            let bytes = post.ask(&self.socket, self.server, what, id, &request[..len])?;
            let answer = Message::parse(&bytes).map_err(|_| BenchError::Nonsense(what))?;
            let Some(code) = error_code(&answer) else {
                return Ok(bytes);
            };
            match answer.first(AttributeType::NONCE) {
                Some(nonce) if code == 438 && !is_last => self.nonce = nonce.to_vec(),
                _ => return Err(BenchError::Refused(what, code)),
            }
        }
        unreachable!("the last try returns")
    }

    /// Writes a request with credentials; its length.
    pub(super) fn write(
        &self,
        request: &mut [u8],
        id: TransactionId,
        method: Method,
        write: impl Fn(&mut MessageWriter<'_>),
    ) -> usize {
        let mut writer = MessageWriter::new(request, method, Class::Request, id);
        write(&mut writer);
        writer.attribute(AttributeType::USERNAME, self.username.as_bytes());
        writer.attribute(AttributeType::REALM, &self.realm);
        writer.attribute(AttributeType::NONCE, &self.nonce);
        writer.finish(Seal::Sha1(&self.key), false)
    }

    /// The relayed transport address of a new allocation.
    pub(super) fn allocate(&mut self, post: &mut Post) -> Result<SocketAddr, BenchError> {
        let bytes = self.request(post, "Allocate", Method::Allocate, |writer| {
            writer.u32(AttributeType::REQUESTED_TRANSPORT, 17 << 24);
            writer.u32(AttributeType::LIFETIME, 3600);
        })?;
        let answer = Message::parse(&bytes).map_err(|_| BenchError::Nonsense("Allocate"))?;
        answer
            .first(AttributeType::XOR_RELAYED_ADDRESS)
            .and_then(|value| read_xor_address(value, answer.transaction_id()).ok())
            .ok_or(BenchError::Nonsense("Allocate"))
    }

    pub(super) fn permit(&mut self, post: &mut Post, peer: SocketAddr) -> Result<(), BenchError> {
        let write = |writer: &mut MessageWriter<'_>| writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        self.request(post, "CreatePermission", Method::CreatePermission, write).map(drop)
    }

    pub(super) fn bind_channel(&mut self, post: &mut Post, number: u16, peer: SocketAddr) -> Result<(), BenchError> {
        let write = |writer: &mut MessageWriter<'_>| {
            writer.u32(AttributeType::CHANNEL_NUMBER, u32::from(number) << 16);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        };
        self.request(post, "ChannelBind", Method::ChannelBind, write).map(drop)
    }

    pub(super) fn delete(&mut self, post: &mut Post) -> Result<(), BenchError> {
        let write = |writer: &mut MessageWriter<'_>| writer.u32(AttributeType::LIFETIME, 0);
        self.request(post, "Refresh", Method::Refresh, write).map(drop)
    }
}

/// The code of an error response; `None` for a success.
pub(super) fn error_code(answer: &Message<'_>) -> Option<u16> {
    if answer.class() == Class::Success {
        return None;
    }
    let digits = answer.first(AttributeType::ERROR_CODE).and_then(|value| value.get(2..4));
    Some(digits.map_or(0, |digits| u16::from(digits[0]) * 100 + u16::from(digits[1])))
}

/// Writes a Send indication around a payload that `fill` writes; its length.
pub(super) fn send_indication(
    buffer: &mut [u8],
    id: TransactionId,
    peer: SocketAddr,
    payload_len: usize,
    fill: impl FnOnce(&mut [u8]),
) -> usize {
    let mut writer = MessageWriter::new(buffer, Method::Send, Class::Indication, id);
    writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
    let head = writer.finish(Seal::None, false);
    let padded = payload_len.next_multiple_of(4);
    let end = head + 4 + padded;
    buffer[2..4].copy_from_slice(&((end - 20) as u16).to_be_bytes());
    buffer[head..head + 2].copy_from_slice(&AttributeType::DATA.0.to_be_bytes());
    buffer[head + 2..head + 4].copy_from_slice(&(payload_len as u16).to_be_bytes());
    fill(&mut buffer[head + 4..head + 4 + payload_len]);
    buffer[head + 4 + payload_len..end].fill(0);
    end
}

/// The payload of ChannelData or of a Data indication.
pub(super) fn payload(message: &[u8]) -> Option<&[u8]> {
    match message.first()? {
        0x40..=0x4F => crate::stun::ChannelData::parse(message).map(|data| data.data),
        _ => Message::parse(message).ok()?.first(AttributeType::DATA),
    }
}
