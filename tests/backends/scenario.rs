//! What every back end has to stand.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::harness::{Place, Server};
use super::turn_client::TurnClient;

/// A back end that a test can do anything to.
pub trait BackEnd {
    /// What stands in `[auth.backend]` besides the times.
    fn settings(&self) -> String;
    fn add(&mut self, name: &str, password: &str);
    fn remove(&mut self, name: &str);
    /// It is gone from one moment to the next.
    fn stop(&mut self);
    /// And back again, with all it knew.
    fn start(&mut self);
}

/// A server with this in `[auth.backend]`, and Alice, who is in its own file. One thread: each remembers for itself.
pub fn serve(place: &Place, backend: &str) -> (Server, SocketAddr) {
    let text = format!(
        "threads = 1\n[listen]\nudp = [\"127.0.0.1:0\"]\ntcp = []\n[relay]\naddresses = [\"127.0.0.1\"]\n[admin]\nlisten = \
         \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n[shutdown]\ndrain = \"0s\"\n[[auth.users]]\nname = \"alice\"\npassword = \"s3cret\"\n\
         [auth.backend]\nremember = \"1s\"\nremember_not_found = \"1s\"\n{backend}\n"
    );
    place.secret_file("backend.toml", &text);
    let server = Server::start(place, &["--config", "backend.toml"]);
    let (udp, _) = server.wait_until_listening();
    (server, udp)
}

pub fn allocate(server: SocketAddr, name: &str, password: &str) -> Result<(), u16> {
    TurnClient::new(server).allocate(name, password)
}

/// Asks until this is the answer, which has to come.
#[track_caller]
pub fn until(expected: Result<(), u16>, mut ask: impl FnMut() -> Result<(), u16>) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = ask();
        if answer == expected {
            return;
        }
        assert!(Instant::now() < deadline, "still {answer:?}, not {expected:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Right and wrong passwords, nobody, a user who is revoked while his key is remembered, a back end that dies and comes
/// back: 500 meanwhile.
pub fn all_is_told_apart(place: &Place, back_end: &mut impl BackEnd) {
    back_end.add("carol", "pa55");
    back_end.add("dora", "word");
    // Nothing of this may become part of a query.
    back_end.add("o'brien", "quote");
    let settings = format!("timeout = \"5s\"\nstale = \"0s\"\n{}", back_end.settings());
    let (mut server, udp) = serve(place, &settings);
    let mut carol = TurnClient::new(udp);
    assert_eq!(carol.allocate("carol", "pa55"), Ok(()), "{}", server.log());
    assert_eq!(allocate(udp, "carol", "guess"), Err(401));
    assert_eq!(allocate(udp, "nobody", "guess"), Err(401));
    assert_eq!(allocate(udp, "o'brien", "quote"), Ok(()));
    assert_eq!(allocate(udp, "x' OR '1'='1", "quote"), Err(401));
    assert_eq!(allocate(udp, "alice", "s3cret"), Ok(()), "who is in the file is not asked for");

    let permit = |client: &mut TurnClient| client.permit("127.0.0.1:9".parse().unwrap());
    assert_eq!(permit(&mut carol), Err(403), "authenticated, and refused by policy");
    back_end.remove("carol");
    until(Err(401), || permit(&mut carol));

    back_end.stop();
    until(Err(500), || allocate(udp, "dora", "word"));
    server.wait_for_log("key_backend_failed");
    assert_eq!(allocate(udp, "alice", "s3cret"), Ok(()));
    back_end.start();
    until(Ok(()), || allocate(udp, "dora", "word"));
    let log = server.log();
    assert!(!log.contains("word\"") && !log.contains("pa55"), "a password in the log: {log}");
    assert_eq!(server.terminate_and_wait(), Some(0));
}

/// By policy, who was known goes on while the back end is away, and nobody new gets in.
pub fn who_was_known_goes_on(place: &Place, back_end: &mut impl BackEnd) {
    back_end.add("erin", "pa55");
    back_end.add("frank", "word");
    let settings = format!("timeout = \"2s\"\nstale = \"10m\"\n{}", back_end.settings());
    let (mut server, udp) = serve(place, &settings);
    let mut erin = TurnClient::new(udp);
    assert_eq!(erin.allocate("erin", "pa55"), Ok(()));
    back_end.stop();
    until(Err(500), || allocate(udp, "frank", "word"));
    // By now Erin's key is to be asked for again, and the next time once more.
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..3 {
        assert_eq!(erin.permit("127.0.0.1:9".parse().unwrap()), Err(403));
        assert_eq!(allocate(udp, "erin", "pa55"), Ok(()));
    }
    back_end.start();
    assert_eq!(server.terminate_and_wait(), Some(0));
}
