//! Two namespaces and a cable: on one side the server, on the other everybody else, this process.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::bench::Transcript;
use crate::case::{Step, failed};
use crate::client::{Client, Credentials, Judged};
use crate::link::{Link, Transport};

pub const REALM: &str = "example.org";
pub const ALICE: (&str, &str) = ("alice", "wonder-of-alice");
pub const BOB: (&str, &str) = ("bob", "builder-of-bob");
pub const SECRET: &str = "a secret that no log may ever contain";
/// The server. All addresses here are public ones, which here lead nowhere else.
pub const SERVER: &str = "45.9.9.1";
pub const SERVER_V6: &str = "2606:4700:9::1";
/// Clients, and peers that they may reach.
pub const CLIENT: &str = "45.9.9.2";
pub const CLIENT_V6: &str = "2606:4700:9::2";
pub const PEER: &str = "45.9.9.3";
/// Networks of which every address is this process's, for floods from many sources and clients among them.
pub const CROWD: &str = "45.9.10.0/24";
pub const OTHER_CROWD: &str = "45.9.11.0/24";
/// Addresses that no client may reach, and that lead here if one does: the server's way to everywhere is this process.
pub const FORBIDDEN_HERE: [&str; 7] =
    ["10.1.2.3", "172.16.0.1", "192.168.7.7", "100.64.0.1", "169.254.169.254", "192.0.0.192", "198.18.0.1"];
pub const FORBIDDEN_V6_HERE: [&str; 3] = ["fd00:ec2::254", "fc00::1", "2001:db8::1"];

/// The longest wait for a server to start, or to end something.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub enum Entered {
    Inside,
    /// The tests have run in another process.
    Ended(ExitCode),
}

/// Runs this program again in namespaces of its own, unless it is there already.
pub fn enter() -> Result<Entered, String> {
    const INSIDE: &str = "HAIRPIN_ABUSE_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        for command in [
            "ip link set lo up",
            &format!("ip route add local {CROWD} dev lo"),
            &format!("ip route add local {OTHER_CROWD} dev lo"),
        ] {
            run(command)?;
        }
        for address in FORBIDDEN_HERE {
            run(&format!("ip addr add {address}/32 dev lo"))?;
        }
        for address in FORBIDDEN_V6_HERE {
            run(&format!("ip addr add {address}/128 dev lo nodad"))?;
        }
        return Ok(Entered::Inside);
    }
    let mut unshare = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--net", "--mount"]);
    let possible = unshare.arg("true").output().map_err(|error| format!("unshare: {error}"))?;
    if !possible.status.success() {
        return Err(format!("no namespaces here: {}", String::from_utf8_lossy(&possible.stderr).trim()));
    }
    let mut again = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        again.args(["--user", "--map-root-user"]);
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    again.args(["--net", "--mount"]).arg(program).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    let status = again.status().map_err(|error| error.to_string())?;
    Ok(Entered::Ended(ExitCode::from(status.code().map_or(1, |code| code as u8))))
}

