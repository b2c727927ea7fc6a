//! A web server that is asked for each user, and that can be slow.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::harness::Place;
use super::scenario::{BackEnd, all_is_told_apart, allocate, serve, who_was_known_goes_on};
use super::turn_client::TurnClient;

const TOKEN: &str = "Bearer 0123456789";

#[derive(Default)]
struct State {
    users: Mutex<HashMap<String, String>>,
    connections: Mutex<Vec<TcpStream>>,
    accepted: AtomicUsize,
    is_stopped: AtomicBool,
    /// Says nothing at all to questions.
    is_silent: AtomicBool,
}

struct Web {
    address: SocketAddr,
    state: Arc<State>,
}

impl Web {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        // It lives as long as the test's process; a stopped one closes what comes.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.is_stopped.load(Ordering::SeqCst) {
                    continue;
                }
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                shared.connections.lock().unwrap().push(stream.try_clone().unwrap());
                let state = Arc::clone(&shared);
                std::thread::spawn(move || answer(&state, stream));
            }
        });
        Self { address, state }
    }
}

/// HTTP/1.1 with connections that stay.
fn answer(state: &State, stream: TcpStream) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let head = head.to_lowercase();
        assert!(head.starts_with("post /keys http/1.1\r\n") && head.contains(&TOKEN.to_lowercase()), "{head}");
        let len = head.split("content-length: ").nth(1)?.split('\r').next()?.parse().ok()?;
        let mut body = vec![0; len];
        reader.read_exact(&mut body).ok()?;
        let question: serde_json::Value = serde_json::from_slice(&body).ok()?;
        assert_eq!(question["realm"], "hairpin");
        if state.is_silent.load(Ordering::SeqCst) {
            continue;
        }
        let password = state.users.lock().unwrap().get(question["user"].as_str()?).cloned();
        let (status, body) = match password {
            Some(password) => ("200 OK", serde_json::json!({ "password": password }).to_string()),
            None => ("404 Not Found", String::new()),
        };
        write!(writer, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).ok()?;
    }
}

impl BackEnd for Web {
    fn settings(&self) -> String {
        format!("url = \"http://{}/keys\"\nauthorization = \"{TOKEN}\"", self.address)
    }

    fn add(&mut self, name: &str, password: &str) {
        self.state.users.lock().unwrap().insert(name.to_owned(), password.to_owned());
    }

    fn remove(&mut self, name: &str) {
        self.state.users.lock().unwrap().remove(name).expect("a user");
    }

    fn stop(&mut self) {
        self.state.is_stopped.store(true, Ordering::SeqCst);
        for stream in self.state.connections.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn start(&mut self) {
        self.state.is_stopped.store(false, Ordering::SeqCst);
    }
}

/// STUN-8489-14.8-02
#[test]
fn a_web_server_tells_users_apart_dies_and_comes_back() {
    all_is_told_apart(&Place::new(), &mut Web::new());
}

#[test]
fn a_web_server_away_who_was_known_goes_on() {
    who_was_known_goes_on(&Place::new(), &mut Web::new());
}

#[test]
fn connections_to_a_web_server_are_used_again() {
    let (place, mut web) = (Place::new(), Web::new());
    (0..10).for_each(|number| web.add(&format!("user{number}"), "x"));
    let (_server, udp) = serve(&place, &web.settings());
    for number in 0..10 {
        assert_eq!(allocate(udp, &format!("user{number}"), "x"), Ok(()));
    }
    assert_eq!(web.state.accepted.load(Ordering::SeqCst), 1);
}

/// One user waits for a back end that says nothing for ten seconds; the call of another does not notice, in the same
/// and only shard.
#[test]
fn a_silent_back_end_holds_nobody_up_but_those_who_need_it() {
    let (place, mut web) = (Place::new(), Web::new());
    web.add("carol", "pa55");
    let settings = format!("timeout = \"10s\"\n{}", web.settings());
    let (server, udp) = serve(&place, &settings);
    let caller = Relaying::new(udp);
    web.state.is_silent.store(true, Ordering::SeqCst);
    let waiting = std::thread::spawn(move || allocate_patiently(udp));
    let mut rounds = 0;
    while !waiting.is_finished() {
        caller.round_trip();
        rounds += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(waiting.join().unwrap(), Err(500), "{}", server.log());
    assert!(rounds > 100, "the call stood still: {rounds} packets in ten seconds");
    // And then it speaks again.
    web.state.is_silent.store(false, Ordering::SeqCst);
    assert_eq!(allocate(udp, "carol", "pa55"), Ok(()));
}

fn allocate_patiently(server: SocketAddr) -> Result<(), u16> {
    let mut client = TurnClient::new(server);
    client.set_patience(Duration::from_secs(30));
    client.allocate("carol", "pa55")
}

/// Alice, and somebody else through her relay: both are clients of this server.
struct Relaying {
    ours: TurnClient,
    theirs: TurnClient,
}

impl Relaying {
    fn new(server: SocketAddr) -> Self {
        let (mut ours, mut theirs) = (TurnClient::new(server), TurnClient::new(server));
        ours.allocate("alice", "s3cret").unwrap();
        theirs.allocate("alice", "s3cret").unwrap();
        ours.permit(theirs.relayed()).unwrap();
        theirs.permit(ours.relayed()).unwrap();
        Self { ours, theirs }
    }

    fn round_trip(&self) {
        self.ours.send_to(self.theirs.relayed(), b"ping");
        self.theirs.expect_data();
        self.theirs.send_to(self.ours.relayed(), b"pong");
        self.ours.expect_data();
    }
}
