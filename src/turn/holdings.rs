//! What allocations have beside their relayed addresses, and what accounts, networks, realms and the whole server may have
//! of it together (abuse S12).
//!
//! An allocation's own limits bound its tables; without more, whoever may have many allocations has as many times that. So
//! each allocation has a [`Holding`], which is told how long its tables are whenever they change, and may refuse that they
//! grow. Packets change no table. What has expired counts until the allocation is swept, [`SWEEP_SECS`] later at most.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::config::PERMISSION_SECS;
use super::{Limit, Now, RelayId, Server};

/// The shortest time between two sweeps of an allocation.
const SWEEP_SECS: u32 = 30;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Permissions (RFC 8656 §9).
    Permissions,
    /// Channels (RFC 8656 §12).
    Channels,
    /// Connections between TCP relays and peers, those being made included (RFC 6062 §5).
    PeerConnections,
}

impl Held {
    /// Everything.
    pub const ALL: [Self; 3] = [Self::Permissions, Self::Channels, Self::PeerConnections];

    /// The limit of an account.
    pub const fn limit_of_account(self) -> Limit {
        match self {
            Self::Permissions => Limit::PermissionsPerUser,
            Self::Channels => Limit::ChannelsPerUser,
            Self::PeerConnections => Limit::PeerConnectionsPerUser,
        }
    }

    /// The limit of an IPv4 /24 or IPv6 /56.
    pub const fn limit_of_prefix(self) -> Limit {
        match self {
            Self::Permissions => Limit::PermissionsPerPrefix,
            Self::Channels => Limit::ChannelsPerPrefix,
            Self::PeerConnections => Limit::PeerConnectionsPerPrefix,
        }
    }

    /// The limit of a realm.
    pub const fn limit_of_realm(self) -> Limit {
        match self {
            Self::Permissions => Limit::PermissionsPerRealm,
            Self::Channels => Limit::ChannelsPerRealm,
            Self::PeerConnections => Limit::PeerConnectionsPerRealm,
        }
    }

    /// The limit of the server, if it is counted here: connections are where their sockets are.
    pub const fn limit_of_server(self) -> Option<Limit> {
        match self {
            Self::Permissions => Some(Limit::Permissions),
            Self::Channels => Some(Limit::Channels),
            Self::PeerConnections => None,
        }
    }
}

/// How much of it somebody may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldQuotas {
    /// Permissions.
    pub permissions: usize,
    /// Channels.
    pub channels: usize,
    /// Connections between TCP relays and peers.
    pub peer_connections: usize,
}

impl HeldQuotas {
    /// As much as each allocation allows.
    pub const UNLIMITED: Self = Self { permissions: usize::MAX, channels: usize::MAX, peer_connections: usize::MAX };

    /// How many of these.
    pub const fn of(&self, what: Held) -> usize {
        match what {
            Held::Permissions => self.permissions,
            Held::Channels => self.channels,
            Held::PeerConnections => self.peer_connections,
        }
    }
}

/// Who counts for all shards.
pub trait Holdings: fmt::Debug + Send {
    /// Begins to count for an allocation of this account, made by this client.
    fn open(&mut self, account: &Arc<str>, client: IpAddr) -> Box<dyn Holding>;
}

/// What one allocation has. All of it is given back when this is dropped.
pub trait Holding: fmt::Debug + Send {
    /// From now on it has `count` of these.
    ///
    /// # Errors
    /// The limit that stands against it; then it has as many as before. Less is never refused.
    fn set(&mut self, what: Held, count: usize) -> Result<(), Limit>;
}

/// For a machine that nobody counts for.
#[derive(Debug)]
pub(super) struct Uncounted;

impl Holdings for Uncounted {
    fn open(&mut self, _: &Arc<str>, _: IpAddr) -> Box<dyn Holding> {
        Box::new(Self)
    }
}

impl Holding for Uncounted {
    fn set(&mut self, _: Held, _: usize) -> Result<(), Limit> {
        Ok(())
    }
}

/// When an allocation is swept of what has expired, if it has anything that will.
pub(super) fn sweep_at(now: Now, first_to_expire: Option<Now>) -> Option<Now> {
    first_to_expire.map(|expires| expires.max(now.plus_secs(SWEEP_SECS)))
}

/// The first sweep of an allocation that has got its first permission.
pub(super) const fn first_sweep(now: Now) -> Now {
    now.plus_secs(PERMISSION_SECS)
}

impl Server {
    /// Counts with other shards what accounts and networks have. To be called before anything else: until then nobody
    /// counts.
    pub fn share_holdings(&mut self, holdings: Box<dyn Holdings>) {
        self.holdings = holdings;
    }

    /// Tells how many connections an allocation has after one has ended.
    pub(super) fn recount_connections(&mut self, relay: RelayId) {
        let count = self.connections_of(relay);
        if let Some(allocation) = self.allocations.get_mut(relay) {
            allocation.hold(Held::PeerConnections, count).expect("less is never refused");
        }
    }

    /// Makes room for one more connection.
    ///
    /// # Errors
    /// The limit that stands against it.
    pub(super) fn hold_connection(&mut self, relay: RelayId, per_allocation: usize) -> Result<(), Limit> {
        let count = self.connections_of(relay);
        if count >= per_allocation {
            return Err(Limit::PeerConnectionsPerAllocation);
        }
        if self.effects.len() >= self.config.limits.effects {
            return Err(Limit::PendingEffects);
        }
        let allocation = self.allocations.get_mut(relay);
        allocation.map_or(Ok(()), |allocation| allocation.hold(Held::PeerConnections, count + 1))
    }
}
