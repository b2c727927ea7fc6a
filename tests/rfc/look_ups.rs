//! Users whose keys are kept elsewhere: who is looked up, who waits, what becomes of those who have waited.

use std::sync::Arc;

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{
    Config, Credentials, FiveTuple, KeyAnswer, KeyLookUps, Limit, LookUp, NonceKeys, Reason, Rejection, StaticUser,
    Transport,
};

use crate::client::{Client, Response, bare, lifetime, udp};
use crate::tcp::{connect, connected, connection_id, control, tcp_config};
use crate::world::{PEER, REALM, Seen, World, config, path, path_over};

const CLIENT: &str = "192.0.2.77:5000";

pub fn look_ups() -> KeyLookUps {
    KeyLookUps {
        found_secs: 60,
        not_found_secs: 5,
        stale_secs: 0,
        timeout_secs: 10,
        remembered: 100,
        waiting: 20,
        per_prefix: 0,
        source: 1,
    }
}

fn elsewhere(look_ups: KeyLookUps) -> Config {
    let base = config();
    let credentials = Credentials { look_ups: Some(look_ups), secrets: Vec::new(), ..base.credentials };
    Config { credentials, ..base }
}

fn world() -> World {
    World::with(elsewhere(look_ups()))
}

fn with(change: impl FnOnce(&mut KeyLookUps)) -> World {
    let mut look_ups = look_ups();
    change(&mut look_ups);
    World::with(elsewhere(look_ups))
}

pub fn key(name: &str, password: &str) -> KeyAnswer {
    KeyAnswer::Found(Arc::new(StaticUser::from_password(name, REALM, password)))
}

impl World {
    /// Answers the first question that is open.
    #[track_caller]
    pub fn answer_key(&mut self, who: &str, answer: KeyAnswer) -> Option<Seen> {
        assert!(!self.questions.is_empty(), "nobody is asked for");
        let (ticket, asked) = self.questions.remove(0);
        assert_eq!(&*asked, who);
        self.server.key_found(self.clock, ticket, answer);
        self.server.check_invariants();
        self.drain_effects()
    }

    fn count(&self, what: LookUp) -> u64 {
        self.server.counters().look_ups[what as usize]
    }
}

fn allocate(client: &mut Client) -> Vec<u8> {
    client.signed(Method::Allocate, vec![udp()])
}

/// Carol, who is known elsewhere, has an allocation.
fn settled(world: &mut World) -> Client {
    let mut carol = world.client(path(CLIENT), "carol", "pa55");
    assert_eq!(world.send(path(CLIENT), &allocate(&mut carol)), None);
    assert!(world.answer_key("carol", key("carol", "pa55")).expect("an answer").response().is_success());
    carol
}

#[test]
fn a_request_waits_for_its_key_and_is_answered_as_if_it_had_not() {
    let mut world = world();
    let mut carol = world.client(path(CLIENT), "carol", "pa55");
    let request = allocate(&mut carol);
    assert_eq!(world.send(path(CLIENT), &request), None);
    assert_eq!((world.questions.len(), world.server.requests_waiting()), (1, 1));
    assert!(world.server.waits_for_key(&path(CLIENT)));
    let response = world.answer_key("carol", key("carol", "pa55")).expect("an answer").response();
    assert!(response.is_success() && response.message().integrity_holds(&carol.key()));
    assert_eq!((world.server.allocations(), world.server.requests_waiting()), (1, 0));
    // What follows costs no question.
    assert_eq!(world.permit(path(CLIENT), &mut carol, &[PEER]), 0);
    assert_eq!(world.refresh(path(CLIENT), &mut carol, vec![]).error(), 0);
    assert_eq!((world.questions.len(), world.count(LookUp::Remembered)), (0, 2));
    assert_eq!(world.server.counters().requests.iter().sum::<u64>(), 4, "nobody is counted twice");
    // One with the other hash, which is found as well.
    let mut modern = carol.clone();
    modern.signing = crate::client::Signing::Sha256;
    assert_eq!(world.refresh(path(CLIENT), &mut modern, vec![]).error(), 0);
}

