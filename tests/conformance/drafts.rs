//! The requests that tests begin with.

use std::net::SocketAddr;

use crate::numbers::*;
use crate::wire::Draft;

pub fn binding() -> Draft {
    Draft::new(message::BINDING)
}

/// Allocate for UDP, and nothing else asked.
pub fn allocate() -> Draft {
    Draft::new(message::ALLOCATE).with(REQUESTED_TRANSPORT, [17, 0, 0, 0])
}

/// Allocate for TCP (RFC 6062).
pub fn allocate_tcp() -> Draft {
    Draft::new(message::ALLOCATE).with(REQUESTED_TRANSPORT, [6, 0, 0, 0])
}

pub fn refresh() -> Draft {
    Draft::new(message::REFRESH)
}

pub fn refresh_for(secs: u32) -> Draft {
    refresh().number(LIFETIME, secs)
}

pub fn create_permission(peers: &[SocketAddr]) -> Draft {
    peers.iter().fold(Draft::new(message::CREATE_PERMISSION), |draft, peer| draft.peer(*peer))
}

pub fn channel_bind(number: u16, peer: SocketAddr) -> Draft {
    Draft::new(message::CHANNEL_BIND).number(CHANNEL_NUMBER, u32::from(number) << 16).peer(peer)
}

pub fn send(peer: SocketAddr, data: &[u8]) -> Draft {
    Draft::new(message::SEND_INDICATION).peer(peer).with(DATA, data)
}

pub fn connect(peer: SocketAddr) -> Draft {
    Draft::new(message::CONNECT).peer(peer)
}

/// ChannelData as a datagram carries it: without padding.
pub fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// ChannelData as a stream carries it: padded to four bytes.
pub fn padded_channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = channel_data(number, data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
