//! RFC 8489 §5 to §7: message structure, base procedures, FINGERPRINT.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::case::{Need, Section, failed, may, must, policy, should};
use crate::client::Judged;
use crate::drafts::*;
use crate::ensure;
use crate::link::{Arrival, DATAGRAMS, PATIENCE, STREAMS, TCP, UDP};
use crate::numbers::*;
use crate::wire::{Draft, Message};

pub fn sections() -> Vec<Section> {
    vec![structure(), procedures(), responses(), fingerprint()]
}

fn structure() -> Section {
    let cases = vec![
        must("STUN-8489-5-01", "a message with other top bits than 00 is not STUN").test(|bench| {
            for bits in [0x40, 0x80, 0xC0] {
                let mut bytes = binding().bytes().to_vec();
                bytes[0] |= bits;
                bench.client()?.is_ignored(bytes)?;
            }
            Ok(())
        }),
        must("STUN-8489-5-02", "the header has 20 bytes").over(DATAGRAMS).test(|bench| {
            let mut client = bench.client()?;
            for len in [0, 1, 4, 19] {
                client.is_ignored(&binding().bytes()[..len])?;
            }
            Ok(())
        }),
        must("STUN-8489-5-03", "method and class are interleaved in the type").test(|bench| {
            let mut client = bench.client()?;
            client.ask(&binding())?.success()?;
            client.ask(&allocate())?.error_is(401)?;
            bench.client()?.is_ignored(Draft::new(0x0200).bytes())
        }),
        must("STUN-8489-5-04", "without the magic cookie it is not STUN (and classic STUN is for Binding)")
            .over(UDP)
            .test(|bench| {
                let mut bytes = allocate().bytes().to_vec();
                bytes[4..8].fill(0);
                bench.client()?.is_ignored(bytes)
            }),
        must("STUN-8489-5-05", "the length is a multiple of four").over(DATAGRAMS).test(|bench| {
            let mut client = bench.client()?;
            for len in [2_u8, 7] {
                let mut bytes = binding().bytes().to_vec();
                bytes[3] = len;
                bytes.resize(20 + usize::from(len), 0);
                client.is_ignored(bytes)?;
            }
            Ok(())
        }),
        must("STUN-8489-5-06", "over UDP the length agrees with the datagram").over(DATAGRAMS).test(|bench| {
            let mut client = bench.client()?;
            let mut too_long = binding().bytes().to_vec();
            too_long[3] = 8;
            client.is_ignored(too_long)?;
            let too_short = [binding().bytes(), &[0; 4]].concat();
            client.is_ignored(too_short)
        }),
        must("STUN-8489-5-07", "responses have the request's method and transaction id").test(|bench| {
            // What `ask` checks of every response in every case.
            let mut client = bench.client()?;
            for draft in
                [binding(), allocate(), refresh(), create_permission(&[]), channel_bind(0x4000, client.address())]
            {
                let response = client.ask(&draft)?;
                ensure!(response.id() == draft.id(), "another transaction id: {response}");
            }
            Ok(())
        }),
        must("STUN-8489-5-08", "transaction ids of the server's own are random").over(DATAGRAMS).test(|bench| {
            let (mut client, relayed, peer) = bench.relaying()?;
            let (mut ids, mut ones) = (BTreeSet::new(), [0_u32; 96]);
            for _ in 0..500 {
                peer.send(relayed, b"x")?;
                let Arrival::Stun(message) = client.receive()? else {
                    return failed("expected a Data indication");
                };
                ensure!(ids.insert(message.id()), "the same transaction id twice: {message}");
                for (bit, count) in ones.iter_mut().enumerate() {
                    *count += u32::from(message.id()[bit / 8] >> (bit % 8) & 1);
                }
            }
            // Half of 500 with a standard deviation of 11: eight of them are no accident.
            let odd = ones.iter().position(|count| !(160..=340).contains(count));
            ensure!(odd.is_none(), "bit {odd:?} of 500 transaction ids is not balanced: {ones:?}");
            Ok(())
        }),
    ];
    Section { title: "RFC 8489 §5 message structure", cases }
}

