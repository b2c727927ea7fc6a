//! The STUN parser, against an independent reader, and against our own writer.
//!
//! Input: the bytes of one message. What it proves: the parser and the reader of tests/sim see the same message; what
//! was parsed and is written again parses the same; nothing behind an integrity attribute is ever shown.

#![no_main]

use hairpin::stun::{
    AttributeType, ChannelData, Message, MessageWriter, ParseError, Seal, channel_data, read_address, read_xor_address,
};
use hairpin_fuzz::wire;
use libfuzzer_sys::fuzz_target;

const KEY: &[u8] = b"a key";

/// What may be obeyed.
fn obeyed(message: &Message<'_>) -> Vec<(u16, Vec<u8>)> {
    message.attributes().map(|attribute| (attribute.kind.0, attribute.value.to_vec())).collect()
}

fn write(message: &Message<'_>, seal: Seal<'_>, fingerprint: bool) -> Vec<u8> {
    let mut buffer = vec![0xEE; 65_600];
    let mut writer = MessageWriter::new(&mut buffer, message.method(), message.class(), message.transaction_id());
    for attribute in message.attributes() {
        writer.attribute(attribute.kind, attribute.value);
    }
    let len = writer.finish(seal, fingerprint);
    buffer.truncate(len);
    buffer
}

fn compare_with_the_independent_reader(bytes: &[u8], message: &Message<'_>) {
    let other = wire::Parsed::parse(bytes).expect("the independent reader refuses what ours takes");
    assert_eq!(other.method, message.method() as u16);
    assert_eq!(other.transaction_id, message.transaction_id().0);
    assert_eq!(other.attributes, obeyed(message));
    assert_eq!(other.has(wire::FINGERPRINT), message.has_fingerprint());
    assert_eq!(other.has(wire::MESSAGE_INTEGRITY_SHA256), message.has_integrity_sha256());
    assert_eq!(other.fingerprint_is_right(), message.fingerprint_holds());
    assert_eq!(other.verifies(KEY), message.integrity_holds(KEY));
    for attribute in message.attributes() {
        assert_eq!(bytes[attribute.offset..attribute.offset + attribute.value.len()], *attribute.value);
        let first = message.first(attribute.kind).expect("it is there");
        assert_eq!(other.get(attribute.kind.0), Some(first));
        if let Ok(address) = read_xor_address(attribute.value, message.transaction_id()) {
            assert_eq!(wire::unxor(attribute.value, other.transaction_id), Some(address));
            let mut buffer = [0; 80];
            let mut writer =
                MessageWriter::new(&mut buffer, message.method(), message.class(), message.transaction_id());
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, address);
            writer.address(AttributeType::MAPPED_ADDRESS, address);
            let len = writer.finish(Seal::None, false);
            let again = Message::parse(&buffer[..len]).expect("our own message");
            let value = |kind| again.first(kind).expect("just written");
            let xored = read_xor_address(value(AttributeType::XOR_PEER_ADDRESS), message.transaction_id());
            assert_eq!((xored, read_address(value(AttributeType::MAPPED_ADDRESS))), (Ok(address), Ok(address)));
        }
    }
}

fn write_and_read_again(message: &Message<'_>) {
    let expected = obeyed(message);
    for (seal, fingerprint) in
        [(Seal::None, false), (Seal::None, true), (Seal::Sha1(KEY), false), (Seal::Sha256(KEY), true)]
    {
        let mut bytes = write(message, seal, fingerprint);
        let again = Message::parse(&bytes).expect("what we write we can read");
        assert_eq!(again.header(), message.header());
        assert_eq!(obeyed(&again), expected);
        assert_eq!(again.has_fingerprint(), fingerprint);
        assert!(again.fingerprint_holds());
        assert_eq!(again.integrity_holds(KEY), seal != Seal::None);
        assert!(!again.integrity_holds(b"another key"));
        if seal == Seal::None && !fingerprint {
            continue;
        }
        // Whoever is on the way appends what the message began with.
        for (kind, value) in expected.iter().take(3).map(|(kind, value)| (*kind, value.as_slice())).chain([(8, KEY)]) {
            if bytes.len() + value.len() + 8 > 65_535 {
                break;
            }
            let builder = wire::Builder::resume(std::mem::take(&mut bytes));
            bytes = builder.attribute(kind, value).finish();
        }
        let altered = Message::parse(&bytes).expect("well-formed all the same");
        assert_eq!(obeyed(&altered), expected, "something behind the MAC was obeyed");
        assert_eq!(altered.integrity_holds(KEY), seal != Seal::None);
    }
}

fuzz_target!(|bytes: &[u8]| {
    match Message::parse(bytes) {
        Ok(message) => {
            compare_with_the_independent_reader(bytes, &message);
            if bytes.len() < 60_000 {
                write_and_read_again(&message);
            }
        }
        Err(ParseError::MalformedAttribute(header)) => {
            assert!(wire::Parsed::parse(bytes).is_none());
            assert_eq!(bytes[8..20], header.transaction_id.0);
        }
        Err(ParseError::UnknownMethod) => {}
        Err(_) => assert!(wire::Parsed::parse(bytes).is_none(), "a message was lost"),
    }
    if let Some(message) = ChannelData::parse(bytes) {
        assert_eq!(bytes[..2], message.number.to_be_bytes());
        assert_eq!(bytes[4..4 + message.data.len()], *message.data);
        if let Some(number) = channel_data::ChannelNumber::new(message.number) {
            assert_eq!(channel_data::header(number, message.data.len() as u16), bytes[..4]);
        }
    }
});
