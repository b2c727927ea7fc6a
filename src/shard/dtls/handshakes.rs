//! DTLS handshakes, on the thread of the handshakes: datagrams come from the shards and flights go back there.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use super::{Established, News};
use crate::net::dtls::Association;
use crate::net::{Handshake, HandshakeFailure, clock};
use crate::shard::directory::ConnectionHeld;
use crate::shard::handshakes::Home;
use crate::shard::mailbox::Command;
use crate::shard::routes::Route;
use crate::turn::{FiveTuple, Now};

/// Datagrams served in one round; TLS has its turn in between.
const ARRIVALS_PER_TURN: usize = 64;

/// A datagram of a handshake.
#[derive(Debug)]
pub(in crate::shard) struct Arrival {
    /// Who has read it, and gets the association in the end.
    pub(in crate::shard) shard: u16,
    pub(in crate::shard) path: FiveTuple,
    pub(in crate::shard) route: Route,
    pub(in crate::shard) bytes: Vec<u8>,
    /// It is a ClientHello with a good cookie, and a handshake is to begin.
    pub(in crate::shard) begin: Option<ConnectionHeld>,
}

type Key = (u16, FiveTuple);

struct Pending {
    association: Association,
    route: Route,
    held: ConnectionHeld,
    due: Now,
    /// The earliest of its timers.
    armed: Option<Now>,
}

/// All that are not over.
pub(in crate::shard) struct Handshakes {
    pending: HashMap<Key, Pending>,
    timers: BinaryHeap<Reverse<(Now, Key)>>,
}

impl Handshakes {
    /// None yet.
    pub(in crate::shard) fn new() -> Self {
        Self { pending: HashMap::new(), timers: BinaryHeap::new() }
    }

    /// When to be called again even if nothing arrives.
    pub(in crate::shard) fn next_due(&self) -> Option<Now> {
        self.timers.peek().map(|Reverse((due, _))| *due)
    }

    /// Serves what has arrived, and sends again what is late; whether there may be more.
    pub(in crate::shard) fn serve(&mut self, home: &Home) -> bool {
        self.expire(home, clock::monotonic());
        for _ in 0..ARRIVALS_PER_TURN {
            let Some(arrival) = home.shared.next_arrival() else {
                return false;
            };
            self.on_arrival(home, arrival);
        }
        true
    }

    fn on_arrival(&mut self, home: &Home, arrival: Arrival) {
        let Arrival { shard, path, route, bytes, begin } = arrival;
        let key = (shard, path);
        let Some(held) = begin else {
            return self.go_on(home, key, Some(&bytes));
        };
        if self.pending.len() >= home.bounds.dtls_handshakes {
            home.shared.note_refusal(&path, "handshakes");
            home.shared.count(|counters| {
                counters.refused += 1;
                counters.refused_by_handshakes += 1;
            });
            return tell(home, shard, News::Failed(path));
        }
        let identity = home.shared.identity().expect("whoever asks for DTLS listeners gives a certificate");
        match Association::new(&identity, &bytes) {
            Ok(association) => {
                let due = home.end_of(home.bounds.handshake_timeout);
                let pending = Pending { association, route, held, due, armed: None };
                if self.pending.insert(key, pending).is_none() {
                    home.shared.count(|counters| counters.in_progress += 1);
                }
                self.go_on(home, key, None);
            }
            Err(why) => fail(home, key, why),
        }
    }

    fn go_on(&mut self, home: &Home, key: Key, datagram: Option<&[u8]>) {
        let Some(pending) = self.pending.get_mut(&key) else {
            return;
        };
        let result = pending.association.handshake(datagram);
        let flight: Vec<Vec<u8>> = pending.association.outgoing().collect();
        match result {
            Ok(Handshake::Going) => {
                send(home, key.0, pending.route, flight);
                self.arm(key);
            }
            Ok(Handshake::Done { binding_only }) => {
                let Pending { association, route, held, .. } = self.take(home, key).expect("it is there");
                home.shared.count(|counters| counters.completed += 1);
                let (shard, path) = key;
                let established = Established { path, route, association, held, binding_only, flight };
                tell(home, shard, News::Established(Box::new(established)));
            }
            Err(why) => {
                send(home, key.0, pending.route, flight);
                self.take(home, key);
                fail(home, key, why);
            }
        }
    }

    fn take(&mut self, home: &Home, key: Key) -> Option<Pending> {
        let pending = self.pending.remove(&key)?;
        home.shared.count(|counters| counters.in_progress -= 1);
        Some(pending)
    }

    fn arm(&mut self, key: Key) {
        let Some(pending) = self.pending.get_mut(&key) else {
            return;
        };
        let wait = pending.association.timeout().unwrap_or(Duration::MAX);
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        let when = Now(clock::monotonic().0.saturating_add(nanos)).min(pending.due);
        if pending.armed.is_none_or(|armed| when < armed) {
            pending.armed = Some(when);
            self.timers.push(Reverse((when, key)));
        }
    }

    fn expire(&mut self, home: &Home, now: Now) {
        while let Some(&Reverse((when, key))) = self.timers.peek()
            && when <= now
        {
            self.timers.pop();
            let Some(pending) = self.pending.get_mut(&key).filter(|pending| pending.armed == Some(when)) else {
                continue;
            };
            pending.armed = None;
            let result =
                if pending.due <= now { Err(HandshakeFailure::Timeout) } else { pending.association.retransmit() };
            let flight: Vec<Vec<u8>> = pending.association.outgoing().collect();
            send(home, key.0, pending.route, flight);
            match result {
                Ok(()) => self.arm(key),
                Err(why) => {
                    self.take(home, key);
                    fail(home, key, why);
                }
            }
        }
    }
}

fn fail(home: &Home, (shard, path): Key, why: HandshakeFailure) {
    home.shared.note_failure(&path, why);
    home.shared.count(|counters| counters.fail(why));
    tell(home, shard, News::Failed(path));
}

fn send(home: &Home, shard: u16, route: Route, datagrams: Vec<Vec<u8>>) {
    if !datagrams.is_empty() {
        tell(home, shard, News::Flight { route, datagrams });
    }
}

fn tell(home: &Home, shard: u16, news: News) {
    home.mailboxes[usize::from(shard)].command(Command::Dtls(news));
}
