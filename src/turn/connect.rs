//! Connect (RFC 6062 §5.2), answered when the peer has answered, and what ends connections to peers.

use std::net::SocketAddr;

use rand_core::Rng;

use super::allocate::plain;
use super::authenticate::Authenticated;
use super::peer_connections::{Asked, ConnectionId, PeerConnection, Stage};
use super::request::{Answering, Outcome, Success};
use super::{
    Clock, ConnectError, ConnectionEnd, Direction, Effect, Event, FiveTuple, Now, PeerRefusal, PeerTransport, RelayId,
    Server, Traffic,
};
use crate::stun::{AddressFamily, ErrorCode};

/// How long a connection waits for its ConnectionBind (TCP-6062-5.2-08, 5.3-04).
pub(super) const UNBOUND_SECS: u32 = 30;

impl Server {
    pub(super) fn on_connect(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        request: &Authenticated<'_, '_>,
        answering: Answering,
    ) -> Outcome {
        match self.start_connection(clock, path, request, answering) {
            Ok(()) => Outcome::Later,
            Err(code) => Outcome::Failure(code),
        }
    }

    fn start_connection(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        request: &Authenticated<'_, '_>,
        answering: Answering,
    ) -> Result<(), ErrorCode> {
        let (relay, allocation) = self.own_allocation(clock, &path, request)?;
        let session = allocation.session;
        if allocation.transport != PeerTransport::Tcp {
            return Err(ErrorCode::Forbidden);
        }
        let peer = plain(request.peers().next().ok_or(ErrorCode::BadRequest)??);
        if peer.port() == 0 {
            return Err(ErrorCode::BadRequest);
        }
        let relay = relay.of_family(AddressFamily::of(peer.ip()));
        let half = allocation.live_half(clock.now, relay.family).ok_or(ErrorCode::PeerAddressFamilyMismatch)?;
        let (local, relayed) = (half.relay.local(), half.relay.relayed());
        if self.connections.has_peer(relay, peer) {
            return Err(ErrorCode::ConnectionAlreadyExists);
        }
        self.check_peer(session, path, peer)?;
        let Some(rules) = &self.config.relay_transports.tcp else {
            return Err(ErrorCode::Forbidden);
        };
        let is_relayed = self.config.is_relayed(peer);
        // Who connects to himself is connected with himself: TCP knows such connections, and no use for them.
        if peer == relayed || !is_relayed && !rules.ports.allows(peer.port()) {
            self.record(Event::PeerRefused { session, path, peer, why: PeerRefusal::Port });
            return Err(ErrorCode::Forbidden);
        }
        let until = clock.now.plus_secs(rules.connect_timeout_secs);
        let per_allocation = rules.connections_per_allocation;
        self.hold_connection(relay, per_allocation).map_err(|limit| self.no_capacity(limit))?;
        // Where an `allow` rule names our own address, whatever listens there was meant.
        let relays_only = is_relayed && !self.config.peers.allowed_by_name(peer.ip()).contains(peer.port());
        let to = self.config.to_bound(peer);
        let id = self.new_connection_id();
        let asked = Box::new(Asked { path, answering, sealing: request.sealing().clone() });
        self.begin_connection(id, relay, peer, Stage::Connecting { until, asked });
        self.effects.push_back(Effect::ConnectPeer { connection: id, local, to, relays_only });
        Ok(())
    }

    /// The answer to [`Effect::ConnectPeer`]. One that comes after [`Effect::ClosePeer`] changes nothing.
    pub fn peer_connected(&mut self, clock: Clock, connection: ConnectionId, result: Result<(), ConnectError>) {
        let Some(PeerConnection { relay, peer, stage: Stage::Connecting { .. }, .. }) =
            self.connections.get(connection)
        else {
            return;
        };
        let (relay, peer) = (*relay, *peer);
        if let Err(error) = result {
            let code = match error {
                ConnectError::Failed => ErrorCode::ConnectionTimeoutOrFailure,
                ConnectError::OutOfCapacity => ErrorCode::InsufficientCapacity,
            };
            return self.fail_connection(connection, ConnectionEnd::ConnectFailed, Some(code));
        }
        let Some(allocation) = self.allocations.live_by_relay(clock.now, relay) else {
            return self.close_connection(connection, ConnectionEnd::AllocationEnded);
        };
        let session = allocation.session;
        let until = clock.now.plus_secs(UNBOUND_SECS);
        let Some(Stage::Connecting { asked, .. }) = self.connections.set_stage(connection, Stage::Unbound { until })
        else {
            unreachable!("checked above");
        };
        let Asked { path, answering, sealing } = *asked;
        self.record(Event::PeerConnected { session, relay, path, peer, is_incoming: false });
        self.send_response(path, answering, Ok(Success::Connect { connection }), &sealing);
    }

    /// A connection to a peer is over, and with it the client data connection: told by the shell once for each that it
    /// was not asked to close ([`Effect::ClosePeer`]).
    pub fn peer_closed(&mut self, connection: ConnectionId) {
        self.fail_connection(connection, ConnectionEnd::Closed, None);
    }

