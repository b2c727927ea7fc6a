//! Buffers that cross the contract: a received packet with room in front, and the place for a reply.

use std::ops::{Deref, DerefMut, Range};

/// IP header fields that a relay carries from one side to the other (RFC 8656 §14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpFields {
    /// The whole traffic class byte: DSCP in the upper six bits, ECN in the lower two. Zero where it is not known,
    /// and for data from a stream (TURN-8656-15-01).
    pub traffic_class: u8,
    /// Nobody on the way, this machine included, may fragment the datagram. Only ever set towards a peer, for a Send
    /// indication with DONT-FRAGMENT: of what comes in it is not known (TURN-8656-14-03).
    pub dont_fragment: bool,
}

/// A received message inside a larger writable buffer.
///
/// The bytes in front let a relay put its header in place without moving the payload; the few behind let it pad.
#[derive(Debug)]
pub struct Packet<'b> {
    buffer: &'b mut [u8],
    message: Range<usize>,
    ip: IpFields,
}

impl<'b> Packet<'b> {
    /// Spare bytes wanted in front: a Data indication's header, XOR-PEER-ADDRESS (IPv6) and the head of DATA.
    pub const HEADROOM: usize = 20 + 24 + 4;
    /// Spare bytes wanted behind: padding to four.
    pub const TAILROOM: usize = 3;

    /// A packet whose message lies at `message` in `buffer`.
    ///
    /// # Panics
    /// If [`Self::HEADROOM`] bytes in front or [`Self::TAILROOM`] behind are missing.
    pub fn new(buffer: &'b mut [u8], message: Range<usize>, ip: IpFields) -> Self {
        assert!(message.start >= Self::HEADROOM, "no head room in front of the packet");
        assert!(message.end + Self::TAILROOM <= buffer.len(), "no room for padding behind the packet");
        Self { buffer, message, ip }
    }

    /// The message as received.
    pub fn message(&self) -> &[u8] {
        &self.buffer[self.message.clone()]
    }

    /// The whole buffer; a verdict's `bytes` are a range of it.
    pub fn buffer(&mut self) -> &mut [u8] {
        self.buffer
    }

    /// Where the message lies in the buffer.
    pub fn range(&self) -> Range<usize> {
        self.message.clone()
    }

    /// The IP header fields it arrived with.
    pub const fn ip(&self) -> IpFields {
        self.ip
    }
}

/// Where a response is written. Large enough for the largest response that the configuration's bounds allow.
#[derive(Debug)]
pub struct ReplyBuffer([u8; Self::LEN]);

impl ReplyBuffer {
    /// Its size in bytes.
    pub const LEN: usize = 1232;

    /// An empty one; keep it and use it again.
    pub const fn new() -> Self {
        Self([0; Self::LEN])
    }
}

impl Default for ReplyBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for ReplyBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for ReplyBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
