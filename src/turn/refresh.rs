//! Refresh (RFC 8656 §8.2).

use arrayvec::ArrayVec;

use super::allocation::Half;
use super::authenticate::Authenticated;
use super::request::Success;
use super::{Clock, EndReason, Event, FiveTuple, RelayId, Server};
use crate::stun::{AttributeType, ErrorCode};

impl Server {
    pub(super) fn on_refresh(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        request: &Authenticated<'_, '_>,
    ) -> Result<Success, ErrorCode> {
        let ticket = request.first(AttributeType::MOBILITY_TICKET);
        let asked_secs = request.first_u32(AttributeType::LIFETIME)?;
        let family = request.first_u32(AttributeType::REQUESTED_ADDRESS_FAMILY)?;
        if self.deleted.contains(clock.now, &path, request.transaction_id()) {
            // The deletion was lost on its way back: the same answer again (TURN-8656-5-11).
            return Ok(Success::Refresh { lifetime_secs: 0, ticket: None });
        }
        let lifetimes = self.config.lifetimes;
        self.take_new_token(clock, &path, request.owner());
        let config = std::sync::Arc::clone(&self.config);
        let (relay, allocation) = match ticket {
            None => self.own_allocation(clock, &path, request)?,
            Some(ticket) => self.allocation_of_ticket(clock, &path, request, ticket)?,
        };
        // Without the attribute both halves of a dual allocation are meant (TURN-8656-8.2-04).
        let is_meant = |half: &Half| family.is_none_or(|family| family.to_be_bytes()[0] == half.family() as u8);
        let lifetime_secs = match asked_secs {
            Some(0) => 0,
            asked => config.cap_lifetime(clock, request.owner(), lifetimes.grant(asked)),
        };
        let session = allocation.session;
        let mut meant = ArrayVec::<RelayId, 2>::new();
        for half in allocation.live_halves(clock.now).filter(|half| is_meant(half)) {
            meant.push(relay.of_family(half.family()));
            if lifetime_secs > 0 {
                half.expires = clock.now.plus_secs(lifetime_secs);
            }
        }
        if meant.is_empty() {
            return Err(ErrorCode::PeerAddressFamilyMismatch);
        }
        if lifetime_secs == 0 {
            self.deleted.remember(clock.now, path, request.transaction_id());
            for relay in meant {
                self.end(clock, relay, EndReason::Refreshed);
            }
        } else {
            self.arm(clock, relay);
            self.record(Event::Refreshed { session, path, lifetime_secs });
        }
        let ticket = ticket.and_then(|_| self.arrive(clock, relay, path, request.transaction_id()));
        Ok(Success::Refresh { lifetime_secs, ticket })
    }
}
