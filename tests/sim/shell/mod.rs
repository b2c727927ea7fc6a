//! The shards and their shell: sockets, quotas and mailboxes that exist only as entries in maps, and that fail when the
//! dice say so. Every call into a server goes through here, with the model asked before and compared after.

mod mirrored;
mod settle;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hairpin::turn::{
    BindError, Clock, FiveTuple, IpFields, Packet, Reason, RelayId, ReplyBuffer, Server, ShardIndex, Verdict,
};

use crate::dice::Dice;
use crate::expect::{Expected, Slip};
use crate::mirror::NaiveMirror;
use crate::model::{Model, Nonce};
use crate::rules::Rules;
use crate::statistics::Statistics;
use crate::wire::{self, Parsed};

/// What leaves the shell.
#[derive(Debug)]
pub enum Out {
    ToPeer {
        from: SocketAddr,
        to: SocketAddr,
        data: Vec<u8>,
    },
    /// A whole message; `data` is what the client should make of it, if it is data.
    ToClient {
        path: FiveTuple,
        bytes: Vec<u8>,
        data: Option<(SocketAddr, Vec<u8>)>,
    },
    AcrossShards {
        shard: u16,
        relayed: SocketAddr,
        from: SocketAddr,
        data: Vec<u8>,
    },
    /// To be answered with [`Shell::answer_bind`], sooner or later.
    Ask(BindQuestion),
}

#[derive(Clone, Debug)]
pub struct BindQuestion {
    pub shard: u16,
    pub relay: RelayId,
    pub local: SocketAddr,
    pub account: Arc<str>,
}

#[derive(Debug)]
struct Socket {
    shard: u16,
    relay: RelayId,
    account: Arc<str>,
}

#[derive(Debug)]
pub struct Shell {
    servers: Vec<Server>,
    /// What all of them have somebody else relay.
    pub mirror: NaiveMirror,
    pub model: Model,
    /// By local address.
    sockets: BTreeMap<SocketAddr, Socket>,
    accounts: BTreeMap<Arc<str>, usize>,
    /// 1:1 NAT: every (local, advertised) pair there ever was.
    nat: Vec<(IpAddr, IpAddr)>,
    /// Connections that are not where the kernel brought them.
    moved: BTreeMap<FiveTuple, u16>,
    /// Names of relays that are gone: late socket events still carry them.
    gone: Vec<(u16, RelayId)>,
    reply: ReplyBuffer,
    /// Whose message was served last.
    asking: Option<FiveTuple>,
    pub out: Vec<Out>,
    pub statistics: Statistics,
}

impl Shell {
    pub fn new(rules: Rules, shard_count: u16, dice: &mut Dice) -> Self {
        let config = Arc::new(rules.to_config());
        let mirror = NaiveMirror::default();
        let servers = (0..shard_count)
            .map(|index| {
                let shard = ShardIndex { index, count: shard_count };
                let mut server = Server::new(Arc::clone(&config), shard, dice.array());
                server.offload(mirror.of_shard(index));
                server
            })
            .collect();
        Self {
            servers,
            mirror,
            nat: rules.relays.clone(),
            model: Model::new(rules, shard_count),
            sockets: BTreeMap::new(),
            accounts: BTreeMap::new(),
            moved: BTreeMap::new(),
            gone: Vec::new(),
            reply: ReplyBuffer::new(),
            asking: None,
            out: Vec::new(),
            statistics: Statistics::default(),
        }
    }

    pub fn shard_count(&self) -> u16 {
        self.servers.len() as u16
    }

    /// As SO_REUSEPORT does it: by both ends of the flow. A connection may have moved since.
    pub fn shard_of(&self, path: &FiveTuple) -> u16 {
        if let Some(shard) = self.moved.get(path) {
            return *shard;
        }
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for byte in format!("{}{}", path.client, path.server).bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        ((hash >> 32) % u64::from(self.shard_count())) as u16
    }

