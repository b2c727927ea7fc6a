//! Connections between TCP relays and peers (RFC 6062): accepted or made, kept unread until their client comes for them,
//! joined with the client's, closed.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry};
use tracing::warn;

use super::directory::{AllocationHeld, PeerConnectionHeld, RelayListed};
use super::reactor::Shard;
use super::splices::Splice;
use super::start::explain;
use super::token::Source;
use crate::net::{ClientStream, SocketErrorKind, clock, tcp_relay};
use crate::turn::{BindError, ConnectError, ConnectionId, FiveTuple, Now, RelayId};

/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 16;

/// Pause after running out of descriptors; peers wait in the kernel meanwhile.
const ACCEPT_PAUSE_SECS: u32 = 1;

/// The socket of a TCP relay.
#[derive(Debug)]
pub(super) struct TcpRelay {
    id: RelayId,
    listener: TcpListener,
    /// The client, from the moment its allocation is alive.
    pub(super) path: Option<FiveTuple>,
    is_queued: bool,
    /// Shared with the other half of the allocation, if there is one.
    held: Arc<AllocationHeld>,
    _listed: RelayListed,
}

#[derive(Debug)]
struct Peer {
    id: ConnectionId,
    stage: Stage,
    is_queued: bool,
    generation: u32,
    _held: PeerConnectionHeld,
}

#[derive(Debug)]
enum Stage {
    Connecting(TcpStream),
    /// Nothing is read, so that the kernel's buffer holds what the peer says, and its window holds the peer back
    /// (TCP-6062-5.3-03).
    Waiting(TcpStream),
    Joined(Box<Splice>),
    /// Between two of the others.
    Changing,
}

/// All of a shard.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// By [`RelayId::index`].
    relays: HashMap<usize, TcpRelay>,
    table: Vec<Option<Peer>>,
    free: Vec<usize>,
    by_id: HashMap<ConnectionId, usize>,
    generation: u32,
    /// Those that are not to be read before some moment, having used up their bandwidth. They count as queued.
    paused: BTreeSet<(Now, usize, u32)>,
}

impl Peers {
    /// When the first pause is over.
    pub(super) fn next_pause_over(&self) -> Option<Now> {
        self.paused.first().map(|(until, ..)| *until)
    }

    fn relay_by_token(&mut self, index: usize, generation: u32) -> Option<&mut TcpRelay> {
        let relay = self.relays.get_mut(&index)?;
        (Source::tcp_relay(relay.id) == Source::TcpRelay { index, generation }).then_some(relay)
    }

    pub(super) fn relay_mut(&mut self, id: RelayId) -> Option<&mut TcpRelay> {
        self.relays.get_mut(&id.index()).filter(|relay| relay.id == id)
    }

    /// Closes the socket, if it is open, and gives back what it counted for.
    pub(super) fn close_relay(&mut self, id: RelayId) -> Option<TcpRelay> {
        self.relay_mut(id)?;
        self.relays.remove(&id.index())
    }

    /// Takes in a connection and listens for events on it.
    fn insert(
        &mut self,
        registry: &Registry,
        id: ConnectionId,
        mut stream: TcpStream,
        stage: fn(TcpStream) -> Stage,
        held: PeerConnectionHeld,
    ) -> io::Result<()> {
        let index = self.free.pop().unwrap_or(self.table.len());
        if index == self.table.len() {
            self.table.push(None);
        }
        self.generation = self.generation.wrapping_add(1);
        let token = Source::peer(index, self.generation).token();
        if let Err(error) = registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE) {
            self.free.push(index);
            return Err(error);
        }
        let (stage, generation) = (stage(stream), self.generation);
        self.table[index] = Some(Peer { id, stage, is_queued: false, generation, _held: held });
        self.by_id.insert(id, index);
        Ok(())
    }

    fn by_token(&mut self, index: usize, generation: u32) -> Option<&mut Peer> {
        let peer = self.table.get_mut(index)?.as_mut()?;
        (Source::peer(index, peer.generation) == Source::Peer { index, generation }).then_some(peer)
    }

    fn by_id(&mut self, id: ConnectionId) -> Option<(usize, &mut Peer)> {
        let index = *self.by_id.get(&id)?;
        Some((index, self.table[index].as_mut().expect("the index knows only open ones")))
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Peer> {
        let index = self.by_id.remove(&id)?;
        self.free.push(index);
        self.table[index].take()
    }
}

