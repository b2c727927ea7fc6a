//! Sessions listed, and ended: by id, user, address or transport.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::info;

use super::Sources;
use super::access::Caller;
use super::answer::{Refusal, good};
use crate::shard::{Shards, TooManyQuestions};
use crate::turn::{self, EndReason, SessionFilter, Transport, WalkPlace};

/// Sessions in one answer, if nobody says, and at most.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;
/// The longest wait for a shard. They answer within milliseconds, and at worst within some rounds of their loop.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// Answer to a list.
#[derive(Serialize)]
pub(super) struct Page {
    pub sessions: Vec<Session>,
    /// For `after` of the next page; null behind the last.
    pub next: Option<String>,
}

/// One of them.
#[derive(Serialize)]
pub(super) struct Session {
    pub id: String,
    pub user: String,
    pub realm: String,
    pub username: String,
    pub transport: &'static str,
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub is_in_reach: bool,
    pub peer_transport: &'static str,
    pub relayed: Vec<Relayed>,
    pub age_seconds: u32,
    pub permissions: usize,
    pub channels: usize,
    pub peer_connections: usize,
}

/// One of its relayed addresses.
#[derive(Serialize)]
pub(super) struct Relayed {
    pub address: SocketAddr,
    pub lifetime_left_seconds: u32,
    pub packets_to_peer: u64,
    pub bytes_to_peer: u64,
    pub packets_to_client: u64,
    pub bytes_to_client: u64,
}

/// Answer to an end.
#[derive(Serialize)]
pub(super) struct Ended {
    /// How many there were.
    pub ended: usize,
    /// Threads that did not answer, because they had to start again or are overloaded; a second try reaches them.
    pub shards_without_answer: usize,
}

impl From<turn::Session> for Session {
    fn from(session: turn::Session) -> Self {
        let relayed = session.relayed.iter().map(|relay| Relayed {
            address: relay.address,
            lifetime_left_seconds: relay.lifetime_left_secs,
            packets_to_peer: relay.traffic.packets_to_peer,
            bytes_to_peer: relay.traffic.bytes_to_peer,
            packets_to_client: relay.traffic.packets_to_client,
            bytes_to_client: relay.traffic.bytes_to_client,
        });
        Self {
            id: session.id.to_string(),
            user: session.account.to_string(),
            realm: session.realm.to_string(),
            username: session.username.to_string(),
            transport: session.path.transport.label(),
            client: session.path.client,
            server: session.path.server,
            is_in_reach: session.is_in_reach,
            peer_transport: session.peer_transport.label(),
            relayed: relayed.collect(),
            age_seconds: session.age_secs,
            permissions: session.permissions,
            channels: session.channels,
            peer_connections: session.peer_connections,
        }
    }
}

/// What a query asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    filter: SessionFilter,
    limit: Option<usize>,
    after: Option<(u16, WalkPlace)>,
    all: bool,
}

impl Query {
    fn read(text: Option<&str>) -> Result<Self, Refusal> {
        let mut query = Self::default();
        for (key, value) in form_urlencoded::parse(text.unwrap_or_default().as_bytes()) {
            let wrong = |fix: &str| Refusal::bad(format!("query {key}"), "this cannot be understood", fix);
            match &*key {
                "id" => {
                    let id = value.parse().map_err(|_| wrong("write the 16 hexadecimal digits of a session id"))?;
                    query.filter.id = Some(id);
                }
                "user" => query.filter.user = Some(value.into_owned()),
                "realm" => query.filter.realm = Some(value.into_owned()),
                "client" => {
                    let prefix = value.parse().or_else(|_| value.parse::<IpAddr>().map(Into::into));
                    query.filter.client = Some(
                        prefix.map_err(|_| wrong("write an address or a prefix, like 192.0.2.1 or 192.0.2.0/24"))?,
                    );
                }
                "relayed" => {
                    let address = value.parse::<SocketAddr>().map(|address| (address.ip(), Some(address.port())));
                    let address = address.or_else(|_| value.parse::<IpAddr>().map(|ip| (ip, None)));
                    let (ip, port) =
                        address.map_err(|_| wrong("write an address, with or without port, like 203.0.113.5:50000"))?;
                    (query.filter.relayed_ip, query.filter.relayed_port) = (Some(ip), port);
                }
                "transport" => {
                    let known = Transport::ALL.into_iter().find(|transport| transport.label() == value);
                    query.filter.transport = Some(known.ok_or_else(|| wrong("write udp, tcp, tls or dtls"))?);
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
                    query.limit = Some(limit.ok_or_else(|| wrong("write a number from 1 to 1000"))?);
                }
                "after" => {
                    let place = value
                        .split_once('.')
                        .and_then(|(shard, place)| Some((shard.parse().ok()?, WalkPlace(place.parse().ok()?))));
                    query.after = Some(place.ok_or_else(|| wrong("take it from \"next\" of the page before"))?);
                }
                "all" if value == "true" => query.all = true,
                _ => {
                    return Err(wrong(
                        "the parameters are id, user, realm, client, relayed, transport, limit, after and all",
                    ));
                }
            }
        }
        Ok(query)
    }
}

