//! The PROXY protocol, versions 1 and 2: what a load balancer writes in front of a connection or a datagram to say who
//! its client is.
//!
//! Pure functions over bytes. Strict: a header decides whom quotas and permissions are counted for, so whatever is not
//! clearly one is refused. Whether the sender may say such things is decided elsewhere, by its address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use arrayvec::ArrayVec;

/// The longest header that is read. Version 1 ends at 107 bytes; version 2 may carry extensions (TLVs) of no use here.
pub const HEADER_LEN_MAX: usize = 2048;

/// The longest header that [`write()`] makes.
pub const WRITTEN_LEN_MAX: usize = FIXED_LEN + 36;

/// Version 1: `PROXY TCP6` with the longest addresses and ports, and the line's end.
const LINE_LEN_MAX: usize = 107;
const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED_LEN: usize = 16;
/// Type of the extension with a CRC-32C over the whole header.
const TLV_CRC32C: u8 = 3;

/// What carries the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A connection: the header comes once, before everything else. Version 1 or 2.
    Stream,
    /// A datagram: each has its own header. Version 2; version 1 has no word for UDP.
    Datagram,
}

/// A header that was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its length in bytes, at most [`HEADER_LEN_MAX`]; the client's own bytes follow.
    pub len: usize,
    /// Who speaks to whom. `None` if the proxy speaks for itself, as for a health check (LOCAL, UNKNOWN): then the
    /// addresses of the connection or datagram itself count.
    pub addresses: Option<Addresses>,
}

/// The two ends of what the proxy carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client, as the proxy sees it.
    pub client: SocketAddr,
    /// What the client has connected to, or sent to.
    pub server: SocketAddr,
}

/// Why what came through a proxy is not served; a metric label each. The parser finds only some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyRefusal {
    /// The sender is none of the configured proxies.
    Untrusted,
    /// There is no header.
    Missing,
    /// The header breaks the rules of its version.
    Malformed,
    /// It is of another version, or about something else than TCP or UDP over IP, or not about what carries it.
    Unsupported,
    /// Its checksum is wrong.
    Checksum,
    /// It is longer than [`HEADER_LEN_MAX`].
    TooLong,
    /// It did not come in time.
    Timeout,
    /// The connection ended before it.
    Closed,
}

impl ProxyRefusal {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::Untrusted,
        Self::Missing,
        Self::Malformed,
        Self::Unsupported,
        Self::Checksum,
        Self::TooLong,
        Self::Timeout,
        Self::Closed,
    ];

    /// Its name in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::Checksum => "checksum",
            Self::TooLong => "too_long",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for ProxyRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Reads the header at the start of `bytes`; `None` while it is not whole. More bytes never change an answer that was
/// given.
///
/// # Errors
/// These bytes do not begin with a header that may be believed, and more of them would not help.
pub fn parse(bytes: &[u8], carrier: Carrier) -> Result<Option<Header>, ProxyRefusal> {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] == SIGNATURE[..common] {
        return parse_binary(bytes, carrier);
    }
    let common = bytes.len().min(LINE_START.len());
    if bytes[..common] != LINE_START[..common] {
        return Err(ProxyRefusal::Missing);
    }
    match carrier {
        Carrier::Stream => parse_line(bytes),
        Carrier::Datagram => Err(ProxyRefusal::Unsupported),
    }
}

