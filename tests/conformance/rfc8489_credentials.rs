//! RFC 8489 §9: integrity and the long-term credential mechanism.

use crate::bench::Bench;
use crate::case::{Need, Section, Step, failed, may, must, policy, should};
use crate::client::{Challenge, Client, Credentials, Judged};
use crate::drafts::*;
use crate::ensure;
use crate::link::UDP;
use crate::numbers::*;
use crate::wire::{Draft, Message};

/// PASSWORD-ALGORITHM: MD5 and SHA-256.
const MD5: [u8; 4] = [0, 1, 0, 0];
const SHA256: [u8; 4] = [0, 2, 0, 0];

/// What an answer to somebody unknown must not carry.
const PROOFS: [u16; 4] = [USERNAME, USERHASH, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256];

pub fn sections() -> Vec<Section> {
    vec![integrity(), challenges(), order(), algorithms()]
}

fn integrity() -> Section {
    let cases = vec![
        must("STUN-8489-9-01", "attributes after MESSAGE-INTEGRITY are ignored").test(|bench| {
            let mut client = bench.client()?;
            let signed = client.signed(&allocate())?.with(0x7FFF, []).with(0xFF05, b"log-id");
            client.ask(&signed)?.success().map(drop)
        }),
        must("STUN-8489-9-02", "attributes after MESSAGE-INTEGRITY-SHA256 are ignored").test(|bench| {
            let mut client = bench.client()?;
            let signed = client.signed_sha256(&allocate())?.with(EVEN_PORT, [0x80]).with(0x7FFF, []);
            let response = client.ask(&signed)?.success()?;
            ensure!(!response.has(RESERVATION_TOKEN), "EVEN-PORT was obeyed: {response}");
            Ok(())
        }),
        must("STUN-8489-9-03", "integrity is verified over the bytes as received").test(|bench| {
            let mut client = bench.client()?;
            let Challenge { realm, nonce, .. } = client.challenge()?;
            let key = client.key()?;
            let username = client.user.username.clone();
            let draft = allocate().padded(SOFTWARE, b"odd", 0x20).padded(USERNAME, username, 0x20);
            let signed = draft.padded(REALM, realm, 0x20).padded(NONCE, nonce, 0x20).integrity(&key);
            client.ask(&signed)?.success().map(drop)
        }),
        must("STUN-8489-9.1.3-03", "with both integrity attributes the SHA-256 one decides").test(|bench| {
            let mut client = bench.client()?;
            let key = client.key()?;
            let named = client.named(&allocate())?;
            let broken = named.clone().integrity(&key).integrity_sha256(b"no key");
            client.ask(&broken)?.error_is(401)?;
            let good = named.integrity(b"no key").integrity_sha256(&key);
            client.ask(&good)?.success().map(drop)
        }),
        must("STUN-8489-9.1.3-04", "a response has one integrity attribute, of the request's kind, and no USERNAME")
            .test(|bench| {
                let mut client = bench.client()?;
                let response = client.ask_signed(&allocate())?.success()?;
                let is_right = response.has(MESSAGE_INTEGRITY) && !response.has(MESSAGE_INTEGRITY_SHA256);
                ensure!(is_right && !response.has(USERNAME), "expected MESSAGE-INTEGRITY alone: {response}");
                let mut client = bench.client()?;
                let key = client.key()?;
                let signed = client.named(&allocate())?.integrity_sha256(&key);
                let response = client.ask(&signed)?.success()?;
                let is_right = response.has(MESSAGE_INTEGRITY_SHA256) && !response.has(MESSAGE_INTEGRITY);
                ensure!(is_right && !response.has(USERNAME), "expected MESSAGE-INTEGRITY-SHA256 alone: {response}");
                Ok(())
            }),
        must("STUN-8489-9.1.1-01", "the short-term key is the password").needs(&[Need::ShortTerm]).test(|bench| {
            let user = short_term(bench)?;
            let signed = binding().with(USERNAME, &user.username).integrity(user.password.as_bytes());
            let response = bench.client()?.ask(&signed)?.success()?;
            ensure!(response.integrity_holds(user.password.as_bytes()), "no valid MESSAGE-INTEGRITY: {response}");
            Ok(())
        }),
        must("STUN-8489-9.1.3-01", "short-term: without USERNAME or integrity it is 400")
            .needs(&[Need::ShortTerm])
            .test(|bench| {
                let user = short_term(bench)?;
                let mut client = bench.client()?;
                client.ask(&binding())?.error_is(400)?;
                client.ask(&binding().with(USERNAME, &user.username))?.error_is(400)?;
                client.ask(&binding().integrity(user.password.as_bytes()))?.error_is(400).map(drop)
            }),
        must("STUN-8489-9.1.3-02", "short-term: who is not who he says is 401, without a challenge")
            .needs(&[Need::ShortTerm])
            .test(|bench| {
                let user = short_term(bench)?;
                for (username, password) in [(user.username.as_str(), "wrong"), ("nobody", user.password.as_str())] {
                    let signed = binding().with(USERNAME, username).integrity(password.as_bytes());
                    let response = bench.client()?.ask(&signed)?.error_is(401)?;
                    has_none(&response, &[REALM, NONCE, MESSAGE_INTEGRITY])?;
                }
                Ok(())
            }),
    ];
    Section { title: "RFC 8489 §9, §9.1 integrity", cases }
}

