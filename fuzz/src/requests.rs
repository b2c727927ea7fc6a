//! Requests of clients who know a password, put together from a few bytes of input.
//!
//! An attribute is a byte that picks its type from [`KINDS`] and a byte that picks its value: below 0x80 one that makes
//! sense for the type, from there on (byte - 0x80) modulo 40 bytes of input.

use std::net::{IpAddr, SocketAddr};

use arbitrary::{Result, Unstructured};
use hairpin::turn::PeerPolicy;
use sha2::{Digest, Sha256};

use crate::wire::{self, Builder, Class};

/// As in the configuration.
pub const REALM: &str = "fuzz.example";

/// RESERVATION-TOKEN.
pub const RESERVATION_TOKEN: u16 = 0x0022;
/// CONNECTION-ID.
pub const CONNECTION_ID: u16 = 0x002A;
/// ACCESS-TOKEN.
pub const ACCESS_TOKEN: u16 = 0x001B;
const EVEN_PORT: u16 = 0x0018;
const DONT_FRAGMENT: u16 = 0x001A;
const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
const USERHASH: u16 = 0x001E;

/// ConnectionBind.
pub const CONNECTION_BIND: u16 = 0x00B;

/// What attributes there are. The one behind the last is any: two bytes of input.
pub const KINDS: [u16; 25] = [
    wire::REQUESTED_TRANSPORT,
    wire::LIFETIME,
    wire::XOR_PEER_ADDRESS,
    wire::CHANNEL_NUMBER,
    wire::REQUESTED_ADDRESS_FAMILY,
    ADDITIONAL_ADDRESS_FAMILY,
    EVEN_PORT,
    RESERVATION_TOKEN,
    DONT_FRAGMENT,
    wire::DATA,
    USERHASH,
    wire::USERNAME,
    wire::REALM,
    wire::NONCE,
    wire::PASSWORD_ALGORITHM,
    wire::PASSWORD_ALGORITHMS,
    wire::MESSAGE_INTEGRITY,
    wire::FINGERPRINT,
    0x0003, // CHANGE-REQUEST
    CONNECTION_ID,
    0x8022, // SOFTWARE
    wire::MOBILITY_TICKET,
    ACCESS_TOKEN,
    0x0026, // PADDING
    0x0027, // RESPONSE-PORT
];

/// The methods, by the byte that picks one.
pub const METHODS: [u16; 10] = [
    wire::ALLOCATE,
    wire::REFRESH,
    wire::CREATE_PERMISSION,
    wire::CHANNEL_BIND,
    wire::BINDING,
    wire::SEND,
    0x00A, // Connect
    CONNECTION_BIND,
    wire::DATA_METHOD,
    0x080,
];

/// Peers clients ask for: good ones first, then those that policy refuses.
const PEERS: [&str; 12] = [
    "9.9.9.1:7000",
    "9.9.9.2:7001",
    "[2606:4700::1]:7000",
    "8.8.8.8:53",
    "10.20.1.1:9",
    "[::ffff:9.9.9.3]:7000",
    "10.0.0.1:80",
    "127.0.0.1:9641",
    "[::1]:9641",
    "9.9.9.200:7000",
    "99.88.77.66:3478",
    "[64:ff9b::7f00:1]:80",
];

/// What has come out of the server so far.
pub struct Known<'k> {
    /// Relayed addresses.
    pub relayed: &'k [SocketAddr],
    /// RESERVATION-TOKENs.
    pub tokens: &'k [Vec<u8>],
    /// MOBILITY-TICKETs.
    pub tickets: &'k [Vec<u8>],
    /// CONNECTION-IDs.
    pub connections: &'k [[u8; 4]],
}

/// Who signs.
pub struct Signer<'s> {
    /// USERNAME.
    pub username: &'s str,
    /// The password.
    pub password: &'s str,
    /// NONCE.
    pub nonce: &'s [u8],
    /// The token that has the key, in place of the password.
    pub token: Option<(&'s [u8], &'s [u8])>,
}

