//! A client as it should be: `turn-client-proto`, written by others against the same RFCs, with a small will of its own.

use std::net::SocketAddr;

use turn_client_proto::api::{TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::client::TurnClient;
use turn_client_proto::prelude::{DelayedTransmitBuild, TurnClientApi};
use turn_client_proto::stun::Instant;
use turn_client_proto::stun::agent::Transmit;
use turn_client_proto::stun::types::TransportType;
use turn_client_proto::stun::types::message::IntegrityAlgorithm;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::{AddressFamily, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::network::MILLISECOND;
use crate::rules::USERS;
use crate::wire;

/// What a client wants: messages out, and to be woken again.
#[derive(Debug, Default)]
pub struct Wishes {
    pub messages: Vec<Vec<u8>>,
    pub wake_at: Option<u64>,
    /// The client is done with this transport path; on TCP the connection closes.
    pub finished: bool,
}

#[derive(Debug)]
pub struct Polite {
    client: TurnClient,
    transport: TransportType,
    local: SocketAddr,
    server: SocketAddr,
    pub relayed: Option<SocketAddr>,
    /// Whether it may give its allocation back, and lose what is on its way.
    pub may_delete: bool,
    /// Keeps its allocation alive after its last deed, for others to send to.
    pub must_stay: bool,
    deeds_left: u32,
    next_deed: u64,
    finished: bool,
    /// On TCP `turn-client-proto` 0.7 neither writes nor skips the padding of ChannelData that RFC 8656 §12.5 asks
    /// for, so whole messages are cut out and padded for it here.
    stream: Vec<u8>,
}

impl Polite {
    pub fn new(dice: &mut Dice, is_stream: bool, local: SocketAddr, server: SocketAddr, now: u64) -> Self {
        let (name, password) = dice.pick(&USERS);
        let mut config = TurnConfig::new(TurnCredentials::new(name, password));
        // Left to itself it names MD5 and then refuses the MESSAGE-INTEGRITY-SHA256 that RFC 8489 §9.2.4 answers with.
        config.set_supported_integrity(IntegrityAlgorithm::Sha256);
        if dice.chance(25) {
            config.set_address_family(AddressFamily::IPV6);
        }
        let (transport, client) = if is_stream {
            let client = TurnClientTcp::allocate(local, server, config);
            (TransportType::Tcp, TurnClient::Tcp(client))
        } else {
            let client = TurnClientUdp::allocate(local, server, config);
            (TransportType::Udp, TurnClient::Udp(client))
        };
        Self {
            client,
            transport,
            local,
            server,
            relayed: None,
            must_stay: false,
            may_delete: dice.chance(50),
            deeds_left: 40,
            next_deed: now + MILLISECOND,
            finished: false,
            stream: Vec::new(),
        }
    }

    /// Time has passed: protocol first, then perhaps a deed.
    pub fn wake(&mut self, dice: &mut Dice, now: u64, peers: &[SocketAddr], ledger: &mut Ledger) -> Wishes {
        let mut wishes = Wishes::default();
        if self.relayed.is_some() && now >= self.next_deed && self.deeds_left > 0 {
            self.deeds_left -= 1;
            self.act(dice, now, peers, ledger, &mut wishes);
            let pause = if dice.chance(80) { 2_000 } else { 200_000 };
            self.next_deed = now + (1 + dice.below(pause)) * MILLISECOND;
        }
        self.drive(now, &mut wishes);
        wishes
    }

    fn act(&mut self, dice: &mut Dice, now: u64, peers: &[SocketAddr], ledger: &mut Ledger, wishes: &mut Wishes) {
        let at = Instant::from_nanos(now as i64);
        let family = self.relayed.map(|relayed| relayed.is_ipv6());
        let peers: Vec<SocketAddr> = peers
            .iter()
            .copied()
            .filter(|peer| Some(peer.is_ipv6()) == family && Some(*peer) != self.relayed)
            .collect();
        let peer = dice.pick(&peers);
        // A refusal here is the client's own affair: it has such a permission already, or no allocation any more.
        match dice.below(10) {
            0 | 1 => drop(self.client.create_permission(TransportType::Udp, peer.ip(), at)),
            2 => drop(self.client.bind_channel(TransportType::Udp, peer, at)),
            3 if self.deeds_left < 5 && self.may_delete => {
                drop(self.client.delete(at));
                self.deeds_left = 0;
            }
            _ => {
                let data = ledger.payload(dice);
                if let Ok(Some(transmit)) = self.client.send_to(TransportType::Udp, peer, &data, at) {
                    let mut message = transmit.data.build();
                    if self.transport == TransportType::Tcp {
                        message.resize(message.len().next_multiple_of(4), 0);
                    }
                    wishes.messages.push(message);
                }
            }
        }
    }

    fn drive(&mut self, now: u64, wishes: &mut Wishes) {
        let at = Instant::from_nanos(now as i64);
        let mut wake_at = now + 3_600_000 * MILLISECOND;
        // Whoever says "now" again and again is asked again a moment later.
        for _ in 0..20 {
            let asked = self.client.poll(at);
            while let Some(event) = self.client.poll_event() {
                match event {
                    TurnEvent::AllocationCreated(_, relayed) => self.relayed = Some(relayed),
                    TurnEvent::AllocationCreateFailed(_) => self.finished = true,
                    _ => {}
                }
            }
            while let Some(transmit) = self.client.poll_transmit(at) {
                wishes.messages.push(transmit.data.to_vec());
            }
            match asked {
                TurnPollRet::WaitUntil(until) if until > at => {
                    wake_at = now + (until - at).as_nanos() as u64;
                    break;
                }
                TurnPollRet::WaitUntil(_) => wake_at = now + MILLISECOND,
                _ => {
                    self.finished = true;
                    break;
                }
            }
        }
        if self.relayed.is_some() && self.deeds_left > 0 {
            wake_at = wake_at.min(self.next_deed);
        }
        wishes.finished = self.finished || (self.deeds_left == 0 && self.relayed.is_some() && !self.must_stay);
        wishes.wake_at = (!wishes.finished).then_some(wake_at.max(now + MILLISECOND));
    }

    pub fn is_busy(&self) -> bool {
        self.deeds_left > 0 && !self.finished
    }

    /// Bytes from the server: a datagram, or a piece of the stream.
    pub fn receive(&mut self, now: u64, bytes: &[u8], mut got: impl FnMut(SocketAddr, &[u8])) -> Wishes {
        if self.transport == TransportType::Udp {
            self.message(now, bytes, &mut got);
        } else {
            self.stream.extend(bytes);
            while let Some(len) = wire::frame_len(&self.stream).filter(|len| *len <= self.stream.len()) {
                let mut message: Vec<u8> = self.stream.drain(..len).collect();
                if message[0] >= 0x40 {
                    message.truncate(4 + usize::from(u16::from_be_bytes([message[2], message[3]])));
                }
                self.message(now, &message, &mut got);
            }
        }
        let mut wishes = Wishes::default();
        self.drive(now, &mut wishes);
        wishes
    }

    fn message(&mut self, now: u64, bytes: &[u8], got: &mut impl FnMut(SocketAddr, &[u8])) {
        let at = Instant::from_nanos(now as i64);
        let transmit = Transmit::new(bytes.to_vec(), self.transport, self.server, self.local);
        if let TurnRecvRet::PeerData(data) = self.client.recv(transmit, at) {
            got(data.peer, data.data());
        }
        while let Some(data) = self.client.poll_recv(at) {
            got(data.peer, data.data());
        }
    }
}
