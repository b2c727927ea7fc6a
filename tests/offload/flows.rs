//! How flows begin, are refreshed, counted and ended, and what the program says of packets that it leaves alone.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hairpin::offload::{Kernel, Outcome, PassedUp};
use hairpin::turn::{Direction, Flow, Now, Passed};

use crate::client::{self, channel_data};
use crate::frame::Frame;
use crate::lab::{self, CLIENTS_MAC, GATEWAY_MAC, INTERFACES, OWN_MAC};
use crate::scene::{PEERS, Scene};
use crate::world::send_indication;

/// What the client sends for its peer: ChannelData or a Send indication.
pub fn framed(flow: &Flow, data: &[u8]) -> Vec<u8> {
    match flow.channel {
        Some(number) => channel_data(number.get(), data),
        None => send_indication(&flow.peer.to_string(), vec![client::data(data)]),
    }
}

/// What the client sends for its peer, or the peer to the relay.
pub fn frame(flow: &Flow, direction: Direction, data: &[u8]) -> Frame {
    let (from_mac, source, destination, payload) = match direction {
        Direction::ToPeer => (CLIENTS_MAC, flow.path.client, flow.path.server, framed(flow, data)),
        Direction::ToClient => (GATEWAY_MAC, flow.peer, flow.relay, data.to_vec()),
    };
    let to_mac = OWN_MAC[direction as usize];
    let (traffic_class, hops, dont_fragment, id, label) = (0, 60, false, 1, 0);
    Frame { to_mac, from_mac, source, destination, traffic_class, hops, dont_fragment, id, label, payload }
}

fn outcome(kernel: &Kernel, flow: &Flow, direction: Direction, data: &[u8]) -> Outcome {
    let bytes = frame(flow, direction, data).bytes();
    kernel.try_at_tc(lab::index(INTERFACES[direction as usize]), 0, &bytes, 1).expect("a frame").outcome
}

fn both(kernel: &Kernel, flow: &Flow) -> [Outcome; 2] {
    [Direction::ToPeer, Direction::ToClient].map(|direction| outcome(kernel, flow, direction, &[0x80; 20]))
}

const RELAYED: [Outcome; 2] = [Outcome::Relayed; 2];
const PASSED_UP: [Outcome; 2] = [Outcome::PassedUp; 2];

#[test]
fn a_flow_lives_until_it_is_told_not_to() {
    lab::in_namespace(|| {
        let mut scene = Scene::new(64);
        let number = scene.bind(0, PEERS[0].parse().unwrap());
        let (flow, id, _) = scene.flows[number];
        let now = scene.world.clock.now;
        assert_eq!(both(&scene.kernel, &flow), RELAYED);
        // The past is over without anybody's doing.
        scene.mirror.extend(id, now);
        assert_eq!(both(&scene.kernel, &flow), PASSED_UP);
        assert_eq!(scene.kernel.counters().passed_up(PassedUp::Expired), 2);
        scene.mirror.extend(id, now.plus_secs(3600));
        assert_eq!(both(&scene.kernel, &flow), RELAYED);
        let passed = scene.mirror.passed(id);
        let twice = Passed { packets: 2, bytes: 40, seen: 2, foreign: 0 };
        assert_eq!(passed, [twice; 2]);
        assert_eq!(both(&scene.kernel, &flow), RELAYED);
        let once = Passed { packets: 1, bytes: 20, seen: 1, foreign: 0 };
        assert_eq!(scene.mirror.unmirror(id), [once; 2]);
        assert_eq!(both(&scene.kernel, &flow), PASSED_UP);
        let counters = scene.kernel.counters();
        assert_eq!((counters.passed_up(PassedUp::Unknown), counters.relayed(Direction::ToClient)), (2, 3));
        // It is over: an old name does nothing.
        scene.mirror.extend(id, now.plus_secs(3600));
        assert_eq!((scene.mirror.passed(id), scene.mirror.unmirror(id)), Default::default());
        assert_eq!(both(&scene.kernel, &flow), PASSED_UP);
    });
}