    /// Bytes that went through a connection to a peer since this was called last, for the accounts. Where they were more
    /// than its bandwidth, the moment before which no more are to be read from either side.
    pub fn peer_relayed(
        &mut self,
        clock: Clock,
        connection: ConnectionId,
        bytes_to_peer: u64,
        bytes_to_client: u64,
    ) -> Option<Now> {
        let connection = self.connections.get_mut(connection)?;
        let relay = connection.relay;
        let allocation = self.allocations.get_mut(relay);
        let transport = allocation.as_ref().map(|allocation| allocation.path.transport);
        let half = allocation.and_then(|allocation| allocation.live_half(clock.now, relay.family));
        let traffic = half.map(|half| &mut half.traffic);
        let of_path = transport.map(|transport| &mut self.counters.traffic[transport as usize][relay.family.index()]);
        for traffic in [Some(&mut connection.traffic), of_path, traffic].into_iter().flatten() {
            traffic.bytes_to_peer += bytes_to_peer;
            traffic.bytes_to_client += bytes_to_client;
        }
        let meter = self.allocations.get_mut(relay)?.meter.as_mut()?;
        let to_peer = self.meters.spend_afterwards(meter, Direction::ToPeer, bytes_to_peer, clock.now);
        let to_client = self.meters.spend_afterwards(meter, Direction::ToClient, bytes_to_client, clock.now);
        to_peer.max(to_client)
    }

    pub(super) fn begin_connection(&mut self, id: ConnectionId, relay: RelayId, peer: SocketAddr, stage: Stage) {
        self.counters.peer_connections_begun += 1;
        self.connections.insert(id, PeerConnection { relay, peer, stage, traffic: Traffic::default() });
    }

    /// Connections of an allocation, at both of its relayed addresses.
    pub(super) fn connections_of(&self, relay: RelayId) -> usize {
        self.connections.of_relay(relay).count() + self.connections.of_relay(relay.other_half()).count()
    }

    /// Random, but of this shard (see [`ConnectionId`]), and new.
    pub(super) fn new_connection_id(&mut self) -> ConnectionId {
        let (index, count) = (u32::from(self.shard.index), u32::from(self.shard.count));
        loop {
            let id = (self.random.next_u32() / count * count).checked_add(index).map(ConnectionId);
            if let Some(id) = id.filter(|id| self.connections.get(*id).is_none()) {
                return id;
            }
        }
    }

    /// Ends a connection, and has the shell close it.
    pub(super) fn close_connection(&mut self, id: ConnectionId, why: ConnectionEnd) {
        self.effects.push_back(Effect::ClosePeer { connection: id });
        self.fail_connection(id, why, Some(ErrorCode::ConnectionTimeoutOrFailure));
    }

    /// Ends every connection of a relayed address that ends.
    pub(super) fn close_connections(&mut self, relay: RelayId, client_is_gone: bool) {
        let ids: Vec<ConnectionId> = self.connections.of_relay(relay).collect();
        for id in ids {
            self.effects.push_back(Effect::ClosePeer { connection: id });
            let code = (!client_is_gone).then_some(ErrorCode::ConnectionTimeoutOrFailure);
            self.fail_connection(id, ConnectionEnd::AllocationEnded, code);
        }
    }

    /// Ends those that have waited long enough.
    pub(super) fn end_overdue_connections(&mut self, clock: Clock) {
        while let Some(id) = self.connections.overdue(clock.now) {
            let is_connecting =
                self.connections.get(id).is_some_and(|overdue| matches!(overdue.stage, Stage::Connecting { .. }));
            let why = if is_connecting { ConnectionEnd::ConnectTimeout } else { ConnectionEnd::NeverBound };
            self.close_connection(id, why);
        }
    }

    /// After a change of policy.
    pub(super) fn close_refused_connections(&mut self) {
        let is_refused = |peer| self.config.check_peer(peer).is_err();
        let refused = self.connections.iter().filter(|(_, connection)| is_refused(connection.peer));
        let mut refused: Vec<ConnectionId> = refused.map(|(id, _)| id).collect();
        refused.sort_unstable();
        for id in refused {
            self.close_connection(id, ConnectionEnd::PeerRefused);
        }
    }

    /// Takes a connection out of the table; with `code` a Connect that waits for it is answered.
    fn fail_connection(&mut self, id: ConnectionId, why: ConnectionEnd, code: Option<ErrorCode>) {
        let Some(PeerConnection { relay, peer, stage, traffic }) = self.connections.remove(id) else {
            return;
        };
        self.counters.peer_connections_ended[why as usize] += 1;
        self.recount_connections(relay);
        match stage {
            Stage::Connecting { asked, .. } => {
                let Asked { path, answering, sealing } = *asked;
                if let Some(code) = code {
                    let session = self.allocations.get_mut(relay).map(|allocation| allocation.session);
                    let session = session.unwrap_or_else(|| self.config.session_key.id(&path));
                    let (method, limit) = (answering.method, None);
                    self.record(Event::RequestRefused { session, path, method, code, limit, account: None });
                    self.send_response(path, answering, Err(code), &sealing);
                }
            }
            Stage::Unbound { .. } | Stage::Bound => {
                if let Some(allocation) = self.allocations.get_mut(relay) {
                    let (session, path) = (allocation.session, allocation.path);
                    self.record(Event::PeerDisconnected { session, relay, path, peer, why, traffic });
                }
            }
        }
    }
}
