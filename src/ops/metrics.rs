//! What the shards have counted, as Prometheus reads it: summed when it is scraped, kept nowhere.
//!
//! Labels are closed vocabularies of the code, never users or addresses: the number of series is known beforehand.

mod control;
mod offload;
mod process;
mod usage;

use std::fmt;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::shard::{DtlsDrop, HandshakeFailure, ProxyRefusal, ShellCounters, Snapshot, SocketErrorKind, TlsCounters};
use crate::stun::{AddressFamily, ErrorCode, Method};
use crate::turn::{
    self, ConnectionEnd, Direction, EndReason, ForeignShare, Limit, LookUp, Reason, Rejection, Spread, Traffic,
    TrafficByPath,
};

pub(super) use control::Control;
pub(super) use offload::OffloadCollector;
pub(super) use process::ProcessCollector;
pub(super) use usage::UsageCollector;

/// Asks the shards at every scrape.
pub struct ShardCollector<F> {
    snapshot: F,
    descriptions: Vec<Desc>,
}

impl<F: Fn() -> Snapshot + Send + Sync> ShardCollector<F> {
    /// `snapshot` must not block for long.
    pub fn new(snapshot: F) -> Self {
        Self { snapshot, descriptions: describe(families(&Snapshot::default())) }
    }
}

impl<F> fmt::Debug for ShardCollector<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShardCollector(…)")
    }
}

impl<F: Fn() -> Snapshot + Send + Sync> Collector for ShardCollector<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&(self.snapshot)())
    }
}

fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let total = &snapshot.total;
    let mut families = vec![
        gauge(
            "hairpin_build_info",
            "Always 1; the label tells the version.",
            [([("version", env!("CARGO_PKG_VERSION"))], 1.0)],
        ),
        gauge("hairpin_allocations", "Allocations alive.", [([], total.allocations as f64)]),
        relayed_addresses(&total.relayed_addresses),
        gauge("hairpin_connections", "Client connections open.", [([], total.connections as f64)]),
        gauge(
            "hairpin_peer_connections",
            "Connections between TCP relays and peers, those being made included.",
            [([], total.peer_connections as f64)],
        ),
        gauge(
            "hairpin_requests_waiting",
            "Requests that wait for a key that is kept elsewhere.",
            [([], total.requests_waiting as f64)],
        ),
        gauge("hairpin_shards", "Threads that relay packets.", [([], snapshot.shards.len() as f64)]),
    ];
    machine(&total.turn, &mut families);
    shell(&total.shell, &snapshot.tls, &mut families);
    tls(&snapshot.tls, &mut families);
    families.extend(offload::of_shards(total));
    families.push(per_shard(snapshot));
    families
}

/// What a collector promises to collect.
fn describe(families: Vec<MetricFamily>) -> Vec<Desc> {
    let describe = |family: MetricFamily| {
        Desc::new(family.name().into(), family.help().into(), Vec::new(), Default::default())
            .expect("names and help are constants that the tests have seen")
    };
    families.into_iter().map(describe).collect()
}

fn relayed_addresses(counts: &turn::RelayedAddresses) -> MetricFamily {
    let of_transport = |(transport, counts): (turn::Transport, &[usize; 2])| {
        let of_family = |(family, count): (AddressFamily, usize)| {
            ([("transport", transport.label()), ("family", family.label())], count as f64)
        };
        AddressFamily::ALL.into_iter().zip(*counts).map(of_family).collect::<Vec<_>>()
    };
    gauge(
        "hairpin_relayed_addresses",
        "Relayed transport addresses alive, by the transport their client came over; a dual allocation has two.",
        turn::Transport::ALL.into_iter().zip(counts).flat_map(of_transport),
    )
}

/// One value for each transport, family and direction.
fn relayed(
    traffic: &TrafficByPath,
    of_directions: fn(&Traffic) -> [u64; 2],
) -> Vec<([(&'static str, &'static str); 3], u64)> {
    let mut values = Vec::new();
    for (transport, of_families) in turn::Transport::ALL.into_iter().zip(traffic) {
        for (family, traffic) in AddressFamily::ALL.into_iter().zip(of_families) {
            for (direction, value) in Direction::ALL.into_iter().zip(of_directions(traffic)) {
                let labels =
                    [("transport", transport.label()), ("family", family.label()), ("direction", direction.label())];
                values.push((labels, value));
            }
        }
    }
    values
}

