//! A table of stories of fixed size: so many entries, so many stories. When it is full, whoever's network has most in it
//! loses the oldest story, so that a flood pushes out itself.

use std::collections::HashMap;
use std::net::IpAddr;

use ahash::RandomState;

use super::entry::{Entry, What};
use crate::shard::Shown;
use crate::shard::privacy::prefix_len;
use crate::turn::{Now, RelayId, SessionId, Transport};

/// Entries of one story. Beyond, the oldest go, but for the first few, which say who it is.
pub(super) const ENTRIES_PER_STORY: u32 = 48;
const FIRST_KEPT: u32 = 4;
/// Stories there may be for each entry: one of four entries is a short one.
const ENTRIES_PER_STORY_MIN: usize = 4;
/// Networks are counted by a hash.
const BUCKETS: usize = 1024;
/// Stories looked at to find one that can go.
const SAMPLES: usize = 8;
const NONE: u32 = u32::MAX;

/// What goes on, or went on, between one client and the server.
#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) session: SessionId,
    pub(super) client: Shown,
    pub(super) transport: Transport,
    /// As it may be shown.
    pub(super) name: Option<Box<str>>,
    /// What it is found by, whatever may be shown.
    pub(super) name_hash: Option<u64>,
    /// Its relays that live.
    pub(super) relays: [Option<RelayId>; 2],
    pub(super) quiet: Quiet,
    pub(super) updated: Now,
    /// Entries that are gone.
    pub(super) omitted: u32,
    bucket: u16,
    first: u32,
    last: u32,
    count: u32,
}

/// What is known about data, by direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Quiet {
    pub(super) seen: [u64; 2],
    pub(super) since: [Now; 2],
    pub(super) told: [bool; 2],
}

/// Whose story it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) session: SessionId,
    pub(super) client: Shown,
    pub(super) ip: IpAddr,
    pub(super) transport: Transport,
}

#[derive(Debug)]
pub(super) struct Stories {
    entries: Vec<Entry>,
    free_entries: u32,
    entries_max: usize,
    stories: Vec<Option<Story>>,
    free_stories: Vec<u32>,
    stories_max: usize,
    by_session: HashMap<SessionId, u32, RandomState>,
    /// Entries by network.
    held: Vec<u32>,
    hashes: RandomState,
    dice: u64,
}

impl Stories {
    /// For so many entries; zero keeps nothing.
    pub(super) fn new(entries_max: usize, hashes: RandomState) -> Self {
        let dice = hashes.hash_one(0_u64) | 1;
        Self {
            entries: Vec::new(),
            free_entries: NONE,
            entries_max,
            stories: Vec::new(),
            free_stories: Vec::new(),
            stories_max: entries_max / ENTRIES_PER_STORY_MIN,
            by_session: HashMap::with_hasher(hashes.clone()),
            held: if entries_max == 0 { Vec::new() } else { vec![0; BUCKETS] },
            hashes,
            dice,
        }
    }

    pub(super) fn has(&self, session: SessionId) -> bool {
        self.by_session.contains_key(&session)
    }

