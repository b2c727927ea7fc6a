//! Figures for people: what `/metrics` has for programs, in one document.

use std::collections::BTreeMap;

use axum::response::Response;
use serde::Serialize;

use super::Sources;
use super::answer::good;
use crate::offload::PassedUp;
use crate::ops::offload::Report;
use crate::shard::ShardSnapshot;
use crate::turn::{self, EndReason, Limit, Reason, Rejection, Transport};

/// Answer to stats. Counts are sums since the server was started.
#[derive(Serialize)]
pub(super) struct Stats {
    pub version: &'static str,
    /// `starting`, `ready` or `draining`.
    pub state: &'static str,
    pub uptime_seconds: u64,
    /// Allocations that live.
    pub sessions: usize,
    /// Relayed addresses that live, by the transport of their clients.
    pub relayed_addresses: BTreeMap<&'static str, usize>,
    /// Clients' connections, and DTLS associations.
    pub connections: usize,
    pub peer_connections: usize,
    pub allocations_created: u64,
    /// By reason.
    pub allocations_ended: BTreeMap<&'static str, u64>,
    pub authenticated: u64,
    /// By reason; only those that occurred.
    pub authentication_failures: BTreeMap<&'static str, u64>,
    /// Packets, by reason; only those that occurred.
    pub drops: BTreeMap<&'static str, u64>,
    pub traffic: Traffic,
    pub offload: Offload,
    pub shards: Vec<Shard>,
}

/// What was relayed.
#[derive(Serialize)]
pub(super) struct Traffic {
    pub packets_to_peer: u64,
    pub bytes_to_peer: u64,
    pub packets_to_client: u64,
    pub bytes_to_client: u64,
}

/// What the kernel relays by itself.
#[derive(Serialize)]
pub(super) struct Offload {
    pub enabled: bool,
    /// Why it does not.
    pub why_not: Option<String>,
    pub interfaces: Vec<Interface>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
    /// Whether it goes on with what an earlier process has left.
    pub adopted: bool,
    /// Now.
    pub flows: usize,
    /// At the same time.
    pub flows_max: u32,
    pub flows_mirrored: u64,
    pub flows_refused: u64,
    /// Part of that of the whole server.
    pub traffic: Traffic,
    /// Packets left to the server, by reason; only those that occurred.
    pub passed_up: BTreeMap<&'static str, u64>,
}

/// Where packets come in.
#[derive(Serialize)]
pub(super) struct Interface {
    pub name: String,
    pub way: &'static str,
    pub why: String,
}

/// One thread.
#[derive(Serialize)]
pub(super) struct Shard {
    pub sessions: usize,
    pub connections: usize,
    /// Time it did not spend waiting.
    pub busy_seconds: f64,
    pub restarts: u64,
}

/// Answer to limits.
#[derive(Serialize)]
pub(super) struct Limits {
    pub limits: Vec<LimitInForce>,
    /// How often requests ran into a limit, by its name.
    pub reached: BTreeMap<&'static str, u64>,
}

/// One of them.
#[derive(Serialize)]
pub(super) struct LimitInForce {
    /// Its key in the configuration.
    pub name: &'static str,
    /// In bytes, seconds or bytes a second where the key has a unit; 0 where there is none, or nothing it could bound.
    pub limit: u64,
    /// How much of it is used now, where that is one number.
    pub in_use: Option<usize>,
}

