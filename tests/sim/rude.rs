//! A client without manners: any method, user, nonce, number and peer, in any order; repeats itself; lies.

use std::net::SocketAddr;

use hairpin::turn::TimeLimitedForm;

use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::network::MILLISECOND;
use crate::polite::Wishes;
use crate::rules::{FORBIDDEN, PEERS, REALM, SECRET, USERS, address};
use crate::wire::{self, Builder, Class, Parsed};

#[derive(Debug)]
pub struct Rude {
    is_stream: bool,
    home: (String, String),
    nonce: Option<Vec<u8>>,
    old_nonces: Vec<Vec<u8>>,
    /// Whole messages, to be sent again byte for byte.
    said: Vec<Vec<u8>>,
    tickets: Vec<Vec<u8>>,
    tokens: Vec<Vec<u8>>,
    /// What it came to a new address for, and how often it will still try.
    errand: Option<(Errand, u32)>,
    /// How long it waits before, in milliseconds.
    wait: Option<u64>,
    stream: Vec<u8>,
    deeds_left: u32,
}

/// Why somebody comes from a new address.
#[derive(Clone, Debug)]
pub enum Errand {
    /// To go on with the allocation that this ticket is for.
    Resume(Vec<u8>),
    /// To have the port that this token is for.
    Redeem(Vec<u8>),
}

/// What a rude client knows of the world.
pub struct Sights<'a> {
    pub unix_secs: u64,
    pub relayed: &'a [SocketAddr],
    /// Nonces that others were given.
    pub overheard: &'a [Vec<u8>],
    /// Tickets and tokens that anybody was given.
    pub tickets: &'a [Vec<u8>],
    pub tokens: &'a [Vec<u8>],
}

impl Rude {
    pub fn new(dice: &mut Dice, is_stream: bool, unix_secs: u64) -> Self {
        let home = if dice.chance(30) {
            time_limited(dice, unix_secs)
        } else {
            let (name, password) = dice.pick(&USERS);
            (name.to_string(), password.to_string())
        };
        Self {
            is_stream,
            home,
            nonce: None,
            old_nonces: Vec::new(),
            said: Vec::new(),
            tickets: Vec::new(),
            tokens: Vec::new(),
            errand: None,
            wait: None,
            stream: Vec::new(),
            deeds_left: 60,
        }
    }

    pub fn wake(&mut self, dice: &mut Dice, now: u64, sights: &Sights<'_>, ledger: &mut Ledger) -> Wishes {
        let mut wishes = Wishes::default();
        if self.deeds_left == 0 {
            wishes.finished = true;
            return wishes;
        }
        if let Some(wait) = self.wait.take() {
            wishes.wake_at = Some(now + wait * MILLISECOND);
            return wishes;
        }
        self.deeds_left -= 1;
        let errand = self.errand.clone().filter(|(_, tries)| *tries > 0 && dice.chance(75));
        let is_on_errand = errand.is_some();
        let message = match dice.below(20) {
            _ if let Some((errand, tries)) = errand => {
                self.errand = Some((errand.clone(), tries - 1));
                self.run(errand, dice)
            }
            0 if !self.said.is_empty() => self.said[dice.below(self.said.len() as u64) as usize].clone(),
            1 if !self.is_stream => {
                let len = dice.below(60) as usize;
                dice.bytes(len)
            }
            2..=5 => self.channel_data(dice, ledger),
            6..=8 => self.send_indication(dice, sights, ledger),
            _ => self.request(dice, sights),
        };
        self.said.push(message.clone());
        if self.said.len() > 12 {
            self.said.remove(0);
        }
        wishes.messages.push(message);
        let pause = match dice.below(20) {
            _ if is_on_errand => 3_000,
            0 => 700_000,
            1..=3 => 290_000,
            4..=8 => 20_000,
            _ => 800,
        };
        wishes.wake_at = Some(now + (1 + dice.below(pause)) * MILLISECOND);
        wishes
    }

    fn channel_data(&self, dice: &mut Dice, ledger: &mut Ledger) -> Vec<u8> {
        let number = dice.pick(&[0x4000, 0x4000, 0x4000, 0x4001, 0x4001, 0x4FFF, 0x5000, 0x7FFF]);
        let data = ledger.payload(dice);
        let mut message = wire::channel_data(number, &data, self.is_stream || dice.chance(20));
        if !self.is_stream && dice.chance(5) {
            message.truncate(dice.below(message.len() as u64 + 1) as usize);
        }
        message
    }

