//! Other people's clients against the real server binary, over loopback.
//!
//! What it proves: coturn's `turnutils_uclient` and `turnutils_stunclient`, and the client of the `turn` crate, get
//! through the relay with every message back: UDP, TCP and TLS, channels and Send indications, towards an echo peer and
//! from client to client; and that `turnutils_natdiscovery` finds no NAT where there is none.
//!
//! Each test starts a server of its own on free ports and kills it by its process id. Where a tool is not installed
//! (Debian: package `coturn`) the test prints `SKIP` and passes. Replay one with
//! `cargo test --test interop <name> -- --nocapture`, which prints the tool's command line and output.

mod natdiscovery;
mod processes;
mod server;
mod turn_crate;
mod uclient;
