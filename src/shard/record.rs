//! Events as log lines. The words are chosen here, once; `event` is stable, may be searched for, and is in docs/logs.md.
//!
//! INFO is what an operator would tell a colleague. Nothing secret gets here, of names and addresses what may be shown.

use tracing::{debug, info};

use super::privacy::Veil;
use crate::turn::{Event, Now};

/// Writes events, but in a second not more than so many about what anybody can bring about without being known.
#[derive(Debug)]
pub(super) struct Lines {
    strangers_per_sec: usize,
    since: Now,
    written: usize,
    left_out: u64,
}

impl Lines {
    /// So many about strangers.
    pub(super) const fn new(strangers_per_sec: usize) -> Self {
        Self { strangers_per_sec, since: Now(0), written: 0, left_out: 0 }
    }

    /// So many from now on.
    pub(super) const fn limit(&mut self, strangers_per_sec: usize) {
        self.strangers_per_sec = strangers_per_sec;
    }

    /// Writes one line, if it is not one too many.
    pub(super) fn write(&mut self, now: Now, veil: &Veil, event: &Event) {
        if is_strangers(event) && tracing::enabled!(tracing::Level::DEBUG) && !self.has_room(now) {
            return;
        }
        log(veil, event);
    }

    /// Whether there is room for another line about strangers.
    pub(super) fn has_room(&mut self, now: Now) -> bool {
        if self.since.plus_secs(1) <= now {
            if self.left_out > 0 {
                debug!(event = "lines_left_out", count = self.left_out);
            }
            *self = Self { since: now, ..Self::new(self.strangers_per_sec) };
        }
        let has_room = self.written < self.strangers_per_sec;
        if has_room {
            self.written += 1;
        } else {
            self.left_out += 1;
        }
        has_room
    }
}

/// Whether it takes no credentials to bring it about.
fn is_strangers(event: &Event) -> bool {
    matches!(
        event,
        Event::Challenged { .. } | Event::AuthenticationFailed { .. } | Event::RequestRefused { account: None, .. }
    )
}