#[test]
fn a_wrong_password_and_an_unknown_name_look_alike() {
    let mut world = world();
    let mut carol = world.client(path(CLIENT), "carol", "guess");
    assert_eq!(world.send(path(CLIENT), &allocate(&mut carol)), None);
    let wrong = world.answer_key("carol", key("carol", "pa55")).expect("an answer").response();
    let mut nobody = world.client(path("192.0.2.78:5000"), "nobody", "guess");
    assert_eq!(world.send(path("192.0.2.78:5000"), &allocate(&mut nobody)), None);
    let unknown = world.answer_key("nobody", KeyAnswer::NotFound).expect("an answer").response();
    for response in [&wrong, &unknown] {
        assert_eq!(response.error(), 401);
        assert!(response.first(AttributeType::NONCE).is_some() && !response.message().has_integrity());
    }
    let rejections = world.server.counters().rejections;
    assert_eq!(rejections[Rejection::WrongPassword as usize], 1);
    assert_eq!(rejections[Rejection::UnknownUser as usize], 1);
    // The unknown name is remembered, but not for long.
    let again = allocate(&mut nobody);
    assert_eq!(world.exchange(path("192.0.2.78:5000"), &again).error(), 401);
    assert_eq!(world.count(LookUp::RememberedNotFound), 1);
    world.pass(5);
    assert_eq!(world.send(path("192.0.2.78:5000"), &allocate(&mut nobody)), None);
    assert!(world.answer_key("nobody", key("nobody", "guess")).expect("an answer").response().is_success());
}

/// STUN-8489-14.8-02: 500 says that it may work later, where 401 would say that the password is wrong.
#[test]
fn stun_8489_14_8_02_a_back_end_that_is_down_is_answered_500() {
    let mut world = world();
    let mut carol = world.client(path(CLIENT), "carol", "pa55");
    assert_eq!(world.send(path(CLIENT), &allocate(&mut carol)), None);
    let response = world.answer_key("carol", KeyAnswer::Unavailable).expect("an answer").response();
    assert_eq!(response.error(), 500);
    assert!(response.first(AttributeType::NONCE).is_none() && response.first(AttributeType::REALM).is_none());
    assert_eq!(world.server.counters().rejections[Rejection::KeyUnavailable as usize], 1);
    // And then it is up again: nothing of that is remembered.
    assert_eq!(world.send(path(CLIENT), &allocate(&mut carol)), None);
    assert!(world.answer_key("carol", key("carol", "pa55")).expect("an answer").response().is_success());
    assert_eq!((world.count(LookUp::Unavailable), world.count(LookUp::Found)), (1, 1));
}

#[test]
fn a_question_that_nobody_answers_is_given_up() {
    let mut world = world();
    let mut carol = world.client(path(CLIENT), "carol", "pa55");
    assert_eq!(world.send(path(CLIENT), &allocate(&mut carol)), None);
    world.pass(9);
    let response = world.pass_and_see(1).expect("an answer").response();
    assert_eq!((response.error(), world.server.next_timeout()), (500, None));
    // A late answer, and one to nothing at all, do no harm.
    assert_eq!(world.answer_key("carol", key("carol", "pa55")), None);
    world.server.key_found(world.clock, 12_345, KeyAnswer::NotFound);
    assert_eq!((world.drain_effects(), world.server.allocations()), (None, 0));
}

#[test]
fn strangers_have_nobody_looked_up() {
    let mut world = world();
    let mut carol = Client::new("carol", "pa55");
    // With a nonce of nobody's, of somebody else's, and of an hour ago.
    carol.nonce = b"made up".to_vec();
    assert_eq!(world.exchange(path(CLIENT), &allocate(&mut carol)).error(), 438);
    let other = world.client(path("192.0.2.99:1"), "carol", "pa55");
    carol.nonce = other.nonce;
    assert_eq!(world.exchange(path(CLIENT), &allocate(&mut carol)).error(), 438);
    let mut carol = world.client(path(CLIENT), "carol", "pa55");
    world.pass(3601);
    assert_eq!(world.exchange(path(CLIENT), &allocate(&mut carol)).error(), 438);
    assert_eq!((world.questions.len(), world.server.requests_waiting()), (0, 0));
    // Names that cannot be, and those of static users, are nobody's business either.
    let mut odd = world.client(path(CLIENT), "\u{7}", "x");
    assert_eq!(world.exchange(path(CLIENT), &allocate(&mut odd)).error(), 401);
    let mut alice = world.client(path(CLIENT), "alice", "wrong");
    assert_eq!(world.exchange(path(CLIENT), &allocate(&mut alice)).error(), 401);
    assert_eq!(world.questions, []);
}

