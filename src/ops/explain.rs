//! Stories in words: what happened to a client, in order, and what usually causes it.

use std::net::IpAddr;

use serde::Serialize;

use crate::shard::{Entry, HandshakeFailure, Shown, StoryQuery, Told, What};
use crate::stun::{ErrorCode, Method};
use crate::turn::{ConnectionEnd, Direction, EndReason, PeerRefusal, Reason, Rejection, Transport};

/// Stories in one answer.
const STORIES_MAX: usize = 20;

/// What somebody wants to know: a session id, an address, or else a user.
#[must_use]
pub fn read_query(text: &str) -> StoryQuery {
    if let Ok(session) = text.parse() {
        return StoryQuery::Session(session);
    }
    match text.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => StoryQuery::Client(ip.to_canonical()),
        Err(_) => StoryQuery::User(text.to_owned()),
    }
}

/// The answer to one question.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Those that were active last come last.
    pub stories: Vec<Story>,
    /// Older ones that were left out.
    pub left_out: usize,
}

/// What happened to one client over one 5-tuple.
#[derive(Clone, Debug, Serialize)]
pub struct Story {
    /// Its name in logs.
    pub session: String,
    /// Where its client is.
    pub client: String,
    /// `udp`, `tcp`, `tls` or `dtls`.
    pub transport: &'static str,
    /// Who it is, or claims to be.
    pub user: Option<String>,
    /// Whether it has an allocation now.
    pub is_live: bool,
    /// All of it in one sentence.
    pub summary: String,
    /// Events that are not remembered any more, from the middle of the story.
    pub events_left_out: u32,
    /// In order.
    pub events: Vec<Event>,
    /// What usually causes this, and what to do.
    pub advice: Vec<String>,
}

/// One thing that happened, or several times in a row.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// The first time, UTC.
    pub time: String,
    /// The word for programs, as in logs.
    pub event: &'static str,
    /// How often.
    pub times: u32,
    /// Seconds from the first time to the last.
    pub for_seconds: u32,
    /// In words.
    pub words: String,
}

impl Explanation {
    /// Of what shards told. A user is called what he was asked for by, since whoever asks knows the name.
    pub fn new(query: &StoryQuery, told: Vec<Vec<Told>>) -> Self {
        let mut told: Vec<Told> = told.into_iter().flatten().collect();
        told.sort_by_key(|story| story.entries.last().map(|entry| entry.at));
        let left_out = told.len().saturating_sub(STORIES_MAX);
        let asked = match query {
            StoryQuery::User(name) => Some(name.as_str()),
            StoryQuery::Session(_) | StoryQuery::Client(_) => None,
        };
        Self { stories: told[left_out..].iter().map(|story| Story::new(asked, story)).collect(), left_out }
    }
}

impl Story {
    fn new(asked: Option<&str>, told: &Told) -> Self {
        let user = asked.map(str::to_owned).or_else(|| told.name.clone());
        let who = user.as_deref().unwrap_or("somebody");
        let mut summary = format!("{who} from {} over {}", told.client, told.transport.label());
        let is_news = |entry: &&Entry| {
            !matches!(entry.what, What::Challenged | What::Refreshed { .. }) || told.entries.len() == 1
        };
        let mut phrases = told.entries.iter().filter(is_news).map(|entry| phrase(entry, told.transport));
        summary.extend(phrases.next().map(|first| format!(" {first}")));
        phrases.for_each(|phrase| summary.push_str(&format!("; {phrase}")));
        let events = told.entries.iter().map(|entry| Event {
            time: time(told.told.unix_secs.saturating_sub(told.told.now.0.saturating_sub(entry.at.0) / 1_000_000_000)),
            event: entry.what.label(),
            times: entry.times,
            for_seconds: entry.for_secs,
            words: phrase(entry, told.transport),
        });
        Self {
            session: told.session.to_string(),
            client: told.client.to_string(),
            transport: told.transport.label(),
            user,
            is_live: told.is_live,
            events_left_out: told.omitted,
            events: events.collect(),
            advice: advice(told),
            summary,
        }
    }
}

fn phrase(entry: &Entry, transport: Transport) -> String {
    let text = words(&entry.what, transport);
    match entry.times {
        1 => text,
        times if entry.for_secs == 0 => format!("{text} ({times} times)"),
        times => format!("{text} ({times} times in {} s)", entry.for_secs),
    }
}

