//! One thread, one `turn::Server`, its sockets: the loop, the mailbox, the directory.
//!
//! Lives here: what turns verdicts and effects into system calls. Each shard owns the listener sockets of its place in
//! the SO_REUSEPORT groups and every relay socket of the allocations it accepted, so that nothing on the packet path
//! is locked or shared. May import `stun`, `turn` and `net`. Protocol decisions are in `turn`; system calls in `net`.
//!
//! Reading order: this file (what others may do with shards), `reactor.rs` (the loop), `packets.rs`, `streams.rs` and
//! `effects.rs` (what it does), `supervisor.rs` (what outlives a panic), `questions.rs` (what the control plane asks), `handshakes.rs` and
//! `opening.rs` (where TLS clients and those behind proxies come from), `peers.rs` and `splices.rs` (TCP relays), `dtls/` (a
//! feature). Tables: `listeners.rs`, `relays.rs`, `connections.rs`, `routes.rs`. Shared between shards: `mailbox.rs`,
//! `directory.rs`, `budgets.rs`, `counters.rs`. Questions to the control plane: `keys.rs`. What others hear: `record.rs`,
//! `recorder/`, `usage.rs`. Between the machine and its mirror: `offload.rs`.

mod budgets;
mod connections;
mod counters;
mod directory;
#[cfg_attr(not(feature = "dtls"), path = "without_dtls.rs")]
mod dtls;
mod effects;
mod handshakes;
mod holdings;
mod keys;
mod listeners;
mod mailbox;
mod offload;
mod opening;
mod packets;
mod peers;
mod privacy;
mod questions;
mod reactor;
mod record;
mod recorder;
mod relays;
mod routes;
mod splices;
mod start;
mod streams;
mod supervisor;
#[cfg(test)]
mod tests;
mod token;
mod usage;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::IpNet;
use mio::{Poll, Waker};

pub use self::counters::{DtlsDrop, ShardSnapshot, ShellCounters, Slot, Snapshot, TlsCounters};
pub use self::keys::KeyQuestion;
pub use self::offload::Mirrors;
pub use self::privacy::{Privacy, Shown, ShownAddresses, ShownNames, Veil};
pub use self::questions::{SessionsPage, TooManyQuestions};
pub use self::recorder::{Entry, Recorder, RecorderSettings, StoryQuery, Told, What};
pub use self::start::{Skipped, StartError};
pub use self::usage::{Accountant, Tidings};
#[cfg(test)]
pub(crate) use crate::net::make_certificate;
pub use crate::net::proxy_protocol::write as write_proxy_header;
pub use crate::net::{
    HandshakeFailure, Identity, IdentityError, IdentityFile, ProxyRefusal, SocketErrorKind, SocketErrors,
};

use self::directory::{ConnectionHeld, Directory};
use self::listeners::Listeners;
use self::mailbox::{Command, Mailbox};
use self::record::Lines;
use self::supervisor::{Bounds, Home};
use self::token::Source;
use crate::net::ReceiveBatch;
use crate::turn::{self, HeldQuotas};

/// What the shards are to do; `crate::config` makes it from what the operator wrote.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many shards (threads), at least 1.
    pub count: u16,
    /// Where to listen. A port of 0 takes a free one, the same for all shards.
    pub listen: Vec<ListenAddress>,
    /// What TLS listeners need; without it there can be none.
    pub tls: Option<Tls>,
    /// What listeners behind proxies need.
    pub proxies: Proxies,
    /// What listeners need that pass connections on.
    pub pass_through: PassThrough,
    /// Bounds for clients on TCP and TLS.
    pub connections: ConnectionLimits,
    /// SO_RCVBUF and SO_SNDBUF asked for on every UDP socket of a listener, in bytes.
    pub socket_buffer_bytes: usize,
    /// The same for each relay socket.
    pub relay_socket_buffer_bytes: usize,
    /// The shortest time from one round of a shard to the next: packets in between wait. Zero makes nobody wait.
    pub coalesce: Duration,
    /// The same after a round that has relayed many packets to clients on TCP and TLS, if it is longer.
    pub coalesce_streams: Duration,
    /// Connections between TCP relays and peers, over all shards: 508 beyond, and peers are turned away.
    pub peer_connections: usize,
    /// What logs and stories show of clients.
    pub privacy: Privacy,
    /// Log lines a second of each thread about clients that have shown no credentials.
    pub stranger_lines_per_sec: usize,
    /// How much each shard remembers of what happened.
    pub recorder: RecorderSettings,
    /// Counted over all shards.
    pub quotas: Quotas,
    /// For the machine in each shard.
    pub turn: Arc<turn::Config>,
}