fn challenges() -> Section {
    let cases = vec![
        must("STUN-8489-9.2-01", "every nonce begins with the nonce cookie and feature bits")
            .test(|bench| features(&bench.client()?.challenge()?).map(drop)),
        must("STUN-8489-9.2-02", "feature bit 0 is the top bit of the first byte").test(|bench| {
            let challenge = bench.client()?.challenge()?;
            let features = features(&challenge)?;
            let offers = challenge.algorithms.is_some();
            let known = if offers { ["gAAA", "wAAA"] } else { ["AAAA", "QAAA"] };
            ensure!(known.contains(&features.as_str()), "expected one of {known:?}, received {features}");
            Ok(())
        }),
        must("STUN-8489-9.2.1-01", "the feature bit is set exactly when PASSWORD-ALGORITHMS is there").test(|bench| {
            let challenge = bench.client()?.challenge()?;
            let bit = matches!(features(&challenge)?.as_bytes()[0], b'g'..=b'z' | b'0'..=b'9' | b'+' | b'/');
            let has = challenge.algorithms.is_some();
            ensure!(bit == has, "PASSWORD-ALGORITHMS there: {has}, bit 0: {bit}");
            Ok(())
        }),
        must("STUN-8489-9.2.2-01", "the usual key is MD5 of username, realm and password").test(|bench| {
            let mut client = bench.client()?;
            let key = client.key()?;
            let response = client.ask_signed(&allocate())?.success()?;
            ensure!(response.integrity_holds(&key), "not signed with that key: {response}");
            Ok(())
        }),
        must("STUN-8489-9.2.2-02", "a NUL behind the user name is not part of it").test(|bench| {
            let mut client = bench.client()?;
            let (key, challenge) = (client.key()?, client.challenge()?);
            let username = format!("{}\0", client.user.username);
            let draft = allocate().with(USERNAME, username).with(REALM, challenge.realm).with(NONCE, challenge.nonce);
            client.ask(&draft.integrity(&key))?.success().map(drop)
        }),
        must("STUN-8489-9.2.4-01", "a request without integrity is answered 401 with REALM and NONCE").test(|bench| {
            for draft in [allocate(), refresh(), create_permission(&[]), Draft::new(message::CHANNEL_BIND)] {
                let response = bench.client()?.ask(&draft)?.error_is(401)?;
                ensure!(response.has(REALM) && response.has(NONCE), "without REALM or NONCE: {response}");
            }
            Ok(())
        }),
        must("STUN-8489-9.2.4-02", "two sources never get the same nonce, nor can they use each other's").test(
            |bench| {
                let (mut one, mut other) = (bench.client()?, bench.client()?);
                let (first, second) = (one.challenge()?, other.challenge()?);
                ensure!(first.nonce != second.nonce, "both got {}", String::from_utf8_lossy(&first.nonce));
                other.set_challenge(first);
                let signed = other.signed(&allocate())?;
                other.ask(&signed)?.error_is(438).map(drop)
            },
        ),
        may("STUN-8489-9.2.4-03", "PASSWORD-ALGORITHMS lists what may be used, best first").test(|bench| {
            let offered = bench.client()?.offered_algorithms()?;
            let known = [&[0, 2, 0, 0, 0, 1, 0, 0][..], &[0, 2, 0, 0]];
            ensure!(known.contains(&&offered[..]), "expected SHA-256 first, received {}", hex::encode(offered));
            Ok(())
        }),
        should("STUN-8489-9.2.4-05", "the challenge proves and names nobody")
            .test(|bench| has_none(&bench.client()?.ask(&allocate())?.error_is(401)?, &PROOFS)),
        must("STUN-8489-9.2.4-06", "with integrity but without USERNAME, REALM or NONCE it is 400")
            .test(|bench| incomplete(bench, |response| response.error_is(400).map(drop))),
        should("STUN-8489-9.2.4-07", "that 400 carries no credentials and no challenge").test(|bench| {
            incomplete(bench, |response| {
                let response = response.error_is(400)?;
                has_none(&response, &PROOFS)?;
                has_none(&response, &[REALM, NONCE])
            })
        }),
        should("STUN-8489-9.2.4-20", "a success response has no REALM, NONCE, USERNAME or USERHASH").test(|bench| {
            let response = bench.client()?.ask_signed(&allocate())?.success()?;
            has_none(&response, &[REALM, NONCE, USERNAME, USERHASH])
        }),
        must("STUN-8489-9.2.4-25", "a wrong realm is a wrong credential").test(|bench| {
            let mut client = bench.client()?;
            let challenge = client.challenge()?;
            client.set_challenge(Challenge { realm: "other.example".into(), ..challenge.clone() });
            let signed = client.signed(&allocate())?;
            let response = client.ask(&signed)?.error_is(401)?;
            ensure!(
                response.text(REALM) == Some(&challenge.realm),
                "expected the realm {}: {response}",
                challenge.realm
            );
            Ok(())
        }),
        should("STUN-8489-9.2.4-26", "REALM looks like a domain name").test(|bench| {
            let realm = bench.client()?.challenge()?.realm;
            let is_name = !realm.is_empty() && realm.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c));
            ensure!(is_name, "REALM={realm:?}");
            Ok(())
        }),
    ];
    Section { title: "RFC 8489 §9.2.1–§9.2.4 challenges", cases }
}

