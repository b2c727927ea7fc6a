//! RFC 8489 §10 to §12 (redirection, DTLS, the Binding usage) and §14 (attributes).

use crate::case::{Need, Section, failed, must, policy, should};
use crate::client::{Credentials, Judged};
use crate::drafts::*;
use crate::ensure;
use crate::link::{Arrival, DATAGRAMS, DTLS, TLS, UDP};
use crate::numbers::*;
use crate::wire::{Draft, address, xor_address};

pub fn sections() -> Vec<Section> {
    vec![redirection(), attributes(), integrity_attributes()]
}

fn redirection() -> Section {
    let cases = vec![
        must("STUN-8489-10-01", "300 names an alternate server of the client's family first")
            .needs(&[Need::Redirect])
            .test(|bench| {
                let mut client = bench.client()?;
                let response = client.ask_signed(&allocate())?.error_is(300)?;
                let first = response.plain(ALTERNATE_SERVER);
                let is_same = first.is_some_and(|first| first.is_ipv4() == client.address().is_ipv4());
                ensure!(is_same, "expected ALTERNATE-SERVER of the client's family: {response}");
                Ok(())
            }),
        should("STUN-8489-10-02", "300 names one of the other family after it")
            .needs(&[Need::Redirect, Need::Ipv6])
            .test(|bench| {
                let response = bench.client()?.ask_signed(&allocate())?.error_is(300)?;
                let families: Vec<u8> =
                    response.all(ALTERNATE_SERVER).filter_map(|value| value.get(1).copied()).collect();
                ensure!(families.contains(&1) && families.contains(&2), "expected both families: {response}");
                Ok(())
            }),
        must("STUN-8489-10-03", "over TLS, 300 with SHA-256 names the domain of the other certificate")
            .over(TLS)
            .needs(&[Need::Redirect])
            .test(|bench| {
                let mut client = bench.client()?;
                let signed = client.signed_sha256(&allocate())?;
                let response = client.ask(&signed)?.error_is(300)?;
                ensure!(response.has(ALTERNATE_DOMAIN), "expected ALTERNATE-DOMAIN: {response}");
                Ok(())
            }),
        must("STUN-8489-10-04", "300 comes after authentication, and signed").needs(&[Need::Redirect]).test(|bench| {
            let mut client = bench.client()?;
            client.ask(&allocate())?.error_is(401)?;
            let key = client.key()?;
            let response = client.ask_signed(&allocate())?.error_is(300)?;
            ensure!(response.integrity_holds(&key), "no valid MESSAGE-INTEGRITY: {response}");
            Ok(())
        }),
        policy("STUN-8489-10-05", "in compatibility mode 300 comes before authentication")
            .needs(&[Need::RedirectUnsigned])
            .test(|bench| {
                let response = bench.client()?.ask(&allocate())?.error_is(300)?;
                ensure!(response.has(ALTERNATE_SERVER), "expected ALTERNATE-SERVER: {response}");
                ensure!(!response.has(MESSAGE_INTEGRITY), "nobody has a key yet: {response}");
                Ok(())
            }),
        policy("STUN-8489-10-06", "300 does not lead back here").needs(&[Need::Redirect]).test(|bench| {
            let mut client = bench.client()?;
            let response = client.ask_signed(&allocate())?.error_is(300)?;
            let here = Some(client.link.server);
            ensure!(response.plain(ALTERNATE_SERVER) != here, "it leads back to this server: {response}");
            Ok(())
        }),
        policy("STUN-8489-10-07", "300 carries realm and nonce for the other server").needs(&[Need::Redirect]).test(
            |bench| {
                let response = bench.client()?.ask_signed(&allocate())?.error_is(300)?;
                ensure!(response.has(REALM) && response.has(NONCE), "expected REALM and NONCE: {response}");
                Ok(())
            },
        ),
        must("STUN-8489-11-01", "inside DTLS a request without cookie is answered 500").over(DTLS).test(|bench| {
            let mut bytes = binding().bytes().to_vec();
            bytes[4..8].fill(0);
            let mut client = bench.client()?;
            client.tell(bytes)?;
            match client.receive()? {
                Arrival::Stun(response) => response.error_is(500).map(drop),
                arrival => failed(format!("expected 500, received: {arrival}")),
            }
        }),
        should("STUN-8489-12-01", "Binding needs no credentials and redirects nobody").test(|bench| {
            let response = bench.client()?.ask(&binding())?.success()?;
            ensure!(!response.has(ALTERNATE_SERVER), "ALTERNATE-SERVER: {response}");
            Ok(())
        }),
        must("STUN-8489-12-02", "Binding works over every transport")
            .test(|bench| bench.client()?.ask(&binding())?.success().map(drop)),
    ];
    Section { title: "RFC 8489 §10–§12 redirection, DTLS, Binding", cases }
}

