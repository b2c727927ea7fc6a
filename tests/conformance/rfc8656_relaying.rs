//! RFC 8656 §8 to §12: Refresh, permissions, Send and Data, channels.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::case::{Need, Section, Step, failed, may, must, policy};
use crate::client::{Client, Judged};
use crate::drafts::*;
use crate::ensure;
use crate::link::{Arrival, DATAGRAMS, STREAMS, Transport, UDP};
use crate::numbers::*;
use crate::rfc8656_allocate::dual;
use crate::wire::Draft;

const IPV6: [u8; 4] = [2, 0, 0, 0];

fn ipv6_nowhere() -> SocketAddr {
    "[2001:db8::7]:7000".parse().expect("an address")
}

pub fn sections() -> Vec<Section> {
    vec![refreshing(), permissions(), indications(), channels(), channel_data_frames()]
}

fn refreshing() -> Section {
    let cases = vec![
        must("TURN-8656-8.2-01", "LIFETIME 0 deletes").test(|bench| {
            let (mut client, _) = bench.allocated()?;
            let response = client.ask_signed(&refresh_for(0))?.success()?;
            ensure!(response.number(LIFETIME) == Some(0), "expected LIFETIME=0: {response}");
            client.ask_signed(&refresh())?.error_is(437).map(drop)
        }),
        must("TURN-8656-8.2-02", "the lifetime is computed as by Allocate").needs(&[Need::DefaultLifetimes]).test(
            |bench| {
                let (mut client, _) = bench.allocated()?;
                for (draft, granted) in [(refresh(), 600), (refresh_for(60), 600), (refresh_for(7_200), 3_600)] {
                    let response = client.ask_signed(&draft)?.success()?;
                    ensure!(response.number(LIFETIME) == Some(granted), "expected LIFETIME={granted}: {response}");
                }
                Ok(())
            },
        ),
        must("TURN-8656-8.2-03", "a family that the allocation has not is 443").test(|bench| {
            let (mut client, _) = bench.allocated()?;
            client.ask_signed(&refresh().with(REQUESTED_ADDRESS_FAMILY, IPV6))?.error_is(443).map(drop)
        }),
        must("TURN-8656-8.2-04", "one half of a dual allocation can be deleted").needs(&[Need::DualRelay]).test(
            |bench| {
                let (mut client, [relayed, _]) = dual(bench)?;
                let peer = bench.peer()?;
                client.bind_channel(0x4000, peer.address)?;
                let mut half = refresh_for(0);
                half = half.with(REQUESTED_ADDRESS_FAMILY, IPV6);
                client.ask_signed(&half)?.success()?;
                peer.send(relayed, b"the other half")?;
                client.expect_channel_data(0x4000, b"the other half")?;
                client.ask_signed(&refresh().with(REQUESTED_ADDRESS_FAMILY, IPV6))?.error_is(443)?;
                client.ask_signed(&refresh_for(0))?.success().map(drop)
            },
        ),
        must("TURN-8656-8.2-05", "success tells the new lifetime").test(|bench| {
            let (mut client, _) = bench.allocated()?;
            let response = client.ask_signed(&refresh())?.success()?;
            ensure!(response.number(LIFETIME).is_some_and(|secs| secs > 0), "expected LIFETIME: {response}");
            Ok(())
        }),
        must("TURN-8656-8.2-06", "a retransmitted deletion is answered with success or 437").over(DATAGRAMS).test(
            |bench| {
                let (mut client, _) = bench.allocated()?;
                let signed = client.signed(&refresh_for(0))?;
                client.ask(&signed)?.success()?;
                let again = client.ask(&signed)?;
                ensure!(again.is_success() || again.error() == Some(437), "expected success or 437: {again}");
                Ok(())
            },
        ),
        policy("TURN-8656-8.2-07", "only its user deletes an allocation").needs(&[Need::SecondUser]).test(|bench| {
            let (mut client, relayed, peer) = bench.relaying()?;
            let owner = client.user.clone();
            client.user = bench.second_user()?.clone();
            client.ask_signed(&refresh_for(0))?.error_is(441)?;
            client.user = owner;
            peer.send(relayed, b"alive")?;
            client.expect_data(b"alive").map(drop)
        }),
        policy("TURN-8656-8.2-08", "after deleting, the connection can allocate again").over(STREAMS).test(|bench| {
            let (mut client, _) = bench.allocated()?;
            client.ask_signed(&refresh_for(0))?.success()?;
            client.ask_signed(&allocate())?.success().map(drop)
        }),
    ];
    Section { title: "RFC 8656 §8 Refresh", cases }
}

