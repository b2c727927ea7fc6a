//! Usage records: who relayed how much from when to when, told at least once to whoever keeps account.
//!
//! Shards tell of beginnings and ends through a bounded queue (`shard/usage.rs`), and never wait for it. One thread takes
//! them from there, makes records and appends them to a spool of files; a task for each receiver reads the spool from
//! where it has come to, and moves on when the receiver has what it was given. So neither a receiver that is away nor
//! a restart on either side loses a record, and a receiver may get one twice: records have ids. Where a promise cannot be
//! kept, because the queue or the spool is full, that is counted.
//!
//! Reading order: `record.rs`, `sessions.rs` (from what shards tell to records), `writer.rs` (the thread), `journal.rs`
//! (what it appends to), `spool.rs` (what it shares with readers), `reader.rs`, `deliver.rs` and the receivers: `file.rs`,
//! `webhook.rs`, `redis.rs`. `figures.rs` is what metrics show.

mod deliver;
mod figures;
mod file;
mod journal;
mod reader;
mod record;
#[cfg(feature = "redis")]
mod redis;
mod sessions;
mod spool;
#[cfg(test)]
mod tests;
mod webhook;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use self::deliver::{Receiver as Sink, SinkKind};
use self::journal::Journal;
use self::spool::Spool;
use self::writer::{Message, Writer};
use super::run::SharedShards;
use crate::config::Usage as Settings;
use crate::shard::{Accountant, Tidings};
use crate::turn::Event;

pub(super) use self::figures::{Drop, Figures};
pub(super) use self::record::Kind;

/// For the last records, once all allocations have ended. What is not delivered then is at the next start.
const LAST_DELIVERY: Duration = Duration::from_secs(3);
/// For the thread, likewise.
const LAST_WRITING: Duration = Duration::from_secs(5);

/// What is there before shards are: the queue.
pub(super) struct Queue {
    settings: Settings,
    sender: SyncSender<Message>,
    receiver: Receiver<Message>,
    figures: Arc<Figures>,
}

/// A running account.
pub(super) struct Account {
    thread: JoinHandle<()>,
    sender: SyncSender<Message>,
    finished: watch::Receiver<bool>,
    spool: Arc<Spool>,
}

impl Queue {
    /// Nothing is opened yet.
    pub(super) fn new(settings: Settings, figures: Arc<Figures>) -> Self {
        let (sender, receiver) = sync_channel(settings.queue);
        Self { settings, sender, receiver, figures }
    }

    /// For the shards.
    pub(super) fn accountant(&self) -> Accountant {
        let (sender, figures) = (self.sender.clone(), Arc::clone(&self.figures));
        Accountant::new(move |shard, tidings| {
            let message = match tidings {
                Tidings::Event(event @ (Event::Allocated { .. } | Event::Ended { .. })) => {
                    Message::Event { shard, event: event.clone(), at: record::unix_ms() }
                }
                Tidings::Restarted => Message::Restarted { shard, at: record::unix_ms() },
                Tidings::Event(_) => return,
            };
            if sender.try_send(message).is_err() {
                figures.dropped(Drop::QueueFull, 1);
            }
        })
    }

    /// Opens the spool and begins to write and to deliver. `reopen` changes when the configuration is read again.
    ///
    /// # Errors
    /// The spool cannot be used, or another server uses it.
    pub(super) fn open<T: Send + Sync + 'static>(
        self,
        shards: SharedShards,
        reopen: &watch::Sender<T>,
    ) -> io::Result<Account> {
        let Self { settings, sender, receiver, figures } = self;
        let kinds = Sink::kinds(&settings);
        let (journal, live) = Journal::open(&settings, &kinds, Arc::clone(&figures))?;
        let spool = journal.spool();
        info!(
            event = "usage_records",
            spool = %settings.spool.display(),
            waiting = spool.waiting_max(),
            unfinished = live.len(),
            to = kinds.iter().map(|kind| kind.label()).collect::<Vec<_>>().join(" "),
        );
        let (finish, finished) = watch::channel(false);
        let writer = Writer::new(&settings, journal, figures, shards, sender.clone());
        let thread = std::thread::Builder::new().name("hairpin-usage".into()).spawn(move || {
            writer.run(&receiver, live);
            finish.send_replace(true);
        })?;
        for kind in kinds {
            tokio::spawn(deliver::run(kind, settings.clone(), Arc::clone(&spool), reopen.subscribe()));
        }
        Ok(Account { thread, sender, finished, spool })
    }
}

impl Account {
    /// To be called when no shard is left: writes what they have told last, and gives receivers a moment to take it.
    pub(super) async fn close(mut self) {
        let Self { sender, finished, .. } = &mut self;
        let written = async {
            // A full queue is being emptied.
            while sender.try_send(Message::Close).is_err() && !*finished.borrow() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            finished.wait_for(|finished| *finished).await.is_ok()
        };
        if tokio::time::timeout(LAST_WRITING, written).await.is_err() {
            warn!(event = "usage_unfinished", "the last usage records could not be written in time");
            return;
        }
        let _ = self.thread.join();
        let delivered = async {
            while self.spool.waiting_max() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(LAST_DELIVERY, delivered).await.is_err() {
            let waiting = self.spool.waiting_max();
            info!(event = "usage_waiting", waiting, "what has not been delivered will be after the next start");
        }
    }
}

/// What ends up as a label.
pub(super) const SINKS: [SinkKind; 3] = SinkKind::ALL;
