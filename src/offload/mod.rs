//! Relaying in the kernel: an eBPF program that knows the flows that the machine has mirrored, and does to their packets
//! what `turn::relay` does.
//!
//! Lives here: the program, in C (`program/`), which `build.rs` has clang compile; the memory that it shares with us
//! (`memory.rs`); loading and attaching it (`kernel.rs`, `attach.rs` for tc, `xdp.rs` for drivers, through aya), keeping it for
//! the next process (`pins.rs`); and [`crate::turn::Offload`] for each shard (`mirror.rs`). May import `turn`, for the
//! contract, and `stun`.
//!
//! # How it works
//! One array of flows lies in memory that the program and we share (a map that is mapped into this process). An entry says
//! what the flow's packets look like, until when it lives, what they become, and counts them. Two hash maps lead from a
//! packet's addresses to the place in the array; the entry repeats what it answers to, so that a place that was used again
//! in between fits nobody else. Binding a channel costs two system calls; refreshing, ending and counting are loads and
//! stores. A place is not used again for a while after its flow has ended, so that no packet under way meets a newcomer.
//!
//! What the program does not do exactly as the machine would, it leaves alone, and the socket gets it.

#![allow(unsafe_code)]

#[cfg(offload_program)]
mod attach;
#[cfg(offload_program)]
mod interfaces;
#[cfg(offload_program)]
mod kernel;
#[cfg(offload_program)]
mod memory;
#[cfg(offload_program)]
mod mirror;
#[cfg(offload_program)]
mod pins;
mod settings;
#[cfg(offload_program)]
mod syscall;
#[cfg(offload_program)]
mod system;
#[cfg(offload_program)]
mod trial;
#[cfg(not(offload_program))]
mod without_program;
#[cfg(offload_program)]
mod xdp;

#[cfg(offload_program)]
pub use kernel::Kernel;
pub use settings::{Counters, Interface, Mode, PassedUp, Settings, Status, Unavailable, Way};
#[cfg(offload_program)]
pub use trial::{Outcome, Trial};
#[cfg(not(offload_program))]
pub use without_program::Kernel;
