//! What a measurement says, as JSON or as lines.
//!
//! # The JSON document
//!
//! One object; times named `_micros` are microseconds, shares go from 0 to 1, what does not apply is left out. Names stay
//! as they are; new ones may be added.
//!
//! | field | meaning |
//! |---|---|
//! | `mode` | `relay`, `setup`, `allocate`, `binding` or `idle` |
//! | `transport` | between clients and server: `udp`, `tcp` or `tls` |
//! | `unit` | what `done` counts: a relayed packet, a set-up, … |
//! | `allocations`, `clients`, `threads` | what was set up to do it |
//! | `seconds` | measured time |
//! | `asked_per_second` | the pace that was to be held, if there was one |
//! | `offered`, `offered_per_second` | packets sent in that time (`relay`) |
//! | `done`, `per_second` | units complete, packets delivered |
//! | `lost`, `loss` | packets that never arrived, and their share of those offered; questions without an answer |
//! | `reordered`, `duplicated`, `corrupted` | packets that came after one sent later, again, with other bytes |
//! | `latency_micros` | `p50`, `p99`, `p99_9`, `max`: of packets one way; of `binding` and `allocate` from question to answer; of `setup` the whole of it |
//! | `server.process_micros_per_unit` | user and system time of the server's process |
//! | `server.core_micros_per_unit` | everything its core did (`--server-cpu`), interrupts included: the figure to compare |
//! | `server.softirq_share` | of the core's time, the part in interrupts |
//! | `server.busy` | of the measured time, how much the core (else the process) was busy |
//! | `server.resident_bytes` | resident memory of the process at the end |
//! | `server.resident_bytes_before` | the same before anything was set up (`relay`, `idle`) |
//! | `server.resident_bytes_per_allocation` | the difference for each allocation (`relay`, `idle`) |
//! | `generator.busy` | of the measured time, how much the busiest thread of this program did not wait |
//! | `generator.cpu` | CPU time of the busiest thread as a share of the measured time |
//! | `generator.socket_drops` | datagrams this program's own sockets had no room for |
//! | `generator.unsent` | packets that its own kernel or connection did not take; they are not in `offered` over UDP, and lost over TCP and TLS |
//! | `generator.was_limit` | whether this program, not the server, was what limited; `generator.why` then says how that shows |
//! | `search.loss_max` | the loss that was tolerated |
//! | `search.found` | whether any pace passed; then everything above is about the last passing trial of the best one |
//! | `search.rate_per_second` | that pace |
//! | `search.trials[]` | `rate_per_second`, `offered_per_second`, `delivered_per_second`, `lost`, `loss`, `passed`, `generator_was_limit`, in order |
//! | `idle.refresh_micros` | CPU time of the server for one Refresh with one ChannelBind (`idle`) |
//! | `idle.busy` | share of the core (else of the process) while nothing came at all (`idle`) |

use serde::Serialize;

/// See the head of this file.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) mode: &'static str,
    pub(super) transport: &'static str,
    pub(super) unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) allocations: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clients: Option<usize>,
    pub(super) threads: usize,
    pub(super) seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) asked_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) offered: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) offered_per_second: Option<f64>,
    pub(super) done: u64,
    pub(super) per_second: f64,
    pub(super) lost: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reordered: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duplicated: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) corrupted: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latency_micros: Option<Percentiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<Server>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) generator: Option<Generator>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) search: Option<Search>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idle: Option<Idle>,
}

#[derive(Debug, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
    pub(super) max: f64,
}

/// What it took the server.
#[derive(Debug, Serialize)]
pub(super) struct Server {
    pub(super) process_micros_per_unit: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) core_micros_per_unit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) softirq_share: Option<f64>,
    pub(super) busy: f64,
    pub(super) resident_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resident_bytes_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resident_bytes_per_allocation: Option<f64>,
}

/// What it took this program.
#[derive(Debug, Serialize)]
pub(super) struct Generator {
    pub(super) busy: f64,
    pub(super) cpu: f64,
    pub(super) socket_drops: u64,
    pub(super) unsent: u64,
    pub(super) was_limit: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Search {
    pub(super) loss_max: f64,
    pub(super) found: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate_per_second: Option<f64>,
    pub(super) trials: Vec<Trial>,
}

#[derive(Debug, Serialize)]
pub(super) struct Trial {
    pub(super) rate_per_second: f64,
    pub(super) offered_per_second: f64,
    pub(super) delivered_per_second: f64,
    pub(super) lost: u64,
    pub(super) loss: f64,
    pub(super) passed: bool,
    pub(super) generator_was_limit: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Idle {
    pub(super) refresh_micros: f64,
    pub(super) busy: f64,
}
