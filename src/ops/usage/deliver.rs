//! One task for each receiver: reads, delivers, acknowledges, and tries again for as long as it takes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::file::FileSink;
use super::reader::{Batch, read};
use super::spool::Spool;
use super::webhook::Webhook;
use crate::config::Usage as Settings;

/// Before the second attempt.
const RETRY_MIN: Duration = Duration::from_millis(200);

/// Where records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum SinkKind {
    /// A file.
    File,
    /// A web server.
    Webhook,
    /// A stream of Redis or Valkey.
    Redis,
}

impl SinkKind {
    /// In order of declaration.
    pub(in crate::ops) const ALL: [Self; 3] = [Self::File, Self::Webhook, Self::Redis];

    /// The word used in metrics and logs.
    pub(in crate::ops) const fn label(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Webhook => "webhook",
            Self::Redis => "redis",
        }
    }

    /// Where its place in the spool is kept.
    pub(super) fn cursor_file(self) -> String {
        format!("{}.cursor", self.label())
    }
}

/// Why a delivery failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// In words, without secrets.
    Refused(String),
    /// It was too much at once.
    TooLarge(String),
}

/// A receiver.
pub(super) enum Receiver {
    File(FileSink),
    Webhook(Webhook),
    #[cfg(feature = "redis")]
    Redis(super::redis::RedisSink),
}

impl Receiver {
    /// Those of the configuration.
    pub(super) fn kinds(settings: &Settings) -> Vec<SinkKind> {
        let is_wanted = |kind: &SinkKind| match kind {
            SinkKind::File => settings.file.is_some(),
            SinkKind::Webhook => settings.webhook.is_some(),
            SinkKind::Redis => settings.redis.is_some(),
        };
        SinkKind::ALL.into_iter().filter(is_wanted).collect()
    }

    fn new(kind: SinkKind, settings: &Settings) -> Result<Self, String> {
        match kind {
            SinkKind::File => Ok(Self::File(FileSink::new(settings.file.clone().expect("it is wanted")))),
            SinkKind::Webhook => Webhook::new(settings.webhook.clone().expect("it is wanted")).map(Self::Webhook),
            #[cfg(feature = "redis")]
            SinkKind::Redis => {
                super::redis::RedisSink::new(settings.redis.clone().expect("it is wanted")).map(Self::Redis)
            }
            #[cfg(not(feature = "redis"))]
            SinkKind::Redis => Err("this build has no Redis".to_owned()),
        }
    }

    async fn deliver(&mut self, records: Vec<Box<[u8]>>) -> Result<(), Failure> {
        match self {
            Self::File(file) => file.deliver(records).await.map_err(Failure::Refused),
            Self::Webhook(webhook) => webhook.deliver(records).await,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.deliver(records).await.map_err(Failure::Refused),
        }
    }

    fn reopen(&mut self) {
        if let Self::File(file) = self {
            file.reopen();
        }
    }
}

/// Delivers until it is dropped.
pub(super) async fn run<T>(kind: SinkKind, settings: Settings, spool: Arc<Spool>, mut reopen: watch::Receiver<T>) {
    let mut receiver = match Receiver::new(kind, &settings) {
        Ok(receiver) => receiver,
        Err(error) => return warn!(event = "usage_receiver_unusable", to = kind.label(), error),
    };
    let mut head = spool.head();
    let mut place = spool.place(kind);
    let mut most = settings.batch;
    let mut pause = RETRY_MIN;
    let mut is_failing = false;
    loop {
        if reopen.has_changed().unwrap_or(false) {
            reopen.mark_unchanged();
            receiver.reopen();
        }
        let end = *head.borrow_and_update();
        let batch = read_beside(Arc::clone(&spool), kind, (place, end), most).await;
        let delivered = match batch {
            Ok(batch) if batch.records.is_empty() => {
                place = batch.end;
                if place >= end && !wait_for_more(&mut head, &mut reopen).await {
                    return;
                }
                continue;
            }
            Ok(batch) => {
                let count = batch.records.len();
                receiver.deliver(batch.records).await.map(|()| (batch.end, count))
            }
            Err(error) => Err(Failure::Refused(format!("the spool cannot be read: {error}"))),
        };
        match delivered {
            Ok((end, count)) => {
                place = end;
                if let Err(error) = spool.acknowledge(kind, end, count as u64) {
                    // They will be delivered twice after a restart.
                    warn!(event = "usage_place_not_saved", to = kind.label(), %error);
                }
                if std::mem::take(&mut is_failing) {
                    info!(event = "usage_delivered_again", to = kind.label());
                }
                pause = RETRY_MIN;
                most = (most * 2).min(settings.batch);
            }
            Err(failure) => {
                spool.figures().failed(kind);
                let error = match failure {
                    Failure::TooLarge(error) if most > 1 => {
                        most /= 2;
                        error
                    }
                    Failure::TooLarge(error) | Failure::Refused(error) => error,
                };
                // Once, until it has worked again; the metrics tell how often.
                if !std::mem::replace(&mut is_failing, true) {
                    warn!(event = "usage_not_delivered", to = kind.label(), error, "it is tried again");
                }
                sleep(pause).await;
                pause = (pause * 2).min(settings.retry_max);
            }
        }
    }
}

/// Whether there is anything to come.
async fn wait_for_more<T>(head: &mut watch::Receiver<super::spool::Cursor>, reopen: &mut watch::Receiver<T>) -> bool {
    tokio::select! {
        more = head.changed() => more.is_ok(),
        // Marked as seen by whoever asks whether it has changed.
        changed = wait_unseen(reopen) => changed,
    }
}

async fn wait_unseen<T>(reopen: &mut watch::Receiver<T>) -> bool {
    let is_there = reopen.changed().await.is_ok();
    if is_there {
        reopen.mark_changed();
        return true;
    }
    // The server is stopping; what is left is delivered meanwhile.
    std::future::pending().await
}

/// Files are read where waiting for the disk holds up nobody.
async fn read_beside(
    spool: Arc<Spool>,
    kind: SinkKind,
    (from, head): (super::spool::Cursor, super::spool::Cursor),
    most: usize,
) -> std::io::Result<Batch> {
    let read = move || read(&spool, kind, from, head, most);
    tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other)?
}
