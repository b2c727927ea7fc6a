//! Who may do what: tokens over TCP, the user's id over the Unix socket.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use tracing::warn;

use super::answer::Refusal;
use crate::config::{Admin, Token};

/// Wrong tokens from one address in a minute; then none is looked at any more, not even a good one.
const GUESSES_MAX: u32 = 10;
const GUESS_WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered for it; beyond, the oldest are forgotten.
const GUESSERS_MAX: usize = 1024;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Somebody over TCP.
    Address(IpAddr),
    /// Over the Unix socket: root, or the user that runs the server.
    Owner,
    /// Over the Unix socket: somebody else.
    Stranger,
}

/// What somebody must be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// Nothing in particular.
    Nothing,
    /// To read metrics.
    Metrics,
    /// To see sessions and to change things.
    Operate,
    /// To get credentials for others.
    MakeCredentials,
}

/// Whether this caller may do that.
///
/// # Errors
/// What he is told.
pub(super) fn check(
    right: Right,
    caller: Caller,
    headers: &HeaderMap,
    admin: &Admin,
    guesses: &Guesses,
) -> Result<(), Refusal> {
    let ip = match (right, caller) {
        (Right::Nothing, _) | (_, Caller::Owner) => return Ok(()),
        (_, Caller::Stranger) => {
            let what = "only root and the user that runs the server may use this socket";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "socket", what, "use sudo, or admin.listen with a token"));
        }
        (_, Caller::Address(ip)) => ip,
    };
    let (key, good): (&str, Vec<&Token>) = match right {
        Right::Nothing => return Ok(()),
        Right::Metrics if admin.metrics_token.is_none() => return Ok(()),
        // Who may do anything may read metrics, too.
        Right::Metrics => ("admin.metrics_token", admin.metrics_token.iter().chain(&admin.token).collect()),
        Right::Operate => ("admin.token", admin.token.iter().collect()),
        Right::MakeCredentials => ("admin.credentials_token", admin.credentials.token.iter().collect()),
    };
    if good.is_empty() {
        let fix = format!("set {key} in the configuration of the server, or use its Unix socket (admin.socket)");
        return Err(Refusal::new(StatusCode::FORBIDDEN, key, "the server has no token for this over TCP", fix));
    }
    if guesses.too_many(ip, Instant::now()) {
        let what = "too many wrong tokens came from this address";
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "authorization", what, "wait a minute"));
    }
    let fix = format!("send \"Authorization: Bearer TOKEN\" with the token of {key}");
    let Some(shown) = headers.get(AUTHORIZATION) else {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "authorization", "there is no token", fix));
    };
    if bearer(shown.as_bytes()).is_some_and(|shown| good.iter().any(|token| token.matches(shown))) {
        return Ok(());
    }
    guesses.count(ip, Instant::now());
    warn!(event = "admin_token_wrong", from = %ip, wanted = key);
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "authorization", "the token is wrong", fix))
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Wrong tokens by the address they came from.
#[derive(Debug, Default)]
pub(super) struct Guesses(Mutex<HashMap<IpAddr, Guesser>>);

#[derive(Clone, Copy, Debug)]
struct Guesser {
    since: Instant,
    wrong: u32,
}

impl Guesses {
    fn too_many(&self, ip: IpAddr, now: Instant) -> bool {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .get(&site(ip))
            .is_some_and(|guesser| now.duration_since(guesser.since) < GUESS_WINDOW && guesser.wrong >= GUESSES_MAX)
    }

    fn count(&self, ip: IpAddr, now: Instant) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let site = site(ip);
        if table.len() >= GUESSERS_MAX
            && !table.contains_key(&site)
            && let Some(oldest) = table.iter().min_by_key(|(_, guesser)| guesser.since).map(|(ip, _)| *ip)
        {
            table.remove(&oldest);
        }
        let guesser = table.entry(site).or_insert(Guesser { since: now, wrong: 0 });
        if now.duration_since(guesser.since) >= GUESS_WINDOW {
            *guesser = Guesser { since: now, wrong: 0 };
        }
        guesser.wrong += 1;
    }
}

/// An IPv4 address, or an IPv6 /64, of which one machine has all addresses.
fn site(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_are_counted_by_site_and_forgotten_after_a_minute() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for guess in 0..GUESSES_MAX {
            assert!(!guesses.too_many(ip("2001:db8::1"), start), "{guess}");
            guesses.count(ip(&format!("2001:db8::{guess}")), start);
        }
        assert!(guesses.too_many(ip("2001:db8::ffff"), start));
        assert!(!guesses.too_many(ip("2001:db8:0:1::1"), start) && !guesses.too_many(ip("192.0.2.1"), start));
        assert!(!guesses.too_many(ip("2001:db8::1"), start + GUESS_WINDOW));
        guesses.count(ip("2001:db8::1"), start + GUESS_WINDOW);
        assert!(!guesses.too_many(ip("2001:db8::1"), start + GUESS_WINDOW));
    }

    #[test]
    fn s20_the_table_of_guessers_is_bounded() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        for number in 0..3 * GUESSERS_MAX as u32 {
            let ip = IpAddr::V4(std::net::Ipv4Addr::from_bits(number));
            guesses.count(ip, start + Duration::from_millis(number.into()));
        }
        assert_eq!(guesses.0.lock().unwrap().len(), GUESSERS_MAX);
    }

    #[test]
    fn only_bearer_tokens_count() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc "), Some(&b"abc"[..]));
        for other in [&b""[..], b"Basic abc", b"abc", b"Bearer"] {
            assert_eq!(bearer(other), None);
        }
    }
}