fn attributes() -> Section {
    let cases = vec![
        must("STUN-8489-14-01", "lengths exclude padding, and padding is zero").test(|bench| {
            let mut client = bench.client()?;
            for response in [client.ask(&allocate())?, client.ask(&binding().with(0x7FFF, []))?] {
                for (kind, at, value) in &response.attributes {
                    let end = at + 4 + value.len();
                    let padding = &response.bytes[end..end.next_multiple_of(4)];
                    let name = attribute_name(*kind);
                    ensure!(padding.iter().all(|byte| *byte == 0), "{name} is padded with {}", hex::encode(padding));
                }
            }
            let realm = client.challenge()?.realm;
            ensure!(!realm.ends_with('\0'), "REALM counts its padding: {realm:?}");
            Ok(())
        }),
        must("STUN-8489-14-02", "what padding consists of is ignored")
            .test(|bench| bench.client()?.ask(&binding().padded(SOFTWARE, b"x", 0xFF))?.success().map(drop)),
        must("STUN-8489-14-03", "an attribute that runs past the end does no harm").over(DATAGRAMS).test(|bench| {
            let mut client = bench.client()?;
            let draft = binding().with(SOFTWARE, b"soft");
            let mut bytes = draft.bytes().to_vec();
            bytes[22..24].fill(0xFF);
            client.tell(bytes)?;
            match client.all_before_now()?.first() {
                None => Ok(()),
                Some(Arrival::Stun(response)) => response.clone().error_is(400).map(drop),
                Some(arrival) => failed(format!("expected 400 or nothing, received: {arrival}")),
            }
        }),
        must("STUN-8489-14-04", "of two attributes the first counts").needs(&[Need::DefaultLifetimes]).test(|bench| {
            let draft = allocate().number(LIFETIME, 1_200).number(LIFETIME, 1_800);
            let response = bench.client()?.ask_signed(&draft)?.success()?;
            ensure!(response.number(LIFETIME) == Some(1_200), "expected LIFETIME=1200: {response}");
            Ok(())
        }),
        must("STUN-8489-14.1-01", "an address has a known family and its length; the first byte is ignored").test(
            |bench| {
                let (mut client, _) = bench.allocated()?;
                let peer = bench.peer()?;
                let permission = || Draft::new(message::CREATE_PERMISSION);
                let draft = permission();
                let good = xor_address(peer.address, draft.id());
                let mut other_family = good.clone();
                other_family[1] = 3;
                client.ask_signed(&draft.with(XOR_PEER_ADDRESS, other_family))?.error_is(400)?;
                let too_long = [&good[..], &[0; 12]].concat();
                client.ask_signed(&permission().with(XOR_PEER_ADDRESS, too_long))?.error_is(400)?;
                let mut reserved = good;
                reserved[0] = 0xFF;
                client.ask_signed(&permission().with(XOR_PEER_ADDRESS, reserved))?.success().map(drop)
            },
        ),
        must("STUN-8489-14.2-01", "addresses are XORed with the cookie, IPv6 ones with the transaction id, too")
            .needs(&[Need::Ipv6])
            .test(|bench| {
                for mut client in [bench.client()?, bench.ipv6_client()?] {
                    let response = client.ask(&binding())?.success()?;
                    let expected = xor_address(client.address(), response.id());
                    let value = response.get(XOR_MAPPED_ADDRESS);
                    ensure!(value == Some(&expected[..]), "expected {}: {response}", hex::encode(expected));
                }
                Ok(())
            }),
        must("STUN-8489-14.3-01", "USERNAME may have 763 bytes").test(|bench| {
            let mut client = bench.client()?;
            client.user = Credentials::new("u".repeat(700), "s3cret");
            let signed = client.signed(&allocate())?;
            client.ask(&signed)?.error_is(401).map(drop)
        }),
        must("STUN-8489-14.3-02", "USERNAME that is no UTF-8 is an unknown user").test(|bench| {
            let mut client = bench.client()?;
            let (key, challenge) = (client.key()?, client.challenge()?);
            let draft =
                allocate().with(USERNAME, [0xFF, 0xFE]).with(REALM, challenge.realm).with(NONCE, challenge.nonce);
            client.ask(&draft.integrity(&key))?.error_is(401).map(drop)
        }),
        must("STUN-8489-14.8-01", "ERROR-CODE has reserved zeros, class and number, and a short reason").test(
            |bench| {
                let mut client = bench.client()?;
                for response in [client.ask(&allocate())?, client.ask(&binding().with(0x7FFF, []))?] {
                    let value = response.get(ERROR_CODE).unwrap_or_default();
                    let is_right = matches!(value, [0, 0, 3..=6, 0..=99, reason @ ..]
                    if std::str::from_utf8(reason).is_ok_and(|reason| reason.chars().count() < 128));
                    ensure!(is_right, "ERROR-CODE is {}", hex::encode(value));
                }
                Ok(())
            },
        ),
        must("STUN-8489-14.9-01", "REALM is short, not quoted UTF-8").test(|bench| {
            let realm = bench.client()?.challenge()?.realm;
            ensure!(realm.chars().count() < 128 && !realm.starts_with('"'), "REALM={realm:?}");
            Ok(())
        }),
        must("STUN-8489-14.10-01", "NONCE is short and of quotable text").test(|bench| {
            let nonce = bench.client()?.challenge()?.nonce;
            let is_quotable = |byte: &u8| matches!(byte, 9 | 0x20 | 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
            let is_right = nonce.len() < 128 && nonce.iter().all(is_quotable);
            ensure!(is_right, "NONCE={:?}", String::from_utf8_lossy(&nonce));
            Ok(())
        }),
        should("STUN-8489-14.10-02", "a nonce is bound to its client").test(|bench| {
            let challenge = bench.client()?.challenge()?;
            let mut client = bench.client()?;
            client.challenge()?;
            client.set_challenge(challenge);
            let signed = client.signed(&allocate())?;
            client.ask(&signed)?.error_is(438).map(drop)
        }),
        must("STUN-8489-14.11-01", "PASSWORD-ALGORITHMS is a list of numbers with empty parameters").test(|bench| {
            let offered = bench.client()?.offered_algorithms()?;
            let entries: Vec<&[u8]> = offered.chunks(4).collect();
            let is_right = entries.iter().all(|entry| matches!(entry, [0, 1 | 2, 0, 0])) && !entries.is_empty();
            ensure!(is_right, "PASSWORD-ALGORITHMS is {}", hex::encode(&offered));
            Ok(())
        }),
        must("STUN-8489-14.13-01", "UNKNOWN-ATTRIBUTES has two bytes an entry and ordinary padding").test(|bench| {
            let response = bench.client()?.ask(&binding().with(0x7FFF, []))?.error_is(420)?;
            let list = response.get(UNKNOWN_ATTRIBUTES).unwrap_or_default();
            ensure!(list.len() == 2, "expected a length of 2, received {}: {response}", list.len());
            Ok(())
        }),
        must("STUN-8489-14.15-01", "ALTERNATE-SERVER is not XORed").needs(&[Need::Redirect]).test(|bench| {
            let response = bench.client()?.ask_signed(&allocate())?.error_is(300)?;
            let value = response.get(ALTERNATE_SERVER).unwrap_or_default();
            let Some(plain) = response.plain(ALTERNATE_SERVER) else {
                return failed(format!("no address in ALTERNATE-SERVER: {response}"));
            };
            ensure!(value == address(plain) && plain.port() >= 53, "not an address: {response}");
            Ok(())
        }),
        must("STUN-8489-14.16-01", "ALTERNATE-DOMAIN is a short ASCII name").over(TLS).needs(&[Need::Redirect]).test(
            |bench| {
                let mut client = bench.client()?;
                let signed = client.signed_sha256(&allocate())?;
                let response = client.ask(&signed)?.error_is(300)?;
                let name = response.text(ALTERNATE_DOMAIN).unwrap_or_default();
                let is_right = !name.is_empty() && name.len() <= 255 && name.is_ascii();
                ensure!(is_right, "ALTERNATE-DOMAIN={name:?}: {response}");
                Ok(())
            },
        ),
    ];
    Section { title: "RFC 8489 §14 attributes", cases }
}

fn integrity_attributes() -> Section {
    let cases = vec![
        must("STUN-8489-14.5-01", "MESSAGE-INTEGRITY covers the message up to it, with the length adjusted").test(
            |bench| {
                let mut client = bench.client()?;
                let signed = client.signed(&allocate())?.fingerprint();
                client.ask(&signed)?.success().map(drop)
            },
        ),
        must("STUN-8489-14.5-02", "MESSAGE-INTEGRITY of another length than 20 never holds").test(|bench| {
            let mut client = bench.client()?;
            for len in [0, 16, 32] {
                let draft = client.named(&allocate())?.with(MESSAGE_INTEGRITY, vec![7; len]);
                client.ask(&draft)?.error_is_one_of(&[400, 401])?;
            }
            Ok(())
        }),
        must("STUN-8489-14.6-01", "MESSAGE-INTEGRITY-SHA256 is not truncated in TURN").test(|bench| {
            let mut client = bench.client()?;
            let key = client.sha256_key()?;
            for len in [16, 28] {
                let named = client.with_algorithms(&allocate(), [0, 2, 0, 0])?;
                client.ask(&named.truncated_integrity_sha256(&key, len))?.error_is(401)?;
            }
            Ok(())
        }),
        must("STUN-8489-14.6-02", "MESSAGE-INTEGRITY-SHA256 covers a MESSAGE-INTEGRITY before it").test(|bench| {
            let mut client = bench.client()?;
            let key = client.key()?;
            let signed = client.signed(&allocate())?.integrity_sha256(&key).fingerprint();
            client.ask(&signed)?.success().map(drop)
        }),
        must("STUN-8489-14.7-01", "FINGERPRINT is a CRC-32 of all before it, and the last attribute").test(|bench| {
            let mut client = bench.client()?;
            let response = client.ask(&binding().fingerprint())?.success()?;
            ensure!(!response.has(FINGERPRINT) || response.fingerprint_holds(), "a wrong FINGERPRINT: {response}");
            let signed = client.signed(&allocate())?.fingerprint();
            let response = client.ask(&signed)?.success()?;
            ensure!(!response.has(FINGERPRINT) || response.fingerprint_holds(), "a wrong FINGERPRINT: {response}");
            Ok(())
        }),
        policy("STUN-8489-14.7-03", "an attribute after FINGERPRINT changes nothing").over(DATAGRAMS).test(|bench| {
            let mut client = bench.client()?;
            client.tell(binding().fingerprint().with(0x7FFF, []).bytes())?;
            match client.all_before_now()?.first() {
                None => Ok(()),
                Some(Arrival::Stun(response)) if response.error() != Some(420) => Ok(()),
                Some(arrival) => failed(format!("expected anything but 420, received: {arrival}")),
            }
        }),
        policy("STUN-8489-16.1.2-02", "a challenge is no amplifier").over(UDP).test(|bench| {
            let draft = allocate();
            let response = bench.client()?.ask(&draft)?;
            // IP and UDP headers count on both sides.
            let (sent, received) = (draft.bytes().len() + 28, response.bytes.len() + 28);
            ensure!(received <= 4 * sent, "{sent} bytes bring {received}: {response}");
            Ok(())
        }),
    ];
    Section { title: "RFC 8489 §14.5–§14.7, §16.1 integrity attributes", cases }
}
