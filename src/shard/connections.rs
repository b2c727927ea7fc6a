//! Connections of clients, over TCP or TLS: who they are, what waits for them, and how long they may be silent.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use mio::{Interest, Registry};

use super::directory::ConnectionHeld;
use super::token::Source;
use crate::net::ClientStream;
use crate::net::tcp::{PartialMessage, SendBuffer};
use crate::turn::{ConnectionId, FiveTuple, Now};

/// A connection that may stay.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: ClientStream,
    pub(super) path: FiveTuple,
    pub(super) held: ConnectionHeld,
    /// The client wants Binding and nothing else.
    pub(super) binding_only: bool,
}

/// A connection on its way to another shard, where its client has business.
#[derive(Debug)]
pub(super) struct Moving {
    connection: Connection,
    /// Bytes that were read before and are to be served where it arrives.
    unread: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) path: FiveTuple,
    pub(super) stream: ClientStream,
    pub(super) partial: PartialMessage,
    pub(super) out: SendBuffer,
    /// When the last whole message came.
    pub(super) last_message: Now,
    /// Its first bytes have come, and looked like STUN.
    pub(super) has_spoken: bool,
    /// Allocations of this client; with one, silence is no reason to close.
    pub(super) allocations: usize,
    /// Whether it stands in the queue of sockets to read.
    pub(super) is_queued: bool,
    /// Whether it stands in the list of those to write.
    pub(super) is_dirty: bool,
    /// Reading was stopped because too many answers wait.
    pub(super) is_paused: bool,
    /// The other side has said it will send no more: read on until that is reached.
    pub(super) is_read_closed: bool,
    /// Other methods than Binding are not for this connection (ALPN-7443-2-04).
    pub(super) binding_only: bool,
    /// Where its client has come to by the name that it asked for.
    pub(super) realm: Option<Arc<str>>,
    /// It came from another shard, and stays.
    pub(super) has_moved: bool,
    /// The shard where its last message is to be served, and that message.
    pub(super) leaving: Option<(u16, Vec<u8>)>,
    /// The peer's connection that it is joined with once the message being served is done with.
    pub(super) joins: Option<ConnectionId>,
    generation: u32,
    held: ConnectionHeld,
}

impl Moving {
    /// Stops listening for events here.
    pub(super) fn new(registry: &Registry, mut connection: Connection, unread: Vec<u8>) -> io::Result<Self> {
        registry.deregister(connection.stream.tcp())?;
        Ok(Self { connection, unread })
    }

    pub(super) fn path(&self) -> &FiveTuple {
        &self.connection.path
    }

    pub(super) fn into_parts(self) -> (Connection, Vec<u8>) {
        (self.connection, self.unread)
    }
}

impl Connection {
    /// Whether something waits for the client to read.
    pub(super) fn wants_write(&self) -> bool {
        !self.out.is_empty() || self.stream.wants_write()
    }

    /// Writes until nothing waits or the client takes no more.
    pub(super) fn write(&mut self) -> io::Result<()> {
        self.out.write_to(&mut self.stream)
    }

    /// What is left of it when it carries no more messages: the stream, and the answers that wait.
    pub(super) fn into_parts(self) -> (ClientStream, SendBuffer, ConnectionHeld) {
        (self.stream, self.out, self.held)
    }

    /// Its event source.
    pub(super) fn source(&self, index: usize) -> Source {
        Source::connection(index, self.generation)
    }
}

/// All connections of a shard, by index and by 5-tuple.
#[derive(Debug)]
pub(super) struct Connections {
    table: Vec<Option<Connection>>,
    free: Vec<usize>,
    by_path: HashMap<FiveTuple, usize, ahash::RandomState>,
    generation: u32,
}

impl Connections {
    /// None yet.
    pub(super) fn new(hasher: ahash::RandomState) -> Self {
        Self { table: Vec::new(), free: Vec::new(), by_path: HashMap::with_hasher(hasher), generation: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.by_path.len()
    }

    /// Takes an accepted connection in and listens for events on it; its index. Its 5-tuple must be new here.
    pub(super) fn open(
        &mut self,
        registry: &Registry,
        accepted: Accepted,
        send_buffer_bytes: usize,
        now: Now,
    ) -> io::Result<usize> {
        let Accepted { stream, path, held, binding_only } = accepted;
        let connection = Connection {
            path,
            stream,
            partial: PartialMessage::default(),
            out: SendBuffer::new(send_buffer_bytes),
            last_message: now,
            has_spoken: false,
            allocations: 0,
            is_queued: false,
            is_dirty: false,
            is_paused: false,
            is_read_closed: false,
            binding_only,
            realm: None,
            has_moved: false,
            leaving: None,
            joins: None,
            generation: 0,
            held,
        };
        self.insert(registry, connection)
    }

    /// Takes in a connection that comes from another shard; its index. Its 5-tuple must be new here.
    pub(super) fn move_in(&mut self, registry: &Registry, connection: Connection) -> io::Result<usize> {
        self.insert(registry, Connection { is_queued: false, is_dirty: false, has_moved: true, ..connection })
    }

    fn insert(&mut self, registry: &Registry, mut connection: Connection) -> io::Result<usize> {
        debug_assert!(!self.by_path.contains_key(&connection.path));
        let index = self.free.pop().unwrap_or(self.table.len());
        self.generation = self.generation.wrapping_add(1);
        connection.generation = self.generation;
        let token = connection.source(index).token();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = registry.register(connection.stream.tcp(), token, interest) {
            self.forget(index);
            return Err(error);
        }
        let path = connection.path;
        if index == self.table.len() {
            self.table.push(None);
        }
        self.table[index] = Some(connection);
        self.by_path.insert(path, index);
        Ok(index)
    }

    fn forget(&mut self, index: usize) {
        if index < self.table.len() {
            self.free.push(index);
        }
    }

    /// Takes a connection out of the table; dropping it closes it.
    pub(super) fn close(&mut self, index: usize) -> Option<Connection> {
        let connection = self.table.get_mut(index)?.take()?;
        self.by_path.remove(&connection.path);
        self.free.push(index);
        Some(connection)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Connection> {
        self.table.get_mut(index)?.as_mut()
    }

    /// Whoever an event token means, if it is still there.
    pub(super) fn by_token(&mut self, index: usize, generation: u32) -> Option<&mut Connection> {
        let connection = self.table.get_mut(index)?.as_mut()?;
        (connection.source(index) == Source::Connection { index, generation }).then_some(connection)
    }

    pub(super) fn index_of(&self, path: &FiveTuple) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    /// The first connection from `index` on that has been silent since before `deadline` without an allocation.
    pub(super) fn next_idle(&self, index: usize, deadline: Now) -> Option<usize> {
        (index..self.table.len()).find(|&index| {
            self.table[index]
                .as_ref()
                .is_some_and(|connection| connection.allocations == 0 && connection.last_message < deadline)
        })
    }

    /// Every connection with its index.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Connection)> {
        self.table.iter_mut().enumerate().filter_map(|(index, place)| Some((index, place.as_mut()?)))
    }
}
