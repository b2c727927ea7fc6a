//! After every call: effects are done or held against what the model is owed, then everything is compared.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use hairpin::turn::{Clock, Effect, Event};

use super::{BindQuestion, Out, Shell};
use crate::model::RelayName;

impl Shell {
    /// Takes the effects of a call, holds them against what the model is owed, and looks at every invariant.
    pub(super) fn settle(&mut self, clock: Clock, shard: u16) {
        self.statistics.steps += 1;
        let mut ended = BTreeMap::new();
        while let Some(effect) = self.servers[usize::from(shard)].next_effect() {
            match effect {
                Effect::BindRelay { relay, local, account } => {
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
                    let (path, response) = self.model.owed.send.take().expect("an unexpected response");
                    assert_eq!(path, to);
                    response.compare(&bytes);
                    self.statistics.allocated += u64::from(response.outcome.is_ok());
                    self.out.push(Out::ToClient { path: to, bytes: bytes.into(), data: None });
                }
                Effect::Record(Event::Ended { relay, path, relayed, account, traffic, .. }) => {
                    let (known_path, known) = &ended[&(shard, relay.to_token())];
                    assert_eq!((*known_path, known.relayed), (path, relayed));
                    assert_eq!(known.account, *account);
                    assert_eq!(known.traffic, traffic, "bytes counted are not bytes moved");
                    self.statistics.ended += 1;
                }
                Effect::Tell { .. } => panic!("nobody here shows a token"),
                Effect::Record(_) => {}
            }
        }
        let owed = &self.model.owed;
        assert!(owed.bind.is_none() && owed.rebind.is_none(), "no relay was asked for: {owed:?}");
        assert!(owed.send.is_none(), "no response came: {owed:?}");
        assert!(owed.closes.is_empty(), "a relay was not closed: {owed:?}");
        self.check(clock, shard);
    }

    pub(super) fn on_bind_asked(&mut self, clock: Clock, question: BindQuestion) {
        let BindQuestion { shard, relay, local, account } = &question;
        let name = (*shard, relay.to_token());
        let relayed = SocketAddr::new(self.advertised(local.ip()), local.port());
        let rules = &self.model.rules;
        assert!(rules.relays.contains(&(local.ip(), relayed.ip())), "{local} is no relay address");
        assert!(rules.is_relay_port(local.port()), "{local} is outside the range");
        assert_eq!(self.model.owner_of(local.port()), *shard, "another shard's port");
        let mut pending = match self.model.owed.rebind.take() {
            Some(name) => self.model.pending.remove(&name).expect("a rebind has a question before it"),
            None => self.model.owed.bind.take().expect("nobody asked for a relay"),
        };
        assert!(self.model.is_free(clock.now.0, relayed), "{relayed} is in use, or was a moment ago");
        assert_eq!(pending.is_ipv6, relayed.is_ipv6());
        assert_eq!(pending.user.account, **account);
        pending.relayed = relayed;
        let before = self.model.pending.insert(name, pending);
        assert!(before.is_none(), "a relay name used twice");
        self.out.push(Out::Ask(question));
    }

    pub(super) fn on_closed(&mut self, clock: Clock, name: RelayName, account: &Arc<str>) {
        let was_owed = self.model.owed.closes.remove(&name);
        let live = self.model.live.values().find(|live| live.relay == name);
        let has_expired = live.is_some_and(|live| live.expires <= clock.now.0);
        assert!(was_owed || has_expired, "{name:?} was closed too early: {live:?}");
        let (shard, token) = name;
        let found = self.sockets.iter().find(|(_, open)| (open.shard, open.relay.to_token()) == (shard, token));
        let local = *found.expect("closed twice, or never bound").0;
        let socket = self.sockets.remove(&local).expect("found above");
        assert_eq!(socket.account, *account, "taken off another account");
        let count = self.accounts.get_mut(account).expect("counted when it was bound");
        *count -= 1;
        if *count == 0 {
            self.accounts.remove(account);
        }
    }

    pub(super) fn check(&mut self, clock: Clock, shard: u16) {
        let server = &mut self.servers[usize::from(shard)];
        server.check_invariants();
        let live = self.model.live.values().filter(|live| live.relay.0 == shard).count();
        assert_eq!(server.allocations(), live, "allocations");
        let totals = self.model.totals.get(&shard).copied().unwrap_or_default();
        assert_eq!(server.counters().traffic, totals, "bytes counted are not bytes moved");
        if let Some(earliest) = self.model.earliest_expiry(shard) {
            let next = server.next_timeout().expect("something lives, so a timer runs").0;
            assert!(next <= earliest.max(clock.now.0) + (1 << 30), "the timer would come too late");
        }
    }
}