/// An access token (RFC 7635) with 7200 seconds from the start of every script, and the key in it. Sealed with the key of
/// the configuration, AES-256-GCM.
pub fn access_token() -> (Vec<u8>, Vec<u8>) {
    let token = "000c66757a7a206e6f6e6365203195a33b7d76c7d83e09e2a7501a4f162307f80276ee1dc10f3d6dd98acd157d569c6afef9ea9a\
                 1be4973babb15c6f085dac59";
    (hex::decode(token).expect("hexadecimal digits"), b"ZksjpweoixXmvn67534m".to_vec())
}

/// A peer by number: every third is a relayed address of the server itself, if there is one.
pub fn peer(number: u8, relayed: &[SocketAddr]) -> SocketAddr {
    let place = usize::from(number);
    match number % 3 {
        2 if !relayed.is_empty() => relayed[relayed.len() - 1 - place / 3 % relayed.len()],
        _ => PEERS[place % PEERS.len()].parse().expect("written above"),
    }
}

/// Whether the configuration refuses the peer; a second reading of it.
pub fn is_refused(ip: IpAddr, denies_nine: bool) -> bool {
    match ip {
        IpAddr::V4(ip) => match ip.octets() {
            [10, 20, ..] => false,
            [9, 9, 9, last] => denies_nine || last >= 128,
            _ => ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast(),
        },
        IpAddr::V6(ip) => ip.segments()[0] != 0x2606,
    }
}

/// The same for the machine, and a network that is allowed by name.
pub fn policy(deny: &[&str]) -> PeerPolicy {
    let quoted: Vec<String> = deny.iter().map(|prefix| format!("\"{prefix}\"")).collect();
    let text = format!("[peers]\nallow = [\"10.20.0.0/16\"]\ndeny = [{}]\n", quoted.join(", "));
    let here = hairpin::config::Machine::any();
    let config = hairpin::config::check_text(&text, None, &here).unwrap_or_else(|errors| panic!("{errors}"));
    config.shards.turn.peers.clone()
}

/// Reads the attributes of a request and signs it. Bits of `how`: 0–1 how it is signed, 2 FINGERPRINT, 3 a wrong
/// password, 4–6 are the script's, 7 one attribute stands behind the MAC.
///
/// # Errors
/// The input is at its end.
pub fn signed(
    input: &mut Unstructured<'_>,
    number: u8,
    method: u8,
    how: u8,
    signer: &Signer<'_>,
    known: &Known<'_>,
) -> Result<Vec<u8>> {
    let Signer { username, password, nonce, token } = signer;
    let method = METHODS[usize::from(method) % METHODS.len()];
    let kind = method & 0x00F | (method & 0x070) << 1 | (method & 0xF80) << 2;
    let mut id = [0x1D; 12];
    id[0] = number;
    let mut builder = Builder::new(kind, id);
    for _ in 0..input.arbitrary::<u8>()? % 6 {
        builder = attribute(input, builder, id, username, known)?;
    }
    let password = if how & 8 == 0 { password } else { "a guess" };
    builder = match how & 0x20 {
        0 => builder.attribute(wire::USERNAME, username.as_bytes()),
        _ => builder.attribute(USERHASH, &Sha256::digest(format!("{username}:{REALM}"))),
    };
    builder = builder.attribute(wire::REALM, REALM.as_bytes());
    builder = builder.attribute(wire::NONCE, nonce);
    if how & 2 != 0 {
        let chosen = if how & 1 == 0 { 1 } else { 2 };
        builder = builder.attribute(wire::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0]);
        builder = builder.attribute(wire::PASSWORD_ALGORITHM, &[0, chosen, 0, 0]);
    }
    let md5 = match token {
        // The token may be left out where the allocation has it.
        Some((token, key)) => {
            if number & 1 == 1 {
                builder = builder.attribute(ACCESS_TOKEN, token);
            }
            key.to_vec()
        }
        None => wire::key_md5(username, REALM, password),
    };
    builder = match how & 3 {
        0 => builder.sign(wire::MESSAGE_INTEGRITY, &md5),
        1 => builder.sign(wire::MESSAGE_INTEGRITY, &md5).sign(wire::MESSAGE_INTEGRITY_SHA256, &md5),
        2 => builder.sign(wire::MESSAGE_INTEGRITY_SHA256, &md5),
        _ => builder.sign(wire::MESSAGE_INTEGRITY_SHA256, &wire::key_sha256(username, REALM, password)),
    };
    if how & 0x80 != 0 {
        builder = attribute(input, builder, id, username, known)?;
    }
    if how & 4 != 0 {
        builder = builder.fingerprint();
    }
    Ok(builder.finish())
}

