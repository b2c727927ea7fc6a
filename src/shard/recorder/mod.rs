//! The flight recorder: what happened to each client, in few bytes, for whoever asks why a call failed.
//!
//! It hears the machine's events and nothing else, so that packets cost it nothing; only whether data flows is looked up now
//! and then, a slice of the stories at a time. Clients that have or had an allocation are kept apart from those that never
//! got one, whom anybody can make up: the latter cannot push out the former. Both tables are of fixed size. What may not be
//! shown is not kept either, but for hashes.

mod entry;
mod stories;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ahash::RandomState;

pub use self::entry::{Entry, What};
use self::stories::{Stories, Story, Who};
use super::Shown;
use super::privacy::Veil;
use crate::net::HandshakeFailure;
use crate::turn::{Clock, Direction, Event, FiveTuple, Now, RelayId, SessionId, Traffic, Transport};

/// Of the entries, one of so many is for clients that never had an allocation.
const STRANGERS_SHARE: usize = 4;
/// Stories looked at in one go for whether data flows.
const LOOKS: usize = 256;
/// How often each is looked at while it would have to be silent.
const LOOKS_PER_SILENCE: u64 = 3;
/// Stories in one answer of one table.
const FOUND_MAX: usize = 32;

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecorderSettings {
    /// Entries of each shard; zero switches the recorder off.
    pub events: usize,
    /// No data for so many seconds is worth an entry.
    pub silence_secs: u32,
}

impl Default for RecorderSettings {
    /// Off.
    fn default() -> Self {
        Self { events: 0, silence_secs: 30 }
    }
}

/// Whose story is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoryQuery {
    /// By its name in logs.
    Session(SessionId),
    /// Everybody's from this address.
    Client(IpAddr),
    /// By user name or account.
    User(String),
}

/// A story as it is told: without words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its name.
    pub session: SessionId,
    /// Where its client is, as it may be shown.
    pub client: Shown,
    /// How it comes.
    pub transport: Transport,
    /// The account, or whom the client claimed to be, as it may be shown.
    pub name: Option<String>,
    /// Whether it has an allocation now.
    pub is_live: bool,
    /// Entries that are gone; the first few are there, and the latest.
    pub omitted: u32,
    /// What happened, in order.
    pub entries: Vec<Entry>,
    /// When it was told: both clocks at the same moment.
    pub told: Clock,
}

/// One shard's.
#[derive(Debug)]
pub struct Recorder {
    settings: RecorderSettings,
    hashes: RandomState,
    sessions: Stories,
    strangers: Stories,
    /// Where to look next for data that flows, and when.
    at: usize,
    next_look: Now,
}

impl Recorder {
    /// Empty; `hashes` keeps clients from choosing who collides with whom.
    pub fn new(settings: RecorderSettings, hashes: RandomState) -> Self {
        let strangers = settings.events / STRANGERS_SHARE;
        Self {
            settings,
            sessions: Stories::new(settings.events - strangers, hashes.clone()),
            strangers: Stories::new(strangers, hashes.clone()),
            hashes,
            at: 0,
            next_look: Now::default(),
        }
    }

