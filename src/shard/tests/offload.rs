//! What stands between the machine and a mirror: here one that only writes down what it is told.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::*;
use crate::turn::{Flow, FlowId, Now, Offload, Passed};

/// Flows that are mirrored, and how many mirrors were made.
#[derive(Debug, Default)]
struct Book {
    living: BTreeSet<u32>,
    begun: u32,
    mirrors: usize,
}

#[derive(Debug)]
struct Scribe(Arc<Mutex<Book>>);

impl Offload for Scribe {
    fn mirror(&mut self, _: &Flow, _: Now) -> Option<FlowId> {
        let mut book = self.0.lock().unwrap();
        book.begun += 1;
        let id = book.begun;
        book.living.insert(id);
        Some(FlowId(id))
    }

    fn extend(&mut self, _: FlowId, _: Now) {}

    fn passed(&mut self, _: FlowId) -> [Passed; 2] {
        [Passed { packets: 1, bytes: 100, ..Passed::default() }, Passed::default()]
    }

    fn unmirror(&mut self, flow: FlowId) -> [Passed; 2] {
        assert!(self.0.lock().unwrap().living.remove(&flow.0), "it ends once");
        [Passed::default(); 2]
    }
}

fn mirrors() -> (Mirrors, Arc<Mutex<Book>>) {
    let book = Arc::<Mutex<Book>>::default();
    let kept = Arc::clone(&book);
    let make = move |_| -> Box<dyn Offload> {
        book.lock().unwrap().mirrors += 1;
        Box::new(Scribe(Arc::clone(&book)))
    };
    (Mirrors::new(make), kept)
}

fn living(book: &Mutex<Book>) -> usize {
    book.lock().unwrap().living.len()
}

/// What is bound is mirrored from then on, what was bound before as well, and nothing once it is switched off.
#[test]
fn mirrors_come_and_go_in_mid_call() {
    let shards = Shards::start(settings(2)).unwrap();
    let peer = peer();
    let [(mut one, _), (mut other, relayed)] = clients_in_both_shards(&shards);
    one.bind_channel(0x4000, peer.local_addr().unwrap());
    let (mirrors, book) = mirrors();
    shards.offload(Some(&mirrors));
    wait_for(&shards, "a flow that was there before", |snapshot| snapshot.total.flows_mirrored == 1);
    other.bind_channel(0x4000, peer.local_addr().unwrap());
    wait_for(&shards, "another", |snapshot| snapshot.total.flows_mirrored == 2);
    assert_eq!((living(&book), book.lock().unwrap().mirrors), (2, 2));
    wait_for(&shards, "what has passed", |snapshot| snapshot.total.turn.mirrored_traffic.bytes_to_peer >= 200);
    shards.offload(None);
    wait_for(&shards, "the end of all", |snapshot| snapshot.total.flows_mirrored == 0);
    assert_eq!(living(&book), 0);
    other.send_data(0x4000, b"without");
    assert_eq!(receive(&peer), (b"without".to_vec(), relayed));
}

#[test]
fn a_shard_that_panics_ends_its_flows_before_the_next_begins() {
    let shards = Shards::start(settings(2)).unwrap();
    let (mirrors, book) = mirrors();
    shards.offload(Some(&mirrors));
    let peer = peer();
    for (client, _) in &mut clients_in_both_shards(&shards) {
        client.bind_channel(0x4000, peer.local_addr().unwrap());
    }
    wait_for(&shards, "a flow in each", |snapshot| snapshot.total.flows_mirrored == 2);
    shards.crash_for_test(0);
    wait_for(&shards, "a restart", |snapshot| snapshot.shards[0].shell.shard_restarts == 1);
    wait_for(&shards, "the one that is left", |snapshot| snapshot.total.flows_mirrored == 1);
    assert_eq!(living(&book), 1);
    let mut client = std::iter::repeat_with(|| Client::of(&shards, Transport::Udp));
    let owner = |relayed: SocketAddr| turn::ShardIndex { index: 0, count: 2 }.owner_of(relayed.port());
    let mut client = client.by_ref().take(64).find_map(|mut client| (owner(client.allocate()) == 0).then_some(client));
    client.as_mut().expect("one of 64").bind_channel(0x4000, peer.local_addr().unwrap());
    wait_for(&shards, "one of the successor", |snapshot| snapshot.shards[0].flows_mirrored == 1);
    assert_eq!(book.lock().unwrap().mirrors, 3);
    shards.shut_down();
    assert_eq!(living(&book), 0);
}

/// On the wire they have the proxy's address.
#[test]
fn clients_behind_proxies_are_not_mirrored() {
    let mut settings = settings(1);
    let proxied = settings.listen.iter().find(|listen| listen.transport == Transport::Udp).copied().unwrap();
    settings
        .listen
        .push(ListenAddress { options: ListenOptions { proxy_protocol: true, ..ListenOptions::default() }, ..proxied });
    let shards = Shards::start(settings).unwrap();
    let (mirrors, book) = mirrors();
    shards.offload(Some(&mirrors));
    let peer = peer();
    let at = |is_proxied: bool| {
        let mut all = shards.listening().iter().filter(|listen| listen.transport == Transport::Udp);
        all.find(|listen| listen.options.proxy_protocol == is_proxied).unwrap().address
    };
    let mut header = crate::net::proxy_protocol::write("192.0.2.77:40000".parse().unwrap(), at(false)).to_vec();
    header[13] += 1;
    let mut behind = Client::udp(at(true)).behind(&header);
    behind.allocate();
    behind.bind_channel(0x4000, peer.local_addr().unwrap());
    wait_for(&shards, "a refusal", |snapshot| snapshot.total.turn.flows_refused == 1);
    let mut direct = Client::udp(at(false));
    direct.allocate();
    direct.bind_channel(0x4000, peer.local_addr().unwrap());
    wait_for(&shards, "a flow", |snapshot| snapshot.total.flows_mirrored == 1);
    assert_eq!(living(&book), 1);
}
