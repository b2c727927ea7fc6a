//! One allocation: its relay, permissions and channels (RFC 8656 §3, §9, §12).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::config::{CHANNEL_SECS, PERMISSION_SECS};
use super::icmp::IcmpRate;
use super::{FiveTuple, Now, RelayAddress, Traffic};
use crate::stun::{AddressFamily, ChannelNumber, TransactionId};

/// Whose it is. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// USERNAME as the client wrote it: requests under another name get 441.
    pub(super) username: Arc<str>,
    /// What quotas count by: the user id of a time-limited name, else the whole name (REST-08).
    pub(super) account: Arc<str>,
}

/// The relayed transport address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Relay {
    pub(super) address: RelayAddress,
    pub(super) port: u16,
}

impl Relay {
    /// What the socket is bound to.
    pub(super) const fn local(&self) -> SocketAddr {
        SocketAddr::new(self.address.bind, self.port)
    }

    /// What peers send to: the relayed transport address of the RFC.
    pub(super) const fn relayed(&self) -> SocketAddr {
        SocketAddr::new(self.address.advertise, self.port)
    }

    /// Whether peers of this family can be reached.
    pub(super) fn serves(&self, peer: IpAddr) -> bool {
        self.address.family() == AddressFamily::of(peer)
    }
}

/// An allocation that is alive, or was until its `expires`.
#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) path: FiveTuple,
    pub(super) owner: Owner,
    /// The request that made it: the same one again is a retransmission (TURN-8656-7.2-03).
    pub(super) created_by: TransactionId,
    pub(super) relay: Relay,
    /// RESERVATION-TOKEN of its response, which retransmissions get again.
    pub(super) token: Option<u64>,
    pub(super) expires: Now,
    pub(super) traffic: Traffic,
    pub(super) icmp_rate: IcmpRate,
    permissions: Vec<Permission>,
    channels: Vec<Channel>,
}

#[derive(Clone, Copy, Debug)]
struct Permission {
    peer: IpAddr,
    expires: Now,
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    number: ChannelNumber,
    peer: SocketAddr,
    expires: Now,
}

/// Why a channel was not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BindRefusal {
    /// The number has another peer, or the peer another number: 400.
    Taken,
    /// The table is full: 508.
    Full,
}

/// The table of permissions is full: 508.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyPermissions;

impl Allocation {
    /// Starts with no permissions and no channels (TURN-8656-7.2-21).
    pub(super) fn new(path: FiveTuple, owner: Owner, created_by: TransactionId, relay: Relay, expires: Now) -> Self {
        Self {
            path,
            owner,
            created_by,
            relay,
            token: None,
            expires,
            traffic: Traffic::default(),
            icmp_rate: IcmpRate::default(),
            permissions: Vec::new(),
            channels: Vec::new(),
        }
    }

    /// Whether this peer may send and be sent to: by IP address alone, and only while the permission lives
    /// (TURN-8656-9-01, 12.6-05).
    pub(super) fn permits(&self, now: Now, peer: IpAddr) -> bool {
        self.permissions.iter().any(|permission| permission.peer == peer && now < permission.expires)
    }

    /// Installs or refreshes permissions, all or none of them (TURN-8656-10.2-03).
    ///
    /// # Errors
    /// If more than `limit` would live at the same time.
    pub(super) fn permit(&mut self, now: Now, peers: &[IpAddr], limit: usize) -> Result<(), TooManyPermissions> {
        let mut fresh = 0;
        for (place, peer) in peers.iter().enumerate() {
            fresh += usize::from(!self.permits(now, *peer) && !peers[..place].contains(peer));
        }
        if self.permissions.len() + fresh > limit {
            self.permissions.retain(|permission| now < permission.expires);
            if self.permissions.len() + fresh > limit {
                return Err(TooManyPermissions);
            }
        }
        for peer in peers {
            let expires = now.plus_secs(PERMISSION_SECS);
            match self.permissions.iter_mut().find(|permission| permission.peer == *peer) {
                Some(permission) => permission.expires = expires,
                None => self.permissions.push(Permission { peer: *peer, expires }),
            }
        }
        Ok(())
    }

    /// Takes permissions and channels away from peers that policy now refuses.
    pub(super) fn revoke(&mut self, refused: impl Fn(SocketAddr) -> bool) {
        self.permissions.retain(|permission| !refused(SocketAddr::new(permission.peer, 0)));
        self.channels.retain(|channel| !refused(channel.peer));
    }

    /// The peer bound to a channel number as received, while the binding lives.
    pub(super) fn channel_peer(&self, now: Now, number: u16) -> Option<SocketAddr> {
        self.channels
            .iter()
            .find(|channel| channel.number.get() == number && now < channel.expires)
            .map(|channel| channel.peer)
    }

    /// The channel bound to exactly this peer address and port, while the binding lives (TURN-8656-11.3-02).
    pub(super) fn channel_to(&self, now: Now, peer: SocketAddr) -> Option<ChannelNumber> {
        self.channels.iter().find(|channel| channel.peer == peer && now < channel.expires).map(|channel| channel.number)
    }

    /// Whether a binding would be accepted; changes nothing, so that a refusal moves no timer (TURN-8656-12.2-09).
    ///
    /// # Errors
    /// See [`BindRefusal`].
    pub(super) fn check_channel(
        &self,
        now: Now,
        number: ChannelNumber,
        peer: SocketAddr,
        limit: usize,
    ) -> Result<(), BindRefusal> {
        let mut live = 0;
        for channel in self.channels.iter().filter(|channel| now < channel.expires) {
            match (channel.number == number, channel.peer == peer) {
                (true, true) => return Ok(()),
                (false, false) => live += 1,
                _ => return Err(BindRefusal::Taken),
            }
        }
        if live < limit { Ok(()) } else { Err(BindRefusal::Full) }
    }

    /// Binds or refreshes a channel that [`Allocation::check_channel`] accepted.
    pub(super) fn bind_channel(&mut self, now: Now, number: ChannelNumber, peer: SocketAddr) {
        let expires = now.plus_secs(CHANNEL_SECS);
        let same = |channel: &Channel| channel.number == number && channel.peer == peer;
        match self.channels.iter_mut().find(|channel| same(channel)) {
            Some(channel) => channel.expires = expires,
            None => {
                self.channels.retain(|channel| now < channel.expires);
                self.channels.push(Channel { number, peer, expires });
            }
        }
    }

    /// Panics where the tables contradict each other or their limits.
    pub(super) fn check_invariants(&self, permissions_max: usize, channels_max: usize) {
        assert!(self.permissions.len() <= permissions_max, "too many permissions");
        assert!(self.channels.len() <= channels_max, "too many channels");
        for (place, channel) in self.channels.iter().enumerate() {
            let rest = &self.channels[place + 1..];
            assert!(rest.iter().all(|other| other.number != channel.number), "a number bound twice");
            assert!(rest.iter().all(|other| other.peer != channel.peer), "a peer bound twice");
        }
        for (place, permission) in self.permissions.iter().enumerate() {
            let rest = &self.permissions[place + 1..];
            assert!(rest.iter().all(|other| other.peer != permission.peer), "a peer permitted twice");
        }
    }
}