    /// Another size empties it.
    pub(super) fn configure(&mut self, settings: RecorderSettings) {
        if settings.events == self.settings.events {
            self.settings = settings;
        } else {
            *self = Self::new(settings, self.hashes.clone());
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.settings.events > 0
    }

    /// Takes in an event.
    pub fn note(&mut self, now: Now, veil: &Veil, event: &Event) {
        if !self.is_on() {
            return;
        }
        let session = event.session();
        let Some((path, what)) = retell(veil, event) else { return };
        let who = who(veil, session, &path);
        match event {
            Event::Challenged { .. } if self.sessions.has(session) => {}
            Event::Challenged { .. } => self.strangers.add(who, now, what),
            Event::AuthenticationFailed { claimed, .. } => {
                let table = self.table_of(session);
                table.add(who, now, what);
                name(table, session, veil, claimed.as_deref());
            }
            Event::RequestRefused { account, .. } => {
                let table = self.table_of(session);
                table.add(who, now, what);
                name(table, session, veil, account.as_deref());
            }
            Event::Allocated { relay, account, .. } => {
                if !self.sessions.has(session)
                    && let Some((story, entries)) = self.strangers.take(session)
                {
                    self.sessions.put(who, &story, &entries);
                }
                self.sessions.add(who, now, what);
                name(&mut self.sessions, session, veil, Some(account));
                self.add_relay(session, *relay, now);
            }
            Event::Ended { relay, account, .. } => {
                self.sessions.add(who, now, what);
                name(&mut self.sessions, session, veil, Some(account));
                if let Some(story) = self.sessions.get_mut(session) {
                    story.relays.iter_mut().filter(|held| **held == Some(*relay)).for_each(|held| *held = None);
                }
            }
            _ => self.sessions.add(who, now, what),
        }
    }

    fn table_of(&mut self, session: SessionId) -> &mut Stories {
        if self.sessions.has(session) { &mut self.sessions } else { &mut self.strangers }
    }

    fn add_relay(&mut self, session: SessionId, relay: RelayId, now: Now) {
        if let Some(story) = self.sessions.get_mut(session) {
            if let Some(place) = story.relays.iter_mut().find(|place| place.is_none()) {
                *place = Some(relay);
            }
            story.quiet = stories::Quiet { since: [now; 2], ..Default::default() };
        }
    }

    /// When [`Recorder::look`] wants to be called.
    pub(super) fn next_look(&self) -> Option<Now> {
        (self.sessions.places() > 0).then_some(self.next_look)
    }

    /// Looks at some stories for whether data flows, going by what each relay has relayed.
    pub fn look(&mut self, now: Now, mut traffic: impl FnMut(RelayId) -> Option<Traffic>) {
        let places = self.sessions.places();
        let rounds = (places.div_ceil(LOOKS) as u64).max(1);
        let silence = u64::from(self.settings.silence_secs) * 1_000_000_000;
        self.next_look = Now(now.0 + (silence / LOOKS_PER_SILENCE / rounds).max(1_000_000));
        for _ in 0..LOOKS.min(places) {
            self.at = if self.at + 1 < places { self.at + 1 } else { 0 };
            let Some(story) = self.sessions.at_mut(self.at).filter(|story| story.relays != [None; 2]) else { continue };
            let Some((session, what)) = listen(story, now, silence, &mut traffic) else { continue };
            // A story that exists needs no more than its name.
            let who = Who { session, client: story.client, ip: IpAddr::from([0, 0, 0, 0]), transport: story.transport };
            self.sessions.add(who, now, what);
        }
    }

    /// The shard has panicked: nobody has an allocation any more.
    pub(super) fn lose_all(&mut self, now: Now) {
        for place in 0..self.sessions.places() {
            let Some(story) = self.sessions.at_mut(place).filter(|story| story.relays != [None; 2]) else { continue };
            story.relays = [None; 2];
            let (session, client, transport) = (story.session, story.client, story.transport);
            let who = Who { session, client, ip: IpAddr::from([0, 0, 0, 0]), transport };
            self.sessions.add(who, now, What::Lost);
        }
    }

    /// The latest stories asked for, oldest first, a bounded number of them.
    pub(super) fn find(&self, clock: Clock, veil: &Veil, query: &StoryQuery) -> Vec<Told> {
        let mut found = tell(&self.strangers, clock, veil, query);
        found.extend(tell(&self.sessions, clock, veil, query));
        found
    }
}

/// Handshakes that failed, for which there is no shard yet.
#[derive(Debug)]
pub(super) struct Failures(Stories);

impl Failures {
    /// For so many entries.
    pub(super) fn new(events: usize, hashes: RandomState) -> Self {
        Self(Stories::new(events / STRANGERS_SHARE, hashes))
    }

    pub(super) fn note(&mut self, now: Now, veil: &Veil, path: &FiveTuple, why: HandshakeFailure) {
        let session = veil.key.id(path);
        self.0.add(who(veil, session, path), now, What::HandshakeFailed(why));
    }