/// What the protocol machines count.
fn machine(counters: &turn::Counters, families: &mut Vec<MetricFamily>) {
    let by_method = |counts: &[u64; Method::ALL.len()]| {
        let requested = |(method, _): &(Method, u64)| method.is_requested();
        let counted = Method::ALL.into_iter().zip(*counts).filter(requested);
        counted.map(|(method, count)| ([("method", method.label())], count)).collect::<Vec<_>>()
    };
    let codes: Vec<String> = ErrorCode::ALL.iter().map(|code| code.number().to_string()).collect();
    let by_code = codes.iter().zip(counters.errors).map(|(code, count)| ([("code", code.as_str())], count));
    families.extend([
        counter(
            "hairpin_relayed_bytes_total",
            "Application data relayed, without any header.",
            relayed(&counters.traffic, |of| [of.bytes_to_peer, of.bytes_to_client]),
        ),
        counter(
            "hairpin_relayed_packets_total",
            "Datagrams relayed.",
            relayed(&counters.traffic, |of| [of.packets_to_peer, of.packets_to_client]),
        ),
        counter("hairpin_allocations_created_total", "Allocations made.", [([], counters.allocations_created)]),
        counter(
            "hairpin_allocations_ended_total",
            "Allocations ended, by reason.",
            labelled("reason", EndReason::ALL, EndReason::label, &counters.allocations_ended),
        ),
        counter(
            "hairpin_ended_allocation_peers_total",
            "Allocations ended, by how many peers they had permissions for.",
            labelled("peers", Spread::ALL, Spread::label, &counters.ended_peers),
        ),
        counter(
            "hairpin_ended_allocation_ports_total",
            "Allocations ended, by how many ports of peers they sent to.",
            labelled("ports", Spread::ALL, Spread::label, &counters.ended_ports),
        ),
        counter(
            "hairpin_ended_allocation_foreign_total",
            "Allocations ended, by how many of a hundred packets looked like neither RTP, RTCP, DTLS nor STUN.",
            labelled("percent", ForeignShare::ALL, ForeignShare::label, &counters.ended_foreign),
        ),
        counter(
            "hairpin_peer_connections_begun_total",
            "Connections of peers accepted, and begun to be made, by TCP relays.",
            [([], counters.peer_connections_begun)],
        ),
        counter(
            "hairpin_peer_connections_ended_total",
            "Those that have ended, or failed, by reason.",
            labelled("reason", ConnectionEnd::ALL, ConnectionEnd::label, &counters.peer_connections_ended),
        ),
        counter("hairpin_requests_total", "Requests, by method.", by_method(&counters.requests)),
        counter("hairpin_responses_total", "Success responses, by method.", by_method(&counters.successes)),
        counter(
            "hairpin_errors_total",
            "Error responses, by code. 401 is part of every client's first exchange.",
            by_code,
        ),
        counter(
            "hairpin_dropped_packets_total",
            "Packets dropped without an answer, by reason.",
            labelled("reason", Reason::ALL, Reason::label, &counters.drops),
        ),
        counter(
            "hairpin_authentication_failures_total",
            "Requests that failed authentication, by the check they failed. no_credentials is part of every client's \
             first exchange.",
            labelled("reason", Rejection::ALL, Rejection::label, &counters.rejections),
        ),
        counter(
            "hairpin_authentications_total",
            "Requests whose credentials were good, those of guests included.",
            [([], counters.authenticated)],
        ),
        counter(
            "hairpin_key_look_ups_total",
            "Requests of users whose keys are kept elsewhere, and questions about them, by what came of it.",
            labelled("result", LookUp::ALL, LookUp::label, &counters.look_ups),
        ),
        counter(
            "hairpin_limits_reached_total",
            "Requests refused because of a limit, by its key in the configuration.",
            labelled("limit", Limit::ALL, Limit::label, &counters.limits),
        ),
    ]);
}

