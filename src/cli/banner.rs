//! What a server without configured credentials tells the person who started it: how to use it, how to try it, and
//! what it still lacks.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::config::ice_servers::{configuration, reachable_at, uris};
use crate::config::{Note, TimeLimited};
use crate::ops::Running;
use crate::shard::ListenAddress;
use crate::turn::{PeerPolicy, RelayAddress};

/// What the configuration knows; the rest is known when the server runs.
pub(super) struct Facts {
    /// Where the made-up secret is kept, if it could be.
    pub secret_file: Option<PathBuf>,
    pub relays: Vec<RelayAddress>,
    pub notes: Vec<Note>,
    pub credential: TimeLimited,
    pub lifetime_secs: u64,
}

/// Writes and flushes it.
pub(super) fn print(out: &mut impl Write, facts: &Facts, running: &Running<'_>) -> io::Result<()> {
    let hours = facts.lifetime_secs / 3_600;
    let until = if facts.secret_file.is_some() { "" } else { ", or until it stops" };
    writeln!(out, "Hairpin is listening. These credentials are good for {hours} hours{until}.\n")?;
    let block = |(host, listen): &(IpAddr, Vec<ListenAddress>)| {
        serde_json::to_string(&configuration(uris(&host.to_string(), listen, running.identity), &facts.credential))
    };
    if let Some(here) = here(running.listening) {
        writeln!(out, "For a browser on this machine:\n\n{}\n", block(&here)?)?;
    }
    match elsewhere(&facts.relays, running.listening) {
        Some(there) => {
            let (host, _) = there;
            writeln!(out, "For browsers elsewhere, which reach this machine at {host}:\n\n{}\n", block(&there)?)?;
        }
        None => {
            writeln!(out, "Browsers elsewhere cannot reach it: no listener or no relay has an address for them.\n")?
        }
    }
    writeln!(
        out,
        "To try it, open the console of a browser (F12), and paste this with one of the lines above for CONFIG.\n\
         A candidate of type \"relay\" means that it works.\n\n\
         c = new RTCPeerConnection({{...CONFIG, iceTransportPolicy: \"relay\"}}); c.createDataChannel(\"\"); \
         c.onicecandidate = e => console.log(e.candidate?.candidate ?? \"done\"); c.setLocalDescription()\n"
    )?;
    if facts.secret_file.is_some() {
        writeln!(out, "For more of them: hairpin credentials --user NAME --ttl 1h\n")?;
    }
    writeln!(out, "Not yet fit for the public Internet:\n")?;
    for line in shortcomings(facts, running) {
        writeln!(out, "- {line}")?;
    }
    writeln!(out, "\nconfig.example.toml explains every key. Start with: hairpin --config FILE")?;
    out.flush()
}

/// Loopback if something listens there, otherwise what listens.
fn here(listen: &[ListenAddress]) -> Option<(IpAddr, Vec<ListenAddress>)> {
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let listening = listen.iter().map(|entry| entry.address.ip()).filter(|ip| !ip.is_unspecified());
    loopback
        .into_iter()
        .chain(listening)
        .map(|ip| (ip, reachable_at(ip, listen)))
        .find(|(_, listen)| !listen.is_empty())
}

/// The address of a relay, because that is where others send to in any case, and the listeners beside it.
fn elsewhere(relays: &[RelayAddress], listen: &[ListenAddress]) -> Option<(IpAddr, Vec<ListenAddress>)> {
    let others_reach = |relay: &&RelayAddress| !relay.advertise.is_loopback();
    let beside = |relay: &RelayAddress| (relay.advertise, reachable_at(relay.bind, listen));
    relays.iter().filter(others_reach).map(beside).find(|(_, listen)| !listen.is_empty())
}

