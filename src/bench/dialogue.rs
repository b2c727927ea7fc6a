//! Many clients at once, each with one question under way: how loads of requests run, and how loads of packets are set
//! up, kept and taken down.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::client::{CHANNEL, Client, Heard, REQUEST_LEN_MAX, Step};
use super::link::{Post, receive_datagrams};
use super::{BenchError, Target};
use crate::net::{Datagram, UdpSocket, clock};
use crate::stun::{ChannelNumber, Class, Message, TransactionId, channel_data};
use crate::turn::IpFields;

/// RFC 8489 §6.2.1 begins with half a second; the first retransmission is rarely needed here.
const RETRANSMIT_NANOS: u64 = 500_000_000;
/// Unanswered after this many, the server is taken for dead.
const TRIES: u32 = 8;
/// New clients in the place of one, before a server that wants none is believed.
const OTHERS_MAX: u32 = 50;
/// Between two looks for unanswered questions.
const NAP: Duration = Duration::from_millis(50);

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) steps: &'static [Step],
    /// Clients with a question under way at most.
    pub(super) at_once: usize,
    /// Who is through begins again; else the end is when all are through.
    pub(super) is_endless: bool,
    /// Begins again as another client, from another port.
    pub(super) renews: bool,
}

/// What has happened, with how long it took in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Answer(u64),
    /// A client is through with its plan.
    Unit(u64),
    /// A question had to be asked again.
    Unanswered,
    /// So long there was nothing to do.
    Waited(u64),
}

/// A client and where it stands.
#[derive(Debug)]
pub(super) struct Party {
    pub(super) client: Client,
    from: IpAddr,
    step: usize,
    id: TransactionId,
    asked: u64,
    began: u64,
    tries: u32,
    others: u32,
    is_waiting: bool,
}

impl Party {
    pub(super) fn new(target: &Target, index: usize, peer: SocketAddr) -> Result<Self, BenchError> {
        let from = target.client_addresses[index % target.client_addresses.len()];
        let client = Client::new(target, from, peer)?;
        let id = TransactionId([0; 12]);
        Ok(Self { client, from, step: 0, id, asked: 0, began: 0, tries: 0, others: 0, is_waiting: false })
    }
}

/// Where conversations take place.
pub(super) struct Dialogue<'d> {
    target: &'d Target,
    post: &'d mut Post,
    poll: Poll,
    /// Where first packets arrive.
    peer: Option<&'d UdpSocket>,
    plan: Plan,
    buffer: [u8; REQUEST_LEN_MAX],
    due: Vec<usize>,
}

const PEER: Token = Token(usize::MAX - 1);

/// Lets all clients go through the steps; first packets go to `peer`. `seen` says
/// whether those who are through shall begin again.
///
/// # Errors
/// A refusal, a silence, or what `seen` says.
pub(super) fn converse(
    target: &Target,
    post: &mut Post,
    parties: &mut [Party],
    plan: Plan,
    peer: Option<&UdpSocket>,
    seen: impl FnMut(Event) -> Result<bool, BenchError>,
) -> Result<(), BenchError> {
    let poll = Poll::new().map_err(|error| BenchError::Socket("wait for events", error))?;
    if let Some(peer) = peer {
        poll.registry()
            .register(&mut SourceFd(&peer.as_raw_fd()), PEER, Interest::READABLE)
            .map_err(|error| BenchError::Socket("wait for events", error))?;
    }
    let mut dialogue = Dialogue { target, post, poll, peer, plan, buffer: [0; REQUEST_LEN_MAX], due: Vec::new() };
    dialogue.run(parties, seen)
}