fn words(what: &What, transport: Transport) -> String {
    match *what {
        What::Challenged => "asked without credentials and was told to come with some".into(),
        What::AuthenticationFailed(why) => format!("failed authentication: {}", rejection(why)),
        What::Refused { method, code, limit, is_authenticated } => {
            let wanted = match method {
                Method::Allocate => "an allocation",
                Method::Refresh => "more time",
                Method::CreatePermission => "a permission",
                Method::ChannelBind => "a channel",
                Method::Connect => "a connection to a peer",
                _ => "an answer",
            };
            let who = if is_authenticated && method == Method::Allocate { "authenticated, " } else { "" };
            let why = match code {
                ErrorCode::AllocationQuotaReached => "quota reached",
                ErrorCode::InsufficientCapacity => "no capacity",
                ErrorCode::TryAlternate => "sent to another server",
                ErrorCode::AllocationMismatch if method == Method::Allocate => "it has one already",
                ErrorCode::AllocationMismatch => "it has no allocation (any more)",
                ErrorCode::WrongCredentials => "the allocation belongs to somebody else",
                ErrorCode::UnknownAttribute => "it asked for something unknown here",
                ErrorCode::BadRequest => "the request was malformed",
                ErrorCode::Forbidden => "forbidden",
                code => code.reason(),
            };
            let limit = limit.map(|limit| format!(", limits: {}", limit.label())).unwrap_or_default();
            format!("{who}was refused {wanted}: {why} ({}{limit})", code.number())
        }
        What::Allocated { relayed, lifetime_secs } => {
            format!("authenticated, allocated {relayed} for {lifetime_secs} s")
        }
        What::Refreshed { lifetime_secs } => format!("refreshed its allocation for {lifetime_secs} s"),
        What::Permitted(peer) => format!("got permission for {peer}"),
        What::ChannelBound { number, peer } => format!("bound channel {number:#06x} to {peer}"),
        What::PeerRefused { peer, why } => {
            format!("was refused permission to {}: {}", peer.without_port(), refusal(peer, why))
        }
        What::FirstData { direction: Direction::ToPeer, peer } => format!("sent its first data, to {peer}"),
        What::FirstData { direction: Direction::ToClient, peer } => format!("got its first data, from {peer}"),
        What::DataDropped { direction, peer, why } => {
            let peer = peer.map_or_else(|| "a peer".into(), |peer| peer.to_string());
            let data = match direction {
                Direction::ToPeer => format!("its data to {peer}"),
                Direction::ToClient => format!("data from {peer}"),
            };
            let why = match why {
                Reason::NoPermission => "no permission for that address",
                Reason::NoChannel => "that channel is not bound",
                Reason::PeerRefused => "policy keeps that port back",
                why => why.label(),
            };
            format!("{data} was dropped: {why}")
        }
        What::Silent { direction: None, secs } => format!("no data for {secs} s"),
        What::Silent { direction: Some(Direction::ToPeer), secs } => format!("no data from the client for {secs} s"),
        What::Silent { direction: Some(Direction::ToClient), secs } => format!("no data from any peer for {secs} s"),
        What::Resumed => "data flows again".into(),
        What::Moved(Some(to)) => format!("moved to {to}"),
        What::Moved(None) => "lost its connection, and may come back with its ticket".into(),
        What::PeerConnected { peer, is_incoming: true } => format!("{peer} connected to it"),
        What::PeerConnected { peer, is_incoming: false } => format!("was connected to {peer}"),
        What::PeerDisconnected { peer, why } => {
            let why = match why {
                ConnectionEnd::Closed => "closed",
                ConnectionEnd::NeverBound => "the client never took it up",
                ConnectionEnd::AllocationEnded => "the allocation ended",
                why => why.label(),
            };
            format!("the connection with {peer} ended: {why}")
        }
        What::HandshakeFailed(why) => {
            let name = if transport == Transport::Dtls { "DTLS" } else { "TLS" };
            format!("failed the {name} handshake: {}", handshake(why))
        }
        What::Ended { why, packets: [to_peer, to_client], .. } => {
            let why = match why {
                EndReason::Expired => "expired".into(),
                EndReason::Refreshed => "was ended by its client".into(),
                EndReason::PathClosed => "ended with its connection".into(),
                EndReason::Killed => "was ended by an operator".into(),
                other => format!("ended: {}", other.label().replace('_', " ")),
            };
            format!("{why}, after {to_peer} packets to peers and {to_client} to the client")
        }
        What::Lost => "was lost: this thread of the server had to start again".into(),
    }
}