#[test]
fn places_are_bounded_and_rest_before_they_are_used_again() {
    lab::in_namespace(|| {
        let mut scene = Scene::new(2);
        let number = scene.bind(0, PEERS[0].parse().unwrap());
        let (flow, id, _) = scene.flows[number];
        let until = scene.world.clock.now.plus_secs(3600);
        // The same packets cannot belong to two flows.
        assert_eq!(scene.mirror.mirror(&flow, until), None);
        assert_eq!(both(&scene.kernel, &flow), RELAYED);
        scene.mirror.unmirror(id);
        assert_eq!(scene.mirror.mirror(&flow, until), None, "both places rest");
        let deadline = Instant::now() + Duration::from_secs(60);
        while scene.mirror.mirror(&flow, until).is_none() {
            assert!(Instant::now() < deadline, "no place is ever used again");
            std::thread::yield_now();
        }
        assert_eq!(both(&scene.kernel, &flow), RELAYED);
    });
}

#[test]
fn each_shard_has_its_own_part_and_leaves_nothing_behind() {
    lab::in_namespace(|| {
        let mut scene = Scene::new(64);
        let number = scene.bind(0, PEERS[0].parse().unwrap());
        let (flow, _, _) = scene.flows[number];
        let until = scene.world.clock.now.plus_secs(3600);
        let other = Flow { peer: "198.51.100.8:9".parse().unwrap(), ..flow };
        let other =
            Flow { path: hairpin::turn::FiveTuple { client: "192.0.2.11:9".parse().unwrap(), ..flow.path }, ..other };
        // All places have an owner: nobody else gets any of them.
        assert_eq!(scene.kernel.mirror(0, 2).mirror(&other, until), None);
        // A shard that is started again finds its part empty, once the former is gone.
        scene.mirror = scene.kernel.mirror(0, u16::MAX);
        assert_eq!(both(&scene.kernel, &flow), PASSED_UP);
        scene.mirror = scene.kernel.mirror(1, 2);
        assert!(scene.mirror.mirror(&flow, until).is_some());
        assert_eq!(both(&scene.kernel, &flow), RELAYED);
        assert!(scene.kernel.mirror(0, 2).mirror(&other, until).is_some());
        assert_eq!(both(&scene.kernel, &other), PASSED_UP, "it went with its mirror");
    });
}

#[test]
fn what_leads_nowhere_is_left_to_the_sockets() {
    lab::in_namespace(|| {
        let mut scene = Scene::new(64);
        for (number, peer) in PEERS.iter().enumerate() {
            scene.bind(number, peer.parse().unwrap());
        }
        let flows = [scene.flows[0].0, scene.flows[1].0];
        let count = |reason| scene.kernel.counters().passed_up(reason);
        let to_peer = |flow| outcome(&scene.kernel, flow, Direction::ToPeer, &[0x80; 20]);
        lab::ip("neighbor del 203.0.113.1 dev peers");
        lab::ip("neighbor del 2001:db8::1 dev peers");
        assert_eq!(flows.each_ref().map(to_peer), PASSED_UP);
        assert_eq!(count(PassedUp::NoNeighbor), 2);
        lab::ip("route del 198.51.100.0/24");
        lab::ip("route del 2001:db8:1::/48");
        assert_eq!(flows.each_ref().map(to_peer), PASSED_UP);
        assert_eq!(count(PassedUp::NoRoute), 2);
        // Addresses of this machine are no next hop.
        lab::ip("address add 198.51.100.7/32 dev lo");
        lab::ip("address add 2001:db8:1::7/128 dev lo nodad");
        assert_eq!(flows.each_ref().map(to_peer), PASSED_UP);
        // For a moment an IPv6 address may be on lo's link, before it is this machine's own.
        assert_eq!(count(PassedUp::NoRoute) + count(PassedUp::NoNeighbor), 6);
    });
}

