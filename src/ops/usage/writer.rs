//! The thread that makes records of what shards tell, and appends them to the spool.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use tracing::warn;

use super::figures::{Drop, Figures};
use super::journal::Journal;
use super::record::{Kind, Record, ends, unix_ms};
use super::sessions::{Sessions, stop_record};
use crate::config::Usage as Settings;
use crate::ops::run::SharedShards;
use crate::shard::SessionsPage;
use crate::turn::{Event, SessionFilter, WalkPlace};

/// Messages written at once.
const MESSAGES_MAX: usize = 4_096;
/// Sessions asked for at once.
const PAGE: usize = 500;
/// The longest rest; what has been dropped is noticed after it.
const REST_MAX: Duration = Duration::from_secs(2);
/// A shard that has not answered by now will not.
const LOOK_TIME_MAX: Duration = Duration::from_secs(30);
/// Between two looks for what was dropped; two find all.
const SEARCH_EVERY: Duration = Duration::from_secs(3);
/// At most one line in the log in this time about a spool that cannot be written.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What the thread is told, in the order of each shard.
pub(super) enum Message {
    Event {
        shard: u16,
        event: Event,
        at: u64,
    },
    Restarted {
        shard: u16,
        at: u64,
    },
    /// A part of a look through a shard; none if the shard has lost the question.
    Page {
        look: u64,
        page: Option<SessionsPage>,
    },
    /// No shard is left to tell anything.
    Close,
}

/// A look through all allocations, one shard after the other.
struct Look {
    number: u64,
    shard: u16,
    /// It is also the time for interim records.
    interim: bool,
    asked: Instant,
}

pub(super) struct Writer {
    journal: Journal,
    sessions: Sessions,
    figures: Arc<Figures>,
    shards: SharedShards,
    shard_count: u16,
    /// For pages.
    sender: SyncSender<Message>,
    interim: Option<Duration>,
    sync: Duration,
    look: Option<Look>,
    looks: u64,
    next_interim: Option<Instant>,
    /// Looks still to come for what was dropped, and when.
    searches: u32,
    next_search: Instant,
    lost: u64,
    synced: Instant,
    warned: Option<Instant>,
    lines: Vec<u8>,
    counts: [u64; Kind::WRITTEN.len()],
}

impl Writer {
    pub(super) fn new(
        settings: &Settings,
        journal: Journal,
        figures: Arc<Figures>,
        shards: SharedShards,
        sender: SyncSender<Message>,
    ) -> Self {
        let shard_count = shards.with(crate::shard::Shards::count).unwrap_or_default();
        let now = Instant::now();
        Self {
            journal,
            sessions: Sessions::new(shard_count, settings.client_addresses),
            figures,
            shards,
            shard_count,
            sender,
            interim: settings.interim,
            sync: settings.sync,
            look: None,
            looks: 0,
            next_interim: settings.interim.map(|interim| now + interim),
            searches: 0,
            next_search: now,
            lost: 0,
            synced: now,
            warned: None,
            lines: Vec::new(),
            counts: Default::default(),
        }
    }