fn order() -> Section {
    let cases = vec![
        must("STUN-8489-9.2.4-12", "an unknown user is answered 401 with a challenge").test(|bench| {
            let mut client = bench.client()?;
            client.user = Credentials::new("nobody-of-that-name", "s3cret");
            let signed = client.signed(&allocate())?;
            challenged(client.ask(&signed)?)
        }),
        must("STUN-8489-9.2.4-13", "a wrong password is answered 401 with a challenge").test(|bench| {
            let mut client = bench.client()?;
            client.user.password.push('x');
            let signed = client.signed(&allocate())?;
            challenged(client.ask(&signed)?)
        }),
        must("STUN-8489-9.2.4-14", "the password is checked before the age of the nonce").test(|bench| {
            let mut client = bench.client()?;
            let stale = stale(client.challenge()?);
            client.set_challenge(stale.clone());
            let signed = client.signed(&allocate())?;
            client.ask(&signed)?.error_is(438)?;
            client.user.password.push('x');
            client.set_challenge(stale);
            let signed = client.signed(&allocate())?;
            client.ask(&signed)?.error_is(401).map(drop)
        }),
        must("STUN-8489-9.2.4-15", "a nonce that is not valid is answered 438 with one that is").test(|bench| {
            let mut client = bench.client()?;
            let stale = stale(client.challenge()?);
            let offers = stale.algorithms.is_some();
            client.set_challenge(stale);
            let signed = client.signed(&allocate())?;
            let response = client.ask(&signed)?.error_is(438)?;
            let is_whole = response.has(REALM) && response.has(NONCE) && response.has(PASSWORD_ALGORITHMS) == offers;
            ensure!(is_whole, "not a whole challenge: {response}");
            client.remember(&response);
            let signed = client.signed(&allocate())?;
            client.ask(&signed)?.success().map(drop)
        }),
        policy("STUN-8489-9.2.4-17", "an unknown user and a wrong password get the same answer").test(|bench| {
            let shape = |message: &Message| {
                let kinds: Vec<(u16, usize)> = message.attributes.iter().map(|(kind, _, v)| (*kind, v.len())).collect();
                (kinds, message.get(ERROR_CODE).map(<[u8]>::to_vec))
            };
            let mut client = bench.client()?;
            let password = client.user.password.clone();
            client.user.password.push('x');
            let signed = client.signed(&allocate())?;
            let wrong_password = client.ask(&signed)?;
            client.user = Credentials::new("nobody", password);
            let signed = client.signed(&allocate())?;
            let unknown = client.ask(&signed)?;
            ensure!(shape(&wrong_password) == shape(&unknown), "{wrong_password} but {unknown}");
            Ok(())
        }),
        policy("STUN-8489-9.2.4-23", "a nonce needs no memory and is good in every thread").over(UDP).test(|bench| {
            // Whatever a flood of first requests does, the nonces given out before it stay good.
            let mut client = bench.client()?;
            client.challenge()?;
            for _ in 0..20 {
                let mut other = bench.client()?;
                for _ in 0..50 {
                    other.tell(allocate().bytes())?;
                }
                other.all_before_now()?;
            }
            let signed = client.signed(&allocate())?;
            client.ask(&signed)?.success().map(drop)
        }),
    ];
    Section { title: "RFC 8489 §9.2.4 order of the checks", cases }
}

