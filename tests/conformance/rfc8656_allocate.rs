//! RFC 8656 §6 and §7: Allocate, in the order of its checks.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::case::{Need, Section, Step, failed, may, must, policy, should};
use crate::client::Judged;
use crate::drafts::*;
use crate::ensure;
use crate::link::{DATAGRAMS, UDP};
use crate::numbers::*;
use crate::wire::Draft;

const IPV4: [u8; 4] = [1, 0, 0, 0];
const IPV6: [u8; 4] = [2, 0, 0, 0];

pub fn sections() -> Vec<Section> {
    vec![checks(), families(), answers()]
}

fn checks() -> Section {
    let cases = vec![
        must("TURN-8656-7.2-01", "first the credentials").test(|bench| {
            let nonsense = Draft::new(message::ALLOCATE).with(RESERVATION_TOKEN, [0; 8]).with(EVEN_PORT, [0x80]);
            bench.client()?.ask(&nonsense)?.error_is(401).map(drop)
        }),
        must("TURN-8656-7.2-02", "a 5-tuple has one allocation: 437 for the second").test(|bench| {
            let (mut client, relayed, peer) = bench.relaying()?;
            client.ask_signed(&allocate())?.error_is(437)?;
            peer.send(relayed, b"intact")?;
            client.expect_data(b"intact").map(drop)
        }),
        must("TURN-8656-7.2-03", "a retransmission gets the same success again").over(DATAGRAMS).test(|bench| {
            let mut client = bench.client()?;
            let signed = client.signed(&allocate().with(EVEN_PORT, [0x80]))?;
            let (first, second) = (client.ask(&signed)?.success()?, client.ask(&signed)?.success()?);
            for kind in [XOR_RELAYED_ADDRESS, RESERVATION_TOKEN] {
                ensure!(first.get(kind) == second.get(kind), "{first} and then {second}");
            }
            Ok(())
        }),
        must("TURN-8656-7.2-05", "REQUESTED-TRANSPORT missing or malformed is 400").test(|bench| {
            let mut client = bench.client()?;
            client.ask_signed(&Draft::new(message::ALLOCATE))?.error_is(400)?;
            client.ask_signed(&Draft::new(message::ALLOCATE).with(REQUESTED_TRANSPORT, [17]))?.error_is(400).map(drop)
        }),
        must("TURN-8656-7.2-06", "another protocol than UDP is 442").test(|bench| {
            let draft = Draft::new(message::ALLOCATE).with(REQUESTED_TRANSPORT, [132, 0, 0, 0]);
            bench.client()?.ask_signed(&draft)?.error_is(442).map(drop)
        }),
        must("TURN-8656-7.2-07", "DONT-FRAGMENT is supported, or unknown").test(|bench| {
            let response = bench.client()?.ask_signed(&allocate().with(DONT_FRAGMENT, []))?;
            if response.error() == Some(420) {
                let list = response.get(UNKNOWN_ATTRIBUTES);
                ensure!(list == Some(&[0x00, 0x1A]), "expected UNKNOWN-ATTRIBUTES 001a: {response}");
                return Ok(());
            }
            response.success().map(drop)
        }),
        must("TURN-8656-7.2-08", "RESERVATION-TOKEN goes with none of EVEN-PORT and the families").test(|bench| {
            let mut client = bench.client()?;
            let with_token = || allocate().with(RESERVATION_TOKEN, [7; 8]);
            client.ask_signed(&with_token().with(EVEN_PORT, [0]))?.error_is(400)?;
            client.ask_signed(&with_token().with(REQUESTED_ADDRESS_FAMILY, IPV4))?.error_is(400)?;
            client.ask_signed(&with_token().with(ADDITIONAL_ADDRESS_FAMILY, IPV6))?.error_is(400).map(drop)
        }),
        must("TURN-8656-7.2-09", "a token that is bad or used is 508").test(|bench| {
            let mut client = bench.client()?;
            client.ask_signed(&allocate().with(RESERVATION_TOKEN, [7; 8]))?.error_is(508)?;
            let (_reserving, token, _) = reserved(bench)?;
            let redeeming = allocate().with(RESERVATION_TOKEN, &token);
            bench.client()?.ask_signed(&redeeming)?.success()?;
            let again = allocate().with(RESERVATION_TOKEN, &token);
            client.ask_signed(&again)?.error_is(508).map(drop)
        }),
        must("TURN-8656-7.2-10", "REQUESTED- and ADDITIONAL-ADDRESS-FAMILY together are 400").test(|bench| {
            let draft = allocate().with(REQUESTED_ADDRESS_FAMILY, IPV4).with(ADDITIONAL_ADDRESS_FAMILY, IPV6);
            bench.client()?.ask_signed(&draft)?.error_is(400).map(drop)
        }),
    ];
    Section { title: "RFC 8656 §7.2 Allocate: checks", cases }
}

