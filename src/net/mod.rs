//! Sockets and system calls; the only room with sockets, and nearly the only one with `unsafe`.
//!
//! Lives here: UDP sockets set up for serving and relaying ([`UdpSocket`]), batches of datagrams in ([`ReceiveBatch`])
//! and out ([`SendBatch`]), what became of them ([`NetworkError`]), TCP listeners and the buffers of one connection
//! ([`tcp`]), TCP sockets of relays ([`tcp_relay`]), TLS ([`Identity`], [`TlsStream`]), either of the two
//! ([`ClientStream`]), what load balancers write in
//! front ([`proxy_protocol`]), DTLS with the feature of that name (`dtls`), the two clocks ([`clock`]), and
//! what may go wrong with a socket without it being the end of that socket ([`SocketErrors`]).
//! Of ours it imports `stun::stream` (framing) and the buffer and clock types of `turn`. It takes no decision about
//! the protocol and knows nothing of allocations; which socket belongs to whom is in `shard`.
//!
//! Every `unsafe` block is in `sys.rs`, `receive.rs`, `send.rs`, `error_queue.rs` or `dtls/association.rs`; the rest of this room would do without.

#![allow(unsafe_code)]

mod certificate;
mod client_hello;
pub mod clock;
#[cfg(feature = "dtls")]
pub mod dtls;
mod error;
mod error_queue;
#[cfg(test)]
mod headers;
mod merging;
pub mod proxy_protocol;
mod receive;
mod send;
mod stream;
mod sys;
pub mod tcp;
pub mod tcp_relay;
#[cfg(test)]
mod tests;
mod tls;
mod udp;

#[cfg(test)]
pub(crate) use certificate::tests::make as make_certificate;
pub use certificate::{Identity, IdentityError, IdentityFile};
pub use client_hello::{CLIENT_HELLO_LEN_MAX, ClientHello, Look, OfferedProtocols};
pub use error::{SocketErrorKind, SocketErrors};
pub use error_queue::NetworkError;
#[cfg(test)]
pub(crate) use headers::{receive_with_header, send_in_runs, tell_headers};
pub use proxy_protocol::ProxyRefusal;
pub use receive::{ReceiveBatch, Received};
pub use send::{Datagram, SendBatch};
pub use stream::{ClientStream, ReadBuffers, Received as StreamReceived};
pub use tls::{Handshake, HandshakeFailure, TlsStream};
pub use udp::UdpSocket;

/// Datagrams carried by one system call at most, and by one round of a shard: a window of a few flows in both directions,
/// so that the runs in it stay whole.
pub const BATCH: usize = 128;
