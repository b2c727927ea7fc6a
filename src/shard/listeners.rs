//! The sockets clients come to. They belong to the thread, not to the server in it: when that panics, the next one
//! goes on with the same sockets, and the kernel keeps sending each client to the same shard.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Interest, Registry};

use super::ListenAddress;
use super::token::Source;
use crate::net::UdpSocket;

#[derive(Debug)]
pub(super) struct Listeners {
    all: Vec<Listener>,
    has_proxies: bool,
}

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) kind: Kind,
    pub(super) listen: ListenAddress,
    /// Whether it stands in the queue of sockets to read.
    pub(super) is_queued: bool,
    /// What the kernel last said it had dropped here.
    pub(super) queue_drops: u32,
}

#[derive(Debug)]
pub(super) enum Kind {
    Udp(UdpSocket),
    Tcp(TcpListener),
}

impl Listeners {
    /// Registers all of them.
    pub(super) fn new(kinds: Vec<(ListenAddress, Kind)>, registry: &Registry) -> io::Result<Self> {
        let mut all = Vec::with_capacity(kinds.len());
        for (index, (listen, mut kind)) in kinds.into_iter().enumerate() {
            let token = Source::Listener(index).token();
            match &mut kind {
                Kind::Udp(socket) => {
                    registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
                }
                Kind::Tcp(listener) => registry.register(listener, token, Interest::READABLE)?,
            }
            all.push(Listener { kind, listen, is_queued: false, queue_drops: 0 });
        }
        let has_proxies = all.iter().any(|listener| listener.listen.options.proxy_protocol);
        Ok(Self { all, has_proxies })
    }

    /// Whether clients come to any of them through a proxy.
    pub(super) const fn has_proxies(&self) -> bool {
        self.has_proxies
    }

    /// Whether clients speak DTLS to any of them.
    pub(super) fn speak_dtls(&self) -> bool {
        self.all.iter().any(|listener| listener.listen.speaks_dtls())
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, index: usize) -> &Listener {
        &self.all[index]
    }

    pub(super) fn get_mut(&mut self, index: usize) -> &mut Listener {
        &mut self.all[index]
    }

    /// The UDP socket that answers from this address: the one bound to it, else a wildcard one of its port. There are
    /// a handful, so looking at each is faster than hashing.
    pub(super) fn udp_for(&self, server: SocketAddr) -> Option<usize> {
        let mut wildcard = None;
        for (index, listener) in self.all.iter().enumerate() {
            let Kind::Udp(socket) = &listener.kind else { continue };
            let local = socket.local_address();
            if local.port() != server.port() || local.is_ipv4() != server.is_ipv4() {
                continue;
            }
            if local.ip() == server.ip() {
                return Some(index);
            }
            if socket.is_wildcard() {
                wildcard = Some(index);
            }
        }
        wildcard
    }
}