fn families() -> Section {
    let cases = vec![
        must("TURN-8656-7.2-11", "a family that is not there is 440").needs(&[Need::Ipv4RelayOnly]).test(|bench| {
            let mut client = bench.client()?;
            client.ask_signed(&allocate().with(REQUESTED_ADDRESS_FAMILY, IPV6))?.error_is(440)?;
            client.ask_signed(&allocate().with(REQUESTED_ADDRESS_FAMILY, [9, 0, 0, 0]))?.error_is(440).map(drop)
        }),
        must("TURN-8656-7.2-12", "without REQUESTED-ADDRESS-FAMILY it is IPv4, for IPv6 clients, too")
            .needs(&[Need::Ipv6, Need::DualRelay])
            .test(|bench| {
                let relayed = bench.ipv6_client()?.allocate()?;
                ensure!(relayed.is_ipv4(), "expected an IPv4 address, received {relayed}");
                Ok(())
            }),
        must("TURN-8656-7.2-13", "reserving a port and an additional family together are 400").test(|bench| {
            let draft = allocate().with(EVEN_PORT, [0x80]).with(ADDITIONAL_ADDRESS_FAMILY, IPV6);
            bench.client()?.ask_signed(&draft)?.error_is(400).map(drop)
        }),
        must("TURN-8656-7.2-14", "no even pair left is 508").needs(&[Need::FewPorts]).test(|bench| {
            let both = [reserved(bench)?, reserved(bench)?];
            let third = bench.client()?.ask_signed(&allocate().with(EVEN_PORT, [0x80]))?;
            // What is not redeemed stays reserved for the tests that follow.
            for (_, token, _) in &both {
                bench.client()?.ask_signed(&allocate().with(RESERVATION_TOKEN, token))?.success()?;
            }
            third.error_is(508).map(drop)
        }),
        must("TURN-8656-7.2-15", "ADDITIONAL-ADDRESS-FAMILY is IPv6 or 400").test(|bench| {
            bench.client()?.ask_signed(&allocate().with(ADDITIONAL_ADDRESS_FAMILY, IPV4))?.error_is(400).map(drop)
        }),
        must("TURN-8656-7.2-16", "neither family possible is 508").needs(&[Need::FewPorts]).test(|bench| {
            let _all = filled(bench)?;
            bench.client()?.ask_signed(&allocate().with(ADDITIONAL_ADDRESS_FAMILY, IPV6))?.error_is(508).map(drop)
        }),
        must("TURN-8656-7.2-17", "one family of two is success with ADDRESS-ERROR-CODE for the other")
            .needs(&[Need::Ipv4RelayOnly])
            .test(|bench| {
                let draft = allocate().with(ADDITIONAL_ADDRESS_FAMILY, IPV6);
                let response = bench.client()?.ask_signed(&draft)?.success()?;
                let count = response.all(XOR_RELAYED_ADDRESS).count();
                let error = response.get(ADDRESS_ERROR_CODE).unwrap_or_default();
                let is_right = count == 1 && (error.starts_with(&[2, 0, 4, 40]) || error.starts_with(&[2, 0, 5, 8]));
                ensure!(is_right, "expected one address and an ADDRESS-ERROR-CODE for IPv6: {response}");
                Ok(())
            }),
        must("TURN-8656-7.2-18", "both families are two relayed addresses").needs(&[Need::DualRelay]).test(|bench| {
            let (mut client, relayed) = dual(bench)?;
            let (peer, peer6) = (bench.peer()?, bench.ipv6_peer()?);
            client.ask_signed(&create_permission(&[peer.address, peer6.address]))?.success()?;
            for (peer, relayed) in [(peer, relayed[0]), (peer6, relayed[1])] {
                client.send(peer.address, b"dual")?;
                let from = peer.expect(b"dual")?;
                ensure!(from == relayed, "it came from {from} instead of {relayed}");
            }
            Ok(())
        }),
        must("TURN-8656-3.7-01", "DONT-FRAGMENT is granted between families, or unknown")
            .needs(&[Need::DualRelay])
            .test(|bench| {
                let draft = allocate().with(REQUESTED_ADDRESS_FAMILY, IPV6).with(DONT_FRAGMENT, []);
                let response = bench.client()?.ask_signed(&draft)?;
                ensure!(response.is_success() || response.error() == Some(420), "expected success or 420: {response}");
                Ok(())
            }),
        must("IPV6-6156-01", "every pair of families is relayed").needs(&[Need::Ipv6, Need::DualRelay]).test(|bench| {
            for (family, client_is_ipv6) in [(IPV4, false), (IPV6, false), (IPV4, true), (IPV6, true)] {
                let mut client = if client_is_ipv6 { bench.ipv6_client()? } else { bench.client()? };
                let relayed = client.allocate_with(&allocate().with(REQUESTED_ADDRESS_FAMILY, family))?;
                let peer = if family == IPV4 { bench.peer()? } else { bench.ipv6_peer()? };
                client.permit(peer.address)?;
                client.send(peer.address, b"there")?;
                peer.expect(b"there")?;
                peer.send(relayed, b"and back")?;
                client.expect_data(b"and back")?;
            }
            Ok(())
        }),
        must("IPV6-6156-02", "Refresh may name the family").needs(&[Need::DualRelay]).test(|bench| {
            for family in [IPV4, IPV6] {
                let mut client = bench.client()?;
                client.allocate_with(&allocate().with(REQUESTED_ADDRESS_FAMILY, family))?;
                client.ask_signed(&refresh().with(REQUESTED_ADDRESS_FAMILY, family))?.success()?;
            }
            Ok(())
        }),
    ];
    Section { title: "RFC 8656 §7.2, RFC 6156 Allocate: families", cases }
}

