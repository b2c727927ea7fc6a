//! TCP: listeners, and the two buffers of a connection.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::sys;
use crate::stun::stream::{Cookie, Frame, LostFraming, next_frame_of};

/// Connections the kernel keeps ready to be accepted.
const BACKLOG: i32 = 1024;

/// Unsent bytes the kernel takes for one connection. What it holds can no longer be dropped, and media that is
/// seconds old is worth nothing to anybody.
const UNSENT_BYTES_MAX: i32 = 128 * 1024;

/// The first listener at this address; fails when anybody else has it, even somebody who would share.
///
/// # Errors
/// Whatever the system says to `socket`, `setsockopt`, `bind` or `listen`.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = unbound(address)?;
    socket.bind(&address.into())?;
    // After `bind`, for the reason given at `UdpSocket::listener`.
    socket.set_reuse_port(true)?;
    started(socket)
}

/// A further listener at the address of a first one; the kernel spreads the clients over them (SO_REUSEPORT).
///
/// # Errors
/// As for the first.
pub fn join(first: &TcpListener) -> io::Result<TcpListener> {
    let address = first.local_addr()?;
    let socket = unbound(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    started(socket)
}

fn unbound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for the connections of the run before to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn started(socket: Socket) -> io::Result<TcpListener> {
    // What is accepted inherits both: messages leave at once, and the kernel queues little for a slow reader.
    socket.set_tcp_nodelay(true)?;
    sys::set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Sets up an accepted connection: what comes is acknowledged with the answer, from the first message on, and not in a
/// segment of its own before it. Whatever gets no answer is acknowledged as on any connection.
///
/// # Errors
/// Whatever the system says; the connection is probably gone already.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    sys::set_option(SockRef::from(stream).as_fd(), libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0)
}

/// Writes what is the last of a connection: it waits for the end of the stream, and leaves in one segment with it.
pub(super) struct Last<'s>(pub(super) &'s TcpStream);