    fn send_indication(&self, dice: &mut Dice, sights: &Sights<'_>, ledger: &mut Ledger) -> Vec<u8> {
        let kind = wire::message_type(wire::SEND, Class::Indication);
        let mut builder = Builder::new(kind, dice.array());
        if dice.chance(95) {
            builder = builder.peer(any_peer(dice, sights));
        }
        if dice.chance(5) {
            builder = builder.attribute(dice.pick(&[0x001A, 0x7FFF, 0x8022]), &[]);
        }
        if dice.chance(95) {
            builder = builder.attribute(wire::DATA, &ledger.payload(dice));
        }
        if dice.chance(10) {
            builder = builder.fingerprint();
        }
        builder.finish()
    }

    fn request(&mut self, dice: &mut Dice, sights: &Sights<'_>) -> Vec<u8> {
        let method = dice.pick(&[
            wire::BINDING,
            wire::ALLOCATE,
            wire::ALLOCATE,
            wire::REFRESH,
            wire::CREATE_PERMISSION,
            wire::CREATE_PERMISSION,
            wire::CHANNEL_BIND,
            wire::CHANNEL_BIND,
            wire::SEND,
        ]);
        let mut builder = Builder::new(wire::message_type(method, Class::Request), dice.array());
        if dice.chance(4) {
            builder = builder.attribute(dice.pick(&[0x001A, 0x001B, 0x7FFE, 0x8022, 0xC057]), &[]);
        }
        builder = match method {
            wire::ALLOCATE => self.allocate(builder, dice, sights),
            wire::REFRESH => self.refresh(builder, dice, sights),
            wire::CREATE_PERMISSION => {
                let count = dice.pick(&[0, 1, 1, 1, 1, 2, 4]);
                (0..count).fold(builder, |builder, _| builder.peer(any_peer(dice, sights)))
            }
            wire::CHANNEL_BIND => channel_bind(builder, dice, sights),
            _ => builder,
        };
        self.protect(builder, dice, sights)
    }

    fn allocate(&self, mut builder: Builder, dice: &mut Dice, sights: &Sights<'_>) -> Builder {
        if dice.chance(96) {
            let protocol = if dice.chance(97) { 17 } else { 6 };
            builder = builder.u32(wire::REQUESTED_TRANSPORT, protocol << 24 | dice.below(9) as u32);
        }
        if dice.chance(50) {
            builder = builder.u32(wire::LIFETIME, dice.pick(&[0, 1, 700, 3600, u32::MAX]));
        }
        // One of what can be asked for, sometimes another on top, which may not go together.
        for _ in 0..if dice.chance(15) { 2 } else { 1 } {
            builder = match dice.below(12) {
                0..=2 => builder.u32(wire::REQUESTED_ADDRESS_FAMILY, dice.pick(&[1, 2, 2, 2, 3]) << 24),
                3 | 4 => builder.u32(wire::ADDITIONAL_ADDRESS_FAMILY, dice.pick(&[2, 2, 2, 2, 2, 1]) << 24),
                5..=7 => {
                    builder.attribute(wire::EVEN_PORT, dice.pick(&[&[0x80][..], &[0x80], &[0x80], &[0xFF], &[0], &[]]))
                }
                8 if !sights.tokens.is_empty() => {
                    // Mostly the latest: it is good for seconds.
                    let count = sights.tokens.len() as u64;
                    let place = if dice.chance(70) { count - 1 } else { dice.below(count) };
                    builder.attribute(wire::RESERVATION_TOKEN, &sights.tokens[place as usize])
                }
                9 if dice.chance(20) => {
                    let length = dice.pick(&[8, 8, 7]);
                    builder.attribute(wire::RESERVATION_TOKEN, &dice.bytes(length))
                }
                _ => builder,
            };
        }
        if dice.chance(60) {
            builder = builder.attribute(wire::MOBILITY_TICKET, if dice.chance(95) { &[] } else { b"already?" });
        }
        builder
    }