fn answers() -> Section {
    let cases = vec![
        must("TURN-8656-6-01", "relayed transport addresses are unique").test(|bench| {
            let mut clients = Vec::new();
            let mut seen = BTreeSet::new();
            for _ in 0..40 {
                let (client, relayed) = bench.allocated()?;
                ensure!(seen.insert(relayed), "{relayed} twice");
                clients.push(client);
            }
            Ok(())
        }),
        must("TURN-8656-6-04", "the default lifetime is 600 s").needs(&[Need::DefaultLifetimes]).test(|bench| {
            let response = bench.client()?.ask_signed(&allocate())?.success()?;
            ensure!(response.number(LIFETIME) == Some(600), "expected LIFETIME=600: {response}");
            Ok(())
        }),
        must("TURN-8656-6-05", "at the end port, permissions and channels are free").test(|bench| {
            let (mut client, relayed, peer) = bench.on_channel(0x4000)?;
            client.ask_signed(&refresh_for(0))?.success()?;
            client.ask_signed(&refresh())?.error_is(437)?;
            peer.send(relayed, b"too late")?;
            client.hears_nothing()
        }),
        may("TURN-8656-7.2-19", "the quota counts users, not addresses")
            .needs(&[Need::QuotaOfTwo, Need::SecondUser])
            .test(|bench| {
                let _both = [bench.allocated()?, bench.allocated()?];
                bench.client()?.ask_signed(&allocate())?.error_is(486)?;
                let mut other = bench.client()?;
                other.user = bench.second_user()?.clone();
                other.ask_signed(&allocate())?.success().map(drop)
            }),
        must("TURN-8656-7.2-21", "a new allocation permits nobody").test(|bench| {
            let (mut client, relayed) = bench.allocated()?;
            let peer = bench.peer()?;
            peer.send(relayed, b"early")?;
            // The server may read the relay's socket later than the client's.
            for _ in 0..5 {
                client.hears_nothing()?;
            }
            client.permit(peer.address)?;
            peer.send(relayed, b"late")?;
            client.expect_data(b"late").map(drop)
        }),
        must("TURN-8656-7.2-22", "a token may be redeemed over another transport").test(|bench| {
            for transport in crate::link::Transport::ALL {
                if bench.target.address(transport).is_some() {
                    let (_reserving, token, relayed) = reserved(bench)?;
                    let mut client = bench.client_over(transport)?;
                    let redeemed = client.allocate_with(&allocate().with(RESERVATION_TOKEN, token))?;
                    ensure!(redeemed.port() == relayed.port() + 1, "{redeemed} does not follow {relayed}");
                }
            }
            Ok(())
        }),
        policy("TURN-8656-7.2-23", "another user's token is 508").needs(&[Need::SecondUser]).test(|bench| {
            let (_reserving, token, _) = reserved(bench)?;
            let mut client = bench.client()?;
            client.user = bench.second_user()?.clone();
            client.ask_signed(&allocate().with(RESERVATION_TOKEN, token))?.error_is(508).map(drop)
        }),
        must("TURN-8656-7.2-24", "EVEN-PORT without R is an even port and no reservation").test(|bench| {
            for _ in 0..10 {
                let mut client = bench.client()?;
                let response = client.ask_signed(&allocate().with(EVEN_PORT, [0]))?.success()?;
                let port = response.xored(XOR_RELAYED_ADDRESS).map(|relayed| relayed.port());
                let is_right = port.is_some_and(|port| port % 2 == 0) && !response.has(RESERVATION_TOKEN);
                ensure!(is_right, "expected an even port and no token: {response}");
            }
            Ok(())
        }),
        must("TURN-8656-7.2-25", "EVEN-PORT with R reserves the port above").test(|bench| {
            let (_reserving, token, relayed) = reserved(bench)?;
            ensure!(token.len() == 8 && relayed.port() % 2 == 0, "{relayed}, a token of {} bytes", token.len());
            let redeemed = bench.client()?.allocate_with(&allocate().with(RESERVATION_TOKEN, token))?;
            let above = SocketAddr::new(relayed.ip(), relayed.port() + 1);
            ensure!(redeemed == above, "expected {above}, received {redeemed}");
            Ok(())
        }),
        must("TURN-8656-7.2-26", "a reserved port is held").needs(&[Need::FewPorts]).test(|bench| {
            let (_reserving, token, relayed) = reserved(bench)?;
            let mut others = Vec::new();
            for _ in 0..3 {
                let mut client = bench.client()?;
                let response = client.ask_signed(&allocate())?;
                if let Some(other) = response.xored(XOR_RELAYED_ADDRESS) {
                    ensure!(other.port() != relayed.port() + 1, "the reserved {other} went to somebody else");
                    others.push(client);
                }
            }
            bench.client()?.ask_signed(&allocate().with(RESERVATION_TOKEN, token))?.success().map(drop)
        }),
        should("TURN-8656-7.2-27", "relayed ports are dynamic ones").test(|bench| {
            let (_client, relayed) = bench.allocated()?;
            ensure!(relayed.port() >= 49_152, "{relayed}");
            Ok(())
        }),
        should("TURN-8656-7.2-28", "relayed ports are random").test(|bench| {
            let clients: Vec<_> = (0..20).map(|_| bench.allocated()).collect::<Step<_>>()?;
            let ports: Vec<i32> = clients.iter().map(|(_, relayed)| i32::from(relayed.port())).collect();
            let near = ports.windows(2).filter(|pair| (pair[0] - pair[1]).abs() <= 4).count();
            ensure!(near <= 5, "{near} of 19 ports follow each other: {ports:?}");
            Ok(())
        }),
        must("TURN-8656-7.2-29", "the lifetime is at least the default and at most the maximum")
            .needs(&[Need::DefaultLifetimes])
            .test(|bench| {
                for (asked, granted) in [(0, 600), (60, 600), (1_200, 1_200), (7_200, 3_600)] {
                    let response = bench.client()?.ask_signed(&allocate().number(LIFETIME, asked))?.success()?;
                    ensure!(response.number(LIFETIME) == Some(granted), "asked for {asked} s: {response}");
                }
                Ok(())
            }),
        should("TURN-8656-7.2-30", "the maximum is at most an hour").test(|bench| {
            let response = bench.client()?.ask_signed(&allocate().number(LIFETIME, u32::MAX))?.success()?;
            ensure!(response.number(LIFETIME).is_some_and(|secs| secs <= 3_600), "more than an hour: {response}");
            Ok(())
        }),
        must("TURN-8656-7.2-31", "success has relayed and mapped address and lifetime").test(|bench| {
            let mut client = bench.client()?;
            let response = client.ask_signed(&allocate())?.success()?;
            let mapped = response.xored(XOR_MAPPED_ADDRESS);
            let is_whole = response.xored(XOR_RELAYED_ADDRESS).is_some() && response.number(LIFETIME).is_some();
            ensure!(is_whole && mapped == Some(client.address()), "the client is {}: {response}", client.address());
            Ok(())
        }),
        must("TURN-8656-7.2-33", "no port left is 508").needs(&[Need::FewPorts]).test(|bench| {
            let _all = filled(bench)?;
            bench.client()?.ask_signed(&allocate())?.error_is(508).map(drop)
        }),
        must("DISC-8155-6-01", "at an anycast address Allocate is answered 300 with a unicast one")
            .needs(&[Need::Anycast])
            .test(|bench| {
                let mut client = bench.client()?;
                let response = client.ask_signed(&allocate())?.error_is(300)?;
                let unicast = response.plain(ALTERNATE_SERVER);
                let is_other = unicast.is_some_and(|unicast| unicast.ip() != client.link.server.ip());
                ensure!(is_other, "expected another address: {response}");
                client.ask_signed(&refresh())?.error_is(437).map(drop)
            }),
        may("STUN-8489-15-01", "an anycast address serves Binding")
            .over(UDP)
            .needs(&[Need::Anycast])
            .test(|bench| bench.client()?.ask(&binding())?.success().map(drop)),
        policy("DISC-8155-9-01", "guests allocate without credentials, from inside a network")
            .needs(&[Need::Guests])
            .test(|bench| {
                let mut client = bench.client()?;
                let response = client.ask(&allocate())?.success()?;
                let Some(relayed) = response.xored(XOR_RELAYED_ADDRESS) else {
                    return failed(format!("no XOR-RELAYED-ADDRESS: {response}"));
                };
                ensure!(!response.has(MESSAGE_INTEGRITY), "nobody has a key: {response}");
                let peer = bench.peer()?;
                client.ask(&create_permission(&[peer.address]))?.success()?;
                client.send(peer.address, b"a guest's")?;
                let from = peer.expect(b"a guest's")?;
                ensure!(from == relayed, "it came from {from} instead of {relayed}");
                client.ask(&refresh_for(0))?.success()?;
                if bench.target.ipv6.contains_key(&bench.transport) {
                    // The network inside is an IPv4 one.
                    bench.ipv6_client()?.ask(&allocate())?.error_is(401)?;
                }
                Ok(())
            }),
        may("TURN-8656-7.2-34", "a client that is not wanted is 403").needs(&[Need::ClientDenied]).test(|bench| {
            bench.client()?.ask(&binding())?.success()?;
            bench.client()?.ask_signed(&allocate())?.error_is(403).map(drop)
        }),
        policy("TURN-8656-7.2-35", "behind 1:1 NAT the public address is told").needs(&[Need::AdvertisedAddress]).test(
            |bench| {
                let (mut client, relayed, peer) = bench.relaying()?;
                client.send(peer.address, b"from inside")?;
                let from = peer.expect(b"from inside")?;
                ensure!(from.port() == relayed.port() && from.ip() != relayed.ip(), "{relayed} sends as {from}");
                peer.send(from, b"and back")?;
                client.expect_data(b"and back").map(drop)
            },
        ),
        policy("TURN-8656-7.2-36", "a failed Allocate leaves nothing behind").needs(&[Need::FewPorts]).test(|bench| {
            let mut client = bench.client()?;
            for _ in 0..20 {
                client.ask_signed(&Draft::new(message::ALLOCATE))?.error_is(400)?;
                client.ask_signed(&allocate().with(REQUESTED_ADDRESS_FAMILY, [9, 0, 0, 0]))?.error_is(440)?;
                let response = client.ask_signed(&allocate().with(RESERVATION_TOKEN, [1; 8]))?;
                ensure!(response.error().is_some(), "a token that nobody gave out: {response}");
            }
            let all: Step<Vec<_>> = (0..4).map(|_| bench.allocated()).collect();
            all.map(drop)
        }),
        must("TURN-8656-6-03", "traffic does not keep an allocation alive")
            .needs(&[Need::DefaultLifetimes])
            .over(UDP)
            .slow()
            .test(|bench| {
                let (mut client, relayed, peer) = bench.on_channel(0x4000)?;
                let began = Instant::now();
                while began.elapsed() < Duration::from_secs(602) {
                    peer.send(relayed, b"tick")?;
                    client.send_on_channel(0x4000, b"tock")?;
                    std::thread::sleep(Duration::from_secs(2));
                }
                client.ask_signed(&refresh())?.error_is(437).map(drop)
            }),
    ];
    Section { title: "RFC 8656 §6, §7.2 Allocate: what is granted", cases }
}

