//! The same packets through `turn::relay` and through the program: what comes out is equal byte for byte.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use hairpin::offload::{Outcome, Trial};
use hairpin::turn::{Flow, IpFields, Packet, RelayId, ReplyBuffer, Verdict};
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
    /// What ChannelData or DATA claims.
    ChannelLength(i16),
    /// Anything of what is in front of an indication's data, and the padding behind it, is another byte.
    Indication(usize, u8),
    /// An indication has an attribute more, in front or behind.
    Attribute(u16, bool),
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
        (0usize..52, any::<u8>()).prop_map(|(at, byte)| Flaw::Indication(at, byte)),
        (prop::sample::select(vec![0x8028, 0x001A, 0x8022, 0x0012, 0x0013]), any::<bool>())
            .prop_map(|(kind, behind)| Flaw::Attribute(kind, behind)),
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
pub type Leaves = (SocketAddr, SocketAddr, u8, Vec<u8>);

/// What the machine does with a datagram.
pub fn machine(
    scene: &mut Scene,
    flow: &Flow,
    relay: RelayId,
    to_peer: bool,
    payload: &[u8],
    traffic_class: u8,
) -> Option<Leaves> {
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
        // A request, by now.
        _ => None,
    }
}

/// The client's data in a Send indication, with what may be wrong with it. A transaction id and padding are anything.
fn send_indication(peer: SocketAddr, data: &[u8], seed: u64, flaw: Option<Flaw>) -> Vec<u8> {
    let id = noise(12, seed as u8, seed);
    let mask: Vec<u8> = [&[0x21, 0x12, 0xA4, 0x42][..], &id].concat();
    let (family, ip) = match peer.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let mut attributes = vec![0, 0x12, 0, 4 + ip.len() as u8, 0, family];
    attributes.extend((peer.port() ^ 0x2112).to_be_bytes());
    attributes.extend(ip.iter().zip(&mask).map(|(byte, mask)| byte ^ mask));
    let mut len = data.len() as u16;
    if let Some(Flaw::ChannelLength(by)) = flaw {
        len = len.wrapping_add_signed(by);
    }
    attributes.extend([&[0, 0x13][..], &len.to_be_bytes(), data].concat());
    let padding = noise(4, seed as u8, seed >> 7);
    attributes.extend(&padding[..data.len().wrapping_neg() & 3]);
    if let Some(Flaw::Attribute(kind, behind)) = flaw {
        let at = if behind { attributes.len() } else { 0 };
        attributes.splice(at..at, [&kind.to_be_bytes()[..], &[0, 0]].concat());
    }
    let mut bytes = [&[0, 0x16][..], &(attributes.len() as u16).to_be_bytes(), &mask, &attributes].concat();
    if let Some(Flaw::Indication(at, byte)) = flaw {
        let at = at % (bytes.len() - data.len());
        let at = if at < bytes.len() - data.len() - 3 { at } else { at + data.len() };
        bytes[at] = byte;
    }
    bytes
}

/// The same for all transaction ids, which are random in both: each of the client's messages has its own.
pub fn without_transaction_id(leaves: &Leaves) -> Leaves {
    let mut leaves = leaves.clone();
    let payload = &mut leaves.3;
    let is_data_indication = leaves.0.port() == 3478 && payload.starts_with(&[0, 0x17]);
    if is_data_indication {
        let id: [u8; 12] = payload[8..20].try_into().unwrap();
        if payload[25] == 2 {
            payload[32..44].iter_mut().zip(id).for_each(|(byte, mask)| *byte ^= mask);
        }
        payload[8..20].fill(0);
    }
    leaves
}

/// Counts what was compared.
#[derive(Debug, Default)]
struct Tally {
    relayed: u32,
    /// Of these, those that the program for drivers relays as well.
    in_drivers: u32,
    retries: u32,
    /// Of them, as a Send or Data indication.
    indications: u32,
    passed_up: u32,
}