    fn refresh(&self, mut builder: Builder, dice: &mut Dice, sights: &Sights<'_>) -> Builder {
        if dice.chance(80) {
            builder = builder.u32(wire::LIFETIME, dice.pick(&[0, 1, 600, 601, 900, 3600, u32::MAX]));
        }
        if dice.chance(15) {
            builder = builder.u32(wire::REQUESTED_ADDRESS_FAMILY, dice.pick(&[1, 2]) << 24);
        }
        if !dice.chance(60) {
            return builder;
        }
        match dice.below(20) {
            0 => builder.attribute(wire::MOBILITY_TICKET, &dice.bytes(32)),
            1 | 2 if !sights.tickets.is_empty() => {
                let ticket = &sights.tickets[dice.below(sights.tickets.len() as u64) as usize];
                builder.attribute(wire::MOBILITY_TICKET, ticket)
            }
            3 if self.tickets.len() > 1 => builder.attribute(wire::MOBILITY_TICKET, &self.tickets[0]),
            _ => match self.tickets.last() {
                Some(ticket) => builder.attribute(wire::MOBILITY_TICKET, ticket),
                None => builder,
            },
        }
    }

    /// Its allocation or its token makes it come from another address, perhaps.
    pub fn leaves(&mut self, dice: &mut Dice) -> bool {
        let ticket = self.tickets.last().filter(|_| dice.chance(20)).cloned().map(Errand::Resume);
        let token = self.tokens.pop().filter(|_| dice.chance(80)).map(Errand::Redeem);
        let errand = token.or(ticket);
        if let Some(errand) = errand {
            // A reservation is over after forty seconds: just before and just after is most interesting.
            let is_late = matches!(errand, Errand::Redeem(_)) && dice.chance(40);
            self.wait = is_late.then(|| 38_000 + dice.below(3_500));
            self.errand = Some((errand, 5));
            return true;
        }
        false
    }

    /// What it has come for, well-behaved for once.
    fn run(&self, errand: Errand, dice: &mut Dice) -> Vec<u8> {
        let begin = |method, dice: &mut Dice| Builder::new(wire::message_type(method, Class::Request), dice.array());
        let builder = match errand {
            Errand::Resume(ticket) => begin(wire::REFRESH, dice).attribute(wire::MOBILITY_TICKET, &ticket),
            Errand::Redeem(token) => begin(wire::ALLOCATE, dice)
                .u32(wire::REQUESTED_TRANSPORT, 17 << 24)
                .attribute(wire::RESERVATION_TOKEN, &token),
        };
        let (username, password) = &self.home;
        let nonce = self.nonce.clone().unwrap_or_default();
        let builder = builder.attribute(wire::USERNAME, username.as_bytes()).attribute(wire::REALM, REALM.as_bytes());
        let key = wire::key_md5(username, REALM, password);
        builder.attribute(wire::NONCE, &nonce).sign(wire::MESSAGE_INTEGRITY, &key).finish()
    }

    pub fn tickets(&self) -> &[Vec<u8>] {
        &self.tickets
    }

    pub fn tokens(&self) -> &[Vec<u8>] {
        &self.tokens
    }