    pub fn message_from_client(&mut self, clock: Clock, path: FiveTuple, message: &[u8]) {
        if self.client_is_mirrored(clock, path, message) {
            return;
        }
        let shard = self.shard_of(&path);
        let expected = self.model.message_from_client(clock, shard, path, message);
        self.asking = Some(path);
        self.reply.fill(0xEE);
        let has_reply =
            self.call(clock, &expected, message, |shell, packet| shell.serve_client(clock, shard, path, packet));
        if let (Expected::Reply(response) | Expected::Refusal(response), true) = (&expected, has_reply) {
            self.statistics.refused += u64::from(response.outcome.is_err());
            self.statistics.moved += u64::from(response.ticket == Slip::New);
            let bytes = self.reply[..wire::message_len(&self.reply)].to_vec();
            let message = Parsed::parse(&bytes).expect("compared with the model already");
            self.model.learn(response.about, &message);
            if let Some(nonce) = message.get(wire::NONCE) {
                let issued = Nonce {
                    issued_unix_secs: clock.unix_secs,
                    client: (path.transport, path.client),
                    generation: self.model.rules.nonce_generation,
                };
                self.model.nonces.insert(nonce.to_vec(), issued);
            }
            self.out.push(Out::ToClient { path, bytes, data: None });
        }
    }

    /// Hands a message to the shard that got it and, if that is not the one it is for, to the other. The shard that has
    /// decided, and what.
    fn serve_client(&mut self, clock: Clock, shard: u16, path: FiveTuple, packet: &mut Packet<'_>) -> (u16, Verdict) {
        let here = usize::from(shard);
        let verdict = self.servers[here].from_client(clock, path, packet, &mut self.reply);
        let Verdict::NotMine { shard: there } = verdict else {
            return (shard, verdict);
        };
        assert_ne!(there, shard, "a shard passes on to itself");
        self.statistics.passed_on += 1;
        let server = &mut self.servers[usize::from(there)];
        if !path.transport.is_stream() {
            return (there, server.from_carrier(clock, shard, path, packet, &mut self.reply));
        }
        if self.moved.contains_key(&path) {
            return (shard, Verdict::Drop(Reason::Stray));
        }
        self.moved.insert(path, there);
        self.model.moved.insert(path);
        self.servers[here].path_closed(clock, path);
        (there, self.servers[usize::from(there)].from_client(clock, path, packet, &mut self.reply))
    }

    /// The relay that has the socket for a relayed address. With `late` it is one that is gone.
    fn relay_at(&self, relayed: SocketAddr, late: bool) -> Option<(u16, RelayId)> {
        let local = self.nat.iter().filter(|(_, advertise)| *advertise == relayed.ip());
        let mut local = local.map(|(bind, _)| SocketAddr::new(*bind, relayed.port()));
        let found = local.find_map(|local| self.sockets.get(&local));
        let found = found.map(|socket| (socket.shard, socket.relay));
        late.then(|| self.gone.last().copied()).flatten().or(found)
    }

    /// A datagram for a relayed address from the Internet. With `late` it carries the name of a relay that is gone.
    pub fn datagram_from_peer(&mut self, clock: Clock, relayed: SocketAddr, peer: SocketAddr, data: &[u8], late: bool) {
        if !late && self.peer_is_mirrored(clock, relayed, peer, data) {
            return;
        }
        let Some((shard, relay)) = self.relay_at(relayed, late) else {
            return; // port unreachable
        };
        let expected = self.model.data_from_peer(clock, (shard, relay.to_token()), peer, data);
        self.call(clock, &expected, data, |shell, packet| {
            let relay = RelayId::from_token(relay.to_token());
            (shard, shell.servers[usize::from(shard)].from_peer(clock, relay, peer, packet))
        });
    }