impl Dialogue<'_> {
    fn run(
        &mut self,
        parties: &mut [Party],
        mut seen: impl FnMut(Event) -> Result<bool, BenchError>,
    ) -> Result<(), BenchError> {
        let mut next = parties.len().min(self.plan.at_once);
        for index in 0..next {
            self.begin(parties, index)?;
        }
        let mut left = parties.len();
        let mut is_endless = self.plan.is_endless;
        let mut events = Events::with_capacity(1024);
        let mut next_look = clock::monotonic().0 + RETRANSMIT_NANOS;
        while left > 0 {
            let began = clock::monotonic().0;
            match self.poll.poll(&mut events, Some(NAP)) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.map_err(|error| BenchError::Socket("wait for events", error))?,
            }
            // Whoever is in the middle goes on to the end, so that nothing is left behind.
            is_endless &= seen(Event::Waited(clock::monotonic().0 - began))?;
            for event in &events {
                match event.token() {
                    PEER => self.read_peer(parties, &mut seen)?,
                    Token(index) => self.read(parties, index, event.is_writable(), &mut seen)?,
                }
            }
            while let Some(index) = self.due.pop() {
                let party = &mut parties[index];
                if party.step < self.plan.steps.len() {
                    self.ask(parties, index)?;
                    continue;
                }
                let nanos = clock::monotonic().0 - party.began;
                is_endless &= seen(Event::Unit(nanos))?;
                if is_endless {
                    if self.plan.renews {
                        self.renew(party)?;
                    }
                    self.begin(parties, index)?;
                } else {
                    left -= 1;
                    if next < parties.len() {
                        next += 1;
                        self.begin(parties, next - 1)?;
                    }
                }
            }
            let now = clock::monotonic().0;
            if now >= next_look {
                next_look = now + RETRANSMIT_NANOS / 4;
                self.ask_again(parties, now, &mut seen)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, parties: &mut [Party], index: usize) -> Result<(), BenchError> {
        let party = &mut parties[index];
        party.step = 0;
        party.began = clock::monotonic().0;
        // Again is not harmful where the socket is the same: the registry says that it has it.
        match party.client.link.register(self.poll.registry(), index) {
            Err(BenchError::Socket(_, error)) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
        self.ask(parties, index)
    }

    fn renew(&self, party: &mut Party) -> Result<(), BenchError> {
        let client = Client::new(self.target, party.from, party.client.peer)?;
        std::mem::replace(&mut party.client, client).link.close();
        Ok(())
    }

    fn ask(&mut self, parties: &mut [Party], index: usize) -> Result<(), BenchError> {
        let party = &mut parties[index];
        party.id = self.post.transaction_id();
        party.asked = clock::monotonic().0;
        party.tries = 1;
        party.is_waiting = true;
        self.send(party, index)
    }

    fn send(&mut self, party: &mut Party, index: usize) -> Result<(), BenchError> {
        let len = match self.plan.steps[party.step] {
            Step::FirstPacket => {
                let channel = ChannelNumber::new(CHANNEL).expect("a channel number");
                self.buffer[..4].copy_from_slice(&channel_data::header(channel, 16));
                self.buffer[4..8].copy_from_slice(&(index as u32).to_be_bytes());
                self.buffer[8..20].copy_from_slice(&party.id.0);
                20
            }
            step => party.client.write(step, self.target, &mut self.buffer, party.id),
        };
        party.client.link.ask(self.post, self.target.server, &self.buffer[..len])
    }

    fn read_peer(
        &mut self,
        parties: &mut [Party],
        seen: &mut impl FnMut(Event) -> Result<bool, BenchError>,
    ) -> Result<(), BenchError> {
        let now = clock::monotonic().0;
        let mut answered = Vec::new();
        let Some(peer) = self.peer else { return Ok(()) };
        receive_datagrams(peer, &mut self.post.received, |bytes| {
            let Some((head, id)) = bytes.split_first_chunk::<4>() else { return };
            let index = u32::from_be_bytes(*head) as usize;
            if let Some(party) = parties.get_mut(index).filter(|party| party.is_waiting && party.id.0 == *id) {
                party.is_waiting = false;
                party.step += 1;
                answered.push((index, now.saturating_sub(party.asked)));
            }
        });
        for (index, nanos) in answered {
            self.due.push(index);
            seen(Event::Answer(nanos))?;
        }
        Ok(())
    }

    fn read(
        &mut self,
        parties: &mut [Party],
        index: usize,
        is_writable: bool,
        seen: &mut impl FnMut(Event) -> Result<bool, BenchError>,
    ) -> Result<(), BenchError> {
        let party = &mut parties[index];
        if is_writable {
            party.client.link.flush()?;
        }
        let (id, is_waiting) = (party.id, party.is_waiting);
        let mut answer = None;
        party.client.link.receive(self.post, |message| {
            let is_answer = Message::parse(message)
                .is_ok_and(|message| message.transaction_id() == id && message.class() != Class::Request);
            if is_answer && is_waiting {
                answer = Some(message.to_vec());
            }
        })?;
        let Some(answer) = answer else { return Ok(()) };
        let answer = Message::parse(&answer).map_err(|_| BenchError::Nonsense("a request"))?;
        party.is_waiting = false;
        let nanos = clock::monotonic().0 - party.asked;
        let step = self.plan.steps[party.step];
        match party.client.heard(step, self.target, &answer)? {
            Heard::GoOn => party.step += 1,
            Heard::Again => {}
            Heard::Another => {
                party.others += 1;
                if party.others > OTHERS_MAX {
                    return Err(BenchError::Refused(step.name(), 437));
                }
                self.renew(party)?;
                return self.begin(parties, index);
            }
        }
        party.others = 0;
        self.due.push(index);
        seen(Event::Answer(nanos)).map(drop)
    }

    fn ask_again(
        &mut self,
        parties: &mut [Party],
        now: u64,
        seen: &mut impl FnMut(Event) -> Result<bool, BenchError>,
    ) -> Result<(), BenchError> {
        for (index, party) in parties.iter_mut().enumerate() {
            if !party.is_waiting || now.saturating_sub(party.asked) < RETRANSMIT_NANOS * u64::from(party.tries) {
                continue;
            }
            let step = self.plan.steps[party.step];
            if party.tries >= TRIES {
                return Err(BenchError::Silence(step.name()));
            }
            party.tries += 1;
            seen(Event::Unanswered)?;
            // A connection repeats by itself what was lost, but not what a server dropped between it and a peer.
            if !party.client.link.is_stream() || step == Step::FirstPacket {
                self.send(party, index)?;
            }
        }
        Ok(())
    }
}

/// Sends what a client's keep-alive consists of, without waiting for the answers.
pub(super) fn keep_alive(
    client: &mut Client,
    target: &Target,
    post: &mut Post,
    steps: &[Step],
) -> Result<(), BenchError> {
    let mut buffer = [0; REQUEST_LEN_MAX];
    for step in steps {
        let id = post.transaction_id();
        let len = client.write(*step, target, &mut buffer, id);
        client.link.ask(post, target.server, &buffer[..len])?;
    }
    Ok(())
}

/// A packet from a peer.
pub(super) fn datagram(to: SocketAddr, bytes: &[u8]) -> Datagram<'_> {
    Datagram { to, source: None, bytes, ip: IpFields::default() }
}
