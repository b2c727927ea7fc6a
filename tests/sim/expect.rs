//! What the model expects, and the comparison with what the server did, byte by byte.

use std::net::SocketAddr;

use hairpin::turn::{FiveTuple, Verdict};

use crate::model::RelayName;
use crate::wire::{self, Class, Parsed};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Success {
    Binding {
        mapped: SocketAddr,
    },
    Allocate {
        relayed: Vec<SocketAddr>,
        mapped: SocketAddr,
        lifetime_secs: u32,
        refused: Option<(u8, u16)>,
        token: Slip,
    },
    Refresh {
        lifetime_secs: u32,
    },
    Empty,
}

/// A value that the server makes up: a ticket or a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slip {
    None,
    /// Never seen before.
    New,
    /// As it was told before.
    Same(Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct Seal {
    pub key: Vec<u8>,
    pub sha256: bool,
}

#[derive(Clone, Debug)]
pub struct Response {
    pub method: u16,
    pub transaction_id: [u8; 12],
    pub outcome: Result<Success, u16>,
    /// `None` for whoever was not authenticated.
    pub seal: Option<Seal>,
    pub fingerprint: bool,
    /// MOBILITY-TICKET.
    pub ticket: Slip,
    /// The allocation, and the reservation, that what the server has made up is for.
    pub about: Option<(u64, Option<RelayName>)>,
}

#[derive(Clone, Debug)]
pub enum Expected {
    Drop,
    Later,
    Reply(Response),
    /// A refusal that may come at once or when another shard was asked.
    Refusal(Response),
    ToPeer {
        relay: u64,
        to: SocketAddr,
        data: Vec<u8>,
    },
    /// Framed as ChannelData on `channel`, or as a Data indication.
    ToClient {
        path: FiveTuple,
        channel: Option<u16>,
        peer: SocketAddr,
        data: Vec<u8>,
    },
    ToRelay {
        relayed: SocketAddr,
        from: SocketAddr,
        data: Vec<u8>,
    },
}

impl Slip {
    fn compare(&self, found: Option<&[u8]>) {
        match (self, found) {
            (Self::None, None) | (Self::New, Some(_)) => {}
            (Self::Same(before), Some(found)) => assert_eq!(before, found),
            _ => panic!("expected {self:?}, found {found:?}"),
        }
    }
}

impl Expected {
    /// Panics unless the verdict is exactly this.
    pub fn compare(&self, verdict: &Verdict, buffer: &[u8], reply: &[u8]) {
        let agrees = match (self, verdict) {
            (Self::Drop, Verdict::Drop(_)) | (Self::Later, Verdict::Later) => true,
            (Self::Refusal(_), Verdict::Later) => true,
            (Self::Reply(response) | Self::Refusal(response), Verdict::Reply { len }) => {
                response.compare(&reply[..*len]);
                true
            }
            (Self::ToPeer { relay, to, data }, Verdict::ToPeer { from, to: sent_to, bytes, .. }) => {
                *relay == from.to_token() && to == sent_to && *data == buffer[bytes.clone()]
            }
            (Self::ToClient { path, channel, peer, data }, Verdict::ToClient { to, bytes, .. }) => {
                path == to && {
                    compare_framing(&buffer[bytes.clone()], path, *channel, *peer, data);
                    true
                }
            }
            (
                Self::ToRelay { relayed, from, data },
                Verdict::ToRelay { relayed: sent_to, from: sent_from, bytes, .. },
            ) => relayed == sent_to && from == sent_from && *data == buffer[bytes.clone()],
            _ => false,
        };
        assert!(agrees, "the model expected {self:?}, the server said {verdict:?}");
    }
}

pub fn compare_framing(bytes: &[u8], path: &FiveTuple, channel: Option<u16>, peer: SocketAddr, data: &[u8]) {
    let Some(number) = channel else {
        let message = Parsed::parse(bytes).expect("a Data indication must parse");
        assert_eq!((message.method, message.class), (wire::DATA_METHOD, Class::Indication));
        assert_eq!(message.get_xor_address(wire::XOR_PEER_ADDRESS), Some(peer));
        assert_eq!(message.get(wire::DATA), Some(data), "data was modified on its way");
        assert!(message.padding_is_zero, "old bytes leak in the padding");
        return;
    };
    let framed = wire::channel_data(number, data, path.transport.is_stream());
    assert_eq!(bytes, framed, "ChannelData is not framed as it should be");
}

impl Response {
    /// Panics unless `bytes` are this response.
    pub fn compare(&self, bytes: &[u8]) {
        let message = Parsed::parse(bytes).expect("a response must parse");
        assert_eq!(message.method, self.method, "{self:?}");
        assert_eq!(message.transaction_id, self.transaction_id, "{self:?}");
        assert!(message.padding_is_zero, "old bytes leak in the padding");
        assert!(message.fingerprint_is_right());
        assert_eq!(message.has(wire::FINGERPRINT), self.fingerprint, "FINGERPRINT is mirrored");
        match &self.seal {
            None => assert!(
                !message.has(wire::MESSAGE_INTEGRITY) && !message.has(wire::MESSAGE_INTEGRITY_SHA256),
                "sealed for somebody who was not authenticated"
            ),
            Some(seal) => {
                assert_eq!(message.has(wire::MESSAGE_INTEGRITY_SHA256), seal.sha256, "{self:?}");
                assert_eq!(message.has(wire::MESSAGE_INTEGRITY), !seal.sha256, "{self:?}");
                assert!(message.verifies(&seal.key), "the MAC of the response is wrong");
            }
        }
        let found = match message.class {
            Class::Success => Ok(()),
            Class::Error => Err(message.error_code().expect("errors have a code")),
            other => panic!("a response of class {other:?}"),
        };
        assert_eq!(found, self.outcome.as_ref().map(|_| ()).map_err(|code| *code), "{self:?}");
        if let Err(code) = self.outcome {
            let is_challenge = self.seal.is_none() && matches!(code, 401 | 438);
            assert_eq!(message.get(wire::NONCE).is_some(), is_challenge, "{self:?}");
            assert_eq!(message.get(wire::REALM).is_some(), is_challenge, "{self:?}");
        }
        let relayed = message.all_xor_addresses(wire::XOR_RELAYED_ADDRESS);
        let mapped = message.get_xor_address(wire::XOR_MAPPED_ADDRESS);
        let lifetime = message.get_u32(wire::LIFETIME);
        let wanted = match &self.outcome {
            Ok(Success::Allocate { relayed, mapped, lifetime_secs, .. }) => {
                (relayed.clone(), Some(*mapped), Some(*lifetime_secs))
            }
            Ok(Success::Binding { mapped }) => (vec![], Some(*mapped), None),
            Ok(Success::Refresh { lifetime_secs }) => (vec![], None, Some(*lifetime_secs)),
            Ok(Success::Empty) | Err(_) => (vec![], None, None),
        };
        assert_eq!((relayed, mapped, lifetime), wanted);
        let (refused, token) = match &self.outcome {
            Ok(Success::Allocate { refused, token, .. }) => (*refused, token),
            _ => (None, &Slip::None),
        };
        let told = message.get(wire::ADDRESS_ERROR_CODE).map(|value| {
            assert_eq!((value[1], value[2] & 0xF8), (0, 0));
            (value[0], u16::from(value[2]) * 100 + u16::from(value[3]))
        });
        assert_eq!(told, refused, "{self:?}");
        token.compare(message.get(wire::RESERVATION_TOKEN));
        self.ticket.compare(message.get(wire::MOBILITY_TICKET));
    }
}
