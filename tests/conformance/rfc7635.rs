//! RFC 7635: third-party authorization.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::bench::Bench;
use crate::case::{Need, Section, Step, failed, must, not_applicable, policy};
use crate::client::{Challenge, Client, Judged};
use crate::drafts::*;
use crate::ensure;
use crate::numbers::*;
use crate::rest_credentials::now;
use crate::wire::{Draft, Message};

const ON: &[Need] = &[Need::TokenKey];

pub fn sections() -> Vec<Section> {
    vec![tokens()]
}

fn tokens() -> Section {
    let cases = vec![
        must("OAUTH-7635-6.1-01", "401 names the server for tokens").needs(ON).test(|bench| {
            let response = bench.client()?.ask(&allocate())?.error_is(401)?;
            let is_whole = response.has(THIRD_PARTY_AUTHORIZATION) && response.has(REALM) && response.has(NONCE);
            ensure!(is_whole, "expected THIRD-PARTY-AUTHORIZATION, REALM and NONCE: {response}");
            Ok(())
        }),
        must("OAUTH-7635-7-01", "without the feature ACCESS-TOKEN is 420").needs(&[Need::NoTokens]).test(|bench| {
            let response = bench.client()?.ask_signed(&allocate().with(ACCESS_TOKEN, [7; 32]))?.error_is(420)?;
            let list = response.get(UNKNOWN_ATTRIBUTES);
            ensure!(list == Some(&[0x00, 0x1B]), "expected UNKNOWN-ATTRIBUTES 001b: {response}");
            Ok(())
        }),
        must("OAUTH-7635-7-02", "an unknown key id is 401").needs(ON).test(|bench| {
            let mut holder = Holder::new(bench, Ticket::good())?;
            holder.kid = "nobody-knows-this".to_owned();
            holder.ask_with_token(&allocate())?.error_is(401).map(drop)
        }),
        must("OAUTH-7635-6.2-01", "a token is nonce, and key, time and lifetime under AEAD")
            .needs(ON)
            .test(|bench| Holder::new(bench, Ticket::good())?.ask_with_token(&allocate())?.success().map(drop)),
        must("OAUTH-7635-6.2-02", "keys of 160 bits sign with SHA-1, of 256 with SHA-256").needs(ON).test(|bench| {
            Holder::new(bench, Ticket::good())?.ask_with_token(&allocate())?.success()?;
            let ticket = Ticket { mac_key: vec![0x22; 32], ..Ticket::good() };
            let mut holder = Holder::new(bench, ticket)?;
            let key = holder.ticket.mac_key.clone();
            let draft = holder.named(&allocate())?;
            let response = holder.client.ask(&draft.integrity_sha256(&key))?.success()?;
            ensure!(response.integrity_sha256_holds(&key), "no valid MESSAGE-INTEGRITY-SHA256: {response}");
            Ok(())
        }),
        must("OAUTH-7635-7-03", "a token that cannot be decrypted is 401").needs(ON).test(|bench| {
            let mut holder = Holder::new(bench, Ticket::good())?;
            *holder.token.last_mut().expect("it is not empty") ^= 1;
            holder.ask_with_token(&allocate())?.error_is(401)?;
            let ticket = Ticket { server_name: Some("other.example".to_owned()), ..Ticket::good() };
            Holder::new(bench, ticket)?.ask_with_token(&allocate())?.error_is(401).map(drop)
        }),
        must("OAUTH-7635-7-04", "a token that is expired or from the future is 401").needs(ON).test(|bench| {
            for made in [now() - 1_000, now() + 1_000] {
                let ticket = Ticket { made, lifetime: 600, ..Ticket::good() };
                Holder::new(bench, ticket)?.ask_with_token(&allocate())?.error_is(401)?;
            }
            Ok(())
        }),
        must("OAUTH-7635-7-05", "requests and responses are signed with the token's key").needs(ON).test(|bench| {
            let mut holder = Holder::new(bench, Ticket::good())?;
            let wrong = holder.named(&allocate())?.integrity(&[9; 20]);
            holder.client.ask(&wrong)?.error_is(401)?;
            let response = holder.ask_with_token(&allocate())?.success()?;
            ensure!(response.integrity_holds(&holder.ticket.mac_key), "not signed with the token's key: {response}");
            Ok(())
        }),
        must("OAUTH-7635-9-01", "no more lifetime is granted than the token has").needs(ON).test(|bench| {
            let ticket = Ticket { lifetime: 700, ..Ticket::good() };
            let response =
                Holder::new(bench, ticket)?.ask_with_token(&allocate().number(LIFETIME, 3_600))?.success()?;
            let granted = response.number(LIFETIME);
            ensure!(granted.is_some_and(|secs| secs <= 705), "of 700 s: {response}");
            Ok(())
        }),
        must("OAUTH-7635-9-02", "only Allocate and Refresh need the token").needs(ON).test(|bench| {
            let mut holder = Holder::new(bench, Ticket::good())?;
            holder.ask_with_token(&allocate())?.success()?;
            let peer = bench.peer()?;
            let key = holder.ticket.mac_key.clone();
            let draft = holder.named_without_token(&create_permission(&[peer.address]))?.integrity(&key);
            holder.client.ask(&draft)?.success().map(drop)
        }),
        must("OAUTH-7635-9-03", "a new token in Refresh takes the place of the old").needs(ON).test(|bench| {
            let mut holder = Holder::new(bench, Ticket::good())?;
            holder.ask_with_token(&allocate())?.success()?;
            holder.show(Ticket { mac_key: vec![0x33; 20], ..Ticket::good() }, bench)?;
            holder.ask_with_token(&refresh())?.success().map(drop)
        }),
        policy("OAUTH-7635-4-01", "two keys are good at once").needs(ON).test(|bench| {
            for place in [0, 1] {
                let ticket = Ticket { place, ..Ticket::good() };
                Holder::new(bench, ticket)?.ask_with_token(&allocate())?.success()?;
            }
            Ok(())
        }),
    ];
    Section { title: "RFC 7635 third-party authorization", cases }
}

