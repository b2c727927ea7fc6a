//! Send indications (RFC 8656 §11.2): as hot as ChannelData, since Firefox knows nothing else (requirement F03).

use std::net::SocketAddr;
use std::ops::Range;

use super::attributes::unknown_attributes;
use super::relay::Outgoing;
use super::{Clock, Config, FiveTuple, Packet, PeerTransport, Reason, Server, Verdict};
use crate::stun::{AddressFamily, AttributeType, Message, read_xor_address};

/// What a Send indication asks for.
pub(super) struct SendIndication {
    peer: SocketAddr,
    /// Where in the packet's buffer the data lies.
    data: Range<usize>,
    /// DONT-FRAGMENT is there.
    dont_fragment: bool,
}

/// Takes a Send indication apart. `start` is where the message begins in the packet's buffer.
pub(super) fn read_send_indication(
    config: &Config,
    message: &Message<'_>,
    start: usize,
) -> Result<SendIndication, Reason> {
    if unknown_attributes(message, |kind| config.knows(kind)).is_some() {
        return Err(Reason::UnknownAttribute);
    }
    let peer = message.first(AttributeType::XOR_PEER_ADDRESS).ok_or(Reason::BadIndication)?;
    let peer = read_xor_address(peer, message.transaction_id()).map_err(|_| Reason::BadIndication)?;
    // No data is bad; empty data is an empty datagram (TURN-8656-11.2-02).
    let data = message.first_attribute(AttributeType::DATA).ok_or(Reason::BadIndication)?;
    let data_start = start + data.offset;
    let dont_fragment = match message.first(AttributeType::DONT_FRAGMENT) {
        None => false,
        Some([]) => true,
        Some(_) => return Err(Reason::BadIndication),
    };
    Ok(SendIndication { peer, data: data_start..data_start + data.value.len(), dont_fragment })
}

impl Server {
    pub(super) fn on_send(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        packet: &mut Packet<'_>,
        sent: Result<SendIndication, Reason>,
    ) -> Verdict {
        let SendIndication { peer, data, dont_fragment } = match sent {
            Ok(sent) => sent,
            Err(reason) => return Verdict::Drop(reason),
        };
        // From datagram to datagram of the other family the attribute means nothing (TURN-8656-13-02).
        let is_translated =
            !path.transport.is_stream() && AddressFamily::of(path.client.ip()) != AddressFamily::of(peer.ip());
        let dont_fragment = dont_fragment && !is_translated;
        self.forward_to_peer(clock, path, packet, |allocation, _| {
            // TCP-6062-5.5-03
            if allocation.transport != PeerTransport::Udp {
                return Err(Reason::TcpRelay);
            }
            if !allocation.serves(clock.now, peer.ip()) {
                return Err(Reason::PeerFamily);
            }
            if peer.port() == 0 {
                return Err(Reason::BadIndication);
            }
            Ok(Outgoing { to: peer, bytes: data, dont_fragment })
        })
    }
}
