//! Valid messages of every kind, to be spoiled.

use hairpin::stun::integrity;
use hairpin::turn::FiveTuple;

use crate::fixture::{CHANNEL, Fixture, NOT_PERMITTED, PERMITTED, REALM, TOKEN_KID, address, key, password};
use crate::wire::{self, Builder, Class};

const ACCESS_TOKEN: u16 = 0x001B;
const USERHASH: u16 = 0x001E;
/// The example of RFC 7635.
const TOKEN: &str = "000c68346a336b326c326e346235617ef134a3d5e44e9a19cc7dc104b0c03d03b2a551d8fdf5cd3b6dca6f10cfb77e5b\
                     2ddec84d293a5c50499359f0c2e26f76";
const TOKEN_MAC_KEY: &[u8] = b"ZksjpweoixXmvn67534m";
/// RFC 6062.
const CONNECT: u16 = 0x00A;
const CONNECTION_BIND: u16 = 0x00B;
const CONNECTION_ATTEMPT: u16 = 0x00C;
const CONNECTION_ID: u16 = 0x002A;

/// Everything that can be said without credentials.
pub fn unauthenticated() -> Vec<Vec<u8>> {
    let methods = [
        wire::BINDING,
        wire::ALLOCATE,
        wire::REFRESH,
        wire::SEND,
        wire::DATA_METHOD,
        wire::CREATE_PERMISSION,
        wire::CHANNEL_BIND,
        CONNECT,
        CONNECTION_BIND,
        CONNECTION_ATTEMPT,
    ];
    let classes = [Class::Request, Class::Indication, Class::Success, Class::Error];
    let mut corpus = Vec::new();
    for method in methods {
        for class in classes {
            let builder = Builder::new(wire::message_type(method, class), [3; 12]);
            corpus.push(builder.clone().finish());
            let full = builder
                .u32(wire::REQUESTED_TRANSPORT, 17 << 24)
                .u32(wire::LIFETIME, 600)
                .u32(wire::CHANNEL_NUMBER, u32::from(CHANNEL) << 16)
                .u32(CONNECTION_ID, 7)
                .peer(address(PERMITTED))
                .attribute(wire::DATA, b"seven b")
                .attribute(0x8022, b"software");
            corpus.push(full.clone().fingerprint().finish());
            // Credentials that look right and are not.
            let signed = full
                .attribute(wire::USERNAME, b"mallory")
                .attribute(wire::REALM, REALM.as_bytes())
                .attribute(wire::NONCE, b"obMatJos2gAAAAAAAAAAAAAAAAAAAAAAAAA");
            corpus.push(signed.clone().sign(wire::MESSAGE_INTEGRITY, b"no").finish());
            corpus.push(signed.sign(wire::MESSAGE_INTEGRITY_SHA256, b"no").fingerprint().finish());
            // An access token that opens and is well signed, but years old; and none at all.
            for token in [hex::decode(TOKEN).expect("hexadecimal digits"), vec![0xFF; 735]] {
                let shown = Builder::new(wire::message_type(method, class), [4; 12])
                    .attribute(wire::USERNAME, TOKEN_KID.as_bytes())
                    .attribute(wire::REALM, REALM.as_bytes())
                    .attribute(wire::NONCE, b"obMatJos2gAAAAAAAAAAAAAAAAAAAAAAAAA")
                    .attribute(ACCESS_TOKEN, &token);
                corpus.push(shown.sign(wire::MESSAGE_INTEGRITY, TOKEN_MAC_KEY).finish());
            }
        }
    }
    corpus.push(wire::channel_data(CHANNEL, b"some data", false));
    corpus.push(wire::channel_data(0x4FFF, b"", true));
    corpus.push(wire::channel_data(0x7FFF, &[0; 300], true));
    corpus
}

/// What a user with good credentials says on this path: each method, each way to sign. A deletion is not among them.
pub fn authenticated(fixture: &mut Fixture, path: FiveTuple, username: &str) -> Vec<Vec<u8>> {
    let nonce = fixture.nonce(path);
    let mut corpus = Vec::new();
    for method in [wire::ALLOCATE, wire::REFRESH, wire::CREATE_PERMISSION, wire::CHANNEL_BIND] {
        for variant in 0..4 {
            let mut builder = Builder::new(wire::message_type(method, Class::Request), [method as u8; 12]);
            builder = match method {
                wire::ALLOCATE => builder.u32(wire::REQUESTED_TRANSPORT, 17 << 24).u32(wire::LIFETIME, 900),
                wire::REFRESH => builder.u32(wire::LIFETIME, 700),
                wire::CREATE_PERMISSION => builder.peer(address(PERMITTED)).peer(address("9.9.9.3:1")),
                _ => builder.u32(wire::CHANNEL_NUMBER, u32::from(CHANNEL) << 16).peer(address(PERMITTED)),
            };
            builder = match variant {
                3 => builder.attribute(USERHASH, &integrity::userhash(username, REALM)),
                _ => builder.attribute(wire::USERNAME, username.as_bytes()),
            };
            builder = builder.attribute(wire::REALM, REALM.as_bytes()).attribute(wire::NONCE, &nonce);
            let message = match variant {
                0 | 3 => builder.sign(wire::MESSAGE_INTEGRITY, &key(username)),
                1 => builder.sign(wire::MESSAGE_INTEGRITY, &key(username)).fingerprint(),
                _ => builder
                    .attribute(wire::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0])
                    .attribute(wire::PASSWORD_ALGORITHM, &[0, 2, 0, 0])
                    .sign(wire::MESSAGE_INTEGRITY_SHA256, &wire::key_sha256(username, REALM, &password(username))),
            };
            corpus.push(message.finish());
        }
    }
    for peer in [PERMITTED, NOT_PERMITTED] {
        let send = Builder::new(wire::message_type(wire::SEND, Class::Indication), [6; 12]);
        corpus.push(send.peer(address(peer)).attribute(wire::DATA, b"eleven byte").finish());
    }
    corpus.push(wire::channel_data(CHANNEL, b"payload", false));
    corpus
}