/// What an authorization server puts into a token.
#[derive(Clone)]
struct Ticket {
    /// Which of the keys shared with the server.
    place: usize,
    mac_key: Vec<u8>,
    made: u64,
    lifetime: u32,
    /// Another than the server calls itself.
    server_name: Option<String>,
}

impl Ticket {
    fn good() -> Self {
        Self { place: 0, mac_key: vec![0x11; 20], made: now(), lifetime: 3_600, server_name: None }
    }

    fn seal(&self, key: &[u8], server_name: &str) -> Step<Vec<u8>> {
        let mut inside = (self.mac_key.len() as u16).to_be_bytes().to_vec();
        inside.extend(&self.mac_key);
        inside.extend((self.made << 16).to_be_bytes());
        inside.extend(self.lifetime.to_be_bytes());
        let mut nonce = [0; 12];
        getrandom::fill(&mut nonce).expect("the system has randomness");
        let algorithm = if key.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
        let sealed = UnboundKey::new(algorithm, key).and_then(|key| {
            let (key, name) = (LessSafeKey::new(key), Aad::from(server_name.as_bytes()));
            key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), name, &mut inside)
        });
        ensure!(sealed.is_ok(), "the key of the token has {} bytes", key.len());
        Ok([&[0, 12][..], &nonce, &inside].concat())
    }
}

/// A client with a token.
struct Holder {
    client: Client,
    kid: String,
    ticket: Ticket,
    token: Vec<u8>,
}

impl Holder {
    fn new(bench: &Bench, ticket: Ticket) -> Step<Self> {
        let mut holder =
            Self { client: bench.client()?, kid: String::new(), ticket: ticket.clone(), token: Vec::new() };
        holder.show(ticket, bench)?;
        Ok(holder)
    }

    /// With this ticket from now on.
    fn show(&mut self, ticket: Ticket, bench: &Bench) -> Step<()> {
        let Some((kid, key)) = bench.target.token_keys.get(ticket.place) else {
            return not_applicable("needs another key: --has token-key=KID:HEX");
        };
        let response = bench.client()?.ask(&allocate())?.error_is(401)?;
        let Some(server_name) = response.text(THIRD_PARTY_AUTHORIZATION) else {
            return failed(format!("expected THIRD-PARTY-AUTHORIZATION: {response}"));
        };
        let server_name = ticket.server_name.clone().unwrap_or_else(|| server_name.to_owned());
        self.token = ticket.seal(key, &server_name)?;
        self.kid = kid.clone();
        self.ticket = ticket;
        Ok(())
    }

    fn named_without_token(&mut self, draft: &Draft) -> Step<Draft> {
        let Challenge { realm, nonce, .. } = self.client.challenge()?;
        Ok(draft.clone().with(USERNAME, &self.kid).with(REALM, realm).with(NONCE, nonce))
    }

    fn named(&mut self, draft: &Draft) -> Step<Draft> {
        let token = self.token.clone();
        Ok(self.named_without_token(draft)?.with(ACCESS_TOKEN, token))
    }

    fn ask_with_token(&mut self, draft: &Draft) -> Step<Message> {
        let key = self.ticket.mac_key.clone();
        let signed = self.named(draft)?.integrity(&key);
        self.client.ask(&signed)
    }
}
