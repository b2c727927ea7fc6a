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
//! | `server.between_nanos` | from when to when the server was watched, as CLOCK_MONOTONIC has it |
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

use std::time::Duration;

use serde::Serialize;

use crate::bench::{Cost, Latency, OwnCost, RelayResult, RequestResult, Requests};

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
    pub(super) between_nanos: [u64; 2],
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

impl Report {
    pub(super) fn of_relay(result: &RelayResult, asked_per_second: Option<f64>) -> Self {
        Self {
            asked_per_second,
            offered: Some(result.offered),
            offered_per_second: Some(result.offered as f64 / result.elapsed.as_secs_f64()),
            loss: Some(result.loss()),
            reordered: Some(result.reordered),
            duplicated: Some(result.duplicated),
            corrupted: Some(result.corrupted),
            latency_micros: Some(Percentiles::of(&result.latency)),
            server: result.cost.map(|cost| Server::of(&cost, result.delivered, result.elapsed)),
            generator: Some(Generator::of(&result.own)),
            lost: result.lost(),
            ..Self::new("relay", "packet", result.elapsed, result.delivered)
        }
    }

    pub(super) fn of_requests(kind: Requests, result: &RequestResult) -> Self {
        let (mode, unit) = match kind {
            Requests::Binding => ("binding", "Binding"),
            Requests::Allocate => ("allocate", "allocate, permit, bind, delete"),
            Requests::Setup => ("setup", "connect, allocate, permit, bind, first packet, delete"),
        };
        Self {
            latency_micros: Some(Percentiles::of(&result.latency)),
            server: result.cost.map(|cost| Server::of(&cost, result.units, result.elapsed)),
            generator: Some(Generator::of(&result.own)),
            lost: result.lost,
            ..Self::new(mode, unit, result.elapsed, result.units)
        }
    }

    /// Of so many allocations that did nothing, and then renewed themselves: how long either took, and what.
    pub(super) fn of_idle(
        allocations: usize,
        rest: &(Duration, Option<Cost>),
        keep: &(Duration, Option<Cost>),
    ) -> Self {
        let idle = rest.1.zip(keep.1).map(|(rest_cost, keep_cost)| Idle {
            refresh_micros: micros(keep_cost.total()) / allocations as f64,
            busy: rest_cost.total().as_secs_f64() / rest.0.as_secs_f64().max(f64::MIN_POSITIVE),
        });
        Self {
            server: keep.1.map(|cost| Server::of(&cost, allocations as u64, keep.0)),
            idle,
            ..Self::new("idle", "Refresh and ChannelBind", keep.0, allocations as u64)
        }
    }

    fn new(mode: &'static str, unit: &'static str, elapsed: Duration, done: u64) -> Self {
        Self {
            mode,
            transport: "udp",
            unit,
            allocations: None,
            clients: None,
            threads: 1,
            seconds: elapsed.as_secs_f64(),
            asked_per_second: None,
            offered: None,
            offered_per_second: None,
            done,
            per_second: done as f64 / elapsed.as_secs_f64(),
            lost: 0,
            loss: None,
            reordered: None,
            duplicated: None,
            corrupted: None,
            latency_micros: None,
            server: None,
            generator: None,
            search: None,
            idle: None,
        }
    }

    /// Resident memory of the server before and after the set-up.
    pub(super) fn add_memory(&mut self, resident: Option<[u64; 2]>, allocations: usize) {
        if let (Some([before, after]), Some(server)) = (resident, &mut self.server) {
            server.resident_bytes_before = Some(before);
            server.resident_bytes_per_allocation = Some((after as f64 - before as f64) / allocations as f64);
        }
    }