fn algorithms() -> Section {
    let cases = vec![
        must("STUN-8489-9.2.4-08", "without PASSWORD-ALGORITHM(S) it is MD5")
            .test(|bench| bench.client()?.ask_signed(&allocate())?.success().map(drop)),
        must("STUN-8489-9.2.4-09", "one of PASSWORD-ALGORITHM and PASSWORD-ALGORITHMS alone is 400").test(|bench| {
            let mut client = bench.client()?;
            let (key, offered) = (client.sha256_key()?, client.offered_algorithms()?);
            let choice = client.named(&allocate())?.with(PASSWORD_ALGORITHM, SHA256).integrity_sha256(&key);
            client.ask(&choice)?.error_is(400)?;
            let list = client.named(&allocate())?.with(PASSWORD_ALGORITHMS, offered).integrity_sha256(&key);
            client.ask(&list)?.error_is(400).map(drop)
        }),
        must("STUN-8489-9.2.4-10", "PASSWORD-ALGORITHMS must be what was sent").test(|bench| {
            let mut client = bench.client()?;
            let (key, offered) = (client.key()?, client.offered_algorithms()?);
            let other_way_round = [&offered[offered.len() - 4..], &offered[..4]].concat();
            for list in [&other_way_round[..], &MD5] {
                if list == offered {
                    continue;
                }
                let named = client.named(&allocate())?.with(PASSWORD_ALGORITHMS, list);
                let signed = named.with(PASSWORD_ALGORITHM, MD5).integrity_sha256(&key);
                client.ask(&signed)?.error_is(400)?;
            }
            Ok(())
        }),
        must("STUN-8489-9.2.4-11", "PASSWORD-ALGORITHM must be one of the list").test(|bench| {
            let mut client = bench.client()?;
            let key = client.sha256_key()?;
            let signed = client.with_algorithms(&allocate(), [0, 3, 0, 0])?.integrity_sha256(&key);
            client.ask(&signed)?.error_is(400).map(drop)
        }),
        must("STUN-8489-9.2.4-18", "who names algorithms gets MESSAGE-INTEGRITY-SHA256 only").test(|bench| {
            let mut client = bench.client()?;
            let key = client.sha256_key()?;
            let signed = client.signed_sha256(&allocate())?;
            let response = client.ask(&signed)?.success()?;
            ensure!(response.integrity_sha256_holds(&key), "no valid MESSAGE-INTEGRITY-SHA256: {response}");
            has_none(&response, &[MESSAGE_INTEGRITY])
        }),
        must("STUN-8489-9.2.4-19", "who names none gets MESSAGE-INTEGRITY only").test(|bench| {
            let mut client = bench.client()?;
            let key = client.key()?;
            let response = client.ask_signed(&allocate())?.success()?;
            ensure!(response.integrity_holds(&key), "no valid MESSAGE-INTEGRITY: {response}");
            has_none(&response, &[MESSAGE_INTEGRITY_SHA256])
        }),
        must("STUN-8489-9.2.4-21", "the choice of the key is independent of the kind of integrity").test(|bench| {
            let mut client = bench.client()?;
            let key = client.key()?;
            let signed = client.with_algorithms(&allocate(), MD5)?.integrity_sha256(&key);
            let response = client.ask(&signed)?.success()?;
            ensure!(response.integrity_sha256_holds(&key), "no valid MESSAGE-INTEGRITY-SHA256: {response}");
            Ok(())
        }),
        policy("STUN-8489-9.2.4-22", "algorithms named, MESSAGE-INTEGRITY only: accepted, answered with SHA-256").test(
            |bench| {
                let mut client = bench.client()?;
                let key = client.sha256_key()?;
                let signed = client.with_algorithms(&allocate(), SHA256)?.integrity(&key);
                let response = client.ask(&signed)?.success()?;
                ensure!(response.integrity_sha256_holds(&key), "no valid MESSAGE-INTEGRITY-SHA256: {response}");
                Ok(())
            },
        ),
        must("STUN-8489-14.4-01", "USERHASH names a user, whose key is made with the clear name")
            .needs(&[Need::Userhash])
            .test(|bench| {
                let mut client = bench.client()?;
                let signed = with_userhash(&mut client)?;
                client.ask(&signed)?.success().map(drop)
            }),
        policy("STUN-8489-14.4-03", "who offers anonymity takes the clear name all the same")
            .needs(&[Need::Userhash])
            .test(|bench| {
                let mut client = bench.client()?;
                let features = features(&client.challenge()?)?;
                ensure!(["QAAA", "wAAA"].contains(&features.as_str()), "bit 1 is not set: {features}");
                client.ask_signed(&allocate())?.success().map(drop)
            }),
        policy("STUN-8489-14.4-04", "USERNAME together with USERHASH is 400").needs(&[Need::Userhash]).test(|bench| {
            let mut client = bench.client()?;
            let (key, username) = (client.sha256_key()?, client.user.username.clone());
            let unsigned = unsigned_userhash(&mut client)?;
            client.ask(&unsigned.with(USERNAME, username).integrity_sha256(&key))?.error_is(400).map(drop)
        }),
        must("STUN-8489-16-01", "names are the same however their accents are composed")
            .needs(&[Need::AccentedUser])
            .test(|bench| {
                for name in ["caf\u{e9}", "cafe\u{301}"] {
                    let mut client = bench.client()?;
                    client.user = Credentials::new(name, "s3cret");
                    let named = client.named(&allocate())?;
                    // The key is made from the composed form, whatever was typed.
                    let key = Credentials::new("caf\u{e9}", "s3cret").md5_key(&client.challenge()?.realm);
                    client.ask(&named.integrity(&key))?.success()?;
                }
                Ok(())
            }),
        must("STUN-8489-16.1.3-01", "a nonce with an edited cookie is not valid").test(|bench| {
            let mut client = bench.client()?;
            let mut challenge = client.challenge()?;
            let before = features(&challenge)?;
            let edited = if before == "AAAA" { *b"gAAA" } else { *b"AAAA" };
            challenge.nonce[9..13].copy_from_slice(&edited);
            client.set_challenge(challenge);
            let signed = client.signed(&allocate())?;
            client.ask(&signed)?.error_is(438).map(drop)
        }),
        must("STUN-8489-18.5.1-01", "the SHA-256 key is SHA-256 of username, realm and password").test(|bench| {
            let mut client = bench.client()?;
            let signed = client.signed_sha256(&allocate())?;
            client.ask(&signed)?.success().map(drop)
        }),
        must("STUN-8489-18.5.1-02", "MD5 can be switched off").needs(&[Need::Sha256Only]).test(|bench| {
            let mut client = bench.client()?;
            let offered = client.offered_algorithms()?;
            ensure!(offered == SHA256, "expected SHA-256 alone, received {}", hex::encode(offered));
            let signed = client.signed(&allocate())?;
            client.ask(&signed)?.error_is(401)?;
            let signed = client.signed_sha256(&allocate())?;
            client.ask(&signed)?.success().map(drop)
        }),
    ];
    Section { title: "RFC 8489 §9.2.4, §16, §18.5 algorithms and names", cases }
}