/// A reload may have two relays swap the addresses that they are bound to. Then what is bound to the address where the
/// peer was is another relay, and no data meant for the one must come to the other.
#[test]
fn data_for_another_relay_reaches_none_but_that_one() {
    lab::in_namespace(|| {
        let mut scene = Scene::new(64);
        let [one, two] = [0, 2].map(|number| scene.parties[number].relayed);
        let (there, back) = (scene.bind(0, two), scene.permit(2, one));
        let (there, back) = (scene.flows[there].0, scene.flows[back]);
        let sends = |scene: &Scene| outcome(&scene.kernel, &there, Direction::ToPeer, &[0x80; 20]);
        assert_eq!(sends(&scene), Outcome::Relayed);
        let swapped = Flow { relayed: scene.parties[4].relayed, ..back.0 };
        scene.mirror.unmirror(back.1);
        let until = scene.world.clock.now.plus_secs(3600);
        let id = scene.mirror.mirror(&swapped, until).expect("the kernel can do it");
        assert_eq!(sends(&scene), Outcome::PassedUp);
        assert_eq!(scene.kernel.counters().passed_up(PassedUp::OtherRelay), 1);
        scene.mirror.unmirror(id);
        scene.mirror.mirror(&back.0, until).expect("the kernel can do it");
        assert_eq!(sends(&scene), Outcome::Relayed);
    });
}

/// The same first bytes in the same turns as `turn/hints.rs` looks at them.
#[test]
fn data_is_looked_at_as_the_machine_looks_at_it() {
    let looks: [(&[u8], bool); 13] = [
        (&[], true),
        (&[0x80; 8], true),
        (&[0x80; 7], false),
        (&[0xBF, 1, 2, 3, 4, 5, 6, 7, 8], true),
        (&[0xC0; 40], false),
        (&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42], true),
        (&[0, 1, 0, 0, 0x21, 0x12, 0xA4], false),
        (&[3, 1, 0, 0, 0x21, 0x12, 0xA4, 0x43], false),
        (&[22, 0xFE, 0xFD], true),
        (&[22, 0xFE], false),
        (&[25, 0xFE, 0xFC, 0], false),
        (&[63], true),
        (&[0x45; 64], false),
    ];
    lab::in_namespace(move || {
        let mut scene = Scene::new(64);
        let number = scene.bind(0, PEERS[0].parse().unwrap());
        let (flow, id, _) = scene.flows[number];
        for (data, is_of_a_call) in looks {
            for direction in [Direction::ToPeer, Direction::ToClient] {
                // Short frames would be padded on a wire, not here.
                assert_eq!(outcome(&scene.kernel, &flow, direction, data), Outcome::Relayed);
            }
            let foreign = u32::from(!is_of_a_call);
            assert_eq!(
                scene.mirror.passed(id).map(|passed| (passed.seen, passed.foreign)),
                [(1, foreign); 2],
                "{data:?}"
            );
        }
        let bytes = frame(&flow, Direction::ToPeer, &[0x45; 20]).bytes();
        let repeat = 1000 - looks.len() as u32;
        scene.kernel.try_at_tc(lab::index(INTERFACES[0]), 0, &bytes, 1).unwrap();
        let mut sent = 1;
        while sent < repeat {
            scene.kernel.try_at_tc(lab::index(INTERFACES[0]), 0, &bytes, 1).unwrap();
            sent += 1;
        }
        // Of the first thousand: 0 to 63, 256, 512 and 768.
        let passed = scene.mirror.unmirror(id)[0];
        assert_eq!((passed.seen, passed.foreign), (64 + 3 - looks.len() as u32, 64 + 3 - looks.len() as u32));
        assert_eq!(passed.packets, u64::from(repeat));
    });
}

