//! Running Hairpin: its configuration, and its counters from the Prometheus page on its admin port.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use patchbay::Device;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Addresses, CERTIFICATE, KEY, PASSWORD, PORT, Relayed, Setup, TLS_PORT, USER};
use crate::lab::TURN_HOST;
use crate::options::Offload;

const ADMIN_PORT: u16 = 9641;
/// Of users whose credentials expire.
const SECRET: &str = "lab-secret-that-nobody-uses";
/// The configuration, in the server's scratch directory.
const CONFIGURATION: &str = "hairpin.toml";
/// The admin socket, in the server's scratch directory.
const ADMIN_SOCKET: &str = "admin.sock";
const SCRAPE_PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn command(binary: &Path, scratch: &Path) -> Command {
    let mut command = Command::new(binary);
    command.arg("serve").arg("--config").arg(scratch.join(CONFIGURATION));
    command
}

/// Writes what a server reads when it starts, and when it is told to.
pub(super) fn configure(setup: Setup, addresses: Addresses, offload: Offload, scratch: &Path) -> Result<()> {
    let file = scratch.join(CONFIGURATION);
    // Readable to its owner only: it has a password in it, and Hairpin says so if others can read it.
    let opened = File::options().create(true).write(true).truncate(true).mode(0o600).open(&file);
    let mut text = configuration(addresses, offload, &scratch.join(ADMIN_SOCKET));
    if let Setup::Explaining(more) = setup {
        text += more;
    }
    let written = opened.and_then(|mut opened| opened.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", file.display()))
}

/// `hairpin reload`, which has a server that was started with that scratch directory read its configuration again.
pub(super) fn reload_command(binary: &Path, scratch: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(["reload", "--admin"]).arg(scratch.join(ADMIN_SOCKET));
    command
}

/// `hairpin explain`, asking a server that was started with that scratch directory.
pub(super) fn explain_command(binary: &Path, scratch: &Path, about: &str) -> Command {
    let mut command = Command::new(binary);
    command.args(["explain", about, "--admin"]).arg(scratch.join(ADMIN_SOCKET));
    command
}

/// No argument, no file, an empty directory to start in and another one to keep things in.
pub(super) fn bare_command(binary: &Path, scratch: &Path) -> Result<Command> {
    let (empty, state) = (scratch.join("empty"), scratch.join("state"));
    std::fs::create_dir_all(&empty).with_context(|| format!("cannot make {}", empty.display()))?;
    let mut command = Command::new(binary);
    command.current_dir(empty).env("XDG_STATE_HOME", state).env_remove("STATE_DIRECTORY").env_remove("HAIRPIN_CONFIG");
    Ok(command)
}

/// The last block of `iceServers` that a server without configuration prints: the one for browsers elsewhere.
pub(super) fn printed_for_others(text: &str) -> Option<serde_json::Value> {
    if !text.contains("For browsers elsewhere") {
        return None;
    }
    let mut blocks = text.lines().filter(|line| line.starts_with(r#"{"iceServers""#));
    let mut last: serde_json::Value = serde_json::from_str(blocks.next_back()?).ok()?;
    Some(last["iceServers"].take())
}

/// The lab's addresses are special-purpose ones (198.18.0.0/15, RFC 2544), which Hairpin refuses as peers unless told.
fn configuration(Addresses { bind, advertise, other }: Addresses, offload: Offload, admin_socket: &Path) -> String {
    let mode = match offload {
        Offload::On => "auto",
        Offload::Off => "off",
    };
    let nat_discovery = other.map_or_else(String::new, |other| {
        format!(
            r#"[nat_discovery]
enabled = true
addresses = ["{bind}", "{other}"]
response_port = true

"#
        )
    });
    format!(
        r#"[listen]
udp = ["0.0.0.0:{PORT}"]
tcp = ["0.0.0.0:{PORT}"]
tls = ["0.0.0.0:{TLS_PORT}"]

[tls]
certificate = "{CERTIFICATE}"
key = "{KEY}"

[relay]
addresses = [{{ bind = "{bind}", advertise = "{advertise}" }}]

[auth]
realm = "{TURN_HOST}"
secrets = ["{SECRET}"]
[[auth.users]]
name = "{USER}"
password = "{PASSWORD}"

[peers]
allow = ["198.18.0.0/15"]

{nat_discovery}[admin]
listen = "127.0.0.1:{ADMIN_PORT}"
socket = {admin_socket:?}

[offload]
mode = "{mode}"

[log]
format = "text"
"#
    )
}

pub(super) async fn relayed(device: &Device) -> Result<Relayed> {
    let scrape = device.spawn(|_| timeout(SCRAPE_PATIENCE, scrape()))?.await?;
    let page =
        scrape.context("Hairpin's /metrics does not answer within 3 s")?.context("cannot read Hairpin's /metrics")?;
    parse(&page)
}

async fn scrape() -> Result<String> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT))).await?;
    // HTTP/1.0, so that the answer ends with the connection and needs no further parsing.
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    match response.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => bail!("unexpected answer: {}", response.lines().next().unwrap_or("nothing")),
    }
}