fn shortcomings(facts: &Facts, running: &Running<'_>) -> Vec<String> {
    let whereabouts = match &facts.secret_file {
        Some(path) => format!("is kept in {}. For a web back end", path.display()),
        None => "ends with this server".to_owned() + ". For credentials that last",
    };
    let mut lines = vec![format!(
        "The secret behind these credentials was made up, and {whereabouts} make one yourself (openssl rand -hex 32), \
         and put it into auth.secrets or auth.secret_files."
    )];
    if !running.listening.iter().any(ListenAddress::speaks_tls) {
        lines.push(
            "There is no TLS: networks that let nothing else out cannot be served, and eavesdroppers see who talks to \
             whom. With a certificate, write it into [tls], and addresses into listen.tls."
                .to_owned(),
        );
    }
    if facts.relays.iter().any(|relay| !is_public(relay.advertise)) {
        lines.push(
            "Peers see relays at a private address. If this machine is behind a 1:1 NAT, tell both sides of it: \
             relay.addresses = [{ bind = \"the private one\", advertise = \"the public one\" }]."
                .to_owned(),
        );
        lines.push(
            "Clients may reach public addresses and each other's relays only. In a private network the browsers' own \
             addresses are refused, unless peers.allow lists it."
                .to_owned(),
        );
    }
    let told = ["auth.secrets", "relay.addresses"];
    let others = facts.notes.iter().filter(|note| !told.contains(&note.key));
    lines.extend(others.map(Note::to_string));
    lines.extend(running.skipped.iter().map(|skipped| format!("Not listening on {skipped}.")));
    lines
}

fn is_public(ip: IpAddr) -> bool {
    PeerPolicy::default().check(ip).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ListenOptions;
    use crate::turn::{SharedSecret, TimeLimitedForm, Transport};

    /// `relay` is one address, or two with a slash between: bound and advertised.
    fn printed(relay: &str, listen: &[&str]) -> String {
        let (bind, advertise) = relay.split_once('/').unwrap_or((relay, relay));
        let facts = Facts {
            secret_file: Some("/var/lib/hairpin/secret".into()),
            relays: vec![RelayAddress { bind: bind.parse().unwrap(), advertise: advertise.parse().unwrap() }],
            notes: Vec::new(),
            credential: TimeLimited::derive(
                TimeLimitedForm::default(),
                &SharedSecret(b"north".to_vec()),
                "trial",
                1_893_456_000,
            ),
            lifetime_secs: 86_400,
        };
        let listen: Vec<ListenAddress> = listen
            .iter()
            .map(|address| ListenAddress {
                transport: Transport::Udp,
                address: address.parse().unwrap(),
                required: false,
                options: ListenOptions::default(),
            })
            .collect();
        let running = Running { listening: &listen, skipped: &[], admin: None, identity: None };
        let mut out = Vec::new();
        print(&mut out, &facts, &running).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_public_machine_has_a_block_for_both() {
        let text = printed("8.8.4.4", &["0.0.0.0:3478"]);
        assert!(text.contains("turn:127.0.0.1:3478?transport=udp"));
        assert!(text.contains("turn:8.8.4.4:3478?transport=udp"));
        assert!(!text.contains("1:1 NAT"));
        assert!(!text.contains("north"));
    }

    #[test]
    fn behind_a_1_to_1_nat_others_use_the_public_address() {
        let text = printed("10.0.0.5/8.8.4.4", &["10.0.0.5:3478"]);
        assert!(text.contains("turn:10.0.0.5:3478?transport=udp"));
        assert!(text.contains("reach this machine at 8.8.4.4") && text.contains("turn:8.8.4.4:3478?transport=udp"));
    }

    #[test]
    fn a_private_address_is_pointed_out() {
        assert!(printed("10.0.0.5", &["0.0.0.0:3478"]).contains("1:1 NAT"));
    }

    #[test]
    fn a_machine_of_its_own_says_that_nobody_else_can_come() {
        let text = printed("127.0.0.1", &["127.0.0.1:3478"]);
        assert!(text.contains("Browsers elsewhere cannot reach it"));
        assert_eq!(text.matches("\"iceServers\"").count(), 1);
    }
}
