//! What an operator sees: metrics, dashboards and alert rules, held against their documentation and, where it
//! is installed, tried with a real Prometheus.

#[path = "../cli/harness.rs"]
#[allow(dead_code, reason = "shared with tests/cli, which needs all of it")]
mod harness;
#[path = "../cli/turn_client.rs"]
#[allow(dead_code, reason = "shared with tests/cli, which needs all of it")]
mod turn_client;

mod documents;
mod in_step;
mod load;
mod logs;
mod prometheus;
