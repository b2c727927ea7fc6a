//! The suite's client: asks, signs as an RFC 5389 client does, and notices when nothing comes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::bench::Transcript;
use crate::case::{Step, failed};
use crate::drafts::*;
use crate::ensure;
use crate::link::{Arrival, Link, PATIENCE, Transport};
use crate::numbers::*;
use crate::wire::{Draft, Message, md5, sha256};

/// Between two sendings of the same request over UDP, in DTLS or not.
const RETRANSMISSION: Duration = Duration::from_millis(1_500);

/// How long a stream may stay silent after bytes that may have swallowed what follows them.
const SILENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl Credentials {
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into() }
    }

    pub fn md5_key(&self, realm: &str) -> Vec<u8> {
        md5(&format!("{}:{realm}:{}", self.username, self.password))
    }

    pub fn sha256_key(&self, realm: &str) -> Vec<u8> {
        sha256(&format!("{}:{realm}:{}", self.username, self.password))
    }
}

/// What a 401 or 438 told.
#[derive(Clone, Debug, Default)]
pub struct Challenge {
    pub realm: String,
    pub nonce: Vec<u8>,
    /// PASSWORD-ALGORITHMS as it came.
    pub algorithms: Option<Vec<u8>>,
}

pub struct Client {
    pub link: Link,
    pub user: Credentials,
    challenge: Option<Challenge>,
    waiting: VecDeque<Arrival>,
    transcript: Transcript,
    holds_allocation: bool,
}

impl Client {
    pub fn new(link: Link, user: Credentials, transcript: Transcript) -> Self {
        Self { link, user, challenge: None, waiting: VecDeque::new(), transcript, holds_allocation: false }
    }

    pub fn transport(&self) -> Transport {
        self.link.transport()
    }

    pub fn address(&self) -> SocketAddr {
        self.link.local
    }

    /// Sends, and waits for nothing.
    pub fn tell(&mut self, bytes: impl AsRef<[u8]>) -> Step<()> {
        let bytes = bytes.as_ref();
        let what = match (bytes.first(), Message::read(bytes)) {
            (_, Ok(message)) => message.to_string(),
            (Some(0x40..=0x7F), _) => format!("ChannelData 0x{}", hex::encode(&bytes[..bytes.len().min(16)])),
            _ => format!("0x{}", hex::encode(&bytes[..bytes.len().min(64)])),
        };
        self.transcript.note(format!("C → S {}: {what}", self.transport()));
        self.link.send(bytes).or_else(|error| failed(format!("the client could not send: {error}")))
    }

    /// Sends a request as it is and returns its response.
    pub fn ask(&mut self, draft: &Draft) -> Step<Message> {
        self.tell(draft.bytes())?;
        self.response_to(draft, PATIENCE)
    }

    /// Signs a request, with the nonce at hand if there is one, and returns its response. A 438 is answered once.
    pub fn ask_signed(&mut self, draft: &Draft) -> Step<Message> {
        if self.challenge.is_none() {
            self.challenge_by(draft)?;
        }
        let signed = self.signed(draft)?;
        let response = self.ask(&signed)?;
        if response.error() != Some(438) {
            return Ok(response);
        }
        self.remember(&response);
        let signed = self.signed(draft)?;
        self.ask(&signed)
    }

    /// The response to a request sent before.
    pub fn response_to(&mut self, draft: &Draft, patience: Duration) -> Step<Message> {
        let deadline = Instant::now() + patience;
        let mut again = Instant::now() + RETRANSMISSION;
        loop {
            let retransmits = !self.transport().is_stream();
            let until = if retransmits { again.min(deadline) } else { deadline };
            match self.arrival(until) {
                Some(Arrival::Stun(message)) if message.id() == draft.id() && message.message_type() & 0x100 != 0 => {
                    self.check_response(draft, &message)?;
                    return Ok(message);
                }
                Some(Arrival::Closed) => {
                    return failed("expected a response, but the server closed the connection");
                }
                Some(other) => self.waiting.push_back(other),
                None if Instant::now() >= deadline => {
                    return failed(format!("expected a response, but none came in {} s", patience.as_secs()));
                }
                None => {
                    // It may have been lost; the server has to cope with two of them anyway.
                    let _ = self.link.send(draft.bytes());
                    again += RETRANSMISSION;
                }
            }
        }
    }

    fn check_response(&mut self, draft: &Draft, response: &Message) -> Step<()> {
        let expected = draft.message_type() | 0x0100;
        ensure!(
            response.message_type() & !0x0010 == expected,
            "the response's method is not the request's: {response} (STUN-8489-5-07)"
        );
        let is_error = response.message_type() & 0x0010 != 0;
        ensure!(!is_error || response.error().is_some(), "an error response without ERROR-CODE: {response}");
        match (draft.message_type(), is_error) {
            (message::ALLOCATE, false) => self.holds_allocation = true,
            (message::REFRESH, false) => self.holds_allocation = response.number(LIFETIME) != Some(0),
            _ => {}
        }
        Ok(())
    }

