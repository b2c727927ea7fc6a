//! The admin API and the commands that use it, against a running server.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::harness::{Place, Run, Server};
use super::serve::QUIET;
use super::turn_client::TurnClient;

pub const TOKEN: &str = "0123456789abcdef0123";
const BACK_END: &str = "back-end-back-end-back";

/// Users, tokens and two threads.
fn configuration(more: &str) -> String {
    let admin = format!(
        "listen = \"127.0.0.1:0\"\ntoken_file = \"token\"\ncredentials_token = \"{BACK_END}\"\n\
         credentials_host = \"turn.example.org\"\n{more}"
    );
    let quiet = QUIET.replace("listen = \"127.0.0.1:0\"\n[log]", &format!("{admin}[log]"));
    format!(
        "threads = 2\n{quiet}[shutdown]\ndrain = \"0s\"\n[auth]\nsecrets = [\"north-north-north\"]\n\
         [[auth.users]]\nname = \"alice\"\npassword = \"wonder\"\n[[auth.users]]\nname = \"bob\"\npassword = \"builder\"\n"
    )
}

pub fn start(place: &Place, more: &str) -> (Server, SocketAddr, SocketAddr) {
    place.secret_file("token", TOKEN);
    place.secret_file("turn.toml", &configuration(more));
    let server = Server::start(place, &["--config", "turn.toml"]);
    let (udp, admin) = server.wait_until_listening();
    (server, udp, admin)
}

/// Status, head and body.
pub fn exchange(admin: SocketAddr, request: &[u8]) -> (u16, String, String) {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer:?}"));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).expect("a status line");
    (status.parse().expect("a number"), head.to_owned(), body.to_owned())
}

