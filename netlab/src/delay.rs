//! Late packets without netem: a router's kernel hands what it forwards to a queue (NFQUEUE), and a thread of ours in
//! the router's namespace lets each packet go when its time has come.
//!
//! Packets stay in the kernel, whole and unread; only their numbers and the verdicts cross over. As with netem, jitter is
//! uniform, and so may change the order of packets.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
};
use nix::sys::time::TimeSpec;
use patchbay::Router;

use crate::impair;
use crate::process::find_program;

/// The only queue of a router.
const QUEUE: u16 = 0;

/// How many packets may be late at once; more are lost, as in netem (whose default is 1,000).
const PACKETS_MAX: u32 = 10_000;

/// Room for the kernel's notes about packets that the thread has not read yet.
const SOCKET_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// The kernel's notes are some hundred bytes.
const NOTE_BYTES_MAX: usize = 8192;

/// How long the end of a lab may go unnoticed.
const NAP: Duration = Duration::from_millis(50);

/// How late packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lateness {
    /// On average.
    pub delay: Duration,
    /// At most so much more, or less.
    pub jitter: Duration,
}

/// A router that holds packets back as long as this lives.
#[derive(Debug)]
pub struct Delay {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Delay {
    /// Makes everything late that a router forwards from or to the Internet, so each packet once.
    ///
    /// # Errors
    /// The kernel has no such queue, or `iptables` refuses.
    pub fn start(router: &Router, lateness: Lateness) -> Result<Delay> {
        let over = Arc::new(AtomicBool::new(false));
        let (ready, readiness) = mpsc::channel();
        let ended = Arc::clone(&over);
        let thread = router.spawn_thread(move || {
            let queue = Queue::open();
            let (opened, queue) = match queue {
                Ok(queue) => (Ok(()), Some(queue)),
                Err(error) => (Err(error), None),
            };
            let _ = ready.send(opened);
            queue.map_or(Ok(()), |queue| hold_back(&queue, lateness, &ended))
        })?;
        let delay = Delay { over, thread: Some(thread) };
        readiness.recv().context("the thread that delays packets has ended")??;
        // Only now: what goes to a queue without a reader is dropped.
        let uplink = impair::uplink(router)?;
        for program in ["iptables", "ip6tables"] {
            for side in ["-i", "-o"] {
                impair::run(router, rule(program, side, &uplink)?)?;
            }
        }
        Ok(delay)
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it has to say is of no use any more: the network goes now.
            let _ = thread.join();
        }
    }
}