/// What happens around the machines.
fn shell(shell: &ShellCounters, tls: &TlsCounters, families: &mut Vec<MetricFamily>) {
    let of_clients = shell.connections_refused_per_address + shell.connections_refused_per_prefix;
    let of_others = of_clients + tls.refused_by_handshakes;
    // The parts are published a moment before or after the whole.
    let of_total = shell.connections_refused.saturating_sub(of_others);
    let directions = |received, sent| [([("direction", "received")], received), ([("direction", "sent")], sent)];
    families.extend([
        counter(
            "hairpin_datagrams_total",
            "Datagrams read from and written to UDP sockets.",
            directions(shell.datagrams_received, shell.datagrams_sent),
        ),
        counter(
            "hairpin_datagram_batches_total",
            "System calls that carried them.",
            directions(shell.receive_batches, shell.send_batches),
        ),
        counter(
            "hairpin_receive_queue_drops_total",
            "Datagrams the kernel dropped because a socket's receive queue was full: see sockets.listen_buffer.",
            [([], shell.receive_queue_drops)],
        ),
        counter(
            "hairpin_send_buffer_drops_total",
            "Relayed packets dropped because their client reads its connection too slowly.",
            [([], shell.send_buffer_drops)],
        ),
        counter(
            "hairpin_mailbox_overflows_total",
            "Packets between two shards dropped because the receiving one lags behind.",
            [([], shell.mailbox_overflows)],
        ),
        counter(
            "hairpin_unsendable_packets_total",
            "Packets whose allocation, connection or listener was gone when they were to be sent.",
            [([], shell.unsendable)],
        ),
        counter(
            "hairpin_socket_errors_total",
            "Errors of system calls on sockets, by kind.",
            labelled("kind", SocketErrorKind::ALL, SocketErrorKind::label, &shell.socket_errors.0),
        ),
        counter(
            "hairpin_connections_accepted_total",
            "Client connections accepted and kept.",
            [([], shell.connections_accepted)],
        ),
        counter(
            "hairpin_connections_moved_total",
            "Client connections that went from one shard to another, because their client had business there.",
            [([], shell.connections_moved)],
        ),
        counter(
            "hairpin_connection_limits_reached_total",
            "Client connections refused because of a limit, by its key in the configuration.",
            [
                ([("limit", "connections")], of_total),
                ([("limit", "dtls_handshakes")], tls.refused_by_handshakes),
                ([("limit", "connections_per_address")], shell.connections_refused_per_address),
                ([("limit", "connections_per_prefix")], shell.connections_refused_per_prefix),
            ],
        ),
        counter(
            "hairpin_connections_closed_total",
            "Client connections closed by the server, by reason.",
            [
                ([("reason", "refused")], shell.connections_refused),
                ([("reason", "lost_framing")], shell.connections_lost_framing),
                ([("reason", "broken_tls")], shell.connections_broken_tls),
                ([("reason", "not_binding")], shell.connections_not_binding),
                ([("reason", "idle")], shell.connections_idle),
            ],
        ),
        counter(
            "hairpin_proxy_protocol_refusals_total",
            "Connections and datagrams not served because of the PROXY header that they have or lack, by reason.",
            labelled("reason", ProxyRefusal::ALL, ProxyRefusal::label, &shell.proxy_refusals),
        ),
        counter(
            "hairpin_dtls_cookies_total",
            "ClientHellos of DTLS answered with a cookie, which costs no memory. Every handshake has one.",
            [([], shell.dtls_cookies)],
        ),
        counter(
            "hairpin_dtls_dropped_total",
            "Datagrams to DTLS listeners, and messages to DTLS clients, that were dropped, by reason.",
            labelled("reason", DtlsDrop::ALL, DtlsDrop::label, &shell.dtls_drops),
        ),
        counter(
            "hairpin_peers_refused_total",
            "Connections to and from peers refused because of limits.peer_connections.",
            [([], shell.peers_refused)],
        ),
        counter(
            "hairpin_shard_restarts_total",
            "Panics that cost a shard its allocations. Each is a bug: please report the log line.",
            [([], shell.shard_restarts)],
        ),
    ]);
}

/// What happens before a shard gets a TLS connection.
fn tls(counters: &TlsCounters, families: &mut Vec<MetricFamily>) {
    families.extend([
        gauge(
            "hairpin_tls_handshakes_in_progress",
            "TLS and DTLS handshakes begun and not over.",
            [([], counters.in_progress as f64)],
        ),
        counter("hairpin_tls_handshakes_total", "TLS and DTLS handshakes that ended well.", [([], counters.completed)]),
        counter(
            "hairpin_tls_handshake_failures_total",
            "TLS and DTLS handshakes that did not, by reason.",
            labelled("reason", HandshakeFailure::ALL, HandshakeFailure::label, &counters.failures),
        ),
    ]);
}

fn per_shard(snapshot: &Snapshot) -> MetricFamily {
    let names: Vec<String> = (0..snapshot.shards.len()).map(|index| index.to_string()).collect();
    let busy = |nanos: u64| nanos as f64 / 1e9;
    let values = names.iter().zip(&snapshot.shards);
    family(
        "hairpin_shard_busy_seconds_total",
        "Time a shard did not spend waiting. Near one second a second it is at its limit.",
        MetricType::COUNTER,
        values.map(|(name, shard)| ([("shard", name.as_str())], busy(shard.shell.busy_nanos))),
    )
}

