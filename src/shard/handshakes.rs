//! What comes before messages, TLS handshakes above all, on a thread of their own.
//!
//! A handshake costs a signature and a key exchange: measured 0.1 ms with ECDSA and 0.45 ms with RSA-2048, the time of
//! dozens to hundreds of packets, and anybody may ask for one. So this thread accepts the connections of TLS listeners,
//! and of others on which a proxy or the first byte has to say more (`opening.rs`), and hands each to a shard, in turn,
//! when messages can be exchanged on it. Whoever floods it with handshakes keeps
//! new TLS clients waiting, nobody's packets. What comes before the end of a handshake is bounded in time, in bytes, and
//! by the limits for connections, which count from the moment a connection is accepted (abuse S6).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Waker};
use tracing::{debug, error, warn};

use super::connections::Accepted;
use super::counters::TlsCounters;
use super::directory::{ConnectionRefusal, Directory};
use super::dtls::{self, Arrival};
use super::mailbox::{Command, Mailbox};
use super::opening::{Failure, Opening, Progress};
use super::privacy::Veil;
use super::record::Lines;
use super::recorder::{Failures, StoryQuery, Told};
use super::start::explain;
use super::supervisor::{self, random_hashes, random_seed};
use super::token::Source;
use super::{ListenAddress, PassThrough, PassedOn, Proxies};
use crate::net::{ClientStream, HandshakeFailure, Identity, ProxyRefusal, SocketErrorKind, clock, tcp};
use crate::turn::{FiveTuple, Now, SessionKey};

/// Sockets looked at in one round.
const EVENTS_MAX: usize = 256;

/// Connections accepted from one listener in one round.
const ACCEPTS_PER_TURN: usize = 64;

/// Datagrams of DTLS handshakes that may wait; beyond, they are lost, and their clients send them again.
const ARRIVALS_MAX: usize = 1024;

/// Pause after running out of descriptors, and after a panic.
const PAUSE_SECS: u32 = 1;

/// What others may reach while the thread runs.
#[derive(Debug)]
pub(super) struct Shared {
    /// For the next handshake; missing where nobody speaks TLS.
    identity: Mutex<Option<Arc<Identity>>>,
    counters: Mutex<TlsCounters>,
    /// What is told of clients that failed.
    failed: Mutex<Failed>,
    is_stopping: AtomicBool,
    /// Datagrams of DTLS handshakes.
    arrivals: ArrayQueue<Arrival>,
    /// Of the cookies that come before those.
    cookie_key: [u8; 32],
    waker: Waker,
}

/// What is told of clients whose handshake failed.
#[derive(Debug)]
struct Failed {
    veil: Veil,
    stories: Failures,
    lines: Lines,
}

impl Shared {
    /// What may be shown of clients, and how much, from now on.
    pub(super) fn set_bounds(&self, bounds: &supervisor::Bounds) {
        let mut failed = self.failed();
        failed.veil.privacy = bounds.privacy;
        failed.lines.limit(bounds.stranger_lines_per_sec);
    }

    /// Tells of a handshake that failed.
    pub(super) fn note_failure(&self, path: &FiveTuple, why: HandshakeFailure) {
        let now = clock::monotonic();
        let Failed { veil, stories, lines } = &mut *self.failed();
        stories.note(now, veil, path, why);
        if lines.has_room(now) {
            debug!(
                event = "handshake_failed",
                session = %veil.key.id(path),
                why = why.label(),
                transport = path.transport.label(),
                client = %veil.address(path.client),
            );
        }
    }

    /// Tells of a client that was turned away before its handshake.
    pub(super) fn note_refusal(&self, path: &FiveTuple, why: &'static str) {
        let Failed { veil, lines, .. } = &mut *self.failed();
        if lines.has_room(clock::monotonic()) {
            debug!(
                event = "connection_refused",
                session = %veil.key.id(path),
                why,
                transport = path.transport.label(),
                client = %veil.address(path.client),
            );
        }
    }

    /// Stories of clients whose handshake failed.
    pub(super) fn find_failures(&self, query: &StoryQuery) -> Vec<Told> {
        let failed = self.failed();
        failed.stories.find(clock::read(), &failed.veil, query)
    }

