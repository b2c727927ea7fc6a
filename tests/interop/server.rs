//! The server under test, in a directory of its own.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::processes::{Guarded, PATIENCE};

pub const REALM: &str = "interop";
pub const USERNAME: &str = "user";
pub const PASSWORD: &str = "password-for-interop";
/// For credentials with a time in them.
pub const SECRET: &str = "a-secret-shared-with-a-web-back-end";

/// A running `hairpin serve`.
pub struct Server {
    /// For UDP and TCP; `::1` has the same port, if there is one.
    pub address: SocketAddr,
    pub tls_port: u16,
    directory: PathBuf,
    child: Guarded,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(|_| String::new())
    }

    /// With more sections in its configuration; the port is the one for UDP.
    pub fn start_with(more: impl Fn(u16) -> String) -> Self {
        // Another process may take a port between our finding it free and the server's binding it.
        (0..5).find_map(|_| Self::try_start(&more)).expect("the server did not answer Binding")
    }

    fn try_start(more: impl Fn(u16) -> String) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("interop-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&directory).expect("the build directory can be written to");
        let (port, tls_port, admin) = (free_port(), free_port(), free_port());
        // uclient looks at no certificate, but wants to see one.
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a valid name");
        let pems = [("chain.pem", certificate.cert.pem()), ("key.pem", certificate.signing_key.serialize_pem())];
        for (name, pem) in pems {
            std::fs::write(directory.join(name), pem).expect("the directory was just made");
        }
        let dtls = if cfg!(feature = "dtls") { format!("dtls = [\"127.0.0.1:{tls_port}\"]") } else { String::new() };
        let (listen, relays, peers) = if has_ipv6() {
            let listen = format!(r#""127.0.0.1:{port}", "[::1]:{port}""#);
            (listen, r#""127.0.0.1", "::1""#, r#""127.0.0.0/8", "::1/128""#)
        } else {
            (format!(r#""127.0.0.1:{port}""#), r#""127.0.0.1""#, r#""127.0.0.0/8""#)
        };
        let config = format!(
            r#"
[listen]
udp = [{listen}]
tcp = [{listen}]
tls = ["127.0.0.1:{tls_port}"]
{dtls}
[tls]
certificate = "chain.pem"
key = "key.pem"
[relay]
addresses = [{relays}]
ports = "61000-64999"
[tcp_relay]
enabled = true
[auth]
realm = "{REALM}"
secrets = ["{SECRET}"]
[[auth.users]]
name = "{USERNAME}"
password = "{PASSWORD}"
[allocations]
mobility = true
[limits]
allocations_per_user = 4000
[peers]
allow = [{peers}]
[compatibility]
rfc5766_channels = true
[admin]
listen = "127.0.0.1:{admin}"
"#
        );
        let file = directory.join("hairpin.toml");
        std::fs::write(&file, config + &more(port)).expect("the directory was just made");
        let log = std::fs::File::create(directory.join("log")).expect("the directory was just made");
        let mut command = Command::new(env!("CARGO_BIN_EXE_hairpin"));
        command.arg("serve").arg("--config").arg(&file).env_remove("HAIRPIN_CONFIG").stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("cargo has built it");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Self { address, tls_port, directory, child: Guarded(child) };
        if server.answers_binding() {
            return Some(server);
        }
        println!("{}", server.log());
        None
    }

    fn answers_binding(&mut self) -> bool {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        socket.connect(self.address).expect("loopback");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("not zero");
        let request = [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.child.0.try_wait().expect("our own child").is_some() {
                return false;
            }
            let mut answer = [0; 100];
            // Before the server listens, sending and receiving fail with "connection refused": ask again.
            let received = socket.send(&request).and_then(|_| socket.recv(&mut answer));
            match received {
                Ok(len) if len >= 20 => return answer[..2] == [1, 1] && answer[4..20] == request[4..20],
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        false
    }

    /// Of allocations that have ended.
    pub fn packets_to_clients(&self) -> u32 {
        let log = self.log();
        let counts = log.lines().filter_map(|line| line.split_once("packets_to_client=")?.1.split(' ').next());
        counts.map(|count| count.parse::<u32>().expect("a number")).sum()
    }

    /// How many allocations clients have made over `udp`, `tcp` or `tls`.
    pub fn allocations_over(&self, transport: &str) -> usize {
        let over = format!("transport=\"{transport}\"");
        self.log().lines().filter(|line| line.contains("event=\"allocated\"") && line.contains(&over)).count()
    }

    /// The file with the certificate for `localhost`, which is its own authority.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("chain.pem")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- the server's log\n{}", self.log());
        }
        // What cannot be removed lies in the build directory and does no harm.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Whether this machine's loopback speaks IPv6.
pub fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// A port that is free for UDP and TCP on loopback.
pub fn free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let draw = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()).ok();
    (0..100).filter_map(|_| draw()).map(|address| address.port()).find(is_free).expect("a free port on loopback")
}
