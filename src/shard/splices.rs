//! A client data connection and a connection to a peer, joined: what one says the other hears (RFC 6062 §5.4, §5.5).
//!
//! Nothing is read from one side while bytes wait for the other, so at most what one read brings waits in either
//! direction, and TCP itself holds back whoever is too fast. The end of one direction is carried over when all before
//! it has been written; the other direction goes on.

use std::io::{self, Write};

use super::directory::ConnectionHeld;
use crate::net::tcp::SendBuffer;
use crate::net::{ClientStream, ReadBuffers};

#[derive(Debug)]
pub(super) struct Splice {
    pub(super) client: Side,
    pub(super) peer: Side,
    /// The client's connection counts as long as it is one.
    _held: ConnectionHeld,
}

/// One of the two connections.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) stream: ClientStream,
    /// What waits to be written.
    out: SendBuffer,
    /// Nothing more comes from there.
    has_ended: bool,
    /// Nothing more goes there, and it was told so.
    is_finished: bool,
    /// It broke: neither.
    is_lost: bool,
}

/// What a turn has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) bytes_to_peer: u64,
    pub(super) bytes_to_client: u64,
    /// There may be more.
    pub(super) has_more: bool,
}

impl Splice {
    /// `out` is what still waits for the client: the last of its answers.
    pub(super) fn new(client: ClientStream, out: SendBuffer, held: ConnectionHeld, peer: ClientStream) -> Self {
        let peer = Side::new(peer, SendBuffer::new(0));
        Self { client: Side::new(client, out), peer, _held: held }
    }

    /// Bytes of the client that were read before it was joined.
    pub(super) fn send_to_peer(&mut self, bytes: &[u8]) {
        self.peer.send(bytes);
    }

    /// Reads once from each side for which that makes sense, and writes.
    pub(super) fn turn(&mut self, buffers: &mut ReadBuffers) -> Moved {
        let to_peer = pump(&mut self.client, &mut self.peer, buffers);
        let to_client = pump(&mut self.peer, &mut self.client, buffers);
        Moved {
            bytes_to_peer: to_peer.unwrap_or(0),
            bytes_to_client: to_client.unwrap_or(0),
            has_more: to_peer.is_some() || to_client.is_some(),
        }
    }

    /// Whether all that could be said has been said.
    pub(super) fn is_over(&self) -> bool {
        let (client, peer) = (&self.client, &self.peer);
        let is_told = client.is_finished && peer.is_finished;
        is_told && (client.has_ended && peer.has_ended || client.is_lost || peer.is_lost)
    }

    /// A last attempt to write what waits.
    pub(super) fn finish(mut self) {
        for side in [&mut self.client, &mut self.peer] {
            side.write(true);
        }
    }
}

impl Side {
    const fn new(stream: ClientStream, out: SendBuffer) -> Self {
        Self { stream, out, has_ended: false, is_finished: false, is_lost: false }
    }

    /// It can be written to again.
    pub(super) const fn unblock(&mut self) {
        self.out.unblock();
    }

    fn wants_write(&self) -> bool {
        !self.out.is_empty() || self.stream.wants_write()
    }

    /// Writes, and keeps what is not taken at once.
    fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.wants_write() && !self.is_lost {
            match self.stream.write(bytes) {
                Ok(taken) => bytes = &bytes[taken..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.lose(),
            }
        }
        if !bytes.is_empty() && !self.is_lost {
            self.out.push_control(bytes);
        }
    }

    /// Writes what waits; if that is all there will be, says so.
    fn write(&mut self, is_all: bool) {
        if self.is_finished || self.out.is_blocked() {
            return;
        }
        if self.wants_write() && self.out.write_to(&mut self.stream).is_err() {
            return self.lose();
        }
        if self.wants_write() {
            return;
        }
        self.out.trim();
        if is_all {
            match self.stream.finish() {
                Ok(()) => self.is_finished = true,
                // The word for the end waits itself.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.lose(),
            }
        }
    }

    fn lose(&mut self) {
        self.out = SendBuffer::new(0);
        (self.has_ended, self.is_finished, self.is_lost) = (true, true, true);
    }
}

/// Moves bytes in one direction; how many one read has brought, if there was something to read.
fn pump(from: &mut Side, to: &mut Side, buffers: &mut ReadBuffers) -> Option<u64> {
    to.write(from.has_ended);
    if from.has_ended || to.is_finished || to.wants_write() {
        // Who is sent nothing more may still send; without anybody to hear it that is for nothing.
        return None;
    }
    match from.stream.receive(buffers) {
        Ok(received) => {
            let bytes = buffers.bytes();
            to.send(bytes);
            from.has_ended = received.is_end;
            to.write(from.has_ended);
            // An encrypted side may want to answer what was no data, like a change of keys.
            from.write(to.has_ended);
            Some(bytes.len() as u64)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(_) => {
            from.lose();
            to.write(true);
            None
        }
    }
}
