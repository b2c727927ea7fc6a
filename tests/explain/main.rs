//! Stories of calls that fail, told by shards with real sockets: each in the words that an operator reads.

mod client;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hairpin::config::{self, Machine};
use hairpin::ops::explain::{Explanation, read_query};
use hairpin::shard::Shards;
use hairpin::turn::Transport;

use client::Client;

/// The longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

const SECRETS: [&str; 2] = ["very-confidential-password", "0123456789abcdef-shared"];

/// Shards of a configuration, and the folder of its files.
struct Served {
    shards: Shards,
    folder: PathBuf,
}

impl Served {
    fn start(extra: &str) -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("explain-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join("chain.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
        let text = format!(
            r#"
threads = 2
[listen]
udp = ["127.0.0.1:0"]
tcp = ["127.0.0.1:0"]
tls = ["127.0.0.1:0"]
[tls]
certificate = "chain.pem"
key = "key.pem"
[relay]
addresses = ["127.0.0.1"]
[peers]
allow = ["127.0.0.1/32"]
[auth]
secrets = ["{}"]
[[auth.users]]
name = "bob"
password = "{}"
[recorder]
silence = "1s"
{extra}"#,
            SECRETS[1], SECRETS[0]
        );
        let path = folder.join("hairpin.toml");
        std::fs::write(&path, text).unwrap();
        let config = config::load(Some(&path), &Machine::any()).unwrap_or_else(|errors| panic!("{errors}"));
        Self { shards: Shards::start(config.shards).unwrap(), folder }
    }

    fn address(&self, transport: Transport) -> SocketAddr {
        let listening = self.shards.listening().iter().find(|listen| listen.transport == transport);
        listening.expect("a listener").address
    }

    fn client(&self) -> Client {
        Client::new(self.address(Transport::Udp))
    }

    fn explain(&self, wanted: &str) -> Explanation {
        let query = read_query(wanted);
        let (tell, told) = mpsc::channel();
        self.shards.explain(query.clone(), move |stories| tell.send(stories).unwrap()).unwrap();
        Explanation::new(&query, told.recv_timeout(PATIENCE).expect("all shards answer"))
    }

