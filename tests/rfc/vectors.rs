//! Worked bytes: RFC 5769, RFC 8489 Appendix B, and the exchanges E1–E10 of the checklist.

use hairpin::stun::{
    AttributeType, ChannelData, Class, ErrorCode, Message, MessageWriter, Method, ParseError, Seal, TransactionId,
    integrity, read_xor_address,
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

const SHORT_TERM_PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";

/// VEC-5769-2.1-01, STUN-8489-9-03: the padding is 0x20, and is covered as received.
#[test]
fn vec_5769_2_1_01_request() {
    let bytes = hex(
        "00010058 2112a442 b7e7a701 bc34d686 fa87dfae 80220010 5354554e 20746573 7420636c 69656e74 00240004 6e0001ff
         80290008 932ff9b1 51263b36 00060009 6576746a 3a683676 59202020 00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249
         c1b571a2 80280004 e57a3bcf",
    );
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, Method::Binding));
    assert!(message.fingerprint_holds());
    assert!(message.integrity_holds(SHORT_TERM_PASSWORD));
    assert!(!message.integrity_holds(b"another"));
    assert_eq!(message.first(AttributeType::USERNAME), Some(&b"evtj:h6vY"[..]));
}

/// VEC-5769-2.2-01, STUN-8489-14.2-01.
#[test]
fn vec_5769_2_2_01_responses() {
    for (bytes, mapped) in [
        (
            "0101003c 2112a442 b7e7a701 bc34d686 fa87dfae 8022000b 74657374 20766563 746f7220 00200008 0001a147
             e112a643 00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7 80280004 c07d4c96",
            "192.0.2.1:32853",
        ),
        (
            "01010048 2112a442 b7e7a701 bc34d686 fa87dfae 8022000b 74657374 20766563 746f7220 00200014 0002a147
             0113a9fa a5d3f179 bc25f4b5 bed2b9d9 00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41 80280004
             c8fb0b4c",
            "[2001:db8:1234:5678:11:2233:4455:6677]:32853",
        ),
    ] {
        let bytes = hex(bytes);
        let message = Message::parse(&bytes).unwrap();
        assert!(message.fingerprint_holds() && message.integrity_holds(SHORT_TERM_PASSWORD));
        let value = message.first(AttributeType::XOR_MAPPED_ADDRESS).unwrap();
        assert_eq!(read_xor_address(value, message.transaction_id()), Ok(mapped.parse().unwrap()));
    }
}

/// VEC-5769-2.4-01, STUN-8489-9.2.2-01.
#[test]
fn vec_5769_2_4_01_long_term_request() {
    let bytes = hex(
        "00010060 2112a442 78ad3433 c6ad72c0 29da412e 00060012 e3839ee3 8388e383 aae38383 e382afe3 82b90000 0015001c
         662f2f34 39396b39 35346436 4f4c3334 6f4c3946 53547679 36347341 0014000b 6578616d 706c652e 6f726700 00080014
         f6702465 6dd64a3e 02b8e071 2e85c9a2 8ca89666",
    );
    let key = integrity::long_term_key_md5("マトリックス", "example.org", "TheMatrIX");
    assert_eq!(key.to_vec(), hex("e8ca7ad59d5eb0518e312911d2dab2a9"));
    assert!(Message::parse(&bytes).unwrap().integrity_holds(&key));
}

/// VEC-8489-B-01 (A02): the corrected vector verifies, the printed one has a wrong length and does not parse.
#[test]
fn vec_8489_b_01_corrected_sha256_vector() {
    let mut bytes = hex(
        "00010090 2112a442 78ad3433 c6ad72c0 29da412e 001e0020 4a3cf38f ef6992bd a952c678 0417da0f 24819415 569e60b2
         05c46e41 407f1704 00150029 6f624d61 744a6f73 32414141 43662f2f 3439396b 39353464 364f4c33 346f4c39 46535476
         79363473 41000000 0014000b 6578616d 706c652e 6f726700 001d0004 00020000 001c0020 b5c7bf00 5b6c52a2 1c51c5e8
         92f81924 136296cb 927c4314 9309278c c6518e65",
    );
    let key = integrity::long_term_key_sha256("マトリックス", "example.org", "TheMatrIX");
    assert!(Message::parse(&bytes).unwrap().integrity_holds(&key));
    bytes[3] = 0x9c;
    assert_eq!(Message::parse(&bytes).unwrap_err(), ParseError::WrongLength);
}

#[test]
fn stun_8489_9_2_2_01_long_term_keys() {
    assert_eq!(integrity::long_term_key_md5("user", "realm", "pass").to_vec(), hex("8493fbc53ba582fb4c044c456bdc40eb"));
    assert_eq!(
        integrity::long_term_key_sha256("user", "realm", "pass").to_vec(),
        hex("07e934117abd40836e7c6329b54731b2b2d2a5f9a71f544922d75e0730d8251b")
    );
}

fn alice_md5() -> [u8; 16] {
    integrity::long_term_key_md5("alice", "example.org", "s3cret")
}