#[test]
fn a_request_is_judged_by_the_nonce_that_was_good_when_it_came() {
    let base = elsewhere(look_ups());
    let nonces = NonceKeys { lifetime_secs: 60, ..base.nonces.clone() };
    let mut world = World::with(Config { nonces, ..base });
    let mut carol = world.client(path(CLIENT), "carol", "pa55");
    world.pass(58);
    assert_eq!(world.send(path(CLIENT), &allocate(&mut carol)), None);
    world.pass(8);
    assert!(world.answer_key("carol", key("carol", "pa55")).expect("an answer").response().is_success());
    assert_eq!(world.exchange(path(CLIENT), &carol.signed(Method::Refresh, vec![])).error(), 438);
}

#[test]
fn what_is_repeated_while_it_waits_is_dropped() {
    let mut world = world();
    let mut carol = world.client(path(CLIENT), "carol", "pa55");
    let request = allocate(&mut carol);
    assert_eq!(world.send(path(CLIENT), &request), None);
    for _ in 0..3 {
        assert_eq!(world.send(path(CLIENT), &request), Some(Seen::Dropped(Reason::RetransmissionPending)));
    }
    assert_eq!((world.questions.len(), world.server.requests_waiting()), (1, 1));
    let response = world.answer_key("carol", key("carol", "pa55")).expect("an answer").response();
    // Repeated later it gets the same answer again.
    assert_eq!(world.exchange(path(CLIENT), &request).0, response.0);
}

/// One question a user, however many ask under the name, and each is answered for itself.
#[test]
fn who_comes_under_the_same_name_waits_for_the_same_answer() {
    let mut world = world();
    world.may_send_several = true;
    for port in 1..=5 {
        let path = path(&format!("192.0.2.77:{port}"));
        let mut carol = world.client(path, "carol", if port == 3 { "wrong" } else { "pa55" });
        assert_eq!(world.send(path, &allocate(&mut carol)), None);
    }
    assert_eq!((world.questions.len(), world.server.requests_waiting()), (1, 5));
    world.answer_key("carol", key("carol", "pa55"));
    assert_eq!((world.server.allocations(), world.server.requests_waiting()), (4, 0));
}

#[test]
fn as_many_wait_as_may() {
    let mut world = with(|look_ups| look_ups.waiting = 3);
    for number in 0..3 {
        let path = path(&format!("192.0.2.77:{}", 1000 + number));
        let mut client = world.client(path, &format!("user{number}"), "x");
        assert_eq!(world.send(path, &allocate(&mut client)), None);
    }
    let mut carol = world.client(path(CLIENT), "carol", "pa55");
    assert_eq!(world.send(path(CLIENT), &allocate(&mut carol)), Some(Seen::Dropped(Reason::LookUpsFull)));
    // A stream does not repeat, and is told.
    let tcp = path_over(Transport::Tcp, CLIENT);
    let mut carol = world.client(tcp, "carol", "pa55");
    assert_eq!(world.exchange(tcp, &allocate(&mut carol)).error(), 500);
    assert_eq!(world.server.counters().limits[Limit::LookUpsWaiting as usize], 2);
    // One client cannot take all the places, nor keep a long message there.
    let mut world = self::world();
    let mut carol = world.client(tcp, "carol", "pa55");
    for _ in 0..8 {
        assert_eq!(world.send(tcp, &allocate(&mut carol)), None);
    }
    assert_eq!(world.exchange(tcp, &allocate(&mut carol)).error(), 500);
    let mut dora = world.client(path(CLIENT), "dora", "x");
    let long = dora.signed(Method::Refresh, vec![(AttributeType(0xFF00), vec![0; 5000])]);
    assert_eq!(world.send(path(CLIENT), &long), Some(Seen::Dropped(Reason::LookUpsFull)));
    assert_eq!(world.server.requests_waiting(), 8);
}

#[test]
fn a_network_has_so_many_looked_up_in_a_second() {
    let mut world = with(|look_ups| {
        look_ups.per_prefix = 10;
        look_ups.waiting = 10_000;
    });
    let mut waiting = 0;
    for number in 0..100_u32 {
        let path = path(&format!("192.0.2.{number}:5000"));
        let mut client = world.client(path, &format!("user{number}"), "x");
        match world.send(path, &allocate(&mut client)) {
            None => waiting += 1,
            Some(seen) => assert_eq!(seen, Seen::Dropped(Reason::LookUpRateLimited)),
        }
    }
    assert!((10..=25).contains(&waiting), "{waiting} of 100");
    // Elsewhere nobody notices.
    let mut carol = world.client(path("198.51.100.1:5000"), "carol", "pa55");
    assert_eq!(world.send(path("198.51.100.1:5000"), &allocate(&mut carol)), None);
}