/// Version 1: one line of text.
fn parse_line(bytes: &[u8]) -> Result<Option<Header>, ProxyRefusal> {
    let line = &bytes[..bytes.len().min(LINE_LEN_MAX)];
    let Some(end) = line.iter().position(|byte| *byte == b'\r') else {
        return if line.len() == LINE_LEN_MAX { Err(ProxyRefusal::TooLong) } else { Ok(None) };
    };
    match line.get(end + 1) {
        Some(b'\n') => {}
        Some(_) => return Err(ProxyRefusal::Malformed),
        None if line.len() == LINE_LEN_MAX => return Err(ProxyRefusal::TooLong),
        None => return Ok(None),
    }
    let len = end + 2;
    let text = str::from_utf8(&line[LINE_START.len()..end]).map_err(|_| ProxyRefusal::Malformed)?;
    let mut words = text.split(' ');
    let is_v4 = match words.next() {
        Some("TCP4") => true,
        Some("TCP6") => false,
        // Whatever else stands in the line is to be ignored.
        Some("UNKNOWN") => return Ok(Some(Header { len, addresses: None })),
        _ => return Err(ProxyRefusal::Unsupported),
    };
    let mut ip = || -> Option<IpAddr> { words.next()?.parse().ok().filter(|ip: &IpAddr| ip.is_ipv4() == is_v4) };
    let (client, server) = (ip(), ip());
    let mut port = || -> Option<u16> {
        let digits = words.next()?;
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
        if is_plain { digits.parse().ok() } else { None }
    };
    let (client_port, server_port) = (port(), port());
    let whole = words.next().is_none();
    let addresses = client.zip(client_port).zip(server.zip(server_port)).filter(|_| whole);
    let (client, server) = addresses.ok_or(ProxyRefusal::Malformed)?;
    addresses_of(client, server).map(|addresses| Some(Header { len, addresses: Some(addresses) }))
}

/// Version 2.
fn parse_binary(bytes: &[u8], carrier: Carrier) -> Result<Option<Header>, ProxyRefusal> {
    let Some(&[version_and_command, family_and_transport, l0, l1]) = bytes.get(SIGNATURE.len()..FIXED_LEN) else {
        return match bytes.get(SIGNATURE.len()) {
            Some(byte) if byte >> 4 != 2 => Err(ProxyRefusal::Unsupported),
            _ if carrier == Carrier::Datagram => Err(ProxyRefusal::Malformed),
            _ => Ok(None),
        };
    };
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyRefusal::Unsupported),
    };
    let len = FIXED_LEN + usize::from(u16::from_be_bytes([l0, l1]));
    if len > HEADER_LEN_MAX {
        return Err(ProxyRefusal::TooLong);
    }
    let Some(header) = bytes.get(..len) else {
        return if carrier == Carrier::Datagram { Err(ProxyRefusal::Malformed) } else { Ok(None) };
    };
    // A proxy that speaks for itself, or does not know for whom: what stands in the rest is to be ignored.
    if is_local || family_and_transport == 0 {
        return Ok(Some(Header { len, addresses: None }));
    }
    let transport = match carrier {
        Carrier::Stream => 1,
        Carrier::Datagram => 2,
    };
    if family_and_transport & 0xF != transport {
        return Err(ProxyRefusal::Unsupported);
    }
    let body = &header[FIXED_LEN..];
    let (client, server, rest) = match family_and_transport >> 4 {
        1 => {
            let (block, rest) = body.split_first_chunk::<12>().ok_or(ProxyRefusal::Malformed)?;
            let ip = |at: usize| Ipv4Addr::from(*block[at..].first_chunk::<4>().expect("inside of the block")).into();
            ((ip(0), port_at(block, 8)), (ip(4), port_at(block, 10)), rest)
        }
        2 => {
            let (block, rest) = body.split_first_chunk::<36>().ok_or(ProxyRefusal::Malformed)?;
            let ip = |at: usize| Ipv6Addr::from(*block[at..].first_chunk::<16>().expect("inside of the block")).into();
            ((ip(0), port_at(block, 32)), (ip(16), port_at(block, 34)), rest)
        }
        _ => return Err(ProxyRefusal::Unsupported),
    };
    check_extensions(header, len - rest.len())?;
    addresses_of(client, server).map(|addresses| Some(Header { len, addresses: Some(addresses) }))
}

fn port_at(block: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([block[at], block[at + 1]])
}

