//! Bounds under floods, fairness, and what is found again.

use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::stories::{ENTRIES_PER_STORY, Stories};
use super::*;
use crate::shard::privacy::{Privacy, ShownAddresses, ShownNames};
use crate::turn::{EndReason, PeerRefusal, Rejection, SessionKey};

const VEIL: Veil =
    Veil { privacy: Privacy { addresses: ShownAddresses::Full, names: ShownNames::Short }, key: SessionKey([9; 16]) };
const UNIX_SECS: u64 = 1_800_000_000;

fn hashes() -> RandomState {
    RandomState::with_seeds(1, 2, 3, 4)
}

fn recorder(events: usize) -> Recorder {
    Recorder::new(RecorderSettings { events, silence_secs: 30 }, hashes())
}

fn at(secs: u64) -> Now {
    Now(secs * 1_000_000_000)
}

fn path(client: &str) -> FiveTuple {
    FiveTuple {
        transport: Transport::Udp,
        client: client.parse().unwrap(),
        server: "203.0.113.5:3478".parse().unwrap(),
    }
}

fn failed(client: SocketAddr, name: &str) -> Event {
    let path = FiveTuple { client, ..path("192.0.2.1:1") };
    let claimed = Some(name.into());
    Event::AuthenticationFailed { session: VEIL.key.id(&path), path, why: Rejection::WrongPassword, claimed }
}

fn allocated(client: &str, relay: u64, name: &str) -> Event {
    let path = path(client);
    let session = VEIL.key.id(&path);
    let relayed = "203.0.113.5:50000".parse().unwrap();
    let relay = RelayId::from_token(relay << 1);
    Event::Allocated { session, relay, path, relayed, account: name.into(), realm: None, lifetime_secs: 600 }
}

fn found(recorder: &Recorder, query: StoryQuery) -> Vec<Told> {
    recorder.find(Clock { now: at(1000), unix_secs: UNIX_SECS }, &VEIL, &query)
}

#[test]
fn entries_are_small() {
    assert!(std::mem::size_of::<Entry>() <= 64, "{}", std::mem::size_of::<Entry>());
    assert!(std::mem::size_of::<Story>() <= 224, "{}", std::mem::size_of::<Story>());
}

#[test]
fn a_story_is_found_by_name_address_and_session() {
    let mut recorder = recorder(1024);
    let path = path("192.0.2.1:40000");
    let session = VEIL.key.id(&path);
    recorder.note(at(1), &VEIL, &Event::Challenged { session, path });
    recorder.note(at(2), &VEIL, &failed(path.client, "bob"));
    recorder.note(at(3), &VEIL, &failed(path.client, "bob"));
    recorder.note(at(4), &VEIL, &allocated("192.0.2.1:40000", 1, "bob"));
    let peer = "10.0.0.5:9".parse().unwrap();
    recorder.note(at(5), &VEIL, &Event::PeerRefused { session, path, peer, why: PeerRefusal::SpecialPurpose });
    let queries =
        [StoryQuery::Session(session), StoryQuery::Client(path.client.ip()), StoryQuery::User("bob".to_owned())];
    for query in queries {
        let told = found(&recorder, query);
        assert_eq!(told.len(), 1);
        let labels: Vec<_> = told[0].entries.iter().map(|entry| (entry.what.label(), entry.times)).collect();
        assert_eq!(labels, [("challenged", 1), ("authentication_failed", 2), ("allocated", 1), ("peer_refused", 1)]);
        assert_eq!((told[0].name.as_deref(), told[0].is_live), (Some("bo~81b637d8"), true));
    }
    for query in [StoryQuery::Client("192.0.2.2".parse().unwrap()), StoryQuery::User("bobby".to_owned())] {
        assert_eq!(found(&recorder, query), []);
    }
    let (why, traffic, account) = (EndReason::Expired, Traffic::default(), Arc::from("bob"));
    let (relay, relayed) = (RelayId::from_token(2), "203.0.113.5:50000".parse().unwrap());
    let (unpermitted, hints) = ([0; 2], crate::turn::Hints::default());
    recorder.note(
        at(6),
        &VEIL,
        &Event::Ended { session, relay, path, relayed, account, realm: None, why, traffic, hints, unpermitted },
    );
    assert!(!found(&recorder, StoryQuery::Session(session))[0].is_live);
}

#[test]
fn what_may_not_be_shown_is_found_and_not_kept() {
    let privacy = Privacy { addresses: ShownAddresses::Hashed, names: ShownNames::Hashed };
    let veil = Veil { privacy, ..VEIL };
    let mut recorder = recorder(1024);
    recorder.note(at(1), &veil, &failed("192.0.2.1:40000".parse().unwrap(), "confidential"));
    let query = StoryQuery::User("confidential".to_owned());
    let told = recorder.find(Clock { now: at(2), unix_secs: UNIX_SECS }, &veil, &query);
    assert_eq!(told.len(), 1);
    let all = format!("{recorder:?}");
    assert!(!all.contains("confidential") && !all.contains("192.0.2.1") && !all.contains("192, 0, 2, 1"), "{all}");
}