fn procedures() -> Section {
    let cases = vec![
        should("STUN-8489-6.1-01", "a response to an unknown path fits 576 bytes of IP").over(UDP).test(|bench| {
            let response = bench.client()?.ask(&allocate())?;
            ensure!(response.bytes.len() <= 548, "{} bytes: {response}", response.bytes.len());
            Ok(())
        }),
        must("STUN-8489-6.2.2-01", "on a stream messages follow each other without framing").over(STREAMS).test(
            |bench| {
                let mut client = bench.client()?;
                let (first, second, third) = (binding(), binding(), binding().with(SOFTWARE, "x"));
                client.tell([first.bytes(), second.bytes()].concat())?;
                client.response_to(&first, PATIENCE)?.success()?;
                client.response_to(&second, PATIENCE)?.success()?;
                let bytes = third.bytes();
                for part in [&bytes[..7], &bytes[7..16], &bytes[16..]] {
                    client.tell(part)?;
                    std::thread::sleep(Duration::from_millis(20));
                }
                client.response_to(&third, PATIENCE)?.success().map(drop)
            },
        ),
        should("STUN-8489-6.2.2-02", "the connection stays open after an answer").over(STREAMS).test(|bench| {
            let mut client = bench.client()?;
            client.ask(&binding())?.success()?;
            std::thread::sleep(Duration::from_secs(3));
            client.ask(&binding())?.success().map(drop)
        }),
        should("STUN-8489-6.2.2-05", "silent connections are closed, and keep nobody out")
            .over(TCP)
            .needs(&[Need::ShortIdle])
            .test(|bench| {
                let mut silent = bench.client()?;
                let others: Result<Vec<_>, _> = (0..200).map(|_| bench.client()).collect();
                let _others = others?;
                bench.client()?.ask(&binding())?.success()?;
                let began = Instant::now();
                while began.elapsed() < Duration::from_secs(30) {
                    if silent.link.receive(Instant::now() + Duration::from_secs(1)).is_some() {
                        return Ok(());
                    }
                }
                failed("a silent connection is still open after 30 s")
            }),
        must("STUN-8489-6.2.2-06", "pipelined requests are all answered").test(|bench| {
            let mut client = bench.client()?;
            let drafts: Vec<Draft> = (0..20).map(|_| binding()).collect();
            for draft in &drafts {
                client.tell(draft.bytes())?;
            }
            let mut missing: BTreeSet<_> = drafts.iter().map(Draft::id).collect();
            while !missing.is_empty() {
                match client.receive()? {
                    Arrival::Stun(message) => ensure!(missing.remove(&message.id()), "not asked for: {message}"),
                    arrival => return failed(format!("expected 20 responses, received: {arrival}")),
                }
            }
            Ok(())
        }),
        policy("STUN-8489-6.2.2-07", "a bad header on a stream ends the connection").over(STREAMS).test(|bench| {
            let mut client = bench.client()?;
            client.tell([0xFF; 64])?;
            client.is_closed()?;
            let mut client = bench.client()?;
            client.ask(&binding())?.success()?;
            client.tell([0xFF; 64])?;
            client.is_closed()?;
            // Later it would be the beginning of a long ChannelData message.
            let mut client = bench.client()?;
            client.tell(b"GET / HTTP/1.1\r\n\r\n")?;
            client.is_closed()
        }),
    ];
    Section { title: "RFC 8489 §6.1, §6.2 sending", cases }
}