fn permissions() -> Section {
    let cases = vec![
        must("TURN-8656-9-01", "a permission is for an address, whatever the port").test(|bench| {
            let (mut client, relayed) = bench.allocated()?;
            let peer = bench.peer()?;
            client.permit(SocketAddr::new(peer.address.ip(), 0))?;
            peer.send(relayed, b"any port")?;
            let from = client.expect_data(b"any port")?;
            ensure!(from == peer.address, "expected {}, received {from}", peer.address);
            Ok(())
        }),
        must("TURN-8656-9-02", "a permission lasts 300 s").over(UDP).slow().test(|bench| {
            let (mut client, relayed, peer) = bench.relaying()?;
            std::thread::sleep(Duration::from_secs(297));
            peer.send(relayed, b"in time")?;
            client.expect_data(b"in time")?;
            std::thread::sleep(Duration::from_secs(5));
            peer.send(relayed, b"too late")?;
            client.hears_nothing()
        }),
        must("TURN-8656-9-03", "who has no permission is not heard").test(|bench| {
            let (mut client, relayed) = bench.allocated()?;
            client.permit(bench.elsewhere(1)?)?;
            let peer = bench.peer()?;
            peer.send(relayed, b"stranger")?;
            client.hears_nothing()
        }),
        must("TURN-8656-9-04", "traffic refreshes no permission").over(UDP).slow().test(|bench| {
            let (mut client, relayed, peer) = bench.relaying()?;
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(298) {
                peer.send(relayed, b"tick")?;
                client.expect_data(b"tick")?;
                client.send(peer.address, b"tock")?;
                std::thread::sleep(Duration::from_secs(2));
            }
            std::thread::sleep(Duration::from_secs(4));
            peer.send(relayed, b"tick")?;
            client.hears_nothing()
        }),
        must("TURN-8656-9-05", "permissions and channels belong to one allocation").test(|bench| {
            let (mut one, first, peer) = bench.on_channel(0x4000)?;
            let (mut other, second) = bench.allocated()?;
            peer.send(second, b"not here")?;
            other.hears_nothing()?;
            other.bind_channel(0x4000, peer.address)?;
            for (client, relayed) in [(&mut one, first), (&mut other, second)] {
                client.send_on_channel(0x4000, b"mine")?;
                let from = peer.expect(b"mine")?;
                ensure!(from == relayed, "it came from {from} instead of {relayed}");
            }
            Ok(())
        }),
        must("TURN-8656-10.2-01", "no XOR-PEER-ADDRESS, or an invalid one, is 400").test(|bench| {
            let (mut client, _) = bench.allocated()?;
            client.ask_signed(&create_permission(&[]))?.error_is(400)?;
            let draft = Draft::new(message::CREATE_PERMISSION).with(XOR_PEER_ADDRESS, [0, 7, 0, 0, 1, 2, 3, 4]);
            client.ask_signed(&draft)?.error_is(400).map(drop)
        }),
        must("TURN-8656-10.2-02", "every XOR-PEER-ADDRESS gets its permission").test(|bench| {
            let (mut client, relayed) = bench.allocated()?;
            let peer = bench.peer()?;
            let mut peers = (1..10).map(|last| bench.elsewhere(last)).collect::<Step<Vec<SocketAddr>>>()?;
            peers.push(peer.address);
            client.ask_signed(&create_permission(&peers))?.success()?;
            peer.send(relayed, b"the tenth")?;
            client.expect_data(b"the tenth").map(drop)
        }),
        policy("TURN-8656-10.2-03", "all get a permission, or none").test(|bench| {
            let (mut client, relayed) = bench.allocated()?;
            let peer = bench.peer()?;
            let forbidden = SocketAddr::from(([224, 0, 0, 1], 7_000));
            client.ask_signed(&create_permission(&[peer.address, forbidden]))?.error_is(403)?;
            peer.send(relayed, b"not permitted")?;
            client.hears_nothing()
        }),
        must("TURN-8656-10.2-04", "a peer of another family is 443").test(|bench| {
            let (mut client, _) = bench.allocated()?;
            client.ask_signed(&create_permission(&[ipv6_nowhere()]))?.error_is(443).map(drop)
        }),
        may("TURN-8656-10.2-05", "a peer that is not allowed is 403").needs(&[Need::PeersRestricted]).test(|bench| {
            let (mut client, _) = bench.allocated()?;
            let loopback = SocketAddr::from(([127, 0, 0, 1], 7_000));
            client.ask_signed(&create_permission(&[loopback]))?.error_is(403).map(drop)
        }),
        must("TURN-8656-10.2-06", "too many permissions are 508").needs(&[Need::FewPermissions]).test(|bench| {
            let (mut client, _) = bench.allocated()?;
            for last in 1..=3 {
                client.permit(bench.elsewhere(last)?)?;
            }
            client.ask_signed(&create_permission(&[bench.elsewhere(4)?]))?.error_is(508)?;
            // Those that are there can be refreshed.
            client.permit(bench.elsewhere(1)?)
        }),
    ];
    Section { title: "RFC 8656 §9, §10 permissions", cases }
}

