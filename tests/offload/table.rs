//! The machine tells the kernel by itself: whatever clients do, what passes there is what passes by its tables.

use std::net::SocketAddr;

use hairpin::offload::Outcome;
use hairpin::stun::ChannelNumber;
use hairpin::turn::{Direction, Flow};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::client::lifetime;
use crate::flows::frame;
use crate::frame::Frame;
use crate::lab::{self, INTERFACES};
use crate::scene::Scene;
use crate::vectors::{machine, without_transaction_id};

const PARTIES: usize = 4;
/// Two of each family.
const PEERS: [&str; 4] = ["198.51.100.7:7000", "[2001:db8:1::7]:7001", "198.51.100.8:7002", "[2001:db8:1::8]:7003"];
const CHANNELS: [u16; 2] = [0x4000, 0x4001];

#[derive(Clone, Debug)]
enum Step {
    Bind(usize, usize, usize),
    Permit(usize, usize),
    /// The allocation ends, and another begins.
    Anew(usize),
    Collect,
    /// Whoever mirrors goes, and comes again.
    Switch,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..PARTIES, 0..CHANNELS.len(), 0..PEERS.len()).prop_map(|(party, number, peer)| Step::Bind(party, number, peer)),
        4 => (0..PARTIES, 0..PEERS.len()).prop_map(|(party, peer)| Step::Permit(party, peer)),
        2 => (0..PARTIES).prop_map(Step::Anew),
        1 => Just(Step::Collect),
        1 => Just(Step::Switch),
    ]
}

fn act(scene: &mut Scene, step: &Step) {
    let world = &mut scene.world;
    match *step {
        // Whether they are granted is not the question.
        Step::Bind(party, number, peer) => {
            let party = &mut scene.parties[party];
            world.bind_channel(party.path, &mut party.client, CHANNELS[number], PEERS[peer]);
        }
        Step::Permit(party, peer) => {
            let party = &mut scene.parties[party];
            world.permit(party.path, &mut party.client, &[PEERS[peer]]);
        }
        Step::Anew(number) => {
            let party = &mut scene.parties[number];
            assert_eq!(world.refresh(party.path, &mut party.client, vec![lifetime(0)]).error(), 0);
            scene.allocate_again(number);
        }
        Step::Collect => while world.server.collect_offloaded(world.clock) {},
        Step::Switch => {
            world.server.stop_offload();
            world.server.offload(scene.kernel.mirror(0, 1));
            while world.server.collect_offloaded(world.clock) {}
        }
    }
    scene.world.server.check_invariants();
}

/// Everything that may pass, in the kernel and then in the machine; how often both relayed.
fn compare(scene: &mut Scene) -> u32 {
    let mut both = 0;
    for number in 0..PARTIES {
        for peer in PEERS.map(|peer| peer.parse::<SocketAddr>().unwrap()) {
            let channels = CHANNELS.map(ChannelNumber::new);
            for (channel, direction) in [
                (channels[0], Direction::ToPeer),
                (channels[1], Direction::ToPeer),
                (None, Direction::ToPeer),
                (None, Direction::ToClient),
            ] {
                let (path, relay, relayed) = {
                    let party = &scene.parties[number];
                    (party.path, party.relay, party.relayed)
                };
                if direction == Direction::ToClient && peer.is_ipv4() != relayed.is_ipv4() {
                    continue;
                }
                let flow = Flow { path, relay: relayed, relayed, peer, peer_relay: None, channel };
                let frame = frame(&flow, direction, &[0x80; 41]);
                let interface = lab::index(INTERFACES[direction as usize]);
                let trial = scene.kernel.try_at_tc(interface, 0, &frame.bytes(), 1).expect("a frame");
                let expected = machine(scene, &flow, relay, direction == Direction::ToPeer, &frame.payload, 0);
                scene.world.drain_effects();
                match (trial.outcome, expected) {
                    (Outcome::Relayed, Some(expected)) => {
                        let out = Frame::parse(&trial.frame);
                        let left = (out.source, out.destination, out.traffic_class, out.payload);
                        assert_eq!(without_transaction_id(&left), without_transaction_id(&expected));
                        both += 1;
                    }
                    (Outcome::PassedUp, None) => {}
                    // Without a channel the kernel hears of a peer only now.
                    (Outcome::PassedUp, Some(_)) => assert_eq!(channel, None, "a channel is not mirrored"),
                    other => panic!("{flow:?} {direction:?}: {other:?}"),
                }
            }
        }
    }
    both
}

#[test]
fn what_passes_in_the_kernel_is_what_passes_by_the_tables() {
    lab::in_namespace(|| {
        let config = Config { cases: 8, failure_persistence: None, ..Config::default() };
        let result = TestRunner::new(config).run(&prop::collection::vec(step(), 1..60), |steps| {
            let mut scene = Scene::new(4096);
            scene.mirror = scene.kernel.mirror(0, u16::MAX);
            scene.world.server.offload(scene.kernel.mirror(0, 1));
            let mut both = 0;
            for step in &steps {
                act(&mut scene, step);
                both += compare(&mut scene);
            }
            assert_eq!(scene.world.server.counters().flows_refused, 0);
            println!("{} steps, {both} packets relayed by both", steps.len());
            Ok(())
        });
        if let Err(error) = result {
            panic!("{error}");
        }
    });
}