fn responses() -> Section {
    let cases = vec![
        must("STUN-8489-6.3-01", "an unknown method, or one of another class, is discarded").over(DATAGRAMS).test(
            |bench| {
                let mut client = bench.client()?;
                for message_type in [0x11F7, 0x0006, 0x0007, message::DATA_INDICATION, 0x0013] {
                    client.is_ignored(Draft::new(message_type).bytes())?;
                }
                Ok(())
            },
        ),
        must("STUN-8489-6.3-02", "responses that nobody waits for are discarded").over(DATAGRAMS).test(|bench| {
            let mut client = bench.client()?;
            client.is_ignored(Draft::new(message::BINDING_SUCCESS).bytes())?;
            client.is_ignored(Draft::new(0x0111).with(ERROR_CODE, [0, 0, 4, 0]).bytes())?;
            client.is_ignored(Draft::new(0x0103).bytes())
        }),
        must("STUN-8489-6.3-03", "credentials are asked for before unknown attributes").test(|bench| {
            bench.client()?.ask(&allocate().with(0x7FFF, [])).and_then(|response| response.error_is(401)).map(drop)
        }),
        must("STUN-8489-6.3-04", "unknown comprehension-optional attributes are ignored")
            .test(|bench| bench.client()?.ask(&binding().with(0xFFFE, b"?"))?.success().map(drop)),
        should("STUN-8489-6.3-05", "known attributes that make no sense are ignored").test(|bench| {
            let draft = binding().number(LIFETIME, 600).number(CHANNEL_NUMBER, 0x4000_0000);
            bench.client()?.ask(&draft)?.success().map(drop)
        }),
        must("STUN-8489-6.3.1-01", "an unknown comprehension-required attribute is answered 420").test(|bench| {
            let response = bench.client()?.ask(&binding().with(0x7FFF, []))?.error_is(420)?;
            let list = response.get(UNKNOWN_ATTRIBUTES);
            ensure!(list == Some(&[0x7F, 0xFF]), "expected UNKNOWN-ATTRIBUTES 7fff, received: {response}");
            Ok(())
        }),
        must("STUN-8489-6.3.1-02", "420 lists every unknown attribute once").test(|bench| {
            let draft = binding().with(0x7FFE, []).with(0x7FFF, []).with(0x7FFE, []);
            let response = bench.client()?.ask(&draft)?.error_is(420)?;
            let list = response.get(UNKNOWN_ATTRIBUTES).unwrap_or_default();
            let types: Vec<&[u8]> = list.chunks(2).collect();
            let is_right = types.len() == 2 && types.contains(&&[0x7F, 0xFE][..]) && types.contains(&&[0x7F, 0xFF][..]);
            ensure!(is_right, "expected UNKNOWN-ATTRIBUTES 7ffe 7fff, received: {response}");
            Ok(())
        }),
        must("STUN-8489-6.3.1-03", "a retransmission leaves things as one request does").over(DATAGRAMS).test(
            |bench| {
                let mut client = bench.client()?;
                let signed = client.signed(&allocate())?;
                let first = client.ask(&signed)?.success()?;
                let second = client.ask(&signed)?.success()?;
                let same = first.get(XOR_RELAYED_ADDRESS) == second.get(XOR_RELAYED_ADDRESS);
                ensure!(same, "another relayed address: {first} and then {second}");
                Ok(())
            },
        ),
        must("STUN-8489-6.3.1-04", "a Binding request may be answered twice, alike").over(DATAGRAMS).test(|bench| {
            let mut client = bench.client()?;
            let draft = binding();
            let (first, second) = (client.ask(&draft)?, client.ask(&draft)?);
            let same = first.xored(XOR_MAPPED_ADDRESS) == second.xored(XOR_MAPPED_ADDRESS);
            ensure!(same && first.is_success(), "{first} and then {second}");
            Ok(())
        }),
        may("STUN-8489-6.3.1-05", "a response is remembered for 40 s").over(UDP).slow().test(|bench| {
            let mut client = bench.client()?;
            let signed = client.signed(&allocate())?;
            let first = client.ask(&signed)?.success()?;
            std::thread::sleep(Duration::from_secs(35));
            let second = client.ask(&signed)?.success()?;
            ensure!(first.get(XOR_RELAYED_ADDRESS) == second.get(XOR_RELAYED_ADDRESS), "{first} and then {second}");
            Ok(())
        }),
        should("STUN-8489-6.3.1.1-03", "responses to authenticated requests are signed").test(|bench| {
            let mut client = bench.client()?;
            let key = client.key()?;
            let draft = Draft::new(message::ALLOCATE).with(REQUESTED_TRANSPORT, [132, 0, 0, 0]);
            let error = client.ask_signed(&draft)?.error_is_one_of(&[400, 442])?;
            ensure!(error.integrity_holds(&key), "no valid MESSAGE-INTEGRITY: {error}");
            let success = client.ask_signed(&allocate())?.success()?;
            ensure!(success.integrity_holds(&key), "no valid MESSAGE-INTEGRITY: {success}");
            Ok(())
        }),
        should("STUN-8489-6.3.1.1-04", "SOFTWARE is sent, and does not tell the exact version")
            .needs(&[Need::Software])
            .test(|bench| {
                let response = bench.client()?.ask_signed(&allocate())?.success()?;
                let Some(software) = response.text(SOFTWARE) else {
                    return failed(format!("no SOFTWARE in {response}"));
                };
                ensure!(!software.chars().any(|c| c.is_ascii_digit()), "it tells a version: {response}");
                Ok(())
            }),
        must("STUN-8489-6.3.1.1-05", "XOR-MAPPED-ADDRESS is the source as seen").over(DATAGRAMS).test(|bench| {
            for mut client in [bench.client()?, bench.client()?] {
                sees_itself(client.address(), &client.ask(&binding())?)?;
            }
            if bench.target.has.contains(&Need::Ipv6) {
                let mut client = bench.ipv6_client()?;
                sees_itself(client.address(), &client.ask(&binding())?)?;
            }
            Ok(())
        }),
        must("STUN-8489-6.3.1.1-06", "XOR-MAPPED-ADDRESS of a connection is its source").over(STREAMS).test(|bench| {
            let mut client = bench.client()?;
            sees_itself(client.address(), &client.ask(&binding())?)
        }),
        must("STUN-8489-6.3.1.2-01", "the answer leaves from where the request came to").test(|bench| {
            // The client's socket is connected: it receives from nowhere else.
            bench.client()?.ask(&binding())?.success()?;
            if bench.target.ipv6.contains_key(&bench.transport) {
                bench.ipv6_client()?.ask(&binding())?.success()?;
            }
            Ok(())
        }),
        must("STUN-8489-6.3.2-01", "an indication with unknown required attributes is discarded").test(|bench| {
            let (mut client, _, peer) = bench.relaying()?;
            client.tell(send(peer.address, b"unknown").with(0x7FFF, []).bytes())?;
            client.send(peer.address, b"known")?;
            peer.expect(b"known").map(drop)
        }),
        must("STUN-8489-6.3.2-02", "indications are never answered").test(|bench| {
            let mut client = bench.client()?;
            client.is_ignored(Draft::new(message::BINDING_INDICATION).bytes())?;
            client.is_ignored(Draft::new(message::BINDING_INDICATION).with(0x7FFF, []).bytes())?;
            client.is_ignored(Draft::new(message::SEND_INDICATION).bytes())
        }),
    ];
    Section { title: "RFC 8489 §6.3 receiving", cases }
}

