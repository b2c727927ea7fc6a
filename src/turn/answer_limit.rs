//! How much this server lets itself be made to say to people who never asked (STUN-8489-16.1.2-02; abuse S4, S5).
//!
//! Over UDP anybody can write anybody's address on a request, and the answer goes there. So answers to requests that are
//! not authenticated are counted by the prefix they would go to, and beyond so many a second they are not given. Nobody
//! with an allocation is counted, for he has shown that the address is his; nor is a stream or DTLS, whose handshake has.
//!
//! Two things must not happen. A flood with one prefix on it must not silence clients of another: each prefix has an
//! account of its own, and where there is no room for all of them, the one that has been answered least makes way. And a
//! flood with the prefix of a real client on it must not silence that client for good: it asks again, with the same
//! transaction id, which the flood does not; requests that were refused and come again have an account of their own.
//!
//! All of it lies in tables of fixed size, made at the start.

use std::net::IpAddr;

use super::{FiveTuple, Now, Transport};
use crate::stun::TransactionId;

/// Accounts of one shard; a power of two.
const ACCOUNTS: usize = 8192;
/// A prefix may have any of so many neighbouring accounts.
const WAYS: usize = 4;
/// A prefix that was quiet may be answered as often at once as otherwise in this time.
const BURST_SECS: u64 = 2;
/// Of requests that were refused and came again, one in so many of the rate is answered in addition.
const AGAIN_SHARE: u64 = 4;

/// Marks in each of the two halves of [`Refused`]; a power of two.
const MARKS: usize = 1 << 21;
/// Marks made for one request. With 100,000 refusals a second, one stranger in 500 then looks like somebody who asks
/// again.
const MARKS_EACH: u64 = 4;
/// A client asks again within a quarter of a second to one second (L18, F09), and is remembered one to two such times.
const REMEMBERED_NANOS: u64 = 1_000_000_000;

/// The accounts, and who was refused lately.
#[derive(Debug)]
pub(super) struct AnswerLimit {
    hashes: ahash::RandomState,
    accounts: Box<[Account]>,
    refused: Refused,
}

/// What one prefix has been given. Times are those at which it will have been paid back, so that an account that has
/// not been used for a while is as good as an empty one.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    prefix: u64,
    paid: Now,
    paid_again: Now,
}

impl AnswerLimit {
    /// `hashes` must not be known to those who choose prefixes.
    pub(super) fn new(hashes: ahash::RandomState) -> Self {
        Self { hashes, accounts: vec![Account::default(); ACCOUNTS].into(), refused: Refused::default() }
    }

    /// Whether to answer, when the shard may give `rate` answers a second to one prefix. Zero is no limit.
    pub(super) fn allows(&mut self, now: Now, rate: u32, path: &FiveTuple, transaction_id: TransactionId) -> bool {
        // Nobody outside can be made to hear what is sent to this machine itself.
        if rate == 0 || path.transport != Transport::Udp || path.client.ip().is_loopback() {
            return true;
        }
        let interval = 1_000_000_000 / u64::from(rate);
        let account = self.account(now, self.hashes.hash_one(prefix_of(path.client.ip())));
        if spend(&mut account.paid, now, interval) {
            return true;
        }
        let request = self.hashes.hash_one((path.client, transaction_id.0));
        if !self.refused.remembers(now, request) {
            self.refused.remember(request);
            return false;
        }
        let prefix = self.hashes.hash_one(prefix_of(path.client.ip()));
        spend(&mut self.account(now, prefix).paid_again, now, interval * AGAIN_SHARE)
    }

    /// Whether somebody from here, who has shown that the address is his, may have something looked up, when so many a
    /// second may for one prefix. Zero is no limit.
    pub(super) fn allows_look_up(&mut self, now: Now, rate: u32, client: IpAddr) -> bool {
        if rate == 0 {
            return true;
        }
        let account = self.account(now, self.hashes.hash_one(prefix_of(client)));
        spend(&mut account.paid, now, 1_000_000_000 / u64::from(rate))
    }

    /// The account of this prefix: the one it has, or the one that was used least.
    fn account(&mut self, now: Now, prefix: u64) -> &mut Account {
        let first = (prefix as usize) % (ACCOUNTS / WAYS) * WAYS;
        let ways = &mut self.accounts[first..first + WAYS];
        let place = ways.iter().position(|account| account.prefix == prefix).unwrap_or_else(|| {
            let (place, least) = ways.iter_mut().enumerate().min_by_key(|(_, account)| account.paid).expect("a few");
            *least = Account { prefix, paid: now, paid_again: now };
            place
        });
        &mut ways[place]
    }
}

/// Takes one answer from an account, if there is one.
fn spend(paid: &mut Now, now: Now, interval: u64) -> bool {
    let from = (*paid).max(now);
    let allowed = from.0 - now.0 <= BURST_SECS * 1_000_000_000 - interval.min(BURST_SECS * 1_000_000_000);
    if allowed {
        *paid = Now(from.0 + interval);
    }
    allowed
}

/// What belongs to one network: /24 and /56.
fn prefix_of(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        // A /56 leaves the top byte empty, so the two cannot meet.
        IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8) | u64::MAX << 24,
        IpAddr::V6(ip) => (u128::from(ip) >> 72) as u64,
    }
}

/// Requests that were refused lately: a set that may take a stranger for a member, and never a member for a stranger.
/// It has no memory until somebody is refused.
#[derive(Debug, Default)]
struct Refused {
    /// Since `turned`, and the time before that.
    halves: [Box<[u64]>; 2],
    turned: Now,
}