/// A value for each word of a vocabulary.
fn labelled<'l, T: Copy>(
    label: &'l str,
    words: &[T],
    word: fn(T) -> &'static str,
    counts: &[u64],
) -> Vec<([(&'l str, &'l str); 1], u64)> {
    words.iter().zip(counts).map(|(variant, count)| ([(label, word(*variant))], *count)).collect()
}

fn counter<'l, const N: usize>(
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = ([(&'l str, &'l str); N], u64)>,
) -> MetricFamily {
    let values = values.into_iter().map(|(labels, count)| (labels, count as f64));
    family(name, help, MetricType::COUNTER, values)
}

fn gauge<'l, const N: usize>(
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = ([(&'l str, &'l str); N], f64)>,
) -> MetricFamily {
    family(name, help, MetricType::GAUGE, values)
}

fn family<'l, const N: usize>(
    name: &str,
    help: &str,
    kind: MetricType,
    values: impl IntoIterator<Item = ([(&'l str, &'l str); N], f64)>,
) -> MetricFamily {
    let metric = |(labels, value): ([(&str, &str); N], f64)| {
        let mut metric = Metric::from_label(labels.map(|(name, value)| pair(name, value)).into());
        match kind {
            MetricType::GAUGE => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            _ => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
        }
        metric
    };
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(values.into_iter().map(metric).collect());
    family
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.into());
    pair.set_value(value.into());
    pair
}

#[cfg(test)]
mod tests {
    use prometheus::{Registry, TextEncoder};

    use super::*;
    use crate::shard::ShardSnapshot;

    #[test]
    fn what_was_counted_is_what_is_scraped() {
        let mut total = ShardSnapshot { allocations: 3, peer_connections: 2, ..ShardSnapshot::default() };
        total.turn.traffic[turn::Transport::Tls as usize][1].bytes_to_client = 1 << 40;
        total.turn.requests[1] = 7;
        total.relayed_addresses[turn::Transport::Tcp as usize][1] = 2;
        let unauthenticated = ErrorCode::ALL.iter().position(|code| *code == ErrorCode::Unauthenticated);
        total.turn.errors[unauthenticated.expect("ALL has every code")] = 2;
        total.shell.busy_nanos = 1_500_000_000;
        let snapshot = Snapshot {
            shards: vec![total.clone()],
            total,
            tls: TlsCounters { completed: 5, ..TlsCounters::default() },
        };
        let registry = Registry::new();
        registry.register(Box::new(ShardCollector::new(move || snapshot.clone()))).unwrap();
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "# TYPE hairpin_allocations gauge",
            "hairpin_allocations 3",
            "hairpin_relayed_addresses{transport=\"tcp\",family=\"ipv6\"} 2",
            "hairpin_limits_reached_total{limit=\"relay_ports\"} 0",
            "hairpin_authentications_total 0",
            "# TYPE hairpin_relayed_bytes_total counter",
            "hairpin_relayed_bytes_total{transport=\"tls\",family=\"ipv6\",direction=\"to_client\"} 1099511627776",
            "hairpin_relayed_packets_total{transport=\"udp\",family=\"ipv4\",direction=\"to_peer\"} 0",
            "hairpin_requests_total{method=\"allocate\"} 7",
            "hairpin_errors_total{code=\"401\"} 2",
            "hairpin_errors_total{code=\"508\"} 0",
            "hairpin_dropped_packets_total{reason=\"no_permission\"} 0",
            "hairpin_authentication_failures_total{reason=\"wrong_password\"} 0",
            "hairpin_allocations_ended_total{reason=\"expired\"} 0",
            "hairpin_peer_connections 2",
            "hairpin_peer_connections_ended_total{reason=\"never_bound\"} 0",
            "hairpin_requests_total{method=\"connect\"} 0",
            "hairpin_socket_errors_total{kind=\"unreachable\"} 0",
            "hairpin_shard_busy_seconds_total{shard=\"0\"} 1.5",
            "hairpin_tls_handshakes_total 5",
            "hairpin_tls_handshake_failures_total{reason=\"timeout\"} 0",
            "hairpin_build_info{version=\"0.1.0\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("method=\"send\"") && !text.contains("method=\"connection_attempt\""));
    }

    #[test]
    fn names_follow_the_conventions() {
        for family in families(&Snapshot::default()) {
            assert!(family.name().starts_with("hairpin_"));
            let is_counter = family.get_field_type() == MetricType::COUNTER;
            assert_eq!(is_counter, family.name().ends_with("_total"), "{}", family.name());
            assert!(family.help().ends_with('.') || family.help().contains(": "), "{}", family.name());
        }
    }
}
