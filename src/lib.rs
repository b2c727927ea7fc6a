//! Hairpin: a STUN/TURN server for the public Internet.
//!
//! ```text
//!   clients ⇄ net ⇄ shard ─── packet, time ──▶ turn::Server ──▶ verdict, effects ─── shard ⇄ net ⇄ peers
//!                     │                            │
//!                     │ counters, events           └─ stun: the one parser, the one writer
//!                     ▼
//!                    ops: metrics, logs, signals ◀── config ◀── the operator's file
//! ```
//!
//! In reading order: [`stun`] is RFC 8489 on the wire, without state. [`turn`] is RFC 8656 as a machine, without
//! sockets or clocks; its first page is the contract that everything else is built around. [`net`] has the sockets and
//! nearly all unsafe code, [`offload`] what is relayed in the kernel and the rest of it. [`shard`] is one thread with one
//! machine and its sockets. [`config`] turns what the operator wrote into what the others may rely on. [`ops`] looks after
//! the running server on tokio, away from the packets. [`cli`] is the command line.
//!
//! ARCHITECTURE.md says why the rooms are cut this way and which may import which; `tests/house` holds it to that.

pub mod bench;
pub mod cli;
pub mod config;
pub mod net;
pub mod offload;
pub mod ops;
pub mod shard;
pub mod stun;
pub mod turn;