fn indications() -> Section {
    let cases = vec![
        must("TURN-8656-11.2-01", "Send without a peer or without data is discarded").test(|bench| {
            let (mut client, _, peer) = bench.relaying()?;
            client.tell(Draft::new(message::SEND_INDICATION).peer(peer.address).bytes())?;
            client.tell(Draft::new(message::SEND_INDICATION).with(DATA, b"whom?").bytes())?;
            client.send(peer.address, b"whole")?;
            peer.expect(b"whole")?;
            client.hears_nothing()
        }),
        must("TURN-8656-11.2-02", "empty data is an empty datagram").test(|bench| {
            let (mut client, _, peer) = bench.relaying()?;
            client.send(peer.address, b"")?;
            peer.expect(b"").map(drop)
        }),
        must("TURN-8656-11.2-03", "Send without a permission is discarded").test(|bench| {
            let (mut client, _) = bench.allocated()?;
            let peer = bench.peer()?;
            client.send(peer.address, b"not permitted")?;
            client.permit(peer.address)?;
            client.send(peer.address, b"permitted")?;
            peer.expect(b"permitted").map(drop)
        }),
        must("TURN-8656-11.2-04", "Send makes no permission").test(|bench| {
            let (mut client, relayed) = bench.allocated()?;
            let peer = bench.peer()?;
            client.send(peer.address, b"not permitted")?;
            client.all_before_now()?;
            peer.send(relayed, b"nor heard")?;
            client.hears_nothing()
        }),
        must("TURN-8656-11.2-05", "Send with DONT-FRAGMENT that cannot be set is discarded")
            .needs(&[Need::NoDontFragment])
            .test(|bench| {
                let (mut client, _, peer) = bench.relaying()?;
                client.tell(send(peer.address, b"unfragmented").with(DONT_FRAGMENT, []).bytes())?;
                client.send(peer.address, b"as it comes")?;
                peer.expect(b"as it comes").map(drop)
            }),
        may("TURN-8656-11.2-06", "Send to a forbidden peer is silently discarded")
            .needs(&[Need::PeersRestricted])
            .test(|bench| {
                let (mut client, _) = bench.allocated()?;
                let peer = crate::bench::Peer::new([127, 0, 0, 1].into(), &bench.transcript)?;
                client.send(peer.address, b"forbidden")?;
                client.hears_nothing()?;
                let direct = crate::bench::Peer::new([127, 0, 0, 1].into(), &bench.transcript)?;
                direct.send(peer.address, b"not through the relay")?;
                peer.expect(b"not through the relay").map(drop)
            }),
        must("TURN-8656-11.2-07", "the peer gets exactly the data, from the relayed address").test(|bench| {
            let (mut client, relayed, peer) = bench.relaying()?;
            let data: Vec<u8> = (0..=255).cycle().take(1_001).collect();
            client.send(peer.address, &data)?;
            let from = peer.expect(&data)?;
            ensure!(from == relayed, "it came from {from} instead of {relayed}");
            Ok(())
        }),
        must("TURN-8656-11.3-01", "the client gets exactly the data, and who sent it").test(|bench| {
            let (mut client, relayed, peer) = bench.relaying()?;
            let data: Vec<u8> = (0..=255).cycle().take(1_001).collect();
            peer.send(relayed, &data)?;
            let from = client.expect_data(&data)?;
            ensure!(from == peer.address, "expected {}, received {from}", peer.address);
            Ok(())
        }),
        must("TURN-8656-11.3-02", "a channel is for one port, the permission for all").test(|bench| {
            let (mut client, relayed, peer) = bench.on_channel(0x4000)?;
            let other = bench.peer()?;
            peer.send(relayed, b"on the channel")?;
            client.expect_channel_data(0x4000, b"on the channel")?;
            other.send(relayed, b"beside it")?;
            client.expect_data(b"beside it").map(drop)
        }),
        must("TURN-8656-11.3-03", "an empty datagram is delivered").test(|bench| {
            let (mut client, relayed, peer) = bench.relaying()?;
            peer.send(relayed, b"")?;
            client.expect_data(b"")?;
            client.bind_channel(0x4000, peer.address)?;
            peer.send(relayed, b"")?;
            client.expect_channel_data(0x4000, b"").map(drop)
        }),
        policy("TURN-8656-11.3-04", "what a peer sends is opaque, STUN included").test(|bench| {
            let (mut client, relayed, peer) = bench.relaying()?;
            let request = binding();
            peer.send(relayed, request.bytes())?;
            client.expect_data(request.bytes()).map(drop)
        }),
        policy("TURN-8656-11.3-05", "large datagrams are relayed whole").test(|bench| {
            let (mut client, relayed, peer) = bench.on_channel(0x4000)?;
            // One record holds 2^14 bytes (RFC 6347 §4.1), four of them ChannelData's header.
            let largest = if client.transport() == Transport::Dtls { 16_380 } else { 65_000 };
            for len in [9_000, largest] {
                let data: Vec<u8> = (0..=255).cycle().take(len).collect();
                client.send_on_channel(0x4000, &data)?;
                peer.expect(&data)?;
                peer.send(relayed, &data)?;
                client.expect_channel_data(0x4000, &data)?;
            }
            Ok(())
        }),
        must("TURN-8656-11.5-01", "a closed port is told as ICMP without data").needs(&[Need::SameMachine]).test(
            |bench| {
                let (mut client, _, peer) = bench.relaying()?;
                let closed = peer.address;
                drop(peer);
                icmp(&mut client, closed, |client| client.send(closed, b"anybody?"))
            },
        ),
        must("TURN-8656-11.5-04", "an ICMP error names the peer's port")
            .needs(&[Need::SameMachine])
            .over(DATAGRAMS)
            .test(|bench| {
                let (mut client, _) = bench.allocated()?;
                let closed = [bench.peer()?.address, bench.peer()?.address];
                client.permit(closed[0])?;
                for closed in closed {
                    icmp(&mut client, closed, |client| client.send(closed, b"anybody?"))?;
                }
                Ok(())
            }),
        must("TURN-8656-11.5-05", "ICMP comes in a Data indication, channel or not").needs(&[Need::SameMachine]).test(
            |bench| {
                let (mut client, _, peer) = bench.on_channel(0x4000)?;
                let closed = peer.address;
                drop(peer);
                icmp(&mut client, closed, |client| client.send_on_channel(0x4000, b"anybody?"))
            },
        ),
        policy("TURN-8656-11.5-06", "an ICMP error ends nothing").test(|bench| {
            let (mut client, relayed, peer) = bench.relaying()?;
            let closed = bench.peer()?.address;
            for _ in 0..3 {
                client.send(closed, b"nobody")?;
            }
            client.all_before_now()?;
            client.send(peer.address, b"and on")?;
            peer.expect(b"and on")?;
            peer.send(relayed, b"and back")?;
            client.expect_data(b"and back").map(drop)
        }),
    ];
    Section { title: "RFC 8656 §11 Send, Data, ICMP", cases }
}