impl Write for Last<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        SockRef::from(self.0).send_with_flags(bytes, libc::MSG_MORE | libc::MSG_NOSIGNAL)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Looks at what has come without taking it: how many bytes were copied, zero at the end of the stream; `None` if there
/// is nothing yet. More bytes make another event, although none was taken.
///
/// # Errors
/// Whatever the system says; the connection is gone.
pub fn peek(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match stream.peek(buffer) {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The start of a message whose end has not arrived yet. Empty, and then without memory, between messages.
#[derive(Debug, Default)]
pub struct PartialMessage {
    bytes: Vec<u8>,
    /// Of the messages of this connection.
    pub cookie: Cookie,
}

/// Memory kept between two messages that arrive in pieces.
const PARTIAL_KEPT_BYTES: usize = 4096;

impl PartialMessage {
    /// Cuts `chunk`, the next bytes of the stream, into messages and hands over each, in order. The rest is kept, at
    /// most [`FRAME_LEN_MAX`](crate::stun::stream::FRAME_LEN_MAX) bytes. After a message for which `take` returns `false` it
    /// stops. Returns how many bytes of `chunk` it has used up: all, unless it was stopped.
    ///
    /// # Errors
    /// The stream has lost its framing; messages before that were handed over.
    pub fn feed(&mut self, chunk: &[u8], mut take: impl FnMut(&[u8]) -> bool) -> Result<usize, LostFraming> {
        let whole = chunk.len();
        let mut chunk = chunk;
        // Only as much is copied as the message that was begun still lacks; everything after is cut where it lies.
        while !self.bytes.is_empty() {
            match next_frame_of(&self.bytes, self.cookie)? {
                Frame::Complete { len } => {
                    debug_assert_eq!(len, self.bytes.len(), "more was copied than was needed");
                    let wanted = take(&self.bytes[..len]);
                    self.bytes.clear();
                    self.bytes.shrink_to(PARTIAL_KEPT_BYTES);
                    if !wanted {
                        return Ok(whole - chunk.len());
                    }
                }
                Frame::Incomplete { needed } => {
                    if chunk.is_empty() {
                        return Ok(whole);
                    }
                    let (now, later) = chunk.split_at(chunk.len().min(needed - self.bytes.len()));
                    self.bytes.extend_from_slice(now);
                    chunk = later;
                }
            }
        }
        while !chunk.is_empty() {
            match next_frame_of(chunk, self.cookie)? {
                Frame::Complete { len } => {
                    let (message, later) = chunk.split_at(len);
                    chunk = later;
                    if !take(message) {
                        return Ok(whole - chunk.len());
                    }
                }
                Frame::Incomplete { .. } => {
                    self.bytes.extend_from_slice(chunk);
                    return Ok(whole);
                }
            }
        }
        Ok(whole)
    }

    /// Bytes waiting for the rest of their message.
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the stream stands between two messages.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Bytes on their way to a client that may read slowly (TURN-8656-LIFE-04).
///
/// Relayed data is queued up to a bound and dropped beyond it, whole messages only. Answers are always queued: there
/// are as many as the client asked for, and whoever owns this buffer stops reading questions while
/// [`SendBuffer::is_congested`].
#[derive(Debug)]
pub struct SendBuffer {
    bytes: Vec<u8>,
    /// How many of `bytes` are sent already.
    sent: usize,
    data_bytes_max: usize,
    is_blocked: bool,
}

/// Answers that may wait on top of relayed data before no more questions are read.
const CONTROL_BYTES: usize = 16 * 1024;

/// Memory kept by [`SendBuffer::trim`].
const SEND_KEPT_BYTES: usize = 4096;

impl SendBuffer {
    /// An empty buffer, without memory yet, for `data_bytes_max` bytes of relayed data.
    pub const fn new(data_bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), sent: 0, data_bytes_max, is_blocked: false }
    }

    /// Bytes waiting.
    pub const fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether so many answers wait that no more questions should be read.
    pub const fn is_congested(&self) -> bool {
        self.len() >= self.data_bytes_max + CONTROL_BYTES
    }

    /// Whether the other side took no more at the last attempt, and has not asked for more since.
    pub const fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// The other side takes bytes again.
    pub const fn unblock(&mut self) {
        self.is_blocked = false;
    }

    /// Queues an answer.
    pub fn push_control(&mut self, message: &[u8]) {
        self.make_room(message.len());
        self.bytes.extend_from_slice(message);
    }

    /// Queues relayed data, or returns `false` when there is too much already: then it is to be dropped and counted.
    /// A message that finds the buffer empty is always taken, however large (TURN-8656-11.3-05).
    #[must_use]
    pub fn push_data(&mut self, message: &[u8]) -> bool {
        if !self.is_empty() && self.len() + message.len() > self.data_bytes_max {
            return false;
        }
        self.make_room(message.len());
        self.bytes.extend_from_slice(message);
        true
    }

    /// Moves what waits to the front when that saves the buffer from growing, and is less than what it makes room for.
    fn make_room(&mut self, len: usize) {
        if self.sent > self.len() && self.bytes.len() + len > self.bytes.capacity() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Writes until nothing waits or the other side takes no more.
    ///
    /// # Errors
    /// The connection is gone. `WouldBlock` is not an error: the rest stays queued.
    pub fn write_to(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while self.sent < self.bytes.len() {
            match stream.write(&self.bytes[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        // What an encrypted stream has taken may still wait in it.
        match stream.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_blocked = true;
                Ok(())
            }
            result => result,
        }
    }

    /// Gives memory back that an earlier rush has left behind. Not while something waits.
    pub fn trim(&mut self) {
        if self.is_empty() {
            self.bytes.clear();
            self.sent = 0;
            self.bytes.shrink_to(SEND_KEPT_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::stream::FRAME_LEN_MAX;

    fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
        let mut frame = number.to_be_bytes().to_vec();
        frame.extend_from_slice(&(data.len() as u16).to_be_bytes());
        frame.extend_from_slice(data);
        frame.resize(frame.len().next_multiple_of(4), 0);
        frame
    }

    fn stun(body_len: u16) -> Vec<u8> {
        let mut frame = vec![0, 1];
        frame.extend_from_slice(&body_len.to_be_bytes());
        frame.extend_from_slice(&0x2112_A442_u32.to_be_bytes());
        frame.resize(20 + usize::from(body_len), 0xAB);
        frame
    }

    fn feed_all<'c>(chunks: impl IntoIterator<Item = &'c [u8]>) -> (Vec<Vec<u8>>, PartialMessage) {
        let mut partial = PartialMessage::default();
        let mut messages = Vec::new();
        for chunk in chunks {
            partial
                .feed(chunk, |message| {
                    messages.push(message.to_vec());
                    true
                })
                .expect("the stream is well framed");
        }
        (messages, partial)
    }

    /// TURN-8656-12.6-07, abuse S7: wherever two cuts fall, the same messages come out.
    #[test]
    fn s7_every_split_gives_the_same_messages() {
        let frames = [
            stun(0),
            channel_data(0x4000, b"abc"),
            channel_data(0x7FFF, b""),
            stun(12),
            channel_data(0x4001, b"abcde"),
        ];
        let stream = frames.concat();
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let (messages, partial) = feed_all([&stream[..first], &stream[first..second], &stream[second..]]);
                assert_eq!(messages, frames, "cut at {first} and {second}");
                assert!(partial.is_empty());
            }
        }
        let (messages, _) = feed_all(stream.chunks(1));
        assert_eq!(messages, frames);
    }

    #[test]
    fn s7_the_longest_message_in_pieces_leaves_no_memory_behind() {
        let frames = [channel_data(0x4000, &[7; 65_535]), stun(65_532)];
        assert_eq!(frames[1].len(), FRAME_LEN_MAX);
        let stream = frames.concat();
        let (messages, partial) = feed_all(stream.chunks(1000));
        assert_eq!(messages, frames);
        assert!(partial.bytes.capacity() <= PARTIAL_KEPT_BYTES);
    }

    /// STUN-8489-6.2.2-07, abuse S19.
    #[test]
    fn s19_lost_framing_is_found_behind_good_messages() {
        let mut stream = stun(0);
        stream.extend_from_slice(&[0x16, 0x03, 0x01, 0x02, 0x00]);
        for cut in 0..stream.len() {
            let mut partial = PartialMessage::default();
            let mut messages = 0;
            let result = [&stream[..cut], &stream[cut..]].iter().try_for_each(|chunk| {
                partial
                    .feed(chunk, |_| {
                        messages += 1;
                        true
                    })
                    .map(|_| ())
            });
            assert_eq!(result, Err(LostFraming), "cut at {cut}");
            assert_eq!(messages, 1);
        }
    }

    #[test]
    fn nothing_is_handed_over_after_no_and_the_rest_is_known() {
        let stream = [stun(0), stun(4), stun(8)].concat();
        for cut in 0..stream.len() {
            let mut partial = PartialMessage::default();
            let mut messages = 0;
            let mut take = |_: &[u8]| {
                messages += 1;
                false
            };
            let mut used = partial.feed(&stream[..cut], &mut take).expect("well framed");
            if messages == 0 {
                assert_eq!(used, cut);
                used += partial.feed(&stream[cut..], |_| false).expect("well framed");
                assert!(partial.is_empty(), "cut at {cut}");
            }
            assert_eq!(used, stun(0).len(), "cut at {cut}");
        }
    }

    /// TURN-8656-LIFE-04: data is dropped at the bound, answers are not, and whole messages only.
    #[test]
    fn life_04_answers_are_queued_when_data_is_dropped() {
        let mut buffer = SendBuffer::new(1000);
        assert!(buffer.push_data(&[1; 600]));
        assert!(!buffer.push_data(&[2; 401]));
        assert!(buffer.push_data(&[2; 400]));
        assert!(!buffer.push_data(&[3; 1]));
        buffer.push_control(&[4; 100]);
        assert_eq!(buffer.len(), 1100);
        assert!(!buffer.is_congested());
        buffer.push_control(&[4; CONTROL_BYTES]);
        assert!(buffer.is_congested());

        let mut received = Vec::new();
        buffer.write_to(&mut received).expect("a vector takes everything");
        assert_eq!(received.len(), 1100 + CONTROL_BYTES);
        assert!(buffer.is_empty());
        assert!(buffer.push_data(&[5; 65_540]), "nobody else waits");
        assert!(!buffer.push_data(&[6; 1]));
        buffer.write_to(&mut received).expect("a vector takes everything");
        buffer.trim();
        assert!(buffer.bytes.capacity() <= SEND_KEPT_BYTES);
    }

    /// Takes a few bytes at a time, and nothing at all every second time.
    struct Slow {
        taken: Vec<u8>,
        ready: bool,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.ready = !self.ready;
            if !self.ready {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let len = bytes.len().min(7);
            self.taken.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn life_04_a_slow_reader_gets_everything_in_order_and_memory_stays_bounded() {
        let mut buffer = SendBuffer::new(64);
        let mut slow = Slow { taken: Vec::new(), ready: false };
        let mut expected = Vec::new();
        for round in 0..1000_u32 {
            let message = [round as u8; 12];
            if buffer.push_data(&message) {
                expected.extend_from_slice(&message);
            }
            buffer.write_to(&mut slow).expect("slow, not gone");
            assert!(buffer.bytes.capacity() <= 4 * 64, "{}", buffer.bytes.capacity());
        }
        while !buffer.is_empty() {
            buffer.write_to(&mut slow).expect("slow, not gone");
        }
        assert_eq!(slow.taken, expected);
        assert!(expected.len() < 12 * 1000, "some must have been dropped");
    }
}
