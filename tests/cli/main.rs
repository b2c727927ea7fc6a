//! The `hairpin` command from outside: what it prints and how it exits.

mod admin;
mod admin_fuzz;
mod admin_relay;
mod bench;
mod check_config;
mod confinement;
mod credentials;
mod dns;
mod dns_records;
mod explain;
mod harness;
mod help;
mod limits;
mod logs;
mod memory;
mod pass_through;
mod probe;
mod probe_dns;
mod realms;
mod reload;
mod serve;
mod tls;
mod turn_client;
mod usage;
