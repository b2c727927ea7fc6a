//! Redis, or Valkey.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use super::harness::Place;
use super::processes::{Process, eventually, find};
use super::scenario::{BackEnd, all_is_told_apart, who_was_known_goes_on};

struct Redis<'p> {
    place: &'p Place,
    program: std::path::PathBuf,
    address: SocketAddr,
    process: Option<Process>,
    /// The server is told of its Unix socket.
    is_unix: bool,
    known: Vec<(String, String)>,
}

impl<'p> Redis<'p> {
    fn new(place: &'p Place) -> Option<Self> {
        let Some(program) = find("redis-server").or_else(|| find("valkey-server")) else {
            println!("SKIP: neither redis-server nor valkey-server is installed");
            return None;
        };
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut redis = Self { place, program, address, process: None, is_unix: false, known: Vec::new() };
        redis.start();
        Some(redis)
    }

    /// One command, each word as it is.
    fn command(&self, words: &[&str]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        let mut request = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| request.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        stream.write_all(request.as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn key(name: &str) -> String {
        format!("turn:user:hairpin:{name}")
    }
}

impl BackEnd for Redis<'_> {
    fn settings(&self) -> String {
        match self.is_unix {
            true => format!("url = \"redis+unix://{}\"", self.place.path().join("redis.sock").display()),
            false => format!("url = \"redis://{}\"", self.address),
        }
    }

    fn add(&mut self, name: &str, password: &str) {
        // One user with keys, the others with passwords.
        let words = if name == "carol" {
            let key = hairpin::stun::integrity::long_term_key_md5(name, "hairpin", password);
            ["key_md5".to_owned(), hex::encode(key)]
        } else {
            ["password".to_owned(), password.to_owned()]
        };
        assert!(self.command(&["HSET", &Self::key(name), &words[0], &words[1]]).unwrap().starts_with(':'));
        self.known.push((name.to_owned(), password.to_owned()));
    }

    fn remove(&mut self, name: &str) {
        assert_eq!(self.command(&["DEL", &Self::key(name)]).unwrap(), ":1\r\n");
        self.known.retain(|(known, _)| known != name);
    }

    fn stop(&mut self) {
        self.process = None;
    }

    fn start(&mut self) {
        let port = self.address.port().to_string();
        let mut command = Command::new(&self.program);
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command.args(["--unixsocket", "redis.sock"]);
        self.process = Some(Process::start(command.current_dir(self.place.path())));
        eventually("Redis answers", || self.command(&["PING"]).is_ok_and(|answer| answer == "+PONG\r\n"));
        for (name, password) in std::mem::take(&mut self.known) {
            self.add(&name, &password);
        }
    }
}

/// STUN-8489-14.8-02
#[test]
fn redis_tells_users_apart_dies_and_comes_back() {
    let place = Place::new();
    if let Some(mut redis) = Redis::new(&place) {
        all_is_told_apart(&place, &mut redis);
    }
}

#[test]
fn redis_on_a_unix_socket_is_asked_in_the_same_way() {
    let place = Place::new();
    if let Some(mut redis) = Redis::new(&place) {
        redis.is_unix = true;
        all_is_told_apart(&place, &mut redis);
    }
}

#[test]
fn redis_away_who_was_known_goes_on() {
    let place = Place::new();
    if let Some(mut redis) = Redis::new(&place) {
        who_was_known_goes_on(&place, &mut redis);
    }
}
