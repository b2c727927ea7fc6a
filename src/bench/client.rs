//! A client reduced to what a load needs: it writes requests with credentials and understands the answers.

use std::net::{IpAddr, SocketAddr};

use super::link::Link;
use super::{BenchError, Target};
use crate::stun::{
    AttributeType, Class, Message, MessageWriter, Method, Seal, TransactionId, integrity, read_xor_address,
};

pub(super) const REQUEST_LEN_MAX: usize = 1024;
/// The channel number every client uses for its one peer.
pub(super) const CHANNEL: u16 = 0x4000;
/// Asked for, in seconds; kept alive long before it ends.
const LIFETIME_SECS: u32 = 3600;

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Binding, without credentials.
    Binding,
    /// An Allocate without credentials, for realm and nonce.
    Challenge,
    Allocate,
    Permit,
    BindChannel,
    /// A packet to the peer, which is the answer when it arrives there.
    FirstPacket,
    Refresh,
    Delete,
}

impl Step {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Binding => "Binding",
            Self::Challenge | Self::Allocate => "Allocate",
            Self::Permit => "CreatePermission",
            Self::BindChannel => "ChannelBind",
            Self::FirstPacket => "the first relayed packet",
            Self::Refresh | Self::Delete => "Refresh",
        }
    }
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The next question follows.
    GoOn,
    /// The same question, with the new nonce.
    Again,
    /// Begin with another client: the server remembers this one's 5-tuple for a while after an earlier allocation, and
    /// ports come round again.
    Another,
}

/// Somebody with credentials and a way to the server.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) link: Link,
    /// Whom it talks to; not set before it allocates.
    pub(super) peer: SocketAddr,
    pub(super) relayed: Option<SocketAddr>,
    key: [u8; 16],
    realm: Vec<u8>,
    nonce: Vec<u8>,
}

impl Client {
    /// With a link of its own, and not challenged yet.
    pub(super) fn new(target: &Target, from: IpAddr, peer: SocketAddr) -> Result<Self, BenchError> {
        let link = Link::open(target, from)?;
        Ok(Self { link, peer, relayed: None, key: [0; 16], realm: Vec::new(), nonce: Vec::new() })
    }

    /// Writes what this step asks; its length.
    pub(super) fn write(&self, step: Step, target: &Target, buffer: &mut [u8], id: TransactionId) -> usize {
        let method = match step {
            Step::FirstPacket => return 0,
            Step::Binding => {
                return MessageWriter::new(buffer, Method::Binding, Class::Request, id).finish(Seal::None, false);
            }
            Step::Challenge | Step::Allocate => Method::Allocate,
            Step::Permit => Method::CreatePermission,
            Step::BindChannel => Method::ChannelBind,
            Step::Refresh | Step::Delete => Method::Refresh,
        };
        let mut writer = MessageWriter::new(buffer, method, Class::Request, id);
        match step {
            Step::Challenge | Step::Allocate => writer.u32(AttributeType::REQUESTED_TRANSPORT, 17 << 24),
            Step::BindChannel => writer.u32(AttributeType::CHANNEL_NUMBER, u32::from(CHANNEL) << 16),
            _ => {}
        }
        match step {
            Step::Challenge => return writer.finish(Seal::None, false),
            Step::Allocate | Step::Refresh => writer.u32(AttributeType::LIFETIME, LIFETIME_SECS),
            Step::Delete => writer.u32(AttributeType::LIFETIME, 0),
            _ => writer.xor_address(AttributeType::XOR_PEER_ADDRESS, self.peer),
        }
        writer.attribute(AttributeType::USERNAME, target.username.as_bytes());
        writer.attribute(AttributeType::REALM, &self.realm);
        writer.attribute(AttributeType::NONCE, &self.nonce);
        writer.finish(Seal::Sha1(&self.key), false)
    }

    /// Takes the answer to a step in.
    pub(super) fn heard(&mut self, step: Step, target: &Target, answer: &Message<'_>) -> Result<Heard, BenchError> {
        match (step, error_code(answer)) {
            (Step::Challenge, Some(401)) => self.take_challenge(target, answer)?,
            (_, Some(438)) => {
                self.take_challenge(target, answer)?;
                return Ok(Heard::Again);
            }
            (Step::Challenge | Step::Allocate, Some(437)) => return Ok(Heard::Another),
            (_, Some(code)) => return Err(BenchError::Refused(step.name(), code)),
            (Step::Challenge, None) => return Err(BenchError::Nonsense("Allocate without credentials")),
            (Step::Allocate, None) => {
                let relayed = answer.first(AttributeType::XOR_RELAYED_ADDRESS);
                let relayed = relayed.and_then(|value| read_xor_address(value, answer.transaction_id()).ok());
                self.relayed = Some(relayed.ok_or(BenchError::Nonsense("Allocate"))?);
            }
            (_, None) => {}
        }
        Ok(Heard::GoOn)
    }

    fn take_challenge(&mut self, target: &Target, answer: &Message<'_>) -> Result<(), BenchError> {
        let (Some(realm), Some(nonce)) = (answer.first(AttributeType::REALM), answer.first(AttributeType::NONCE))
        else {
            return Err(BenchError::Nonsense("Allocate"));
        };
        self.nonce = nonce.to_vec();
        if self.realm != realm {
            self.realm = realm.to_vec();
            self.key =
                integrity::long_term_key_md5(&target.username, &String::from_utf8_lossy(realm), &target.password);
        }
        Ok(())
    }
}

/// The code of an error response; `None` for a success.
fn error_code(answer: &Message<'_>) -> Option<u16> {
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