/// Addresses that somebody can have.
fn addresses_of(client: (IpAddr, u16), server: (IpAddr, u16)) -> Result<Addresses, ProxyRefusal> {
    // A proxy that has IPv4 clients on an IPv6 socket writes mapped addresses.
    let address = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
    let (client, server) = (address(client), address(server));
    let is_somebody =
        |address: SocketAddr| address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast();
    if is_somebody(client) && is_somebody(server) {
        Ok(Addresses { client, server })
    } else {
        Err(ProxyRefusal::Malformed)
    }
}

/// Walks through the extensions from `at` on. None means anything here but the checksum.
fn check_extensions(header: &[u8], mut at: usize) -> Result<(), ProxyRefusal> {
    while at < header.len() {
        let Some(&[kind, l0, l1]) = header.get(at..at + 3) else {
            return Err(ProxyRefusal::Malformed);
        };
        let value = at + 3..at + 3 + usize::from(u16::from_be_bytes([l0, l1]));
        let Some(bytes) = header.get(value.clone()) else {
            return Err(ProxyRefusal::Malformed);
        };
        if kind == TLV_CRC32C {
            let claimed = u32::from_be_bytes(bytes.try_into().map_err(|_| ProxyRefusal::Malformed)?);
            let whole = header[..value.start].iter().chain(&[0; 4]).chain(&header[value.end..]);
            if crc32c(whole.copied()) != claimed {
                return Err(ProxyRefusal::Checksum);
            }
        }
        at = value.end;
    }
    Ok(())
}

/// Castagnoli's polynomial, which is not the one of FINGERPRINT. A header is short and comes once a connection.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 })
    })
}

