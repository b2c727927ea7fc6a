//! Frames, made and taken apart by other hands than the program's.

use std::net::{IpAddr, SocketAddr};

/// Everything of an Ethernet frame with UDP over IPv4 or IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub to_mac: [u8; 6],
    pub from_mac: [u8; 6],
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub traffic_class: u8,
    pub hops: u8,
    pub dont_fragment: bool,
    pub id: u16,
    pub label: u32,
    pub payload: Vec<u8>,
}

/// Where UDP begins.
pub const fn udp_at(is_ipv4: bool) -> usize {
    if is_ipv4 { 34 } else { 54 }
}

impl Frame {
    /// The bytes of it, sums and all.
    pub fn bytes(&self) -> Vec<u8> {
        let udp_len = (8 + self.payload.len()) as u16;
        let mut bytes = [self.to_mac, self.from_mac].concat();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend([0x08, 0x00, 0x45, self.traffic_class]);
                bytes.extend((20 + udp_len).to_be_bytes());
                bytes.extend(self.id.to_be_bytes());
                bytes.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.hops, 17, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                let sum = !sum(&[&bytes[14..34]]);
                bytes[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes.extend([0x86, 0xDD]);
                bytes.extend((6 << 28 | u32::from(self.traffic_class) << 20 | self.label).to_be_bytes());
                bytes.extend(udp_len.to_be_bytes());
                bytes.extend([17, self.hops]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
            }
            _ => panic!("a packet has one family"),
        }
        let udp = bytes.len();
        bytes.extend(self.source.port().to_be_bytes());
        bytes.extend(self.destination.port().to_be_bytes());
        bytes.extend(udp_len.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(&self.payload);
        let checksum = match !sum(&[&bytes[udp..], &self.pseudo_header()]) {
            0 => 0xFFFF,
            checksum => checksum,
        };
        bytes[udp + 6..udp + 8].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// What the checksum of UDP covers besides UDP.
    pub fn pseudo_header(&self) -> Vec<u8> {
        let len = (8 + self.payload.len()) as u32;
        let ip = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        [&ip(self.source.ip())[..], &ip(self.destination.ip()), &len.to_be_bytes(), &[0, 0, 0, 17]].concat()
    }

    /// Takes bytes apart. Every length and every sum must be right, and nothing may be left over.
    pub fn parse(bytes: &[u8]) -> Self {
        let array = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap();
        let is_ipv4 = bytes[12..14] == [0x08, 0x00];
        let udp = udp_at(is_ipv4);
        let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (source, destination): (IpAddr, IpAddr) = if is_ipv4 {
            assert_eq!((bytes[14], bytes[23]), (0x45, 17), "IPv4 without options, UDP");
            assert_eq!(sum(&[&bytes[14..34]]), 0xFFFF, "the checksum of IPv4");
            assert_eq!(usize::from(port(16)), bytes.len() - 14, "the length of IPv4");
            assert_eq!((bytes[20] & 0xBF, bytes[21]), (0, 0), "no fragment");
            (array(26).into(), array(30).into())
        } else {
            assert_eq!((&bytes[12..14], bytes[14] >> 4, bytes[20]), (&[0x86, 0xDD][..], 6, 17), "IPv6, UDP");
            assert_eq!(usize::from(port(18)), bytes.len() - 54, "the length of IPv6");
            let long = |at: usize| <[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap();
            (long(22).into(), long(38).into())
        };
        assert_eq!(usize::from(port(udp + 4)), bytes.len() - udp, "the length of UDP");
        let first = u32::from_be_bytes(array(14));
        let frame = Self {
            to_mac: bytes[..6].try_into().unwrap(),
            from_mac: bytes[6..12].try_into().unwrap(),
            source: SocketAddr::new(source, port(udp)),
            destination: SocketAddr::new(destination, port(udp + 2)),
            traffic_class: if is_ipv4 { bytes[15] } else { (first >> 20) as u8 },
            hops: if is_ipv4 { bytes[22] } else { bytes[21] },
            dont_fragment: is_ipv4 && bytes[20] & 0x40 != 0,
            id: if is_ipv4 { port(18) } else { 0 },
            label: if is_ipv4 { 0 } else { first & 0xF_FFFF },
            payload: bytes[udp + 8..].to_vec(),
        };
        assert_ne!(port(udp + 6), 0, "there is a checksum of UDP");
        assert_eq!(sum(&[&bytes[udp..], &frame.pseudo_header()]), 0xFFFF, "the checksum of UDP");
        frame
    }
}

/// Ones' complement sum (RFC 1071) over parts of even length, but for the first.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0u64;
    for part in parts {
        for word in part.chunks(2) {
            total += u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0));
        }
    }
    while total > 0xFFFF {
        total = (total & 0xFFFF) + (total >> 16);
    }
    total as u16
}
