//! ChannelBind (RFC 8656 §12.2).

use super::allocation::BindRefusal;
use super::authenticate::Authenticated;
use super::request::Success;
use super::{Clock, Event, FiveTuple, Limit, PeerTransport, Server};
use crate::stun::{AttributeType, ChannelNumber, ErrorCode};

impl Server {
    pub(super) fn on_channel_bind(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        request: &Authenticated<'_, '_>,
    ) -> Result<Success, ErrorCode> {
        let limits = self.config.limits;
        let channel_number =
            if self.config.compatibility.rfc_5766_channels { ChannelNumber::of_rfc_5766 } else { ChannelNumber::new };
        let (_, allocation) = self.own_allocation(clock, &path, request)?;
        let session = allocation.session;
        // TCP-6062-5.5-03
        if allocation.transport != PeerTransport::Udp {
            return Err(ErrorCode::Forbidden);
        }
        let number = request.first_u32(AttributeType::CHANNEL_NUMBER)?.ok_or(ErrorCode::BadRequest)?;
        // The lower half is reserved and ignored (TURN-8656-18-01).
        let number = channel_number((number >> 16) as u16).ok_or(ErrorCode::BadRequest)?;
        let peer = request.peers().next().ok_or(ErrorCode::BadRequest)??;
        if peer.port() == 0 {
            // A permission may leave the port open; a channel leads to exactly one, and nobody listens on port 0.
            return Err(ErrorCode::BadRequest);
        }
        if !allocation.serves(clock.now, peer.ip()) {
            return Err(ErrorCode::PeerAddressFamilyMismatch);
        }
        let checked = allocation.check_channel(clock.now, number, peer, limits.channels_per_allocation);
        if checked == Err(BindRefusal::Taken) {
            return Err(ErrorCode::BadRequest);
        }
        let ports = self.check_peer(session, path, peer)?;
        checked.map_err(|_| self.no_capacity(Limit::ChannelsPerAllocation))?;
        let (relay, allocation) = self.own_allocation(clock, &path, request)?;
        let is_fresh = allocation.channel_to(clock.now, peer).is_none();
        let bound = allocation.bind_channel(clock.now, number, peer, ports, limits.permissions_per_allocation);
        bound.map_err(|limit| self.no_capacity(limit))?;
        self.arm(clock, relay);
        if is_fresh {
            self.record(Event::ChannelBound { session, path, number, peer });
        }
        Ok(Success::ChannelBind)
    }
}
