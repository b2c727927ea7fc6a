//! Hostile input against the core: truncations, mutations, lies behind the MAC, other people's allocations.
//!
//! What it proves: nothing that a client, a peer or a stream can send makes the machine panic, grow, leak old bytes in
//! padding, answer what is not a STUN request, keep state for somebody who was not authenticated, obey what stands
//! behind MESSAGE-INTEGRITY (abuse S8), or act on an allocation for anybody but its owner (S9); and a stream is either
//! framed the same however it is cut, or closed (S7). See abuse S5, S17, S18.
//!
//! Mutations are seeded. A failure prints the seed and the message; replay with
//! `HAIRPIN_HOSTILE_SEED=<seed> cargo test --test hostile`, more with `HAIRPIN_HOSTILE_MUTATIONS=<count>`.

#![allow(unsafe_code, reason = "a global allocator that counts is the only way to see memory grow")]

mod corpus;
mod fixture;
mod memory;
mod mutate;
mod options;
mod ownership;
mod storms;
mod streams;

// The independent reader and writer, and the dice, are those of the simulation.
#[path = "../sim/dice.rs"]
mod dice;
#[path = "../sim/wire.rs"]
#[allow(dead_code, reason = "the simulation uses more of it")]
mod wire;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// A number from the environment, or the default.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")),
        Err(_) => default,
    }
}
