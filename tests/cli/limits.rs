//! Limits of the configuration file against a real server: what clients hear, and what the metrics say.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::harness::{Place, Server};
use super::serve::QUIET;
use super::turn_client::TurnClient;

const USERS: &str = "[shutdown]\ndrain = \"0s\"\n[peers]\nallow = [\"127.0.0.0/8\"]\n[[auth.users]]\nname = \"alice\"\npassword = \"a\"\n\
                     [[auth.users]]\nname = \"bob\"\npassword = \"b\"\n";

fn metrics(admin: SocketAddr) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Two allocations of Alice and one of Bob, one after another.
fn allocate(udp: SocketAddr) -> Vec<Result<(), u16>> {
    let users = [("alice", "a"), ("alice", "a"), ("bob", "b")];
    let mut clients: Vec<TurnClient> = users.iter().map(|_| TurnClient::new(udp)).collect();
    let results = clients.iter_mut().zip(users).map(|(client, (name, password))| client.allocate(name, password));
    results.collect()
}

/// Two permissions of one allocation.
fn permit(udp: SocketAddr) -> Vec<Result<(), u16>> {
    let mut client = TurnClient::new(udp);
    client.allocate("alice", "a").unwrap();
    let peers = ["127.0.0.1:1", "127.0.0.2:1"].map(|peer| peer.parse().unwrap());
    peers.into_iter().map(|peer| client.permit(peer)).collect()
}

/// A channel of one allocation and one of another, both of Alice.
fn bind_channels(udp: SocketAddr) -> Vec<Result<(), u16>> {
    let mut clients = [TurnClient::new(udp), TurnClient::new(udp)];
    let act = |client: &mut TurnClient| {
        client.allocate("alice", "a").unwrap();
        client.bind_channel("127.0.0.1:1".parse().unwrap())
    };
    clients.iter_mut().map(act).collect()
}

/// A permission of an allocation of Alice, and one of Bob's.
fn permit_neighbours(udp: SocketAddr) -> Vec<Result<(), u16>> {
    let mut clients = [TurnClient::new(udp), TurnClient::new(udp)];
    let act = |(client, (name, password)): (&mut TurnClient, (&str, &str))| {
        client.allocate(name, password).unwrap();
        client.permit("127.0.0.1:1".parse().unwrap())
    };
    clients.iter_mut().zip([("alice", "a"), ("bob", "b")]).map(act).collect()
}

type Row = (&'static str, fn(SocketAddr) -> Vec<Result<(), u16>>, Vec<Result<(), u16>>);

#[test]
fn s12_keys_of_the_file_become_answers_and_metrics() {
    let rows: [Row; 10] = [
        ("allocations", allocate, vec![Ok(()), Ok(()), Err(508)]),
        ("allocations_per_user", allocate, vec![Ok(()), Err(486), Ok(())]),
        ("allocations_per_prefix", allocate, vec![Ok(()), Ok(()), Err(486)]),
        ("permissions_per_allocation", permit, vec![Ok(()), Err(508)]),
        ("permissions_per_user", permit, vec![Ok(()), Err(508)]),
        ("permissions_per_prefix", permit_neighbours, vec![Ok(()), Err(508)]),
        ("channels_per_user", bind_channels, vec![Ok(()), Err(508)]),
        ("channels_per_prefix", bind_channels, vec![Ok(()), Err(508)]),
        ("permissions", permit_neighbours, vec![Ok(()), Err(508)]),
        ("channels", bind_channels, vec![Ok(()), Err(508)]),
    ];
    for (key, act, expected) in rows {
        let limit = expected.iter().position(Result::is_err).unwrap();
        let place = Place::new();
        let quiet = QUIET.replace("[relay]\n", "[relay]\nports = \"55000-55999\"\n");
        let prefix = if key == "allocations" { "allocations_per_prefix = 9\n" } else { "" };
        place.file("limits.toml", &format!("threads = 2\n{quiet}[limits]\n{prefix}{key} = {limit}\n{USERS}"));
        let mut server = Server::start(&place, &["--config", "limits.toml"]);
        let (udp, admin) = server.wait_until_listening();
        assert_eq!(act(udp), expected, "{key}");
        let line = format!("hairpin_limits_reached_total{{limit=\"{key}\"}} 1");
        // A busy shard publishes its counters a moment later; one that sleeps has.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !metrics(admin).contains(&line) {
            assert!(std::time::Instant::now() < deadline, "{line} is missing");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(server.terminate_and_wait(), Some(0));
    }
}