pub fn run(words: &str) -> Result<(), String> {
    let mut parts = words.split_whitespace();
    let program = parts.next().expect("written above");
    let output = Command::new(program).args(parts).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A server in its namespace; both end with this value.
pub struct Server {
    child: Child,
    /// Stays when the process does not.
    namespace: fs::File,
    directory: PathBuf,
    pub addresses: BTreeMap<Transport, SocketAddr>,
    pub admin: SocketAddr,
}

impl Server {
    /// With the built-in defaults, but for where it listens and who may log in, and what is written here: whole sections,
    /// each at most once, and none of `listen`, `relay`, `tls`, `auth`, `admin`, `log`.
    pub fn start(more: &str) -> Step<Self> {
        Self::start_with(more, "", "")
    }

    /// The same, with more keys of `auth` and `relay`.
    pub fn start_with(more: &str, auth: &str, relay: &str) -> Step<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("abuse-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).expect("the build directory can be written to");
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a valid name");
        fs::write(directory.join("chain.pem"), certificate.cert.pem()).expect("the directory was just made");
        fs::write(directory.join("key.pem"), certificate.signing_key.serialize_pem()).expect("as before");
        let offload = match std::env::var("OFFLOAD") {
            _ if more.contains("[offload]") => String::new(),
            Ok(mode) => format!("[offload]\nmode = \"{mode}\"\n"),
            Err(_) => String::new(),
        };
        let user = |(name, password): (&str, &str)| format!("{{ name = \"{name}\", password = \"{password}\" }}");
        let text = format!(
            "threads = 2\n{offload}{more}\n\
             [listen]\nudp = [\"{SERVER}:3478\", \"[{SERVER_V6}]:3478\"]\ntcp = [\"{SERVER}:3478\"]\n\
             tls = [\"{SERVER}:5349\"]\n\
             [tls]\ncertificate = \"chain.pem\"\nkey = \"key.pem\"\nhandshake_timeout = \"1s\"\n\
             [relay]\naddresses = [\"{SERVER}\", \"{SERVER_V6}\"]\n{relay}\n\
             [admin]\nlisten = \"{SERVER}:9641\"\n[log]\nformat = \"json\"\nlevel = \"debug\"\n\
             [shutdown]\ndrain = \"0s\"\n\
             [auth]\nrealm = \"{REALM}\"\nsecrets = [\"{SECRET}\"]\nusers = [{}, {}]\n{auth}\n",
            user(ALICE),
            user(BOB)
        );
        fs::write(directory.join("hairpin.toml"), text).expect("as before");
        let log = fs::File::create(directory.join("log")).expect("as before");
        // Waits for a line, so that its namespace is ready when it starts, and its process id is known before.
        let script = "read -r line && exec \"$0\" serve --config hairpin.toml";
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", script, env!("CARGO_BIN_EXE_hairpin")])
            .current_dir(&directory)
            .env_remove("HAIRPIN_CONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("unshare was there before");
        let wired = wait_for_namespace(child.id()).and_then(|()| wire(child.id()));
        if let Err(why) = wired {
            let _ = child.kill();
            let _ = child.wait();
            return failed(why);
        }
        let namespace = fs::File::open(format!("/proc/{}/ns/net", child.id())).expect("it is ours");
        let mut go = child.stdin.take().expect("piped");
        go.write_all(b"go\n").expect("it waits for a line");
        let mut server = Self {
            child,
            namespace,
            directory,
            addresses: BTreeMap::new(),
            admin: SocketAddr::new(SERVER.parse().expect("written above"), 9641),
        };
        server.wait_until_listening()?;
        Ok(server)
    }

    fn wait_until_listening(&mut self) -> Step<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains("\"listening\"") {
            if Instant::now() > deadline || self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return failed(format!("the server did not start:\n{}", self.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let at = |port| SocketAddr::new(SERVER.parse().expect("written above"), port);
        self.addresses = [(Transport::Udp, at(3478)), (Transport::Tcp, at(3478)), (Transport::Tls, at(5349))].into();
        Ok(())
    }

    /// Ends the process by this signal. Its namespace stays.
    pub fn end(&mut self, signal: nix::sys::signal::Signal) {
        let server = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(server, signal).expect("it lives");
        self.child.wait().expect("it is our child");
    }

    /// Starts another process where one has ended, with these words of the configuration instead of those.
    pub fn start_again(&mut self, old: &str, new: &str) -> Step<()> {
        let file = self.directory.join("hairpin.toml");
        let text = fs::read_to_string(&file).expect("it was written at the start");
        assert!(text.contains(old), "{old} is not in the configuration");
        fs::write(&file, text.replace(old, new)).expect("as before");
        let namespace = format!("--net=/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd());
        let log = fs::File::create(self.directory.join("log")).expect("as before");
        let mut again = Command::new("nsenter");
        again.args([&namespace, env!("CARGO_BIN_EXE_hairpin"), "serve", "--config", "hairpin.toml"]);
        again.current_dir(&self.directory).env_remove("HAIRPIN_CONFIG");
        again.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = again.spawn().expect("nsenter was there before");
        self.wait_until_listening()
    }

    /// Has it read its configuration again with these words instead of those, and waits for what it says then.
    pub fn reload(&self, old: &str, new: &str, event: &str) -> Step<()> {
        let file = self.directory.join("hairpin.toml");
        let text = fs::read_to_string(&file).expect("it was written at the start");
        assert!(text.contains(old), "{old} is not in the configuration");
        fs::write(&file, text.replace(old, new)).expect("as before");
        let count = |log: &str| log.matches(&format!("\"{event}\"")).count();
        let before = count(&self.log());
        let server = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGHUP).expect("it lives");
        let deadline = Instant::now() + PATIENCE;
        while count(&self.log()) == before {
            if Instant::now() > deadline {
                return failed(format!("no {event} after a reload:\n{}", self.log()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Waits until a metric is what it is to be.
    pub fn wait_for(&self, name: &str, is_so: impl Fn(f64) -> bool) -> Step<f64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(name)?;
            if is_so(value) {
                return Ok(value);
            }
            if Instant::now() > deadline {
                return failed(format!("{name} stays at {value}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    pub fn udp_v6(&self) -> SocketAddr {
        SocketAddr::new(SERVER_V6.parse().expect("written above"), 3478)
    }

    pub fn client(&self, transport: Transport) -> Step<Client> {
        self.client_of(transport, ALICE, None)
    }

    /// From this address.
    pub fn client_of(&self, transport: Transport, user: (&str, &str), from: Option<IpAddr>) -> Step<Client> {
        let from = from.map(|ip| SocketAddr::new(ip, 0));
        match Link::open(transport, self.addresses[&transport], "localhost", from, &[]) {
            Ok(link) => Ok(Client::new(link, Credentials::new(user.0, user.1), Transcript::default())),
            Err(error) => failed(format!("no connection over {transport}: {error}")),
        }
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }

    /// One value of a metric, all labels added up.
    pub fn metric(&self, name: &str) -> Step<f64> {
        let text = self.http(&format!("GET /metrics HTTP/1.1\r\nhost: {}\r\n\r\n", self.admin))?;
        let lines = text.lines().filter(|line| line.starts_with(name));
        let values = lines.filter(|line| line[name.len()..].starts_with(['{', ' ']));
        let values: Vec<f64> = values.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        if values.is_empty() { failed(format!("there is no metric {name}")) } else { Ok(values.iter().sum()) }
    }

    /// What the admin port says to these bytes.
    pub fn http(&self, request: &str) -> Step<String> {
        let talk = || {
            let mut stream = std::net::TcpStream::connect_timeout(&self.admin, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(request.as_bytes())?;
            let mut text = String::new();
            std::io::Read::read_to_string(&mut stream, &mut text).map(|_| text)
        };
        talk().or_else(|error: std::io::Error| failed(format!("the admin port: {error}")))
    }

    /// Still there, and serving.
    pub fn serves(&self) -> Step<()> {
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
            let mut client = self.client(transport)?;
            client.ask(&crate::drafts::binding())?.success()?;
        }
        let restarts = self.metric("hairpin_shard_restarts_total")?;
        if restarts == 0.0 { Ok(()) } else { failed(format!("{restarts} shards have panicked:\n{}", self.log())) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail for a child that has ended by itself. The namespace ends with it, and the cable with that.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
        let _ = run("ip link del cable");
    }
}

/// The child has left our namespace.
fn wait_for_namespace(child: u32) -> Result<(), String> {
    let own = fs::read_link("/proc/self/ns/net").map_err(|error| error.to_string())?;
    let deadline = Instant::now() + PATIENCE;
    while fs::read_link(format!("/proc/{child}/ns/net")).is_ok_and(|other| other == own) {
        if Instant::now() > deadline {
            return Err("unshare made no namespace".to_owned());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Joins the two namespaces.
fn wire(child: u32) -> Result<(), String> {
    let there = format!("nsenter --target {child} --net");
    let commands = [
        format!("ip link add cable type veth peer name cable netns {child}"),
        format!("ip addr add {CLIENT}/24 dev cable"),
        format!("ip addr add {PEER}/24 dev cable"),
        format!("ip addr add {CLIENT_V6}/64 dev cable nodad"),
        "ip link set cable up".to_owned(),
        format!("{there} ip link set lo up"),
        format!("{there} ip addr add {SERVER}/24 dev cable"),
        format!("{there} ip addr add {SERVER_V6}/64 dev cable nodad"),
        format!("{there} ip link set cable up"),
        format!("{there} ip route add default via {CLIENT}"),
        format!("{there} ip -6 route add default via {CLIENT_V6}"),
    ];
    commands.iter().try_for_each(|command| run(command))?;
    // As from another machine: with sums left to a network card nothing is relayed in the kernel. Without ethtool it is in
    // this process, and the attacks of `offload.rs` say so. And our end takes what comes from the other one's driver.
    let _ = run("ethtool -K cable tx off gro on");
    Ok(())
}

/// Counts what arrives at a port of any of our addresses, until it is asked.
pub struct Canary {
    stop: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Canary {
    /// On UDP.
    pub fn listen(port: u16) -> Self {
        let (stop, stopped) = mpsc::channel();
        let open = |any: &str| {
            let socket = socket2::Socket::new(
                if any == "::" { socket2::Domain::IPV6 } else { socket2::Domain::IPV4 },
                socket2::Type::DGRAM,
                None,
            )
            .expect("a socket");
            if any == "::" {
                socket.set_only_v6(true).expect("a new socket");
            }
            socket.bind(&SocketAddr::new(any.parse().expect("written here"), port).into()).expect("the port is free");
            socket.set_nonblocking(true).expect("as always");
            std::net::UdpSocket::from(socket)
        };
        let sockets = [open("0.0.0.0"), open("::")];
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            let mut buffer = [0; 2048];
            loop {
                let is_over = stopped.try_recv().is_ok();
                for socket in &sockets {
                    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                        seen.push(format!("{:?} from {from}", String::from_utf8_lossy(&buffer[..len])));
                    }
                }
                if is_over {
                    return seen;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { stop, thread }
    }

    /// Everything that came.
    pub fn ask(self) -> Vec<String> {
        let _ = self.stop.send(());
        self.thread.join().expect("it does not panic")
    }
}

/// The lines of a text file; for /proc.
pub fn lines(path: &str) -> Vec<String> {
    fs::File::open(path)
        .map_or_else(|_| Vec::new(), |file| BufReader::new(file).lines().map_while(Result::ok).collect())
}
