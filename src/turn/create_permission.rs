//! CreatePermission (RFC 8656 §10.2).

use std::net::IpAddr;

use super::authenticate::Authenticated;
use super::request::Success;
use super::{Clock, Event, FiveTuple, Limit, PortSet, Server};
use crate::stun::{AddressFamily, ErrorCode};

impl Server {
    pub(super) fn on_create_permission(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        request: &Authenticated<'_, '_>,
    ) -> Result<Success, ErrorCode> {
        let limit = self.config.limits.permissions_per_allocation;
        // Without an allocation 437, with somebody else's 441, whatever the attributes say.
        let (_, allocation) = self.own_allocation(clock, &path, request)?;
        let session = allocation.session;
        let families = [AddressFamily::Ipv4, AddressFamily::Ipv6];
        let served = families.map(|family| allocation.has(clock.now, family));
        let mut peers: Vec<(IpAddr, PortSet)> = Vec::new();
        for peer in request.peers() {
            let peer = peer?;
            if !served[usize::from(peer.is_ipv6())] {
                return Err(ErrorCode::PeerAddressFamilyMismatch);
            }
            let ports = self.check_peer(session, path, peer)?;
            if !peers.iter().any(|(ip, _)| *ip == peer.ip()) {
                if peers.len() == limit {
                    return Err(self.no_capacity(Limit::PermissionsPerAllocation));
                }
                peers.push((peer.ip(), ports));
            }
        }
        if peers.is_empty() {
            return Err(ErrorCode::BadRequest);
        }
        let (relay, allocation) = self.own_allocation(clock, &path, request)?;
        let ips = peers.iter().map(|(ip, _)| *ip);
        let fresh: Vec<IpAddr> = ips.filter(|ip| !allocation.permits(clock.now, *ip)).collect();
        let permitted = allocation.permit(clock.now, &peers, limit);
        permitted.map_err(|limit| self.no_capacity(limit))?;
        self.arm(clock, relay);
        for peer in fresh {
            self.record(Event::Permitted { session, path, peer });
        }
        Ok(Success::CreatePermission)
    }
}
