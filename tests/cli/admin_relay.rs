//! The admin port cannot be reached through a relay, wherever it is.

use std::net::{IpAddr, SocketAddr};

use super::harness::{Place, Server};
use super::turn_client::TurnClient;

/// An address of this machine that others may reach.
fn external() -> Option<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().ok()?;
    let ip = |address: nix::sys::socket::SockaddrStorage| Some(IpAddr::V4(address.as_sockaddr_in()?.ip()));
    addresses.filter_map(|entry| ip(entry.address?)).find(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// Abuse S1, S20: own addresses are refused as peers, by permission and by Connect; where one is a relay's as well,
/// the relays are all that is reached there.
#[test]
fn s20_the_admin_port_is_no_peer() {
    let external = external();
    if external.is_none() {
        println!("SKIP: this machine has no address but loopback; that alone is tried");
    }
    for (admin, relay) in [(Some("127.0.0.1".parse().unwrap()), "127.0.0.1".parse().unwrap())]
        .into_iter()
        .chain(external.map(|ip| (Some(ip), ip)))
        .chain(external.map(|ip| (Some(ip), "127.0.0.1".parse::<IpAddr>().unwrap())))
    {
        let admin: IpAddr = admin.unwrap();
        let place = Place::new();
        // The port lies among those of relays, where nothing but the list of relays keeps it apart.
        let text = format!(
            "threads = 1\n[listen]\nudp = [\"127.0.0.1:0\"]\ntcp = [\"127.0.0.1:0\"]\n\
             [relay]\naddresses = [\"{relay}\"]\nports = \"1024-65535\"\n[tcp_relay]\nenabled = true\n\
             allow_ports = [\"1024-65535\"]\n[admin]\nlisten = \"{}\"\n[log]\nformat = \"json\"\n[shutdown]\ndrain = \"0s\"\n\
             [[auth.users]]\nname = \"alice\"\npassword = \"wonder\"\n",
            SocketAddr::new(admin, 0)
        );
        place.secret_file("turn.toml", &text);
        let mut server = Server::start(&place, &["--config", "turn.toml"]);
        let (udp, port) = server.wait_until_listening();
        let mut client = TurnClient::tcp(server.listening("tcp"));
        client.allocate_tcp("alice", "wonder").unwrap();
        let refused = client.connect(port).unwrap_err();
        assert!(refused == 403 || refused == 447, "{admin} through {relay}: {refused}");
        if admin != relay {
            let mut client = TurnClient::new(udp);
            client.allocate("alice", "wonder").unwrap();
            assert_eq!(client.permit(port), Err(403), "{admin} through {relay}");
        }
        assert_eq!(server.terminate_and_wait(), Some(0));
    }
}