    /// The next thing that is not the response to anything asked.
    pub fn receive(&mut self) -> Step<Arrival> {
        match self.waiting.pop_front().or_else(|| self.arrival(Instant::now() + PATIENCE)) {
            Some(arrival) => Ok(arrival),
            None => failed(format!("expected something, but nothing came in {} s", PATIENCE.as_secs())),
        }
    }

    fn arrival(&mut self, deadline: Instant) -> Option<Arrival> {
        let arrival = self.link.receive(deadline)?;
        self.transcript.note(format!("S → C {}: {arrival}", self.transport()));
        Some(arrival)
    }

    /// Everything that came before now: what the server had to say before it answered two Binding requests.
    pub fn all_before_now(&mut self) -> Step<Vec<Arrival>> {
        // Two, because the first may overtake work that the server has handed to another thread.
        for _ in 0..2 {
            let fence = binding();
            self.tell(fence.bytes())?;
            self.response_to(&fence, PATIENCE)?;
        }
        Ok(self.waiting.drain(..).collect())
    }

    /// Nothing comes.
    pub fn hears_nothing(&mut self) -> Step<()> {
        match self.all_before_now()?.first() {
            None => Ok(()),
            Some(arrival) => failed(format!("expected nothing, received: {arrival}")),
        }
    }

    /// Sends what must not be answered. On a stream the server may close the connection, too.
    pub fn is_ignored(&mut self, bytes: impl AsRef<[u8]>) -> Step<()> {
        self.tell(bytes)?;
        if !self.transport().is_stream() {
            return self.hears_nothing();
        }
        let fence = binding();
        // A server that has closed already is no failure.
        let _ = self.link.send(fence.bytes());
        match self.arrival(Instant::now() + SILENCE) {
            Some(Arrival::Stun(message)) if message.id() == fence.id() => Ok(()),
            // Bytes that look like the beginning of something long swallow the fence.
            Some(Arrival::Closed) | None => Ok(()),
            Some(arrival) => failed(format!("expected no answer, received: {arrival}")),
        }
    }

    /// The server closes the connection, and says nothing before.
    pub fn is_closed(&mut self) -> Step<()> {
        match self.arrival(Instant::now() + PATIENCE) {
            Some(Arrival::Closed) => Ok(()),
            Some(arrival) => failed(format!("expected the end of the connection, received: {arrival}")),
            None => failed(format!("expected the end of the connection in {} s", PATIENCE.as_secs())),
        }
    }

    /// What the server wants for its credentials dialogue; asked once a connection.
    pub fn challenge(&mut self) -> Step<Challenge> {
        if let Some(challenge) = &self.challenge {
            return Ok(challenge.clone());
        }
        let response = self.ask(&allocate())?.error_is(401)?;
        self.remember(&response);
        match &self.challenge {
            Some(challenge) => Ok(challenge.clone()),
            None => failed(format!("a 401 without REALM or NONCE: {response}")),
        }
    }

    /// Gets realm and nonce as a client does: by asking for what it wants.
    pub fn challenge_by(&mut self, draft: &Draft) -> Step<()> {
        // A server that has another answer to the request as it is, is asked for an allocation instead.
        let response = self.ask(draft)?;
        if response.error() == Some(401) {
            self.remember(&response);
        }
        self.challenge().map(drop)
    }

    /// Takes realm and nonce from a 401 or 438.
    pub fn remember(&mut self, response: &Message) {
        if let (Some(realm), Some(nonce)) = (response.text(REALM), response.get(NONCE)) {
            let algorithms = response.get(PASSWORD_ALGORITHMS).map(<[u8]>::to_vec);
            self.challenge = Some(Challenge { realm: realm.to_owned(), nonce: nonce.to_vec(), algorithms });
        }
    }

    /// What this connection was told before.
    pub fn known_challenge(&self) -> Step<Challenge> {
        match &self.challenge {
            Some(challenge) => Ok(challenge.clone()),
            None => failed("nothing was asked on this connection"),
        }
    }

    /// With another nonce from now on.
    pub fn set_challenge(&mut self, challenge: Challenge) {
        self.challenge = Some(challenge);
    }

    /// Adds USERNAME, REALM and NONCE.
    pub fn named(&mut self, draft: &Draft) -> Step<Draft> {
        let Challenge { realm, nonce, .. } = self.challenge()?;
        Ok(draft.clone().with(USERNAME, &self.user.username).with(REALM, realm).with(NONCE, nonce))
    }

    /// Signs as every client can: the MD5 key, HMAC-SHA1.
    pub fn signed(&mut self, draft: &Draft) -> Step<Draft> {
        let key = self.key()?;
        Ok(self.named(draft)?.integrity(&key))
    }

    /// Signs as RFC 8489 wants it: the SHA-256 key, HMAC-SHA256, the list of algorithms and the choice.
    pub fn signed_sha256(&mut self, draft: &Draft) -> Step<Draft> {
        let key = self.sha256_key()?;
        Ok(self.with_algorithms(draft, [0, 2, 0, 0])?.integrity_sha256(&key))
    }

