//! How anybody else reaches a shard: packets between relays of two shards, what clients sent to the wrong shard, letters
//! between their machines, and the operator's commands.
//!
//! Nobody ever waits here. Packets have a bounded queue and are dropped beyond it, as a socket would do; commands are
//! few and never lost. Buffers of packets go round: the reader puts them back for the next writer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::{ArrayQueue, SegQueue};
use mio::Waker;

use super::connections::{Accepted, Moving};
use super::dtls::News;
use super::offload::Mirrors;
use super::questions::Question;
use super::routes::Route;
use super::supervisor::Bounds;
use crate::turn::{self, FiveTuple, IpFields};

/// Packets waiting for one shard; the same order of magnitude as a socket buffer holds.
const PARCELS_MAX: usize = 2048;

/// A buffer larger than this is not kept for the next packet, or a burst of huge datagrams would hold its memory
/// forever.
const KEPT_BYTES_MAX: usize = 2048;

/// The letter box of one shard.
#[derive(Debug)]
pub(super) struct Mailbox {
    parcels: ArrayQueue<Parcel>,
    spare: ArrayQueue<Vec<u8>>,
    commands: SegQueue<Command>,
    /// Whether the reader has been woken and has not looked yet: one wake-up a batch is enough.
    woken: AtomicBool,
    waker: Waker,
}

/// A packet that another shard has read.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) label: Label,
    pub(super) ip: IpFields,
    pub(super) bytes: Vec<u8>,
}

/// What is to be done with a parcel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// For [`turn::Server::from_relay`].
    Relayed {
        /// The receiving relayed transport address.
        relayed: SocketAddr,
        /// The sending one.
        from: SocketAddr,
    },
    /// For [`turn::Server::from_carrier`]: a datagram that the kernel gave to another shard.
    Client {
        /// From whom, and whereto.
        path: FiveTuple,
        /// The other shard.
        carrier: u16,
        /// How to answer: listeners have the same places in all shards.
        route: Route,
        /// For [`turn::Server::came_to`].
        realm: Option<Arc<str>>,
    },
    /// A message for a client whose DTLS association is here, because the kernel gives its datagrams to this shard.
    Encrypt {
        /// The client.
        path: FiveTuple,
    },
}

/// What an operator, the thread of the handshakes or another shard wants.
#[derive(Debug)]
pub(super) enum Command {
    /// For [`turn::Server::told`].
    Letter {
        from: u16,
        letter: turn::Letter,
    },
    /// For [`turn::Server::key_found`].
    KeyFound {
        ticket: u64,
        answer: turn::KeyAnswer,
    },
    /// This shard has lost all it had.
    Restarted(u16),
    Configure {
        config: Arc<turn::Config>,
        bounds: Bounds,
    },
    Drain,
    Undrain,
    /// Who mirrors flows from now on.
    Offload(Option<Mirrors>),
    /// Something that has an answer.
    Ask(Question),
    /// A connection whose TLS handshake is over.
    Adopt(Box<Accepted>),
    /// About DTLS handshakes.
    #[cfg_attr(not(feature = "dtls"), expect(dead_code, reason = "only DTLS needs it"))]
    Dtls(News),
    /// A connection whose client has business here ([`turn::Verdict::NotMine`]).
    MoveIn(Box<Moving>),
    ShutDown,
    /// Panic, to show that the others live on.
    Crash,
}

/// The mailbox is full; the packet is lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overflow;

impl Mailbox {
    pub(super) fn new(waker: Waker) -> Self {
        Self {
            parcels: ArrayQueue::new(PARCELS_MAX),
            spare: ArrayQueue::new(PARCELS_MAX),
            commands: SegQueue::new(),
            woken: AtomicBool::new(false),
            waker,
        }
    }