#[test]
fn flows_that_no_route_can_serve_are_not_mirrored() {
    lab::in_namespace(|| {
        let mut scene = Scene::new(64);
        let number = scene.bind(0, PEERS[0].parse().unwrap());
        let (flow, id, _) = scene.flows[number];
        scene.mirror.unmirror(id);
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        for flow in [
            Flow { peer: address("[2001:db8::1]:1"), ..flow },
            Flow { peer: address("224.0.0.1:1"), ..flow },
            Flow { relay: address("0.0.0.0:50000"), ..flow },
            Flow { peer: address("198.51.100.7:0"), ..flow },
        ] {
            assert_eq!(scene.mirror.mirror(&flow, Now(u64::MAX)), None, "{flow:?}");
        }
    });
}

/// What a packet costs, without the network: `cargo test --release --test offload -- --ignored --nocapture`.
#[test]
#[ignore = "it measures"]
fn nanoseconds_for_a_packet() {
    lab::in_namespace(|| {
        let mut scene = Scene::in_drivers(65_536);
        scene.bind(0, PEERS[0].parse().unwrap());
        for (one, other) in [(0, 2), (2, 0)] {
            let peer = scene.parties[other].relayed;
            scene.bind(one, peer);
        }
        scene.permit(4, PEERS[0].parse().unwrap());
        scene.permit(6, PEERS[0].parse().unwrap());
        let measure = |name: &str, number: usize, direction: Direction, is_known: bool| {
            let (flow, _, _) = scene.flows[number];
            // The last one's data is no multiple of four long.
            let mut frame = frame(&flow, direction, &[0x80; 161][..160 + number / 4]);
            if !is_known {
                frame.source.set_port(9);
            }
            let (bytes, interface) = (frame.bytes(), lab::index(INTERFACES[direction as usize]));
            let at_tc = |_| scene.kernel.try_at_tc(interface, 0, &bytes, 1).expect("a frame").nanos;
            let in_driver = |_| scene.kernel.try_at_xdp(interface, &bytes, 1).expect("a frame").nanos;
            let ways: [(&str, &dyn Fn(u32) -> u32); 2] = [("tc", &at_tc), ("XDP", &in_driver)];
            for (way, run) in ways {
                let mut nanos: Vec<u32> = (0..20_000).map(run).collect();
                nanos.sort_unstable();
                println!("{name}, {way}: {} ns in the median, {} in the tenth percentile", nanos[10_000], nanos[2_000]);
            }
        };
        measure("to the peer", 0, Direction::ToPeer, true);
        for (indications, what) in [(3, "indications"), (4, "indications with padding")] {
            measure(&format!("to the peer, {what}"), indications, Direction::ToPeer, true);
            measure(&format!("to the client, {what}"), indications, Direction::ToClient, true);
        }
        measure("to the client", 0, Direction::ToClient, true);
        measure("from relay to relay", 1, Direction::ToPeer, true);
        measure("not ours", 0, Direction::ToPeer, false);
        let (flow, _, _) = scene.flows[0];
        scene.mirror = scene.kernel.mirror(0, u16::MAX);
        scene.mirror = scene.kernel.mirror(0, 1);
        let until = scene.world.clock.now.plus_secs(3600);
        let mut ids = Vec::new();
        let begun = Instant::now();
        for port in 1..=50_000 {
            let peer = SocketAddr::new(flow.peer.ip(), port);
            let channel = hairpin::stun::ChannelNumber::new(0x4000 + port % 0x1000);
            let path = hairpin::turn::FiveTuple { client: SocketAddr::new(flow.path.client.ip(), port), ..flow.path };
            ids.push(scene.mirror.mirror(&Flow { peer, channel, path, ..flow }, until).expect("there is room"));
        }
        println!("mirroring a flow: {} ns", begun.elapsed().as_nanos() / 50_000);
        let begun = Instant::now();
        for id in ids {
            scene.mirror.unmirror(id);
        }
        println!("ending it: {} ns", begun.elapsed().as_nanos() / 50_000);
    });
}
