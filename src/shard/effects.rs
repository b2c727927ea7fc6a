//! What the machine asks for besides sending: sockets opened and closed, late answers, lines in the log.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tracing::warn;

use super::keys::KeyQuestion;
use super::mailbox::Command;
use super::reactor::Shard;
use super::start::explain;
use super::usage::Tidings;
use crate::net::UdpSocket;
use crate::turn::{BindError, Effect, Event, FiveTuple, PeerTransport, RelayId, Transport};

/// At most one line in this many seconds about sockets that cannot be bound; the counters have the rest.
const BIND_WARNING_SECS: u32 = 10;

impl Shard<'_> {
    /// To be called after every call of the machine, until nothing is left.
    pub(super) fn drain_effects(&mut self) {
        while let Some(effect) = self.server.next_effect() {
            match effect {
                Effect::BindRelay { relay, local, transport, account, client } => {
                    let result = match transport {
                        PeerTransport::Udp => self.bind_relay(relay, local, &account, client),
                        PeerTransport::Tcp => self.bind_tcp_relay(relay, local, &account, client),
                    };
                    self.server.relay_bound(self.clock, relay, result);
                }
                Effect::CloseRelay { relay, account: _ } => self.close_relay(relay),
                Effect::ConnectPeer { connection, local, to, relays_only } => {
                    if let Err(error) = self.connect_peer(connection, local, to, relays_only) {
                        self.server.peer_connected(self.clock, connection, Err(error));
                    }
                }
                Effect::ClosePeer { connection } => self.close_peer(connection),
                Effect::Send { to, bytes } => match to.transport {
                    Transport::Udp => self.send_now(to, &bytes),
                    Transport::Tcp | Transport::Tls => self.send_to_stream(&to, &bytes),
                    Transport::Dtls => self.send_to_association(&to, &bytes),
                },
                Effect::FindKey { ticket, realm, who } => {
                    let mailboxes = Arc::clone(&self.home.mailboxes);
                    let shard = self.home.place.index;
                    (self.home.find_key)(KeyQuestion::new(mailboxes, shard, ticket, realm, who));
                }
                Effect::Bound { to, bytes, connection } => self.bind_stream(&to, &bytes, connection),
                Effect::Tell { shard, letter } => {
                    let from = self.home.place.index;
                    self.home.mailboxes[usize::from(shard)].command(Command::Letter { from, letter });
                }
                Effect::Record(event) => {
                    self.note_client(&event);
                    let veil = self.home.veil();
                    self.home.lines.write(self.clock.now, &veil, &event);
                    self.home.recorder.note(self.clock.now, &veil, &event);
                    if let Some(accountant) = &self.home.accountant {
                        accountant.tell(self.home.place.index, Tidings::Event(&event));
                    }
                }
            }
        }
    }

    fn bind_relay(
        &mut self,
        relay: RelayId,
        local: SocketAddr,
        account: &Arc<str>,
        client: IpAddr,
    ) -> Result<(), BindError> {
        // Two halves of one allocation count once, for as long as one of them lives.
        let held = match self.relays.get(relay.other_half()) {
            Some(other) => Arc::clone(&other.held),
            None => Arc::new(self.home.directory.hold_allocation(account, client)?),
        };
        UdpSocket::relay(local, self.home.bounds.relay_socket_buffer_bytes, self.home.config.icmp)
            .and_then(|socket| self.relays.open(self.home.poll.registry(), relay, socket, held))
            .map_err(|error| self.bind_failed(local, &error))
    }

    pub(super) fn bind_failed(&mut self, local: SocketAddr, error: &io::Error) -> BindError {
        if error.kind() == io::ErrorKind::AddrInUse {
            return BindError::PortInUse;
        }
        self.home.counters.socket_errors.count(error);
        let now = self.clock.now;
        if self.bind_warned.is_none_or(|warned| warned.plus_secs(BIND_WARNING_SECS) <= now) {
            self.bind_warned = Some(now);
            warn!(event = "relay_bind_failed", address = %local, why = explain(error));
        }
        BindError::OutOfCapacity
    }

    fn close_relay(&mut self, relay: RelayId) {
        // Data that came before the end still leaves through this socket.
        if self.is_sending_from(relay) {
            self.send_datagrams();
        }
        let path = match self.relays.close(relay) {
            Some(closed) => closed.path,
            None => self.peers.close_relay(relay).and_then(|closed| closed.path),
        };
        if let Some(path) = path {
            self.count_allocation(&path, false);
        }
    }

    /// Remembers whose relay it is: a connection with an allocation may be silent.
    fn note_client(&mut self, event: &Event) {
        match event {
            Event::Allocated { relay, path, .. } => self.note_path(*relay, Some(*path)),
            Event::Moved { relay, to, .. } => {
                self.note_path(*relay, *to);
                self.note_path(relay.other_half(), *to);
            }
            _ => {}
        }
    }

    fn note_path(&mut self, relay: RelayId, path: Option<FiveTuple>) {
        let noted = match self.relays.get_mut(relay) {
            Some(relay) => &mut relay.path,
            None => match self.peers.relay_mut(relay) {
                Some(relay) => &mut relay.path,
                None => return,
            },
        };
        if let Some(left) = std::mem::replace(noted, path) {
            self.count_allocation(&left, false);
        }
        if let Some(path) = path {
            self.count_allocation(&path, true);
        }
    }

    fn count_allocation(&mut self, path: &FiveTuple, is_more: bool) {
        self.associations.count_allocation(path, is_more, self.clock.now);
        if is_more {
            self.routes.hold(path);
        } else {
            self.routes.release(path);
        }
        if let Some(index) = self.connections.index_of(path)
            && let Some(connection) = self.connections.get_mut(index)
        {
            connection.allocations =
                if is_more { connection.allocations + 1 } else { connection.allocations.saturating_sub(1) };
            connection.last_message = self.clock.now;
        }
    }
}