fn short_term(bench: &Bench) -> Step<Credentials> {
    match &bench.target.short_term_user {
        Some(user) => Ok(user.clone()),
        None => crate::case::not_applicable("needs short-term=NAME:PASSWORD"),
    }
}

/// The four characters of the feature bits.
fn features(challenge: &Challenge) -> Step<String> {
    let nonce = String::from_utf8_lossy(&challenge.nonce).into_owned();
    let is_base64 = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "+/".contains(c));
    match nonce.strip_prefix("obMatJos2").and_then(|rest| rest.get(..4)) {
        Some(features) if is_base64(features) => Ok(features.to_owned()),
        _ => failed(format!("expected a nonce that begins with obMatJos2 and four characters, received {nonce}")),
    }
}

/// A nonce that the server cannot have made: the last character is another.
fn stale(mut challenge: Challenge) -> Challenge {
    if let Some(last) = challenge.nonce.last_mut() {
        *last = if *last == b'0' { b'1' } else { b'0' };
    }
    challenge
}

fn has_none(response: &Message, kinds: &[u16]) -> Step<()> {
    let there: Vec<String> =
        kinds.iter().filter(|kind| response.has(**kind)).map(|kind| attribute_name(*kind)).collect();
    ensure!(there.is_empty(), "there should be no {}: {response}", there.join(", "));
    Ok(())
}