/// Abuse S5, S12: whoever floods loses what is his.
#[test]
fn a_flood_from_one_network_pushes_out_nobody_else() {
    let mut recorder = recorder(4096);
    let honest: Vec<SocketAddr> = (0..40).map(|host| SocketAddr::from(([198, 51, host, 7], 4000))).collect();
    for client in &honest {
        recorder.note(at(1), &VEIL, &failed(*client, "carol"));
    }
    recorder.note(at(1), &VEIL, &allocated("198.51.100.7:4000", 1, "dave"));
    for number in 0..200_000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        let client = SocketAddr::from(([192, 0, 2, low], 1024 + u16::from(high) * 64 + u16::from(low) % 64));
        recorder.note(at(2 + u64::from(number) / 1000), &VEIL, &failed(client, "mallory"));
    }
    for client in honest {
        assert_eq!(found(&recorder, StoryQuery::Client(client.ip())).len(), 1, "{client}");
    }
    assert_eq!(found(&recorder, StoryQuery::User("dave".to_owned())).len(), 1);
    recorder.strangers.check();
    recorder.sessions.check();
}

#[test]
fn a_long_story_keeps_its_beginning_and_its_end() {
    let mut recorder = recorder(1024);
    recorder.note(at(1), &VEIL, &allocated("192.0.2.1:40000", 1, "bob"));
    let path = path("192.0.2.1:40000");
    let session = VEIL.key.id(&path);
    for number in 0..200_u8 {
        recorder.note(at(2), &VEIL, &Event::Permitted { session, path, peer: [203, 0, 113, number].into() });
    }
    let told = found(&recorder, StoryQuery::Session(session)).remove(0);
    assert_eq!(told.entries.len(), ENTRIES_PER_STORY as usize);
    assert_eq!(told.omitted, 201 - ENTRIES_PER_STORY);
    assert_eq!(told.entries[0].what.label(), "allocated");
    let last = What::Permitted(VEIL.ip([203, 0, 113, 199].into()));
    assert_eq!(told.entries.last().map(|entry| entry.what), Some(last));
    recorder.sessions.check();
}

#[test]
fn silence_is_noticed_by_direction_and_ends() {
    let mut recorder = recorder(1024);
    recorder.note(at(0), &VEIL, &allocated("192.0.2.1:40000", 1, "bob"));
    let mut sent = Traffic::default();
    for secs in (10..=90).step_by(10) {
        sent.packets_to_peer += 1;
        recorder.look(at(secs), |_| Some(sent));
    }
    for secs in (100..=130).step_by(10) {
        recorder.look(at(secs), |_| Some(sent));
    }
    sent.packets_to_client = 1;
    recorder.look(at(140), |_| Some(sent));
    let told = found(&recorder, StoryQuery::User("bob".to_owned())).remove(0);
    let heard: Vec<What> = told.entries[1..].iter().map(|entry| entry.what).collect();
    assert_eq!(
        heard,
        [
            What::Silent { direction: Some(Direction::ToClient), secs: 30 },
            What::Silent { direction: None, secs: 30 },
            What::Resumed
        ]
    );
}

#[test]
fn off_means_that_nothing_is_kept() {
    let mut recorder = recorder(0);
    recorder.note(at(1), &VEIL, &allocated("192.0.2.1:40000", 1, "bob"));
    recorder.note(at(1), &VEIL, &failed("192.0.2.1:40000".parse().unwrap(), "bob"));
    assert_eq!(recorder.next_look(), None);
    assert_eq!(found(&recorder, StoryQuery::User("bob".to_owned())), []);
}

proptest! {
    /// Whatever comes, neither entries nor stories grow beyond their number, and none is lost.
    #[test]
    fn memory_stays_bounded(
        entries in 4_usize..200,
        steps in proptest::collection::vec((0_u8..40, 0_u8..4, 0_u8..6, any::<bool>()), 0..600),
    ) {
        let mut stories = Stories::new(entries, hashes());
        for (number, (host, network, what, is_taken)) in steps.into_iter().enumerate() {
            let path = path(&format!("192.0.{network}.{host}:4000"));
            let session = VEIL.key.id(&path);
            if is_taken && what == 0 {
                stories.take(session);
            } else {
                let peer = VEIL.ip([203, 0, 113, what].into());
                stories.add(who(&VEIL, session, &path), at(number as u64), What::Permitted(peer));
                prop_assert!(stories.has(session));
            }
            stories.check();
        }
    }
}
