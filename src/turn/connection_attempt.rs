//! ConnectionAttempt indications (RFC 6062 §5.3): a peer has connected to a relayed transport address.

use std::net::SocketAddr;

use rand_core::Rng;

use super::allocate::plain;
use super::connect::UNBOUND_SECS;
use super::peer_connections::{ConnectionId, Stage};
use super::{Clock, ConnectionEnd, Effect, Event, Reason, RelayId, Server};
use crate::stun::{AttributeType, Class, MessageWriter, Method, Seal, TransactionId};

/// Header, XOR-PEER-ADDRESS of IPv6, CONNECTION-ID.
const INDICATION_LEN_MAX: usize = 20 + 24 + 8;

impl Server {
    /// A peer has connected to the socket of a TCP relay. The name of the connection, of which nothing is to be read
    /// until its client has bound it ([`Verdict::Bound`](super::Verdict::Bound)); `None` if it is to be closed at once.
    pub fn peer_accepted(&mut self, clock: Clock, relay: RelayId, peer: SocketAddr) -> Option<ConnectionId> {
        let accepted = self.on_peer_accepted(clock, relay, peer);
        accepted.map_err(|reason| self.counters.drops[reason as usize] += 1).ok()
    }

    fn on_peer_accepted(&mut self, clock: Clock, relay: RelayId, peer: SocketAddr) -> Result<ConnectionId, Reason> {
        // Another relay of this server came from the address it is bound to.
        let peer = self.config.to_advertised(plain(peer));
        let allocation = self.allocations.live_by_relay(clock.now, relay).ok_or(Reason::NoAllocation)?;
        let (session, path) = (allocation.session, allocation.path);
        // TCP-6062-5.3-01
        if !allocation.permits(clock.now, peer.ip()) {
            return Err(Reason::NoPermission);
        }
        // Again, although nobody is permitted whom policy refuses (abuse S3).
        self.check_peer(session, path, peer).map_err(|_| Reason::PeerRefused)?;
        let rules = self.config.relay_transports.tcp.as_ref().ok_or(Reason::PeerRefused)?;
        let connections_max = rules.connections_per_allocation;
        // The kernel lets nobody in from the address of a connection that still is one.
        let former = self
            .connections
            .of_relay(relay)
            .find(|id| self.connections.get(*id).is_some_and(|connection| connection.peer == peer));
        if let Some(former) = former {
            self.close_connection(former, ConnectionEnd::Closed);
        }
        if let Err(limit) = self.hold_connection(relay, connections_max) {
            // No request is being served, and nobody is told.
            self.counters.limits[limit as usize] += 1;
            return Err(Reason::TooManyConnections);
        }
        let id = self.new_connection_id();
        self.begin_connection(id, relay, peer, Stage::Unbound { until: clock.now.plus_secs(UNBOUND_SECS) });
        self.record(Event::PeerConnected { session, relay, path, peer, is_incoming: true });
        let mut transaction_id = [0; 12];
        self.random.fill_bytes(&mut transaction_id);
        let mut buffer = [0; INDICATION_LEN_MAX];
        let transaction_id = TransactionId(transaction_id);
        let mut writer = MessageWriter::new(&mut buffer, Method::ConnectionAttempt, Class::Indication, transaction_id);
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        writer.u32(AttributeType::CONNECTION_ID, id.0);
        let len = writer.finish(Seal::None, false);
        self.effects.push_back(Effect::Send { to: path, bytes: buffer[..len].into() });
        Ok(id)
    }
}
