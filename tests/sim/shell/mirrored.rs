//! What passes without the servers: delivered from the mirror alone, and held against the model like anything else; and
//! the mirror against the model's tables.

use std::net::SocketAddr;

use hairpin::turn::{Clock, FiveTuple, Traffic, Transport};

use super::{Out, Shell};
use crate::expect::{Expected, compare_framing};
use crate::mirror::Relayed;
use crate::model::{Live, is_permitted};

impl Shell {
    /// A datagram meets the mirror before any socket; whether that was all.
    pub(super) fn client_is_mirrored(&mut self, clock: Clock, path: FiveTuple, message: &[u8]) -> bool {
        let Some(relayed) = self.mirror.client_sends(clock.now, path, message) else {
            return false;
        };
        let shard = self.shard_of(&path);
        let mut expected = self.model.message_from_client(clock, shard, path, message);
        while let Expected::ToRelay { relayed, from, data } = expected {
            self.statistics.mirrored_across_shards += 1;
            let has = |live: &&Live| live.half_at(clock.now.0, relayed).is_some();
            let at = self.model.live.values().find(has).expect("nobody has it, and the mirror delivers").shard;
            expected = self.model.data_to_relayed(clock, at, relayed, from, &data);
        }
        self.deliver(clock, &expected, relayed);
        true
    }

    /// The same from a peer.
    pub(super) fn peer_is_mirrored(
        &mut self,
        clock: Clock,
        relayed: SocketAddr,
        peer: SocketAddr,
        data: &[u8],
    ) -> bool {
        let Some((shard, relay)) = self.relay_at(relayed, false) else {
            return false;
        };
        let open = self.sockets.iter().find(|(_, open)| (open.shard, open.relay) == (shard, relay));
        let local = *open.expect("found a moment ago").0;
        let Some(outcome) = self.mirror.peer_sends(clock.now, local, peer, data) else {
            return false;
        };
        let expected = self.model.data_from_peer(clock, (shard, relay.to_token()), peer, data);
        self.deliver(clock, &expected, outcome);
        true
    }

    fn deliver(&mut self, clock: Clock, expected: &Expected, relayed: Relayed) {
        match (expected, relayed) {
            (Expected::ToPeer { relay, to, data }, Relayed::ToPeer { from, to: sent_to, data: sent }) => {
                assert_eq!((to, data), (&sent_to, &sent));
                assert_eq!(*relay, self.sockets[&from].relay.to_token(), "sent from another relay");
                let from = SocketAddr::new(self.advertised(from.ip()), from.port());
                self.statistics.mirrored_to_peer += 1;
                self.out.push(Out::ToPeer { from, to: sent_to, data: sent });
            }
            (Expected::ToClient { path, channel, peer, data }, Relayed::ToClient { path: sent_to, message }) => {
                assert_eq!(*path, sent_to);
                compare_framing(&message, path, *channel, *peer, data);
                self.statistics.mirrored_to_client += 1;
                self.statistics.mirrored_indications += u64::from(channel.is_none());
                self.out.push(Out::ToClient { path: sent_to, bytes: message, data: Some((*peer, data.clone())) });
            }
            (expected, relayed) => panic!("the model expected {expected:?}, the mirror did {relayed:?}"),
        }
        self.settle(clock);
    }

    /// As each shard does once a second.
    pub fn collect(&mut self, clock: Clock, shard: u16) {
        while self.servers[usize::from(shard)].collect_offloaded(clock) {}
        assert_eq!(self.mirror.state().uncollected(shard), Traffic::default(), "not all was collected");
        self.settle(clock);
    }

    /// The mirror says what the tables say: nothing else, until the same moment, and all of it but for what it has refused.
    pub(super) fn check_mirror(&mut self, clock: Clock, shard: u16) {
        let now = clock.now.0;
        let model = &self.model;
        let rules = &model.rules;
        let state = self.mirror.state();
        let told: Vec<_> = state.flows(shard).into_iter().filter(|(_, until)| now < until.0).collect();
        let mut justified = 0;
        let of_shard = model.live.values().filter(|live| live.shard == shard && !live.is_adrift);
        for live in of_shard {
            let of_it: Vec<_> = told.iter().filter(|(flow, _)| flow.path == live.path).collect();
            justified += of_it.len();
            let may_be = live.path.transport == Transport::Udp && live.next.is_none();
            assert!(of_it.is_empty() || may_be, "each of its packets takes a decision: {of_it:?}");
            assert!(of_it.len() <= rules.mirrored_max, "more flows than allowed");
            let is_live = |(_, (_, expires)): &(&u16, &(SocketAddr, u64))| now < *expires;
            for (flow, until) in &of_it {
                let half = live.half_at(now, flow.relayed).expect("the relayed address lives");
                assert_eq!(self.sockets[&flow.relay].relay.to_token(), half.relay.1);
                assert!(is_permitted(live, now, flow.peer.ip()) && !model.is_closed(flow.peer), "{flow:?}");
                let bound = live.channels.iter().filter(is_live).find(|(_, (peer, _))| *peer == flow.peer);
                assert_eq!(flow.channel.map(|number| number.get()), bound.map(|(number, _)| *number), "{flow:?}");
                let bound_until = bound.map_or(u64::MAX, |(_, (_, expires))| *expires);
                let ends = bound_until.min(half.expires).min(live.permissions[&flow.peer.ip()]);
                assert_eq!(until.0, ends, "{flow:?}");
                let own = rules.relays.iter().find(|(_, advertise)| *advertise == flow.peer.ip());
                let own = own.filter(|_| rules.is_relay_port(flow.peer.port()));
                assert_eq!(flow.peer_relay, own.map(|(bind, _)| SocketAddr::new(*bind, flow.peer.port())));
            }
            if !may_be || live.channels.len() > rules.mirrored_max {
                continue;
            }
            for (number, (peer, _)) in live.channels.iter().filter(is_live) {
                let passes =
                    live.halves.iter().any(|half| now < half.expires && half.relayed.is_ipv6() == peer.is_ipv6())
                        && is_permitted(live, now, peer.ip())
                        && !model.is_closed(*peer);
                let has = of_it.iter().any(|(flow, _)| flow.peer == *peer);
                let was_refused = |flow: &hairpin::turn::Flow| {
                    (flow.path, flow.peer, flow.channel.map(|number| number.get())) == (live.path, *peer, Some(*number))
                };
                assert!(!passes || has || state.refused.iter().any(was_refused), "{number:#06x} is not mirrored");
            }
        }
        assert_eq!(justified, told.len(), "flows of nobody are mirrored");
    }
}