    /// The story of the only one of this name or address, as soon as it has these words.
    fn wait_for(&self, wanted: &str, words: &str) -> hairpin::ops::explain::Story {
        let start = Instant::now();
        loop {
            let explained = self.explain(wanted);
            if let Some(story) = explained.stories.iter().rev().find(|story| story.summary.contains(words)) {
                return story.clone();
            }
            assert!(start.elapsed() < PATIENCE, "{words:?} is not in {explained:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[track_caller]
fn assert_advice(story: &hairpin::ops::explain::Story, words: &str) {
    assert!(story.advice.iter().any(|advice| advice.contains(words)), "{words:?} is not in {:?}", story.advice);
}

#[test]
fn wrong_password() {
    let served = Served::start("");
    let mut client = served.client();
    for _ in 0..3 {
        assert_eq!(client.allocate("bob", "wrong"), Err(401));
    }
    let story = served.wait_for("bob", "wrong password (3 times");
    assert!(story.summary.starts_with(&format!("bob from {} over udp", client.address())), "{}", story.summary);
    assert_eq!(story.events[0].event, "challenged");
    assert!(!story.is_live);
    assert_advice(&story, "auth.secrets");
    // By address and by session it is the same one.
    assert!(served.explain("127.0.0.1").stories.iter().any(|other| other.session == story.session));
    let by_session = served.explain(&story.session).stories;
    assert_eq!(by_session.len(), 1);
    assert_eq!(by_session[0].user.as_deref(), Some("bo~81b637d8"), "short, for whoever does not know the name");
    assert_eq!(served.explain("carol").stories.len(), 0);
}

#[test]
fn expired_credential() {
    let served = Served::start("");
    assert_eq!(served.client().allocate("1700000000:carol", "whatever"), Err(401));
    let story = served.wait_for("carol", "the credential has expired");
    assert_advice(&story, "new ones for each call");
}

#[test]
fn refused_peer_and_end() {
    let served = Served::start("");
    let mut client = served.client();
    let relayed = client.allocate("bob", SECRETS[0]).unwrap();
    assert_eq!(client.permit("10.0.0.5:9".parse().unwrap()), Err(403));
    client.release();
    let story = served.wait_for("bob", "was ended by its client");
    let expected = format!(
        "bob from {} over udp authenticated, allocated {relayed} for 600 s; was refused permission to 10.0.0.5: private \
         peer; was ended by its client, after 0 packets to peers and 0 to the client",
        client.address()
    );
    assert_eq!(story.summary, expected);
    assert_advice(&story, "peers.allow");
}

#[test]
fn quota() {
    let served = Served::start("[limits]\nallocations_per_user = 1\n");
    let mut first = served.client();
    first.allocate("bob", SECRETS[0]).unwrap();
    let mut second = served.client();
    assert_eq!(second.allocate("bob", SECRETS[0]).unwrap_err(), 486);
    let story = served.wait_for("bob", "was refused an allocation: quota reached (486, limits: allocations_per_user)");
    assert!(story.summary.contains("authenticated, "), "{}", story.summary);
    assert_advice(&story, "limits.allocations_per_user");
}

#[test]
fn no_permission() {
    let served = Served::start("");
    let mut client = served.client();
    let relayed = client.allocate("bob", SECRETS[0]).unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..10 {
        peer.send_to(b"hello?", relayed).unwrap();
    }
    let peer = peer.local_addr().unwrap();
    let words = format!("data from {peer} was dropped: no permission for that address");
    let story = served.wait_for("bob", &words);
    assert_eq!(story.events.iter().filter(|event| event.event == "data_dropped").count(), 1, "{story:#?}");
    assert_advice(&story, "signalling");
    client.send_indication(peer, b"hello");
    served.wait_for("bob", &format!("its data to {peer} was dropped: no permission"));
}

#[test]
fn silent_peer() {
    let served = Served::start("");
    let mut client = served.client();
    client.allocate("bob", SECRETS[0]).unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = peer.local_addr().unwrap();
    client.permit(to).unwrap();
    client.send_indication(to, b"hello?");
    let story = served.wait_for("bob", "no data");
    assert!(
        story.summary.contains(&format!("got permission for {}; sent its first data, to {to}", to.ip())),
        "{}",
        story.summary
    );
    assert!(story.is_live);
    let story = served.wait_for("bob", "no data for 1 s");
    assert!(!story.advice.is_empty());
}

#[test]
fn tls_failure() {
    let served = Served::start("");
    let mut stream = TcpStream::connect(served.address(Transport::Tls)).unwrap();
    let from = stream.local_addr().unwrap();
    // A STUN message where TLS is spoken: `turn:` with the port of `turns:`.
    stream.write_all(&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]).unwrap();
    let _ = stream.read(&mut [0; 64]);
    let story = served.wait_for("127.0.0.1", "failed the TLS handshake: what came is not TLS");
    assert_eq!((story.client, story.transport), (from.to_string(), "tls"));
    assert!(story.advice[0].contains("turns:"));
}

/// What may not be shown is found by whoever knows it.
#[test]
fn privacy_hides_and_still_finds() {
    let served = Served::start("[log]\naddresses = \"hashed\"\nnames = \"hashed\"\n");
    assert_eq!(served.client().allocate("confidential", "wrong"), Err(401));
    served.wait_for("confidential", "there is no such user");
    let by_address = served.wait_for("127.0.0.1", "there is no such user");
    let all = format!("{by_address:?}");
    assert!(!all.contains("confidential") && !all.contains("127.0.0.1"), "{all}");
}

/// The whole of every story, once: no secret is in any.
#[test]
fn stories_have_no_secrets() {
    let served = Served::start("[log]\nnames = \"full\"\n");
    let mut client = served.client();
    client.allocate("bob", SECRETS[0]).unwrap();
    assert_eq!(client.permit("10.0.0.5:9".parse().unwrap()), Err(403));
    let nonce = client.nonce();
    assert_eq!(served.client().allocate("bob", "wrong-but-confidential"), Err(401));
    served.wait_for("bob", "private peer");
    let all = serde_json::to_string(&served.explain("127.0.0.1")).unwrap();
    assert!(all.contains("wrong password"), "{all}");
    for secret in [SECRETS[0], SECRETS[1], "wrong-but-confidential", &nonce] {
        assert!(!all.contains(secret), "{secret} is in {all}");
    }
}
