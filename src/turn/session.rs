//! What a client is called from its first packet to its last, in logs, events and answers to operators.

use std::fmt;
use std::hash::Hasher as _;
use std::net::{IpAddr, SocketAddr};
use std::num::ParseIntError;
use std::str::FromStr;

use siphasher::sip::SipHasher24;

use super::{Clock, FiveTuple, Server, Transport};

/// Names a session: what goes on between a client and this server over one 5-tuple. An allocation keeps the name of the
/// 5-tuple it was made over, also when its client moves (RFC 8016).
///
/// It is a keyed hash, so that it costs no memory for strangers, is the same in all shards, and tells nobody without the
/// key an address. Written as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for SessionId {
    type Err = ParseIntError;

    /// 16 hexadecimal digits, and nothing else.
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let is_whole = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        u64::from_str_radix(if is_whole { text } else { "" }, 16).map(Self)
    }
}

/// What session ids are made with: fresh at every start, the same in all shards, and kept by a reload.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionKey(pub [u8; 16]);

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(…)")
    }
}

impl SessionKey {
    /// The session of a 5-tuple.
    #[must_use]
    pub fn id(&self, path: &FiveTuple) -> SessionId {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        let transport = Transport::ALL.iter().position(|transport| *transport == path.transport);
        hasher.write(&[transport.expect("ALL has every transport") as u8]);
        write_address(&mut hasher, path.client);
        write_address(&mut hasher, path.server);
        SessionId(hasher.finish())
    }
}

impl SessionKey {
    /// A hash of anything else that is to be recognised without being known.
    #[must_use]
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        // Apart from those of 5-tuples, which begin with the number of a transport.
        hasher.write(&[0xFF]);
        hasher.write(bytes);
        hasher.finish()
    }
}

fn write_address(hasher: &mut SipHasher24, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => hasher.write(&ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => hasher.write(&ip.octets()),
    }
    hasher.write(&address.port().to_be_bytes());
}

impl Server {
    /// The session of whoever this 5-tuple belongs to: its allocation's, if it has one.
    pub fn session_of(&mut self, clock: Clock, path: &FiveTuple) -> SessionId {
        match self.allocations.live_by_path(clock.now, path) {
            Some((_, allocation)) => allocation.session,
            None => self.config.session_key.id(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> FiveTuple {
        FiveTuple {
            transport: Transport::Udp,
            client: "192.0.2.1:40000".parse().unwrap(),
            server: "203.0.113.5:3478".parse().unwrap(),
        }
    }

    #[test]
    fn every_part_of_a_five_tuple_and_the_key_count() {
        let key = SessionKey([7; 16]);
        let others = [
            FiveTuple { transport: Transport::Tcp, ..path() },
            FiveTuple { client: "192.0.2.1:40001".parse().unwrap(), ..path() },
            FiveTuple { client: "192.0.2.2:40000".parse().unwrap(), ..path() },
            FiveTuple { server: "203.0.113.5:3479".parse().unwrap(), ..path() },
            FiveTuple { server: "203.0.113.6:3478".parse().unwrap(), ..path() },
        ];
        let id = key.id(&path());
        assert_eq!(id, key.id(&path()));
        assert!(others.iter().all(|other| key.id(other) != id));
        assert_ne!(SessionKey([8; 16]).id(&path()), id);
        assert!(!format!("{key:?}").contains('7'), "keys are not shown");
    }

    #[test]
    fn ids_are_written_as_sixteen_digits_and_read_back() {
        assert_eq!(SessionId(0xBEEF).to_string(), "000000000000beef");
        assert_eq!("000000000000beef".parse(), Ok(SessionId(0xBEEF)));
        for wrong in ["", "beef", "+00000000000beef", "000000000000beeg", "0000000000000beef"] {
            assert!(wrong.parse::<SessionId>().is_err(), "{wrong}");
        }
    }
}
