//! What an operator sees of allocations, and how he ends them: walks over the table in slices, because a table of many
//! thousands looked through at once would hold up packets.

use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrayvec::ArrayVec;
use ipnet::IpNet;

use super::{Clock, EndReason, FiveTuple, PeerTransport, RelayId, Server, SessionId, Traffic, Transport};
use crate::stun::AddressFamily;

/// An allocation as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// What logs call it.
    pub id: SessionId,
    /// One of its relays; the other is [`RelayId::other_half`].
    pub relay: RelayId,
    /// Its client.
    pub path: FiveTuple,
    /// Whether the client can be reached; one with a ticket (RFC 8016) may have closed its connection.
    pub is_in_reach: bool,
    /// The name it was made under, as the client gave it.
    pub username: Arc<str>,
    /// The account it counts for.
    pub account: Arc<str>,
    /// The realm that its user belongs to, the server's own included.
    pub realm: Arc<str>,
    /// What its relays speak.
    pub peer_transport: PeerTransport,
    /// Its relayed addresses that live.
    pub relayed: ArrayVec<SessionRelay, 2>,
    /// Seconds since it was made.
    pub age_secs: u32,
    /// Permissions that live.
    pub permissions: usize,
    /// Channels that live.
    pub channels: usize,
    /// Connections to peers, open or being made.
    pub peer_connections: usize,
}

/// One relayed address of a [`Session`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRelay {
    /// As peers see it.
    pub address: SocketAddr,
    /// Seconds until it ends, if nobody refreshes it.
    pub lifetime_left_secs: u32,
    /// What it has relayed.
    pub traffic: Traffic,
}

/// Which allocations are meant: those to which all that is said here applies. Nothing said means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// What logs call it.
    pub id: Option<SessionId>,
    /// The account it counts for, or the name it was made under.
    pub user: Option<String>,
    /// The realm that its user belongs to.
    pub realm: Option<String>,
    /// Where its client is.
    pub client: Option<IpNet>,
    /// An address of a relay, as peers see it.
    pub relayed_ip: Option<IpAddr>,
    /// The port of a relay.
    pub relayed_port: Option<u16>,
    /// How its client comes.
    pub transport: Option<Transport>,
}

impl SessionFilter {
    fn includes(&self, session: &Session) -> bool {
        let is_user = |user: &str| *session.account == *user || *session.username == *user;
        let is_relay = |relay: &SessionRelay| {
            self.relayed_ip.is_none_or(|ip| relay.address.ip() == ip)
                && self.relayed_port.is_none_or(|port| relay.address.port() == port)
        };
        self.id.is_none_or(|id| session.id == id)
            && self.transport.is_none_or(|transport| session.path.transport == transport)
            && self.client.is_none_or(|prefix| prefix.contains(&session.path.client.ip()))
            && self.user.as_deref().is_none_or(is_user)
            && self.realm.as_deref().is_none_or(|realm| *session.realm == *realm)
            && session.relayed.iter().any(is_relay)
    }
}

/// Where a walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct WalkPlace(pub u32);

impl Server {
    /// Shows the allocations to which the filter applies, among the next `steps` places of the table from `from` on, until
    /// `show` has had enough. Returns where to go on, or `None` at the end of the table. Allocations keep their
    /// place: one that lives as long as the whole walk is shown exactly once.
    pub fn walk_sessions(
        &mut self,
        clock: Clock,
        from: WalkPlace,
        steps: usize,
        filter: &SessionFilter,
        mut show: impl FnMut(Session) -> ControlFlow<()>,
    ) -> Option<WalkPlace> {
        let end = from.0.saturating_add(u32::try_from(steps).unwrap_or(u32::MAX)).min(self.allocations.places());
        for place in from.0..end {
            if let Some(session) = self.session_at(clock, place).filter(|session| filter.includes(session))
                && show(session).is_break()
            {
                return self.next_place(place + 1);
            }
        }
        self.next_place(end)
    }

    /// Ends the allocations to which the filter applies, among the next `steps` places of the table. Returns how many, and
    /// where to go on.
    pub fn end_sessions(
        &mut self,
        clock: Clock,
        from: WalkPlace,
        steps: usize,
        filter: &SessionFilter,
        why: EndReason,
    ) -> (usize, Option<WalkPlace>) {
        let mut found = Vec::new();
        let next = self.walk_sessions(clock, from, steps, filter, |session| {
            found.push(session.relay);
            ControlFlow::Continue(())
        });
        for relay in &found {
            self.end(clock, *relay, why);
            self.end(clock, relay.other_half(), why);
        }
        (found.len(), next)
    }

    fn next_place(&self, place: u32) -> Option<WalkPlace> {
        (place < self.allocations.places()).then_some(WalkPlace(place))
    }

    fn session_at(&mut self, clock: Clock, place: u32) -> Option<Session> {
        let (relay, allocation) = self.allocations.live_in_slot(clock.now, place)?;
        let now = clock.now;
        let (permissions, channels) = allocation.tables(now);
        let relayed = allocation.live_halves(now).map(|half| SessionRelay {
            address: half.relay.relayed(),
            lifetime_left_secs: now.secs_until(half.expires),
            traffic: half.traffic,
        });
        let relayed = relayed.collect();
        let of = |family| self.connections.of_relay(relay.of_family(family)).count();
        Some(Session {
            id: allocation.session,
            relay,
            path: allocation.path,
            is_in_reach: allocation.client().is_some(),
            username: Arc::clone(&allocation.owner.username),
            account: Arc::clone(&allocation.owner.account),
            realm: allocation.owner.realm.clone().unwrap_or_else(|| self.config.realm.as_str().into()),
            peer_transport: allocation.transport,
            relayed,
            age_secs: allocation.created.secs_until(now),
            permissions,
            channels,
            peer_connections: of(AddressFamily::Ipv4) + of(AddressFamily::Ipv6),
        })
    }
}
