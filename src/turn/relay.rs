//! The hot path: application data from client to peer and back (RFC 8656 §11, §12).
//!
//! Nothing here allocates, and a packet is never moved: client → peer is a slice of what came in, peer → client gets
//! its header written into the spare bytes in front.

use std::net::SocketAddr;
use std::ops::Range;

use rand_core::Rng;

use super::allocate::plain;
use super::allocation::Allocation;
use super::{Clock, Direction, Event, FiveTuple, IpFields, Packet, PeerTransport, Reason, RelayId, Server, Verdict};
use crate::stun::{
    AddressFamily, AttributeType, ChannelData, ChannelNumber, Class, MessageWriter, Method, TransactionId, channel_data,
};

/// The largest payload of an IPv4 UDP datagram.
const DATAGRAM_LEN_MAX: usize = 65_507;
/// The largest value of a 16-bit length that is a multiple of four.
const STUN_BODY_LEN_MAX: usize = 65_532;

/// Data that a client has for a peer.
pub(super) struct Outgoing {
    pub(super) to: SocketAddr,
    /// Where in the packet's buffer it lies.
    pub(super) bytes: Range<usize>,
    pub(super) dont_fragment: bool,
}

impl Server {
    pub(super) fn on_channel_data(&mut self, clock: Clock, path: FiveTuple, packet: &mut Packet<'_>) -> Verdict {
        self.forward_to_peer(clock, path, packet, |allocation, packet| {
            let ChannelData { number, data } = ChannelData::parse(packet.message()).ok_or(Reason::BadChannelData)?;
            let to = allocation.channel_peer(clock.now, number).ok_or(Reason::NoChannel)?;
            let start = packet.range().start + channel_data::HEADER_LEN;
            Ok(Outgoing { to, bytes: start..start + data.len(), dont_fragment: false })
        })
    }

    /// Sends on what `read` finds, if it is permitted: out of the relay's socket, or straight to another relay of this
    /// server.
    #[inline]
    pub(super) fn forward_to_peer(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        packet: &mut Packet<'_>,
        read: impl FnOnce(&Allocation, &Packet<'_>) -> Result<Outgoing, Reason>,
    ) -> Verdict {
        let Some((relay, mut allocation)) = self.allocations.live_by_path(clock.now, &path) else {
            return self.data_without_allocation(clock, &path);
        };
        let Outgoing { to, bytes, dont_fragment } = match read(allocation, packet) {
            Ok(outgoing) => outgoing,
            Err(Reason::NoChannel) => return self.unpermitted(relay, Direction::ToPeer, None, Reason::NoChannel),
            Err(reason) => return Verdict::Drop(reason),
        };
        // A channel outlives its permission, but nothing passes without one (TURN-8656-12.6-05).
        if let Err(reason) = allocation.check_data(clock.now, to) {
            return self.unpermitted(relay, Direction::ToPeer, Some(to), reason);
        }
        let relay = relay.of_family(AddressFamily::of(to.ip()));
        if allocation.mobile.is_some() {
            self.settle(clock, relay, &path);
            allocation = self.allocations.get_mut(relay).expect("it has not ended");
        }
        let len = bytes.len() as u64;
        let sums = &mut self.counters.traffic;
        let passed = allocation.pass(&mut self.meters, sums, clock.now, relay.family, Direction::ToPeer, len);
        let number = match passed {
            Ok(number) => number,
            Err(reason) => return Verdict::Drop(reason),
        };
        allocation.watch.sent_to(to.port());
        let is_telling = allocation.watch.look(number, &packet.buffer()[bytes.clone()]);
        if is_telling && self.has_told(clock, relay, Direction::ToPeer, to, number) {
            return Verdict::Drop(Reason::NoAllocation);
        }
        if self.config.is_relayed(to) {
            return self.forward_to_relay(clock, relay, to, packet, bytes);
        }
        Verdict::ToPeer { from: relay, to, bytes, ip: IpFields { dont_fragment, ..packet.ip() } }
    }

    /// Hands data to another relay of this server, or to its shard.
    fn forward_to_relay(
        &mut self,
        clock: Clock,
        relay: RelayId,
        to: SocketAddr,
        packet: &mut Packet<'_>,
        bytes: Range<usize>,
    ) -> Verdict {
        let half = self.allocations.get_mut(relay).and_then(|allocation| allocation.live_half(clock.now, relay.family));
        let Some(from) = half.map(|half| half.relay.relayed()) else {
            return Verdict::Drop(Reason::NoAllocation);
        };
        let owner = self.shard.owner_of(to.port());
        // A port of another shard may have been lent to this one.
        if owner != self.shard.index && self.allocations.live_by_relayed(clock.now, to).is_none() {
            return Verdict::ToRelay { shard: owner, relayed: to, from, bytes, ip: packet.ip() };
        }
        self.forward_from_relay(clock, to, from, packet, bytes)
    }

    /// Data that another relay of this server sent to one of ours.
    pub(super) fn forward_from_relay(
        &mut self,
        clock: Clock,
        relayed: SocketAddr,
        from: SocketAddr,
        packet: &mut Packet<'_>,
        bytes: Range<usize>,
    ) -> Verdict {
        match self.allocations.live_by_relayed(clock.now, relayed) {
            Some((_, allocation)) if allocation.transport != PeerTransport::Udp => Verdict::Drop(Reason::TcpRelay),
            Some((relay, _)) => self.forward_to_client(clock, relay, from, packet, bytes),
            None => match self.lent.get(&relayed) {
                Some((shard, _)) => Verdict::ToRelay { shard: *shard, relayed, from, bytes, ip: packet.ip() },
                None => Verdict::Drop(Reason::NoSuchRelay),
            },
        }
    }

    /// Data from a peer: framed as its channel or as a Data indication, if the peer is permitted at all.
    pub(super) fn forward_to_client(
        &mut self,
        clock: Clock,
        relay: RelayId,
        peer: SocketAddr,
        packet: &mut Packet<'_>,
        data: Range<usize>,
    ) -> Verdict {
        // The kernel adds flow label and scope to IPv6 senders; a peer is an address and a port.
        let peer = plain(peer);
        let Some(allocation) = self.allocations.live_by_relay(clock.now, relay) else {
            return Verdict::Drop(Reason::NoAllocation);
        };
        if let Err(reason) = allocation.check_data(clock.now, peer) {
            return self.unpermitted(relay, Direction::ToClient, Some(peer), reason);
        }
        if !allocation.is_in_reach() {
            return Verdict::Drop(Reason::NoPath);
        }
        let is_stream = allocation.path.transport.is_stream();
        let len = data.len() as u64;
        let payload = data.clone();
        let buffer = packet.buffer();
        let framed = match allocation.channel_to(clock.now, peer) {
            Some(number) => frame_channel_data(buffer, data, number, is_stream),
            None => {
                let mut transaction_id = [0; 12];
                self.random.fill_bytes(&mut transaction_id);
                frame_data_indication(buffer, data, peer, TransactionId(transaction_id))
            }
        };
        let Some(bytes) = framed.filter(|bytes| is_stream || bytes.len() <= DATAGRAM_LEN_MAX) else {
            return Verdict::Drop(Reason::TooLarge);
        };
        let sums = &mut self.counters.traffic;
        let number = match allocation.pass(&mut self.meters, sums, clock.now, relay.family, Direction::ToClient, len) {
            Ok(number) => number,
            Err(reason) => return Verdict::Drop(reason),
        };
        let is_telling = allocation.watch.look(number, &packet.buffer()[payload]);
        let verdict = Verdict::ToClient { to: allocation.path, bytes, ip: packet.ip() };
        if is_telling && self.has_told(clock, relay, Direction::ToClient, peer, number) {
            return Verdict::Drop(Reason::NoAllocation);
        }
        verdict
    }
}

/// What happens once or a few times in the life of an allocation.
impl Server {
    /// Something was learnt from the `number`th packet: whether the allocation has ended for it.
    #[inline(always)]
    fn has_told(&mut self, clock: Clock, relay: RelayId, direction: Direction, peer: SocketAddr, number: u64) -> bool {
        if self.config.limits.end_tunnels() && self.end_tunnel(clock, relay) {
            return true;
        }
        if number == 1 {
            self.first_data(relay, direction, peer);
        }
        if self.mirror.is_some() {
            self.mirror_heard(clock.now, relay, peer);
        }
        false
    }

