//! A real server, and a little of everything that a server sees in its life.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use rcgen::{CertificateParams, KeyPair};

use super::harness::{Place, Server};
use super::turn_client::TurnClient;

const FILE: &str = r#"
[listen]
udp = ["127.0.0.1:0"]
tcp = ["127.0.0.1:0"]
tls = ["127.0.0.1:0"]
[tls]
certificate = "chain.pem"
key = "key.pem"
[relay]
addresses = ["127.0.0.1"]
[limits]
connections_per_address = 64
[[auth.users]]
name = "alice"
password = "s3cret"
# Nobody is there: who is not known above gets 500.
[auth.backend]
url = "http://127.0.0.1:9/keys"
[admin]
listen = "127.0.0.1:0"
"#;

/// A server with all kinds of listeners.
pub struct Served {
    pub place: Place,
    pub server: Server,
}

impl Served {
    pub fn start() -> Self {
        Self::with_log("level = \"debug\"\nformat = \"json\"\n")
    }

    /// With these lines in `[log]`. The harness reads addresses out of JSON.
    pub fn with_log(log: &str) -> Self {
        let place = Place::new();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2090, 1, 1);
        let key = KeyPair::generate().unwrap();
        place.file("chain.pem", &params.self_signed(&key).unwrap().pem());
        place.secret_file("key.pem", &key.serialize_pem());
        place.file("all.toml", &format!("{FILE}[log]\n{log}"));
        let server = Server::start(&place, &["--config", "all.toml"]);
        server.wait_for_log("listening");
        Self { place, server }
    }

    pub fn admin(&self) -> SocketAddr {
        self.server.listening("admin")
    }

    /// The page of `/metrics`.
    pub fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.admin()).unwrap();
        write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").expect("a head and a body").1.to_owned()
    }

    /// Allocations over every transport that talk to each other, wrong passwords, forbidden peers, garbage, somebody who
    /// speaks no TLS, and a client that stays.
    pub fn load(&self) -> TurnClient {
        let udp = self.server.listening("udp");
        let (tcp, tls) = (self.server.listening("tcp"), self.server.listening("tls"));
        let tls_uri = format!("turns:localhost:{}", tls.port());
        for (uri, user, password, code) in [
            (format!("turn:{udp}"), "alice", "s3cret", 0),
            (format!("turn:{tcp}?transport=tcp"), "alice", "s3cret", 0),
            (tls_uri, "alice", "s3cret", 0),
            (format!("turn:{udp}"), "alice", "wrong", 1),
            (format!("turn:{udp}"), "carol", "s3cret", 1),
        ] {
            let run = self.place.run(&["probe", &uri, "--user", user, "--password", password, "--ca", "chain.pem"]);
            assert_eq!(run.code, Some(code), "{uri}: {}{}", run.stdout, run.stderr);
        }
        let mut client = TurnClient::new(udp);
        client.allocate("alice", "s3cret").unwrap();
        assert_eq!(client.permit("10.0.0.1:1".parse().unwrap()), Err(403));
        client.permit("127.0.0.1:50000".parse().unwrap()).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for garbage in [&[0xFF; 20][..], &[0; 4], &[0x40, 0, 0, 4, 1, 2, 3, 4]] {
            socket.send_to(garbage, udp).unwrap();
        }
        // The server closes it as soon as it knows.
        for address in [tcp, tls] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: nobody\r\n\r\n").unwrap();
            let _ = stream.read(&mut [0; 256]);
        }
        client
    }
}