/// E3 and E8: with and without an attribute behind MESSAGE-INTEGRITY.
#[test]
fn e3_e8_classic_allocate_requests() {
    let e3 = hex(
        "00030068 2112a442 0c0d0e0f 10111213 14151617 00190004 11000000 00060005 616c6963 65000000 0014000b 6578616d
         706c652e 6f726700 00150025 6f624d61 744a6f73 32674141 41363535 33663130 30613162 32633364 34653566 36303731
         38000000 00080014 e019ab52 1dfd4efc 00bda3f6 da444cd5 df26d083",
    );
    let e8 = hex(
        "00030074 2112a442 30313233 34353637 38393a3b 00190004 11000000 00060005 616c6963 65000000 0014000b 6578616d
         706c652e 6f726700 00150025 6f624d61 744a6f73 32674141 41363535 33663130 30613162 32633364 34653566 36303731
         38000000 00080014 a3be218b 74b73874 df35d4ec 2099e8e0 a95ba5b5 ff050006 6c6f672d 69640000",
    );
    for bytes in [e3, e8] {
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Request, Method::Allocate));
        assert!(message.integrity_holds(&alice_md5()));
        assert!(message.attributes().all(|attribute| attribute.kind != AttributeType(0xFF05)));
    }
}

/// E5, STUN-8489-18.5.1-01.
#[test]
fn e5_modern_allocate_request() {
    let bytes = hex(
        "00030090 2112a442 18191a1b 1c1d1e1f 20212223 00190004 11000000 00060005 616c6963 65000000 0014000b 6578616d
         706c652e 6f726700 00150025 6f624d61 744a6f73 32674141 41363535 33663130 30613162 32633364 34653566 36303731
         38000000 80020008 00020000 00010000 001d0004 00020000 001c0020 d8e39b54 966634bf 3efc9606 81c3995f 1683589a
         1b49a2a3 cbdba515 cbe0bf97 80280004 784cc14b",
    );
    let message = Message::parse(&bytes).unwrap();
    let key = integrity::long_term_key_sha256("alice", "example.org", "s3cret");
    assert!(message.fingerprint_holds() && message.integrity_holds(&key));
}

/// E4, E6 and E9 come out of our writer byte for byte.
#[test]
fn e4_e6_e9_responses_are_written_byte_for_byte() {
    let mut buffer = [0xEE; 1024];
    let id = |first: u8| TransactionId(std::array::from_fn(|place| first + place as u8));

    let mut writer = MessageWriter::new(&mut buffer, Method::Allocate, Class::Success, id(0x0c));
    writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, "203.0.113.5:50000".parse().unwrap());
    writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, "192.0.2.10:40000".parse().unwrap());
    writer.u32(AttributeType::LIFETIME, 600);
    let len = writer.finish(Seal::Sha1(&alice_md5()), false);
    let e4 = "01030038 2112a442 0c0d0e0f 10111213 14151617 00160008 0001e242 ea12d547 00200008 0001bd52 e112a648
              000d0004 00000258 00080014 ee8f7013 0ce12ed7 980071c4 6d83ec22 f38c55e7";
    assert_eq!(buffer[..len], hex(e4));

    let key = integrity::long_term_key_sha256("alice", "example.org", "s3cret");
    let mut writer = MessageWriter::new(&mut buffer, Method::Allocate, Class::Success, id(0x18));
    writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, "[2001:db8::5]:50002".parse().unwrap());
    writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, "192.0.2.10:40000".parse().unwrap());
    writer.u32(AttributeType::LIFETIME, 600);
    let len = writer.finish(Seal::Sha256(&key), true);
    let e6 = "01030058 2112a442 18191a1b 1c1d1e1f 20212223 00160014 0002e240 0113a9fa 18191a1b 1c1d1e1f 20212226
              00200008 0001bd52 e112a648 000d0004 00000258 001c0020 9f094a39 69253b57 bfe986de 76e98d78 1f021ba2
              8882930d 83df9df1 e70db6c5 80280004 a8ad92a2";
    assert_eq!(buffer[..len], hex(e6));

    let mut writer = MessageWriter::new(&mut buffer, Method::Allocate, Class::Error, id(0x00));
    writer.error_code(ErrorCode::UnknownAttribute);
    writer.attribute(AttributeType::UNKNOWN_ATTRIBUTES, &[0x00, 0x1a, 0x7f, 0xff]);
    let len = writer.finish(Seal::None, false);
    let e9 = "01130024 2112a442 00010203 04050607 08090a0b 00090015 00000414 556e6b6e 6f776e20 41747472 69627574
              65000000 000a0004 001a7fff";
    assert_eq!(buffer[..len], hex(e9));
}

/// E10, and ChannelData of section 6.
#[test]
fn e10_send_indication_and_channel_data() {
    let bytes = hex("00160014 2112a442 30313233 34353637 38393a3b 00120008 00013a4a e721c045 00130003 61626300");
    let message = Message::parse(&bytes).unwrap();
    let peer = message.first(AttributeType::XOR_PEER_ADDRESS).unwrap();
    assert_eq!(read_xor_address(peer, message.transaction_id()), Ok("198.51.100.7:7000".parse().unwrap()));
    assert_eq!(message.first(AttributeType::DATA), Some(&b"abc"[..]));
    for bytes in [hex("40010003 616263"), hex("40010003 61626300")] {
        assert_eq!(ChannelData::parse(&bytes), Some(ChannelData { number: 0x4001, data: b"abc" }));
    }
}
