//! SIGTERM and SIGINT: the first asks for an orderly end, the second for an immediate one. SIGHUP: the configuration is to
//! be read again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Installed once, before anything is started, so that no request to stop is lost.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// The name of the signal.
    Stop(&'static str),
    Reload,
}

impl Signals {
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Wish::Stop("SIGINT"),
            _ = self.hang_up.recv() => Wish::Reload,
        }
    }

    /// Waits for the next that asks to stop; its name.
    pub async fn stop(&mut self) -> &'static str {
        loop {
            match self.next().await {
                Wish::Stop(name) => return name,
                Wish::Reload => tracing::warn!(event = "reload_refused", "the server is stopping"),
            }
        }
    }
}
