//! What else `turnutils_uclient` can be told to do: other relays, other attributes, other credentials, and misdeeds.
//!
//! All of it with Send indications, because uclient draws channel numbers by lot (see `uclient`). docs/interop.md says
//! which switches show nothing, and why.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::processes::{Guarded, is_installed, run, start};
use crate::server::{PASSWORD, SECRET, Server, USERNAME, has_ipv6};
use crate::uclient::{PEER, UCLIENT, number, start_peer};

const MESSAGES: u32 = 20;

/// A server, and an echo peer of each family.
struct Lab {
    server: Server,
    peers: Vec<(IpAddr, Guarded, u16)>,
}

impl Lab {
    fn start() -> Option<Self> {
        if !is_installed(UCLIENT) || !is_installed(PEER) {
            return None;
        }
        let mut hosts = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
        if has_ipv6() {
            hosts.push(Ipv6Addr::LOCALHOST.into());
        } else {
            println!("SKIP of IPv6: there is no ::1");
        }
        let peers = hosts.into_iter().map(|host| {
            let (process, port) = start_peer(host);
            (host, process, port)
        });
        Some(Self { server: Server::start(), peers: peers.collect() })
    }

    /// The arguments for a run of two clients with these flags. `-4` and `-6` stand for the peer, `@6` for the way to the
    /// server over IPv6.
    fn arguments(&self, flags: &str) -> Vec<String> {
        let port = if flags.contains("-S") { self.server.tls_port } else { self.server.address.port() };
        let mut arguments: Vec<String> = ["-s", "-m", "2", "-l", "171", "-z", "5"].map(String::from).to_vec();
        arguments.extend(["-n".to_owned(), MESSAGES.to_string(), "-p".to_owned(), port.to_string()]);
        if !flags.contains("-u") {
            arguments.extend(["-u", USERNAME, "-w", PASSWORD].map(String::from));
        }
        for flag in flags.split(' ') {
            let peer = |is_wanted: fn(&IpAddr) -> bool| {
                let (host, _, port) = self.peers.iter().find(|(host, ..)| is_wanted(host)).expect("not without IPv6");
                ["-e".to_owned(), host.to_string(), "-r".to_owned(), port.to_string()]
            };
            match flag {
                "-4" => arguments.extend(peer(IpAddr::is_ipv4)),
                "-6" => arguments.extend(peer(IpAddr::is_ipv6)),
                "@6" => {}
                _ => arguments.push(flag.to_owned()),
            }
        }
        arguments.push(if flags.contains("@6") { "::1" } else { "127.0.0.1" }.to_owned());
        arguments
    }

    /// Messages sent and received.
    fn run(&self, flags: &str) -> (u32, u32) {
        let text = run(UCLIENT, &self.arguments(flags));
        let sent = number(&text, "tot_send_msgs").unwrap_or_else(|| panic!("{flags}: no count of messages:\n{text}"));
        (sent, number(&text, "tot_recv_msgs").expect("received comes with sent"))
    }

    /// All runs at once, since each spends seconds in waiting.
    fn every_message_comes_back(&self, runs: &[&str]) {
        std::thread::scope(|scope| {
            for flags in runs {
                scope.spawn(move || {
                    let (sent, received) = self.run(flags);
                    assert!(sent > 0 && sent % MESSAGES == 0, "{flags}: {sent} sent");
                    assert_eq!(received, sent, "{flags}: received and sent");
                });
            }
        });
    }
}

#[test]
fn every_message_comes_back_whatever_is_asked_for() {
    let Some(lab) = Lab::start() else { return };
    let with_time = format!("-c -u someone -W {SECRET} -4");
    let mut runs = vec![
        // An IPv4 relay by REQUESTED-ADDRESS-FAMILY.
        "-c -X -4",
        // DONT-FRAGMENT.
        "-c -g -4",
        // RTCP as well: EVEN-PORT and RESERVATION-TOKEN.
        "-4",
        "-t -y",
        // More permissions and channels than it needs, some of them refused.
        "-c -G -4",
        // ORIGIN and a bandwidth, which need not be understood.
        "-c -o http://example.org -a 100000 -4",
        // A name with its time of expiry.
        &with_time,
    ];
    if has_ipv6() {
        // An IPv6 relay for a client that comes over IPv4, and the other way round.
        runs.extend(["-c -x -6", "-c -x -y", "-c -t -x -6", "@6 -c -x -6", "@6 -c -X -4", "@6 -c -t -X -4"]);
    }
    lab.every_message_comes_back(&runs);
}

#[test]
fn without_permissions_nothing_comes_back() {
    let Some(lab) = Lab::start() else { return };
    let (sent, received) = lab.run("-c -I -4");
    assert!(sent > 0, "nothing was sent");
    assert_eq!(received, 0);
}

/// With `-R` each tenth message has some of its bytes changed by lot. What comes of it is its own affair.
#[test]
fn damaged_messages_harm_nobody_else() {
    let Some(lab) = Lab::start() else { return };
    let vandals = ["-c -R -4", "-c -R -t -4", "-c -R -t -S -y"].map(|flags| start(UCLIENT, &lab.arguments(flags)));
    lab.every_message_comes_back(&["-c -4", "-c -t -4", "-c -t -y"]);
    drop(vandals);
}

/// With `-O` it allocates and goes away.
#[test]
fn clients_that_leave_at_once_harm_nobody_else() {
    let Some(lab) = Lab::start() else { return };
    for transport in ["", "-t "] {
        run(UCLIENT, &lab.arguments(&format!("{transport}-c -O -4")));
    }
    assert!(lab.server.allocations_over("udp") > 0 && lab.server.allocations_over("tcp") > 0);
    lab.every_message_comes_back(&["-c -4", "-c -t -4"]);
}
