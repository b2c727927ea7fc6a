//! RFC 6062 with coturn's `turnutils_uclient`: `-T`, where one client connects to the other's relayed address, and `-P`,
//! where a plain connection comes to it.

use crate::processes::{is_installed, run, wait_until};
use crate::server::{PASSWORD, Server, USERNAME};

const UCLIENT: &str = "turnutils_uclient";
const MESSAGES: u32 = 40;
const MESSAGE_BYTES: u32 = 171;

/// Runs it with these flags; what it says about messages sent and received, and the server that has relayed them.
fn talk(flags: &[&str]) -> Option<(u32, u32, Server)> {
    if !is_installed(UCLIENT) {
        return None;
    }
    let server = Server::start();
    let port = if flags.contains(&"-S") { server.tls_port } else { server.address.port() };
    let mut arguments: Vec<String> = flags.iter().map(|flag| flag.to_string()).collect();
    let (count, len, port) = (MESSAGES.to_string(), MESSAGE_BYTES.to_string(), port.to_string());
    let common = ["-u", USERNAME, "-w", PASSWORD, "-n", &count, "-m", "2", "-l", &len, "-z", "5", "-p", &port];
    arguments.extend(common.map(String::from));
    arguments.push("127.0.0.1".into());
    let text = run(UCLIENT, &arguments);
    let number = |name: &str| {
        let behind = text.rsplit_once(name).unwrap_or_else(|| panic!("{name} is missing:\n{text}")).1;
        let digits: String = behind.trim_start_matches('=').chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    };
    Some((number("tot_send_msgs"), number("tot_recv_msgs"), server))
}

/// Bytes to peers and to clients, over all connections that the log has seen ending.
fn bytes_relayed(server: &Server) -> (u32, u32) {
    let log = server.log();
    let sum = |name: &str| {
        let lines = log.lines().filter(|line| line.contains("event=\"peer_disconnected\""));
        let counts = lines.map(|line| line.split_once(name).expect("both directions").1.split(' ').next());
        counts.map(|count| count.unwrap_or("").parse::<u32>().expect("a number")).sum()
    };
    (sum("bytes_to_peer="), sum("bytes_to_client="))
}

/// Both clients have a TCP allocation: what one sends goes through both connections, and so is relayed twice.
fn client_to_client(flags: &[&str]) {
    let Some((sent, received, server)) = talk(flags) else { return };
    assert_eq!(sent, 2 * MESSAGES, "sent");
    if flags.contains(&"-S") {
        // It loses count when two messages come in one record (see `uclient.rs`).
        assert!(received > 0, "received");
    } else {
        assert_eq!(received, sent, "received");
    }
    let all = 2 * MESSAGES * MESSAGE_BYTES;
    wait_until("every byte, both ways", || bytes_relayed(&server) == (all, all));
}

#[test]
fn tcp_relays_over_tcp() {
    client_to_client(&["-T"]);
}

#[test]
fn tcp_relays_over_tls() {
    client_to_client(&["-T", "-S"]);
}

/// Only one of the two has an allocation, and counts what it receives. With `-S` the tool wants to speak TLS to the relayed
/// address, too. Both are the same with coturn's own server.
#[test]
fn tcp_relays_with_an_active_peer_over_tcp() {
    let Some((sent, received, server)) = talk(&["-P"]) else { return };
    assert_eq!((sent, received), (2 * MESSAGES, MESSAGES));
    let all = MESSAGES * MESSAGE_BYTES;
    wait_until("every byte, both ways", || bytes_relayed(&server) == (all, all));
}
