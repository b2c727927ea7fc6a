//! A NAT's behaviour as nftables rules, and putting them into a router.
//!
//! Linux decides about a packet's external address once a flow, and forgets it with the flow. To behave like another
//! NAT it has to remember what it has decided: a chain behind the decision notes the external port in maps, and the
//! next flow of the same internal endpoint finds it there.
//!
//! | object | key | for |
//! |---|---|---|
//! | `mappings` | internal endpoint, and the destination's address if mapping depends on it | the port of the next flow |
//! | `internal` | external port | whose it is, for packets from outside |
//! | `taken` | external port | no two mappings have the same one (RFC 4787, REQ-3) |
//! | `contacted` | internal endpoint, remote address | address-dependent filtering |
//!
//! Address- and port-dependent mapping and filtering are what conntrack does by itself.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Behaviour, Filtering, Mapping, PortAssignment};
use crate::process::find_program;

/// Replaces the table that patchbay makes for an endpoint-independent NAT.
pub(crate) fn ruleset(behaviour: &Behaviour, outside: &str, address: Ipv4Addr) -> String {
    let mut rules = String::from("add table ip nat\ndelete table ip nat\n");
    if behaviour.guarded {
        guarded(&mut rules, behaviour, outside, address);
    } else {
        let masquerade = masquerade(behaviour.ports);
        let _ = write!(
            rules,
            "table ip nat {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oif \"{outside}\" {masquerade}
  }}
}}
"
        );
    }
    rules
}

fn masquerade(ports: PortAssignment) -> &'static str {
    match ports {
        PortAssignment::Preserving => "masquerade",
        PortAssignment::Random => "masquerade fully-random",
    }
}

fn guarded(rules: &mut String, behaviour: &Behaviour, outside: &str, address: Ipv4Addr) {
    let seconds = behaviour.udp_timeout_seconds;
    // The key of `mappings`: its type, the packet's fields before the decision, and the flow's after it.
    let (key_type, key, noted_key) = match behaviour.mapping {
        Mapping::EndpointIndependent => ("", "", ""),
        Mapping::AddressDependent => (" . ipv4_addr", " . ip daddr", " . ct original ip daddr"),
        Mapping::AddressAndPortDependent => (
            " . ipv4_addr . inet_service",
            " . ip daddr . udp dport",
            " . ct original ip daddr . ct original proto-dst",
        ),
    };
    let bounds = format!("flags dynamic,timeout; timeout {seconds}s; size 65536");
    let known = format!("snat to {address} : ip saddr . udp sport{key} map @mappings");
    let masquerade = masquerade(behaviour.ports);

    // Who gets in without having been asked. What is not translated here is the router's own, and dropped.
    let delivered = "dnat to udp dport map @internal";
    let delivery = match (behaviour.filtering, behaviour.hairpinning) {
        (Filtering::AddressAndPortDependent, false) => String::new(),
        (Filtering::AddressAndPortDependent, true) => {
            format!("iif != \"{outside}\" ip daddr {address} udp dport 1-65535 {delivered}")
        }
        (_, false) => format!("iif \"{outside}\" ip daddr {address} udp dport 1-65535 {delivered}"),
        (_, true) => format!("ip daddr {address} udp dport 1-65535 {delivered}"),
    };
    let accepted = match behaviour.filtering {
        Filtering::EndpointIndependent => format!("iif \"{outside}\" ct status dnat accept"),
        Filtering::AddressDependent => {
            format!("iif \"{outside}\" ct status dnat ip daddr . udp dport . ip saddr @contacted accept")
        }
        Filtering::AddressAndPortDependent => String::new(),
    };
    // A hairpinned packet comes from the sender's external endpoint (RFC 4787, REQ-9).
    let hairpinned = if behaviour.hairpinning {
        format!(
            "oif != \"{outside}\" ct status dnat meta l4proto udp {known}\n    oif != \"{outside}\" ct status dnat snat to {address}"
        )
    } else {
        String::new()
    };
    let note = format!("ip saddr {address} meta l4proto udp ct direction original update");
    let internal = "ct original ip saddr . ct original proto-src";
    let _ = write!(
        rules,
        "table ip nat {{
  map mappings {{ type ipv4_addr . inet_service{key_type} : inet_service; {bounds}; }}
  map internal {{ type inet_service : ipv4_addr . inet_service; {bounds}; }}
  set taken {{ type inet_service; {bounds}; }}
  set contacted {{ type ipv4_addr . inet_service . ipv4_addr; {bounds}; }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    {delivery}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oif \"{outside}\" meta l4proto udp {known}
    oif \"{outside}\" udp sport @taken masquerade fully-random
    oif \"{outside}\" {masquerade}
    {hairpinned}
  }}
  chain noted {{
    type filter hook postrouting priority srcnat + 9; policy accept;
    {note} @mappings {{ {internal}{noted_key} : ct reply proto-dst }}
    {note} @internal {{ ct reply proto-dst : {internal} }}
    {note} @taken {{ ct reply proto-dst }}
    {note} @contacted {{ {internal} . ip daddr }}
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iif \"{outside}\" ct state established,related accept
    {accepted}
    iif \"{outside}\" drop
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    ip daddr {address} meta l4proto udp drop
  }}
}}
"
    );
}

/// Loads rules in the network namespace of the calling thread.
pub(crate) fn load(rules: &str) -> Result<()> {
    let nft = find_program("nft").context("nft is not installed (Debian: apt install nftables)")?;
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nft")?;
    child.stdin.take().context("nft has no input")?.write_all(rules.as_bytes()).context("cannot write to nft")?;
    let output = child.wait_with_output().context("cannot wait for nft")?;
    if !output.status.success() {
        bail!("nft refuses the NAT's rules: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
