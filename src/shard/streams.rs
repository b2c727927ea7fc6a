//! Connections: accepted, read into messages, written without waiting, closed.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use mio::event::Event;
use mio::net::TcpStream;
use tracing::{debug, warn};

use super::connections::Accepted;
use super::listeners::Kind;
use super::packets::Asker;
use super::reactor::Shard;
use super::start::explain;
use crate::net::{SocketErrorKind, clock, tcp};
use crate::stun::FirstByte;
use crate::turn::{FiveTuple, IpFields, Now, Transport};

/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;

/// Pause after running out of descriptors; connections wait in the kernel meanwhile.
const ACCEPT_PAUSE_SECS: u32 = 1;

impl Shard<'_> {
    /// Accepts what waits at a listener; whether there may be more.
    pub(super) fn accept(&mut self, index: usize) -> bool {
        self.clock = clock::read();
        for _ in 0..ACCEPTS_PER_TURN {
            let Kind::Tcp(listener) = &self.home.listeners.get(index).kind else {
                unreachable!("datagrams are read elsewhere");
            };
            match listener.accept() {
                Ok((stream, client)) => self.admit(stream, client),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    self.home.counters.socket_errors.count(&error);
                    let kind = SocketErrorKind::of(&error);
                    if matches!(kind, SocketErrorKind::OutOfDescriptors | SocketErrorKind::NoBuffers) {
                        warn!(event = "accept_failed", why = explain(&error));
                        self.accept_again = Some(self.clock.now.plus_secs(ACCEPT_PAUSE_SECS));
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
                self.home.counters.connections_refused += 1;
                debug!(event = "connection_refused", client = %client, why = ?why);
                return;
            }
        };
        let result = stream.local_addr().and_then(|server| {
            tcp::prepare(&stream)?;
            let path = FiveTuple { transport: Transport::Tcp, client, server };
            // The kernel has let go of an old connection with this 5-tuple before we have heard of its end.
            if let Some(old) = self.connections.index_of(&path) {
                self.close_connection(old);
            }
            let accepted = Accepted { stream, path, held };
            let registry = self.home.poll.registry();
            self.connections.open(registry, accepted, self.home.bounds.send_buffer_bytes, self.clock.now)
        });
        match result {
            Ok(()) => self.home.counters.connections_accepted += 1,
            Err(error) => self.home.counters.socket_errors.count(&error),
        }
    }

    pub(super) fn notice_connection(&mut self, event: &Event, index: usize, generation: u32) {
        let Some(connection) = self.connections.by_token(index, generation) else {
            return;
        };
        if event.is_read_closed() || event.is_error() {
            connection.is_read_closed = true;
        }
        let source = connection.source(index);
        let is_readable = event.is_readable() || event.is_read_closed() || event.is_error();
        if is_readable && !connection.is_paused && !std::mem::replace(&mut connection.is_queued, true) {
            self.ready.push_back(source);
        }
        if event.is_writable() {
            connection.out.unblock();
            if !connection.out.is_empty() {
                self.mark_dirty(index);
            }
        }
    }

    /// Reads once from a connection; whether there may be more.
    pub(super) fn read_connection(&mut self, index: usize, generation: u32) -> bool {
        let Some(connection) = self.connections.by_token(index, generation) else {
            return false;
        };
        if connection.out.is_congested() {
            // Questions are read again when answers have left: TCP itself holds the client back.
            connection.is_paused = true;
            return false;
        }
        let count = match connection.read(&mut self.stream_bytes) {
            Ok(0) => {
                self.finish_connection(index);
                return false;
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                self.home.counters.socket_errors.count(&error);
                self.close_connection(index);
                return false;
            }
        };
        // A short read has emptied the socket, unless the end of the stream is waiting behind it.
        let has_more = count == self.stream_bytes.len() || connection.is_read_closed;
        let path = connection.path;
        // The first message of a client is STUN (MUX-7983-7-03). A web browser's "GET " would pass for the header of a
        // long ChannelData message and wait for the rest of it (abuse S19).
        if !connection.has_spoken && FirstByte::classify(self.stream_bytes[0]) != FirstByte::Stun {
            self.lose_framing(index, path);
            return false;
        }
        connection.has_spoken = true;
        let mut partial = std::mem::take(&mut connection.partial);
        let bytes = std::mem::take(&mut self.stream_bytes);
        self.clock = clock::read();
        let framing = partial.feed(&bytes[..count], |message| self.on_stream_message(index, path, message));
        self.stream_bytes = bytes;
        if framing.is_err() {
            self.lose_framing(index, path);
            return false;
        }
        let Some(connection) = self.connections.by_token(index, generation) else {
            return false;
        };
        connection.partial = partial;
        has_more
    }

    /// STUN-8489-6.2.2-07
    fn lose_framing(&mut self, index: usize, path: FiveTuple) {
        self.home.counters.connections_lost_framing += 1;
        debug!(event = "framing_lost", client = %path.client);
        self.finish_connection(index);
    }

    fn on_stream_message(&mut self, index: usize, path: FiveTuple, message: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(index) else {
            return false;
        };
        connection.last_message = self.clock.now;
        // Streams have no traffic class of their own messages (TURN-8656-15-01).
        let slot = self.insert(path.client, path.server, message, IpFields::default());
        self.serve_client(path, slot, Asker::Connection(index));
        true
    }

    /// Queues relayed data in a slot for a client, or drops it when the client does not keep up.
    pub(super) fn relay_to_stream(&mut self, to: &FiveTuple, slot: usize, bytes: Range<usize>) {
        let Some(index) = self.connections.index_of(to) else {
            self.home.counters.unsendable += 1;
            return;
        };
        let connection = self.connections.get_mut(index).expect("the index knows only open ones");
        let message = &self.home.batch.slot(slot)[bytes];
        let mut is_queued = connection.out.push_data(message);
        if !is_queued && !connection.out.is_blocked() {
            // One batch can be more than may wait. What counts is whether the client takes it; if the connection is
            // gone instead, the end of the batch will find out.
            let _ = connection.out.write_to(&mut connection.stream);
            is_queued = connection.out.push_data(message);
        }
        if !is_queued {
            self.home.counters.send_buffer_drops += 1;
        }
        self.mark_dirty(index);
    }

    /// Queues the reply to the client of a connection.
    pub(super) fn answer_stream(&mut self, index: usize, len: usize) {
        if let Some(connection) = self.connections.get_mut(index) {
            connection.out.push_control(&self.reply[..len]);
            self.mark_dirty(index);
        }
    }

    /// Queues a message that lies in no slot.
    pub(super) fn send_to_stream(&mut self, to: &FiveTuple, bytes: &[u8]) {
        let Some(index) = self.connections.index_of(to) else {
            self.home.counters.unsendable += 1;
            return;
        };
        if let Some(connection) = self.connections.get_mut(index) {
            connection.out.push_control(bytes);
            self.mark_dirty(index);
        }
    }

    fn mark_dirty(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index)
            && !std::mem::replace(&mut connection.is_dirty, true)
        {
            self.dirty.push(index);
        }
    }

    /// Writes to every connection that has something waiting.
    pub(super) fn write_connections(&mut self) {
        while let Some(index) = self.dirty.pop() {
            // The place may be free by now, or somebody else's: then there is nothing to write, which does no harm.
            let Some(connection) = self.connections.get_mut(index) else {
                continue;
            };
            connection.is_dirty = false;
            if connection.out.is_blocked() {
                continue;
            }
            if let Err(error) = connection.out.write_to(&mut connection.stream) {
                self.home.counters.socket_errors.count(&error);
                self.close_connection(index);
                continue;
            }
            if connection.is_paused && !connection.out.is_congested() {
                connection.is_paused = false;
                if !std::mem::replace(&mut connection.is_queued, true) {
                    self.ready.push_back(connection.source(index));
                }
            }
        }
    }

    /// Closes a connection after a last attempt to send what waits (STUN-8489-6.2.2-03).
    fn finish_connection(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index)
            && let Err(error) = connection.out.write_to(&mut connection.stream)
        {
            self.home.counters.socket_errors.count(&error);
        }
        self.close_connection(index);
    }

    /// Closes a connection, and with it ends its allocation (TURN-8656-LIFE-01).
    pub(super) fn close_connection(&mut self, index: usize) {
        let Some(connection) = self.connections.close(index) else {
            return;
        };
        self.server.path_closed(self.clock, connection.path);
        self.drain_effects();
    }

    /// Closes connections that are silent and have no allocation, and takes back memory that others do not use.
    pub(super) fn sweep_connections(&mut self) {
        let idle_secs = self.home.bounds.idle_secs;
        // Often enough that nobody stays a quarter longer than allowed.
        self.next_sweep = self.clock.now.plus_secs((idle_secs / 4).clamp(1, 30));
        let deadline = Now(self.clock.now.0.saturating_sub(u64::from(idle_secs) * 1_000_000_000));
        let mut from = 0;
        while let Some(index) = self.connections.next_idle(from, deadline) {
            self.home.counters.connections_idle += 1;
            self.finish_connection(index);
            from = index + 1;
        }
        for (_, connection) in self.connections.iter_mut() {
            connection.out.trim();
        }
    }
}
