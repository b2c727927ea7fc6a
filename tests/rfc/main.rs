//! The requirements of the checklist that the core alone can show, each in a test that carries its id.
//!
//! These tests drive `turn::Server` directly, with a clock of their own: no socket, no waiting. An id such as
//! TURN-8656-12.2-08 becomes `turn_8656_12_2_08_…`. What needs real sockets (source addresses, TCP, DSCP) is tested in
//! `tests/cli`, `src/shard` and the lab.

mod algorithms;
mod allocate;
mod answer_limit;
mod answers;
mod authentication;
mod bandwidth;
mod behavior;
mod channels;
mod classic;
mod client;
mod data;
mod dual;
mod guests;
mod hints;
mod holdings;
mod icmp;
mod inspect;
mod limits;
mod look_ups;
mod look_ups_storm;
mod messages;
#[path = "../sim/mirror.rs"]
mod mirror;
mod mobility;
mod mobility_shards;
mod names;
mod offload;
mod permissions;
mod policy;
mod realms;
mod redirect;
mod refresh;
mod reservations;
mod revocation;
mod sessions;
mod short_term;
mod storm;
mod tcp;
mod tcp_connections;
mod tcp_storm;
mod tokens;
mod vectors;
mod world;
