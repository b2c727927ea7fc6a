//! Our server at the other end of a cable, in a namespace of its own: there the kernel relays, as it does for clients and
//! peers elsewhere. On loopback it never does, since nothing leaves the machine.
//!
//! This process is in a namespace, too, with no way out of it. Both, and the cable, go with the processes.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::local::find_program;

/// Public addresses, which here lead nowhere else.
pub const SERVER: &str = "45.9.9.1";
pub const SERVER_V6: &str = "2606:4700:9::1";
/// Of clients and peers.
pub const SUITE: &str = "45.9.9.2";
const SUITE_V6: &str = "2606:4700:9::2";

const INSIDE: &str = "HAIRPIN_CONFORMANCE_INSIDE";
pub const ADMIN_SOCKET: &str = "admin.sock";

/// Runs this program again in a namespace of its own, and says how that ended; `None` is there.
pub fn enter() -> Option<ExitCode> {
    if env::var_os(INSIDE).is_some() {
        return None;
    }
    if let Some(why) = missing() {
        println!("SKIP the requirements put to a server that relays in the kernel: {why}");
        return Some(ExitCode::SUCCESS);
    }
    let own = env::current_exe().expect("it is running");
    let mut again = Command::new("unshare");
    again.arg("--net").arg(own).args(env::args_os().skip(1)).env(INSIDE, "1");
    match again.status() {
        Ok(status) if status.success() => Some(ExitCode::SUCCESS),
        Ok(_) => Some(ExitCode::FAILURE),
        Err(error) => {
            eprintln!("unshare: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

/// What this machine lacks.
fn missing() -> Option<String> {
    // Identity maps of the first user namespace cover all identities.
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if !nix::unistd::geteuid().is_root() || map.split_whitespace().nth(2) != Some("4294967295") {
        return Some("only root may load programs into the kernel".to_owned());
    }
    for (program, what_for) in [
        ("clang", "the server is built without its program where it is missing"),
        ("ethtool", "checksums are to be whole"),
        ("unshare", "the server is to be in a namespace"),
        ("nsenter", "the server is to be in a namespace"),
        ("ip", "namespaces are to be joined"),
    ] {
        if find_program(program).is_none() {
            return Some(format!("{program} is not installed ({what_for})"));
        }
    }
    let status = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status();
    (!status.is_ok_and(|status| status.success())).then(|| "no network namespace can be made here".to_owned())
}

/// The server in a namespace that is joined to ours.
pub fn command() -> Command {
    // `unshare` and `sh` become what they run, so the parent is this process all the time. Sums are whole as from another
    // machine: those left to a network card, which is not there, are nothing for the kernel's program. Several cases want
    // an ICMP message at the same time, which the kernel would give to one a second, except on loopback.
    let script = format!(
        "set -e\n\
         there() {{ nsenter --target $PPID --net \"$@\"; }}\n\
         ip link add cable type veth peer name cable netns $PPID\n\
         there ip link set lo up\n\
         there ip addr add {SUITE}/24 dev cable\n\
         there ip addr add {SUITE_V6}/64 dev cable nodad\n\
         there ip link set cable up\n\
         there ethtool -K cable tx off >&2\n\
         there sh -c 'echo 0 >/proc/sys/net/ipv4/icmp_ratelimit'\n\
         ip link set lo up\n\
         ip addr add {SERVER}/24 dev cable\n\
         ip addr add {SERVER_V6}/64 dev cable nodad\n\
         ip link set cable up\n\
         ip route add default via {SUITE}\n\
         ip -6 route add default via {SUITE_V6}\n\
         exec \"$0\" serve --config hairpin.toml\n"
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script, env!("CARGO_BIN_EXE_hairpin")]);
    command
}

/// Which part of all packets the kernel has relayed, in per cent, as the server says.
///
/// # Errors
/// What else it said.
pub fn share(directory: &Path) -> Result<f64, String> {
    let socket = directory.join(ADMIN_SOCKET);
    let output = Command::new(env!("CARGO_BIN_EXE_hairpin")).args(["stats", "--admin"]).arg(socket).output();
    let output = output.map_err(|error| format!("hairpin stats: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("its share"));
    let percent = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    percent.ok_or_else(|| format!("hairpin stats: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
