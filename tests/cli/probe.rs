//! `hairpin probe` against `hairpin serve`, and against nobody.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use serde_json::Value;

use super::harness::{Place, Server};
use super::serve::QUIET;

const USER: &str = "\n[[auth.users]]\nname = \"alice\"\npassword = \"s3cret\"\n";

fn serving(place: &Place) -> (Server, SocketAddr) {
    place.file("users.toml", &format!("{QUIET}{USER}"));
    let server = Server::start(place, &["--config", "users.toml"]);
    let (udp, _) = server.wait_until_listening();
    (server, udp)
}

fn probe(place: &Place, uri: &str, password: &str) -> (Option<i32>, Value) {
    let run = place.run(&["probe", uri, "--user", "alice", "--password", password, "--json"]);
    (run.code, serde_json::from_str(&run.stdout).expect("one JSON document"))
}

#[test]
fn a_working_server_passes_every_step() {
    let place = Place::new();
    let (server, address) = serving(&place);
    let (code, report) = probe(&place, &format!("turn:{address}"), "s3cret");
    assert_eq!((code, &report["ok"]), (Some(0), &Value::Bool(true)), "{report:#}");
    let names: Vec<&str> =
        report["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["resolve", "connect", "binding", "allocate", "relay", "channel"]);

    let lines = place.run(&["probe", &format!("stun:{address}")]);
    assert_eq!((lines.code, lines.stdout.lines().count()), (Some(0), 3));
    assert!(lines.stdout.contains("the server sees us as 127.0.0.1:"), "{}", lines.stdout);
    drop(server);
}

#[test]
fn the_step_that_fails_is_named_with_its_usual_cause() {
    let place = Place::new();
    let (_server, address) = serving(&place);
    let (code, report) = probe(&place, &format!("turn:{address}"), "wrong");
    let last = report["steps"].as_array().unwrap().last().unwrap();
    assert_eq!((code, &last["name"]), (Some(1), &Value::from("allocate")));
    assert!(last["detail"].as_str().unwrap().contains("401"));
    assert!(last["usually"].as_str().unwrap().contains("wrong user name or password"));

    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (uri, step) in [
        (format!("stun:{}", taken.local_addr().unwrap()), "binding"),
        (format!("turn:{free}?transport=tcp"), "connect"),
        ("stun:no-such-host.invalid".to_owned(), "resolve"),
    ] {
        let run = place.run(&["probe", &uri, "--user", "alice", "--password", "s3cret"]);
        assert_eq!(run.code, Some(1), "{uri}");
        assert!(run.stderr.contains(&format!("{step} failed")), "{uri}: {}", run.stderr);
        assert!(run.stdout.contains("usually:"), "{uri}: {}", run.stdout);
    }
}

#[test]
fn wrong_arguments_are_explained() {
    let place = Place::new();
    for (arguments, word) in [
        (&["turn:127.0.0.1"][..], "--user"),
        (&["turns:127.0.0.1?transport=udp"], "DTLS"),
        (&["http://127.0.0.1"], "neither"),
        (&["turn:a", "--user", "alice"], "--password"),
    ] {
        let run = place.run(&[&["probe"], arguments].concat());
        assert_eq!(run.code, Some(2), "{arguments:?}");
        assert!(run.stderr.contains(word), "{arguments:?}: {}", run.stderr);
    }
}