    /// ICMP about a datagram that a relay has sent.
    pub fn icmp(&mut self, clock: Clock, relayed: SocketAddr, peer: SocketAddr, (kind, code, mtu): (u8, u8, u32)) {
        let Some((shard, relay)) = self.relay_at(relayed, false) else {
            return;
        };
        self.model.icmp(clock, (shard, relay.to_token()), peer, kind, code, mtu);
        self.servers[usize::from(shard)].from_icmp(clock, relay, peer, kind, code, mtu);
        self.settle(clock);
    }

    pub fn datagram_from_shard(
        &mut self,
        clock: Clock,
        shard: u16,
        relayed: SocketAddr,
        from: SocketAddr,
        data: &[u8],
    ) {
        let expected = self.model.data_to_relayed(clock, shard, relayed, from, data);
        self.call(clock, &expected, data, |shell, packet| {
            (shard, shell.servers[usize::from(shard)].from_relay(clock, relayed, from, packet))
        });
    }

    /// Makes a call and holds what comes back against what was expected; whether it is a reply.
    fn call(
        &mut self,
        clock: Clock,
        expected: &Expected,
        message: &[u8],
        call: impl FnOnce(&mut Self, &mut Packet<'_>) -> (u16, Verdict),
    ) -> bool {
        // What a shard's buffer holds around the packet is left over from others.
        let mut buffer = vec![0xEE; Packet::HEADROOM];
        buffer.extend(message);
        buffer.extend([0xEE; Packet::TAILROOM]);
        let range = Packet::HEADROOM..Packet::HEADROOM + message.len();
        let mut packet = Packet::new(&mut buffer, range, IpFields { traffic_class: 0xB8, ..IpFields::default() });
        let (decided, verdict) = call(self, &mut packet);
        expected.compare(&verdict, &buffer, &self.reply[..]);
        match &verdict {
            Verdict::ToPeer { from, to, bytes, .. } => {
                let is_it = |socket: &Socket| (socket.shard, socket.relay) == (decided, *from);
                let found = self.sockets.iter().find(|(_, socket)| is_it(socket));
                let local = *found.expect("sent from a relay without a socket").0;
                let relayed = SocketAddr::new(self.advertised(local.ip()), local.port());
                self.statistics.to_peer += 1;
                self.out.push(Out::ToPeer { from: relayed, to: *to, data: buffer[bytes.clone()].to_vec() });
            }
            Verdict::ToClient { to, bytes, .. } => {
                self.statistics.to_client += 1;
                let Expected::ToClient { peer, data, .. } = expected else {
                    unreachable!("compared a few lines above");
                };
                let data = Some((*peer, data.clone()));
                self.out.push(Out::ToClient { path: *to, bytes: buffer[bytes.clone()].to_vec(), data });
            }
            Verdict::ToRelay { shard, relayed, from, bytes, .. } => {
                self.statistics.across_shards += 1;
                assert_ne!(*shard, decided);
                let (relayed, from) = (*relayed, *from);
                let data = buffer[bytes.clone()].to_vec();
                self.out.push(Out::AcrossShards { shard: *shard, relayed, from, data });
            }
            Verdict::Bound { .. } => unreachable!("nobody here has a TCP relay"),
            Verdict::NotMine { .. } => unreachable!("passed on already"),
            Verdict::Drop(_) => self.statistics.dropped += 1,
            Verdict::Later => {
                if let Expected::Refusal(response) = expected {
                    let path = self.asking.expect("only clients are answered");
                    self.model.owed.send = Some((path, response.clone()));
                }
            }
            Verdict::Reply { .. } => {}
        }
        self.settle(clock);
        matches!(verdict, Verdict::Reply { .. })
    }

    /// Does (or does not do) what an [`Effect::BindRelay`] asked for.
    pub fn answer_bind(&mut self, clock: Clock, question: BindQuestion, misfortune: Option<BindError>) {
        let BindQuestion { shard, relay, local, account } = question;
        let in_use = self.accounts.get(&account).copied().unwrap_or(0);
        // Two halves of one allocation count once.
        let is_counted = self.is_open(shard, relay.other_half());
        let result = if !is_counted && in_use >= self.model.rules.quota_per_account {
            Err(BindError::UserQuotaReached)
        } else if self.sockets.contains_key(&local) {
            // Only after the machine moved to another local address can two relays want the same.
            Err(BindError::PortInUse)
        } else {
            misfortune.map_or(Ok(()), Err)
        };
        if result.is_ok() {
            *self.accounts.entry(Arc::clone(&account)).or_default() += usize::from(!is_counted);
            self.sockets.insert(local, Socket { shard, relay, account });
        } else {
            self.statistics.binds_failed += 1;
        }
        self.model.relay_bound(clock, (shard, relay.to_token()), result);
        self.servers[usize::from(shard)].relay_bound(clock, relay, result);
        self.settle(clock);
    }

    pub(super) fn is_open(&self, shard: u16, relay: RelayId) -> bool {
        self.sockets.values().any(|socket| (socket.shard, socket.relay) == (shard, relay))
    }

    pub fn path_closed(&mut self, clock: Clock, path: FiveTuple) {
        let shard = self.shard_of(&path);
        self.model.path_closed(clock, path);
        self.servers[usize::from(shard)].path_closed(clock, path);
        self.settle(clock);
    }

    pub fn next_timeout(&self, shard: u16) -> Option<u64> {
        self.servers[usize::from(shard)].next_timeout().map(|next| next.0)
    }

    pub fn handle_timeout(&mut self, clock: Clock, shard: u16) {
        let server = &mut self.servers[usize::from(shard)];
        server.handle_timeout(clock);
        let next = server.next_timeout();
        assert!(next.is_none_or(|next| next > clock.now), "the law of next_timeout: {next:?} at {clock:?}");
        self.settle(clock);
        self.model.timers_ran(clock.now.0, shard);
    }

    pub fn reload(&mut self, clock: Clock, rules: Rules) {
        self.statistics.reloads += 1;
        let config = Arc::new(rules.to_config());
        for pair in &rules.relays {
            if !self.nat.contains(pair) {
                self.nat.push(*pair);
            }
        }
        self.model.reload(rules);
        self.servers.iter_mut().for_each(|server| server.configure(Arc::clone(&config)));
        self.settle(clock);
    }

    pub fn drain(&mut self, clock: Clock, shard: u16) {
        self.model.draining.insert(shard);
        self.servers[usize::from(shard)].drain();
        self.settle(clock);
    }

    pub fn shut_down(&mut self, clock: Clock, shard: u16) {
        self.model.shut_down(shard);
        self.servers[usize::from(shard)].shut_down(clock);
        self.settle(clock);
    }

    fn advertised(&self, bind: IpAddr) -> IpAddr {
        self.nat.iter().find(|(local, _)| *local == bind).expect("a relay address").1
    }

    /// After all lifetimes: nothing may be left.
    pub fn assert_empty(&self) {
        for server in &self.servers {
            assert_eq!(server.allocations(), 0);
            assert_eq!(server.next_timeout(), None, "a timer without anything to end");
            assert_eq!(server.paths_carried(), 0, "datagrams are passed on for nobody");
            assert_eq!(server.flows_mirrored(), 0);
        }
        let Model { live, pending, reserved, .. } = &self.model;
        assert!(live.is_empty() && pending.is_empty() && reserved.is_empty(), "{live:?} {pending:?} {reserved:?}");
        assert!(self.mirror.state().flows(0).is_empty() && self.mirror.state().entries.is_empty(), "still mirrored");
        assert!(self.sockets.is_empty(), "relay sockets left open: {:?}", self.sockets);
        assert!(self.accounts.is_empty(), "accounts still charged: {:?}", self.accounts);
    }

    /// Relayed addresses that are alive, for peers and clients to aim at.
    pub fn relayed_addresses(&self) -> Vec<SocketAddr> {
        self.model.live.values().flat_map(|live| &live.halves).map(|half| half.relayed).collect()
    }
}
