//! The sockets of this shard's relayed transport addresses, found by index.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use std::os::fd::AsRawFd;

use super::directory::AllocationHeld;
use super::token::Source;
use crate::net::UdpSocket;
use crate::turn::{FiveTuple, RelayId};

#[derive(Debug)]
pub(super) struct Relay {
    pub(super) id: RelayId,
    pub(super) socket: UdpSocket,
    /// The client, from the moment its allocation is alive, while it is in reach.
    pub(super) path: Option<FiveTuple>,
    /// Whether it stands in the queue of sockets to read.
    pub(super) is_queued: bool,
    /// Whether epoll has spoken of an error that was not looked at yet.
    pub(super) has_errors: bool,
    /// Where the last datagram should have gone that was too large for our own link.
    pub(super) too_large: Option<SocketAddr>,
    /// What the kernel last said it had dropped here.
    pub(super) queue_drops: u32,
    /// Shared with the other half of the allocation, if there is one.
    pub(super) held: Arc<AllocationHeld>,
}

/// A dense table: index to socket, without hashing.
#[derive(Debug, Default)]
pub(super) struct Relays {
    table: Vec<Option<Relay>>,
}

impl Relays {
    /// Takes a bound socket in and listens for datagrams on it.
    pub(super) fn open(
        &mut self,
        registry: &Registry,
        id: RelayId,
        socket: UdpSocket,
        held: Arc<AllocationHeld>,
    ) -> io::Result<()> {
        let token = Source::relay(id).token();
        registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        let index = id.index();
        if self.table.len() <= index {
            self.table.resize_with(index + 1, || None);
        }
        self.table[index] = Some(Relay {
            id,
            socket,
            path: None,
            is_queued: false,
            has_errors: false,
            too_large: None,
            queue_drops: 0,
            held,
        });
        Ok(())
    }

    /// Closes the socket, if it is open, and gives back what it counted for. The kernel takes it out of epoll.
    pub(super) fn close(&mut self, id: RelayId) -> Option<Relay> {
        self.table.get_mut(id.index())?.take_if(|relay| relay.id == id)
    }

    pub(super) fn get(&self, id: RelayId) -> Option<&Relay> {
        self.table.get(id.index())?.as_ref().filter(|relay| relay.id == id)
    }

    pub(super) fn get_mut(&mut self, id: RelayId) -> Option<&mut Relay> {
        self.table.get_mut(id.index())?.as_mut().filter(|relay| relay.id == id)
    }

    /// Whoever an event token means, if it is still there.
    pub(super) fn by_token(&mut self, index: usize, generation: u32) -> Option<&mut Relay> {
        let relay = self.table.get_mut(index)?.as_mut()?;
        (Source::relay(relay.id) == Source::Relay { index, generation }).then_some(relay)
    }
}