fn channels() -> Section {
    let cases = vec![
        must("TURN-8656-12-01", "channel numbers are 0x4000 to 0x4FFF").test(|bench| {
            let (mut client, _, peer) = bench.relaying()?;
            for number in [0, 0x3FFF, 0x5000, 0x7FFF, 0xFFFF] {
                client.ask_signed(&channel_bind(number, peer.address))?.error_is(400)?;
            }
            client.bind_channel(0x4000, bench.elsewhere(1)?)?;
            client.bind_channel(0x4FFF, bench.elsewhere(2)?)
        }),
        must("TURN-8656-12-02", "a channel lasts 600 s").over(UDP).slow().test(|bench| {
            let (mut client, _, peer) = bench.on_channel(0x4000)?;
            client.ask_signed(&refresh_for(1_200))?.success()?;
            std::thread::sleep(Duration::from_secs(299));
            client.permit(peer.address)?;
            std::thread::sleep(Duration::from_secs(297));
            client.permit(peer.address)?;
            client.send_on_channel(0x4000, b"in time")?;
            peer.expect(b"in time")?;
            std::thread::sleep(Duration::from_secs(6));
            client.send_on_channel(0x4000, b"too late")?;
            client.send(peer.address, b"beside it")?;
            peer.expect(b"beside it").map(drop)
        }),
        must("TURN-8656-12.2-01", "ChannelBind needs a number and a peer").test(|bench| {
            let (mut client, _, peer) = bench.relaying()?;
            client.ask_signed(&Draft::new(message::CHANNEL_BIND).peer(peer.address))?.error_is(400)?;
            let number = Draft::new(message::CHANNEL_BIND).number(CHANNEL_NUMBER, 0x4000_0000);
            client.ask_signed(&number)?.error_is(400).map(drop)
        }),
        must("TURN-8656-12.2-03", "a number that is bound to another peer is 400").test(|bench| {
            let (mut client, _, peer) = bench.on_channel(0x4000)?;
            client.ask_signed(&channel_bind(0x4000, bench.elsewhere(1)?))?.error_is(400)?;
            client.send_on_channel(0x4000, b"as before")?;
            peer.expect(b"as before").map(drop)
        }),
        must("TURN-8656-12.2-04", "a peer that is bound to another number is 400").test(|bench| {
            let (mut client, _, peer) = bench.on_channel(0x4000)?;
            client.ask_signed(&channel_bind(0x4001, peer.address))?.error_is(400)?;
            client.send_on_channel(0x4000, b"as before")?;
            peer.expect(b"as before").map(drop)
        }),
        must("TURN-8656-12.2-05", "a peer of another family is 443").test(|bench| {
            let (mut client, _) = bench.allocated()?;
            client.ask_signed(&channel_bind(0x4000, ipv6_nowhere()))?.error_is(443).map(drop)
        }),
        may("TURN-8656-12.2-06", "a forbidden peer is 403").needs(&[Need::PeersRestricted]).test(|bench| {
            let (mut client, _) = bench.allocated()?;
            let loopback = SocketAddr::from(([127, 0, 0, 1], 80));
            client.ask_signed(&channel_bind(0x4000, loopback))?.error_is(403).map(drop)
        }),
        must("TURN-8656-12.2-07", "too many channels are 508").needs(&[Need::FewPermissions]).test(|bench| {
            let (mut client, _) = bench.allocated()?;
            client.bind_channel(0x4000, bench.elsewhere(1)?)?;
            client.bind_channel(0x4001, bench.elsewhere(2)?)?;
            client.ask_signed(&channel_bind(0x4002, bench.elsewhere(3)?))?.error_is(508)?;
            client.bind_channel(0x4000, bench.elsewhere(1)?)
        }),
        must("TURN-8656-12.2-08", "ChannelBind gives the permission, too").test(|bench| {
            let (mut client, relayed) = bench.allocated()?;
            let (peer, other) = (bench.peer()?, bench.peer()?);
            client.bind_channel(0x4000, peer.address)?;
            peer.send(relayed, b"bound")?;
            client.expect_channel_data(0x4000, b"bound")?;
            other.send(relayed, b"of the same address")?;
            client.expect_data(b"of the same address").map(drop)
        }),
    ];
    Section { title: "RFC 8656 §12.1, §12.2 ChannelBind", cases }
}

