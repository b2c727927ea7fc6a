//! The cookie exchange of RFC 6347 §4.2.1, without state (DTLS-7350-3-03, abuse S6).
//!
//! A ClientHello without a cookie costs one HMAC and is answered with fewer bytes than it has; nothing is remembered. A
//! cookie that comes back proves that the client receives at its address, and only then is there anything to begin.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

const COOKIE_LEN: usize = 20;
const RECORD_HEAD_LEN: usize = 13;
const HANDSHAKE_HEAD_LEN: usize = 12;
/// Both heads, a version, and the cookie with its length.
const HELLO_VERIFY_REQUEST_LEN: usize = RECORD_HEAD_LEN + HANDSHAKE_HEAD_LEN + 2 + 1 + COOKIE_LEN;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const HELLO_VERIFY_REQUEST: u8 = 3;

/// A cookie is good in the period it was made in and in the next one.
const PERIOD_SECS: u64 = 60;

/// A whole HelloVerifyRequest, ready to be sent.
pub type HelloVerifyRequest = ArrayVec<u8, HELLO_VERIFY_REQUEST_LEN>;

/// What a client has to send back. It is made from what is in its ClientHello.
pub type Cookie = [u8; COOKIE_LEN];

/// What a datagram means to whoever has no association with its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspected {
    /// A ClientHello without a cookie that counts: answer with this and forget it.
    Answer(HelloVerifyRequest),
    /// A ClientHello whose cookie is good: a handshake may begin with it. The cookie tells one sent again from another.
    Begin(Cookie),
    /// A record of something that has begun, or was believed to have.
    Record,
    /// Nothing that could be understood.
    Nothing,
}

/// The key of the cookies. All shards have the same, since a client's datagrams may come to any of them.
#[derive(Clone)]
pub struct Cookies {
    key: [u8; 32],
}

/// The parts of a ClientHello that count here.
struct Hello<'b> {
    sequence: [u8; 6],
    /// Version, random and session id: what comes before the cookie.
    before: &'b [u8],
    cookie: &'b [u8],
    /// Cipher suites, compression methods and extensions.
    after: &'b [u8],
}

impl Cookies {
    /// `key` must be random and unknown to anybody else.
    pub const fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// Looks at a datagram from `client` to `server`.
    pub fn inspect(&self, datagram: &[u8], client: SocketAddr, server: SocketAddr, unix_secs: u64) -> Inspected {
        let Some(&[kind, major, _, epoch0, epoch1]) = datagram.first_chunk() else {
            return Inspected::Nothing;
        };
        let is_begun = (epoch0, epoch1) != (0, 0) || kind != HANDSHAKE;
        if major != 0xFE || datagram.len() < RECORD_HEAD_LEN {
            return Inspected::Nothing;
        }
        if is_begun || datagram.get(RECORD_HEAD_LEN) != Some(&CLIENT_HELLO) {
            return Inspected::Record;
        }
        let Some(hello) = Hello::parse(datagram) else {
            return Inspected::Nothing;
        };
        let period = unix_secs / PERIOD_SECS;
        for period in [period, period.wrapping_sub(1)] {
            let cookie = self.cookie(&hello, client, server, period);
            if bool::from(cookie[..].ct_eq(hello.cookie)) {
                return Inspected::Begin(cookie);
            }
        }
        let answer = hello.verify_request(&self.cookie(&hello, client, server, period));
        // Nobody is to be hit harder through us than directly. (A ClientHello without extensions has 54 bytes or more
        // beside the heads, so this is for the record.)
        if answer.len() <= datagram.len() { Inspected::Answer(answer) } else { Inspected::Nothing }
    }

    fn cookie(&self, hello: &Hello<'_>, client: SocketAddr, server: SocketAddr, period: u64) -> Cookie {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(&period.to_be_bytes());
        for address in [client, server] {
            let ip = match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            mac.update(&ip.octets());
            mac.update(&address.port().to_be_bytes());
        }
        // Of a length that is told inside, so that nothing can be shifted from one to the other.
        mac.update(hello.before);
        mac.update(hello.after);
        *mac.finalize().into_bytes().first_chunk().expect("a longer hash")
    }
}

impl<'b> Hello<'b> {
    /// A ClientHello in one record and one fragment.
    fn parse(datagram: &'b [u8]) -> Option<Self> {
        let (head, rest) = datagram.split_first_chunk::<RECORD_HEAD_LEN>()?;
        let sequence = *head[5..].first_chunk()?;
        let record = rest.get(..usize::from(u16::from_be_bytes([head[11], head[12]])))?;
        let (head, body) = record.split_first_chunk::<HANDSHAKE_HEAD_LEN>()?;
        let [_, l0, l1, l2, _, _, o0, o1, o2, f0, f1, f2] = *head;
        let len = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        if [o0, o1, o2] != [0; 3] || [f0, f1, f2] != [l0, l1, l2] || body.len() != len {
            return None;
        }
        // Version and random, then the session id with its length in front, then the cookie likewise.
        let session_end = 35 + usize::from(*body.get(34)?);
        let (before, rest) = body.split_at_checked(session_end)?;
        let (&cookie_len, rest) = rest.split_first()?;
        let (cookie, after) = rest.split_at_checked(usize::from(cookie_len))?;
        (before[0] == 0xFE && after.len() >= 6).then_some(Self { sequence, before, cookie, after })
    }

