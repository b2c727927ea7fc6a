//! One thread, one `turn::Server`, its sockets: the loop, the mailbox, the directory.
//!
//! Lives here: what turns verdicts and effects into system calls. Each shard owns the listener sockets of its place in
//! the SO_REUSEPORT groups and every relay socket of the allocations it accepted, so that nothing on the packet path
//! is locked or shared. May import `stun`, `turn` and `net`. Protocol decisions are in `turn`; system calls in `net`.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::turn;

/// What the shards are to do; `crate::config` makes it from what the operator wrote.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many shards (threads), at least 1.
    pub count: u16,
    /// Where to listen. A port of 0 takes a free one, the same for all shards.
    pub listen: Vec<ListenAddress>,
    /// Bounds for TCP clients.
    pub connections: ConnectionLimits,
    /// SO_RCVBUF and SO_SNDBUF asked for on every UDP socket of a listener, in bytes.
    pub socket_buffer_bytes: usize,
    /// The same for each relay socket.
    pub relay_socket_buffer_bytes: usize,
    /// Counted over all shards.
    pub quotas: Quotas,
    /// For the machine in each shard.
    pub turn: Arc<turn::Config>,
}

/// One address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// UDP or TCP.
    pub transport: turn::Transport,
    /// Address and port.
    pub address: SocketAddr,
    /// A failure to bind is fatal. Built-in defaults are not required, so that a machine without IPv6 still serves.
    pub required: bool,
}

/// Bounds for TCP clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections, over all shards.
    pub total: usize,
    /// Open connections from one client address (IPv4) or /64 (IPv6).
    pub per_address: usize,
    /// Bytes waiting for a client that reads slowly; beyond it relayed data is dropped (TURN-8656-LIFE-04).
    pub send_buffer_bytes: usize,
    /// A connection without an allocation and without a message for this long is closed.
    pub idle_secs: u32,
}

/// Counted over all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Allocations alive at the same time: 508 beyond.
    pub allocations: usize,
    /// Allocations of one account alive at the same time: 486 beyond.
    pub allocations_per_account: usize,
}
