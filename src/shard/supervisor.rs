//! The thread of a shard: keeps what outlives a panic, and starts a new server after one.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use mio::Poll;
use tracing::error;

use super::counters::{ShellCounters, Slot};
use super::directory::Directory;
use super::keys::FindKey;
use super::listeners::Listeners;
use super::mailbox::{Command, Mailbox};
use super::offload::Mirrors;
use super::privacy::{Privacy, Veil};
use super::reactor::Shard;
use super::record::Lines;
use super::recorder::{Recorder, RecorderSettings};
use super::{Accountant, Proxies, Settings, Tidings, handshakes};
use crate::net::{ReceiveBatch, clock};
use crate::turn::{self, ShardIndex};

/// Everything of a shard that outlives its server.
pub(super) struct Home {
    pub(super) place: ShardIndex,
    pub(super) poll: Poll,
    pub(super) listeners: Listeners,
    /// Of all shards.
    pub(super) mailboxes: Arc<[Mailbox]>,
    /// Of all shards.
    pub(super) slots: Arc<[Slot]>,
    pub(super) directory: Arc<Directory>,
    pub(super) batch: ReceiveBatch,
    pub(super) bounds: Bounds,
    pub(super) proxies: Proxies,
    /// Where handshakes take place, if anybody has to begin with one.
    pub(super) handshakes: Option<Arc<handshakes::Shared>>,
    /// How long one may take.
    #[cfg_attr(not(feature = "dtls"), expect(dead_code, reason = "only DTLS needs it"))]
    pub(super) handshake_secs: u32,
    /// Whom the machine has keys looked up by.
    pub(super) find_key: FindKey,
    /// The latest, for the next server.
    pub(super) config: Arc<turn::Config>,
    pub(super) is_draining: bool,
    /// Who mirrors flows, if anybody does.
    pub(super) mirrors: Option<Mirrors>,
    pub(super) counters: ShellCounters,
    pub(super) recorder: Recorder,
    /// In the log.
    pub(super) lines: Lines,
    /// What servers that panicked had counted.
    pub(super) earlier: turn::Counters,
    /// Who keeps account of what allocations relay, if anybody does.
    pub(super) accountant: Option<Accountant>,
}

/// Sizes that shards need and machines do not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) relay_socket_buffer_bytes: usize,
    pub(super) coalesce: Duration,
    pub(super) coalesce_streams: Duration,
    pub(super) send_buffer_bytes: usize,
    pub(super) idle_secs: u32,
    pub(super) peer_connections: usize,
    pub(super) privacy: Privacy,
    pub(super) stranger_lines_per_sec: usize,
    pub(super) recorder: RecorderSettings,
}

impl Home {
    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.mailboxes[usize::from(self.place.index)]
    }

    pub(super) fn slot(&self) -> &Slot {
        &self.slots[usize::from(self.place.index)]
    }

    /// Takes new settings.
    pub(super) fn set_bounds(&mut self, config: Arc<turn::Config>, bounds: Bounds) {
        self.lines.limit(bounds.stranger_lines_per_sec);
        (self.config, self.bounds) = (config, bounds);
    }

    /// What may be shown of clients.
    pub(super) fn veil(&self) -> Veil {
        Veil { privacy: self.bounds.privacy, key: self.config.session_key }
    }

    /// The same, if there is room in the log for a line about strangers.
    pub(super) fn room_for_line(&mut self, now: turn::Now) -> Option<Veil> {
        let has_room = tracing::enabled!(tracing::Level::DEBUG) && self.lines.has_room(now);
        has_room.then(|| self.veil())
    }

    /// Where datagrams are relayed before they reach a socket, they must not be merged before that.
    pub(super) fn set_mirrors(&mut self, mirrors: Option<Mirrors>) {
        self.batch.let_merge(mirrors.is_none());
        self.mirrors = mirrors;
    }

    /// Takes commands while there is no server to give them to; whether to shut down.
    fn obey_without_server(&mut self) -> bool {
        while let Some(command) = self.mailbox().next_command() {
            match command {
                Command::Configure { config, bounds } => self.set_bounds(config, bounds),
                Command::Drain => self.is_draining = true,
                Command::Undrain => self.is_draining = false,
                Command::Offload(mirrors) => self.set_mirrors(mirrors),
                Command::ShutDown => return true,
                // Without a server there is nobody to talk to: the client may come again, and the other shards hear
                // that nothing of the former life counts any more. Who has asked hears that there is no answer.
                Command::Ask(_)
                | Command::Adopt(_)
                | Command::Dtls(_)
                | Command::MoveIn(_)
                | Command::Letter { .. }
                | Command::KeyFound { .. }
                | Command::Restarted(_)
                | Command::Crash => {}
            }
        }
        false
    }
}

