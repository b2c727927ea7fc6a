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
    stream: Vec<u8>,
    deeds_left: u32,
}

/// What a rude client knows of the world.
pub struct Sights<'a> {
    pub unix_secs: u64,
    pub relayed: &'a [SocketAddr],
    /// Nonces that others were given.
    pub overheard: &'a [Vec<u8>],
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
        self.deeds_left -= 1;
        let message = match dice.below(20) {
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
            wire::ALLOCATE => self.allocate(builder, dice),
            wire::REFRESH => refresh(builder, dice),
            wire::CREATE_PERMISSION => {
                let count = dice.pick(&[0, 1, 1, 1, 1, 2, 4]);
                (0..count).fold(builder, |builder, _| builder.peer(any_peer(dice, sights)))
            }
            wire::CHANNEL_BIND => channel_bind(builder, dice, sights),
            _ => builder,
        };
        self.protect(builder, dice, sights)
    }

    fn allocate(&self, mut builder: Builder, dice: &mut Dice) -> Builder {
        if dice.chance(96) {
            let protocol = if dice.chance(97) { 17 } else { 6 };
            builder = builder.u32(wire::REQUESTED_TRANSPORT, protocol << 24 | dice.below(9) as u32);
        }
        if dice.chance(30) {
            let family = dice.pick(&[1, 2, 2, 2, 3]);
            builder = builder.u32(wire::REQUESTED_ADDRESS_FAMILY, family << 24);
        }
        if dice.chance(50) {
            builder = builder.u32(wire::LIFETIME, dice.pick(&[0, 1, 700, 3600, u32::MAX]));
        }
        builder
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
            got(peer, message.get(wire::DATA).expect("checked by the model"));
        } else if let Some(nonce) = message.get(wire::NONCE)
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

fn refresh(mut builder: Builder, dice: &mut Dice) -> Builder {
    if dice.chance(80) {
        builder = builder.u32(wire::LIFETIME, dice.pick(&[0, 1, 600, 601, 900, 3600, u32::MAX]));
    }
    if dice.chance(15) {
        builder = builder.u32(wire::REQUESTED_ADDRESS_FAMILY, dice.pick(&[1, 2]) << 24);
    }
    builder
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
