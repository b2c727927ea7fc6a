//! After every call: effects are done or held against what the model is owed, then everything is compared.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use hairpin::turn::{Clock, Effect, Event, FiveTuple, Letter, Traffic};

use super::{BindQuestion, Out, Shell};
use crate::model::{Half, RelayName};
use crate::wire::{self, Class, Parsed};

/// What ended in a call: where its client was, its account, and the relayed address.
type Ended = BTreeMap<RelayName, (FiveTuple, String, Half)>;

impl Shell {
    /// Takes the effects of a call, holds them against what the model is owed, and looks at every invariant. Letters
    /// arrive at once here: how shards agree is no business of clients. (`tests/rfc/storm.rs` lets them wait.)
    pub(super) fn settle(&mut self, clock: Clock) {
        self.statistics.steps += 1;
        let mut ended = Ended::new();
        while let Some((shard, effect)) = self.next_effect() {
            self.carry_out(clock, shard, effect, &mut ended);
        }
        self.model.forget_abandoned();
        self.model.owed.was_at = None;
        let owed = &self.model.owed;
        assert!(owed.bind.is_none(), "no relay was asked for: {owed:?}");
        assert!(owed.send.is_none(), "no response came: {owed:?}");
        assert!(owed.closes.is_empty(), "a relay was not closed: {owed:?}");
        assert!(owed.icmp.is_none(), "nobody was told of ICMP: {owed:?}");
        for shard in 0..self.shard_count() {
            self.check(clock, shard);
        }
    }

    fn next_effect(&mut self) -> Option<(u16, Effect)> {
        (0..).zip(&mut self.servers).find_map(|(shard, server)| Some((shard, server.next_effect()?)))
    }

    fn carry_out(&mut self, clock: Clock, shard: u16, effect: Effect, ended: &mut Ended) {
        match effect {
            Effect::BindRelay { relay, local, account, .. } => {
                self.on_bind_asked(clock, BindQuestion { shard, relay, local, account });
            }
            Effect::CloseRelay { relay, account } => {
                let name = (shard, relay.to_token());
                self.on_closed(clock, name, &account);
                self.gone.push((shard, relay));
                if let Some(closed) = self.model.closed(clock, name) {
                    ended.insert(name, closed);
                }
            }
            Effect::Send { to, bytes } => {
                self.on_send(to, &bytes);
                self.out.push(Out::ToClient { path: to, bytes: bytes.into(), data: None });
            }
            Effect::Record(Event::Ended { relay, path, relayed, account, traffic, .. }) => {
                let (known_path, known_account, half) = &ended[&(shard, relay.to_token())];
                assert_eq!((*known_path, half.relayed), (path, relayed));
                assert_eq!(*known_account, *account);
                assert_eq!(half.traffic, traffic, "bytes counted are not bytes moved");
                self.statistics.ended += 1;
            }
            Effect::Tell { shard: to, letter } => {
                assert_ne!(to, shard, "a letter to oneself");
                assert!(!matches!(letter, Letter::Refuse { .. }), "two shards want the same path");
                self.statistics.redeemed += u64::from(matches!(letter, Letter::Lend { port: Some(_), .. }));
                self.servers[usize::from(to)].told(clock, shard, letter);
            }
            Effect::ConnectPeer { .. } | Effect::ClosePeer { .. } | Effect::Bound { .. } => {
                panic!("nobody here has a TCP relay")
            }
            Effect::FindKey { .. } => panic!("no key is kept elsewhere"),
            Effect::Record(_) => {}
        }
    }

    fn on_send(&mut self, to: FiveTuple, bytes: &[u8]) {
        let message = Parsed::parse(bytes).expect("the server sends whole messages");
        if message.class == Class::Indication {
            let (path, peer, value) = self.model.owed.icmp.take().expect("nobody is to be told");
            assert_eq!((message.method, path), (wire::DATA_METHOD, to));
            assert_eq!(message.get_xor_address(wire::XOR_PEER_ADDRESS), Some(peer));
            assert_eq!((message.get(wire::ICMP), message.get(wire::DATA)), (Some(value.as_slice()), None));
            self.statistics.icmp += 1;
            return;
        }
        let (path, response) = self.model.owed.send.take().expect("an unexpected response");
        assert_eq!(path, to);
        response.compare(bytes);
        self.model.learn(response.about, &message);
        self.statistics.allocated += u64::from(response.outcome.is_ok());
        let relays = message.all_xor_addresses(wire::XOR_RELAYED_ADDRESS).len();
        self.statistics.dual += u64::from(relays == 2);
    }

    fn on_bind_asked(&mut self, clock: Clock, question: BindQuestion) {
        let BindQuestion { shard, relay, local, account } = &question;
        let name = (*shard, relay.to_token());
        let relayed = SocketAddr::new(self.advertised(local.ip()), local.port());
        let is_new = self.model.bind_asked(clock, name, relayed);
        let rules = &self.model.rules;
        if is_new {
            assert!(rules.relays.contains(&(local.ip(), relayed.ip())), "{local} is no relay address");
            assert!(rules.is_relay_port(local.port()), "{local} is outside the range");
        }
        let pending = self.model.asking_for(name);
        assert_eq!(pending.user.account, **account);
        self.out.push(Out::Ask(question));
    }

    fn on_closed(&mut self, clock: Clock, name: RelayName, account: &Arc<str>) {
        if !self.model.closed_early(clock, name) {
            let was_owed = self.model.owed.closes.remove(&name);
            let expires = self.model.expiry_of(name);
            let has_expired = expires.is_some_and(|expires| expires <= clock.now.0);
            assert!(was_owed || has_expired, "{name:?} was closed too early: {expires:?}");
        }
        let (shard, token) = name;
        let found = self.sockets.iter().find(|(_, open)| (open.shard, open.relay.to_token()) == (shard, token));
        let local = *found.expect("closed twice, or never bound").0;
        let socket = self.sockets.remove(&local).expect("found above");
        assert_eq!(socket.account, *account, "taken off another account");
        if self.is_open(shard, socket.relay.other_half()) {
            return;
        }
        let count = self.accounts.get_mut(account).expect("counted when it was bound");
        *count -= 1;
        if *count == 0 {
            self.accounts.remove(account);
        }
    }

    fn check(&mut self, clock: Clock, shard: u16) {
        let server = &mut self.servers[usize::from(shard)];
        server.check_invariants();
        let live = self.model.live.values().filter(|live| live.shard == shard).count();
        assert_eq!(server.allocations(), live, "allocations");
        let totals = self.model.totals.get(&shard).copied().unwrap_or_default();
        let mut counted = Traffic::total(&server.counters().traffic);
        counted.add(&self.mirror.state().uncollected(shard));
        assert_eq!(counted, totals, "bytes counted are not bytes moved");
        if let Some(earliest) = self.model.earliest_expiry(shard) {
            let next = server.next_timeout().expect("something lives, so a timer runs").0;
            assert!(next <= earliest.max(clock.now.0) + (1 << 30), "the timer would come too late");
        }
        self.check_mirror(clock, shard);
    }
}
