//! Log lines on the standard error output, as text or JSON.

use std::io::{self, IsTerminal};

use tracing_subscriber::fmt;

use crate::config::{Log, LogFormat};

/// Sends log lines, those of panics included, where they belong. Only the first call in a process does anything.
pub fn install(log: Log) {
    let lines = fmt().with_max_level(log.level).with_writer(io::stderr);
    let installed = match log.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
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
}