    /// Leaves a packet. The reader is not woken yet: call [`Mailbox::wake`] when the batch is done.
    pub(super) fn post(&self, label: Label, ip: IpFields, bytes: &[u8]) -> Result<(), Overflow> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        let parcel = Parcel { label, ip, bytes: buffer };
        self.parcels.push(parcel).map_err(|refused| {
            self.give_back(refused.bytes);
            Overflow
        })
    }

    /// Leaves a command and wakes the reader.
    pub(super) fn command(&self, command: Command) {
        self.commands.push(command);
        self.wake();
    }

    /// Wakes the reader, unless somebody did already.
    pub(super) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) && self.waker.wake().is_err() {
            // An event counter cannot be full after one write; should it happen, the next one tries again.
            self.woken.store(false, Ordering::Release);
        }
    }

    /// The reader is awake: whatever is left from now on wakes it again. To be called before looking.
    pub(super) fn open(&self) {
        self.woken.swap(false, Ordering::AcqRel);
    }

    pub(super) fn next_command(&self) -> Option<Command> {
        self.commands.pop()
    }

    pub(super) fn next_parcel(&self) -> Option<Parcel> {
        self.parcels.pop()
    }

    /// Whether packets wait.
    pub(super) fn has_parcels(&self) -> bool {
        !self.parcels.is_empty()
    }

    /// Takes back the buffer of a packet that was delivered.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        if buffer.capacity() <= KEPT_BYTES_MAX {
            // With as many spare ones as can be in use the rest is superfluous.
            let _ = self.spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    const IP: IpFields = IpFields { traffic_class: 0, dont_fragment: false };

    fn mailbox() -> (Poll, Mailbox) {
        let poll = Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), Token(0)).unwrap();
        (poll, Mailbox::new(waker))
    }

    fn label() -> Label {
        let address = "192.0.2.1:50000".parse().unwrap();
        Label::Relayed { relayed: address, from: address }
    }

    fn wake_ups(poll: &mut Poll) -> usize {
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        events.iter().count()
    }

    #[test]
    fn packets_overflow_and_commands_do_not() {
        let (_poll, mailbox) = mailbox();
        for number in 0..PARCELS_MAX {
            let bytes = (number as u32).to_be_bytes();
            assert_eq!(mailbox.post(label(), IP, &bytes), Ok(()));
        }
        assert_eq!(mailbox.post(label(), IP, b"too much"), Err(Overflow));
        for _ in 0..10 * PARCELS_MAX {
            mailbox.command(Command::Drain);
        }
        for number in 0..PARCELS_MAX {
            let parcel = mailbox.next_parcel().expect("none was lost");
            assert_eq!(parcel.bytes, (number as u32).to_be_bytes());
            mailbox.give_back(parcel.bytes);
        }
        assert!(!mailbox.has_parcels());
        assert_eq!(std::iter::from_fn(|| mailbox.next_command()).count(), 10 * PARCELS_MAX);
        assert_eq!(mailbox.post(label(), IP, b"room again"), Ok(()));
    }

    #[test]
    fn one_wake_up_until_the_reader_looks() {
        let (mut poll, mailbox) = mailbox();
        mailbox.post(label(), IP, b"1").unwrap();
        assert_eq!(wake_ups(&mut poll), 0, "a batch is not done before it is");
        mailbox.wake();
        mailbox.wake();
        assert_eq!(wake_ups(&mut poll), 1);
        mailbox.wake();
        assert_eq!(wake_ups(&mut poll), 0, "the reader knows already");
        mailbox.open();
        mailbox.wake();
        assert_eq!(wake_ups(&mut poll), 1);
    }

    #[test]
    fn buffers_go_round_but_huge_ones_do_not() {
        let (_poll, mailbox) = mailbox();
        mailbox.post(label(), IP, &[7; 1200]).unwrap();
        let parcel = mailbox.next_parcel().unwrap();
        let place = parcel.bytes.as_ptr();
        mailbox.give_back(parcel.bytes);
        mailbox.post(label(), IP, &[8; 1000]).unwrap();
        let parcel = mailbox.next_parcel().unwrap();
        assert_eq!((parcel.bytes.as_ptr(), parcel.bytes.len()), (place, 1000));
        mailbox.give_back(vec![0; 65_000]);
        assert!(mailbox.spare.is_empty());
    }
}
