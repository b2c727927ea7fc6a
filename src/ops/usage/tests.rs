//! What becomes of news that were dropped, and of records that a crash has cut.

use std::net::SocketAddr;
use std::sync::Arc;

use super::deliver::SinkKind;
use super::journal::Journal;
use super::reader::read;
use super::record::{Kind, Record};
use super::sessions::Sessions;
use super::spool::Spool;
use super::{Drop, Figures, Queue};
use crate::shard::{SessionsPage, Tidings};
use crate::turn::{EndReason, Event, FiveTuple, RelayId, Session, SessionId, SessionRelay, Traffic, Transport};

const RELAYED: &str = "203.0.113.5:50000";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn path() -> FiveTuple {
    FiveTuple { transport: Transport::Udp, client: address("192.0.2.1:40000"), server: address("203.0.113.5:3478") }
}

fn begun(session: u64) -> Event {
    Event::Allocated {
        session: SessionId(session),
        relay: RelayId::from_token(0),
        path: path(),
        relayed: address(RELAYED),
        account: "alice".into(),
        realm: None,
        lifetime_secs: 600,
    }
}

fn traffic(bytes: u64) -> Traffic {
    Traffic { bytes_to_peer: bytes, packets_to_peer: 1, ..Traffic::default() }
}

fn ended(session: u64, bytes: u64) -> Event {
    Event::Ended {
        session: SessionId(session),
        relay: RelayId::from_token(0),
        path: path(),
        relayed: address(RELAYED),
        account: "alice".into(),
        realm: None,
        why: EndReason::Expired,
        traffic: traffic(bytes),
        hints: crate::turn::Hints::default(),
        unpermitted: [0; 2],
    }
}

fn page(session: u64, bytes: u64) -> SessionsPage {
    let relay = SessionRelay { address: address(RELAYED), lifetime_left_secs: 500, traffic: traffic(bytes) };
    let session = Session {
        relay: RelayId::from_token(0),
        id: SessionId(session),
        path: path(),
        is_in_reach: true,
        username: "alice".into(),
        account: Arc::from("alice"),
        realm: Arc::from("example.org"),
        peer_transport: crate::turn::PeerTransport::Udp,
        relayed: [relay].into_iter().collect(),
        age_secs: 7,
        permissions: 2,
        channels: 0,
        peer_connections: 0,
    };
    SessionsPage { sessions: vec![session], next: None }
}

/// What was written: kind, reason, bytes.
fn told(records: &mut Vec<Record>) -> Vec<(Kind, Option<String>, u64)> {
    records.drain(..).map(|record| (record.kind, record.reason, record.bytes_to_peer)).collect()
}

fn stop(why: &str, bytes: u64) -> (Kind, Option<String>, u64) {
    (Kind::Stop, Some(why.to_owned()), bytes)
}

#[test]
fn an_end_that_nobody_told_of_is_found_in_the_second_look() {
    let (mut sessions, mut records) = (Sessions::new(1, true), Vec::new());
    sessions.hear(0, &begun(1), 1_000, |record| records.push(record.clone()));
    sessions.begin_look(0);
    sessions.see(0, &page(1, 50), false, 2_000, |record| records.push(record.clone()));
    sessions.end_look(0, 2_000, |record| records.push(record.clone()));
    assert_eq!(told(&mut records), [(Kind::Start, None, 0)]);
    for is_believed in [false, true] {
        sessions.begin_look(0);
        sessions.see(0, &SessionsPage::default(), false, 3_000, |_| panic!("nothing is there"));
        sessions.end_look(0, 3_000, |record| records.push(record.clone()));
        assert_eq!(records.len(), usize::from(is_believed));
    }
    assert_eq!(records[0].duration_ms, 1_000, "until it was last seen");
    assert_eq!(told(&mut records), [stop("unknown", 50)]);
    // Should the news come after all, it is not told of as living, and ends with what it had.
    sessions.shard_restarted(0, 4_000, |_| panic!("nothing is left"));
}

#[test]
fn a_beginning_that_nobody_told_of_is_found_by_a_look_or_at_the_end() {
    let (mut sessions, mut records) = (Sessions::new(1, true), Vec::new());
    sessions.begin_look(0);
    sessions.see(0, &page(1, 50), true, 10_000, |record| records.push(record.clone()));
    assert_eq!(records[0].started_unix_ms, 3_000, "its age tells");
    assert_eq!(records[1].peers, Some(2));
    assert_eq!(told(&mut records), [(Kind::Start, None, 0), (Kind::Interim, None, 50)]);
    // Another one at the same address: the end of the first and its own beginning were dropped.
    sessions.hear(0, &ended(2, 70), 11_000, |record| records.push(record.clone()));
    assert_eq!(told(&mut records), [stop("unknown", 50), (Kind::Start, None, 0), stop("expired", 70)]);
}

#[test]
fn a_page_that_is_older_than_an_end_brings_nobody_back() {
    let (mut sessions, mut records) = (Sessions::new(1, true), Vec::new());
    sessions.hear(0, &begun(1), 1_000, |record| records.push(record.clone()));
    sessions.begin_look(0);
    sessions.hear(0, &ended(1, 9), 2_000, |record| records.push(record.clone()));
    sessions.see(0, &page(1, 9), true, 2_000, |record| records.push(record.clone()));
    sessions.end_look(0, 2_000, |record| records.push(record.clone()));
    assert_eq!(told(&mut records), [(Kind::Start, None, 0), stop("expired", 9)]);
}

