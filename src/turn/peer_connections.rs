//! The table of TCP connections to peers (RFC 6062 §5): by id, by allocation and peer, and by what ends them if nothing
//! else does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ahash::RandomState;

use super::authenticate::Sealing;
use super::request::Answering;
use super::{FiveTuple, Now, RelayId, Traffic};

/// CONNECTION-ID: names a connection to a peer, on the whole server (RFC 6062 §6.2.1).
///
/// Random, and not to be guessed; but its remainder tells the shard, so that a ConnectionBind finds its way from
/// whichever shard the client's new connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u32);

impl ConnectionId {
    /// Which of `count` shards made it.
    pub const fn shard(self, count: u16) -> u16 {
        (self.0 % count as u32) as u16
    }
}

/// A connection between a relayed transport address and a peer.
#[derive(Debug)]
pub(super) struct PeerConnection {
    /// The relayed address it ends at.
    pub(super) relay: RelayId,
    pub(super) peer: SocketAddr,
    pub(super) stage: Stage,
    /// Bytes only: nobody knows what packets they came in.
    pub(super) traffic: Traffic,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Connect is being worked on.
    Connecting { until: Now, asked: Box<Asked> },
    /// Waiting for ConnectionBind.
    Unbound { until: Now },
    /// Joined with a client data connection.
    Bound,
}

impl Stage {
    const fn until(&self) -> Option<Now> {
        match self {
            Self::Connecting { until, .. } | Self::Unbound { until } => Some(*until),
            Self::Bound => None,
        }
    }
}

/// The Connect request that is to be answered.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) path: FiveTuple,
    pub(super) answering: Answering,
    pub(super) sealing: Sealing,
}

#[derive(Debug)]
pub(super) struct PeerConnections {
    by_id: HashMap<ConnectionId, PeerConnection, RandomState>,
    by_peer: BTreeMap<(RelayId, SocketAddr), ConnectionId>,
    /// Exact, so that whoever is bound or closed in time leaves nothing behind.
    deadlines: BTreeSet<(Now, ConnectionId)>,
}

impl PeerConnections {
    pub(super) fn new(hashes: RandomState) -> Self {
        Self { by_id: HashMap::with_hasher(hashes), by_peer: BTreeMap::new(), deadlines: BTreeSet::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Takes in a connection. Its id and its peer must be new.
    pub(super) fn insert(&mut self, id: ConnectionId, connection: PeerConnection) {
        self.deadlines.extend(connection.stage.until().map(|until| (until, id)));
        let same_peer = self.by_peer.insert((connection.relay, connection.peer), id);
        let same_id = self.by_id.insert(id, connection);
        debug_assert!(same_peer.is_none() && same_id.is_none(), "the connection was there already");
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&PeerConnection> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut PeerConnection> {
        self.by_id.get_mut(&id)
    }

    /// Brings a connection to its next stage; the one before.
    pub(super) fn set_stage(&mut self, id: ConnectionId, stage: Stage) -> Option<Stage> {
        let connection = self.by_id.get_mut(&id)?;
        if let Some(until) = connection.stage.until() {
            self.deadlines.remove(&(until, id));
        }
        self.deadlines.extend(stage.until().map(|until| (until, id)));
        Some(std::mem::replace(&mut connection.stage, stage))
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<PeerConnection> {
        let connection = self.by_id.remove(&id)?;
        self.by_peer.remove(&(connection.relay, connection.peer));
        if let Some(until) = connection.stage.until() {
            self.deadlines.remove(&(until, id));
        }
        Some(connection)
    }

    /// Whether this relayed address has a connection to this peer, or is about to (TCP-6062-5.2-02).
    pub(super) fn has_peer(&self, relay: RelayId, peer: SocketAddr) -> bool {
        self.by_peer.contains_key(&(relay, peer))
    }

    /// The connections of one relayed address.
    pub(super) fn of_relay(&self, relay: RelayId) -> impl Iterator<Item = ConnectionId> {
        let first = (relay, SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
        self.by_peer.range(first..).take_while(move |((of, _), _)| *of == relay).map(|(_, id)| *id)
    }

    /// Every connection.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &PeerConnection)> {
        self.by_id.iter().map(|(id, connection)| (*id, connection))
    }

    /// When the first of those that wait has waited long enough.
    pub(super) fn next_deadline(&self) -> Option<Now> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    /// One that has waited long enough.
    pub(super) fn overdue(&self, now: Now) -> Option<ConnectionId> {
        self.deadlines.first().filter(|(until, _)| *until <= now).map(|(_, id)| *id)
    }

    /// Panics where the indexes contradict each other.
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.by_peer.len(), self.by_id.len(), "the index of peers has strays");
        let mut deadlines = 0;
        for (id, connection) in &self.by_id {
            let indexed = self.by_peer.get(&(connection.relay, connection.peer));
            assert_eq!(indexed, Some(id), "a peer is not indexed");
            if let Some(until) = connection.stage.until() {
                deadlines += 1;
                assert!(self.deadlines.contains(&(until, *id)), "a connection would wait for ever");
            }
        }
        assert_eq!(deadlines, self.deadlines.len(), "deadlines of connections that are gone");
    }
}
