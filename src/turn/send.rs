//! Send indications (RFC 8656 §11.2): as hot as ChannelData, since Firefox knows nothing else (requirement F03).

use std::net::SocketAddr;
use std::ops::Range;

use super::request::unknown_attributes;
use super::{Clock, FiveTuple, Packet, Reason, Server, Verdict};
use crate::stun::{AttributeType, Message, read_xor_address};

/// What a Send indication asks for: the peer, and where in the packet's buffer the data lies.
pub(super) type Sent = Result<(SocketAddr, Range<usize>), Reason>;

/// Takes a Send indication apart. `start` is where the message begins in the packet's buffer.
pub(super) fn read_send_indication(message: &Message<'_>, start: usize) -> Sent {
    if unknown_attributes(message).is_some() {
        return Err(Reason::UnknownAttribute);
    }
    let peer = message.first(AttributeType::XOR_PEER_ADDRESS).ok_or(Reason::BadIndication)?;
    let peer = read_xor_address(peer, message.transaction_id()).map_err(|_| Reason::BadIndication)?;
    // No data is bad; empty data is an empty datagram (TURN-8656-11.2-02).
    let data = message.first_attribute(AttributeType::DATA).ok_or(Reason::BadIndication)?;
    let data_start = start + data.offset;
    Ok((peer, data_start..data_start + data.value.len()))
}

impl Server {
    pub(super) fn on_send(&mut self, clock: Clock, path: FiveTuple, packet: &mut Packet<'_>, sent: Sent) -> Verdict {
        let (peer, data) = match sent {
            Ok(sent) => sent,
            Err(reason) => return Verdict::Drop(reason),
        };
        let Some((relay, allocation)) = self.allocations.live_by_path(clock.now, &path) else {
            return Verdict::Drop(Reason::NoAllocation);
        };
        if !allocation.relay.serves(peer.ip()) {
            return Verdict::Drop(Reason::PeerFamily);
        }
        if peer.port() == 0 {
            return Verdict::Drop(Reason::BadIndication);
        }
        if !allocation.permits(clock.now, peer.ip()) {
            return Verdict::Drop(Reason::NoPermission);
        }
        self.forward_to_peer(clock, relay, peer, packet, data)
    }
}