impl Bounds {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            relay_socket_buffer_bytes: settings.relay_socket_buffer_bytes,
            coalesce: settings.coalesce,
            coalesce_streams: settings.coalesce_streams,
            send_buffer_bytes: settings.connections.send_buffer_bytes,
            idle_secs: settings.connections.idle_secs,
            peer_connections: settings.peer_connections,
            privacy: settings.privacy,
            stranger_lines_per_sec: settings.stranger_lines_per_sec,
            recorder: settings.recorder,
        }
    }
}

/// A server that lived this long has not panicked for a reason that was there from the start.
const HEALTHY_NANOS: u64 = 1_000_000_000;

/// The longest pause before another start.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Runs until told to shut down.
pub(super) fn run(mut home: Home) {
    clock::fine_timers();
    let mut pause = Duration::ZERO;
    loop {
        let started = clock::monotonic();
        // Whatever the panic has left half done is dropped while unwinding: relays and connections are closed, and
        // what they held in the directory is given back. Listeners, mailbox and configuration are whole at any time.
        let outcome = catch_unwind(AssertUnwindSafe(|| Shard::new(&mut home, random_seed()).run()));
        let Err(panic) = outcome else { return };

        home.counters.shard_restarts += 1;
        home.recorder.lose_all(clock::monotonic());
        if let Some(accountant) = &home.accountant {
            accountant.tell(home.place.index, Tidings::Restarted);
        }
        home.slot().publish(|copy| {
            copy.turn = home.earlier.clone();
            copy.shell = home.counters.clone();
            copy.allocations = 0;
            copy.connections = 0;
            copy.peer_connections = 0;
            copy.requests_waiting = 0;
            copy.relayed_addresses = Default::default();
            copy.flows_mirrored = 0;
        });
        error!(
            event = "shard_restarted",
            shard = home.place.index,
            panic = message(panic.as_ref()),
            "a shard has panicked and lost its allocations; it starts again. This is a bug, please report it"
        );
        // A bug that strikes at once must not keep a core busy, nor keep the operator from being heard.
        let was_healthy = clock::monotonic().0 - started.0 > HEALTHY_NANOS;
        pause = if was_healthy { Duration::ZERO } else { (pause * 2).clamp(Duration::from_millis(1), PAUSE_MAX) };
        std::thread::sleep(pause);
        if home.obey_without_server() {
            return;
        }
        for (index, mailbox) in home.mailboxes.iter().enumerate() {
            if index != usize::from(home.place.index) {
                mailbox.command(Command::Restarted(home.place.index));
            }
        }
    }
}

/// Feeds everything in one server that must not be guessed.
pub(super) fn random_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    // Checked when the shards started; the kernel does not run out of random numbers later.
    getrandom::fill(&mut seed).expect("the kernel has random numbers");
    seed
}

/// Hash tables whose collisions nobody can choose.
pub(super) fn random_hashes() -> ahash::RandomState {
    let seed = random_seed();
    let [a, b, c, d] = std::array::from_fn(|word| {
        u64::from_ne_bytes(*seed[word * 8..].first_chunk().expect("four words of eight bytes"))
    });
    ahash::RandomState::with_seeds(a, b, c, d)
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}
