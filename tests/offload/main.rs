//! The program that relays in the kernel, against the machine that it mirrors: the same packets through both.
//!
//! Needs root, for the namespace that each test makes for itself and for loading BPF programs; says SKIP without.
#![cfg(offload_program)]

#[path = "../rfc/client.rs"]
#[allow(dead_code, reason = "its words are for all of the machine's tests")]
mod client;
mod flows;
mod frame;
mod lab;
mod pins;
mod scene;
mod table;
mod vectors;
mod wire;
#[path = "../rfc/world.rs"]
#[allow(dead_code, reason = "its words are for all of the machine's tests")]
mod world;
