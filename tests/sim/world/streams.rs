//! TCP connections: bytes in order, cut anywhere, framed by the server's own `stun::stream`.

use hairpin::stun::stream::{Frame, next_frame};
use hairpin::turn::FiveTuple;

use super::{Connection, World};
use crate::dice::Dice;
use crate::network::Happening;

impl World {
    pub(super) fn connect(&mut self, client: usize) {
        let path = self.clients[client].path;
        self.clients[client].connection = Some(self.connections.len());
        self.connections.push(Connection {
            path,
            client,
            open: true,
            received: Vec::new(),
            last_at_server: self.now,
            last_at_client: self.now,
        });
    }

    pub(super) fn stream_to_client(&mut self, path: FiveTuple, bytes: &[u8]) {
        let found = self.connections.iter().rposition(|connection| connection.path == path && connection.open);
        let Some(index) = found else {
            return; // closed meanwhile
        };
        let latency = self.network.latency(&mut self.dice);
        let connection = &mut self.connections[index];
        connection.last_at_client = connection.last_at_client.max(self.now + latency);
        for piece in split(&mut self.dice, bytes) {
            let happening = Happening::StreamAtClient { connection: index, bytes: piece };
            self.network.at(connection.last_at_client, happening);
        }
    }

    pub(super) fn stream_to_server(&mut self, index: usize, bytes: &[u8]) {
        let latency = self.network.latency(&mut self.dice);
        for piece in split(&mut self.dice, bytes) {
            let connection = &mut self.connections[index];
            connection.last_at_server = connection.last_at_server.max(self.now + latency);
            let happening = Happening::StreamAtServer { connection: index, bytes: piece };
            self.network.at(connection.last_at_server, happening);
        }
    }

    pub(super) fn stream_at_server(&mut self, index: usize, bytes: &[u8]) {
        if !self.connections[index].open {
            return;
        }
        self.connections[index].received.extend(bytes);
        loop {
            let connection = &mut self.connections[index];
            match next_frame(&connection.received) {
                Ok(Frame::Complete { len }) => {
                    let frame: Vec<u8> = connection.received.drain(..len).collect();
                    let path = connection.path;
                    self.shell.message_from_client(self.clock(), path, &frame);
                }
                Ok(Frame::Incomplete { needed }) => {
                    assert!(needed > connection.received.len());
                    return;
                }
                Err(_) => return self.close(index),
            }
        }
    }

    pub(super) fn close(&mut self, index: usize) {
        if std::mem::replace(&mut self.connections[index].open, false) {
            let path = self.connections[index].path;
            self.shell.path_closed(self.clock(), path);
        }
    }
}

/// TCP keeps bytes, not borders.
fn split(dice: &mut Dice, bytes: &[u8]) -> Vec<Vec<u8>> {
    if bytes.len() < 2 || dice.chance(60) {
        return vec![bytes.to_vec()];
    }
    let at = 1 + dice.below(bytes.len() as u64 - 1) as usize;
    vec![bytes[..at].to_vec(), bytes[at..].to_vec()]
}
