//! Running coturn's `turnserver`, and its counters from the lines it logs when a session ends.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Addresses, CERTIFICATE, KEY, PASSWORD, PORT, Relayed, TLS_PORT, USER};
use crate::lab::TURN_HOST;

pub(super) fn command(binary: &Path, Addresses { bind, advertise, .. }: Addresses, scratch: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(["-n", "--verbose", "--log-file=stdout", "--simple-log", "--no-cli", "--no-dtls"]);
    command.args(["--lt-cred-mech", "--fingerprint", "--no-software-attribute"]);
    command.arg(format!("--user={USER}:{PASSWORD}")).arg(format!("--realm={TURN_HOST}"));
    command.arg(format!("--listening-ip={bind}")).arg(format!("--relay-ip={bind}"));
    if bind != advertise {
        command.arg(format!("--external-ip={advertise}/{bind}"));
    }
    command.arg(format!("--listening-port={PORT}")).arg(format!("--tls-listening-port={TLS_PORT}"));
    command.arg("--cert").arg(scratch.join(CERTIFICATE)).arg("--pkey").arg(scratch.join(KEY));
    command.arg("--pidfile").arg(scratch.join("turnserver.pid"));
    command.arg("--userdb").arg(scratch.join("turnserver.db"));
    command.current_dir(scratch);
    command
}

/// Reads the whole log. Allocations that still exist are sessions with an ALLOCATE and without an end.
pub(super) fn relayed(log: &Path) -> Result<Relayed> {
    let text = std::fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

/// The number in `… session NUMBER: …`.
fn session(line: &str) -> Option<&str> {
    line.split_once("session ")?.1.split(':').next()
}

fn parse(log: &str) -> Relayed {
    let mut relayed = Relayed::default();
    let mut live = BTreeSet::new();
    for line in log.lines() {
        if line.contains("ALLOCATE processed, success") {
            // A set, since the answer to a repeated request looks the same.
            live.insert(session(line));
        } else if let Some((_, usage)) = line.split_once(": peer usage: ") {
            // `rp`, `rb`: packets and bytes from peers; `sp`, `sb`: to peers. A line follows each 2,048 packets too.
            let field = |name: &str| {
                let value = usage.split(", ").find_map(|field| field.strip_prefix(name))?;
                value.trim().parse::<u64>().ok()
            };
            relayed.packets_to_clients += field("rp=").unwrap_or(0);
            relayed.bytes_to_clients += field("rb=").unwrap_or(0);
            relayed.packets_to_peers += field("sp=").unwrap_or(0);
            relayed.bytes_to_peers += field("sb=").unwrap_or(0);
        } else if line.contains("delete: realm=") {
            live.remove(&session(line));
        }
    }
    relayed.allocations = live.len() as u64;
    relayed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_summed_over_sessions_and_only_the_peers_side() {
        let log = "\
            0: : session 001000000000000002: realm <turn.lab> user <lab>: incoming packet ALLOCATE processed, success\n\
            0: : session 001000000000000002: realm <turn.lab> user <lab>: incoming packet ALLOCATE processed, success\n\
            1: : session 001000000000000003: realm <turn.lab> user <lab>: incoming packet ALLOCATE processed, success\n\
            4: : session 001000000000000003: usage: realm=<turn.lab>, username=<lab>, rp=500, rb=283158, sp=484, sb=275484\n\
            4: : session 001000000000000003: peer usage: realm=<turn.lab>, username=<lab>, rp=478, rb=273100, sp=494, sb=280589\n\
            4: : session 001000000000000003: delete: realm=<turn.lab>, username=<lab>\n\
            4: : session 001000000000000002: peer usage: realm=<turn.lab>, username=<lab>, rp=1, rb=2, sp=3, sb=4\n";
        let expected = Relayed {
            bytes_to_peers: 280_593,
            packets_to_peers: 497,
            bytes_to_clients: 273_102,
            packets_to_clients: 479,
            packets_in_kernel: 0,
            allocations: 1,
        };
        assert_eq!(parse(log), expected);
    }
}