/// Sums the samples of each metric over all labels except the direction.
fn parse(page: &str) -> Result<Relayed> {
    let sum = |metric: &str, label: &str| -> Result<u64> {
        let mut total = None;
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap_or((line, ""));
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            if name == metric && labels.contains(label) {
                let value: f64 = value.parse().with_context(|| format!("cannot read the sample {line:?}"))?;
                *total.get_or_insert(0) += value as u64;
            }
        }
        total.with_context(|| format!("Hairpin's /metrics has no {metric} {label}"))
    };
    Ok(Relayed {
        bytes_to_peers: sum("hairpin_relayed_bytes_total", r#"direction="to_peer""#)?,
        packets_to_peers: sum("hairpin_relayed_packets_total", r#"direction="to_peer""#)?,
        bytes_to_clients: sum("hairpin_relayed_bytes_total", r#"direction="to_client""#)?,
        packets_to_clients: sum("hairpin_relayed_packets_total", r#"direction="to_client""#)?,
        packets_in_kernel: sum("hairpin_offload_packets_total", "")?,
        allocations: sum("hairpin_allocations", "")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_other_labels() {
        let page = "# HELP hairpin_allocations now\n\
                    hairpin_allocations{transport=\"udp\"} 2\nhairpin_allocations{transport=\"tcp\"} 1\n\
                    hairpin_allocations_created_total 9\n\
                    hairpin_relayed_bytes_total{direction=\"to_peer\",plane=\"user\"} 1000\n\
                    hairpin_relayed_bytes_total{direction=\"to_peer\",plane=\"kernel\"} 500\n\
                    hairpin_relayed_bytes_total{direction=\"to_client\"} 7\n\
                    hairpin_relayed_packets_total{direction=\"to_peer\"} 3\n\
                    hairpin_relayed_packets_total{direction=\"to_client\"} 1\n\
                    hairpin_offload_packets_total{direction=\"to_peer\"} 2\n\
                    hairpin_offload_packets_total{direction=\"to_client\"} 1\n";
        let expected = Relayed {
            bytes_to_peers: 1500,
            packets_to_peers: 3,
            bytes_to_clients: 7,
            packets_to_clients: 1,
            packets_in_kernel: 3,
            allocations: 3,
        };
        assert_eq!(parse(page).unwrap(), expected);
    }

    #[test]
    fn what_is_printed_for_others_is_the_last_block() {
        let here = r#"{"iceServers":[{"urls":["stun:127.0.0.1:3478"]}]}"#;
        let there = r#"{"iceServers":[{"urls":["stun:198.18.0.3:3478"]}]}"#;
        let text = format!("For a browser on this machine:\n\n{here}\n\nFor browsers elsewhere, …:\n\n{there}\n");
        assert_eq!(printed_for_others(&text).unwrap(), serde_json::json!([{ "urls": ["stun:198.18.0.3:3478"] }]));
        assert_eq!(printed_for_others(here), None);
    }

    #[test]
    fn a_missing_counter_is_an_error_and_not_zero() {
        assert!(parse("hairpin_allocations 0\n").unwrap_err().to_string().contains("hairpin_relayed_bytes_total"));
    }
}
