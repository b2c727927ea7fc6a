//! Clients come, act, are moved by their NAT, and go.

use std::net::SocketAddr;

use hairpin::turn::{FiveTuple, Transport};

use super::{Client, Nature, World};
use crate::network::{Happening, MILLISECOND};
use crate::polite::{Polite, Wishes};
use crate::rude::{Rude, Sights};
use crate::rules::{PEERS, SERVERS, address};

impl World {
    pub(super) fn add_client(&mut self) {
        let index = self.clients.len();
        let server = address(self.dice.pick(&SERVERS));
        let local = if server.is_ipv6() { "[2600::1]:5000" } else { "192.168.1.2:5000" };
        let is_stream = self.dice.chance(30);
        let transport = if is_stream { Transport::Tcp } else { Transport::Udp };
        let local = address(local);
        let client = self.outside(local);
        let path = FiveTuple { transport, client, server };
        let nature = if self.dice.chance(self.polite_percent) {
            let mut polite = Polite::new(&mut self.dice, is_stream, local, server, self.now);
            polite.may_delete &= !self.is_calm;
            Nature::Polite(Box::new(polite))
        } else {
            let unix_secs = self.clock().unix_secs;
            Nature::Rude(Box::new(Rude::new(&mut self.dice, is_stream, unix_secs)))
        };
        self.clients.push(Client { nature, local, path, connection: None, lives_left: 2, active: true, wake_at: 0 });
        self.by_path.insert(path, index);
        if is_stream {
            self.connect(index);
        }
        let wake_at = self.now + 1 + self.dice.below(5000) * MILLISECOND;
        self.wake(index, wake_at);
    }

    /// The address a NAT gives a client, never used before.
    pub(super) fn outside(&mut self, local: SocketAddr) -> SocketAddr {
        self.ports_used += 1;
        let ip = if local.is_ipv6() { local.ip() } else { address("198.18.0.1:1").ip() };
        SocketAddr::new(ip, 10_000 + self.ports_used)
    }

    pub(super) fn receive(&mut self, client: usize, bytes: &[u8]) {
        let (now, is_calm) = (self.now, self.is_calm);
        let (ledger, statistics) = (&mut self.ledger, &mut self.shell.statistics);
        let got = |peer: SocketAddr, data: &[u8]| {
            statistics.received_by_clients += 1;
            ledger.check(data);
            if is_calm {
                ledger.received(client, peer, data);
            }
        };
        match &mut self.clients[client].nature {
            Nature::Rude(rude) => rude.receive(bytes, got),
            Nature::Polite(polite) => {
                let wishes = polite.receive(now, bytes, got);
                self.grant(client, Wishes { finished: false, ..wishes });
            }
        }
    }

    pub(super) fn client_wakes(&mut self, client: usize) {
        if !self.clients[client].active {
            return;
        }
        let leaves = match &mut self.clients[client].nature {
            Nature::Rude(rude) => rude.leaves(&mut self.dice),
            Nature::Polite(_) => false,
        };
        if leaves {
            // It changes networks. The connection it had may end now or never.
            if let Some(connection) = self.clients[client].connection
                && self.dice.chance(60)
            {
                let delay = self.dice.below(60_000) * MILLISECOND;
                self.network.at(self.now + 1 + delay, Happening::StreamClosedAtServer { connection });
            }
            self.rebind(client);
        }
        let relayed = self.shell.relayed_addresses();
        let (now, unix_secs) = (self.now, self.clock().unix_secs);
        let overheard: Vec<Vec<u8>> = self
            .clients
            .iter()
            .filter_map(|other| match &other.nature {
                Nature::Rude(rude) => rude.nonce().cloned(),
                Nature::Polite(_) => None,
            })
            .collect();
        let told = |what: fn(&Rude) -> &[Vec<u8>]| -> Vec<Vec<u8>> {
            let all = self.clients.iter().filter_map(|other| match &other.nature {
                Nature::Rude(rude) => Some(what(rude)),
                Nature::Polite(_) => None,
            });
            all.flatten().cloned().collect()
        };
        let (tickets, tokens) = (told(Rude::tickets), told(Rude::tokens));
        let must_stay = self.is_calm && self.is_anybody_busy();
        let wishes = match &mut self.clients[client].nature {
            Nature::Polite(polite) => {
                polite.must_stay = must_stay;
                let mut peers: Vec<SocketAddr> = PEERS.iter().map(|text| address(text)).collect();
                peers.extend(relayed);
                polite.wake(&mut self.dice, now, &peers, &mut self.ledger)
            }
            Nature::Rude(rude) => {
                let sights =
                    Sights { unix_secs, relayed: &relayed, overheard: &overheard, tickets: &tickets, tokens: &tokens };
                rude.wake(&mut self.dice, now, &sights, &mut self.ledger)
            }
        };
        self.grant(client, wishes);
    }

    pub(super) fn wake(&mut self, client: usize, at: u64) {
        self.clients[client].wake_at = at;
        self.network.at(at, Happening::ClientWakes { client });
    }

    /// Sends a client's messages; a client that is finished comes back as another one, or not at all.
    pub(super) fn grant(&mut self, index: usize, wishes: Wishes) {
        let (path, connection) = (self.clients[index].path, self.clients[index].connection);
        for bytes in wishes.messages {
            match connection {
                None => {
                    let copy = || Happening::DatagramAtServer { path, bytes: bytes.clone() };
                    self.network.send(&mut self.dice, self.now, copy);
                }
                Some(index) => self.stream_to_server(index, &bytes),
            }
        }
        if wishes.finished {
            self.finish(index);
        } else if let Some(wake_at) = wishes.wake_at {
            self.wake(index, wake_at);
        }
    }

    pub(super) fn finish(&mut self, index: usize) {
        self.clients[index].active = false;
        if self.is_calm {
            return; // still there to receive
        }
        if let Some(connection) = self.clients[index].connection
            && self.dice.chance(60)
        {
            let time = self.connections[connection].last_at_server.max(self.now) + 1;
            self.network.at(time, Happening::StreamClosedAtServer { connection });
        }
        if self.clients[index].lives_left > 0 && matches!(self.clients[index].nature, Nature::Polite(_)) {
            self.clients[index].lives_left -= 1;
            self.clients[index].active = true;
            self.rebind(index);
            let (local, path) = (self.clients[index].local, self.clients[index].path);
            let is_stream = path.transport.is_stream();
            let reborn = Polite::new(&mut self.dice, is_stream, local, path.server, self.now);
            self.clients[index].nature = Nature::Polite(Box::new(reborn));
            let wake_at = self.now + 1 + self.dice.below(400_000) * MILLISECOND;
            self.wake(index, wake_at);
        }
    }

    /// The NAT forgets a client: it comes from another address now, over another connection.
    pub(super) fn rebind(&mut self, index: usize) {
        let old = self.clients[index].path;
        self.by_path.remove(&old);
        let client = self.outside(self.clients[index].local);
        let path = FiveTuple { client, ..old };
        self.clients[index].path = path;
        self.by_path.insert(path, index);
        if path.transport.is_stream() {
            self.connect(index);
        }
    }

    pub(super) fn is_anybody_busy(&self) -> bool {
        self.clients.iter().any(|client| {
            client.active
                && match &client.nature {
                    Nature::Polite(polite) => polite.is_busy(),
                    Nature::Rude(rude) => rude.is_busy(),
                }
        })
    }
}