fn fingerprint() -> Section {
    let cases = vec![
        may("STUN-8489-7-01", "a wrong FINGERPRINT discards the message").over(DATAGRAMS).test(|bench| {
            let mut bytes = binding().fingerprint().bytes().to_vec();
            *bytes.last_mut().expect("a header") ^= 1;
            bench.client()?.is_ignored(bytes)
        }),
        must("STUN-8489-7-02", "FINGERPRINT is not demanded")
            .test(|bench| bench.client()?.ask(&binding())?.success().map(drop)),
        policy("STUN-8489-7-03", "a response has FINGERPRINT when the request has").test(|bench| {
            let mut client = bench.client()?;
            let response = client.ask(&binding().fingerprint())?.success()?;
            ensure!(response.fingerprint_holds(), "expected a valid FINGERPRINT at the end: {response}");
            let response = client.ask(&binding())?.success()?;
            ensure!(!response.has(FINGERPRINT), "FINGERPRINT was not asked for: {response}");
            Ok(())
        }),
    ];
    Section { title: "RFC 8489 §7 FINGERPRINT", cases }
}

/// The client is on this machine, or no NAT is between.
fn sees_itself(client: std::net::SocketAddr, response: &Message) -> crate::case::Step<()> {
    let mapped = response.xored(XOR_MAPPED_ADDRESS);
    ensure!(mapped == Some(client), "expected XOR-MAPPED-ADDRESS={client}, received: {response}");
    Ok(())
}