    pub(super) fn get_mut(&mut self, session: SessionId) -> Option<&mut Story> {
        let place = *self.by_session.get(&session)?;
        self.stories[place as usize].as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Story> {
        self.stories.iter().flatten()
    }

    /// Places there are, taken or not.
    pub(super) fn places(&self) -> usize {
        self.stories.len()
    }

    pub(super) fn at_mut(&mut self, place: usize) -> Option<&mut Story> {
        self.stories.get_mut(place)?.as_mut()
    }

    /// The entries of a story, oldest first.
    pub(super) fn entries<'s>(&'s self, story: &Story) -> impl Iterator<Item = &'s Entry> {
        let mut next = story.first;
        std::iter::from_fn(move || {
            let entry = self.entries.get(next as usize)?;
            next = entry.next;
            Some(entry)
        })
    }

    /// Adds to a story, which begins with this if there is none.
    pub(super) fn add(&mut self, who: Who, at: Now, what: What) {
        if self.stories_max == 0 {
            return;
        }
        let place = match self.by_session.get(&who.session) {
            Some(place) => *place,
            None => self.begin(who, at),
        };
        let story = self.stories[place as usize].as_mut().expect("it is in the index");
        story.updated = at;
        if let Some(last) = self.entries.get_mut(story.last as usize)
            && last.what == what
        {
            last.times = last.times.saturating_add(1);
            last.for_secs = last.at.secs_until(at);
            return;
        }
        self.append(place, Entry { what, at, for_secs: 0, times: 1, next: NONE });
    }

    /// Takes a story out, with its entries.
    pub(super) fn take(&mut self, session: SessionId) -> Option<(Story, Vec<Entry>)> {
        let place = *self.by_session.get(&session)?;
        let story = self.stories[place as usize].clone()?;
        let entries = self.entries(&story).copied().collect();
        self.forget(place);
        Some((story, entries))
    }

    /// The same in another table, with a story that does not exist here.
    pub(super) fn put(&mut self, who: Who, story: &Story, entries: &[Entry]) {
        if self.stories_max == 0 {
            return;
        }
        let place = self.begin(who, story.updated);
        let new = self.stories[place as usize].as_mut().expect("begun");
        (new.name, new.name_hash, new.omitted) = (story.name.clone(), story.name_hash, story.omitted);
        for entry in entries {
            self.append(place, Entry { next: NONE, ..*entry });
        }
    }

    fn begin(&mut self, who: Who, at: Now) -> u32 {
        let Who { session, client, ip, transport } = who;
        let bucket = (self.hashes.hash_one(network(ip)) % BUCKETS as u64) as u16;
        let quiet = Quiet { since: [at; 2], ..Quiet::default() };
        let story = Story {
            session,
            client,
            transport,
            name: None,
            name_hash: None,
            relays: [None; 2],
            quiet,
            updated: at,
            omitted: 0,
            bucket,
            first: NONE,
            last: NONE,
            count: 0,
        };
        if self.free_stories.is_empty() && self.stories.len() >= self.stories_max {
            self.evict(NONE);
        }
        let place = match self.free_stories.pop() {
            Some(place) => {
                self.stories[place as usize] = Some(story);
                place
            }
            None => {
                self.stories.push(Some(story));
                (self.stories.len() - 1) as u32
            }
        };
        self.by_session.insert(session, place);
        place
    }

    fn append(&mut self, place: u32, entry: Entry) {
        let is_long = self.stories[place as usize].as_ref().is_some_and(|story| story.count >= ENTRIES_PER_STORY);
        if is_long {
            self.shorten(place);
        }
        let new = self.new_entry(place, entry);
        let story = self.stories[place as usize].as_mut().expect("only others are evicted");
        match self.entries.get_mut(story.last as usize) {
            Some(last) => last.next = new,
            None => story.first = new,
        }
        story.last = new;
        story.count += 1;
        self.held[usize::from(story.bucket)] += 1;
    }

    fn new_entry(&mut self, place: u32, entry: Entry) -> u32 {
        if self.free_entries == NONE {
            if self.entries.len() < self.entries_max {
                self.entries.push(entry);
                return (self.entries.len() - 1) as u32;
            }
            self.evict(place);
            if self.free_entries == NONE {
                // Nobody else has one.
                self.shorten(place);
            }
        }
        let free = self.free_entries;
        self.free_entries = self.entries[free as usize].next;
        self.entries[free as usize] = entry;
        free
    }

    /// Takes one entry out of a story: the oldest behind the first few.
    fn shorten(&mut self, place: u32) {
        let story = self.stories[place as usize].as_mut().expect("only called for one");
        let mut before = NONE;
        let mut gone = story.first;
        for _ in 0..FIRST_KEPT.min(story.count.saturating_sub(1)) {
            before = gone;
            gone = self.entries[gone as usize].next;
        }
        let next = self.entries[gone as usize].next;
        match self.entries.get_mut(before as usize) {
            Some(before) => before.next = next,
            None => story.first = next,
        }
        if story.last == gone {
            story.last = before;
        }
        story.count -= 1;
        story.omitted = story.omitted.saturating_add(1);
        self.held[usize::from(story.bucket)] -= 1;
        self.entries[gone as usize].next = self.free_entries;
        self.free_entries = gone;
    }

    /// Forgets a story, but not this one: of a few drawn at random one from the network with most entries, where one that is
    /// over counts twice, and of several the oldest.
    fn evict(&mut self, spared: u32) {
        let places = self.stories.len();
        let start = (self.roll() % places.max(1) as u64) as usize;
        let drawn: Vec<u32> = (0..SAMPLES).map(|_| (self.roll() % places as u64) as u32).collect();
        let walked = (start..places).chain(0..start).map(|place| place as u32);
        let weigh = |place: &u32| {
            let story = self.stories[*place as usize].as_ref()?;
            let is_over = story.relays == [None; 2];
            let weight = u64::from(self.held[usize::from(story.bucket)]) * if is_over { 2 } else { 1 };
            Some((*place, weight, std::cmp::Reverse(story.updated)))
        };
        let can_go = |place: &u32| *place != spared;
        let sampled = drawn.into_iter().filter(can_go).filter_map(|place| weigh(&place));
        let chosen = sampled.max_by_key(|(_, weight, age)| (*weight, *age)).map(|(place, ..)| place);
        let any = || walked.filter(can_go).find(|place| self.stories[*place as usize].is_some());
        if let Some(place) = chosen.or_else(any) {
            self.forget(place);
        }
    }

    fn forget(&mut self, place: u32) {
        let Some(story) = self.stories[place as usize].take() else { return };
        self.by_session.remove(&story.session);
        self.held[usize::from(story.bucket)] -= story.count;
        if let Some(last) = self.entries.get_mut(story.last as usize) {
            last.next = self.free_entries;
            self.free_entries = story.first;
        }
        self.free_stories.push(place);
    }

    /// xorshift: nothing depends on it but which of many stories goes.
    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice
    }

    /// Panics where the lists contradict each other or their bounds.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert!(self.entries.len() <= self.entries_max && self.stories.len() <= self.stories_max);
        assert!(self.entries.capacity() <= self.entries_max.next_power_of_two().max(4));
        let mut used = 0;
        for (place, story) in self.stories.iter().enumerate() {
            let Some(story) = story else { continue };
            let count = self.entries(story).count();
            assert_eq!(count, story.count as usize);
            assert!(count <= ENTRIES_PER_STORY as usize);
            assert_eq!(self.by_session.get(&story.session), Some(&(place as u32)));
            used += count;
        }
        assert_eq!(self.by_session.len() + self.free_stories.len(), self.stories.len());
        assert_eq!(self.held.iter().map(|held| *held as usize).sum::<usize>(), used);
        let mut free = 0;
        let mut next = self.free_entries;
        while next != NONE {
            free += 1;
            next = self.entries[next as usize].next;
        }
        assert_eq!(used + free, self.entries.len(), "an entry was lost");
    }
}

/// The network of a client, as a number.
fn network(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip) >> (32 - prefix_len(IpAddr::V4(ip)))) | 1 << 127,
        IpAddr::V6(ip) => u128::from(ip) >> (128 - prefix_len(IpAddr::V6(ip))),
    }
}
