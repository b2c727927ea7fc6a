//! One allocation: its relay, permissions and channels (RFC 8656 §3, §9, §12).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::access_token::Grant;
use super::bandwidth::{Meter, Meters};
use super::config::{CHANNEL_SECS, Config, PERMISSION_SECS};
use super::hints::Watch;
use super::holdings::{Held, Holding, Uncounted, first_sweep, sweep_at};
use super::icmp::IcmpRate;
use super::mirror::Mirrored;
use super::mobility::Mobile;
use super::{
    Direction, FiveTuple, Limit, Now, PeerTransport, PortSet, Reason, RelayAddress, SessionId, Traffic, TrafficByPath,
    Transport,
};
use crate::stun::{AddressFamily, ChannelNumber, ErrorCode, TransactionId};

/// Events about data without permission, of one allocation in one direction: a few tell the story.
const UNPERMITTED_TOLD_MAX: u8 = 4;

/// Whose it is. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// The user name, however the client gave it: requests under another name get 441.
    pub(super) username: Arc<str>,
    /// `None` is the server's own.
    pub(super) realm: Option<Arc<str>>,
    /// What quotas count by: the user id of a time-limited name, else the whole name (REST-08);
    /// where there are several realms, with the realm behind it.
    pub(super) account: Arc<str>,
    /// The access token it was made with, if that is what it was made with; the name above is made up then.
    pub(super) grant: Option<Arc<Grant>>,
}

impl Owner {
    /// The name of its realm, if there are several.
    pub(super) fn told_realm(&self, config: &Config) -> Option<Arc<str>> {
        let own = || (!config.realms.is_empty()).then(|| config.realm.as_str().into());
        self.realm.clone().or_else(own)
    }

    /// Whether both are who they are by the same name, in the same realm; tokens may differ.
    pub(super) fn is_same_user(&self, other: &Self) -> bool {
        self.username == other.username && self.realm == other.realm
    }
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
}

/// An allocation that is alive, or was until its `expires`.
#[derive(Debug)]
pub(super) struct Allocation {
    /// What it is called, wherever its client goes.
    pub(super) session: SessionId,
    /// Where its client is, or was if it is out of reach ([`Allocation::client`]).
    pub(super) path: FiveTuple,
    /// How its client came when it was made, which is what it is counted under.
    pub(super) made_over: Transport,
    pub(super) owner: Owner,
    /// What its relays speak.
    pub(super) transport: PeerTransport,
    pub(super) created: Now,
    /// What tells the key it was made with from others, if there was one.
    pub(super) key_print: Option<u64>,
    /// The request that made it: the same one again is a retransmission (TURN-8656-7.2-03).
    pub(super) created_by: TransactionId,
    /// What its response said besides, which retransmissions get again.
    pub(super) told: Told,
    /// At most one of each family, at least one: a dual allocation has both.
    halves: ArrayVec<Half, 2>,
    pub(super) icmp_rate: IcmpRate,
    /// If there is a limit to its bandwidth.
    pub(super) meter: Option<Box<Meter>>,
    /// What its traffic looks like.
    pub(super) watch: Watch,
    /// If its client has a ticket.
    pub(super) mobile: Option<Box<Mobile>>,
    /// If somebody else relays for it, or was asked to in vain.
    pub(super) mirrored: Option<Box<Mirrored>>,
    permissions: Vec<Permission>,
    channels: Vec<Channel>,
    /// What it counts for its account and network.
    pub(super) holding: Box<dyn Holding>,
    /// When what has expired is taken out next; some if there is anything that can.
    pub(super) sweep: Option<Now>,
    /// By direction.
    pub(super) unpermitted: [Unpermitted; 2],
}

/// What was dropped for want of a permission or channel in one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unpermitted {
    /// Datagrams, at most as many as fit.
    pub(super) count: u32,
    /// Events about them.
    told: u8,
    /// Whom the latest was about.
    last: Option<IpAddr>,
}

impl Unpermitted {
    /// Counts one; whether it is to be told.
    pub(super) fn count(&mut self, peer: Option<IpAddr>) -> bool {
        self.count = self.count.saturating_add(1);
        let is_new = self.told == 0 || self.last != peer;
        if self.told == UNPERMITTED_TOLD_MAX || !is_new {
            return false;
        }
        self.told += 1;
        self.last = peer;
        true
    }
}

/// One relayed transport address. Each of two can be refreshed and deleted alone (RFC 8656 §8).
#[derive(Clone, Copy, Debug)]
pub(super) struct Half {
    pub(super) relay: Relay,
    pub(super) expires: Now,
    pub(super) traffic: Traffic,
    /// Where its data is summed up, as a place in a flat [`TrafficByPath`].
    sums_at: u8,
}

