//! Users whose keys are kept elsewhere, with the server as it is shipped and real back ends: SQLite, PostgreSQL, MariaDB,
//! Redis, and a small web server. Where one is not installed the test says SKIP.

#[path = "../cli/harness.rs"]
#[allow(dead_code, reason = "shared with tests/cli, which needs all of it")]
mod harness;
#[path = "../cli/turn_client.rs"]
#[allow(dead_code, reason = "shared with tests/cli, which needs all of it")]
mod turn_client;

mod processes;
mod redis;
mod scenario;
mod sql;
mod web;