    /// Runs until it is told to close. `unfinished` is what a former server has left alive.
    pub(super) fn run(mut self, messages: &Receiver<Message>, unfinished: Vec<Record>) {
        let at = unix_ms();
        for mut record in unfinished {
            stop_record(&mut record, at, ends::SERVER);
            self.write(&record);
        }
        self.flush();
        let mut is_open = true;
        while is_open {
            match messages.recv_timeout(self.rest()) {
                Ok(message) => {
                    is_open = self.hear(message);
                    for message in messages.try_iter().take(MESSAGES_MAX) {
                        is_open &= self.hear(message);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => is_open = false,
            }
            self.on_time();
            self.flush();
        }
        // Shards that ended well have told of every end.
        self.collect(|sessions, write| sessions.end_all(unix_ms(), write));
        self.flush();
        let synced = self.journal.sync();
        self.judge(synced, 0);
    }

    /// Whether more may come.
    fn hear(&mut self, message: Message) -> bool {
        match message {
            Message::Event { shard, event, at } => {
                self.collect(|sessions, write| sessions.hear(shard, &event, at, write));
            }
            Message::Restarted { shard, at } => {
                self.collect(|sessions, write| sessions.shard_restarted(shard, at, write));
            }
            Message::Page { look, page } => self.see(look, page),
            Message::Close => return false,
        }
        true
    }

    /// What sessions have to write goes to the lines.
    fn collect(&mut self, act: impl FnOnce(&mut Sessions, &mut dyn FnMut(&Record))) {
        let Self { sessions, lines, counts, .. } = self;
        act(sessions, &mut |record| write(lines, counts, record));
    }

    fn write(&mut self, record: &Record) {
        write(&mut self.lines, &mut self.counts, record);
    }

    /// How long there is nothing to do unless somebody tells something.
    fn rest(&self) -> Duration {
        let now = Instant::now();
        let until = |due: Instant| due.saturating_duration_since(now);
        let sync = self.journal.is_dirty().then(|| until(self.synced + self.sync));
        let interim = self.next_interim.filter(|_| self.look.is_none()).map(until);
        [sync, interim].into_iter().flatten().fold(REST_MAX, Duration::min)
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        let lost = self.figures.lost();
        if std::mem::replace(&mut self.lost, lost) != lost {
            // An end that was dropped shows in the second look after the one that may be under way.
            self.searches = 3;
            self.complain(now, "more allocations begin and end than can be written", None);
        }
        if self.look.as_ref().is_some_and(|look| now > look.asked + LOOK_TIME_MAX) {
            self.give_up_look();
        }
        if self.look.is_some() {
            return;
        }
        if self.next_interim.is_some_and(|due| due <= now) {
            self.next_interim = self.interim.map(|interim| now + interim);
            self.begin_look(true);
        } else if self.searches > 0 && self.next_search <= now {
            self.begin_look(false);
        }
    }

    fn begin_look(&mut self, interim: bool) {
        self.searches = self.searches.saturating_sub(1);
        self.next_search = Instant::now() + SEARCH_EVERY;
        self.look_through(0, interim);
    }

    fn look_through(&mut self, shard: u16, interim: bool) {
        if shard == self.shard_count {
            self.look = None;
            return;
        }
        self.looks += 1;
        self.sessions.begin_look(shard);
        self.look = Some(Look { number: self.looks, shard, interim, asked: Instant::now() });
        self.ask(shard, WalkPlace::default());
    }

    fn ask(&mut self, shard: u16, from: WalkPlace) {
        let sender = self.sender.clone();
        let look = self.looks;
        // Called on the shard's thread, so that it comes between what the shard told before and what it tells after.
        let then = move |page| drop(sender.try_send(Message::Page { look, page }));
        let asked = self.shards.with(|shards| shards.list_sessions(shard, SessionFilter::default(), from, PAGE, then));
        if !matches!(asked, Some(Ok(()))) {
            self.give_up_look();
        }
    }

    fn give_up_look(&mut self) {
        self.look = None;
        self.sessions.give_up_look();
    }

    fn see(&mut self, number: u64, page: Option<SessionsPage>) {
        let Some(look) = self.look.as_mut().filter(|look| look.number == number) else { return };
        look.asked = Instant::now();
        let (shard, interim) = (look.shard, look.interim);
        let at = unix_ms();
        let Some(page) = page else {
            // It has panicked, and nothing of what it had is left.
            self.sessions.give_up_look();
            return self.look_through(shard + 1, interim);
        };
        self.collect(|sessions, write| sessions.see(shard, &page, interim, at, write));
        match page.next {
            Some(next) => self.ask(shard, next),
            None => {
                self.collect(|sessions, write| sessions.end_look(shard, at, write));
                self.look_through(shard + 1, interim);
            }
        }
    }

    /// Appends what there is, and lets the disk have it in time.
    fn flush(&mut self) {
        if !self.lines.is_empty() {
            let lines = std::mem::take(&mut self.lines);
            let counts = std::mem::take(&mut self.counts);
            let records = counts.iter().sum();
            let appended = self.journal.append(&lines, records);
            if appended.is_ok() {
                for (kind, count) in Kind::WRITTEN.into_iter().zip(counts) {
                    self.figures.written(kind, count);
                }
            }
            self.judge(appended, records);
            self.lines = lines;
            self.lines.clear();
            self.lines.shrink_to(1 << 20);
        }
        if self.journal.is_full() {
            let mut checkpoint = Vec::new();
            self.sessions.checkpoint(&mut checkpoint);
            let begun = self.journal.begin_file(&checkpoint);
            self.judge(begun, 0);
        }
        if self.journal.is_dirty() && self.synced.elapsed() >= self.sync {
            self.synced = Instant::now();
            let synced = self.journal.sync();
            self.judge(synced, 0);
        }
    }

    fn judge(&mut self, result: io::Result<()>, records: u64) {
        if let Err(error) = result {
            self.figures.dropped(Drop::SpoolError, records);
            self.complain(Instant::now(), "the spool cannot be written", Some(&error));
        }
    }

    fn complain(&mut self, now: Instant, what: &str, error: Option<&io::Error>) {
        if self.warned.is_none_or(|warned| now > warned + WARN_EVERY) {
            self.warned = Some(now);
            let error = error.map(ToString::to_string);
            warn!(event = "usage_dropped", error, "{what}: see hairpin_usage_records_dropped_total");
        }
    }
}

fn write(lines: &mut Vec<u8>, counts: &mut [u64; Kind::WRITTEN.len()], record: &Record) {
    record.write(lines);
    if let Some(place) = Kind::WRITTEN.iter().position(|kind| *kind == record.kind) {
        counts[place] += 1;
    }
}
