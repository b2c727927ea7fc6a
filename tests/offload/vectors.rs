//! The same packets through `turn::relay` and through the program: what comes out is equal byte for byte.

use std::cell::RefCell;
use std::net::SocketAddr;

use hairpin::offload::{Outcome, Trial};
use hairpin::turn::{IpFields, Packet, ReplyBuffer, Verdict};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::frame::{Frame, sum, udp_at};
use crate::lab::{self, CLIENTS_MAC, GATEWAY_MAC, INTERFACES, OWN_MAC};
use crate::scene::{PEERS, Scene};

/// What one of these interfaces carries.
const MTU: usize = 1500;

/// What is wrong with a packet, if anything.
#[derive(Clone, Copy, Debug)]
enum Flaw {
    /// Bytes of the frame are missing at its end.
    Truncated(usize),
    /// Bytes follow the IP packet.
    Trailing(usize),
    /// A bit of the headers is another one.
    Flipped(usize),
    /// IPv4 options or an IPv6 extension header.
    Options,
    Fragment(u16),
    UdpLength(i16),
    NoChecksum,
    /// The checksum was left to the card.
    PartialChecksum,
    /// What ChannelData claims.
    ChannelLength(i16),
    OtherPort,
    Vlan,
    OtherCard,
    /// Several packets, merged.
    Merged,
}

/// A packet.
#[derive(Clone, Debug)]
struct Vector {
    flow: prop::sample::Index,
    to_peer: bool,
    /// Its payload: how long, how it begins, and what it is.
    len: usize,
    lead: u8,
    seed: u64,
    traffic_class: u8,
    hops: u8,
    dont_fragment: bool,
    label: u32,
    flaw: Option<Flaw>,
}

fn flaw() -> impl Strategy<Value = Flaw> {
    prop_oneof![
        (1usize..60).prop_map(Flaw::Truncated),
        (1usize..40).prop_map(Flaw::Trailing),
        (96usize..8 * 62).prop_map(Flaw::Flipped),
        Just(Flaw::Options),
        (1u16..0x3FFF).prop_map(Flaw::Fragment),
        prop_oneof![-12i16..-1, 1i16..12].prop_map(Flaw::UdpLength),
        Just(Flaw::NoChecksum),
        Just(Flaw::PartialChecksum),
        prop_oneof![-12i16..-1, 1i16..12].prop_map(Flaw::ChannelLength),
        Just(Flaw::OtherPort),
        Just(Flaw::Vlan),
        Just(Flaw::OtherCard),
        Just(Flaw::Merged),
    ]
}

fn vector() -> impl Strategy<Value = Vector> {
    let len = prop_oneof![3 => 0usize..200, 2 => 0usize..1480, 1 => 1400usize..1480];
    let what = (any::<prop::sample::Index>(), any::<bool>(), len, any::<u8>(), any::<u64>());
    let header = (any::<u8>(), any::<u8>(), any::<bool>(), 0u32..1 << 20);
    (what, header, prop::option::weighted(0.3, flaw())).prop_map(|(what, header, flaw)| {
        let (flow, to_peer, len, lead, seed) = what;
        let (traffic_class, hops, dont_fragment, label) = header;
        Vector { flow, to_peer, len, lead, seed, traffic_class, hops, dont_fragment, label, flaw }
    })
}

