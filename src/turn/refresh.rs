//! Refresh (RFC 8656 §8.2).

use super::authenticate::Authenticated;
use super::request::Success;
use super::{Clock, EndReason, FiveTuple, Server};
use crate::stun::{AttributeType, ErrorCode};

impl Server {
    pub(super) fn on_refresh(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        request: &Authenticated<'_, '_>,
    ) -> Result<Success, ErrorCode> {
        let asked_secs = request.first_u32(AttributeType::LIFETIME)?;
        let family = request.first_u32(AttributeType::REQUESTED_ADDRESS_FAMILY)?;
        if self.deleted.contains(clock.now, &path, request.transaction_id()) {
            // The deletion was lost on its way back: the same answer again (TURN-8656-5-11).
            return Ok(Success::Refresh { lifetime_secs: 0 });
        }
        let lifetimes = self.config.lifetimes;
        let (relay, allocation) = self.own_allocation(clock, &path, request)?;
        if let Some(family) = family
            && family.to_be_bytes()[0] != allocation.relay.address.family() as u8
        {
            return Err(ErrorCode::PeerAddressFamilyMismatch);
        }
        if asked_secs == Some(0) {
            self.deleted.remember(clock.now, path, request.transaction_id());
            self.end(clock, relay, EndReason::Refreshed);
            return Ok(Success::Refresh { lifetime_secs: 0 });
        }
        let lifetime_secs = lifetimes.grant(asked_secs);
        allocation.expires = clock.now.plus_secs(lifetime_secs);
        self.arm(clock, relay);
        Ok(Success::Refresh { lifetime_secs })
    }
}
