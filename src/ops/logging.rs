//! Log lines on the standard error output, as text or JSON.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// Changes the least important level that is written.
#[derive(Debug)]
pub struct LogLevel(reload::Handle<LevelFilter, Registry>);

impl LogLevel {
    pub(super) fn set(&self, level: Level) {
        // It fails only when nobody writes lines any more.
        let _ = self.0.reload(LevelFilter::from(level));
    }

    /// `None` when nothing is written.
    pub(super) fn get(&self) -> Option<Level> {
        self.0.clone_current().and_then(|level| level.into_level())
    }
}

/// Sends log lines, those of panics included, where they belong. Only the first call in a process does anything.
pub fn install(log: Log) -> LogLevel {
    let (level, handle) = reload::Layer::new(LevelFilter::from(log.level));
    let registry = tracing_subscriber::registry().with(level);
    let lines = fmt::layer().with_writer(io::stderr);
    let installed = match log.format {
        LogFormat::Text => registry.with(lines.with_ansi(io::stderr().is_terminal())).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_current_span(false)).try_init(),
    };
    if installed.is_ok() {
        // A shard that panics is started again; the line about it must not break a stream of JSON.
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            tracing::error!(
                thread = thread.name().unwrap_or("?"),
                location = panic.location().map(tracing::field::display),
                message = panic.payload_as_str().unwrap_or("?"),
                "panic"
            );
        }));
    }
    LogLevel(handle)
}