/// A header of version 2 for a TCP connection from `client` to `server`.
pub fn write(client: SocketAddr, server: SocketAddr) -> ArrayVec<u8, WRITTEN_LEN_MAX> {
    let mut header = ArrayVec::new();
    let mut put = |bytes: &[u8]| header.try_extend_from_slice(bytes).expect("there is room for the longest header");
    put(&SIGNATURE);
    match (client.ip(), server.ip()) {
        (IpAddr::V4(client), IpAddr::V4(server)) => {
            put(&[0x21, 0x11, 0, 12]);
            put(&client.octets());
            put(&server.octets());
        }
        (client, server) => {
            put(&[0x21, 0x21, 0, 36]);
            for ip in [client, server] {
                let ip = match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                put(&ip.octets());
            }
        }
    }
    put(&client.port().to_be_bytes());
    put(&server.port().to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(client: &str, server: &str) -> Option<Addresses> {
        Some(Addresses { client: client.parse().unwrap(), server: server.parse().unwrap() })
    }

    /// Version 2 with this command, family and transport, addresses and extensions.
    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 203, 0, 113, 5, 0x9C, 0x40, 0x0D, 0x96];

    /// Cut anywhere it is not whole yet, and what follows changes nothing.
    fn whole_and_in_pieces(header: &[u8], expected: Option<Addresses>) {
        let followed = [header, b"\0\x01\0\0 and what the client says"].concat();
        for end in 0..header.len() {
            assert_eq!(parse(&followed[..end], Carrier::Stream), Ok(None), "cut at {end}");
        }
        for end in header.len()..followed.len() {
            let found = parse(&followed[..end], Carrier::Stream);
            assert_eq!(found, Ok(Some(Header { len: header.len(), addresses: expected })), "cut at {end}");
        }
    }

    #[test]
    fn version_1_is_one_line() {
        let v4 = addresses("192.0.2.1:40000", "203.0.113.5:443");
        whole_and_in_pieces(b"PROXY TCP4 192.0.2.1 203.0.113.5 40000 443\r\n", v4);
        let v6 = addresses("[2001:db8::1]:1", "[2001:db8::2]:65535");
        whole_and_in_pieces(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n", v6);
        whole_and_in_pieces(b"PROXY UNKNOWN\r\n", None);
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        whole_and_in_pieces(format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n").as_bytes(), None);
        let mapped = addresses("192.0.2.1:1", "203.0.113.5:2");
        whole_and_in_pieces(b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:203.0.113.5 1 2\r\n", mapped);
    }

    #[test]
    fn version_1_is_strict() {
        use ProxyRefusal::{Malformed, Missing, TooLong, Unsupported};
        for (line, refusal) in [
            ("GET / HTTP/1.1\r\n", Missing),
            ("proxy TCP4 192.0.2.1 203.0.113.5 1 2\r\n", Missing),
            ("PROXY  TCP4 192.0.2.1 203.0.113.5 1 2\r\n", Unsupported),
            ("PROXY UDP4 192.0.2.1 203.0.113.5 1 2\r\n", Unsupported),
            ("PROXY TCP4 192.0.2.1 203.0.113.5 1\r\n", Malformed),
            ("PROXY TCP4 192.0.2.1 203.0.113.5 1 2 3\r\n", Malformed),
            ("PROXY TCP4 192.0.2.1 203.0.113.5 1 2 \r\n", Malformed),
            ("PROXY TCP4 192.0.2.1  203.0.113.5 1 2\r\n", Malformed),
            ("PROXY TCP4 192.0.2.1 203.0.113.5 1 65536\r\n", Malformed),
            ("PROXY TCP4 192.0.2.1 203.0.113.5 01 2\r\n", Malformed),
            ("PROXY TCP4 192.0.2.1 203.0.113.5 +1 2\r\n", Malformed),
            ("PROXY TCP4 192.0.2.1 203.0.113.5 0 2\r\n", Malformed),
            ("PROXY TCP4 0.0.0.0 203.0.113.5 1 2\r\n", Malformed),
            ("PROXY TCP4 192.0.2.256 203.0.113.5 1 2\r\n", Malformed),
            ("PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", Malformed),
            ("PROXY TCP6 192.0.2.1 203.0.113.5 1 2\r\n", Malformed),
            ("PROXY UNKNOWN\rx", Malformed),
            (&format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)), TooLong),
        ] {
            assert_eq!(parse(line.as_bytes(), Carrier::Stream), Err(refusal), "{line:?}");
        }
        assert_eq!(parse(b"PROXY TCP4 192.0.2.1 203.0.113.5 1 2\r\n", Carrier::Datagram), Err(Unsupported));
    }

    #[test]
    fn version_2_is_read_with_and_without_extensions() {
        let v4 = addresses("192.0.2.1:40000", "203.0.113.5:3478");
        whole_and_in_pieces(&binary(0x21, 0x11, &V4), v4);
        // Extensions as clouds send them: an identifier of their own, and padding.
        let extended = [&V4[..], &[0xEA, 0, 3, 1, 2, 3], &[4, 0, 0]].concat();
        whole_and_in_pieces(&binary(0x21, 0x11, &extended), v4);
        let ip = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).octets();
        let body = [&ip(1)[..], &ip(2), &[0, 1, 0, 2]].concat();
        whole_and_in_pieces(&binary(0x21, 0x21, &body), addresses("[2001:db8::1]:1", "[2001:db8::2]:2"));
        // A health check, and a proxy that does not know.
        whole_and_in_pieces(&binary(0x20, 0, &[]), None);
        whole_and_in_pieces(&binary(0x20, 0x11, &[9; 40]), None);
        whole_and_in_pieces(&binary(0x21, 0, &[9; 5]), None);
    }

    #[test]
    fn version_2_is_strict() {
        use ProxyRefusal::{Malformed, TooLong, Unsupported};
        for (bytes, refusal) in [
            (binary(0x11, 0x11, &V4), Unsupported),
            (binary(0x22, 0x11, &V4), Unsupported),
            (binary(0x21, 0x12, &V4), Unsupported),
            (binary(0x21, 0x31, &[0; 216]), Unsupported),
            (binary(0x21, 0x11, &V4[..11]), Malformed),
            (binary(0x21, 0x21, &V4), Malformed),
            (binary(0x21, 0x11, &[&V4[..], &[4, 0]].concat()), Malformed),
            (binary(0x21, 0x11, &[&V4[..], &[4, 0, 2, 0]].concat()), Malformed),
            (binary(0x21, 0x11, &[&V4[..], &[3, 0, 3, 0, 0, 0]].concat()), Malformed),
            (binary(0x21, 0x11, &[0; 12]), Malformed),
            (binary(0x21, 0x11, &[0; HEADER_LEN_MAX]), TooLong),
        ] {
            assert_eq!(parse(&bytes, Carrier::Stream), Err(refusal), "{bytes:?}");
        }
    }

    /// Each datagram has a whole header of its own, about UDP.
    #[test]
    fn version_2_stands_in_front_of_each_datagram() {
        let header = binary(0x21, 0x12, &V4);
        let datagram = [&header[..], b"data"].concat();
        let found = parse(&datagram, Carrier::Datagram);
        let addresses = addresses("192.0.2.1:40000", "203.0.113.5:3478");
        assert_eq!(found, Ok(Some(Header { len: header.len(), addresses })));
        for end in 13..header.len() {
            assert_eq!(parse(&datagram[..end], Carrier::Datagram), Err(ProxyRefusal::Malformed), "cut at {end}");
        }
        assert_eq!(parse(&binary(0x21, 0x11, &V4), Carrier::Datagram), Err(ProxyRefusal::Unsupported));
    }

    #[test]
    fn a_checksum_is_checked_where_there_is_one() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xE306_9283, "the check value of CRC-32C");
        let mut header = binary(0x21, 0x11, &[&V4[..], &[3, 0, 4, 0, 0, 0, 0], &[4, 0, 1, 0]].concat());
        let at = FIXED_LEN + V4.len() + 3;
        let checksum = crc32c(header.iter().copied());
        header[at..at + 4].copy_from_slice(&checksum.to_be_bytes());
        whole_and_in_pieces(&header, addresses("192.0.2.1:40000", "203.0.113.5:3478"));
        header[FIXED_LEN] ^= 1;
        assert_eq!(parse(&header, Carrier::Stream), Err(ProxyRefusal::Checksum));
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (client, server) in [("192.0.2.1:1", "203.0.113.5:443"), ("[2001:db8::1]:1", "[2001:db8::2]:443")] {
            let header = write(client.parse().unwrap(), server.parse().unwrap());
            whole_and_in_pieces(&header, addresses(client, server));
        }
        let mixed = write("192.0.2.1:1".parse().unwrap(), "[2001:db8::2]:443".parse().unwrap());
        whole_and_in_pieces(&mixed, addresses("192.0.2.1:1", "[2001:db8::2]:443"));
    }

    proptest! {
        /// Abuse S17: no panic, no length beyond the bound or the bytes, and more bytes never change an answer.
        #[test]
        fn s17_any_bytes_are_judged_once(
            start in prop_oneof![
                Just(Vec::new()), Just(LINE_START.to_vec()), Just(SIGNATURE.to_vec()),
                Just(b"PROXY TCP4 192.0.2.1 ".to_vec()), Just(binary(0x21, 0x11, &V4)), Just(binary(0x21, 0x12, &V4)),
            ],
            at in 0..64_usize, flip in any::<u8>(), rest in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = [start, rest].concat();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= flip;
            }
            for carrier in [Carrier::Stream, Carrier::Datagram] {
                let whole = parse(&bytes, carrier);
                if let Ok(Some(header)) = whole {
                    prop_assert!(header.len <= bytes.len() && header.len <= HEADER_LEN_MAX);
                }
                for end in 0..bytes.len() {
                    match parse(&bytes[..end], carrier) {
                        Ok(None) => {}
                        Err(_) if carrier == Carrier::Datagram => {}
                        early => prop_assert_eq!(early, whole),
                    }
                }
            }
        }
    }
}