/// Whether packets can be delayed here, tried in a new namespace. A thread enters that, and goes with it.
pub fn is_possible() -> bool {
    let probe = std::thread::spawn(|| -> Result<()> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        let _queue = Queue::open()?;
        for program in ["iptables", "ip6tables"] {
            let output = rule(program, "-i", "lo")?.output()?;
            if !output.status.success() {
                bail!("{program} fails: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        Ok(())
    });
    matches!(probe.join(), Ok(Ok(())))
}

/// nftables has a statement for this, but not every kernel the module; `iptables` needs another one.
fn rule(program: &str, side: &str, interface: &str) -> Result<Command> {
    let mut command = Command::new(find_program(program).with_context(|| format!("{program} is not installed"))?);
    command.args(["-t", "mangle", "-A", "FORWARD", side, interface, "-j", "NFQUEUE", "--queue-num"]);
    command.arg(QUEUE.to_string());
    Ok(command)
}

/// Lets each packet go when its time has come, until it is over.
fn hold_back(queue: &Queue, lateness: Lateness, over: &AtomicBool) -> Result<()> {
    let mut waiting: BinaryHeap<Reverse<(Instant, u32)>> = BinaryHeap::new();
    let mut chance = Chance::new();
    while !over.load(Ordering::Relaxed) {
        let now = Instant::now();
        while let Some(Reverse((due, packet))) = waiting.peek().copied()
            && due <= now
        {
            waiting.pop();
            queue.release(packet)?;
        }
        let next = waiting.peek().map_or(NAP, |Reverse((due, _))| due.saturating_duration_since(now).min(NAP));
        if queue.wait(next)? {
            // All that there are, and the time they are there is now.
            let arrived = Instant::now();
            while let Some(packet) = queue.next()? {
                waiting.push(Reverse((arrived + chance.lateness(lateness), packet)));
            }
        }
    }
    Ok(())
}

/// Random numbers of no importance: xorshift, with a seed of its own for each router.
struct Chance(u64);

impl Chance {
    fn new() -> Chance {
        use std::hash::{BuildHasher, RandomState};
        Chance(RandomState::new().hash_one(0) | 1)
    }

    /// Anything between delay less jitter and delay plus jitter.
    fn lateness(&mut self, Lateness { delay, jitter }: Lateness) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let share = (self.0 >> 11) as f64 / (1_u64 << 53) as f64;
        (delay + jitter.mul_f64(2.0 * share)).saturating_sub(jitter)
    }
}

/// The kernel's side of it, in netlink's words (`linux/netfilter/nfnetlink_queue.h`).
struct Queue(OwnedFd);

const SUBSYSTEM: u16 = 3 << 8;
const MESSAGE_PACKET: u16 = SUBSYSTEM;
const MESSAGE_VERDICT: u16 = SUBSYSTEM | 1;
const MESSAGE_CONFIGURE: u16 = SUBSYSTEM | 2;
const MESSAGE_ACKNOWLEDGEMENT: u16 = 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// Sizes of the headers that come before the attributes: netlink's, and that of all of netfilter.
const HEADER_BYTES: usize = 16;
const HEADERS_BYTES: usize = HEADER_BYTES + 4;

const ATTRIBUTE_PACKET: u16 = 1;
const ATTRIBUTE_VERDICT: u16 = 2;
const ATTRIBUTE_COMMAND: u16 = 1;
const ATTRIBUTE_PARAMETERS: u16 = 2;
const ATTRIBUTE_LENGTH_MAX: u16 = 3;
const COMMAND_BIND: [u8; 4] = [1, 0, 0, 0];
/// No byte of the packet, only what it is called.
const COPY_NOTHING: [u8; 5] = [0, 0, 0, 0, 1];
const ACCEPT: u32 = 1;

impl Queue {
    /// Becomes the queue's reader, in the namespace of this thread.
    fn open() -> Result<Queue> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)
            .context("this kernel has no NFQUEUE")?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // The former needs the rights of real root, the latter is cut down to what the machine allows anyone.
        if setsockopt(&socket, RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
            setsockopt(&socket, RcvBuf, &SOCKET_BUFFER_BYTES)?;
        }
        let queue = Queue(socket);
        let configure = |attribute, value: &[u8]| {
            queue.send(&message(MESSAGE_CONFIGURE, REQUEST | ACKNOWLEDGE, attribute, value))?;
            queue.acknowledgement()
        };
        configure(ATTRIBUTE_COMMAND, &COMMAND_BIND).context("this kernel has no NFQUEUE")?;
        configure(ATTRIBUTE_PARAMETERS, &COPY_NOTHING)?;
        configure(ATTRIBUTE_LENGTH_MAX, &PACKETS_MAX.to_be_bytes())?;
        Ok(queue)
    }

    fn send(&self, message: &[u8]) -> Result<()> {
        sendto(self.0.as_raw_fd(), message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    fn acknowledgement(&self) -> Result<()> {
        let mut answer = [0; NOTE_BYTES_MAX];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        match acknowledgement(&answer[..length]) {
            Some(0) => Ok(()),
            Some(error) => Err(Errno::from_raw(-error).into()),
            None => bail!("the kernel's answer is odd"),
        }
    }

    /// Waits for a packet; whether there is one.
    fn wait(&self, at_most: Duration) -> Result<bool> {
        let mut sockets = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut sockets, Some(TimeSpec::from_duration(at_most)), None) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The number of the next packet that has come.
    fn next(&self) -> Result<Option<u32>> {
        let mut note = [0; NOTE_BYTES_MAX];
        loop {
            match recv(self.0.as_raw_fd(), &mut note, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    if let Some(packet) = packet_number(&note[..length]) {
                        return Ok(Some(packet));
                    }
                }
                Err(Errno::EAGAIN) => return Ok(None),
                // Packets have been lost: more than there was room for came at once.
                Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Lets a packet go on its way.
    fn release(&self, packet: u32) -> Result<()> {
        let verdict = [ACCEPT.to_be_bytes(), packet.to_be_bytes()].concat();
        match self.send(&message(MESSAGE_VERDICT, REQUEST, ATTRIBUTE_VERDICT, &verdict)) {
            // Its interface is gone, and the kernel has dropped it.
            Err(error) if error.downcast_ref() == Some(&Errno::ENOENT) => Ok(()),
            sent => sent,
        }
    }
}

/// A request with one attribute.
fn message(kind: u16, flags: u16, attribute: u16, value: &[u8]) -> Vec<u8> {
    let attribute_bytes = 4 + value.len();
    let mut message = Vec::new();
    message.extend(((HEADERS_BYTES + attribute_bytes.next_multiple_of(4)) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // sequence number, port
    message.extend([0, 0]); // any family; version
    message.extend(QUEUE.to_be_bytes());
    message.extend((attribute_bytes as u16).to_ne_bytes());
    message.extend(attribute.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

/// The error number in an acknowledgement, negative, or zero for success.
fn acknowledgement(message: &[u8]) -> Option<i32> {
    (kind(message)? == MESSAGE_ACKNOWLEDGEMENT).then_some(())?;
    Some(i32::from_ne_bytes(message.get(HEADER_BYTES..HEADERS_BYTES)?.try_into().ok()?))
}

/// The number of the packet that a note is about.
fn packet_number(message: &[u8]) -> Option<u32> {
    (kind(message)? == MESSAGE_PACKET).then_some(())?;
    let found = attributes(message.get(HEADERS_BYTES..)?, |kind, value| match kind {
        ATTRIBUTE_PACKET => ControlFlow::Break(value.first_chunk().copied()),
        _ => ControlFlow::Continue(()),
    });
    found.flatten().map(u32::from_be_bytes)
}

fn kind(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(*message.get(4..6)?.first_chunk()?))
}

/// Looks at one attribute after the other until `look` has found what it wants.
fn attributes<T>(mut rest: &[u8], mut look: impl FnMut(u16, &[u8]) -> ControlFlow<T>) -> Option<T> {
    while let Some(&[a, b, c, d]) = rest.first_chunk() {
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        if let ControlFlow::Break(found) = look(kind, rest.get(4..length)?) {
            return Some(found);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_padded_and_says_how_long_it_is() {
        let message = message(MESSAGE_CONFIGURE, REQUEST | ACKNOWLEDGE, ATTRIBUTE_PARAMETERS, &COPY_NOTHING);
        assert_eq!(message.len(), 32);
        assert_eq!(message[..4], 32_u32.to_ne_bytes());
        assert_eq!(message[20..24], [9_u16.to_ne_bytes(), 2_u16.to_ne_bytes()].concat());
        assert_eq!(message[24..], [0, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn a_packet_is_known_by_its_number_wherever_that_is() {
        let mut note = message(MESSAGE_PACKET, 0, 3, &[9, 9, 9, 9, 9]); // a mark before it
        note.extend([11_u16.to_ne_bytes(), ATTRIBUTE_PACKET.to_ne_bytes()].concat());
        note.extend([0, 0, 1, 2, 8, 0, 2, 0]);
        assert_eq!(packet_number(&note), Some(0x0102));
        for shorter in 0..note.len() - 4 {
            assert_eq!(packet_number(&note[..shorter]), None, "{shorter}");
        }
        assert_eq!(packet_number(&message(MESSAGE_VERDICT, 0, ATTRIBUTE_PACKET, &[0; 8])), None);
        // An attribute that says it is shorter than its own header.
        assert_eq!(packet_number(&[&note[..HEADERS_BYTES], &[0; 8]].concat()), None);
    }

    #[test]
    fn jitter_is_on_both_sides_of_the_delay_and_never_less_than_nothing() {
        let mut chance = Chance::new();
        let milliseconds = Duration::from_millis;
        let late = Lateness { delay: milliseconds(40), jitter: milliseconds(10) };
        let all: Vec<_> = (0..1000).map(|_| chance.lateness(late)).collect();
        let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!((milliseconds(30)..milliseconds(32)).contains(least), "{least:?}");
        assert!((milliseconds(48)..=milliseconds(50)).contains(most), "{most:?}");
        let odd = Lateness { delay: Duration::ZERO, jitter: milliseconds(10) };
        assert!((0..1000).all(|_| chance.lateness(odd) <= milliseconds(10)));
    }
}
