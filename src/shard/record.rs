//! Events as log lines. The words are chosen here, once; `event` is stable and may be searched for.
//!
//! INFO is what an operator would tell a colleague. Neither whole user names nor anything secret gets here.

use std::fmt;

use sha2::{Digest, Sha256};
use tracing::{debug, info};

use crate::turn::Event;

/// Writes one line.
pub(super) fn log(event: &Event) {
    match event {
        Event::Allocated { session, relay: _, path, relayed, account, lifetime_secs } => info!(
            event = "allocated",
            session = %session,
            transport = path.transport.label(),
            client = %path.client,
            server = %path.server,
            relayed = %relayed,
            account = %Account(account),
            lifetime_secs,
        ),
        Event::Ended { session, relay: _, path, relayed, account, why, traffic, hints } => info!(
            event = "ended",
            session = %session,
            why = why.label(),
            transport = path.transport.label(),
            client = %path.client,
            relayed = %relayed,
            account = %Account(account),
            packets_to_peer = traffic.packets_to_peer,
            bytes_to_peer = traffic.bytes_to_peer,
            packets_to_client = traffic.packets_to_client,
            bytes_to_client = traffic.bytes_to_client,
            peers = hints.peers,
            ports = hints.ports,
            foreign_percent = hints.foreign_percent(),
        ),
        Event::Moved { session, relay: _, from, to, account } => info!(
            event = "moved",
            session = %session,
            from = from.map(|from| tracing::field::display(from.client)),
            transport = to.map(|to| to.transport.label()),
            client = to.map(|to| tracing::field::display(to.client)),
            account = %Account(account),
        ),
        Event::PeerConnected { session, relay: _, path, peer, is_incoming } => info!(
            event = "peer_connected",
            session = %session,
            client = %path.client,
            peer = %peer,
            is_incoming,
        ),
        Event::PeerDisconnected { session, relay: _, path, peer, why, traffic } => info!(
            event = "peer_disconnected",
            session = %session,
            why = why.label(),
            client = %path.client,
            peer = %peer,
            bytes_to_peer = traffic.bytes_to_peer,
            bytes_to_client = traffic.bytes_to_client,
        ),
        Event::PeerRefused { session, path, peer, why } => debug!(
            event = "peer_refused",
            session = %session,
            why = why.label(),
            transport = path.transport.label(),
            client = %path.client,
            peer = %peer,
        ),
        Event::AuthenticationFailed { session, path, why } => debug!(
            event = "authentication_failed",
            session = %session,
            why = why.label(),
            transport = path.transport.label(),
            client = %path.client,
        ),
    }
}

/// Enough of an account to recognise one that is known, too little to learn one: two characters and a short hash.
struct Account<'a>(&'a str);

impl fmt::Display for Account<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars().take(2) {
            // A user name may contain anything; a log line may not (abuse S20).
            let harmless = character.is_alphanumeric() || matches!(character, '.' | '-' | '_');
            fmt::Write::write_char(f, if harmless { character } else { '?' })?;
        }
        let digest = Sha256::digest(self.0.as_bytes());
        f.write_str("~")?;
        digest[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Metadata, Subscriber};

    use super::*;
    use crate::turn::{EndReason, FiveTuple, Hints, PeerRefusal, Rejection, RelayId, SessionId, Traffic, Transport};

    #[test]
    fn accounts_are_shortened_and_harmless() {
        assert_eq!(Account("alice").to_string(), "al~2bd806c9");
        assert_eq!(Account("").to_string(), "~e3b0c442");
        for name in ["\n\0evil", "%s' DROP", "\u{1b}[31m", "日本語"] {
            let shown = Account(name).to_string();
            assert!(shown.chars().all(|c| c.is_alphanumeric() || "?~.-_".contains(c)), "{shown:?}");
            assert_eq!(shown.chars().count(), 2 + 1 + 8);
        }
    }

    /// Collects what would be logged, fields and all.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Lines {
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
            Event::Allocated { session, relay, path, relayed, account: account.clone(), lifetime_secs: 600 },
            Event::Ended {
                session,
                relay,
                path,
                relayed,
                account,
                why: EndReason::Expired,
                traffic,
                hints: Hints::default(),
            },
            Event::PeerRefused { session, path, peer: "10.0.0.1:1".parse().unwrap(), why: PeerRefusal::SpecialPurpose },
            Event::AuthenticationFailed { session, path, why: Rejection::WrongPassword },
        ];
        let lines = Lines::default();
        tracing::subscriber::with_default(lines.clone(), || events.iter().for_each(log));
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
        for part in ["account=co~", "client=192.0.2.1:40000", "relayed=203.0.113.5:50000"] {
            assert!(lines[0].contains(part), "{}", lines[0]);
        }
    }
}
