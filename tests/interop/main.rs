//! Other people's clients against the real server binary, over loopback.
//!
//! What it proves: coturn's `turnutils_uclient` and `turnutils_stunclient`, the clients of the `turn` and
//! `turn-client-proto` crates, aioice and aiortc, and GStreamer's webrtcbin get through the relay with every message back,
//! over UDP, TCP and TLS, and some through TCP relays (RFC 6062), too; and `turnutils_natdiscovery` finds no NAT where
//! there is none. docs/interop.md says what each of them did.
//!
//! Each test starts a server of its own on free ports and kills it by its process id. Where something is not installed
//! (`.ci/install` does it) the test prints `SKIP` and passes. Replay one with
//! `cargo test --test interop <name> -- --nocapture`, which prints the client's command line and output.

mod aiortc;
mod natdiscovery;
mod processes;
mod python;
mod server;
mod switches;
mod tcp_relays;
mod turn_client_proto;
mod turn_crate;
mod turn_proto;
mod uclient;
mod webrtcbin;