    /// RFC 6347 §4.2.1: of version 1.0 whatever comes next, and with the sequence number of the ClientHello.
    fn verify_request(&self, cookie: &Cookie) -> HelloVerifyRequest {
        let body_len = (2 + 1 + COOKIE_LEN) as u8;
        let mut answer = ArrayVec::new();
        let mut put = |bytes: &[u8]| answer.try_extend_from_slice(bytes).expect("there is room for all of it");
        put(&[HANDSHAKE, 0xFE, 0xFF, 0, 0]);
        put(&self.sequence);
        put(&[0, HANDSHAKE_HEAD_LEN as u8 + body_len]);
        put(&[HELLO_VERIFY_REQUEST, 0, 0, body_len, 0, 0, 0, 0, 0, 0, 0, body_len]);
        put(&[0xFE, 0xFF, COOKIE_LEN as u8]);
        put(cookie);
        answer
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(cookie: &[u8], suites: &[u8]) -> Vec<u8> {
        let mut body = vec![0xFE, 0xFD];
        body.extend_from_slice(&[7; 32]);
        body.push(0);
        body.push(cookie.len() as u8);
        body.extend_from_slice(cookie);
        body.extend_from_slice(&(suites.len() as u16).to_be_bytes());
        body.extend_from_slice(suites);
        body.extend_from_slice(&[1, 0, 0, 0]);
        let len = (body.len() as u32).to_be_bytes();
        let handshake = [&[CLIENT_HELLO][..], &len[1..], &[0, 0], &[0, 0, 0], &len[1..], &body].concat();
        let record_len = (handshake.len() as u16).to_be_bytes();
        [&[HANDSHAKE, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 9][..], &record_len, &handshake].concat()
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn inspect(datagram: &[u8], client: &str, secs: u64) -> Inspected {
        Cookies::new([3; 32]).inspect(datagram, address(client), address("203.0.113.5:5349"), secs)
    }

    const CLIENT: &str = "192.0.2.1:40000";

    #[test]
    fn dtls_7350_3_03_a_cookie_comes_back_or_nothing_begins() {
        let first = hello(&[], &[0xC0, 0x2B]);
        let Inspected::Answer(answer) = inspect(&first, CLIENT, 1000) else { panic!("an answer") };
        assert!(answer.len() <= first.len());
        assert_eq!(answer[..13], [22, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 9, 0, 35]);
        let cookie = &answer[28..];
        assert_eq!((answer[27] as usize, cookie.len()), (COOKIE_LEN, COOKIE_LEN));

        let second = hello(cookie, &[0xC0, 0x2B]);
        let begins = Inspected::Begin(cookie.try_into().unwrap());
        assert_eq!(inspect(&second, CLIENT, 1000), begins);
        assert_eq!(inspect(&second, CLIENT, 1060), begins);
        // Too late, another client, another port, another offer, another server's key: asked again.
        let asked_again = |inspected| assert!(matches!(inspected, Inspected::Answer(_)), "{inspected:?}");
        asked_again(inspect(&second, CLIENT, 1200));
        asked_again(inspect(&second, "192.0.2.2:40000", 1000));
        asked_again(inspect(&second, "192.0.2.1:40001", 1000));
        asked_again(inspect(&hello(cookie, &[0xC0, 0x2C]), CLIENT, 1000));
        asked_again(inspect(&hello(&cookie[..19], &[0xC0, 0x2B]), CLIENT, 1000));
        asked_again(inspect(&hello(&[0; 255], &[0xC0, 0x2B]), CLIENT, 1000));
        let other = Cookies::new([4; 32]);
        asked_again(other.inspect(&second, address(CLIENT), address("203.0.113.5:5349"), 1000));
    }

    #[test]
    fn records_of_associations_and_garbage_are_told_apart() {
        for (datagram, expected) in [
            (&[23, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 7][..], Inspected::Record),
            (&[22, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 1], Inspected::Record),
            (&[22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 16], Inspected::Record),
            (&[21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 2, 40], Inspected::Record),
            (&[22, 3, 1, 0, 200, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Inspected::Nothing),
            (&[22, 0xFE, 0xFD, 0, 0], Inspected::Nothing),
            (&[22], Inspected::Nothing),
            (&[], Inspected::Nothing),
        ] {
            assert_eq!(inspect(datagram, CLIENT, 0), expected, "{datagram:?}");
        }
        let whole = hello(&[], &[0xC0, 0x2B]);
        for end in 14..whole.len() {
            assert_eq!(inspect(&whole[..end], CLIENT, 0), Inspected::Nothing, "cut at {end}");
        }
    }

    proptest! {
        /// Abuse S6, S17: whatever it is, no panic, and no answer longer than the question.
        #[test]
        fn s17_any_datagram_is_judged(
            at in 0..90_usize, flip in any::<u8>(), cookie in proptest::collection::vec(any::<u8>(), 0..40),
            rest in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut datagram = [hello(&cookie, &[0xC0, 0x2B]), rest].concat();
            if let Some(byte) = datagram.get_mut(at) {
                *byte ^= flip;
            }
            for end in 0..=datagram.len() {
                if let Inspected::Answer(answer) = inspect(&datagram[..end], CLIENT, 0) {
                    prop_assert!(answer.len() <= end);
                }
            }
        }
    }
}