pub fn ask(admin: SocketAddr, line: &str, token: &str, body: &str) -> (u16, Value) {
    let head = format!("{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n");
    let (status, _, body) = exchange(admin, format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

/// A command that succeeds, and its document.
fn document(place: &Place, arguments: &[&str]) -> Value {
    let run = run(place, &[arguments, &["--json"]].concat());
    assert_eq!(run.code, Some(0), "{arguments:?}: {}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap()
}

fn run(place: &Place, arguments: &[&str]) -> Run {
    place.run(&[arguments, &["--config", "turn.toml"]].concat())
}

#[test]
fn sessions_are_listed_and_killed_from_the_command_line() {
    let place = Place::new();
    let (mut server, udp, _) = start(&place, "");
    let mut alice: Vec<TurnClient> = (0..3).map(|_| TurnClient::new(udp)).collect();
    alice.iter_mut().for_each(|client| client.allocate("alice", "wonder").unwrap());
    let mut bob = TurnClient::new(udp);
    bob.allocate("bob", "builder").unwrap();

    let all = document(&place, &["sessions"]);
    assert_eq!(all["sessions"].as_array().unwrap().len(), 4);
    let of_bob = document(&place, &["sessions", "--user", "bob"]);
    let session = &of_bob["sessions"][0];
    assert_eq!((session["user"].as_str(), session["transport"].as_str()), (Some("bob"), Some("udp")));
    assert_eq!(session["relayed"][0]["address"].as_str().unwrap().split(':').next(), Some("127.0.0.1"));
    assert!(session["relayed"][0]["lifetime_left_seconds"].as_u64().unwrap() > 500);
    let id = session["id"].as_str().unwrap();
    assert!(server.log().contains(id), "logs call it the same");
    for filter in [["--id", id], ["--client", session["client"].as_str().unwrap().split(':').next().unwrap()]] {
        let found = document(&place, &[&["sessions"], &filter[..]].concat());
        assert!(found["sessions"].as_array().unwrap().contains(session) || filter[0] == "--client");
    }
    let table = run(&place, &["sessions"]).stdout;
    for words in ["id ", "relayed", "alice", "bob", "4 sessions"] {
        assert!(table.contains(words), "{words} is missing in\n{table}");
    }

    assert_eq!(document(&place, &["kill", "--user", "alice"])["ended"], 3);
    assert_eq!(alice[0].refresh(), Err(437));
    bob.refresh().unwrap();
    server.wait_for_log("\"why\":\"killed\"");
    // It may come back: its credentials are good.
    TurnClient::new(udp).allocate("alice", "wonder").unwrap();
    assert_eq!(document(&place, &["kill", "--id", id])["ended"], 1);
    assert_eq!(bob.refresh(), Err(437));
    let unclear = run(&place, &["kill"]);
    assert_eq!(unclear.code, Some(1));
    assert!(unclear.stderr.contains("not clear which") && unclear.stderr.contains("fix:"), "{}", unclear.stderr);
    assert_eq!(run(&place, &["kill", "--all"]).stdout, "1 session ended\n");
    assert_eq!(run(&place, &["sessions"]).stdout, "no sessions\n");
    assert_eq!(server.terminate_and_wait(), Some(0));
}

/// A drain by order, unlike that of SIGTERM, ends when it is taken back, and nothing else does.
#[test]
fn drain_and_undrain_flip_readiness_and_leave_sessions_alone() {
    let place = Place::new();
    let (mut server, udp, admin) = start(&place, "");
    let mut old = TurnClient::new(udp);
    old.allocate("alice", "wonder").unwrap();
    for _ in 0..2 {
        assert_eq!(document(&place, &["drain"]), json!({ "state": "draining", "sessions": 1 }));
        assert_eq!(ask(admin, "GET /readyz", "", "").0, 503);
        assert_eq!(TurnClient::new(udp).allocate("bob", "builder"), Err(508));
        old.refresh().unwrap();
        let metrics = exchange(admin, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").2;
        assert!(metrics.contains("hairpin_draining 1"));
    }
    assert_eq!(run(&place, &["undrain"]).stdout, "ready, 1 session\n");
    assert_eq!(ask(admin, "GET /readyz", "", "").0, 200);
    TurnClient::new(udp).allocate("bob", "builder").unwrap();
    assert_eq!(server.terminate_and_wait(), Some(0));
}

#[test]
fn a_reload_says_what_changed_or_what_is_wrong() {
    let place = Place::new();
    let (mut server, udp, admin) = start(&place, "");
    let good = configuration("");
    place.secret_file("turn.toml", &good.replace("builder", "bricks").replace("threads = 2", "threads = 1"));
    let reloaded = document(&place, &["reload"]);
    assert_eq!((&reloaded["changed"], &reloaded["needs_restart"]), (&json!(["auth.users"]), &json!(["threads"])));
    TurnClient::new(udp).allocate("bob", "bricks").unwrap();

    place.secret_file("turn.toml", &format!("{good}[limits]\nallocations = 0\n"));
    let (status, answer) = ask(admin, "POST /v1/reload", TOKEN, "");
    assert_eq!((status, &answer["errors"][0]["where"]), (422, &json!("limits.allocations")));
    assert!(answer["errors"][0]["line"].as_u64().unwrap() > 10);
    // The command cannot read such a file either, and needs it only to find the server.
    let socket = place.state().join("hairpin/admin.sock");
    let run = place.run(&["reload", "--admin", socket.to_str().unwrap()]);
    assert_eq!(run.code, Some(1));
    for words in ["limits.allocations", "out of bounds", "fix:"] {
        assert!(run.stderr.contains(words), "{words} is missing in {}", run.stderr);
    }
    TurnClient::new(udp).allocate("bob", "bricks").unwrap();
    assert_eq!(server.terminate_and_wait(), Some(0));
    assert!(!socket.exists(), "a server takes its socket along");
}

#[test]
fn levels_limits_and_figures_can_be_asked_for() {
    let place = Place::new();
    let (mut server, udp, admin) = start(&place, "");
    assert_eq!(ask(admin, "GET /v1/log-level", TOKEN, ""), (200, json!({ "level": "info" })));
    assert_eq!(ask(admin, "PUT /v1/log-level", TOKEN, "{\"level\":\"debug\"}"), (200, json!({ "level": "debug" })));
    assert_eq!(TurnClient::new(udp).allocate("nobody", "nothing"), Err(401));
    server.wait_for_log("\"DEBUG\"");
    let (status, answer) = ask(admin, "PUT /v1/log-level", TOKEN, "{\"level\":\"loud\"}");
    assert_eq!((status, &answer["errors"][0]["where"]), (400, &json!("body level")));
    for body in ["", "[]", "{\"level\":5}", "{\"volume\":\"debug\"}", "\u{0}"] {
        assert_eq!(ask(admin, "PUT /v1/log-level", TOKEN, body).0, 400, "{body:?}");
    }
    assert_eq!(ask(admin, "PUT /v1/log-level", TOKEN, &"x".repeat(9000)).0, 413);
    TurnClient::new(udp).allocate("alice", "wonder").unwrap();
    let (_, limits) = ask(admin, "GET /v1/limits", TOKEN, "");
    // Every key of the section, and one that is a limit as well.
    let told: BTreeSet<&str> =
        limits["limits"].as_array().unwrap().iter().map(|limit| limit["name"].as_str().unwrap()).collect();
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml")).unwrap();
    let section = example.split("\n[limits]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let keys = section.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    let keys: BTreeSet<String> = keys.map(|(key, _)| format!("limits.{key}")).collect();
    let expected = keys.iter().map(String::as_str).chain(["relay.ports"]).collect();
    assert_eq!(told, expected, "left: /v1/limits, right: config.example.toml");
    let allocations = &limits["limits"][0];
    assert_eq!(*allocations, json!({ "name": "limits.allocations", "limit": 16_384, "in_use": 1 }));
    assert_eq!(document(&place, &["stats"])["sessions"], 1);
    let table = run(&place, &["stats"]).stdout;
    for words in ["state", "ready", "sessions", "unknown_user 1", "threads busy"] {
        assert!(table.contains(words), "{words} is missing in\n{table}");
    }
    assert_eq!(server.terminate_and_wait(), Some(0));
}

/// Abuse S20.
#[test]
fn s20_tokens_are_needed_over_tcp_and_guessing_is_slow() {
    let place = Place::new();
    let (mut server, _, admin) = start(&place, "metrics_token = \"metrics-metrics-metrics\"\n");
    assert_eq!(ask(admin, "GET /v1/sessions", TOKEN, "").0, 200);
    assert_eq!(ask(admin, "GET /v1/sessions", BACK_END, "").0, 401);
    for token in [TOKEN, "metrics-metrics-metrics"] {
        let metrics = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        assert_eq!(exchange(admin, metrics.as_bytes()).0, 200);
    }
    let (status, head, _) = exchange(admin, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(status, 401);
    assert!(head.contains("www-authenticate: Bearer"), "{head}");
    for _ in 0..9 {
        assert_eq!(ask(admin, "GET /v1/stats", "guess", "").0, 401);
    }
    // Not even a good one is looked at, or the last guess would tell.
    assert_eq!(ask(admin, "GET /v1/stats", TOKEN, "").0, 429);
    assert_eq!(ask(admin, "GET /livez", TOKEN, "").0, 200);
    // The operator of this machine is not locked out.
    assert_eq!(run(&place, &["stats"]).code, Some(0));
    assert_eq!(server.terminate_and_wait(), Some(0));
    for secret in [TOKEN, BACK_END, "guess"] {
        assert!(!server.log().contains(secret), "a token is in the log:\n{}", server.log());
    }
}

#[test]
fn commands_say_what_is_missing() {
    let place = Place::new();
    let (mut server, _, admin) = start(&place, "");
    let url = format!("http://{admin}");
    place.file("wrong", "wrong-wrong-wrong");
    let nobody = "http://127.0.0.1:1";
    let cases: [(&[&str], &[&str]); 6] = [
        (&["stats", "--admin", nobody], &["no server answers at http://127.0.0.1:1", "fix: start the server"]),
        (&["stats", "--admin", "missing.sock"], &["no server answers at missing.sock", "--admin"]),
        (&["stats", "--admin", &url], &["there is no token", "admin.token"]),
        (&["stats", "--admin", &url, "--token-file", "wrong"], &["the token is wrong", "fix:"]),
        (&["stats", "--admin", &url, "--token-file", "missing"], &["--token-file: missing cannot be read"]),
        (&["stats", "--admin", "ftp://x"], &["--admin", "fix:"]),
    ];
    for (arguments, words) in cases {
        let run = place.run(arguments);
        assert_eq!(run.code, Some(1), "{arguments:?}");
        for word in words {
            assert!(run.stderr.contains(word), "{arguments:?} lacks {word}:\n{}", run.stderr);
        }
    }
    assert_eq!(place.run(&["stats", "--admin", &url, "--token-file", "token"]).code, Some(0));
    // Without any argument: the socket of this user's server.
    assert_eq!(place.run(&["stats"]).code, Some(0));
    assert_eq!(server.terminate_and_wait(), Some(0));
}

/// REST-01, over HTTP.
#[test]
fn rest_01_a_back_end_gets_credentials_that_work() {
    let place = Place::new();
    let more = "credentials_listen = \"127.0.0.1:0\"\ncredentials_origins = [\"https://example.org\"]\n";
    let (mut server, udp, admin) = start(&place, more);
    let back_ends = server.listening("credentials");
    for address in [admin, back_ends] {
        let (status, answer) = ask(address, "POST /v1/credentials", BACK_END, "{\"user\":\"a%d' OR \\\"1\"}");
        assert_eq!((status, &answer["ttl_seconds"]), (200, &json!(3600)), "{answer}");
        let entry = &answer["iceServers"][0];
        assert_eq!(entry["urls"][0], format!("stun:turn.example.org:{}", udp.port()));
        let (name, password) = (entry["username"].as_str().unwrap(), entry["credential"].as_str().unwrap());
        TurnClient::new(udp).allocate(name, password).unwrap();
    }
    let cases = [
        ("{\"user\":\"a\",\"ttl_seconds\":0}", 400, "body ttl_seconds"),
        ("{\"user\":\"a\",\"ttl_seconds\":99999999}", 400, "body ttl_seconds"),
        ("{\"user\":\"\"}", 400, "body user"),
        ("{\"user\":\"a\\u0000b\"}", 400, "body user"),
        ("{\"user\":\"a\\nb\"}", 400, "body user"),
        ("{\"name\":\"a\"}", 400, "body"),
    ];
    for (body, status, place) in cases {
        let (found, answer) = ask(back_ends, "POST /v1/credentials", BACK_END, body);
        assert_eq!((found, &answer["errors"][0]["where"]), (status, &json!(place)), "{body}");
    }
    let long = format!("{{\"user\":\"{}\"}}", "x".repeat(488));
    assert_eq!(ask(back_ends, "POST /v1/credentials", BACK_END, &long).0, 400);
    assert_eq!(ask(back_ends, "POST /v1/credentials", TOKEN, "{\"user\":\"a\"}").0, 401);
    // Nothing else is served there.
    for path in ["/metrics", "/v1/sessions", "/v1/openapi.json"] {
        assert_eq!(ask(back_ends, &format!("GET {path}"), TOKEN, "").0, 404, "{path}");
    }
    let preflight = |origin: &str| {
        let request = format!("OPTIONS /v1/credentials HTTP/1.1\r\nhost: x\r\norigin: {origin}\r\n\r\n");
        exchange(back_ends, request.as_bytes())
    };
    let (status, head, _) = preflight("https://example.org");
    assert_eq!(status, 204);
    assert!(head.contains("access-control-allow-origin: https://example.org") && head.contains("vary: origin"));
    let (status, head, _) = preflight("https://evil.example");
    assert_eq!(status, 403);
    assert!(!head.contains("access-control"), "{head}");
    assert_eq!(server.terminate_and_wait(), Some(0));
    assert!(!server.log().contains(BACK_END));
}