    #[cold]
    fn first_data(&mut self, relay: RelayId, direction: Direction, peer: SocketAddr) {
        if let Some(allocation) = self.allocations.get_mut(relay) {
            let (session, path) = (allocation.session, allocation.path);
            self.record(Event::FirstData { session, path, direction, peer });
        }
    }

    /// Drops data for want of a permission or channel.
    #[cold]
    pub(super) fn unpermitted(
        &mut self,
        relay: RelayId,
        direction: Direction,
        peer: Option<SocketAddr>,
        why: Reason,
    ) -> Verdict {
        if let Some(allocation) = self.allocations.get_mut(relay)
            && allocation.unpermitted[direction as usize].count(peer.map(|peer| peer.ip()))
        {
            let (session, path) = (allocation.session, allocation.path);
            self.record(Event::DataDropped { session, path, direction, peer, why });
        }
        Verdict::Drop(why)
    }
}

/// Puts number and length in front, on streams zeros behind up to a multiple of four (TURN-8656-12.5-02).
#[inline]
fn frame_channel_data(
    buffer: &mut [u8],
    data: Range<usize>,
    number: ChannelNumber,
    padded: bool,
) -> Option<Range<usize>> {
    let length = u16::try_from(data.len()).ok()?;
    let start = data.start - channel_data::HEADER_LEN;
    buffer[start..data.start].copy_from_slice(&channel_data::header(number, length));
    if !padded {
        return Some(start..data.end);
    }
    let end = data.start + data.len().next_multiple_of(4);
    buffer[data.end..end].fill(0);
    Some(start..end)
}

/// Puts header, XOR-PEER-ADDRESS and the head of DATA in front, and zeros behind.
fn frame_data_indication(
    buffer: &mut [u8],
    data: Range<usize>,
    peer: SocketAddr,
    transaction_id: TransactionId,
) -> Option<Range<usize>> {
    let peer_len = match AddressFamily::of(peer.ip()) {
        AddressFamily::Ipv4 => 12,
        AddressFamily::Ipv6 => 24,
    };
    let padded = data.len().next_multiple_of(4);
    let body = u16::try_from(peer_len + 4 + padded).ok().filter(|body| usize::from(*body) <= STUN_BODY_LEN_MAX)?;
    let start = data.start - (Packet::HEADROOM - 24 + peer_len);
    let (front, _) = buffer[start..].split_at_mut(data.start - start);
    let mut writer = MessageWriter::new(front, Method::Data, Class::Indication, transaction_id);
    writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
    front[2..4].copy_from_slice(&body.to_be_bytes());
    let head = front.len() - 4;
    front[head..head + 2].copy_from_slice(&AttributeType::DATA.0.to_be_bytes());
    front[head + 2..].copy_from_slice(&(data.len() as u16).to_be_bytes());
    let end = data.start + padded;
    buffer[data.end..end].fill(0);
    Some(start..end)
}