    pub(super) fn find(&self, clock: Clock, veil: &Veil, query: &StoryQuery) -> Vec<Told> {
        tell(&self.0, clock, veil, query)
    }
}

fn who(veil: &Veil, session: SessionId, path: &FiveTuple) -> Who {
    Who { session, client: veil.address(path.client), ip: path.client.ip(), transport: path.transport }
}

fn name(table: &mut Stories, session: SessionId, veil: &Veil, name: Option<&str>) {
    if let (Some(story), Some(name)) = (table.get_mut(session), name) {
        let hash = Some(veil.name_hash(name));
        if story.name_hash != hash {
            story.name_hash = hash;
            story.name = Some(veil.name(name).into());
        }
    }
}

fn tell(table: &Stories, clock: Clock, veil: &Veil, query: &StoryQuery) -> Vec<Told> {
    let wanted = |story: &&Story| match query {
        StoryQuery::Session(session) => story.session == *session,
        StoryQuery::Client(ip) => story.client.without_port() == veil.ip(*ip),
        StoryQuery::User(name) => story.name_hash == Some(veil.name_hash(name)),
    };
    let mut found: Vec<&Story> = table.iter().filter(wanted).collect();
    found.sort_by_key(|story| story.updated);
    let skipped = found.len().saturating_sub(FOUND_MAX);
    let told = found.into_iter().skip(skipped).map(|story| Told {
        session: story.session,
        client: story.client,
        transport: story.transport,
        name: story.name.as_deref().map(str::to_owned),
        is_live: story.relays != [None; 2],
        omitted: story.omitted,
        entries: table.entries(story).copied().collect(),
        told: clock,
    });
    told.collect()
}

/// Whether a story has fallen silent, or speaks again.
fn listen(
    story: &mut Story,
    now: Now,
    silence: u64,
    traffic: &mut impl FnMut(RelayId) -> Option<Traffic>,
) -> Option<(SessionId, What)> {
    let mut seen = [0_u64; 2];
    for relayed in story.relays.iter().flatten().filter_map(|relay| traffic(*relay)) {
        seen[0] = seen[0].wrapping_add(relayed.packets_to_peer).wrapping_add(relayed.bytes_to_peer);
        seen[1] = seen[1].wrapping_add(relayed.packets_to_client).wrapping_add(relayed.bytes_to_client);
    }
    let quiet = &mut story.quiet;
    let (mut spoke, mut fell) = (false, [false; 2]);
    for place in 0..2 {
        if seen[place] != quiet.seen[place] {
            (quiet.seen[place], quiet.since[place]) = (seen[place], now);
            spoke |= std::mem::replace(&mut quiet.told[place], false);
        } else if !quiet.told[place] && now.0 - quiet.since[place].0 >= silence {
            quiet.told[place] = true;
            fell[place] = true;
        }
    }
    let secs = (silence / 1_000_000_000) as u32;
    let what = match fell {
        [false, false] if spoke => What::Resumed,
        [false, false] => return None,
        // One direction after the other is no data at all.
        _ if quiet.told == [true; 2] => What::Silent { direction: None, secs },
        [true, _] => What::Silent { direction: Some(Direction::ToPeer), secs },
        [_, true] => What::Silent { direction: Some(Direction::ToClient), secs },
    };
    Some((story.session, what))
}

/// An event as an entry.
fn retell(veil: &Veil, event: &Event) -> Option<(FiveTuple, What)> {
    let fits = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    Some(match event {
        Event::Challenged { path, .. } => (*path, What::Challenged),
        Event::AuthenticationFailed { path, why, .. } => (*path, What::AuthenticationFailed(*why)),
        Event::RequestRefused { path, method, code, limit, account, .. } => {
            let (method, code, limit) = (*method, *code, *limit);
            (*path, What::Refused { method, code, limit, is_authenticated: account.is_some() })
        }
        Event::Allocated { path, relayed, lifetime_secs, .. } => {
            (*path, What::Allocated { relayed: Shown::whole(*relayed), lifetime_secs: *lifetime_secs })
        }
        Event::Refreshed { path, lifetime_secs, .. } => (*path, What::Refreshed { lifetime_secs: *lifetime_secs }),
        Event::Permitted { path, peer, .. } => (*path, What::Permitted(veil.ip(*peer))),
        Event::ChannelBound { path, number, peer, .. } => {
            (*path, What::ChannelBound { number: number.get(), peer: veil.address(*peer) })
        }
        Event::PeerRefused { path, peer, why, .. } => {
            (*path, What::PeerRefused { peer: veil.address(*peer), why: *why })
        }
        Event::FirstData { path, direction, peer, .. } => {
            (*path, What::FirstData { direction: *direction, peer: veil.address(*peer) })
        }
        Event::DataDropped { path, direction, peer, why, .. } => {
            let peer = peer.map(|peer| veil.address(peer));
            (*path, What::DataDropped { direction: *direction, peer, why: *why })
        }
        Event::Moved { from, to, .. } => ((*to).or(*from)?, What::Moved(to.map(|to| veil.address(to.client)))),
        Event::PeerConnected { path, peer, is_incoming, .. } => {
            (*path, What::PeerConnected { peer: veil.address(*peer), is_incoming: *is_incoming })
        }
        Event::PeerDisconnected { path, peer, why, .. } => {
            (*path, What::PeerDisconnected { peer: veil.address(*peer), why: *why })
        }
        Event::Ended { path, why, traffic, unpermitted, .. } => {
            let packets = [fits(traffic.packets_to_peer), fits(traffic.packets_to_client)];
            (*path, What::Ended { why: *why, packets, unpermitted: *unpermitted })
        }
    })
}