/// The place of a transport and a family in a flat [`TrafficByPath`].
const fn sums_at(transport: Transport, family: AddressFamily) -> u8 {
    (transport as usize * AddressFamily::ALL.len() + family.index()) as u8
}

impl Half {
    pub(super) const fn new(relay: Relay, expires: Now) -> Self {
        Self {
            relay,
            expires,
            traffic: Traffic { packets_to_peer: 0, bytes_to_peer: 0, packets_to_client: 0, bytes_to_client: 0 },
            sums_at: 0,
        }
    }

    pub(super) const fn family(&self) -> AddressFamily {
        self.relay.address.family()
    }
}

/// What a success response says about more than the relayed addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// RESERVATION-TOKEN.
    pub(super) token: Option<u64>,
    /// ADDRESS-ERROR-CODE: the half of a dual allocation that could not be had.
    pub(super) refused: Option<(AddressFamily, ErrorCode)>,
}

#[derive(Clone, Debug)]
struct Permission {
    peer: IpAddr,
    expires: Now,
    /// The ports that policy leaves open, unless that is all of them.
    ports: Option<Box<PortSet>>,
}

impl Permission {
    fn set_ports(&mut self, ports: &PortSet) {
        self.ports = (!ports.is_all()).then(|| Box::new(ports.clone()));
    }
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    number: ChannelNumber,
    peer: SocketAddr,
    expires: Now,
}

/// Makes room for one entry in an empty table, where a vector would make it for four: most allocations stay with that one.
fn reserve_first<T>(table: &mut Vec<T>) {
    if table.capacity() == 0 {
        table.reserve_exact(1);
    }
}

/// Why a channel was not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BindRefusal {
    /// The number has another peer, or the peer another number: 400.
    Taken,
    /// The table is full: 508.
    Full,
}

impl Allocation {
    /// Starts with no permissions and no channels (TURN-8656-7.2-21).
    pub(super) fn new(
        session: SessionId,
        path: FiveTuple,
        owner: Owner,
        transport: PeerTransport,
        created_by: TransactionId,
        halves: ArrayVec<Half, 2>,
        told: Told,
    ) -> Self {
        let mut allocation = Self {
            session,
            path,
            made_over: path.transport,
            owner,
            transport,
            created: Now::default(),
            key_print: None,
            created_by,
            told,
            halves,
            icmp_rate: IcmpRate::default(),
            meter: None,
            watch: Watch::default(),
            mobile: None,
            mirrored: None,
            permissions: Vec::new(),
            channels: Vec::new(),
            holding: Box::new(Uncounted),
            sweep: None,
            unpermitted: [Unpermitted::default(); 2],
        };
        allocation.set_path(path);
        allocation
    }

    /// Its client is somewhere else. Where it was.
    pub(super) fn set_path(&mut self, path: FiveTuple) -> FiveTuple {
        for half in &mut self.halves {
            half.sums_at = sums_at(path.transport, half.family());
        }
        std::mem::replace(&mut self.path, path)
    }

    /// Its relayed addresses, expired ones included.
    pub(super) fn halves(&self) -> &[Half] {
        &self.halves
    }

    /// The relayed addresses that live.
    pub(super) fn live_halves(&mut self, now: Now) -> impl Iterator<Item = &mut Half> {
        self.halves.iter_mut().filter(move |half| now < half.expires)
    }

    /// The living relayed address of this family.
    pub(super) fn live_half(&mut self, now: Now, family: AddressFamily) -> Option<&mut Half> {
        self.live_halves(now).find(|half| half.family() == family)
    }

    /// The relayed address of this family, living or not.
    pub(super) fn half_mut(&mut self, family: AddressFamily) -> Option<&mut Half> {
        self.halves.iter_mut().find(|half| half.family() == family)
    }

    /// Counts permitted data of `len` bytes through the relayed address of this family, here and in `sums`, if its bandwidth
    /// lets it pass. The number of the datagram in its direction.
    ///
    /// # Errors
    /// Why it is to be dropped; nothing is counted then.
    #[inline(always)]
    pub(super) fn pass(
        &mut self,
        meters: &mut Meters,
        sums: &mut TrafficByPath,
        now: Now,
        family: AddressFamily,
        direction: Direction,
        len: u64,
    ) -> Result<u64, Reason> {
        let is_it = |half: &&mut Half| now < half.expires && half.family() == family;
        let half = self.halves.iter_mut().find(is_it).ok_or(Reason::NoAllocation)?;
        if let Some(meter) = &mut self.meter {
            meters.spend(meter, direction, len, now)?;
        }
        // There are eight; the mask says so to the compiler.
        sums.as_flattened_mut()[usize::from(half.sums_at & 7)].count(direction, len);
        Ok(half.traffic.count(direction, len))
    }