#[test]
fn a_revoked_user_goes_when_the_key_is_asked_for_again() {
    let mut world = world();
    let mut carol = settled(&mut world);
    world.pass(59);
    assert_eq!(world.refresh(path(CLIENT), &mut carol, vec![]).error(), 0);
    world.pass(1);
    let refresh = carol.signed(Method::Refresh, vec![]);
    assert_eq!(world.send(path(CLIENT), &refresh), None);
    assert_eq!(world.answer_key("carol", KeyAnswer::NotFound).expect("an answer").response().error(), 401);
    // Nor does what was remembered count when the back end fails next.
    world.pass(5);
    assert_eq!(world.send(path(CLIENT), &carol.signed(Method::Refresh, vec![])), None);
    assert_eq!(world.answer_key("carol", KeyAnswer::Unavailable).expect("an answer").response().error(), 500);
}

#[test]
fn a_new_password_counts_as_soon_as_it_is_used() {
    let mut world = world();
    settled(&mut world);
    let there = path("192.0.2.78:5000");
    let mut carol = world.client(there, "carol", "changed");
    // Found a moment ago: not asked for again, or guessing would cost questions.
    assert_eq!(world.exchange(there, &allocate(&mut carol)).error(), 401);
    world.pass(5);
    assert_eq!(world.send(there, &allocate(&mut carol)), None);
    assert!(world.answer_key("carol", key("carol", "changed")).expect("an answer").response().is_success());
    // The old one is worth nothing from then on.
    let mut old = world.client(path("192.0.2.79:5000"), "carol", "pa55");
    assert_eq!(world.exchange(path("192.0.2.79:5000"), &allocate(&mut old)).error(), 401);
}

#[test]
fn by_policy_a_key_counts_while_the_back_end_is_down() {
    let mut world = with(|look_ups| look_ups.stale_secs = 100);
    let mut carol = settled(&mut world);
    world.pass(60);
    assert_eq!(world.send(path(CLIENT), &carol.signed(Method::Refresh, vec![])), None);
    assert!(world.answer_key("carol", KeyAnswer::Unavailable).expect("an answer").response().is_success());
    // For a moment nobody asks again.
    assert_eq!(world.refresh(path(CLIENT), &mut carol, vec![]).error(), 0);
    assert_eq!((world.count(LookUp::Stale), world.questions.len()), (1, 0));
    // Who was not known before is told to come again, and so is everybody when the time is over.
    let there = path("192.0.2.78:5000");
    let mut dora = world.client(there, "dora", "x");
    assert_eq!(world.send(there, &allocate(&mut dora)), None);
    assert_eq!(world.answer_key("dora", KeyAnswer::Unavailable).expect("an answer").response().error(), 500);
    world.pass(100);
    assert_eq!(world.send(path(CLIENT), &carol.signed(Method::Refresh, vec![])), None);
    assert_eq!(world.answer_key("carol", KeyAnswer::Unavailable).expect("an answer").response().error(), 500);
}

#[test]
fn a_reload_has_everybody_asked_for_again() {
    let mut world = with(|look_ups| look_ups.stale_secs = 100);
    let mut carol = settled(&mut world);
    let mut look_ups = KeyLookUps { stale_secs: 100, ..look_ups() };
    world.server.configure(Arc::new(elsewhere(look_ups.clone())));
    assert_eq!(world.send(path(CLIENT), &carol.signed(Method::Refresh, vec![])), None);
    assert!(world.answer_key("carol", KeyAnswer::Unavailable).expect("an answer").response().is_success());
    // From another place, what was known before counts no more.
    look_ups.source = 2;
    world.server.configure(Arc::new(elsewhere(look_ups)));
    assert_eq!(world.send(path(CLIENT), &carol.signed(Method::Refresh, vec![])), None);
    assert_eq!(world.answer_key("carol", KeyAnswer::Unavailable).expect("an answer").response().error(), 500);
    // Without any, there is nobody left to ask, and who waited is not forgotten.
    let there = path("192.0.2.78:5000");
    let mut dora = world.client(there, "dora", "x");
    assert_eq!(world.send(there, &allocate(&mut dora)), None);
    world.server.configure(Arc::new(config()));
    assert_eq!(world.answer_key("dora", key("dora", "x")).expect("an answer").response().error(), 401);
}