fn challenged(response: Message) -> Step<()> {
    let response = response.error_is(401)?;
    ensure!(response.has(REALM) && response.has(NONCE), "without REALM or NONCE: {response}");
    has_none(&response, &PROOFS)
}

/// Requests that are signed but miss one of the three.
fn incomplete(bench: &Bench, judge: fn(Message) -> Step<()>) -> Step<()> {
    let mut client = bench.client()?;
    let (key, Challenge { realm, nonce, .. }) = (client.key()?, client.challenge()?);
    let username = client.user.username.clone();
    for missing in [USERNAME, REALM, NONCE] {
        let all = [(USERNAME, username.as_bytes()), (REALM, realm.as_bytes()), (NONCE, &nonce)];
        let those = all.iter().filter(|(kind, _)| *kind != missing);
        let draft = those.fold(allocate(), |draft, (kind, value)| draft.with(*kind, value));
        judge(client.ask(&draft.integrity(&key))?)?;
    }
    Ok(())
}

fn unsigned_userhash(client: &mut Client) -> Step<Draft> {
    let Challenge { realm, nonce, .. } = client.challenge()?;
    let offered = client.offered_algorithms()?;
    let hash = crate::wire::sha256(&format!("{}:{realm}", client.user.username));
    let draft = allocate().with(USERHASH, hash).with(REALM, realm).with(NONCE, nonce);
    Ok(draft.with(PASSWORD_ALGORITHMS, offered).with(PASSWORD_ALGORITHM, SHA256))
}

fn with_userhash(client: &mut Client) -> Step<Draft> {
    let key = client.sha256_key()?;
    Ok(unsigned_userhash(client)?.integrity_sha256(&key))
}