    fn failed(&self) -> MutexGuard<'_, Failed> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn new(
        identity: Option<Arc<Identity>>,
        waker: Waker,
        bounds: supervisor::Bounds,
        key: SessionKey,
    ) -> Self {
        let failed = Failed {
            veil: Veil { privacy: bounds.privacy, key },
            stories: Failures::new(bounds.recorder.events, random_hashes()),
            lines: Lines::new(bounds.stranger_lines_per_sec),
        };
        Self {
            failed: Mutex::new(failed),
            identity: Mutex::new(identity),
            counters: Mutex::default(),
            is_stopping: AtomicBool::new(false),
            arrivals: ArrayQueue::new(ARRIVALS_MAX),
            cookie_key: random_seed(),
            waker,
        }
    }

    /// Leaves a datagram of a handshake; whether there was room.
    #[cfg_attr(not(feature = "dtls"), expect(dead_code, reason = "only DTLS needs it"))]
    pub(super) fn arrive(&self, arrival: Arrival) -> bool {
        let arrived = self.arrivals.push(arrival).is_ok();
        // An event counter that cannot be written to is being read.
        let _ = self.waker.wake();
        arrived
    }

    pub(super) fn next_arrival(&self) -> Option<Arrival> {
        self.arrivals.pop()
    }

    pub(super) const fn cookie_key(&self) -> [u8; 32] {
        self.cookie_key
    }

    pub(super) fn set_identity(&self, identity: Arc<Identity>) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    pub(super) fn counters(&self) -> TlsCounters {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The thread ends soon.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        let _ = self.waker.wake();
    }

    pub(super) fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A few times for each connection, so that a lock does no harm.
    pub(super) fn count(&self, count: impl FnOnce(&mut TlsCounters)) {
        count(&mut self.counters.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Everything of the thread that outlives a panic.
pub(super) struct Home {
    pub(super) poll: Poll,
    pub(super) listeners: Vec<(ListenAddress, TcpListener)>,
    pub(super) shared: Arc<Shared>,
    pub(super) directory: Arc<Directory>,
    /// Of all shards.
    pub(super) mailboxes: Arc<[Mailbox]>,
    pub(super) bounds: Bounds,
    /// Takes what is not for us.
    pub(super) pass_on: Box<dyn Fn(PassedOn) + Send>,
}

/// What does not change while the thread runs.
pub(super) struct Bounds {
    pub(super) proxies: Proxies,
    pub(super) pass_through: PassThrough,
    /// From the first byte that may be the client's to the end of the handshake.
    pub(super) handshake_timeout: Duration,
    /// DTLS handshakes at the same time.
    #[cfg_attr(not(feature = "dtls"), expect(dead_code, reason = "only DTLS needs it"))]
    pub(super) dtls_handshakes: usize,
}

impl Home {
    /// Registers the listeners.
    pub(super) fn register(mut self) -> io::Result<Self> {
        for (index, (_, listener)) in self.listeners.iter_mut().enumerate() {
            self.poll.registry().register(listener, Source::Listener(index).token(), Interest::READABLE)?;
        }
        Ok(self)
    }

    /// When something is over that begins now and may last this long.
    pub(super) fn end_of(&self, timeout: Duration) -> Now {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        Now(clock::monotonic().0.saturating_add(nanos))
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

/// A connection without messages yet.
struct Pending {
    opening: Opening,
    generation: u32,
    /// When it has to have come to its next stage.
    due: Now,
}

struct Handshakes<'h> {
    home: &'h mut Home,
    table: Vec<Option<Pending>>,
    free: Vec<usize>,
    generation: u32,
    /// The earliest first; those that are over already, or were put off, are skipped.
    deadlines: BinaryHeap<Reverse<(Now, usize, u32)>>,
    /// Listeners that may have more connections.
    ready: Vec<usize>,
    accept_again: Option<Now>,
    next_shard: usize,
    dtls: dtls::Handshakes,
    /// Datagrams may have been left over.
    has_arrivals: bool,
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
            deadlines: BinaryHeap::new(),
            ready,
            accept_again: None,
            next_shard: 0,
            dtls: dtls::Handshakes::new(),
            has_arrivals: true,
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
                    Source::Connection { index, generation } => {
                        self.go_on(index, generation, event.is_read_closed() || event.is_error());
                    }
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
            self.has_arrivals = self.dtls.serve(self.home);
        }
    }

    fn time_left(&self) -> Option<Duration> {
        if !self.ready.is_empty() || self.has_arrivals {
            return Some(Duration::ZERO);
        }
        let now = clock::monotonic();
        let deadline = self.deadlines.peek().map(|Reverse((due, ..))| *due);
        [deadline, self.accept_again, self.dtls.next_due()]
            .into_iter()
            .flatten()
            .min()
            .map(|due| Duration::from_nanos(due.0.saturating_sub(now.0)))
    }

    /// Accepts what waits at a listener; whether there may be more.
    fn accept(&mut self, index: usize) -> bool {
        for _ in 0..ACCEPTS_PER_TURN {
            let (listen, listener) = &self.home.listeners[index];
            match listener.accept() {
                Ok((stream, client)) => {
                    let listen = *listen;
                    self.admit(&listen, stream, client);
                }
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

    fn admit(&mut self, listen: &ListenAddress, stream: TcpStream, client: SocketAddr) {
        let unknown = FiveTuple { transport: listen.transport, client, server: listen.address };
        let held = if !listen.options.proxy_protocol {
            self.home.directory.hold_connection(client.ip())
        } else if self.home.bounds.proxies.include(client.ip()) {
            self.home.directory.hold_unnamed()
        } else {
            return self.fail(&unknown, Failure::Proxy(ProxyRefusal::Untrusted));
        };
        let held = match held {
            Ok(held) => held,
            Err(why) => return self.fail(&unknown, Failure::Refused(why)),
        };
        let server = match tcp::prepare(&stream).and_then(|()| stream.local_addr()) {
            Ok(server) => server,
            Err(error) => return self.fail(&unknown, Failure::Socket(error)),
        };
        let path = FiveTuple { transport: listen.transport, client, server };
        let mut opening = match Opening::new(stream, listen, path, held, self.home.shared.identity().as_deref()) {
            Ok(opening) => opening,
            Err(why) => return self.fail(&path, why),
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            self.table.len() - 1
        });
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let source = Source::connection(index, generation);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let stream = opening.tcp().expect("it has just begun");
        if let Err(error) = self.home.poll.registry().register(stream, source.token(), interest) {
            self.free.push(index);
            return self.fail(&path, Failure::Socket(error));
        }
        let timeout = match listen.options.proxy_protocol {
            true => self.home.bounds.proxies.header_timeout,
            false => self.home.bounds.handshake_timeout,
        };
        let due = self.home.end_of(timeout);
        self.deadlines.push(Reverse((due, index, generation)));
        self.table[index] = Some(Pending { opening, generation, due });
        self.home.shared.count(|counters| counters.in_progress += 1);
        // What the client has sent already is announced by an event.
    }

    fn go_on(&mut self, index: usize, generation: u32, is_read_closed: bool) {
        let Some(pending) = self.table.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        if Source::connection(index, pending.generation) != Source::connection(index, generation) {
            return;
        }
        let rules = &self.home.bounds.pass_through;
        match pending.opening.go_on(self.home.shared.identity().as_deref(), rules, is_read_closed) {
            Ok(Progress::Waiting) => {}
            Ok(Progress::Next) => self.put_off(index),
            Ok(Progress::Open { stream, binding_only }) => self.hand_over(index, stream, binding_only),
            Ok(Progress::PassOn { stream, to }) => self.pass_on(index, stream, to),
            Err(why) => {
                if let Some(opening) = self.take(index) {
                    self.fail(&opening.path, why);
                }
            }
        }
    }

    /// The proxy has said its part; now it is the client's time.
    fn put_off(&mut self, index: usize) {
        let due = self.home.end_of(self.home.bounds.handshake_timeout);
        if let Some(pending) = &mut self.table[index] {
            pending.due = due;
            self.deadlines.push(Reverse((due, index, pending.generation)));
        }
    }

    /// Gives a connection to the next shard.
    fn hand_over(&mut self, index: usize, mut stream: ClientStream, binding_only: bool) {
        let Some(Opening { path, held, .. }) = self.take(index) else {
            return;
        };
        if let Err(error) = self.home.poll.registry().deregister(stream.tcp()) {
            return self.fail(&path, Failure::Socket(error));
        }
        if matches!(stream, ClientStream::Tls(_)) {
            self.home.shared.count(|counters| counters.completed += 1);
        }
        let shard = self.next_shard % self.home.mailboxes.len();
        self.next_shard = shard + 1;
        let accepted = Accepted { stream, path, held, binding_only };
        self.home.mailboxes[shard].command(Command::Adopt(Box::new(accepted)));
    }

    /// Gives a connection, untouched, to whoever is to answer it.
    fn pass_on(&mut self, index: usize, mut stream: TcpStream, to: SocketAddr) {
        let Some(Opening { path, held, .. }) = self.take(index) else {
            return;
        };
        if let Err(error) = self.home.poll.registry().deregister(&mut stream) {
            return self.fail(&path, Failure::Socket(error));
        }
        let FiveTuple { client, server, .. } = path;
        (self.home.pass_on)(PassedOn { stream: stream.into(), client, server, to, _held: held });
    }

    /// Counts the end of a connection that had no messages.
    fn fail(&self, path: &FiveTuple, why: Failure) {
        match &why {
            Failure::Proxy(why) => self.home.shared.note_refusal(path, why.label()),
            Failure::Refused(why) => self.home.shared.note_refusal(path, why.label()),
            Failure::Handshake(why) => self.home.shared.note_failure(path, *why),
            Failure::Socket(_) => {}
        }
        self.home.shared.count(|counters| match why {
            Failure::Proxy(why) => counters.proxy_refusals[why as usize] += 1,
            Failure::Refused(why) => {
                counters.refused += 1;
                counters.refused_per_address += u64::from(why == ConnectionRefusal::PerAddress);
                counters.refused_per_prefix += u64::from(why == ConnectionRefusal::PerPrefix);
            }
            Failure::Handshake(why) => counters.fail(why),
            Failure::Socket(error) => counters.socket_errors.count(&error),
        });
    }

    fn take(&mut self, index: usize) -> Option<Opening> {
        let pending = self.table[index].take()?;
        self.free.push(index);
        self.home.shared.count(|counters| counters.in_progress -= 1);
        Some(pending.opening)
    }

    fn expire(&mut self, now: Now) {
        while let Some(&Reverse((due, index, generation))) = self.deadlines.peek() {
            let counts = |pending: &Pending| (pending.generation, pending.due) == (generation, due);
            let is_over = !self.table[index].as_ref().is_some_and(counts);
            if !is_over && due > now {
                return;
            }
            self.deadlines.pop();
            if !is_over && let Some(opening) = self.take(index) {
                self.fail(&opening.path, opening.timeout());
            }
        }
    }
}
