//! ConnectionBind (RFC 6062 §5.4): a new connection of the client becomes the other end of one to a peer.

use super::allocation::Owner;
use super::allocations::Found;
use super::authenticate::Authenticated;
use super::peer_connections::{ConnectionId, Stage};
use super::{Clock, FiveTuple, Server};
use crate::stun::{AttributeType, ErrorCode, Message, Method, read_u32};

impl Server {
    /// Which other shard has the connection that this message is about. Asked before the client is authenticated, who
    /// is a stranger to every shard but that one.
    pub(super) fn shard_of_connection(&mut self, clock: Clock, path: &FiveTuple, message: &Message<'_>) -> Option<u16> {
        let shard = connection_id(message)?.shard(self.shard.count);
        // What has an allocation stays where that is, and is refused there.
        let may_move = path.transport.is_stream() && matches!(self.allocations.find(clock.now, path), Found::Nothing);
        (may_move && shard != self.shard.index).then_some(shard)
    }

    /// Whose connection this message is about: a ConnectionBind comes from a 5-tuple of its own, with the credentials of
    /// the allocation's (TCP-6062-5.4-03). A guest has none, and is known by the address he comes from alone.
    pub(super) fn owner_of_connection(&mut self, message: &Message<'_>) -> Option<&Owner> {
        let relay = self.connections.get(connection_id(message)?)?.relay;
        self.allocations.get_mut(relay).map(|allocation| &allocation.owner).filter(|owner| !owner.is_guest())
    }

    pub(super) fn on_connection_bind(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        request: &Authenticated<'_, '_>,
    ) -> Result<ConnectionId, ErrorCode> {
        let id = request.first_u32(AttributeType::CONNECTION_ID)?.ok_or(ErrorCode::BadRequest).map(ConnectionId)?;
        self.end_expired_at(clock, &path);
        let has_allocation = !matches!(self.allocations.find(clock.now, &path), Found::Nothing);
        // TCP-6062-5.4-01; and what controls an allocation cannot carry data of another.
        if !path.transport.is_stream() || has_allocation {
            return Err(ErrorCode::BadRequest);
        }
        let connection = self.connections.get(id).ok_or(ErrorCode::BadRequest)?;
        let (relay, peer) = (connection.relay, connection.peer);
        let is_in_time = matches!(connection.stage, Stage::Unbound { until } if clock.now < until);
        let allocation = self.allocations.live_by_relay(clock.now, relay).ok_or(ErrorCode::BadRequest)?;
        let (owner, asker) = (&allocation.owner, request.owner());
        // The same name stands for the same account, but for guests.
        if !owner.is_same_user(asker) || owner.account != asker.account {
            return Err(ErrorCode::WrongCredentials);
        }
        // TCP-6062-5.4-02
        if !is_in_time || self.config.check_peer(peer).is_err() {
            return Err(ErrorCode::BadRequest);
        }
        self.connections.set_stage(id, Stage::Bound);
        Ok(id)
    }
}

/// CONNECTION-ID of a ConnectionBind.
fn connection_id(message: &Message<'_>) -> Option<ConnectionId> {
    let value = message.first(AttributeType::CONNECTION_ID).filter(|_| message.method() == Method::ConnectionBind)?;
    read_u32(value).ok().map(ConnectionId)
}