fn channel_data_frames() -> Section {
    let cases = vec![
        must("TURN-8656-12.5-01", "once bound, the peer's data comes as ChannelData").test(|bench| {
            let (mut client, relayed, peer) = bench.relaying()?;
            peer.send(relayed, b"before")?;
            client.expect_data(b"before")?;
            client.bind_channel(0x4ABC, peer.address)?;
            for _ in 0..3 {
                peer.send(relayed, b"after")?;
                client.expect_channel_data(0x4ABC, b"after")?;
            }
            Ok(())
        }),
        must("TURN-8656-12.5-02", "on a stream ChannelData is padded, and the padding not counted").over(STREAMS).test(
            |bench| {
                let (mut client, relayed, peer) = bench.on_channel(0x4000)?;
                for data in [&b"abc"[..], b"abcd", b"a"] {
                    peer.send(relayed, data)?;
                    let padding = client.expect_channel_data(0x4000, data)?;
                    let expected = data.len().next_multiple_of(4) - data.len();
                    ensure!(padding == expected, "{padding} bytes of padding for {}", data.len());
                }
                // Whatever is unpadded here would have brought this out of step.
                client.ask(&binding())?.success().map(drop)
            },
        ),
        may("TURN-8656-12.5-03", "over UDP padding is accepted, and none is sent").over(DATAGRAMS).test(|bench| {
            let (mut client, relayed, peer) = bench.on_channel(0x4000)?;
            client.tell(padded_channel_data(0x4000, b"abc"))?;
            peer.expect(b"abc")?;
            client.tell(channel_data(0x4000, b"abc"))?;
            peer.expect(b"abc")?;
            peer.send(relayed, b"abc")?;
            let padding = client.expect_channel_data(0x4000, b"abc")?;
            ensure!(padding == 0, "{padding} bytes of padding");
            Ok(())
        }),
        must("TURN-8656-12.6-01", "ChannelData longer than its datagram is discarded").over(DATAGRAMS).test(|bench| {
            let (mut client, _, peer) = bench.on_channel(0x4000)?;
            let mut frame = channel_data(0x4000, &[7; 10]);
            frame[3] = 100;
            client.tell(frame)?;
            client.send_on_channel(0x4000, b"whole")?;
            peer.expect(b"whole").map(drop)
        }),
        must("TURN-8656-12.6-02", "bytes behind ChannelData are ignored").over(DATAGRAMS).test(|bench| {
            let (mut client, _, peer) = bench.on_channel(0x4000)?;
            client.tell([&channel_data(0x4000, b"abc")[..], b"\0defg"].concat())?;
            peer.expect(b"abc").map(drop)
        }),
        must("TURN-8656-12.6-03", "ChannelData with a number that is not bound is discarded").test(|bench| {
            let (mut client, _, peer) = bench.on_channel(0x4000)?;
            client.send_on_channel(0x4ABC, b"unbound")?;
            client.send_on_channel(0x4000, b"bound")?;
            peer.expect(b"bound")?;
            client.ask(&binding())?.success().map(drop)
        }),
        must("TURN-8656-12.6-06", "ChannelData of length 0 is an empty datagram").test(|bench| {
            let (mut client, _, peer) = bench.on_channel(0x4000)?;
            client.send_on_channel(0x4000, b"")?;
            peer.expect(b"").map(drop)
        }),
        must("TURN-8656-12.6-07", "frames of a stream are cut right, however they arrive").over(STREAMS).test(
            |bench| {
                let (mut client, _, peer) = bench.on_channel(0x4000)?;
                let frames = || {
                    let request = binding();
                    let (before, behind) = (padded_channel_data(0x4000, b"abc"), padded_channel_data(0x4000, b"d"));
                    let bytes = [&before, request.bytes(), &behind].concat();
                    (request, bytes)
                };
                let len = frames().1.len();
                for cut in 1..len {
                    let (request, bytes) = frames();
                    client.tell(&bytes[..cut])?;
                    client.tell(&bytes[cut..])?;
                    peer.expect(b"abc")?;
                    client.response_to(&request, crate::link::PATIENCE)?.success()?;
                    peer.expect(b"d")?;
                }
                Ok(())
            },
        ),
        policy("TURN-8656-12.6-05", "ChannelData needs a live permission").over(UDP).slow().test(|bench| {
            let (mut client, _, peer) = bench.on_channel(0x4000)?;
            std::thread::sleep(Duration::from_secs(303));
            client.send_on_channel(0x4000, b"not permitted")?;
            client.permit(peer.address)?;
            client.send_on_channel(0x4000, b"permitted")?;
            peer.expect(b"permitted").map(drop)
        }),
    ];
    Section { title: "RFC 8656 §12.5, §12.6 ChannelData", cases }
}

/// Sends until the client hears that the port is closed.
fn icmp(client: &mut Client, closed: SocketAddr, act: impl Fn(&mut Client) -> Step<()>) -> Step<()> {
    act(client)?;
    let arrival = client.receive()?;
    let Arrival::Stun(message) = &arrival else {
        return failed(format!("expected a Data indication with ICMP, received: {arrival}"));
    };
    let is_data = message.message_type() == message::DATA_INDICATION;
    let icmp = message.get(ICMP).unwrap_or_default();
    let is_right = icmp.len() == 8 && icmp[..2] == [0, 0] && icmp[2..4] == [3, 3] && icmp[4..] == [0; 4];
    ensure!(is_data && is_right && !message.has(DATA), "expected ICMP 3/3 in a Data indication: {message}");
    let peer = message.xored(XOR_PEER_ADDRESS);
    ensure!(peer == Some(closed), "expected XOR-PEER-ADDRESS={closed}: {message}");
    Ok(())
}
