//! The PROXY protocol's header, in front of connections and of datagrams: how much has arrived never changes who the
//! client is, nothing behind the header is looked at, and what the server writes itself reads the same.

#![no_main]

use std::net::{IpAddr, SocketAddr};

use hairpin::net::proxy_protocol::{Addresses, Carrier, HEADER_LEN_MAX, Header, parse, write};
use libfuzzer_sys::fuzz_target;

const TAILS: [&[u8]; 3] = [b"\0", b"\0\x01\0\0\x21\x12\xa4\x42", b"\r\nPROXY TCP4 192.0.2.9 192.0.2.8 7 8\r\n"];

fn check_found(found: &Header, bytes: &[u8], carrier: Carrier) {
    assert!(found.len <= bytes.len() && found.len <= HEADER_LEN_MAX);
    // Cut anywhere it is not whole.
    for end in 0..found.len {
        let cut = parse(&bytes[..end], carrier);
        assert!(cut.is_err() == (carrier == Carrier::Datagram) && cut != Ok(Some(*found)), "{cut:?} at {end}");
    }
    assert_eq!(parse(&bytes[..found.len], carrier), Ok(Some(*found)));
    for tail in TAILS {
        assert_eq!(parse(&[&bytes[..found.len], tail].concat(), carrier), Ok(Some(*found)), "it looked behind");
    }
    if let Some(addresses) = found.addresses {
        for address in [addresses.client, addresses.server] {
            assert!(address.port() != 0 && address.ip() == address.ip().to_canonical());
            assert!(!address.ip().is_unspecified() && !address.ip().is_multicast());
        }
        check_written(addresses.client, addresses.server);
    }
}

fn check_written(client: SocketAddr, server: SocketAddr) {
    let written = write(client, server);
    let expected = Header { len: written.len(), addresses: Some(Addresses { client, server }) };
    assert_eq!(parse(&written, Carrier::Stream), Ok(Some(expected)));
    assert!(parse(&written, Carrier::Datagram).is_err(), "it is about a connection");
}

/// An address that somebody can have, made of any bytes.
fn address_of(bytes: &[u8; 18]) -> SocketAddr {
    let (ip, port) = (*bytes.first_chunk::<16>().expect("18 bytes"), u16::from_be_bytes([bytes[16], bytes[17]]));
    let ip = if bytes[0] & 1 == 0 { IpAddr::from(ip) } else { IpAddr::from([bytes[1], bytes[2], bytes[3], bytes[4]]) };
    let ip = ip.to_canonical();
    let ip = if ip.is_unspecified() || ip.is_multicast() { IpAddr::from([192, 0, 2, 1]) } else { ip };
    SocketAddr::new(ip, port.max(1))
}

fuzz_target!(|bytes: &[u8]| {
    for carrier in [Carrier::Stream, Carrier::Datagram] {
        match parse(bytes, carrier) {
            Ok(Some(found)) => check_found(&found, bytes, carrier),
            Ok(None) => {
                assert!(bytes.len() < HEADER_LEN_MAX, "more than the longest header, and not whole yet");
                assert_eq!(carrier, Carrier::Stream, "a datagram has no more");
            }
            // A connection is closed at once, so it may not turn out good after all.
            Err(why) if carrier == Carrier::Stream => {
                for tail in TAILS {
                    assert_eq!(parse(&[bytes, tail].concat(), carrier), Err(why), "it changed its mind");
                }
            }
            Err(_) => {}
        }
    }
    if let Some((one, rest)) = bytes.split_first_chunk()
        && let Some(other) = rest.first_chunk()
    {
        check_written(address_of(one), address_of(other));
    }
});
