//! TLS handshakes, on a thread of their own.
//!
//! A handshake costs a signature and a key exchange: measured 0.1 ms with ECDSA and 0.45 ms with RSA-2048, the time of
//! dozens to hundreds of packets, and anybody may ask for one. So this thread accepts the connections of TLS listeners,
//! and hands each to a shard, in turn, when messages can be exchanged on it. Whoever floods it with handshakes keeps
//! new TLS clients waiting, nobody's packets. What comes before the end of a handshake is bounded in time, in bytes, and
//! by the limits for connections, which count from the moment a connection is accepted (abuse S6).

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll};
use tracing::{debug, error, warn};

use super::connections::Accepted;
use super::counters::TlsCounters;
use super::directory::{ConnectionHeld, Directory};
use super::mailbox::{Command, Mailbox};
use super::start::explain;
use super::token::Source;
use crate::net::{ClientStream, Handshake, HandshakeFailure, Identity, SocketErrorKind, TlsStream, clock, tcp};
use crate::turn::{FiveTuple, Now, Transport};

/// Sockets looked at in one round.
const EVENTS_MAX: usize = 256;

/// Connections accepted from one listener in one round.
const ACCEPTS_PER_TURN: usize = 64;

/// Pause after running out of descriptors, and after a panic.
const PAUSE_SECS: u32 = 1;

/// What others may reach while the thread runs.
#[derive(Debug)]
pub(super) struct Shared {
    /// For the next handshake.
    identity: Mutex<Arc<Identity>>,
    counters: Mutex<TlsCounters>,
    is_stopping: AtomicBool,
}

impl Shared {
    pub(super) fn new(identity: Arc<Identity>) -> Self {
        Self { identity: Mutex::new(identity), counters: Mutex::default(), is_stopping: AtomicBool::new(false) }
    }

    pub(super) fn set_identity(&self, identity: Arc<Identity>) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    pub(super) fn counters(&self) -> TlsCounters {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The thread ends when it is woken next.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A few times for each connection, so that a lock does no harm.
    fn count(&self, count: impl FnOnce(&mut TlsCounters)) {
        count(&mut self.counters.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Everything of the thread that outlives a panic.
pub(super) struct Home {
    pub(super) poll: Poll,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) shared: Arc<Shared>,
    pub(super) directory: Arc<Directory>,
    /// Of all shards.
    pub(super) mailboxes: Arc<[Mailbox]>,
    pub(super) timeout: Duration,
}

impl Home {
    /// Registers the listeners.
    pub(super) fn new(
        poll: Poll,
        mut listeners: Vec<TcpListener>,
        shared: Arc<Shared>,
        directory: Arc<Directory>,
        mailboxes: Arc<[Mailbox]>,
        timeout: Duration,
    ) -> io::Result<Self> {
        for (index, listener) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener, Source::Listener(index).token(), Interest::READABLE)?;
        }
        Ok(Self { poll, listeners, shared, directory, mailboxes, timeout })
    }
}

/// Runs until told to stop.
pub(super) fn run(mut home: Home) {
    loop {
        let outcome = catch_unwind(AssertUnwindSafe(|| Handshakes::new(&mut home).run()));
        home.shared.count(|counters| counters.in_progress = 0);
        if outcome.is_ok() {
            return;
        }
        error!(
            event = "handshakes_restarted",
            "a panic has ended the TLS handshakes in progress; new ones begin. This is a bug, please report it"
        );
        std::thread::sleep(Duration::from_secs(PAUSE_SECS.into()));
    }
}

/// A connection whose handshake is not over.
struct Pending {
    stream: Box<TlsStream>,
    path: FiveTuple,
    held: ConnectionHeld,
    generation: u32,
}

struct Handshakes<'h> {
    home: &'h mut Home,
    table: Vec<Option<Pending>>,
    free: Vec<usize>,
    generation: u32,
    /// In the order of their ends, because all have the same time; those that are over already are skipped.
    deadlines: VecDeque<(Now, usize, u32)>,
    /// Listeners that may have more connections.
    ready: Vec<usize>,
    accept_again: Option<Now>,
    next_shard: usize,
}

impl<'h> Handshakes<'h> {
    fn new(home: &'h mut Home) -> Self {
        // Edges that came before are known to nobody any more: look at every listener once.
        let ready = (0..home.listeners.len()).collect();
        Self {
            home,
            table: Vec::new(),
            free: Vec::new(),
            generation: 0,
            deadlines: VecDeque::new(),
            ready,
            accept_again: None,
            next_shard: 0,
        }
    }

    fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        while !self.home.shared.is_stopping.load(Ordering::Acquire) {
            let timeout = self.time_left();
            if let Err(error) = self.home.poll.poll(&mut events, timeout) {
                assert_eq!(error.kind(), io::ErrorKind::Interrupted, "epoll failed: {error}");
            }
            for event in &events {
                match Source::of(event.token()) {
                    Source::Listener(index) if !self.ready.contains(&index) => self.ready.push(index),
                    Source::Connection { index, generation } => self.go_on(index, generation),
                    _ => {}
                }
            }
            let now = clock::monotonic();
            if self.accept_again.is_some_and(|due| due <= now) {
                self.accept_again = None;
                self.ready = (0..self.home.listeners.len()).collect();
            }
            for index in std::mem::take(&mut self.ready) {
                if self.accept(index) {
                    self.ready.push(index);
                }
            }
            self.expire(now);
        }
    }

    fn time_left(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let now = clock::monotonic();
        let deadline = self.deadlines.front().map(|(due, ..)| *due);
        [deadline, self.accept_again]
            .into_iter()
            .flatten()
            .min()
            .map(|due| Duration::from_nanos(due.0.saturating_sub(now.0)))
    }

    /// Accepts what waits at a listener; whether there may be more.
    fn accept(&mut self, index: usize) -> bool {
        for _ in 0..ACCEPTS_PER_TURN {
            match self.home.listeners[index].accept() {
                Ok((stream, client)) => self.admit(stream, client),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    self.home.shared.count(|counters| counters.socket_errors.count(&error));
                    let kind = SocketErrorKind::of(&error);
                    if matches!(kind, SocketErrorKind::OutOfDescriptors | SocketErrorKind::NoBuffers) {
                        warn!(event = "accept_failed", why = explain(&error));
                        self.accept_again = Some(clock::monotonic().plus_secs(PAUSE_SECS));
                        return false;
                    }
                    // Anything else is about one connection that did not wait for us.
                }
            }
        }
        true
    }

    fn admit(&mut self, stream: TcpStream, client: SocketAddr) {
        let held = match self.home.directory.hold_connection(client.ip()) {
            Ok(held) => held,
            Err(why) => {
                self.home.shared.count(|counters| counters.refused += 1);
                debug!(event = "connection_refused", client = %client, why = ?why);
                return;
            }
        };
        let prepared = tcp::prepare(&stream).and_then(|()| stream.local_addr());
        let server = match prepared {
            Ok(server) => server,
            Err(error) => return self.home.shared.count(|counters| counters.socket_errors.count(&error)),
        };
        let path = FiveTuple { transport: Transport::Tls, client, server };
        let mut stream = match TlsStream::new(stream, &self.home.shared.identity()) {
            Ok(stream) => Box::new(stream),
            Err(why) => {
                warn!(event = "handshake_failed", client = %client, why = %why);
                return self.home.shared.count(|counters| counters.fail(HandshakeFailure::Protocol));
            }
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            self.table.len() - 1
        });
        self.generation = self.generation.wrapping_add(1);
        let source = Source::connection(index, self.generation);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.home.poll.registry().register(stream.tcp(), source.token(), interest) {
            self.free.push(index);
            return self.home.shared.count(|counters| counters.socket_errors.count(&error));
        }
        let timeout_nanos = u64::try_from(self.home.timeout.as_nanos()).unwrap_or(u64::MAX);
        let due = Now(clock::monotonic().0.saturating_add(timeout_nanos));
        self.deadlines.push_back((due, index, self.generation));
        self.table[index] = Some(Pending { stream, path, held, generation: self.generation });
        self.home.shared.count(|counters| counters.in_progress += 1);
        // What the client has sent already is announced by an event.
    }

    fn go_on(&mut self, index: usize, generation: u32) {
        let Some(pending) = self.table.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        if Source::connection(index, pending.generation) != Source::connection(index, generation) {
            return;
        }
        match pending.stream.handshake() {
            Ok(Handshake::Going) => {}
            Ok(Handshake::Done { binding_only }) => self.hand_over(index, binding_only),
            Err(why) => self.fail(index, why),
        }
    }

    /// Gives a connection to the next shard.
    fn hand_over(&mut self, index: usize, binding_only: bool) {
        let Some(Pending { mut stream, path, held, .. }) = self.take(index) else {
            return;
        };
        if let Err(error) = self.home.poll.registry().deregister(stream.tcp()) {
            return self.home.shared.count(|counters| counters.socket_errors.count(&error));
        }
        self.home.shared.count(|counters| counters.completed += 1);
        let shard = self.next_shard % self.home.mailboxes.len();
        self.next_shard = shard + 1;
        let accepted = Accepted { stream: ClientStream::Tls(stream), path, held, binding_only };
        self.home.mailboxes[shard].command(Command::Adopt(Box::new(accepted)));
    }

    fn fail(&mut self, index: usize, why: HandshakeFailure) {
        if let Some(pending) = self.take(index) {
            debug!(event = "handshake_failed", client = %pending.path.client, why = why.label());
            self.home.shared.count(|counters| counters.fail(why));
        }
    }

    fn take(&mut self, index: usize) -> Option<Pending> {
        let pending = self.table[index].take()?;
        self.free.push(index);
        self.home.shared.count(|counters| counters.in_progress -= 1);
        Some(pending)
    }

    fn expire(&mut self, now: Now) {
        while let Some(&(due, index, generation)) = self.deadlines.front() {
            let is_over = self.table[index].as_ref().is_none_or(|pending| pending.generation != generation);
            if !is_over && due > now {
                return;
            }
            self.deadlines.pop_front();
            if !is_over {
                self.fail(index, HandshakeFailure::Timeout);
            }
        }
    }
}