impl Refused {
    fn remembers(&mut self, now: Now, request: u64) -> bool {
        let age = now.0.saturating_sub(self.turned.0);
        if age >= REMEMBERED_NANOS {
            self.halves.swap(0, 1);
            let stale = if age >= 2 * REMEMBERED_NANOS { &mut self.halves[..] } else { &mut self.halves[..1] };
            stale.iter_mut().for_each(|half| half.fill(0));
            self.turned = now;
        }
        self.halves
            .iter()
            .any(|half| !half.is_empty() && marks(request).all(|mark| half[mark / 64] >> (mark % 64) & 1 == 1))
    }

    fn remember(&mut self, request: u64) {
        let half = &mut self.halves[0];
        if half.is_empty() {
            *half = vec![0; MARKS / 64].into();
        }
        marks(request).for_each(|mark| half[mark / 64] |= 1 << (mark % 64));
    }
}

fn marks(request: u64) -> impl Iterator<Item = usize> {
    let (first, step) = (request & 0xFFFF_FFFF, request >> 32 | 1);
    (0..MARKS_EACH).map(move |turn| (first + turn * step) as usize % MARKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limit() -> AnswerLimit {
        AnswerLimit::new(ahash::RandomState::with_seeds(1, 2, 3, 4))
    }

    fn path(client: &str) -> FiveTuple {
        let server = "203.0.113.1:3478".parse().unwrap();
        FiveTuple { transport: Transport::Udp, client: client.parse().unwrap(), server }
    }

    fn id(number: u64) -> TransactionId {
        let mut id = [0; 12];
        id[..8].copy_from_slice(&number.to_be_bytes());
        TransactionId(id)
    }

    /// STUN-8489-16.1.2-02, abuse S4: a million requests in ten seconds, all over one /24, each another one.
    #[test]
    fn stun_8489_16_1_2_02_a_prefix_is_answered_so_often_and_no_more() {
        for prefix in ["192.0.2", "2001:db8:1:100"] {
            let mut limit = limit();
            let answered = (0..1_000_000_u64)
                .filter(|number| {
                    let client = match prefix {
                        "192.0.2" => format!("192.0.2.{}:{}", number % 256, number % 60_000 + 1),
                        _ => format!("[2001:db8:1:1{:02x}::7]:{}", number % 256, number % 60_000 + 1),
                    };
                    limit.allows(Now(SECOND + number * 10_000), 500, &path(&client), id(*number))
                })
                .count();
            // Ten seconds, what a quiet prefix may have at once, and a quarter more for those who seem to ask again.
            assert!((6_000..=7_500).contains(&answered), "{answered} answers to {prefix}");
        }
    }

    /// Abuse S4: a real client within the flooded prefix asks again as browsers do, and is heard.
    #[test]
    fn s4_a_client_in_a_flooded_prefix_is_answered_when_it_asks_again() {
        let mut limit = limit();
        let mut heard = 0;
        let mut flood = 0_u64;
        for client in 0..20_u64 {
            let tries = [0, 250, 750, 1_750].map(|millis| (10 + client * 3) * SECOND + millis * 1_000_000);
            let mut is_heard = false;
            for at in tries {
                // 100,000 a second up to that moment.
                while flood * 10_000 < at {
                    flood += 1;
                    let spoofed = path(&format!("192.0.2.{}:{}", flood % 256, flood % 60_000 + 1));
                    limit.allows(Now(flood * 10_000), 500, &spoofed, id(flood));
                }
                is_heard |= limit.allows(Now(at), 500, &path("192.0.2.77:5000"), id(u64::MAX - client));
            }
            heard += u32::from(is_heard);
        }
        assert_eq!(heard, 20);
    }

    /// No shared accounts: who floods with every prefix there is does not silence one that asks now and then.
    #[test]
    fn s4_a_flood_of_other_prefixes_silences_nobody() {
        let mut limit = limit();
        for number in 0..2_000_000_u64 {
            let now = Now(number * 10_000);
            let other = u32::try_from(number.wrapping_mul(0x9E37_79B9) & 0xFFFF_FFFF).unwrap();
            let spoofed = FiveTuple { client: (std::net::Ipv4Addr::from(other), 9).into(), ..path("192.0.2.1:1") };
            limit.allows(now, 500, &spoofed, id(number));
            if number % 1_000 == 0 {
                assert!(limit.allows(now, 500, &path("198.51.100.7:5000"), id(u64::MAX - number)));
            }
        }
    }

    /// And it does not get around the limit: a prefix that has been answered a lot is not forgotten for strangers.
    #[test]
    fn s4_a_flood_of_other_prefixes_does_not_hide_a_victim() {
        let mut limit = limit();
        let mut answered = 0;
        for number in 0..2_000_000_u64 {
            let now = Now(SECOND + number * 5_000);
            let other = u32::try_from(number.wrapping_mul(0x9E37_79B9) & 0xFFFF_FFFF).unwrap();
            let victim = number % 2 == 0;
            let client = if victim { 0xC000_0200 } else { other };
            let spoofed = FiveTuple { client: (std::net::Ipv4Addr::from(client), 9).into(), ..path("192.0.2.1:1") };
            answered += u32::from(limit.allows(now, 500, &spoofed, id(number)) && victim);
        }
        assert!(answered <= 7_500, "{answered} answers in ten seconds");
    }

    #[test]
    fn who_is_not_counted() {
        let mut limit = limit();
        let tcp = FiveTuple { transport: Transport::Tcp, ..path("192.0.2.1:1000") };
        for number in 0..10_000 {
            assert!(limit.allows(Now(SECOND), 1, &tcp, id(number)));
            assert!(limit.allows(Now(SECOND), 1, &path("127.0.0.1:1000"), id(number)));
            assert!(limit.allows(Now(SECOND), 0, &path("192.0.2.1:1000"), id(number)));
        }
        assert_eq!(limit.refused.halves[0].len(), 0, "memory without a refusal");
    }
}
