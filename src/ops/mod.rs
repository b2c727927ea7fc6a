//! The control plane: starts the shards, watches over them, ends them.
//!
//! Lives here: everything that uses tokio, on one thread beside the shards: signals, draining, the admin port with
//! metrics, health and the admin API, logging, certificates that are renewed, connections passed on to a web server, usage
//! records, and what the process gives up once it runs. May import `config`, `shard`, `offload`, and the counters' vocabularies of `turn`. No relayed
//! packet passes through here, so nothing here has to be fast; it has to be bounded. What is printed for people is in
//! `cli`.
//!
//! Reading order: `run.rs` (a server's life), `signals.rs`, `orders.rs`, `reload.rs`, `admin/`, `metrics.rs`, `logging.rs`,
//! `confinement/`, `offload.rs`, `certificates.rs`, `pass_through.rs`, `keys/` (credential back ends), `usage/`.

#![forbid(unsafe_code)]

mod admin;
mod certificates;
mod confinement;
mod descriptors;
pub mod explain;
mod keys;
mod logging;
mod metrics;
mod offload;
mod orders;
mod pass_through;
mod reload;
mod run;
mod signals;
mod usage;

pub use confinement::ConfinementError;
pub use logging::{LogLevel, install as install_logging};
pub use metrics::ShardCollector;
pub use reload::Load;
pub use run::{RunError, Running, run};