/// A client that has reserved the port above its own, the token, and its own address.
pub fn reserved(bench: &Bench) -> Step<(crate::client::Client, Vec<u8>, SocketAddr)> {
    let mut client = bench.client()?;
    let response = client.granted(&allocate().with(EVEN_PORT, [0x80]))?;
    match (response.get(RESERVATION_TOKEN), response.xored(XOR_RELAYED_ADDRESS)) {
        (Some(token), Some(relayed)) => Ok((client, token.to_vec(), relayed)),
        _ => failed(format!("expected RESERVATION-TOKEN: {response}")),
    }
}

/// A client with an address of either family: IPv4, IPv6.
pub fn dual(bench: &Bench) -> Step<(crate::client::Client, [SocketAddr; 2])> {
    let mut client = bench.client()?;
    let response = client.ask_signed(&allocate().with(ADDITIONAL_ADDRESS_FAMILY, IPV6))?.success()?;
    let id = response.id();
    let read = |value: &[u8]| crate::wire::read_xor_address(value, id);
    let relayed: Vec<SocketAddr> = response.all(XOR_RELAYED_ADDRESS).filter_map(read).collect();
    let of = |is_ipv4: bool| relayed.iter().find(|address| address.is_ipv4() == is_ipv4).copied();
    match (of(true), of(false)) {
        (Some(ipv4), Some(ipv6)) if relayed.len() == 2 => Ok((client, [ipv4, ipv6])),
        _ => failed(format!("expected one relayed address of each family: {response}")),
    }
}

/// Clients that have all ports.
fn filled(bench: &Bench) -> Step<Vec<crate::client::Client>> {
    let mut clients = Vec::new();
    loop {
        let mut client = bench.client()?;
        if !client.ask_signed(&allocate())?.is_success() {
            return Ok(clients);
        }
        ensure!(clients.len() < 16, "there is no end of ports");
        clients.push(client);
    }
}
