//! Keys that are kept elsewhere: who waits for one is answered, and nobody else waits.

use std::sync::mpsc;

use super::client::{Client, REALM, address, config, settings, wait_for};
use super::*;
use crate::turn::{Credentials, KeyAnswer, KeyLookUps, StaticUser};

fn ask_elsewhere(count: u16) -> Settings {
    let base = config();
    let look_ups = KeyLookUps {
        found_secs: 60,
        not_found_secs: 5,
        stale_secs: 0,
        timeout_secs: 60,
        remembered: 100,
        waiting: 100,
        per_prefix: 0,
        source: 1,
    };
    let credentials = Credentials { look_ups: Some(look_ups), ..base.credentials };
    Settings { turn: Arc::new(turn::Config { credentials, ..base }), ..settings(count) }
}

/// Shards whose questions come out of a channel.
fn start(settings: Settings) -> (Shards, mpsc::Receiver<KeyQuestion>) {
    let (entrance, questions) = mpsc::channel();
    let ask = move |question| drop(entrance.send(question));
    (Shards::start_with(settings, drop, ask, None).unwrap(), questions)
}

fn found(question: KeyQuestion) {
    assert_eq!((&*question.who, &*question.realm), ("carol", REALM));
    question.answer(KeyAnswer::Found(Arc::new(StaticUser::from_password("carol", REALM, "password"))));
}

fn ask_to_allocate(client: &mut Client) {
    client.learn_nonce();
    client.send_signed(Method::Allocate, &[(AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])]);
}

/// STUN-8489-6.2.2-03: a connection stays while its request is not answered, though it says nothing.
#[test]
fn stun_8489_6_2_2_03_a_connection_that_waits_for_its_answer_is_not_closed() {
    let mut settings = ask_elsewhere(1);
    settings.connections.idle_secs = 1;
    let (shards, questions) = start(settings);
    let mut carol = Client::of(&shards, Transport::Tcp).named("carol");
    ask_to_allocate(&mut carol);
    let question = questions.recv().unwrap();
    // Younger and silent: when it has been closed, the other would have been before.
    let _silent = std::net::TcpStream::connect(address(&shards, Transport::Tcp)).unwrap();
    wait_for(&shards, "a silent one closed", |snapshot| snapshot.total.shell.connections_idle == 1);
    assert_eq!(shards.snapshot().total.connections, 1);
    found(question);
    assert_eq!(carol.receive()[..2], [0x01, 0x03], "an Allocate success response");
}

/// One shard, one user who waits: whoever is known is served, over every transport.
#[test]
fn who_is_known_is_served_while_others_wait() {
    for &transport in client::TRANSPORTS {
        let (shards, questions) = start(ask_elsewhere(1));
        let mut carol = Client::of(&shards, transport).named("carol");
        ask_to_allocate(&mut carol);
        let question = questions.recv().unwrap();
        let mut alice = Client::of(&shards, transport);
        alice.allocate();
        wait_for(&shards, "one waits", |snapshot| snapshot.total.requests_waiting == 1);
        found(question);
        assert_eq!(carol.receive()[..2], [0x01, 0x03], "an Allocate success response");
    }
}

/// A question that somebody loses is answered, and so is one about a shard that has started again meanwhile.
#[test]
fn a_question_that_is_dropped_is_answered_500() {
    let (shards, questions) = start(ask_elsewhere(1));
    let mut carol = Client::of(&shards, Transport::Udp).named("carol");
    ask_to_allocate(&mut carol);
    drop(questions.recv().unwrap());
    assert_eq!(client::Answer(carol.receive()).error(), 500);
    ask_to_allocate(&mut carol);
    let late = questions.recv().unwrap();
    shards.crash_for_test(0);
    wait_for(&shards, "a new life", |snapshot| snapshot.total.shell.shard_restarts == 1);
    found(late);
    let mut alice = Client::of(&shards, Transport::Udp);
    alice.allocate();
}