fn check(scene: &mut Scene, tally: &mut Tally, vector: &Vector) -> Result<(), TestCaseError> {
    let index = vector.flow.index(scene.flows.len());
    let (flow, _, party) = scene.flows[index];
    let relay = scene.parties[party].relay;
    // What comes to a relay from another one never was on a network.
    let to_peer = vector.to_peer || flow.peer_relay.is_some();
    let data = noise(vector.len, vector.lead, vector.seed);
    let payload = match to_peer {
        true if flow.channel.is_none() => send_indication(flow.peer, &data, vector.seed, vector.flaw),
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
    // In drivers nothing is relayed that begins or ends as one.
    let is_other = |other: &Flow| (other.relayed, other.peer) == (flow.peer, flow.relayed);
    let other = scene.flows.iter().map(|(other, ..)| other).find(|other| is_other(other));
    let has_indication = flow.channel.is_none() || other.is_some_and(|other| other.channel.is_none());
    // The kernel may do it, or leave it to the sockets.
    let is_other_indication = flow.channel.is_none()
        && matches!(vector.flaw, Some(Flaw::ChannelLength(_) | Flaw::Indication(..) | Flaw::Attribute(..)));
    let segments = if matches!(vector.flaw, Some(Flaw::Merged)) { 2 } else { 0 };
    match vector.flaw {
        Some(Flaw::OtherPort) => frame.source.set_port(source.port() ^ 1),
        Some(Flaw::OtherCard) => frame.to_mac[5] ^= 0x40,
        Some(Flaw::ChannelLength(_)) if !to_peer => return Ok(()),
        Some(Flaw::Indication(..) | Flaw::Attribute(..)) if !to_peer || flow.channel.is_some() => return Ok(()),
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
    while scene.is_in_drivers()
        && is_exact
        && !has_indication
        && !is_left(&trial)
        && is_left(&in_driver)
        && tally.retries < 1000
    {
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
    let is_readable = is_exact || is_other_indication;
    let expected =
        if is_readable { machine(scene, &flow, relay, to_peer, &frame.payload, frame.traffic_class) } else { None };
    let looks_partial =
        bytes.len() >= udp + 8 && bytes[udp + 6..udp + 8] == sum(&[&frame.pseudo_header()]).to_be_bytes();
    let out_len = |leaves: &Leaves| leaves.3.len() + 8 + if leaves.0.is_ipv4() { 20 } else { 40 };
    match expected {
        Some(leaves)
            if out_len(&leaves) <= MTU && !looks_partial && (is_exact || trial.outcome != Outcome::PassedUp) =>
        {
            let in_driver = in_driver.ok().filter(|_| scene.is_in_drivers() && !has_indication);
            tally.in_drivers += u32::from(in_driver.is_some());
            tally.indications += u32::from(has_indication);
            for trial in [Some(trial), in_driver].into_iter().flatten() {
                prop_assert_eq!(trial.outcome, Outcome::Relayed);
                let out = Frame::parse(&trial.frame);
                let left = (out.source, out.destination, out.traffic_class, out.payload.clone());
                prop_assert_eq!(&without_transaction_id(&left), &without_transaction_id(&leaves));
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

/// Random packets of every kind of flow: ChannelData, Send indications and data from peers, over both families and from one to
/// the other, to peers and from relay to relay, with everything that may be wrong with them.
#[test]
fn what_the_program_relays_is_what_the_machine_would() {
    lab::in_namespace(|| {
        let mut scene = Scene::in_drivers(64);
        for number in 0..4 {
            scene.bind(number, PEERS[number % 2].parse().unwrap());
        }
        for number in 4..8 {
            scene.permit(number, PEERS[number % 2].parse().unwrap());
        }
        // Each to others of its family, one way and back: both with channels, both with indications, one of each.
        for (one, other) in [(0, 2), (2, 0), (1, 3), (3, 1), (0, 6), (1, 7)] {
            let peer = scene.parties[other].relayed;
            scene.bind(one, peer);
        }
        for (one, other) in [(4, 6), (6, 4), (5, 7), (7, 5), (6, 0), (7, 1)] {
            let peer = scene.parties[other].relayed;
            scene.permit(one, peer);
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
