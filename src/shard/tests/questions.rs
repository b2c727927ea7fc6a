//! Questions of the control plane, and who answers them.

use std::sync::mpsc::{self, Receiver};

use super::*;
use crate::shard::{SessionsPage, TooManyQuestions};
use crate::turn::{Session, SessionFilter, WalkPlace};

fn page(
    shards: &Shards,
    shard: u16,
    filter: &SessionFilter,
    from: WalkPlace,
    limit: usize,
) -> Receiver<Option<SessionsPage>> {
    let (answer, answered) = mpsc::channel();
    shards
        .list_sessions(shard, filter.clone(), from, limit, move |page| drop(answer.send(page)))
        .expect("few questions");
    answered
}

/// All sessions, a few at a time.
fn sessions(shards: &Shards, filter: &SessionFilter, limit: usize) -> Vec<Session> {
    let mut all = Vec::new();
    for shard in 0..shards.count() {
        let mut at = Some(WalkPlace::default());
        while let Some(from) = at {
            let page = page(shards, shard, filter, from, limit).recv_timeout(client::PATIENCE).unwrap().unwrap();
            assert!(page.sessions.len() <= limit);
            all.extend(page.sessions);
            at = page.next;
        }
    }
    all
}

fn kill(shards: &Shards, filter: &SessionFilter) -> usize {
    let (answer, answered) = mpsc::channel();
    shards.end_sessions(filter.clone(), EndReason::Killed, move |ended| drop(answer.send(ended))).unwrap();
    let ended = answered.recv_timeout(client::PATIENCE).unwrap();
    assert_eq!(ended.len(), usize::from(shards.count()));
    ended.iter().sum()
}

#[test]
fn sessions_of_all_shards_are_listed_page_by_page_and_killed() {
    let shards = Shards::start(settings(2)).unwrap();
    let mut clients: Vec<(Client, SocketAddr)> = (0..100)
        .map(|number| {
            let mut client = Client::of(&shards, Transport::Udp).named(if number % 2 == 0 { "alice" } else { "bob" });
            let relayed = client.allocate();
            (client, relayed)
        })
        .collect();
    let all = SessionFilter::default();
    for limit in [1, 7, 1000] {
        let found = sessions(&shards, &all, limit);
        assert_eq!(found.len(), 100);
        for (client, relayed) in &clients {
            let session = found.iter().find(|session| session.relayed[0].address == *relayed).expect("each of them");
            assert_eq!(session.path.client, client.local_address());
        }
    }
    let alice = SessionFilter { user: Some("alice".into()), ..all.clone() };
    assert_eq!(sessions(&shards, &alice, 1000).len(), 50);
    assert_eq!(kill(&shards, &alice), 50);
    assert_eq!((shards.allocations(), sessions(&shards, &alice, 1000).len()), (50, 0));
    assert_eq!(kill(&shards, &alice), 0);
    let (killed, relayed) = &mut clients[0];
    UdpSocket::relay(*relayed, 4096, true).expect("its port is free");
    assert_eq!(killed.refresh(600).error(), ErrorCode::AllocationMismatch.number());
    assert_eq!(clients[1].0.refresh(600).error(), 0);
    wait_for(&shards, "the killed are counted", |snapshot| {
        snapshot.total.turn.allocations_ended[place(EndReason::ALL, EndReason::Killed)] == 50
    });
}

#[test]
fn a_shard_that_starts_again_answers_nothing_and_nobody_waits() {
    let shards = Shards::start(settings(2)).unwrap();
    let all = SessionFilter::default();
    shards.crash_for_test(1);
    // In the former life, between the two or in the next one: there is an answer, or the word that there is none.
    let answers: Vec<_> = (0..10).map(|_| page(&shards, 1, &all, WalkPlace::default(), 10)).collect();
    for answer in answers {
        let answer = answer.recv_timeout(client::PATIENCE).unwrap();
        assert!(answer.is_none_or(|page| page == SessionsPage::default()));
    }
    assert_eq!(page(&shards, 7, &all, WalkPlace::default(), 10).recv().unwrap(), None, "there is no such shard");
    wait_for(&shards, "the restart", |snapshot| snapshot.total.shell.shard_restarts == 1);
    // It is counted before the mail of the former life is thrown away, with what is asked in between.
    let deadline = std::time::Instant::now() + client::PATIENCE;
    while page(&shards, 1, &all, WalkPlace::default(), 10).recv_timeout(client::PATIENCE).unwrap().is_none() {
        assert!(std::time::Instant::now() < deadline, "the next life answers");
        std::thread::yield_now();
    }
    assert_eq!(sessions(&shards, &all, 10), []);
}

#[test]
fn questions_without_an_answer_are_bounded() {
    let shards = Shards::start(settings(1)).unwrap();
    let (wait, go_on) = mpsc::channel::<()>();
    // The first answer holds its shard up, so that the others stay without one.
    let all = SessionFilter::default;
    shards.list_sessions(0, all(), WalkPlace::default(), 1, move |_| _ = go_on.recv()).unwrap();
    let mut asked = 1;
    let refused = loop {
        match shards.list_sessions(0, all(), WalkPlace::default(), 1, drop) {
            Ok(()) => asked += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!((asked, refused), (16, TooManyQuestions));
    drop(wait);
    let deadline = std::time::Instant::now() + client::PATIENCE;
    while shards.list_sessions(0, all(), WalkPlace::default(), 1, drop).is_err() {
        assert!(std::time::Instant::now() < deadline, "they are given back");
        std::thread::yield_now();
    }
}

#[test]
fn a_drain_can_be_taken_back() {
    let shards = Shards::start(settings(2)).unwrap();
    let mut clients: Vec<Client> = (0..20).map(|_| Client::of(&shards, Transport::Udp)).collect();
    shards.drain();
    // Commands go before packets that come later, but each client may be the first of its shard.
    for client in &mut clients {
        assert_eq!(client.try_allocate().error(), ErrorCode::InsufficientCapacity.number());
    }
    shards.crash_for_test(0);
    wait_for(&shards, "the restart", |snapshot| snapshot.total.shell.shard_restarts == 1);
    shards.undrain();
    for client in &mut clients {
        assert_eq!(client.try_allocate().error(), 0);
    }
}
