//! What is in the log, and what never is.

use std::net::SocketAddr;

use super::harness::{Place, Server};
use super::turn_client::TurnClient;

const SECRETS: [&str; 3] = ["very-confidential-password", "0123456789abcdef-shared", "a-password-that-is-wrong"];
const HOSTILE: &str = "x%s' \"\n\0\u{1b}[31m event=\"forged\" \u{202e}";

fn start(place: &Place, log: &str) -> (Server, SocketAddr) {
    let text = format!(
        "[listen]\nudp = [\"127.0.0.1:0\"]\ntcp = []\n[relay]\naddresses = [\"127.0.0.1\"]\n[admin]\nlisten = \"off\"\n\
         [auth]\nsecrets = [\"{}\"]\nnonce_secret = \"nonce-secret-of-all-nonces\"\n[[auth.users]]\nname = \"confidential-bob\"\n\
         password = \"{}\"\n[log]\nlevel = \"trace\"\n{log}",
        SECRETS[1], SECRETS[0]
    );
    place.secret_file("logs.toml", &text);
    let server = Server::start(place, &["--config", "logs.toml"]);
    server.wait_for_log("listening");
    let log = server.log();
    let digits = log.split("udp").nth(1).unwrap_or_else(|| panic!("no address in {log}"));
    let address = digits.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = address.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap_or(address.len());
    let address = address[..end].parse().unwrap_or_else(|error| panic!("{error}: {address}"));
    (server, address)
}

/// Abuse S18, S20: whatever goes wrong, at the most talkative level, in every format.
#[test]
fn s20_no_secret_gets_into_the_log_and_no_name_writes_lines_of_its_own() {
    for format in ["text", "logfmt", "json"] {
        for names in ["full", "short", "hashed"] {
            let place = Place::new();
            let (mut server, udp) = start(&place, &format!("format = \"{format}\"\nnames = \"{names}\"\n"));
            let mut bob = TurnClient::new(udp);
            bob.allocate("confidential-bob", SECRETS[0]).unwrap();
            assert_eq!(bob.permit("10.0.0.5:9".parse().unwrap()), Err(403));
            assert_eq!(TurnClient::new(udp).allocate("confidential-bob", SECRETS[2]), Err(401));
            assert_eq!(TurnClient::new(udp).allocate("1700000000:carol", SECRETS[2]), Err(401));
            assert_eq!(TurnClient::new(udp).allocate(HOSTILE, SECRETS[2]), Err(401));
            bob.release();
            server.wait_for_log("deleted_by_client");
            assert_eq!(server.terminate_and_wait(), Some(0));
            let log = server.log();
            for secret in SECRETS.iter().chain(&["nonce-secret-of-all-nonces", "obMatJos2"]) {
                assert!(!log.contains(secret), "{secret} is in {log}");
            }
            assert_eq!(log.contains("confidential-bob"), names == "full", "{log}");
            for event in ["challenged", "authentication_failed", "allocated", "peer_refused", "ended"] {
                assert!(log.contains(event), "{event} is not in {log}");
            }
            for line in log.lines() {
                assert!(!line.chars().any(char::is_control), "{line:?}");
                let starts = match format {
                    "json" => serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line.is_object()),
                    "logfmt" => line.starts_with("time=20"),
                    _ => line.starts_with("20"),
                };
                assert!(starts, "{format}: {line:?}");
            }
            assert!(!log.contains(" event=\"forged\"") && !log.contains("\"event\":\"forged\""), "{log}");
        }
    }
}

#[test]
fn addresses_are_cut_or_hashed_where_asked() {
    for (addresses, shown) in [("prefix", "127.0.0.0/24"), ("hashed", "client=~")] {
        let place = Place::new();
        let (mut server, udp) = start(&place, &format!("format = \"logfmt\"\naddresses = \"{addresses}\"\n"));
        assert_eq!(TurnClient::new(udp).allocate("confidential-bob", SECRETS[2]), Err(401));
        server.wait_for_log("authentication_failed");
        assert_eq!(server.terminate_and_wait(), Some(0));
        let log = server.log();
        let about_clients: Vec<&str> = log.lines().filter(|line| line.contains(" session=")).collect();
        assert!(about_clients.len() >= 2, "{log}");
        assert!(about_clients.iter().all(|line| line.contains(shown) && !line.contains("127.0.0.1")), "{log}");
    }
}
