//! Servers that the suite starts itself, on loopback, each in a directory of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::bench::Target;
use crate::link::Link;
use crate::link::Transport;

/// The longest wait for a server to answer.
const START_PATIENCE: Duration = Duration::from_secs(20);

pub const REALM: &str = "example.org";
pub const USER: (&str, &str) = ("alice", "s3cret");
pub const SECOND_USER: (&str, &str) = ("bob", "pa55word");
/// Two keys for access tokens: id and hexadecimal digits.
pub const TOKEN_KEYS: [(&str, &str); 2] = [
    ("north", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"),
    ("south", "ffeeddccbbaa99887766554433221100"),
];
pub const SECRET: &str = "north-north-north-north";
pub const SECOND_SECRET: &str = "south-south-south-south";

/// A server and where it lives, both gone with this value.
pub struct Running {
    pub target: Target,
    child: Child,
    directory: PathBuf,
}

impl Running {
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail for a child that has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What cannot be removed lies in the build directory and does no harm.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// An empty directory with a certificate in it.
pub fn make_directory(profile: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("conformance-{}-{profile}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).expect("the build directory can be written to");
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a valid name");
    fs::write(directory.join("chain.pem"), certificate.cert.pem()).expect("the directory was just made");
    fs::write(directory.join("key.pem"), certificate.signing_key.serialize_pem()).expect("as before");
    directory
}

/// Runs a command with its output in `log`; `target` gets the addresses out of that, as soon as there are any.
///
/// # Errors
/// What the server wrote, if it ended or never answered.
pub fn start(
    mut command: Command,
    directory: PathBuf,
    target: impl Fn(&str) -> Option<Target>,
) -> Result<Running, String> {
    let log = directory.join("log");
    let output = File::create(&log).expect("the directory was just made");
    let errors = output.try_clone().expect("a descriptor is left");
    command.current_dir(&directory).stdin(Stdio::null()).stdout(output).stderr(errors);
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let has_ended = child.try_wait().is_ok_and(|status| status.is_some());
        if let Some(mut target) = target(&text).filter(answers) {
            target.process = Some(child.id());
            return Ok(Running { target, child, directory });
        }
        if has_ended || Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            let _ = fs::remove_dir_all(&directory);
            return Err(format!("the server did not start:\n{text}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether every listener is there.
fn answers(target: &Target) -> bool {
    let listeners = target.ipv4.iter().chain(&target.ipv6);
    let mut streams = listeners.filter(|(transport, _)| transport.is_stream());
    streams.all(|(_, address)| Link::open(Transport::Tcp, *address, "localhost", None, &[]).is_ok())
}

/// A port that is free for UDP and TCP on loopback, as is the one above it.
pub fn free_ports() -> u16 {
    let is_free = |port: u16| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    let draw = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()).ok();
    (0..1_000)
        .filter_map(|_| draw())
        .map(|address| address.port())
        .find(|port| *port < 60_000 && is_free(*port) && is_free(port + 1))
        .expect("two free ports on loopback")
}

/// Whether this machine has IPv6; without it the cases that need it do not apply.
pub fn has_ipv6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}

/// Whether a program is installed, and where.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|directory| directory.join(name)).find(|file| Path::is_file(file))
}
