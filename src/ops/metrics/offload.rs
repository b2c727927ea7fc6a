//! What is told about relaying in the kernel. The series are there whether it does or not.

use std::fmt;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::{counter, describe, gauge};
use crate::offload::{PassedUp, Way};
use crate::ops::offload::Report;
use crate::shard::ShardSnapshot;

/// Asks at every scrape.
pub(in crate::ops) struct OffloadCollector<F> {
    report: F,
    descriptions: Vec<Desc>,
}

impl<F: Fn() -> Report + Send + Sync> OffloadCollector<F> {
    pub(in crate::ops) fn new(report: F) -> Self {
        Self { report, descriptions: describe(families(&Report::default())) }
    }
}

impl<F> fmt::Debug for OffloadCollector<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OffloadCollector(…)")
    }
}

impl<F: Fn() -> Report + Send + Sync> Collector for OffloadCollector<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&(self.report)())
    }
}

fn families(report: &Report) -> Vec<MetricFamily> {
    let ways = |(name, way): (&str, Way)| {
        let is_so = move |one: &Way| f64::from(u8::from(*one == way));
        let name = name.to_owned();
        Way::ALL.iter().map(move |one| (name.clone(), one.label(), is_so(one)))
    };
    let mut interfaces: Vec<(&str, Way)> =
        report.status.interfaces.iter().map(|interface| (&*interface.name, interface.way)).collect();
    if interfaces.is_empty() {
        interfaces.push(("none", Way::UserSpace));
    }
    let interfaces: Vec<(String, &str, f64)> = interfaces.into_iter().flat_map(ways).collect();
    vec![
        gauge(
            "hairpin_offload_enabled",
            "1 while the kernel is given flows to relay by itself, else 0.",
            [([], f64::from(u8::from(report.is_on)))],
        ),
        gauge(
            "hairpin_offload_interfaces",
            "How packets of each interface are caught: 1 at the way that was chosen, 0 at the others.",
            interfaces.iter().map(|(name, way, value)| ([("interface", &**name), ("way", *way)], *value)),
        ),
        counter(
            "hairpin_offload_passed_up_total",
            "UDP packets at those interfaces that the kernel has left to the sockets, by reason.",
            PassedUp::ALL.iter().map(|why| ([("reason", why.label())], report.counters.passed_up(*why))),
        ),
    ]
}

/// What the shards know of it.
pub(super) fn of_shards(total: &ShardSnapshot) -> [MetricFamily; 5] {
    let (counters, traffic) = (&total.turn, &total.turn.mirrored_traffic);
    let directions =
        |to_peer, to_client| [([("direction", "to_peer")], to_peer), ([("direction", "to_client")], to_client)];
    [
        gauge("hairpin_offload_flows", "Flows that the kernel relays by itself.", [([], total.flows_mirrored as f64)]),
        counter(
            "hairpin_offload_flows_mirrored_total",
            "Flows that the kernel was given to relay.",
            [([], counters.flows_mirrored)],
        ),
        counter(
            "hairpin_offload_flows_refused_total",
            "Flows that it could not be given: no room, or no way.",
            [([], counters.flows_refused)],
        ),
        counter(
            "hairpin_offload_bytes_total",
            "The part of hairpin_relayed_bytes_total that the kernel has relayed by itself.",
            directions(traffic.bytes_to_peer, traffic.bytes_to_client),
        ),
        counter(
            "hairpin_offload_packets_total",
            "The part of hairpin_relayed_packets_total that the kernel has relayed by itself.",
            directions(traffic.packets_to_peer, traffic.packets_to_client),
        ),
    ]
}
