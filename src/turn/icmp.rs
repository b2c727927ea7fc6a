//! What the network says about datagrams to peers (RFC 8656 §11.5).

use std::net::SocketAddr;

use rand_core::Rng;

use super::allocate::plain;
use super::{Clock, Effect, Now, Reason, RelayId, Server};
use crate::stun::{AddressFamily, AttributeType, Class, MessageWriter, Method, Seal, TransactionId};

/// Messages told to one client in one second. One closed port can answer every packet of a stream; the client needs to
/// hear it, not to hear it as often.
const ICMP_PER_SEC_MAX: u8 = 8;

/// Header, XOR-PEER-ADDRESS of IPv6, ICMP.
const ICMP_INDICATION_LEN_MAX: usize = 20 + 24 + 12;

/// How many messages the client of one allocation was told in this second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IcmpRate {
    second: u64,
    told: u8,
}

impl IcmpRate {
    fn allow(&mut self, now: Now) -> bool {
        let second = now.0 / 1_000_000_000;
        if self.second != second {
            *self = Self { second, told: 0 };
        }
        let allowed = self.told < ICMP_PER_SEC_MAX;
        self.told += u8::from(allowed);
        allowed
    }
}

impl Server {
    pub(super) fn on_icmp(
        &mut self,
        clock: Clock,
        relay: RelayId,
        peer: SocketAddr,
        kind: u8,
        code: u8,
        mtu: u32,
    ) -> Result<(), Reason> {
        let is_told = match relay.family {
            AddressFamily::Ipv4 => matches!(kind, 3 | 11),
            AddressFamily::Ipv6 => matches!(kind, 1..=3),
        };
        if !self.config.icmp || !is_told {
            return Err(Reason::IcmpIgnored);
        }
        let peer = plain(peer);
        let is_full = self.effects.len() >= self.config.limits.effects;
        let allocation = self.allocations.live_by_relay(clock.now, relay).ok_or(Reason::NoAllocation)?;
        // Of the peer the datagram was for, not of the router that complains (TURN-8656-11.5-02).
        if !allocation.permits(clock.now, peer.ip()) {
            return Err(Reason::NoPermission);
        }
        let to = allocation.client().ok_or(Reason::NoPath)?;
        if is_full || !allocation.icmp_rate.allow(clock.now) {
            return Err(Reason::IcmpRateLimited);
        }
        let mut id = [0; 12];
        self.random.fill_bytes(&mut id);
        let mut buffer = [0; ICMP_INDICATION_LEN_MAX];
        let mut writer = MessageWriter::new(&mut buffer, Method::Data, Class::Indication, TransactionId(id));
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        let tells_mtu = matches!((relay.family, kind, code), (AddressFamily::Ipv4, 3, 4) | (AddressFamily::Ipv6, 2, _));
        let data = if tells_mtu { mtu } else { 0 };
        // Two reserved bytes, then type and code with a byte each (A09).
        let mut value = [0, 0, kind, code, 0, 0, 0, 0];
        value[4..].copy_from_slice(&data.to_be_bytes());
        writer.attribute(AttributeType::ICMP, &value);
        let len = writer.finish(Seal::None, false);
        self.effects.push_back(Effect::Send { to, bytes: buffer[..len].into() });
        Ok(())
    }
}