    /// Whether anything of it lives.
    pub(super) fn is_live(&self, now: Now) -> bool {
        self.halves.iter().any(|half| now < half.expires)
    }

    /// Whether a relayed address of this family lives.
    pub(super) fn has(&self, now: Now, family: AddressFamily) -> bool {
        self.halves.iter().any(|half| now < half.expires && half.family() == family)
    }

    /// Whether peers of this address' family can be reached.
    pub(super) fn serves(&self, now: Now, peer: IpAddr) -> bool {
        self.has(now, AddressFamily::of(peer))
    }

    /// The half that ends first.
    pub(super) fn first_to_end(&self) -> &Half {
        match &self.halves[..] {
            [only] => only,
            halves => halves.iter().min_by_key(|half| half.expires).expect("an allocation has a half at least"),
        }
    }

    /// Takes a half out of two, with its permissions and channels; those of the other stay (TURN-8656-8.2-04).
    pub(super) fn remove_half(&mut self, family: AddressFamily) -> Option<Half> {
        let place = self.halves.iter().position(|half| half.family() == family)?;
        self.permissions.retain(|permission| AddressFamily::of(permission.peer) != family);
        self.channels.retain(|channel| AddressFamily::of(channel.peer.ip()) != family);
        self.recount();
        Some(self.halves.remove(place))
    }

    /// Whether there is a permission for this peer: by IP address alone, and only while it lives (TURN-8656-9-01,
    /// 12.6-05).
    pub(super) fn permits(&self, now: Now, peer: IpAddr) -> bool {
        self.permissions.iter().any(|permission| permission.peer == peer && now < permission.expires)
    }

    /// How many permissions and channels live.
    pub(super) fn tables(&self, now: Now) -> (usize, usize) {
        let permissions = self.permissions.iter().filter(|permission| now < permission.expires).count();
        let channels = self.channels.iter().filter(|channel| now < channel.expires).count();
        (permissions, channels)
    }