/// Bytes that look like noise, but for the first.
fn noise(len: usize, lead: u8, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes: Vec<u8> = (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect();
    if let Some(first) = bytes.first_mut() {
        *first = lead;
    }
    bytes
}

/// What a datagram becomes: addresses, traffic class, payload.
type Leaves = (SocketAddr, SocketAddr, u8, Vec<u8>);

/// What the machine does with a datagram.
fn machine(scene: &mut Scene, flow: usize, to_peer: bool, payload: &[u8], traffic_class: u8) -> Option<Leaves> {
    let (flow, _, party) = scene.flows[flow];
    let relay = scene.parties[party].relay;
    let addresses = scene.relayed_addresses();
    let start = Packet::HEADROOM;
    let mut buffer = vec![0xEE; start + payload.len() + Packet::TAILROOM];
    buffer[start..start + payload.len()].copy_from_slice(payload);
    let ip = IpFields { traffic_class, dont_fragment: false };
    let mut packet = Packet::new(&mut buffer, start..start + payload.len(), ip);
    let mut reply = ReplyBuffer::new();
    let clock = scene.world.clock;
    let server = &mut scene.world.server;
    let verdict = match to_peer {
        true => server.from_client(clock, flow.path, &mut packet, &mut reply),
        false => server.from_peer(clock, relay, flow.peer, &mut packet),
    };
    match verdict {
        Verdict::ToPeer { from, to, bytes, ip } => {
            Some((addresses[&from], to, ip.traffic_class, packet.buffer()[bytes].to_vec()))
        }
        Verdict::ToClient { to, bytes, ip } => {
            Some((to.server, to.client, ip.traffic_class, packet.buffer()[bytes].to_vec()))
        }
        Verdict::Drop(_) => None,
        other => panic!("data is relayed or dropped: {other:?}"),
    }
}

/// Counts what was compared.
#[derive(Debug, Default)]
struct Tally {
    relayed: u32,
    /// Of these, those that the program for drivers relays as well.
    in_drivers: u32,
    retries: u32,
    passed_up: u32,
}

fn check(scene: &mut Scene, tally: &mut Tally, vector: &Vector) -> Result<(), TestCaseError> {
    let index = vector.flow.index(scene.flows.len());
    let (flow, _, _) = scene.flows[index];
    // What comes to a relay from another one never was on a network.
    let to_peer = vector.to_peer || flow.peer_relay.is_some();
    let data = noise(vector.len, vector.lead, vector.seed);
    let payload = match to_peer {
        true => {
            let number = flow.channel.unwrap().get().to_be_bytes();
            let mut len = data.len() as u16;
            if let Some(Flaw::ChannelLength(by)) = vector.flaw {
                len = len.wrapping_add_signed(by);
            }
            [&number[..], &len.to_be_bytes(), &data].concat()
        }
        false => data,
    };
    let (source, destination) = if to_peer { (flow.path.client, flow.path.server) } else { (flow.peer, flow.relay) };
    let mut frame = Frame {
        to_mac: OWN_MAC[usize::from(!to_peer)],
        from_mac: if to_peer { CLIENTS_MAC } else { GATEWAY_MAC },
        source,
        destination,
        traffic_class: vector.traffic_class,
        hops: vector.hops,
        dont_fragment: vector.dont_fragment,
        id: vector.seed as u16,
        label: vector.label,
        payload,
    };
    let is_ipv4 = source.is_ipv4();
    let udp = udp_at(is_ipv4);
    // What no card of this MTU would take in is not a packet.
    if udp - 14 + 8 + frame.payload.len() > MTU {
        return Ok(());
    }
    let is_exact = vector.flaw.is_none();
    let segments = if matches!(vector.flaw, Some(Flaw::Merged)) { 2 } else { 0 };
    match vector.flaw {
        Some(Flaw::OtherPort) => frame.source.set_port(source.port() ^ 1),
        Some(Flaw::OtherCard) => frame.to_mac[5] ^= 0x40,
        Some(Flaw::ChannelLength(_)) if !to_peer => return Ok(()),
        _ => {}
    }
    let mut bytes = frame.bytes();
    let mut is_harmless = false;
    match vector.flaw {
        Some(Flaw::Truncated(by)) => bytes.truncate(bytes.len() - by.min(bytes.len() - 14)),
        Some(Flaw::Trailing(by)) => bytes.extend(std::iter::repeat_n(0, by)),
        // It has no such bit.
        Some(Flaw::Flipped(bit)) if bit / 8 >= bytes.len() => return Ok(()),
        Some(Flaw::Flipped(bit)) => {
            bytes[bit / 8] ^= 0x80 >> (bit % 8);
            // Nobody looks at these: traffic class, label, hops, and what only the receiver's checksum covers.
            let in_ip = [14 * 8 + 4..18 * 8, 21 * 8..22 * 8].iter().any(|bits| bits.contains(&bit)) && !is_ipv4;
            is_harmless = in_ip || (udp + 6..).contains(&(bit / 8));
        }
        Some(Flaw::Options) if is_ipv4 => bytes[14] = 0x46,
        Some(Flaw::Options) => bytes[20] = 60,
        Some(Flaw::Fragment(bits)) if is_ipv4 => {
            let mut field = u16::from_be_bytes([bytes[20], bytes[21]]);
            field |= bits;
            bytes[20..22].copy_from_slice(&field.to_be_bytes());
            bytes[24..26].fill(0);
            let checksum = !sum(&[&bytes[14..34]]);
            bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        Some(Flaw::Fragment(_)) => bytes[20] = 44,
        Some(Flaw::UdpLength(by)) => {
            let len = u16::from_be_bytes([bytes[udp + 4], bytes[udp + 5]]).wrapping_add_signed(by);
            bytes[udp + 4..udp + 6].copy_from_slice(&len.to_be_bytes());
        }
        Some(Flaw::NoChecksum) => bytes[udp + 6..udp + 8].fill(0),
        Some(Flaw::PartialChecksum) => {
            let partial = sum(&[&frame.pseudo_header()]);
            bytes[udp + 6..udp + 8].copy_from_slice(&partial.to_be_bytes());
        }
        Some(Flaw::Vlan) => {
            bytes.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
        }
        _ => {}
    }
    if is_harmless {
        return Ok(());
    }
    let interface = lab::index(INTERFACES[usize::from(!to_peer)]);
    let mut trial = scene.kernel.try_at_tc(interface, segments, &bytes, 1);
    let mut in_driver = scene.kernel.try_at_xdp(interface, &bytes, 1);
    // Once a second it leaves one to tc, which may be this one: then the next is none.
    let is_left = |trial: &std::io::Result<Trial>| trial.as_ref().is_ok_and(|trial| trial.outcome == Outcome::PassedUp);
    while scene.is_in_drivers() && is_exact && !is_left(&trial) && is_left(&in_driver) && tally.retries < 1000 {
        trial = scene.kernel.try_at_tc(interface, segments, &bytes, 1);
        in_driver = scene.kernel.try_at_xdp(interface, &bytes, 1);
        tally.retries += 1;
    }
    let trial = match trial {
        Ok(trial) => trial,
        // The kernel makes no packet of such a frame.
        Err(_) if !is_exact => return Ok(()),
        Err(error) => panic!("{error}"),
    };
    let expected = if is_exact { machine(scene, index, to_peer, &frame.payload, frame.traffic_class) } else { None };
    let looks_partial =
        bytes.len() >= udp + 8 && bytes[udp + 6..udp + 8] == sum(&[&frame.pseudo_header()]).to_be_bytes();
    let out_len = |leaves: &Leaves| leaves.3.len() + 8 + if leaves.0.is_ipv4() { 20 } else { 40 };
    match expected {
        Some(leaves) if out_len(&leaves) <= MTU && !looks_partial => {
            let in_driver = in_driver.ok().filter(|_| scene.is_in_drivers());
            tally.in_drivers += u32::from(in_driver.is_some());
            for trial in [Some(trial), in_driver].into_iter().flatten() {
                prop_assert_eq!(trial.outcome, Outcome::Relayed);
                let out = Frame::parse(&trial.frame);
                prop_assert_eq!(&(out.source, out.destination, out.traffic_class, out.payload.clone()), &leaves);
                prop_assert_eq!((out.hops, out.dont_fragment), (64, false));
                let to_clients = leaves.0.port() == 3478;
                let macs = if to_clients { (CLIENTS_MAC, OWN_MAC[0]) } else { (GATEWAY_MAC, OWN_MAC[1]) };
                prop_assert_eq!((out.to_mac, out.from_mac), macs);
            }
            tally.relayed += 1;
        }
        _ => {
            // No driver merges.
            let in_driver = in_driver.ok().filter(|_| segments == 0);
            for trial in [Some(trial), in_driver].into_iter().flatten() {
                prop_assert_eq!(trial.outcome, Outcome::PassedUp);
                prop_assert_eq!(&trial.frame, &bytes, "it was touched");
            }
            tally.passed_up += 1;
        }
    }
    Ok(())
}

/// Random packets of every kind of flow: ChannelData and data from peers, over both families and from one to the other,
/// to peers and from relay to relay, with everything that may be wrong with them.
#[test]
fn what_the_program_relays_is_what_the_machine_would() {
    lab::in_namespace(|| {
        let mut scene = Scene::in_drivers(64);
        for number in 0..4 {
            scene.bind(number, PEERS[number % 2].parse().unwrap());
        }
        // Each to the other of its family, one way and back.
        for (one, other) in [(0, 2), (2, 0), (1, 3), (3, 1)] {
            let peer = scene.parties[other].relayed;
            scene.bind(one, peer);
        }
        let cases = std::env::var("VECTORS").map_or(120_000, |number| number.parse().expect("a number"));
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let (scene, tally) = (RefCell::new(scene), RefCell::new(Tally::default()));
        let result = TestRunner::new(config)
            .run(&vector(), |vector| check(&mut scene.borrow_mut(), &mut tally.borrow_mut(), &vector));
        if let Err(error) = result {
            panic!("{error}\n{:?}", scene.borrow().flows);
        }
        println!("{:?}; {:?}", tally.borrow(), scene.borrow().kernel.counters());
    });
}