#[test]
fn nobody_is_answered_whose_connection_is_gone_or_whose_server_ends() {
    let mut world = world();
    let tcp = path_over(Transport::Tcp, CLIENT);
    let mut carol = world.client(tcp, "carol", "pa55");
    assert_eq!(world.send(tcp, &allocate(&mut carol)), None);
    world.server.path_closed(world.clock, tcp);
    world.server.check_invariants();
    assert_eq!(world.answer_key("carol", key("carol", "pa55")), None);
    assert_eq!(world.server.allocations(), 0);
    let mut dora = world.client(path(CLIENT), "dora", "x");
    assert_eq!(world.send(path(CLIENT), &allocate(&mut dora)), None);
    world.server.shut_down(world.clock);
    world.server.check_invariants();
    assert_eq!((world.answer_key("dora", key("dora", "x")), world.server.next_timeout()), (None, None));
}

/// L12: who gives something back is let, though the nonce be old.
#[test]
fn a_deletion_under_an_old_nonce_waits_too() {
    let mut world = world();
    let base = elsewhere(look_ups());
    let nonces = NonceKeys { lifetime_secs: 60, ..base.nonces.clone() };
    world.server.configure(Arc::new(Config { nonces, ..base }));
    let mut carol = settled(&mut world);
    world.pass(61);
    assert_eq!(world.send(path(CLIENT), &carol.signed(Method::Refresh, vec![lifetime(0)])), None);
    assert!(world.answer_key("carol", key("carol", "pa55")).expect("an answer").response().is_success());
    assert_eq!(world.server.allocations(), 0);
}

#[test]
fn time_limited_names_are_never_asked_for() {
    let base = config();
    let credentials = Credentials { look_ups: Some(look_ups()), ..base.credentials };
    let mut world = World::with(Config { credentials, ..base });
    let name = format!("{}:carol", world.clock.unix_secs + 60);
    let mut carol = world.client(path(CLIENT), &name, "wrong");
    assert_eq!(world.exchange(path(CLIENT), &allocate(&mut carol)).error(), 401);
    assert_eq!(world.questions, []);
    let mut plain = world.client(path(CLIENT), "carol", "pa55");
    assert_eq!(world.send(path(CLIENT), &allocate(&mut plain)), None);
    assert_eq!(world.questions.len(), 1);
}

/// RFC 8489 §14.4: nobody can be found elsewhere by a hash, so that clients are not told to send one.
#[test]
fn names_are_not_hidden_from_a_back_end() {
    let mut world = world();
    let challenge = world.exchange(path(CLIENT), &bare(Method::Allocate, vec![udp()]));
    assert!(challenge.nonce().starts_with(b"obMatJos2gAAA"), "no username anonymity");
}

/// ConnectionBind waits like any other request, and its connection becomes one for data afterwards.
#[test]
fn tcp_6062_5_4_04_a_connection_is_bound_when_the_key_has_come() {
    let base = tcp_config();
    let credentials = Credentials { look_ups: Some(look_ups()), users: Default::default(), ..base.credentials };
    let mut world = World::with(Config { credentials, ..base });
    let mut alice = world.client(control(), "alice", "s3cret");
    let request = alice.signed(Method::Allocate, vec![crate::client::tcp()]);
    assert_eq!(world.send(control(), &request), None);
    assert!(world.answer_key("alice", key("alice", "s3cret")).expect("an answer").response().is_success());
    assert_eq!(connect(&mut world, &mut alice, PEER), None);
    let id = connection_id(&connected(&mut world, Ok(())));
    // By now the key is to be asked for again.
    let base = tcp_config();
    let look_ups = Some(KeyLookUps { source: 2, ..look_ups() });
    let credentials = Credentials { look_ups, users: Default::default(), ..base.credentials };
    world.server.configure(Arc::new(Config { credentials, ..base }));
    let data: FiveTuple = path_over(Transport::Tcp, "198.51.100.77:5000");
    let mut again = Client::new("alice", "s3cret");
    again.nonce = world.exchange(data, &bare(Method::ConnectionBind, vec![])).nonce();
    let attribute = (AttributeType::CONNECTION_ID, id.0.to_be_bytes().to_vec());
    assert_eq!(world.send(data, &again.signed(Method::ConnectionBind, vec![attribute])), None);
    let Some(Seen::Bound(bound, response)) = world.answer_key("alice", key("alice", "s3cret")) else {
        panic!("not bound")
    };
    assert!(bound == id && Response(response.0).is_success());
}