    /// Whether this peer may send and be sent to: by permission, and by policy where that tells its ports apart.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_data(&self, now: Now, peer: SocketAddr) -> Result<(), Reason> {
        let is_for = |permission: &&Permission| permission.peer == peer.ip() && now < permission.expires;
        let permission = self.permissions.iter().find(is_for).ok_or(Reason::NoPermission)?;
        match &permission.ports {
            Some(ports) if !ports.contains(peer.port()) => Err(Reason::PeerRefused),
            _ => Ok(()),
        }
    }

    /// Installs or refreshes permissions, all or none of them (TURN-8656-10.2-03), each with the ports that policy leaves
    /// open.
    ///
    /// # Errors
    /// What stands against it, if it is not that more than `limit` would live at the same time: 508.
    pub(super) fn permit(&mut self, now: Now, peers: &[(IpAddr, PortSet)], limit: usize) -> Result<(), Limit> {
        if self.make_room(peers, limit).is_err() {
            self.remove_expired(now);
            self.make_room(peers, limit)?;
        }
        self.sweep.get_or_insert(first_sweep(now));
        for (peer, ports) in peers {
            let expires = now.plus_secs(PERMISSION_SECS);
            let place = self.permissions.iter().position(|permission| permission.peer == *peer).unwrap_or_else(|| {
                self.watch.permitted(*peer);
                reserve_first(&mut self.permissions);
                self.permissions.push(Permission { peer: *peer, expires, ports: None });
                self.permissions.len() - 1
            });
            self.permissions[place].expires = expires;
            self.permissions[place].set_ports(ports);
        }
        Ok(())
    }

    /// Counts those that are to be added.
    fn make_room(&mut self, peers: &[(IpAddr, PortSet)], limit: usize) -> Result<(), Limit> {
        let is_known = |peer: IpAddr| self.permissions.iter().any(|permission| permission.peer == peer);
        let count = self.permissions.len() + peers.iter().filter(|(peer, _)| !is_known(*peer)).count();
        if count > limit {
            return Err(Limit::PermissionsPerAllocation);
        }
        self.hold(Held::Permissions, count)
    }

    /// Counts what it has for its account and network.
    ///
    /// # Errors
    /// The limit that stands against more.
    pub(super) fn hold(&mut self, what: Held, count: usize) -> Result<(), Limit> {
        self.holding.set(what, count)
    }

    /// Counts permissions and channels after some of them have ended.
    fn recount(&mut self) {
        for (what, count) in [(Held::Permissions, self.permissions.len()), (Held::Channels, self.channels.len())] {
            self.hold(what, count).expect("less is never refused");
        }
    }

    /// Takes out permissions and channels that have expired.
    pub(super) fn remove_expired(&mut self, now: Now) {
        self.permissions.retain(|permission| now < permission.expires);
        self.channels.retain(|channel| now < channel.expires);
        self.recount();
        let permissions = self.permissions.iter().map(|permission| permission.expires);
        let expiries = permissions.chain(self.channels.iter().map(|channel| channel.expires));
        self.sweep = sweep_at(now, expiries.min());
    }

    /// Holds permissions and channels to a new policy, which knows the ports that may be reached at an address: what it
    /// refuses ends, and what it narrows is narrower.
    pub(super) fn revise(&mut self, policy: impl Fn(IpAddr) -> Option<PortSet>) {
        self.permissions.retain_mut(|permission| {
            let ports = policy(permission.peer);
            ports.inspect(|ports| permission.set_ports(ports)).is_some()
        });
        self.channels
            .retain(|channel| policy(channel.peer.ip()).is_some_and(|open| open.contains(channel.peer.port())));
        self.recount();
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

    /// The channels that live, and their peers.
    pub(super) fn live_channels(&self, now: Now) -> impl Iterator<Item = (ChannelNumber, SocketAddr)> {
        self.channels.iter().filter(move |channel| now < channel.expires).map(|channel| (channel.number, channel.peer))
    }

    /// Until when data passes between the client and a peer, framed for this channel, or for none if the peer has none; and
    /// by which relay.
    pub(super) fn passes_until(
        &self,
        now: Now,
        peer: SocketAddr,
        channel: Option<ChannelNumber>,
    ) -> Option<(Relay, Now)> {
        self.check_data(now, peer).ok()?;
        let bound = self.channels.iter().find(|channel| channel.peer == peer && now < channel.expires);
        let bound_until = match (channel, bound) {
            (None, None) => Now(u64::MAX),
            (Some(number), Some(bound)) if bound.number == number => bound.expires,
            _ => return None,
        };
        let family = AddressFamily::of(peer.ip());
        let half = self.halves.iter().find(|half| now < half.expires && half.family() == family)?;
        let permission = self.permissions.iter().find(|permission| permission.peer == peer.ip())?;
        Some((half.relay, bound_until.min(permission.expires).min(half.expires)))
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

    /// Binds or refreshes a channel that [`Allocation::check_channel`] accepted, with the permission it stands or falls
    /// with (TURN-8656-12.2-08).
    ///
    /// # Errors
    /// What stands against either: 508. Then nothing is changed.
    pub(super) fn bind_channel(
        &mut self,
        now: Now,
        number: ChannelNumber,
        peer: SocketAddr,
        ports: PortSet,
        permissions_max: usize,
    ) -> Result<(), Limit> {
        let expires = now.plus_secs(CHANNEL_SECS);
        let same = |channel: &Channel| channel.number == number && channel.peer == peer;
        if !self.channels.iter().any(|channel| same(channel) && now < channel.expires) {
            self.remove_expired(now);
            self.hold(Held::Channels, self.channels.len() + 1)?;
        }
        if let Err(limit) = self.permit(now, &[(peer.ip(), ports)], permissions_max) {
            self.recount();
            return Err(limit);
        }
        match self.channels.iter_mut().find(|channel| same(channel)) {
            Some(channel) => channel.expires = expires,
            None => {
                reserve_first(&mut self.channels);
                self.channels.push(Channel { number, peer, expires });
            }
        }
        Ok(())
    }

    /// Panics where the tables contradict each other or their limits.
    pub(super) fn check_invariants(&self, permissions_max: usize, channels_max: usize) {
        assert!(self.permissions.len() <= permissions_max, "too many permissions");
        assert!(self.channels.len() <= channels_max, "too many channels");
        let is_summed_up = |half: &Half| half.sums_at == sums_at(self.path.transport, half.family());
        assert!(self.halves.iter().all(is_summed_up), "data is counted for another transport");
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A third of what an idle allocation takes of the process: room for more is to be asked for with care.
    #[test]
    fn an_allocation_is_small() {
        assert!(size_of::<Allocation>() <= 656, "{} bytes", size_of::<Allocation>());
        let mut table: Vec<Channel> = Vec::new();
        reserve_first(&mut table);
        assert_eq!(table.capacity(), 1);
    }
}