/// A request of a guest: nothing but attributes.
///
/// # Errors
/// The input is at its end.
pub fn unsigned(input: &mut Unstructured<'_>, number: u8, method: u8, known: &Known<'_>) -> Result<Vec<u8>> {
    let mut id = [0x1D; 12];
    id[0] = number;
    let method = METHODS[usize::from(method) % METHODS.len()];
    let mut builder = Builder::new(wire::message_type(method, Class::Request), id);
    for _ in 0..input.arbitrary::<u8>()? % 6 {
        builder = attribute(input, builder, id, "", known)?;
    }
    Ok(builder.finish())
}

/// A Send indication: the peer, how many bytes, how many more attributes, the attributes.
///
/// # Errors
/// The input is at its end.
pub fn send_indication(input: &mut Unstructured<'_>, relayed: &[SocketAddr]) -> Result<Vec<u8>> {
    let (number, len, count) = input.arbitrary::<(u8, u8, u8)>()?;
    let id = [0x5E; 12];
    let mut builder = Builder::new(wire::message_type(wire::SEND, Class::Indication), id);
    builder = builder.peer(peer(number, relayed)).attribute(wire::DATA, &vec![len; usize::from(len)]);
    for _ in 0..count % 3 {
        builder =
            attribute(input, builder, id, "alice", &Known { relayed, tokens: &[], tickets: &[], connections: &[] })?;
    }
    Ok(builder.finish())
}

fn attribute(
    input: &mut Unstructured<'_>,
    builder: Builder,
    id: [u8; 12],
    username: &str,
    known: &Known<'_>,
) -> Result<Builder> {
    let (kind, form) = input.arbitrary::<(u8, u8)>()?;
    let kind = match KINDS.get(usize::from(kind) % (KINDS.len() + 1)) {
        Some(kind) => *kind,
        None => input.arbitrary::<u16>()?,
    };
    let value = if form < 0x80 {
        sensible(kind, form, id, username, known)
    } else {
        let len = (usize::from(form) - 0x80) % 40;
        input.bytes(len.min(input.len()))?.to_vec()
    };
    Ok(builder.attribute(kind, &value))
}

fn sensible(kind: u16, form: u8, id: [u8; 12], username: &str, known: &Known<'_>) -> Vec<u8> {
    let place = usize::from(form);
    match kind {
        wire::REQUESTED_TRANSPORT => vec![[17, 6, 17, 1][place % 4], 0, 0, 0],
        wire::LIFETIME => [600_u32, 0, 1, 900, 3600, u32::MAX][place % 6].to_be_bytes().to_vec(),
        wire::XOR_PEER_ADDRESS => wire::xor(peer(form, known.relayed), id),
        wire::CHANNEL_NUMBER => {
            let number = [0x4000_u16, 0x4001, 0x4002, 0x4003, 0x4FFF, 0x5000, 0x3FFF][place % 7];
            [number.to_be_bytes(), [0, 0]].concat()
        }
        wire::REQUESTED_ADDRESS_FAMILY | ADDITIONAL_ADDRESS_FAMILY => vec![[1, 2, 2, 0][place % 4], 0, 0, 0],
        EVEN_PORT => vec![(form & 1) << 7],
        RESERVATION_TOKEN => match known.tokens.len() {
            0 => vec![0; 8],
            count => known.tokens[count - 1 - place % count].clone(),
        },
        DONT_FRAGMENT => vec![],
        wire::MOBILITY_TICKET => match known.tickets.len() {
            count if count > 0 && place % 4 != 0 => known.tickets[count - 1 - place / 4 % count].clone(),
            _ => vec![],
        },
        CONNECTION_ID => match known.connections.len() {
            0 => vec![form; 4],
            count => known.connections[count - 1 - place % count].to_vec(),
        },
        0x0003 => vec![0, 0, 0, [6, 4, 2, 0][place % 4]],
        USERHASH => Sha256::digest(format!("{username}:{REALM}")).to_vec(),
        wire::USERNAME => [&b"alice"[..], b"bob", b"mallory"][place % 3].to_vec(),
        wire::REALM => REALM.as_bytes().to_vec(),
        _ => vec![form; place % 24],
    }
}