fn rejection(why: Rejection) -> String {
    match why {
        Rejection::WrongPassword => "wrong password".into(),
        Rejection::ExpiredCredential => "the credential has expired".into(),
        Rejection::CredentialTooLong => "the credential is good for longer than allowed".into(),
        Rejection::UnknownUser => "there is no such user".into(),
        Rejection::WrongRealm => "another realm than ours".into(),
        Rejection::StaleNonce => "the nonce was too old, or for another address".into(),
        Rejection::WeakAlgorithm => "an algorithm that is not allowed here".into(),
        other => other.label().replace('_', " "),
    }
}

fn refusal(peer: Shown, why: PeerRefusal) -> String {
    match (why, peer.ip()) {
        (PeerRefusal::SpecialPurpose, Some(IpAddr::V4(ip))) if ip.is_private() => "private peer".into(),
        (PeerRefusal::SpecialPurpose, Some(ip)) if ip.is_loopback() => "loopback peer".into(),
        (PeerRefusal::SpecialPurpose, Some(IpAddr::V4(ip))) if ip.is_link_local() => "link-local peer".into(),
        (PeerRefusal::SpecialPurpose, Some(IpAddr::V6(ip))) if ip.is_unique_local() => "private peer".into(),
        (PeerRefusal::SpecialPurpose, Some(IpAddr::V6(ip))) if ip.is_unicast_link_local() => "link-local peer".into(),
        (PeerRefusal::SpecialPurpose, _) => "special-purpose address".into(),
        (PeerRefusal::Own, _) => "an address of this server".into(),
        (PeerRefusal::NotAllowed, _) => "no rule allows it".into(),
        (PeerRefusal::Denied, _) => "denied by the configuration".into(),
        (why, _) => why.label().replace('_', " "),
    }
}

const fn handshake(why: HandshakeFailure) -> &'static str {
    match why {
        HandshakeFailure::Timeout => "it took too long",
        HandshakeFailure::Closed => "the client went away",
        HandshakeFailure::NotTls => "what came is not TLS",
        HandshakeFailure::Version => "the client knows only versions before 1.2",
        HandshakeFailure::NothingInCommon => "no cipher suite, group or signature in common",
        HandshakeFailure::ApplicationProtocol => "the client wants another application protocol",
        HandshakeFailure::RefusedByClient => "the client refused, mostly the certificate",
        HandshakeFailure::Protocol => "the client broke the protocol",
    }
}