/// Puts a question to shards and waits for the answer; `None` if there is none.
pub(super) async fn ask<T: Send + 'static>(
    sources: &Sources,
    put: impl FnOnce(&Shards, oneshot::Sender<T>) -> Result<(), TooManyQuestions>,
) -> Result<Option<T>, Refusal> {
    let (answer, answered) = oneshot::channel();
    match sources.shards.with(|shards| put(shards, answer)) {
        Some(Ok(())) => Ok(timeout(ANSWER_TIME_MAX, answered).await.ok().and_then(Result::ok)),
        Some(Err(TooManyQuestions)) => Err(Refusal::unavailable("too many questions wait for an answer", "ask again")),
        None => Err(Refusal::unavailable("the server is stopping", "start it again")),
    }
}

pub(super) async fn list(sources: &Sources, query: Option<&str>) -> Result<Response, Refusal> {
    let query = Query::read(query)?;
    if query.all {
        return Err(Refusal::bad("query all", "a list has pages", "use limit and after"));
    }
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    let count = sources.shards.with(Shards::count).unwrap_or_default();
    let (mut shard, mut from) = query.after.unwrap_or_default();
    let mut sessions = Vec::new();
    // One after the other, so that a page is no larger than was asked for.
    while shard < count && sessions.len() < limit {
        let filter = query.filter.clone();
        let room = limit - sessions.len();
        let page = ask(sources, |shards, answer| {
            shards.list_sessions(shard, filter, from, room, move |page| drop(answer.send(page)))
        });
        // A shard that has lost the question has lost its sessions, too.
        let page = page.await?.flatten().unwrap_or_default();
        sessions.extend(page.sessions.into_iter().map(Session::from));
        (shard, from) = match page.next {
            Some(place) => (shard, place),
            None => (shard + 1, WalkPlace::default()),
        };
    }
    let next = (shard < count).then(|| format!("{shard}.{}", from.0));
    Ok(good(&Page { sessions, next }))
}

pub(super) async fn end(sources: &Sources, query: Option<&str>, caller: Caller) -> Result<Response, Refusal> {
    let query = Query::read(query)?;
    if query.limit.is_some() || query.after.is_some() {
        return Err(Refusal::bad("query", "ending has no pages", "leave limit and after out"));
    }
    if (query.filter == SessionFilter::default()) != query.all {
        let fix = "say which by id, user, realm, client, relayed or transport, or write all=true alone";
        return Err(Refusal::bad("query", "it is not clear which sessions are to end", fix));
    }
    Ok(good(&end_all(sources, query.filter, caller).await?))
}

pub(super) async fn end_one(sources: &Sources, id: &str, caller: Caller) -> Result<Response, Refusal> {
    let wrong = |_| Refusal::bad("path id", "this is no session id", "write its 16 hexadecimal digits");
    let filter = SessionFilter { id: Some(id.parse().map_err(wrong)?), ..SessionFilter::default() };
    let ended = end_all(sources, filter, caller).await?;
    if ended.ended == 0 && ended.shards_without_answer == 0 {
        let fix = "look at /v1/sessions; it may have ended by itself";
        return Err(Refusal::new(StatusCode::NOT_FOUND, "path id", "there is no such session", fix));
    }
    Ok(good(&ended))
}

async fn end_all(sources: &Sources, filter: SessionFilter, caller: Caller) -> Result<Ended, Refusal> {
    let count = usize::from(sources.shards.with(Shards::count).unwrap_or_default());
    let ended = ask(sources, |shards, answer| {
        shards.end_sessions(filter, EndReason::Killed, move |ended| drop(answer.send(ended)))
    });
    let ended: Vec<usize> = ended.await?.unwrap_or_default();
    let result = Ended { ended: ended.iter().sum(), shards_without_answer: count - ended.len() };
    info!(event = "sessions_killed", ended = result.ended, by = ?caller);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_whole_or_refused() {
        let read = |text| Query::read(Some(text));
        let filter = read("user=a%25%27%22%0A%00b&client=192.0.2.1&relayed=203.0.113.5%3A50000&transport=tls").unwrap();
        assert_eq!(filter.filter.user.as_deref(), Some("a%'\"\n\0b"));
        assert_eq!(filter.filter.client.unwrap().to_string(), "192.0.2.1/32");
        assert_eq!((filter.filter.relayed_port, filter.filter.transport), (Some(50_000), Some(Transport::Tls)));
        assert_eq!(read("realm=shop.example").unwrap().filter.realm.as_deref(), Some("shop.example"));
        assert_eq!(read("after=1.350&limit=7").unwrap().after, Some((1, WalkPlace(350))));
        for (text, place) in [
            ("id=1", "query id"),
            ("client=x", "query client"),
            ("relayed=1", "query relayed"),
            ("transport=udp4", "query transport"),
            ("limit=0", "query limit"),
            ("limit=1001", "query limit"),
            ("after=1", "query after"),
            ("colour=red", "query colour"),
            ("all=yes", "query all"),
        ] {
            assert_eq!(read(text).unwrap_err().errors[0].place, place);
        }
    }
}
