//! What the control plane itself has to say: reloads, draining, and the limits that are in force.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::{counter, describe, gauge};
use crate::config::Config;

/// Cloning is cheap; all clones are the same.
#[derive(Clone, Debug)]
pub(in crate::ops) struct Control {
    state: Arc<Mutex<State>>,
    descriptions: Arc<[Desc]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    reloads: u64,
    reload_failures: u64,
    last_failed: bool,
    /// When what is in force was read.
    loaded_unix_secs: f64,
    is_draining: bool,
    limits: Limits,
}

#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    allocations: usize,
    connections: usize,
    relay_ports: usize,
    offload_flows: usize,
}

impl Limits {
    fn of(config: &Config) -> Self {
        let turn = &config.shards.turn;
        let ports = usize::from(turn.ports.last.saturating_sub(turn.ports.first)) + 1;
        Self {
            allocations: config.shards.quotas.allocations,
            connections: config.shards.connections.total,
            relay_ports: ports * turn.relays.len(),
            offload_flows: config.offload.flows as usize,
        }
    }
}

impl Control {
    /// The server starts with this.
    pub fn new(config: &Config) -> Self {
        let state = State { limits: Limits::of(config), loaded_unix_secs: unix_secs(), ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), descriptions: describe(families(&state)).into() }
    }

    /// This is in force from now on.
    pub fn reloaded(&self, config: &Config) {
        self.change(|state| {
            state.reloads += 1;
            state.last_failed = false;
            state.loaded_unix_secs = unix_secs();
            state.limits = Limits::of(config);
        });
    }

    /// The configuration could not be read again; nothing has changed.
    pub fn reload_failed(&self) {
        self.change(|state| {
            state.reload_failures += 1;
            state.last_failed = true;
        });
    }

    /// Whether no new allocation is granted any more.
    pub fn set_draining(&self, is_draining: bool) {
        self.change(|state| state.is_draining = is_draining);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn unix_secs() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Collector for Control {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn families(state: &State) -> Vec<MetricFamily> {
    let Limits { allocations, connections, relay_ports, offload_flows } = state.limits;
    vec![
        counter(
            "hairpin_configuration_reloads_total",
            "Times the configuration was to be read again, by result.",
            [([("result", "done")], state.reloads), ([("result", "failed")], state.reload_failures)],
        ),
        gauge(
            "hairpin_configuration_last_reload_successful",
            "0 if the last attempt to read the configuration again has failed, else 1.",
            [([], f64::from(u8::from(!state.last_failed)))],
        ),
        gauge(
            "hairpin_configuration_loaded_timestamp_seconds",
            "When the configuration in force was read, in Unix seconds.",
            [([], state.loaded_unix_secs)],
        ),
        gauge(
            "hairpin_draining",
            "1 while the server waits for its allocations to end, granting none, else 0.",
            [([], f64::from(u8::from(state.is_draining)))],
        ),
        gauge(
            "hairpin_limit",
            "Limits in force, by their key in the configuration; relay_ports counts those of all relay addresses.",
            [
                ("allocations", allocations),
                ("connections", connections),
                ("relay_ports", relay_ports),
                ("offload_flows", offload_flows),
            ]
            .map(|(limit, value)| ([("limit", limit)], value as f64)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, check_text};

    #[test]
    fn reloads_and_limits_are_told() {
        let load = |more: &str| {
            let text = format!("[auth]\nsecrets = [\"0123456789abcdef\"]\n[limits]\n{more}");
            check_text(&text, None, &Machine::any()).unwrap()
        };
        let control = Control::new(&load("allocations = 100"));
        let told = || {
            let registry = prometheus::Registry::new();
            registry.register(Box::new(control.clone())).unwrap();
            prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
        };
        let has = |line: &str| assert!(told().lines().any(|found| found == line), "{line} is missing in\n{}", told());
        has("hairpin_limit{limit=\"allocations\"} 100");
        has("hairpin_configuration_last_reload_successful 1");
        control.reload_failed();
        has("hairpin_configuration_reloads_total{result=\"failed\"} 1");
        has("hairpin_configuration_last_reload_successful 0");
        has("hairpin_limit{limit=\"allocations\"} 100");
        control.reloaded(&load("allocations = 200"));
        has("hairpin_configuration_reloads_total{result=\"done\"} 1");
        has("hairpin_configuration_last_reload_successful 1");
        has("hairpin_limit{limit=\"allocations\"} 200");
        control.set_draining(true);
        has("hairpin_draining 1");
        control.set_draining(false);
        has("hairpin_draining 0");
    }
}
