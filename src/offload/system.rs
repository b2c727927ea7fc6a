//! What the machine's settings (sysctl) say, and the one of them that has to be on.
//!
//! The kernel tells programs the next hop of a packet only for interfaces that forward. What this machine sends by itself
//! has lo as its origin, and routes and rules are to be those for what it sends; so it is lo that has to "forward". That
//! makes no packet of another interface be forwarded, and nothing comes in at lo that is not from here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::settings::Unavailable;

/// Where the settings of a family's interfaces are.
const INTERFACES: [&str; 2] = ["/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"];

/// Lets lo forward, for as long as this lives where it did not before.
#[derive(Debug)]
pub(super) struct Forwarding {
    path: PathBuf,
    was_off: bool,
}

impl Forwarding {
    /// For IPv4.
    pub(super) fn ipv4() -> Result<Self, Unavailable> {
        Self::switch_on(Path::new(INTERFACES[0]), "net.ipv4.conf.lo.forwarding")
    }

    /// For IPv6.
    ///
    /// There, switching it on for any interface makes the kernel forget the default routes that all of them have learnt
    /// from routers, except where `accept_ra` is 2, which says that an interface goes on listening although it forwards.
    /// None of the others does forward: for the moment of the change they say so as well, and keep their routes.
    pub(super) fn ipv6() -> Result<Self, Unavailable> {
        let interfaces = Path::new(INTERFACES[1]);
        if is_on(&interfaces.join("lo/forwarding")) {
            return Self::switch_on(interfaces, "net.ipv6.conf.lo.forwarding");
        }
        let mut listening = Vec::new();
        for entry in fs::read_dir(interfaces).into_iter().flatten().flatten() {
            let path = entry.path().join("accept_ra");
            if is_on(&path) && fs::write(&path, "2\n").is_ok() {
                listening.push(path);
            }
        }
        let forwarding = Self::switch_on(interfaces, "net.ipv6.conf.lo.forwarding");
        for path in listening {
            // It could be written just now; and 2 harms nothing where it cannot be any more.
            let _ = fs::write(path, "1\n");
        }
        forwarding
    }

    fn switch_on(interfaces: &Path, name: &str) -> Result<Self, Unavailable> {
        let path = interfaces.join("lo/forwarding");
        let was_off = !is_on(&path);
        if was_off {
            fs::write(&path, "1\n").map_err(|error| {
                let fix =
                    format!("set it to 1 before the server starts (`sysctl -w {name}=1`), or let the server do so");
                Unavailable(format!("{name} has to be 1, and cannot be written ({error}): {fix}"))
            })?;
        }
        Ok(Self { path, was_off })
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        if self.was_off {
            // A server that has given up its privileges cannot: it does no harm.
            let _ = fs::write(&self.path, "0\n");
        }
    }
}

fn is_on(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

/// What sockets of this machine send with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Defaults {
    pub(super) hops_ipv4: u8,
    pub(super) hops_ipv6: u8,
    /// Whether IPv6 packets get a flow label.
    pub(super) labels: bool,
}

impl Defaults {
    /// As they are now, those of IPv6 for this interface.
    pub(super) fn read(interface: &str) -> Self {
        let hops = Path::new(INTERFACES[1]).join(interface).join("hop_limit");
        Self {
            hops_ipv4: number(Path::new("/proc/sys/net/ipv4/ip_default_ttl")).unwrap_or(64),
            hops_ipv6: number(&hops).unwrap_or(64),
            // 1: unless a socket says no; 3: always. 0 and 2: only if it asks, and ours do not.
            labels: matches!(number(Path::new("/proc/sys/net/ipv6/auto_flowlabels")), Ok(1 | 3) | Err(_)),
        }
    }
}

fn number(path: &Path) -> io::Result<u8> {
    fs::read_to_string(path)?.trim().parse().map_err(io::Error::other)
}

/// Whether this process has a clock of its own: then ours is not the one that the program reads.
pub(super) fn has_own_clock() -> bool {
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    offsets.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("monotonic") && words.any(|offset| offset != "0")
    })
}