impl Shard<'_> {
    /// Opens the socket of a TCP relay and begins to listen.
    pub(super) fn bind_tcp_relay(
        &mut self,
        relay: RelayId,
        local: SocketAddr,
        account: &Arc<str>,
        client: IpAddr,
    ) -> Result<(), BindError> {
        let held = match self.peers.relay_mut(relay.other_half()) {
            Some(other) => Arc::clone(&other.held),
            None => Arc::new(self.home.directory.hold_allocation(account, client)?),
        };
        let token = Source::tcp_relay(relay).token();
        let opened = tcp_relay::listen(local).and_then(|mut listener| {
            self.home.poll.registry().register(&mut listener, token, Interest::READABLE)?;
            Ok(listener)
        });
        let listener = opened.map_err(|error| self.bind_failed(local, &error))?;
        let listed = self.home.directory.list_relay(local);
        let relay = TcpRelay { id: relay, listener, path: None, is_queued: false, held, _listed: listed };
        self.peers.relays.insert(relay.id.index(), relay);
        Ok(())
    }

    pub(super) fn notice_tcp_relay(&mut self, index: usize, generation: u32) {
        if let Some(relay) = self.peers.relay_by_token(index, generation)
            && !std::mem::replace(&mut relay.is_queued, true)
        {
            self.ready.push_back(Source::TcpRelay { index, generation });
        }
    }

    /// Looks again at all of them, after a pause.
    pub(super) fn queue_tcp_relays(&mut self) {
        let all: Vec<RelayId> = self.peers.relays.values().map(|relay| relay.id).collect();
        for id in all {
            if let Source::TcpRelay { index, generation } = Source::tcp_relay(id) {
                self.notice_tcp_relay(index, generation);
            }
        }
    }

    /// Accepts peers that wait at a relay; whether there may be more.
    pub(super) fn accept_peers(&mut self, index: usize, generation: u32) -> bool {
        self.clock = clock::read();
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(relay) = self.peers.relay_by_token(index, generation) else {
                return false;
            };
            match relay.listener.accept() {
                Ok((stream, peer)) => {
                    let id = relay.id;
                    self.admit_peer(id, stream, peer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    relay.is_queued = false;
                    return false;
                }
                Err(error) => {
                    self.home.counters.socket_errors.count(&error);
                    if is_out_of_capacity(&error) {
                        warn!(event = "accept_failed", why = explain(&error));
                        self.accept_again = Some(self.clock.now.plus_secs(ACCEPT_PAUSE_SECS));
                        relay.is_queued = false;
                        return false;
                    }
                    // Anything else is about one connection that did not wait for us.
                }
            }
        }
        true
    }

    fn admit_peer(&mut self, relay: RelayId, stream: TcpStream, peer: SocketAddr) {
        let Some(held) = self.home.directory.hold_peer_connection(self.home.bounds.peer_connections) else {
            self.home.counters.peers_refused += 1;
            return;
        };
        if let Err(error) = tcp_relay::prepare(&stream) {
            return self.home.counters.socket_errors.count(&error);
        }
        if let Some(id) = self.server.peer_accepted(self.clock, relay, peer)
            && let Err(error) = self.peers.insert(self.home.poll.registry(), id, stream, Stage::Waiting, held)
        {
            self.home.counters.socket_errors.count(&error);
            self.server.peer_closed(id);
        }
        self.drain_effects();
    }

    /// Closes a connection that is over, and tells the machine.
    pub(super) fn forget_peer(&mut self, id: ConnectionId) {
        self.peers.remove(id);
        self.server.peer_closed(id);
        self.drain_effects();
    }

    /// Begins to connect to a peer; after an error there is no connection.
    pub(super) fn connect_peer(
        &mut self,
        id: ConnectionId,
        local: SocketAddr,
        to: SocketAddr,
        relays_only: bool,
    ) -> Result<(), ConnectError> {
        if relays_only && !self.home.directory.is_listed(to) {
            return Err(ConnectError::Failed);
        }
        let Some(held) = self.home.directory.hold_peer_connection(self.home.bounds.peer_connections) else {
            self.home.counters.peers_refused += 1;
            return Err(ConnectError::OutOfCapacity);
        };
        let registry = self.home.poll.registry();
        let begun = tcp_relay::connect(local, to)
            .and_then(|stream| self.peers.insert(registry, id, stream, Stage::Connecting, held));
        begun.map_err(|error| {
            self.home.counters.socket_errors.count(&error);
            if is_out_of_capacity(&error) { ConnectError::OutOfCapacity } else { ConnectError::Failed }
        })
    }

    /// Something has happened to the connection of a peer, or to that of the client behind it.
    pub(super) fn notice_peer(&mut self, event: &Event, index: usize, generation: u32, is_client: bool) {
        let Some(peer) = self.peers.by_token(index, generation) else {
            return;
        };
        match &mut peer.stage {
            Stage::Joined(splice) if event.is_writable() && is_client => splice.client.unblock(),
            Stage::Joined(splice) if event.is_writable() => splice.peer.unblock(),
            _ => {}
        }
        if !std::mem::replace(&mut peer.is_queued, true) {
            self.ready.push_back(Source::Peer { index, generation });
        }
    }

    /// Goes on with a connection; whether there may be more to do.
    pub(super) fn serve_peer(&mut self, index: usize, generation: u32) -> bool {
        let Some(peer) = self.peers.by_token(index, generation) else {
            return false;
        };
        let id = peer.id;
        let has_more = match &mut peer.stage {
            Stage::Connecting(stream) => {
                let outcome = tcp_relay::outcome(stream);
                if !matches!(outcome, Ok(false)) {
                    self.connecting_ended(id, outcome);
                }
                false
            }
            Stage::Joined(splice) => {
                let moved = splice.turn(&mut self.stream_bytes);
                let is_over = splice.is_over();
                self.clock = clock::read();
                let pause = self.server.peer_relayed(self.clock, id, moved.bytes_to_peer, moved.bytes_to_client);
                if is_over {
                    self.forget_peer(id);
                } else if let Some(until) = pause {
                    self.peers.paused.insert((until, index, generation));
                    return false;
                }
                !is_over && moved.has_more
            }
            Stage::Waiting(_) | Stage::Changing => false,
        };
        if !has_more && let Some(peer) = self.peers.by_token(index, generation) {
            peer.is_queued = false;
        }
        has_more
    }

    /// Those go on whose pause is over.
    pub(super) fn end_pauses(&mut self, now: Now) {
        while let Some((until, index, generation)) = self.peers.paused.first().copied()
            && until <= now
        {
            self.peers.paused.pop_first();
            self.ready.push_back(Source::Peer { index, generation });
        }
    }

    fn connecting_ended(&mut self, id: ConnectionId, outcome: io::Result<bool>) {
        let result = match outcome {
            Ok(_) => {
                if let Some((_, peer)) = self.peers.by_id(id)
                    && let Stage::Connecting(stream) = std::mem::replace(&mut peer.stage, Stage::Changing)
                {
                    peer.stage = Stage::Waiting(stream);
                }
                Ok(())
            }
            Err(error) => {
                self.home.counters.socket_errors.count(&error);
                self.peers.remove(id);
                Err(ConnectError::Failed)
            }
        };
        self.clock = clock::read();
        self.server.peer_connected(self.clock, id, result);
        self.drain_effects();
    }

    /// Takes a client's connection out of the table of those that carry messages, and joins it with a peer's. `unread`
    /// is what came behind the ConnectionBind (TCP-6062-5.4-05).
    pub(super) fn join(&mut self, client: usize, id: ConnectionId, unread: &[u8]) {
        let Some(connection) = self.connections.close(client) else {
            return;
        };
        // It has said its last message, and its end will be the splice's.
        self.server.came_to(connection.path, None);
        let (mut stream, out, held) = connection.into_parts();
        let Some((index, peer)) = self.peers.by_id(id) else {
            return self.forget_peer(id);
        };
        let generation = peer.generation;
        let token = Source::PeerClient { index, generation: Source::cut(generation) }.token();
        let interest = Interest::READABLE | Interest::WRITABLE;
        // Ready sockets are announced again under the new name.
        let registered = self.home.poll.registry().reregister(stream.tcp(), token, interest);
        let waiting = std::mem::replace(&mut peer.stage, Stage::Changing);
        let (Stage::Waiting(waiting), Ok(())) = (waiting, registered) else {
            return self.forget_peer(id);
        };
        let mut splice = Splice::new(stream, out, held, ClientStream::Tcp(waiting));
        splice.send_to_peer(unread);
        peer.stage = Stage::Joined(Box::new(splice));
        if !std::mem::replace(&mut peer.is_queued, true) {
            self.ready.push_back(Source::peer(index, generation));
        }
        self.server.peer_relayed(self.clock, id, unread.len() as u64, 0);
    }

    /// Closes a connection to a peer, and the client's with it.
    pub(super) fn close_peer(&mut self, id: ConnectionId) {
        if let Some(Peer { stage: Stage::Joined(splice), .. }) = self.peers.remove(id) {
            splice.finish();
        }
    }
}

fn is_out_of_capacity(error: &io::Error) -> bool {
    matches!(SocketErrorKind::of(error), SocketErrorKind::OutOfDescriptors | SocketErrorKind::NoBuffers)
}