/// One address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// UDP, TCP or TLS.
    pub transport: turn::Transport,
    /// Address and port.
    pub address: SocketAddr,
    /// A failure to bind is fatal. Built-in defaults are not required, so that a machine without IPv6 still serves.
    pub required: bool,
    /// What is special about it.
    pub options: ListenOptions,
}

/// What is special about one address to listen on; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenOptions {
    /// Only proxies come here, each connection or datagram with a header of the PROXY protocol that names the client.
    pub proxy_protocol: bool,
    /// On TCP: clients may speak TLS or not, told apart by their first byte (MUX-7983-7-03).
    pub tls_too: bool,
    /// With TLS: who answers ClientHellos that are not for us ([`PassThrough`]).
    pub pass_through: Option<SocketAddr>,
    /// On UDP: clients may speak DTLS or not, told apart by their first byte (DTLS-7350-3-05).
    pub dtls_too: bool,
}

impl ListenAddress {
    /// Whether clients see a certificate here.
    pub fn speaks_tls(&self) -> bool {
        self.transport == turn::Transport::Tls || self.options.tls_too
    }

    /// Whether clients see one here over UDP. Only in builds with the feature `dtls`.
    pub fn speaks_dtls(&self) -> bool {
        self.transport == turn::Transport::Dtls || self.options.dtls_too
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.transport.label(), self.address)?;
        if self.options.proxy_protocol { f.write_str(" behind proxies") } else { Ok(()) }
    }
}

/// What TLS listeners need.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Shown to the first clients; see [`Shards::set_identity`].
    pub identity: Arc<Identity>,
    /// From accepting a connection to the end of its handshake.
    pub handshake_timeout: Duration,
    /// DTLS handshakes at the same time, at most.
    pub dtls_handshakes: usize,
}

/// Who may say in front of a connection or datagram whose it is.
#[derive(Clone, Debug)]
pub struct Proxies {
    /// Their addresses.
    pub prefixes: Arc<[IpNet]>,
    /// From accepting a connection to the end of its header.
    pub header_timeout: Duration,
}

impl Proxies {
    /// Whether this is the address of one.
    fn include(&self, ip: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&ip))
    }
}

/// Which ClientHellos are for us where a listener passes the others on.
#[derive(Clone, Debug, Default)]
pub struct PassThrough {
    /// Our names, in lower case; empty means those that the certificate is good for.
    pub names: Arc<[String]>,
}

/// A connection that is not for us. It counts as one until this is dropped.
#[derive(Debug)]
pub struct PassedOn {
    /// Accepted and nonblocking; nothing that its client has sent was taken off it.
    pub stream: std::net::TcpStream,
    /// The client.
    pub client: SocketAddr,
    /// What the client has connected to.
    pub server: SocketAddr,
    /// Who is to answer ([`ListenOptions::pass_through`]).
    pub to: SocketAddr,
    _held: ConnectionHeld,
}

/// Bounds for clients on TCP and TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections, over all shards.
    pub total: usize,
    /// Open connections from one client address (IPv4) or /64 (IPv6).
    pub per_address: usize,
    /// Open connections from one IPv4 /24 or IPv6 /56.
    pub per_prefix: usize,
    /// Bytes waiting for a client that reads slowly; beyond it relayed data is dropped (TURN-8656-LIFE-04).
    pub send_buffer_bytes: usize,
    /// A connection without an allocation and without a message for this long is closed.
    pub idle_secs: u32,
}

/// Counted over all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Allocations alive at the same time: 508 beyond.
    pub allocations: usize,
    /// Allocations of one account alive at the same time: 486 beyond.
    pub allocations_per_account: usize,
    /// Allocations made from one IPv4 /24 or IPv6 /56 and alive at the same time: 486 beyond.
    pub allocations_per_prefix: usize,
    /// What the allocations of one account have together: 508 beyond.
    pub per_account: HeldQuotas,
    /// What the allocations made from one IPv4 /24 or IPv6 /56 have together: 508 beyond.
    pub per_prefix: HeldQuotas,
    /// What all allocations have together: 508 beyond. Connections to peers are counted by [`Settings::peer_connections`].
    pub in_all: HeldQuotas,
}