/// What usually causes what is in a story, each thing once.
fn advice(told: &Told) -> Vec<String> {
    let mut advice: Vec<String> = Vec::new();
    let has_data = |direction| {
        told.entries
            .iter()
            .any(|entry| matches!(entry.what, What::FirstData { direction: seen, .. } if seen == direction))
    };
    let is_all_challenged = told.entries.iter().all(|entry| entry.what == What::Challenged);
    for entry in &told.entries {
        let text = match entry.what {
            What::Challenged if is_all_challenged => {
                "The client did not come back with credentials: it has none, or our answer does not reach it (a firewall \
                 that lets requests in and answers not out)."
            }
            What::AuthenticationFailed(Rejection::WrongPassword) => {
                "The client's password is not ours for this name. Compare auth.secrets with what the web back end signs \
                 with, or auth.users with what the client was given; `hairpin credentials` makes a pair that is good."
            }
            What::AuthenticationFailed(Rejection::ExpiredCredential) => {
                "The client uses credentials from an earlier time. The web back end has to make new ones for each call, \
                 and the clocks of both machines have to agree."
            }
            What::AuthenticationFailed(Rejection::CredentialTooLong) => {
                "The web back end makes credentials for longer than auth.credential_lifetime_max."
            }
            What::AuthenticationFailed(Rejection::UnknownUser) => {
                "The name is neither in auth.users nor a time-limited one (1700000000:name)."
            }
            What::AuthenticationFailed(Rejection::WrongRealm) => {
                "The client was configured for another server, or kept the realm of an earlier auth.realm."
            }
            What::AuthenticationFailed(Rejection::StaleNonce) if entry.times > 2 => {
                "The client does not take up new nonces, or its address changes all the time."
            }
            What::Refused { code: ErrorCode::AllocationQuotaReached, .. } => {
                "This user has as many allocations as limits.allocations_per_user allows. A client that does not end its \
                 allocations holds them until they expire; `hairpin sessions` shows them."
            }
            What::Refused { code: ErrorCode::InsufficientCapacity, limit: Some(_), .. } => {
                "The server ran into the limit that is named; see its key in config.example.toml."
            }
            What::Refused { code: ErrorCode::InsufficientCapacity, limit: None, .. } => {
                "The server is draining, or has run out of ports or memory."
            }
            What::Refused { code: ErrorCode::AllocationMismatch, method, .. } if method != Method::Allocate => {
                "The client went on as if it had an allocation: it had expired, or the server was started again."
            }
            What::PeerRefused { why: PeerRefusal::SpecialPurpose, .. } => {
                "Usually harmless: browsers try every address of the other side, private ones too. If peers are to be \
                 reached at such addresses, name their network in peers.allow."
            }
            What::PeerRefused { .. } => "The peer policy forbids it; see [peers] in the configuration.",
            What::DataDropped { direction: Direction::ToClient, why: Reason::NoPermission, .. } => {
                "A peer sends from an address that the client has not asked for: its candidates have not arrived \
                 (signalling), or a NAT gives it another address than it knows."
            }
            What::DataDropped { direction: Direction::ToPeer, .. } => {
                "The client sends without asking first, or has let its permission (5 minutes) or channel (10 minutes) \
                 expire."
            }
            What::Silent { direction: Some(Direction::ToClient), .. } if has_data(Direction::ToPeer) => {
                "The client sends and no peer answers: the peer is gone or behind a firewall, or peers cannot reach the \
                 relay ports of this server; `hairpin probe` tells."
            }
            What::Silent { direction: None, .. } if !has_data(Direction::ToPeer) && !has_data(Direction::ToClient) => {
                "Neither side has ever sent anything: the call took another way, which is fine, or the candidates of one \
                 side never reached the other (signalling)."
            }
            What::Silent { direction: None, .. } => "Both sides have fallen silent: the call is over, or on hold.",
            What::HandshakeFailed(HandshakeFailure::RefusedByClient) => {
                "The client does not trust the certificate: its name is not the one in the URI, its chain is incomplete, \
                 or it has expired. `hairpin probe` looks at it as a client does."
            }
            What::HandshakeFailed(HandshakeFailure::NotTls) => {
                "Something else than TLS came to a TLS port: a `turn:` URI with the port of `turns:`, or a scanner."
            }
            What::HandshakeFailed(HandshakeFailure::Version | HandshakeFailure::NothingInCommon) => {
                "The client is too old for this server, or a scanner."
            }
            What::HandshakeFailed(HandshakeFailure::Timeout | HandshakeFailure::Closed) => {
                "The client or a firewall between gave up half-way, as scanners and health checks do."
            }
            What::Ended { why: EndReason::Expired, .. } => {
                "Its client stopped refreshing: it was closed without notice, or lost its network."
            }
            What::Lost => "This is a bug of the server; the log has a line shard_restarted about it.",
            _ => continue,
        };
        if !advice.iter().any(|known| known == text) {
            advice.push(text.to_owned());
        }
    }
    advice
}

/// Seconds since 1970 as RFC 3339 has them.
fn time(unix_secs: u64) -> String {
    let (days, secs) = (unix_secs / 86_400, unix_secs % 86_400);
    // Years begin in March, so that the leap day is the last; eras have 400 of them.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z", secs / 3600, secs / 60 % 60, secs % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::SessionId;

    #[test]
    fn times_are_dates() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(time(1_800_000_000), "2027-01-15T08:00:00Z");
    }

    #[test]
    fn questions_are_sessions_addresses_or_users() {
        assert_eq!(read_query("00000000deadbeef"), StoryQuery::Session(SessionId(0xDEAD_BEEF)));
        assert_eq!(read_query("192.0.2.1"), StoryQuery::Client("192.0.2.1".parse().unwrap()));
        assert_eq!(read_query("[2001:db8::1]"), StoryQuery::Client("2001:db8::1".parse().unwrap()));
        assert_eq!(read_query("deadbeef"), StoryQuery::User("deadbeef".into()));
    }
}