    /// For people.
    pub(super) fn lines(&self) -> String {
        let mut lines = vec![format!(
            "{:<11}{:.0}/s ({} in {:.1} s), {} lost; over {}",
            format!("{}:", if self.unit == "packet" { "packets" } else { "units" }),
            self.per_second,
            self.done,
            self.seconds,
            self.lost,
            self.transport,
        )];
        if let (Some(offered), Some(loss)) = (self.offered, self.loss) {
            let asked = self.asked_per_second.map_or(String::new(), |rate| format!(" ({rate:.0}/s asked for)"));
            let count = |count: Option<u64>| count.unwrap_or_default();
            lines.push(format!(
                "           {offered} offered{asked}, {:.4} % lost, {} reordered, {} duplicated, {} corrupted",
                loss * 100.0,
                count(self.reordered),
                count(self.duplicated),
                count(self.corrupted),
            ));
        }
        if let Some(Percentiles { p50, p99, p99_9, max }) = self.latency_micros {
            lines.push(format!(
                "latency:   {p50:.0} µs median, {p99:.0} µs p99, {p99_9:.0} µs p99.9, {max:.0} µs at most"
            ));
        }
        self.server.iter().for_each(|server| server.lines(&mut lines));
        if let Some(idle) = &self.idle {
            lines.push(format!(
                "idle:      {:.2} µs of the server for a Refresh with a ChannelBind; {:.2} % busy with nothing",
                idle.refresh_micros,
                idle.busy * 100.0
            ));
        }
        if let Some(generator) = &self.generator {
            lines.push(format!(
                "generator: {:.0} % busy, {:.0} % of a core, {} datagrams dropped, {} not sent",
                generator.busy * 100.0,
                generator.cpu * 100.0,
                generator.socket_drops,
                generator.unsent
            ));
            if let Some(why) = &generator.why {
                lines.push(format!("NOTE: the generator itself was the limit, the server may carry more: {why}."));
            }
        }
        if let Some(search) = &self.search {
            let trials = search.trials.len();
            lines.push(match search.rate_per_second {
                Some(rate) => format!(
                    "search:    {rate:.0}/s is the highest pace with at most {} % lost, after {trials} trials",
                    search.loss_max * 100.0
                ),
                None => format!("search:    no pace passed in {trials} trials; above is the last"),
            });
        }
        lines.join("\n")
    }
}

impl Percentiles {
    fn of(latency: &Latency) -> Self {
        Self {
            p50: micros(latency.at(0.5)),
            p99: micros(latency.at(0.99)),
            p99_9: micros(latency.at(0.999)),
            max: micros(latency.max()),
        }
    }
}

impl Server {
    fn of(cost: &Cost, units: u64, elapsed: Duration) -> Self {
        let per_unit = |time: Duration| micros(time) / units.max(1) as f64;
        let core = cost.core.filter(|core| !core.is_zero());
        Self {
            process_micros_per_unit: per_unit(cost.process),
            core_micros_per_unit: cost.core.map(per_unit),
            softirq_share: core.zip(cost.softirq).map(|(core, softirq)| softirq.as_secs_f64() / core.as_secs_f64()),
            busy: cost.total().as_secs_f64() / elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
            between_nanos: cost.between,
            resident_bytes: cost.resident,
            resident_bytes_before: None,
            resident_bytes_per_allocation: None,
        }
    }

    fn lines(&self, lines: &mut Vec<String>) {
        let core = self.core_micros_per_unit.map_or(String::new(), |micros| format!(", {micros:.2} µs of its core"));
        let softirq =
            self.softirq_share.map_or(String::new(), |share| format!(", {:.0} % of it softirq", share * 100.0));
        lines.push(format!(
            "server:    {:.2} µs of its process a unit{core}{softirq}; {:.0} % busy; {:.1} MB resident",
            self.process_micros_per_unit,
            self.busy * 100.0,
            self.resident_bytes as f64 / 1e6
        ));
        if let Some(bytes) = self.resident_bytes_per_allocation {
            lines.push(format!("memory:    {:.2} KB for each allocation", bytes / 1e3));
        }
    }
}

impl Generator {
    fn of(own: &OwnCost) -> Self {
        let why = own.limit();
        Self {
            busy: own.busy,
            cpu: own.cpu,
            socket_drops: own.socket_drops,
            unsent: own.unsent,
            was_limit: why.is_some(),
            why,
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}