fn log(veil: &Veil, event: &Event) {
    let session = event.session();
    match event {
        Event::Allocated { path, relayed, account, lifetime_secs, .. } => info!(
            event = "allocated",
            session = %session,
            transport = path.transport.label(),
            client = %veil.address(path.client),
            server = %path.server,
            relayed = %relayed,
            account = veil.name(account),
            lifetime_secs,
        ),
        Event::Ended { path, relayed, account, why, traffic, hints, unpermitted, .. } => info!(
            event = "ended",
            session = %session,
            why = why.label(),
            transport = path.transport.label(),
            client = %veil.address(path.client),
            relayed = %relayed,
            account = veil.name(account),
            packets_to_peer = traffic.packets_to_peer,
            bytes_to_peer = traffic.bytes_to_peer,
            packets_to_client = traffic.packets_to_client,
            bytes_to_client = traffic.bytes_to_client,
            peers = hints.peers,
            ports = hints.ports,
            foreign_percent = hints.foreign_percent(),
            unpermitted_to_peer = unpermitted[0],
            unpermitted_to_client = unpermitted[1],
        ),
        Event::Moved { from, to, account, .. } => info!(
            event = "moved",
            session = %session,
            from = from.map(|from| tracing::field::display(veil.address(from.client))),
            transport = to.map(|to| to.transport.label()),
            client = to.map(|to| tracing::field::display(veil.address(to.client))),
            account = veil.name(account),
        ),
        Event::PeerConnected { path, peer, is_incoming, .. } => info!(
            event = "peer_connected",
            session = %session,
            client = %veil.address(path.client),
            peer = %veil.address(*peer),
            is_incoming,
        ),
        Event::PeerDisconnected { path, peer, why, traffic, .. } => info!(
            event = "peer_disconnected",
            session = %session,
            why = why.label(),
            client = %veil.address(path.client),
            peer = %veil.address(*peer),
            bytes_to_peer = traffic.bytes_to_peer,
            bytes_to_client = traffic.bytes_to_client,
        ),
        Event::PeerRefused { path, peer, why, .. } => debug!(
            event = "peer_refused",
            session = %session,
            why = why.label(),
            transport = path.transport.label(),
            client = %veil.address(path.client),
            peer = %veil.address(*peer),
        ),
        Event::AuthenticationFailed { path, why, claimed, .. } => debug!(
            event = "authentication_failed",
            session = %session,
            why = why.label(),
            transport = path.transport.label(),
            client = %veil.address(path.client),
            claimed = claimed.as_deref().map(|name| veil.name(name)),
        ),
        Event::Challenged { path, .. } => debug!(
            event = "challenged",
            session = %session,
            transport = path.transport.label(),
            client = %veil.address(path.client),
        ),
        Event::RequestRefused { path, method, code, limit, account, .. } => debug!(
            event = "request_refused",
            session = %session,
            method = method.label(),
            code = code.number(),
            limit = limit.map(|limit| limit.label()),
            transport = path.transport.label(),
            client = %veil.address(path.client),
            account = account.as_deref().map(|account| veil.name(account)),
        ),
        Event::Refreshed { path, lifetime_secs, .. } => debug!(
            event = "refreshed",
            session = %session,
            client = %veil.address(path.client),
            lifetime_secs,
        ),
        Event::Permitted { path, peer, .. } => debug!(
            event = "permitted",
            session = %session,
            client = %veil.address(path.client),
            peer = %veil.ip(*peer),
        ),
        Event::ChannelBound { path, number, peer, .. } => debug!(
            event = "channel_bound",
            session = %session,
            client = %veil.address(path.client),
            peer = %veil.address(*peer),
            number = number.get(),
        ),
        Event::FirstData { path, direction, peer, .. } => debug!(
            event = "first_data",
            session = %session,
            direction = direction.label(),
            client = %veil.address(path.client),
            peer = %veil.address(*peer),
        ),
        Event::DataDropped { path, direction, peer, why, .. } => debug!(
            event = "data_dropped",
            session = %session,
            why = why.label(),
            direction = direction.label(),
            client = %veil.address(path.client),
            peer = peer.map(|peer| tracing::field::display(veil.address(peer))),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Metadata, Subscriber};

    use super::*;
    use crate::shard::privacy::Privacy;
    use crate::turn::{
        EndReason, FiveTuple, Hints, PeerRefusal, Rejection, RelayId, SessionId, SessionKey, Traffic, Transport,
    };

    /// Collects what would be logged, fields and all.
    #[derive(Clone, Default)]
    struct Collected(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Collected {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            struct Line(String);
            impl Visit for Line {
                fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                    write!(self.0, " {field}={value:?}").expect("a string takes everything");
                }
            }
            let mut line = Line(event.metadata().level().to_string());
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    /// TURN-8656-21.3-01: enough to find who was behind a relayed address, and no more.
    #[test]
    fn lines_have_stable_names_and_no_whole_user_name() {
        let session = SessionId(0xBEEF);
        let relay = RelayId::from_token(0x1_0000_0004);
        let relayed = "203.0.113.5:50000".parse().unwrap();
        let path = FiveTuple {
            transport: Transport::Udp,
            client: "192.0.2.1:40000".parse().unwrap(),
            server: "203.0.113.5:3478".parse().unwrap(),
        };
        let account: Arc<str> = "confidential".into();
        let traffic = Traffic { packets_to_peer: 3, bytes_to_peer: 300, ..Traffic::default() };
        let events = [
            Event::Allocated {
                session,
                relay,
                path,
                relayed,
                account: account.clone(),
                realm: None,
                lifetime_secs: 600,
            },
            Event::Ended {
                session,
                relay,
                path,
                relayed,
                account,
                realm: None,
                why: EndReason::Expired,
                traffic,
                hints: Hints::default(),
                unpermitted: [0; 2],
            },
            Event::PeerRefused { session, path, peer: "10.0.0.1:1".parse().unwrap(), why: PeerRefusal::SpecialPurpose },
            Event::AuthenticationFailed {
                session,
                path,
                why: Rejection::WrongPassword,
                claimed: Some("confidential".into()),
            },
        ];
        let veil = Veil { privacy: Privacy::default(), key: SessionKey::default() };
        let lines = Collected::default();
        tracing::subscriber::with_default(lines.clone(), || events.iter().for_each(|event| log(&veil, event)));
        let lines = lines.0.lock().unwrap();
        let expected = [
            ("INFO event=\"allocated\" session=000000000000beef", "lifetime_secs=600"),
            ("INFO event=\"ended\" session=000000000000beef why=\"expired\"", "bytes_to_peer=300"),
            ("DEBUG event=\"peer_refused\" session=000000000000beef why=\"special_purpose\"", "peer=10.0.0.1:1"),
            (
                "DEBUG event=\"authentication_failed\" session=000000000000beef why=\"wrong_password\"",
                "client=192.0.2.1:40000",
            ),
        ];
        assert_eq!(lines.len(), expected.len());
        for (line, (start, part)) in lines.iter().zip(expected) {
            assert!(line.starts_with(start) && line.contains(part), "{line}");
            assert!(!line.contains("confidential"), "{line}");
        }
        for part in ["account=\"co~", "client=192.0.2.1:40000", "relayed=203.0.113.5:50000"] {
            assert!(lines[0].contains(part), "{}", lines[0]);
        }
    }

    /// Abuse S20: whoever floods writes no log.
    #[test]
    fn lines_of_strangers_are_limited_and_the_rest_is_counted() {
        let path = FiveTuple {
            transport: Transport::Udp,
            client: "192.0.2.1:40000".parse().unwrap(),
            server: "203.0.113.5:3478".parse().unwrap(),
        };
        let veil = Veil { privacy: Privacy::default(), key: SessionKey::default() };
        let event = Event::Challenged { session: SessionId(1), path };
        let collected = Collected::default();
        let mut lines = Lines::new(50);
        tracing::subscriber::with_default(collected.clone(), || {
            (0..1000).for_each(|step| lines.write(Now(2_000_000_000 + step), &veil, &event));
            lines.write(Now(3_100_000_000), &veil, &event);
            lines.limit(0);
            lines.write(Now(4_200_000_000), &veil, &event);
        });
        let collected = collected.0.lock().unwrap();
        assert_eq!(collected.len(), 50 + 2);
        assert!(collected.iter().any(|line| line.contains("lines_left_out") && line.contains("count=950")));
    }
}
