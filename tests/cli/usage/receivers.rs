//! Those who get usage records: a web server that can be told to be bad, and a real Redis.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::harness::Place;

#[derive(Default)]
struct State {
    /// 0 answers nothing.
    status: u16,
    /// Another status after so many requests.
    later: Option<(u16, u32)>,
    accepted: Vec<Value>,
    heads: Vec<String>,
    is_over: bool,
}

/// HTTP/1.1, one thread a connection.
pub struct WebServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: Option<std::thread::JoinHandle<()>>,
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl WebServer {
    pub fn start(status: u16) -> Self {
        Self::start_with(status, None)
    }

    /// For https at `localhost`; its certificate lies in `web.pem`.
    pub fn start_tls(place: &Place) -> Self {
        let (certificate, key) = make_certificate(place, "web");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
        Self::start_with(200, Some(Arc::new(config)))
    }

    fn start_with(status: u16, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let state = Arc::new(Mutex::new(State { status, ..State::default() }));
        let mut server = Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), state, accepting: None, tls };
        server.listen();
        server
    }

    fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        self.address = listener.local_addr().unwrap();
        let (state, tls) = (Arc::clone(&self.state), self.tls.clone());
        self.accepting = Some(std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if state.lock().unwrap().is_over {
                    return;
                }
                let state = Arc::clone(&state);
                let tls = tls.clone().map(|tls| rustls::ServerConnection::new(tls).unwrap());
                std::thread::spawn(move || match tls {
                    Some(tls) => serve(rustls::StreamOwned::new(tls, stream), &state),
                    None => serve(stream, &state),
                });
            }
        }));
    }

    pub fn url(&self) -> String {
        match self.tls {
            Some(_) => format!("https://localhost:{}/usage", self.address.port()),
            None => format!("http://{}/usage", self.address),
        }
    }

    pub fn answer(&self, status: u16) {
        let mut state = self.state.lock().unwrap();
        (state.status, state.later) = (status, None);
    }

    pub fn answer_later(&self, status: u16, requests: u32) {
        self.state.lock().unwrap().later = Some((status, requests));
    }

    /// Closes all connections and the port.
    pub fn stop(&mut self) {
        self.state.lock().unwrap().is_over = true;
        let _ = TcpStream::connect(self.address);
        self.accepting.take().unwrap().join().unwrap();
    }

    pub fn restart(&mut self, status: u16) {
        self.state.lock().unwrap().is_over = false;
        self.answer(status);
        self.listen();
    }

    pub fn accepted(&self) -> Vec<Value> {
        self.state.lock().unwrap().accepted.clone()
    }

    pub fn heads(&self) -> Vec<String> {
        self.state.lock().unwrap().heads.clone()
    }
}

/// Good for `localhost`, in `NAME.pem` and `NAME.key`.
fn make_certificate(place: &Place, name: &str) -> (rcgen::Certificate, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    place.file(&format!("{name}.pem"), &certificate.pem());
    place.secret_file(&format!("{name}.key"), &key.serialize_pem());
    (certificate, key)
}

/// Until either side has enough.
fn serve(stream: impl Read + Write, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; len.parse().unwrap()];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let status = {
            let mut state = state.lock().unwrap();
            if state.is_over {
                return;
            }
            state.heads.push(head);
            match &mut state.later {
                Some((status, 0)) => (state.status, state.later) = (*status, None),
                Some((_, left)) => *left -= 1,
                None => {}
            }
            if (200..300).contains(&state.status) {
                let records: Vec<Value> = serde_json::from_slice(&body).unwrap();
                state.accepted.extend(records);
            }
            state.status
        };
        if status == 0 {
            // The client gives up first.
            let _ = reader.read(&mut [0]);
            return;
        }
        let answer = format!("HTTP/1.1 {status} as told\r\ncontent-length: 0\r\n\r\n");
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Debian's, with everything on disk before it answers.
pub struct Redis {
    child: Child,
    port: u16,
    tls_port: u16,
    directory: std::path::PathBuf,
    password: Option<&'static str>,
}

impl Redis {
    pub fn start(place: &Place) -> Option<Self> {
        let version = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        if version.is_err() {
            println!("SKIP: redis-server is not installed (Debian: package redis-server)");
            return None;
        }
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port, tls_port) = (free(), free());
        let directory = place.path().to_owned();
        make_certificate(place, "redis");
        let mut redis =
            Self { child: Self::spawn(port, tls_port, &directory), port, tls_port, directory, password: None };
        redis.wait();
        Some(redis)
    }

    fn spawn(port: u16, tls_port: u16, directory: &std::path::Path) -> Child {
        Command::new("redis-server")
            .args(["--unixsocket", "redis.sock"])
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
            .args(["--tls-port", &tls_port.to_string(), "--tls-cert-file", "redis.pem", "--tls-key-file", "redis.key"])
            .args(["--tls-auth-clients", "no", "--tls-ca-cert-file", "redis.pem"])
            .args(["--appendfsync", "always", "--daemonize", "no", "--dir"])
            .arg(directory)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn wait(&mut self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while self.ask(&["PING"]).is_none_or(|answer| !answer.starts_with("+PONG")) {
            assert!(std::time::Instant::now() < deadline, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Over a Unix socket, with a password.
    pub fn unix_url(&self, password: &str) -> String {
        format!("redis+unix://{}?pass={password}", self.directory.join("redis.sock").display())
    }

    /// Lets nobody in any more without a password.
    pub fn require(&mut self, password: &'static str) {
        let answer = self.ask(&["CONFIG", "SET", "requirepass", password]).unwrap_or_default();
        assert!(answer.starts_with("+OK"), "{answer}");
        self.password = Some(password);
    }

    /// Over TLS; the certificate lies in `redis.pem`.
    pub fn tls_url(&self) -> String {
        format!("rediss://localhost:{}/", self.tls_port)
    }

    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.child = Self::spawn(self.port, self.tls_port, &self.directory);
        self.wait();
    }

    /// The records of a stream, in its order.
    pub fn entries(&self, stream: &str) -> Vec<Value> {
        let answer = self.ask(&["XRANGE", stream, "-", "+"]).unwrap_or_default();
        // The only lines that are objects.
        answer.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// A command, and all that it answers.
    fn ask(&self, command: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let authenticate = self.password.map(|password| ["AUTH", password]);
        let commands = authenticate.iter().map(|words| &words[..]).chain([command, &["QUIT"]]);
        for command in commands {
            let parts: String = command.iter().map(|part| format!("${}\r\n{part}\r\n", part.len())).collect();
            stream.write_all(format!("*{}\r\n{parts}", command.len()).as_bytes()).ok()?;
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Both fail for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