    /// Credentials, right or wrong, and what comes behind them.
    fn protect(&mut self, mut builder: Builder, dice: &mut Dice, sights: &Sights<'_>) -> Vec<u8> {
        if dice.chance(4) {
            return builder.finish();
        }
        let (username, mut password) = match dice.below(20) {
            0 => ("mallory".to_string(), "m".to_string()),
            1 => time_limited(dice, sights.unix_secs),
            2 => {
                let (name, password) = dice.pick(&USERS);
                (name.to_string(), password.to_string())
            }
            _ => self.home.clone(),
        };
        if dice.chance(3) {
            password.push('x');
        }
        let realm = if dice.chance(98) { REALM } else { "elsewhere.example" };
        let nonce = match dice.below(25) {
            0 if !sights.overheard.is_empty() => {
                sights.overheard[dice.below(sights.overheard.len() as u64) as usize].clone()
            }
            1 if !self.old_nonces.is_empty() => self.old_nonces[0].clone(),
            2 => b"obMatJos2gAAAmade-up".to_vec(),
            _ => self.nonce.clone().unwrap_or_default(),
        };
        builder = builder.attribute(wire::USERNAME, username.as_bytes()).attribute(wire::REALM, realm.as_bytes());
        if dice.chance(98) {
            builder = builder.attribute(wire::NONCE, &nonce);
        }
        let mut key = wire::key_md5(&username, realm, &password);
        let algorithm = dice.below(20);
        if algorithm < 6 {
            builder = builder.attribute(wire::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0]);
            match algorithm {
                0..=3 => {
                    builder = builder.attribute(wire::PASSWORD_ALGORITHM, &[0, 2, 0, 0]);
                    key = wire::key_sha256(&username, realm, &password);
                }
                4 => builder = builder.attribute(wire::PASSWORD_ALGORITHM, &[0, 1, 0, 0]),
                _ => {}
            }
        }
        match dice.below(10) {
            0 | 1 => builder = builder.sign(wire::MESSAGE_INTEGRITY_SHA256, &key),
            2 => {
                builder = builder.sign(wire::MESSAGE_INTEGRITY, &key);
                builder = builder.sign(wire::MESSAGE_INTEGRITY_SHA256, &key);
            }
            _ => builder = builder.sign(wire::MESSAGE_INTEGRITY, &key),
        }
        if dice.chance(5) {
            // Behind the MAC anybody may write anything; it must not be obeyed.
            builder = builder.u32(wire::LIFETIME, 0).peer(any_peer(dice, sights));
        }
        if dice.chance(20) {
            builder = builder.fingerprint();
            if dice.chance(10) {
                let mut message = builder.finish();
                *message.last_mut().expect("a whole message") ^= 1;
                return message;
            }
        }
        builder.finish()
    }

    /// Bytes from the server. Data is handed up, nonces are kept.
    pub fn receive(&mut self, bytes: &[u8], got: impl FnMut(SocketAddr, &[u8])) {
        let mut got = got;
        if !self.is_stream {
            self.message(bytes, &mut got);
            return;
        }
        self.stream.extend(bytes);
        while let Some(len) = wire::frame_len(&self.stream).filter(|len| *len <= self.stream.len()) {
            let message: Vec<u8> = self.stream.drain(..len).collect();
            self.message(&message, &mut got);
        }
    }

    fn message(&mut self, bytes: &[u8], got: &mut impl FnMut(SocketAddr, &[u8])) {
        let Some(message) = Parsed::parse(bytes) else {
            assert!(matches!(bytes.first(), Some(0x40..=0x4F)), "neither STUN nor ChannelData: {bytes:02x?}");
            return;
        };
        if message.method == wire::DATA_METHOD {
            let peer = message.get_xor_address(wire::XOR_PEER_ADDRESS).expect("checked by the model");
            if !message.attributes.iter().any(|(kind, _)| *kind == wire::ICMP) {
                got(peer, message.get(wire::DATA).expect("checked by the model"));
            }
            return;
        }
        self.tickets.extend(message.get(wire::MOBILITY_TICKET).map(<[u8]>::to_vec));
        self.tokens.extend(message.get(wire::RESERVATION_TOKEN).map(<[u8]>::to_vec));
        if let Some(nonce) = message.get(wire::NONCE)
            && let Some(old) = self.nonce.replace(nonce.to_vec())
        {
            self.old_nonces.push(old);
        }
    }

    pub fn is_busy(&self) -> bool {
        self.deeds_left > 0
    }

    pub fn nonce(&self) -> Option<&Vec<u8>> {
        self.nonce.as_ref()
    }
}

fn channel_bind(mut builder: Builder, dice: &mut Dice, sights: &Sights<'_>) -> Builder {
    if dice.chance(97) {
        let number = dice.pick(&[0x4000, 0x4000, 0x4000, 0x4001, 0x4001, 0x4FFF, 0x3FFF, 0x5000u32]);
        builder = builder.u32(wire::CHANNEL_NUMBER, number << 16 | dice.below(3) as u32);
    }
    if dice.chance(97) {
        builder = builder.peer(any_peer(dice, sights));
    }
    builder
}

/// Mostly somebody real.
fn any_peer(dice: &mut Dice, sights: &Sights<'_>) -> SocketAddr {
    let mut peer = match dice.below(20) {
        0 => address(dice.pick(&FORBIDDEN)),
        1..=6 if !sights.relayed.is_empty() => dice.pick(sights.relayed),
        _ => address(dice.pick(&PEERS)),
    };
    if dice.chance(4) {
        peer.set_port(dice.pick(&[0, 22, 50_001]));
    }
    peer
}

/// A time-limited user name: valid, over, or for too long.
fn time_limited(dice: &mut Dice, unix_secs: u64) -> (String, String) {
    let expires = match dice.below(10) {
        0 => unix_secs.saturating_sub(1),
        1 => unix_secs + 200_000,
        2 => unix_secs + 400,
        _ => unix_secs + 20_000,
    };
    let username = format!("{expires}{}", dice.pick(&["", ":", ":dave", ":erin"]));
    let password = TimeLimitedForm::default().password(SECRET, &username);
    (username, password)
}
