//! Connections: accepted, read into messages, written without waiting, closed.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use mio::event::Event;
use mio::net::TcpStream;
use tracing::{debug, warn};

use super::connections::{Accepted, Moving};
use super::directory::ConnectionRefusal;
use super::listeners::Kind;
use super::mailbox::Command;
use super::packets::Asker;
use super::reactor::Shard;
use super::start::explain;
use crate::net::{ClientStream, SocketErrorKind, clock, tcp};
use crate::stun::stream::Cookie;
use crate::stun::{FirstByte, Message, Method};
use crate::turn::{ConnectionId, FiveTuple, IpFields, Now, Transport};

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
                let counters = &mut self.home.counters;
                counters.connections_refused += 1;
                counters.connections_refused_per_address += u64::from(why == ConnectionRefusal::PerAddress);
                counters.connections_refused_per_prefix += u64::from(why == ConnectionRefusal::PerPrefix);
                if let Some(veil) = self.home.room_for_line(self.clock.now) {
                    debug!(
                        event = "connection_refused",
                        why = why.label(),
                        transport = "tcp",
                        client = %veil.address(client),
                    );
                }
                return;
            }
        };
        match tcp::prepare(&stream).and_then(|()| stream.local_addr()) {
            Ok(server) => {
                let path = FiveTuple { transport: Transport::Tcp, client, server };
                self.open_connection(Accepted { stream: ClientStream::Tcp(stream), path, held, binding_only: false });
            }
            Err(error) => self.home.counters.socket_errors.count(&error),
        }
    }

    /// Takes in a connection whose TLS handshake is over.
    pub(super) fn adopt(&mut self, accepted: Accepted) {
        let Some(index) = self.open_connection(accepted) else {
            return;
        };
        self.look_at(index);
    }

    /// Takes in a connection from another shard, and serves what was read of it there.
    pub(super) fn move_in(&mut self, moving: Moving) {
        self.make_way(moving.path());
        let (connection, unread) = moving.into_parts();
        let path = connection.path;
        match self.connections.move_in(self.home.poll.registry(), connection) {
            Ok(index) => {
                self.home.counters.connections_moved += 1;
                let realm = self.connections.get_mut(index).and_then(|connection| connection.realm.clone());
                self.server.came_to(path, realm);
                if self.serve_stream(index, path, &unread) {
                    self.look_at(index);
                }
            }
            Err(error) => self.home.counters.socket_errors.count(&error),
        }
    }

    /// Reads and writes a connection that is new here once: bytes may wait on it of which no event will tell, because
    /// they came before it, or with the end of a handshake.
    fn look_at(&mut self, index: usize) {
        self.mark_dirty(index);
        if let Some(connection) = self.connections.get_mut(index)
            && !connection.is_paused
            && !std::mem::replace(&mut connection.is_queued, true)
        {
            self.ready.push_back(connection.source(index));
        }
    }

    /// Notes that a connection is to leave once the message being served is done with. One that has come from another
    /// shard, or has an allocation here, stays; its message is lost.
    pub(super) fn send_away(&mut self, index: usize, shard: u16) {
        match self.connections.get_mut(index) {
            Some(connection) if !connection.has_moved && connection.allocations == 0 => {
                connection.leaving = Some((shard, Vec::new()));
            }
            _ => self.home.counters.unsendable += 1,
        }
    }

    fn move_out(&mut self, index: usize, shard: u16, unread: Vec<u8>) {
        let Some(connection) = self.connections.close(index) else {
            return;
        };
        self.server.path_closed(self.clock, connection.path);
        self.drain_effects();
        match Moving::new(self.home.poll.registry(), connection, unread) {
            Ok(moving) => self.home.mailboxes[usize::from(shard)].command(Command::MoveIn(Box::new(moving))),
            Err(error) => self.home.counters.socket_errors.count(&error),
        }
    }

    fn open_connection(&mut self, accepted: Accepted) -> Option<usize> {
        self.make_way(&accepted.path);
        let path = accepted.path;
        let realm = accepted.stream.server_name().and_then(|name| self.home.config.realm_of_server_name(name));
        let is_classic = accepted.path.transport == Transport::Tcp && self.home.config.compatibility.classic_tcp;
        let registry = self.home.poll.registry();
        match self.connections.open(registry, accepted, self.home.bounds.send_buffer_bytes, self.clock.now) {
            Ok(index) => {
                self.home.counters.connections_accepted += 1;
                if let Some(connection) = self.connections.get_mut(index) {
                    connection.realm.clone_from(&realm);
                    if is_classic {
                        connection.partial.cookie = Cookie::Optional;
                    }
                }
                self.server.came_to(path, realm);
                Some(index)
            }
            Err(error) => {
                self.home.counters.socket_errors.count(&error);
                None
            }
        }
    }

    /// The kernel has let go of an old connection with this 5-tuple before we have heard of its end.
    fn make_way(&mut self, path: &FiveTuple) {
        if let Some(old) = self.connections.index_of(path) {
            self.close_connection(old);
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
            if connection.wants_write() {
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
        let received = match connection.stream.receive(&mut self.stream_bytes) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.home.counters.connections_broken_tls += 1;
                let path = connection.path;
                if let Some(veil) = self.home.room_for_line(self.clock.now) {
                    let session = veil.key.id(&path);
                    debug!(event = "tls_broken", session = %session, client = %veil.address(path.client), why = %error);
                }
                self.close_connection(index);
                return false;
            }
            Err(error) => {
                self.home.counters.socket_errors.count(&error);
                self.close_connection(index);
                return false;
            }
        };
        let has_more = received.is_full || connection.is_read_closed;
        let path = connection.path;
        // The first message of a client is STUN (MUX-7983-7-03). A web browser's "GET " would pass for the header of a
        // long ChannelData message and wait for the rest of it (abuse S19).
        if let Some(first) = self.stream_bytes.bytes().first()
            && !std::mem::replace(&mut connection.has_spoken, true)
            && FirstByte::classify(*first) != FirstByte::Stun
        {
            self.lose_framing(index, path);
            return false;
        }
        // An encrypted client may want an answer that is no message, like to a change of keys.
        let has_records = connection.stream.wants_write();
        if has_records {
            self.mark_dirty(index);
        }
        let bytes = std::mem::take(&mut self.stream_bytes);
        self.clock = clock::read();
        let is_here = self.serve_stream(index, path, bytes.bytes());
        self.stream_bytes = bytes;
        if is_here && received.is_end {
            self.finish_connection(index);
            return false;
        }
        is_here && has_more
    }

    /// Cuts the next bytes of a connection into messages and serves them; whether the connection is still here.
    fn serve_stream(&mut self, index: usize, path: FiveTuple, bytes: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(index) else {
            return false;
        };
        let source = connection.source(index);
        let mut partial = std::mem::take(&mut connection.partial);
        let Ok(used) = partial.feed(bytes, |message| self.on_stream_message(index, path, message)) else {
            self.lose_framing(index, path);
            return false;
        };
        // Serving may have closed it, and the place may be somebody else's.
        let Some(connection) = self.connections.get_mut(index).filter(|connection| connection.source(index) == source)
        else {
            return false;
        };
        connection.partial = partial;
        if let Some(id) = connection.joins {
            self.join(index, id, &bytes[used..]);
            return false;
        }
        if let Some((shard, mut unread)) = connection.leaving.take() {
            unread.extend_from_slice(&bytes[used..]);
            self.move_out(index, shard, unread);
            return false;
        }
        true
    }

    /// STUN-8489-6.2.2-07
    fn lose_framing(&mut self, index: usize, path: FiveTuple) {
        self.home.counters.connections_lost_framing += 1;
        if let Some(veil) = self.home.room_for_line(self.clock.now) {
            debug!(event = "framing_lost", session = %veil.key.id(&path), client = %veil.address(path.client));
        }
        self.finish_connection(index);
    }

    fn on_stream_message(&mut self, index: usize, path: FiveTuple, message: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(index) else {
            return false;
        };
        if connection.binding_only && !is_binding(message) {
            self.home.counters.connections_not_binding += 1;
            if let Some(veil) = self.home.room_for_line(self.clock.now) {
                debug!(event = "not_binding", session = %veil.key.id(&path), client = %veil.address(path.client));
            }
            self.finish_connection(index);
            return false;
        }
        connection.last_message = self.clock.now;
        // Streams have no traffic class of their own messages (TURN-8656-15-01).
        let slot = self.insert(path.client, path.server, message, IpFields::default());
        self.serve_client(path, slot, Asker::Connection(index));
        let Some(connection) = self.connections.get_mut(index) else {
            return true;
        };
        if let Some((_, unread)) = &mut connection.leaving {
            unread.extend_from_slice(message);
            return false;
        }
        connection.joins.is_none()
    }

    /// Queues relayed data in a slot for a client, or drops it when the client does not keep up.
    pub(super) fn relay_to_stream(&mut self, to: &FiveTuple, slot: usize, bytes: Range<usize>) {
        let Some(index) = self.connections.index_of(to) else {
            self.home.counters.unsendable += 1;
            return;
        };
        self.streamed += 1;
        let connection = self.connections.get_mut(index).expect("the index knows only open ones");
        let message = &self.home.batch.slot(slot)[bytes];
        let mut is_queued = connection.out.push_data(message);
        if !is_queued && !connection.out.is_blocked() {
            // One batch can be more than may wait. What counts is whether the client takes it; if the connection is
            // gone instead, the end of the batch will find out.
            let _ = connection.write();
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

    /// Queues the reply; it is the last message of this connection.
    pub(super) fn answer_and_join(&mut self, index: usize, len: usize, connection: ConnectionId) {
        self.answer_stream(index, len);
        if let Some(client) = self.connections.get_mut(index) {
            client.joins = Some(connection);
        }
    }

    /// The same for a message that comes later.
    pub(super) fn bind_stream(&mut self, to: &FiveTuple, bytes: &[u8], id: ConnectionId) {
        match self.connections.index_of(to) {
            Some(index) => {
                if let Some(connection) = self.connections.get_mut(index) {
                    connection.out.push_control(bytes);
                }
                self.mark_dirty(index);
                // Nothing comes behind the request until it is answered (TCP-6062-4.3-02).
                self.join(index, id, &[]);
            }
            None => self.forget_peer(id),
        }
    }

    /// Queues a message that lies in no slot.
    pub(super) fn send_to_stream(&mut self, to: &FiveTuple, bytes: &[u8]) {
        let Some(index) = self.connections.index_of(to) else {
            self.home.counters.unsendable += 1;
            return;
        };
        if let Some(connection) = self.connections.get_mut(index) {
            // Who is told of what others do, and does not listen, is told no more: only answers must not be lost.
            if !is_indication(bytes) {
                connection.out.push_control(bytes);
            } else if !connection.out.push_data(bytes) {
                self.home.counters.send_buffer_drops += 1;
            }
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
            if let Err(error) = connection.write() {
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
        if let Some(connection) = self.connections.get_mut(index) {
            match connection.write() {
                Ok(()) => connection.stream.say_goodbye(),
                Err(error) => self.home.counters.socket_errors.count(&error),
            }
        }
        self.close_connection(index);
    }

    /// The same for all of them, at the end; their allocations have been ended already.
    pub(super) fn finish_connections(&mut self) {
        for (_, connection) in self.connections.iter_mut() {
            if connection.write().is_ok() {
                connection.stream.say_goodbye();
            }
        }
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
            from = index + 1;
            // Who waits for an answer is not silent (STUN-8489-6.2.2-03).
            if self.connections.get_mut(index).is_some_and(|client| self.server.waits_for_key(&client.path)) {
                continue;
            }
            self.home.counters.connections_idle += 1;
            self.finish_connection(index);
        }
        self.sweep_associations(deadline);
        for (_, connection) in self.connections.iter_mut() {
            connection.out.trim();
        }
    }
}

/// Whether a message of our own answers nobody's question.
fn is_indication(message: &[u8]) -> bool {
    matches!(message, [first, second, ..] if first & 0x01 == 0 && second & 0x10 != 0)
}

/// ALPN-7443-2-04: what a client of `stun.nat-discovery` may say.
pub(super) fn is_binding(message: &[u8]) -> bool {
    Message::parse(message).is_ok_and(|message| message.method() == Method::Binding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::{Class, MessageWriter, Seal, TransactionId};

    #[test]
    fn indications_are_told_from_answers() {
        for method in [Method::Data, Method::ConnectionAttempt, Method::Connect, Method::Allocate] {
            for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
                let mut message = [0; 64];
                MessageWriter::new(&mut message, method, class, TransactionId([0; 12])).finish(Seal::None, false);
                assert_eq!(is_indication(&message), class == Class::Indication, "{method:?} {class:?}");
            }
        }
    }
}
