//! Hairpin: a STUN/TURN server for the public Internet.

pub mod cli;
pub mod config;
pub mod net;
pub mod ops;
pub mod shard;
pub mod stun;
pub mod turn;
