//! DTLS 1.2 in datagrams (RFC 7350): the stateless cookie in front, and one association after it.
//!
//! OpenSSL does the cryptography; it sees nothing before a client has shown that it receives what is sent to its address
//! ([`Cookies`]). An [`Association`] neither waits nor reads a clock or a socket: datagrams go in and come out.

mod association;
mod cookie;

pub use association::{Association, Gone};
pub(super) use association::{Context, context};
pub use cookie::{Cookie, Cookies, HelloVerifyRequest, Inspected};

/// The longest message that fits one record (RFC 6347 §4.1).
pub const MESSAGE_LEN_MAX: usize = 1 << 14;