/// Running shards. Dropping this shuts them down as [`Shards::shut_down`] does.
#[derive(Debug)]
pub struct Shards {
    listening: Vec<ListenAddress>,
    skipped: Vec<Skipped>,
    directory: Arc<Directory>,
    mailboxes: Arc<[Mailbox]>,
    slots: Arc<[Slot]>,
    /// Those without an answer.
    questions: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
    handshakes: Option<HandshakeThread>,
}

/// The thread of the handshakes.
#[derive(Debug)]
struct HandshakeThread {
    shared: Arc<handshakes::Shared>,
    thread: JoinHandle<()>,
}

impl Shards {
    /// Binds all sockets and starts the threads, named `hairpin-shard-0` and so on.
    ///
    /// # Errors
    /// An address that is required cannot be bound, or none can, or the system has no more threads, descriptors or
    /// memory. Nothing is left running then.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        Self::start_with(settings, drop, drop, None)
    }

    /// The same, with somebody who takes connections that are not for us, somebody who looks up keys that are kept
    /// elsewhere, and perhaps somebody who keeps account of usage. The first is called on the thread of the handshakes,
    /// the others on those of the shards, and none may take long.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_with(
        settings: Settings,
        pass_on: impl Fn(PassedOn) + Send + 'static,
        find_key: impl Fn(KeyQuestion) + Send + Sync + 'static,
        accountant: Option<Accountant>,
    ) -> Result<Self, StartError> {
        let find_key: keys::FindKey = Arc::new(find_key);
        let count = settings.count.max(1);
        let bound = start::bind(&settings.listen, count, settings.socket_buffer_bytes)?;
        getrandom::u64().map_err(std::io::Error::from).map_err(StartError::system("random numbers"))?;

        let mut polls = Vec::with_capacity(usize::from(count));
        let mut mailboxes = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let poll = Poll::new().map_err(StartError::system("an epoll instance"))?;
            let waker =
                Waker::new(poll.registry(), Source::Mailbox.token()).map_err(StartError::system("an event counter"))?;
            polls.push(poll);
            mailboxes.push(Mailbox::new(waker));
        }
        let mut shards = Self {
            listening: bound.listening,
            skipped: bound.skipped,
            directory: {
                let directory = Directory::new(settings.quotas, settings.connections);
                directory.set_realms(&settings.turn.realms);
                Arc::new(directory)
            },
            mailboxes: mailboxes.into(),
            slots: (0..count).map(|_| Slot::default()).collect(),
            questions: Arc::default(),
            threads: Vec::with_capacity(usize::from(count)),
            handshakes: None,
        };
        let bounds = Bounds::of(&settings);
        let needs_certificate = |listen: &ListenAddress| listen.speaks_tls() || listen.speaks_dtls();
        let needs_certificate = shards.listening.iter().any(needs_certificate);
        assert!(settings.tls.is_some() || !needs_certificate, "whoever asks for TLS listeners gives a certificate");
        let handshake_bounds = handshakes::Bounds {
            proxies: settings.proxies.clone(),
            pass_through: settings.pass_through,
            handshake_timeout: settings
                .tls
                .as_ref()
                .map_or(settings.proxies.header_timeout, |tls| tls.handshake_timeout),
            dtls_handshakes: settings.tls.as_ref().map_or(0, |tls| tls.dtls_handshakes),
        };
        let handshakes = if needs_certificate || !bound.openings.is_empty() {
            let poll = Poll::new().map_err(StartError::system("an epoll instance"))?;
            let waker =
                Waker::new(poll.registry(), Source::Mailbox.token()).map_err(StartError::system("an event counter"))?;
            Some((
                poll,
                Arc::new(handshakes::Shared::new(
                    settings.tls.map(|tls| tls.identity),
                    waker,
                    bounds,
                    settings.turn.session_key,
                )),
            ))
        } else {
            None
        };
        for (index, (poll, sockets)) in polls.into_iter().zip(bound.shards).enumerate() {
            let listeners =
                Listeners::new(sockets, poll.registry()).map_err(StartError::system("events of a listener"))?;
            let home = Home {
                place: turn::ShardIndex { index: index as u16, count },
                poll,
                listeners,
                mailboxes: Arc::clone(&shards.mailboxes),
                slots: Arc::clone(&shards.slots),
                directory: Arc::clone(&shards.directory),
                batch: ReceiveBatch::new().map_err(StartError::system("memory for packets"))?,
                bounds,
                proxies: settings.proxies.clone(),
                handshakes: handshakes.as_ref().map(|(_, shared)| Arc::clone(shared)),
                handshake_secs: u32::try_from(handshake_bounds.handshake_timeout.as_secs() + 1).unwrap_or(u32::MAX),
                find_key: Arc::clone(&find_key),
                config: Arc::clone(&settings.turn),
                is_draining: false,
                mirrors: None,
                counters: ShellCounters::default(),
                recorder: Recorder::new(settings.recorder, supervisor::random_hashes()),
                lines: Lines::new(bounds.stranger_lines_per_sec),
                earlier: turn::Counters::default(),
                accountant: accountant.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("hairpin-shard-{index}"))
                .spawn(move || supervisor::run(home))
                .map_err(StartError::system("a thread"))?;
            shards.threads.push(thread);
        }
        if let Some((poll, shared)) = handshakes {
            let home = handshakes::Home {
                poll,
                listeners: bound.openings,
                shared: Arc::clone(&shared),
                directory: Arc::clone(&shards.directory),
                mailboxes: Arc::clone(&shards.mailboxes),
                bounds: handshake_bounds,
                pass_on: Box::new(pass_on),
            };
            let home = home.register().map_err(StartError::system("events of a listener"))?;
            let thread = std::thread::Builder::new()
                .name("hairpin-tls".into())
                .spawn(move || handshakes::run(home))
                .map_err(StartError::system("a thread"))?;
            shards.handshakes = Some(HandshakeThread { shared, thread });
        }
        Ok(shards)
    }

    /// Where clients are served, with actual ports.
    pub fn listening(&self) -> &[ListenAddress] {
        &self.listening
    }

    /// Optional addresses that could not be bound.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Gives all shards new settings, soon. How many shards there are, where they listen, and with which buffers, stays as
    /// it was; so does the certificate, for which there is [`Shards::set_identity`].
    pub fn configure(&self, settings: &Settings) {
        self.directory.set_limits(settings.quotas, settings.connections);
        self.directory.set_realms(&settings.turn.realms);
        let bounds = Bounds::of(settings);
        if let Some(handshakes) = &self.handshakes {
            handshakes.shared.set_bounds(&bounds);
        }
        self.command(|| Command::Configure { config: Arc::clone(&settings.turn), bounds });
    }

    /// Shows new TLS clients this certificate from now on. Nothing happens to those that are connected.
    pub fn set_identity(&self, identity: Arc<Identity>) {
        if let Some(handshakes) = &self.handshakes {
            handshakes.shared.set_identity(identity);
        }
    }

    /// Has somebody mirror what is bound from now on, or nobody any more. Sockets then get each datagram by itself, since
    /// those that came together as one are more than a mirror understands.
    pub fn offload(&self, mirrors: Option<&Mirrors>) {
        self.command(|| Command::Offload(mirrors.cloned()));
    }

    /// Lets no new allocations in; those that exist live on until they end. [`Shards::allocations`] tells when.
    pub fn drain(&self) {
        self.command(|| Command::Drain);
    }

    /// Lets new allocations in again.
    pub fn undrain(&self) {
        self.command(|| Command::Undrain);
    }

    /// Allocations alive in all shards, now.
    pub fn allocations(&self) -> usize {
        self.directory.allocations()
    }

    /// All counters. Those of a shard with nothing to do are exact, those of a busy one at most a tenth of a second
    /// old.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::of(&*self.slots);
        if let Some(handshakes) = &self.handshakes {
            snapshot.add_tls(handshakes.shared.counters());
        }
        snapshot
    }

    /// Ends all allocations, sends what waits, closes all sockets and waits for the threads.
    pub fn shut_down(mut self) {
        self.stop();
    }

    /// Makes one shard panic.
    #[doc(hidden)]
    pub fn crash_for_test(&self, index: usize) {
        self.mailboxes[index].command(Command::Crash);
    }

    fn command(&self, command: impl Fn() -> Command) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.command(command()));
    }

    fn stop(&mut self) {
        if let Some(HandshakeThread { shared, thread }) = self.handshakes.take() {
            shared.stop();
            if thread.join().is_err() {
                tracing::error!(event = "tls_lost", "the thread of the handshakes did not end well");
            }
        }
        self.command(|| Command::ShutDown);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(event = "shard_lost", "a shard ended with a panic outside of its loop");
            }
        }
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.stop();
    }
}