fn by_label<T: Copy>(all: &[T], counts: &[u64], label: fn(T) -> &'static str) -> BTreeMap<&'static str, u64> {
    all.iter().zip(counts).map(|(one, count)| (label(*one), *count)).collect()
}

fn that_occurred(counts: BTreeMap<&'static str, u64>) -> BTreeMap<&'static str, u64> {
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

impl From<&turn::Traffic> for Traffic {
    fn from(traffic: &turn::Traffic) -> Self {
        Self {
            packets_to_peer: traffic.packets_to_peer,
            bytes_to_peer: traffic.bytes_to_peer,
            packets_to_client: traffic.packets_to_client,
            bytes_to_client: traffic.bytes_to_client,
        }
    }
}

fn offload(sources: &Sources, total: &ShardSnapshot) -> Offload {
    let Report { is_on, why_not, status, counters } = sources.offload.report();
    let passed_up = PassedUp::ALL.iter().map(|why| (why.label(), counters.passed_up(*why)));
    Offload {
        enabled: is_on,
        why_not: (!is_on).then_some(why_not),
        interfaces: status
            .interfaces
            .into_iter()
            .map(|interface| Interface { name: interface.name, way: interface.way.label(), why: interface.why })
            .collect(),
        notes: status.notes,
        adopted: status.adopted,
        flows: total.flows_mirrored,
        flows_max: status.flows,
        flows_mirrored: total.turn.flows_mirrored,
        flows_refused: total.turn.flows_refused,
        traffic: Traffic::from(&total.turn.mirrored_traffic),
        passed_up: that_occurred(passed_up.collect()),
    }
}

pub(super) fn stats(sources: &Sources) -> Response {
    let snapshot = sources.shards.snapshot();
    let (total, machine) = (&snapshot.total, &snapshot.total.turn);
    let traffic = turn::Traffic::total(&machine.traffic);
    let of_transport = Transport::ALL.iter().zip(total.relayed_addresses);
    good(&Stats {
        version: env!("CARGO_PKG_VERSION"),
        state: sources.readiness.borrow().label(),
        uptime_seconds: sources.started.elapsed().as_secs(),
        sessions: sources.shards.allocations(),
        relayed_addresses: of_transport.map(|(transport, counts)| (transport.label(), counts.iter().sum())).collect(),
        connections: total.connections,
        peer_connections: total.peer_connections,
        allocations_created: machine.allocations_created,
        allocations_ended: by_label(EndReason::ALL, &machine.allocations_ended, EndReason::label),
        authenticated: machine.authenticated,
        authentication_failures: that_occurred(by_label(Rejection::ALL, &machine.rejections, Rejection::label)),
        drops: that_occurred(by_label(Reason::ALL, &machine.drops, Reason::label)),
        traffic: Traffic::from(&traffic),
        offload: offload(sources, total),
        shards: snapshot
            .shards
            .iter()
            .map(|shard| Shard {
                sessions: shard.allocations,
                connections: shard.connections,
                busy_seconds: shard.shell.busy_nanos as f64 / 1e9,
                restarts: shard.shell.shard_restarts,
            })
            .collect(),
    })
}

pub(super) fn limits(sources: &Sources) -> Response {
    let config = sources.config.borrow().clone();
    let (shards, limits) = (&config.shards, &config.shards.turn.limits);
    let (quotas, threads) = (&shards.quotas, usize::from(shards.count));
    let look_ups = shards.turn.credentials.look_ups.as_ref();
    let snapshot = sources.shards.snapshot();
    let total = &snapshot.total;
    let entry = |name, limit: usize, in_use| LimitInForce { name, limit: limit as u64, in_use };
    let per_allocation = shards.turn.relay_transports.tcp.as_ref().map_or(0, |tcp| tcp.connections_per_allocation);
    let ports = usize::from(shards.turn.ports.last.saturating_sub(shards.turn.ports.first)) + 1;
    let relayed = total.relayed_addresses.iter().flatten().sum();
    good(&Limits {
        limits: vec![
            entry("limits.allocations", shards.quotas.allocations, Some(sources.shards.allocations())),
            entry("limits.allocations_per_user", shards.quotas.allocations_per_account, None),
            entry("limits.allocations_per_prefix", quotas.allocations_per_prefix, None),
            entry("limits.permissions", quotas.in_all.permissions, None),
            entry("limits.permissions_per_allocation", limits.permissions_per_allocation, None),
            entry("limits.permissions_per_user", quotas.per_account.permissions, None),
            entry("limits.permissions_per_prefix", quotas.per_prefix.permissions, None),
            entry("limits.channels", quotas.in_all.channels, None),
            entry("limits.channels_per_allocation", limits.channels_per_allocation, None),
            entry("limits.channels_per_user", quotas.per_account.channels, None),
            entry("limits.channels_per_prefix", quotas.per_prefix.channels, None),
            entry("limits.mirrored_flows_per_allocation", limits.mirrored_flows_per_allocation, None),
            entry("limits.connections", shards.connections.total, Some(total.connections)),
            entry("limits.connections_per_address", shards.connections.per_address, None),
            entry("limits.connections_per_prefix", shards.connections.per_prefix, None),
            entry("limits.peer_connections", shards.peer_connections, Some(total.peer_connections)),
            entry("limits.peer_connections_per_allocation", per_allocation, None),
            entry("limits.peer_connections_per_user", quotas.per_account.peer_connections, None),
            entry("limits.peer_connections_per_prefix", quotas.per_prefix.peer_connections, None),
            entry("limits.connection_send_buffer", shards.connections.send_buffer_bytes, None),
            entry("limits.connection_idle", shards.connections.idle_secs as usize, None),
            // Each thread has its share.
            entry("limits.answers_per_prefix", limits.answers_per_prefix as usize * threads, None),
            entry("limits.dtls_handshakes", shards.tls.as_ref().map_or(0, |tls| tls.dtls_handshakes), None),
            entry("limits.pending_effects", limits.effects, None),
            entry("limits.bandwidth_per_allocation", limits.bandwidth.per_allocation as usize, None),
            entry("limits.bandwidth_per_user", limits.bandwidth.per_account as usize, None),
            entry("limits.bandwidth_total", limits.bandwidth.total as usize, None),
            entry("limits.peer_ports_per_allocation", limits.peer_ports_per_allocation as usize, None),
            entry("limits.foreign_packets_percent", limits.foreign_packets_percent as usize, None),
            entry("limits.look_ups_waiting", look_ups.map_or(0, |of| of.waiting), Some(total.requests_waiting)),
            entry("limits.look_ups_per_prefix", look_ups.map_or(0, |of| of.per_prefix as usize * threads), None),
            entry("relay.ports", ports * shards.turn.relays.len(), Some(relayed)),
        ],
        reached: by_label(Limit::ALL, &total.turn.limits, Limit::label),
    })
}