    /// USERNAME, REALM, NONCE, PASSWORD-ALGORITHMS as offered, and this PASSWORD-ALGORITHM.
    pub fn with_algorithms(&mut self, draft: &Draft, choice: [u8; 4]) -> Step<Draft> {
        let offered = self.offered_algorithms()?;
        Ok(self.named(draft)?.with(PASSWORD_ALGORITHMS, offered).with(PASSWORD_ALGORITHM, choice))
    }

    /// PASSWORD-ALGORITHMS as it was offered.
    pub fn offered_algorithms(&mut self) -> Step<Vec<u8>> {
        match self.challenge()?.algorithms {
            Some(algorithms) => Ok(algorithms),
            None => failed("the 401 has no PASSWORD-ALGORITHMS: the server is on the level of RFC 5389"),
        }
    }

    pub fn key(&mut self) -> Step<Vec<u8>> {
        let realm = self.challenge()?.realm;
        Ok(self.user.md5_key(&realm))
    }

    pub fn sha256_key(&mut self) -> Step<Vec<u8>> {
        let realm = self.challenge()?.realm;
        Ok(self.user.sha256_key(&realm))
    }

    /// An allocation with nothing special; its relayed transport address.
    pub fn allocate(&mut self) -> Step<SocketAddr> {
        self.allocate_with(&allocate())
    }

    pub fn allocate_with(&mut self, draft: &Draft) -> Step<SocketAddr> {
        let response = self.granted(draft)?;
        match response.xored(XOR_RELAYED_ADDRESS) {
            Some(relayed) => Ok(relayed),
            None => failed(format!("no XOR-RELAYED-ADDRESS in {response}")),
        }
    }

    /// The success response to an Allocate that must be granted. What other tests have given back may take the server
    /// a moment to count.
    pub fn granted(&mut self, draft: &Draft) -> Step<Message> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let response = self.ask_signed(draft)?;
            if !matches!(response.error(), Some(486 | 508)) || Instant::now() > deadline {
                return response.success();
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub fn permit(&mut self, peer: SocketAddr) -> Step<()> {
        self.ask_signed(&create_permission(&[peer]))?.success().map(drop)
    }

    pub fn bind_channel(&mut self, number: u16, peer: SocketAddr) -> Step<()> {
        self.ask_signed(&channel_bind(number, peer))?.success().map(drop)
    }

    /// Sends data to a peer in a Send indication.
    pub fn send(&mut self, peer: SocketAddr, data: &[u8]) -> Step<()> {
        self.tell(send(peer, data).bytes())
    }

    /// Sends data in ChannelData, padded where the transport wants it.
    pub fn send_on_channel(&mut self, number: u16, data: &[u8]) -> Step<()> {
        let frame = if self.transport().is_stream() { padded_channel_data } else { channel_data };
        self.tell(frame(number, data))
    }

    /// A Data indication, and nothing else, with this in it; the peer it names.
    pub fn expect_data(&mut self, data: &[u8]) -> Step<SocketAddr> {
        match self.receive()? {
            Arrival::Stun(message)
                if message.message_type() == message::DATA_INDICATION && message.get(DATA) == Some(data) =>
            {
                match message.xored(XOR_PEER_ADDRESS) {
                    Some(peer) => Ok(peer),
                    None => failed(format!("no XOR-PEER-ADDRESS in {message}")),
                }
            }
            arrival => failed(format!("expected a Data indication with {} bytes, received: {arrival}", data.len())),
        }
    }

    /// ChannelData, and nothing else, with this in it; the bytes behind it.
    pub fn expect_channel_data(&mut self, number: u16, data: &[u8]) -> Step<usize> {
        match self.receive()? {
            Arrival::ChannelData { number: n, data: d, padding } if n == number && d == data => Ok(padding),
            arrival => {
                let wanted = format!("ChannelData {number:#06x} with {} bytes", data.len());
                failed(format!("expected {wanted}, received: {arrival}"))
            }
        }
    }

    /// The allocation is not ours to end.
    pub fn keep_allocation(&mut self) {
        self.holds_allocation = false;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A server with many dead allocations would change the tests that follow.
        if self.holds_allocation
            && let Ok(refresh) = self.signed(&refresh_for(0))
            && self.link.send(refresh.bytes()).is_ok()
        {
            let _ = self.response_to(&refresh, RETRANSMISSION);
        }
    }
}

/// What a response should be.
pub trait Judged: Sized {
    fn success(self) -> Step<Self>;
    fn error_is(self, code: u16) -> Step<Self>;
    fn error_is_one_of(self, codes: &[u16]) -> Step<Self>;
}

impl Judged for Message {
    fn success(self) -> Step<Self> {
        ensure!(self.is_success(), "expected success, received: {self}");
        Ok(self)
    }

    fn error_is(self, code: u16) -> Step<Self> {
        ensure!(self.error() == Some(code), "expected {code}, received: {self}");
        Ok(self)
    }

    fn error_is_one_of(self, codes: &[u16]) -> Step<Self> {
        ensure!(self.error().is_some_and(|code| codes.contains(&code)), "expected one of {codes:?}, received: {self}");
        Ok(self)
    }
}