#[test]
fn a_shard_that_panicked_ends_its_own_and_no_others() {
    let (mut sessions, mut records) = (Sessions::new(2, false), Vec::new());
    sessions.hear(1, &begun(1), 1_000, |record| records.push(record.clone()));
    assert_eq!(records[0].client, None);
    sessions.shard_restarted(0, 2_000, |_| panic!("it had none"));
    sessions.shard_restarted(1, 2_000, |record| records.push(record.clone()));
    assert_eq!(told(&mut records), [(Kind::Start, None, 0), stop("shard_restarted", 0)]);
}

/// The limit `usage.queue`: shards never wait, and what does not fit is counted.
#[test]
fn what_does_not_fit_into_the_queue_is_counted() {
    let text = "[auth]\nsecrets = [\"0123456789abcdef\"]\n[usage]\nfile = \"f\"\nspool = \"s\"\nqueue = 64";
    let config = crate::config::check_text(text, None, &crate::config::Machine::any()).unwrap();
    let figures = Arc::<Figures>::default();
    let queue = Queue::new(config.usage.unwrap(), Arc::clone(&figures));
    let accountant = queue.accountant();
    for session in 0..70 {
        accountant.tell(0, Tidings::Event(&begun(session)));
    }
    accountant.tell(0, Tidings::Restarted);
    assert_eq!(figures.count_dropped(Drop::QueueFull), 7);
    // Nobody keeps account of these.
    let failed = Event::AuthenticationFailed {
        session: SessionId(1),
        path: path(),
        why: crate::turn::Rejection::WrongPassword,
        claimed: None,
    };
    accountant.tell(0, Tidings::Event(&failed));
    assert_eq!(figures.count_dropped(Drop::QueueFull), 7);
}

/// A receiver sees every record once, across files that are begun meanwhile, and none of a checkpoint; after a restart it
/// goes on where it was.
#[test]
fn a_reader_goes_through_all_files_and_keeps_its_place() {
    let directory = std::env::temp_dir().join(format!("hairpin-spool-{}", std::process::id()));
    let text =
        format!("[auth]\nsecrets = [\"0123456789abcdef\"]\n[usage]\nfile = \"f\"\nspool = \"{}\"", directory.display());
    let config = crate::config::check_text(&text, None, &crate::config::Machine::any()).unwrap();
    let settings = config.usage.unwrap();
    let kinds = [SinkKind::File];
    let open = || Journal::open(&settings, &kinds, Arc::default()).unwrap();
    let (mut journal, live) = open();
    assert!(live.is_empty());
    let mut sessions = Sessions::new(1, true);
    let mut lines = Vec::new();
    sessions.hear(0, &begun(1), 1, |record| record.write(&mut lines));
    journal.append(&lines, 1).unwrap();
    let mut checkpoint = Vec::new();
    sessions.checkpoint(&mut checkpoint);
    journal.begin_file(&checkpoint).unwrap();
    journal.append(b"{\"kind\":\"stop\",\"cut\n", 1).unwrap();
    let spool = journal.spool();
    let take = |spool: &Spool, most: usize| {
        let batch = read(spool, SinkKind::File, spool.place(SinkKind::File), *spool.head().borrow(), most).unwrap();
        spool.acknowledge(SinkKind::File, batch.end, batch.records.len() as u64).unwrap();
        batch.records.len()
    };
    assert_eq!(spool.waiting_max(), 2);
    assert_eq!(take(&spool, 1), 1);
    let again = Journal::open(&settings, &kinds, Arc::default());
    assert!(again.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse), "it is in use");
    drop(journal);
    // The line that nobody understands is passed on and ends nothing.
    let (journal, live) = open();
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].kind, Kind::Live);
    let spool = journal.spool();
    assert_eq!(spool.waiting_max(), 1);
    assert_eq!((take(&spool, 10), take(&spool, 10)), (1, 0));
    assert_eq!(spool.waiting_max(), 0);
    std::fs::remove_dir_all(&directory).unwrap();
}

/// Heard or seen, a realm is told only where the account names it.
#[test]
fn records_name_the_realm_where_there_are_several() {
    for (account, realm, told) in [
        ("alice", None, None),
        ("alice@example.org", Some("example.org"), Some("example.org")),
        ("alice@a@example.org", Some("example.org"), Some("example.org")),
    ] {
        let (mut heard, mut seen) = (Vec::new(), Vec::new());
        let mut event = begun(1);
        if let Event::Allocated { account: of_event, realm: of_realm, .. } = &mut event {
            (*of_event, *of_realm) = (account.into(), realm.map(Into::into));
        }
        Sessions::new(1, true).hear(0, &event, 1_000, |record| heard.push(record.realm.clone()));
        let mut page = page(1, 50);
        page.sessions[0].account = account.into();
        let mut sessions = Sessions::new(1, true);
        sessions.begin_look(0);
        sessions.see(0, &page, false, 1_000, |record| seen.push(record.realm.clone()));
        assert_eq!((heard, seen), (vec![told.map(str::to_owned)], vec![told.map(str::to_owned)]), "{account}");
    }
}
