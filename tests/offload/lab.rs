//! A namespace with a way to clients and another, behind a gateway, to peers.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Link-layer addresses: of the next hops on both ways, and our own.
pub const CLIENTS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0A];
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0B];
pub const OWN_MAC: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
/// Interfaces towards clients and towards peers.
pub const INTERFACES: [&str; 2] = ["clients", "peers"];

/// Runs a test in a namespace of its own, on a thread that ends with it; or says why it cannot.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: loading BPF programs needs root");
        return;
    }
    let thread = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("SKIP: no network namespace can be made here ({error})");
            return;
        }
        set_up();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn set_up() {
    // Both ends of each pair stay here: nobody is to answer, only to be known.
    for line in [
        "link set lo up",
        "link add clients address 02:00:00:00:00:01 type veth peer name far-clients",
        "link add peers address 02:00:00:00:00:02 type veth peer name far-peers",
        "link set clients up",
        "link set peers up",
        "link set far-clients up",
        "link set far-peers up",
        "address add 192.0.2.1/24 dev clients",
        "address add 2001:db8:2::1/64 dev clients nodad",
        "address add 203.0.113.5/24 dev peers",
        "address add 2001:db8::5/64 dev peers nodad",
        "route add 198.51.100.0/24 via 203.0.113.1",
        "route add 2001:db8:1::/48 via 2001:db8::1",
        "neighbor add 192.0.2.10 lladdr 02:00:00:00:00:0a dev clients",
        "neighbor add 192.0.2.11 lladdr 02:00:00:00:00:0a dev clients",
        "neighbor add 2001:db8:2::10 lladdr 02:00:00:00:00:0a dev clients",
        "neighbor add 2001:db8:2::11 lladdr 02:00:00:00:00:0a dev clients",
        "neighbor add 203.0.113.1 lladdr 02:00:00:00:00:0b dev peers",
        "neighbor add 2001:db8::1 lladdr 02:00:00:00:00:0b dev peers",
    ] {
        ip(line);
    }
}

/// `ip` with these words.
pub fn ip(line: &str) {
    show(line);
}

/// What `ip` says to these words.
pub fn show(line: &str) -> String {
    let output = Command::new("ip").args(line.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("its words are text")
}

/// The index of an interface.
pub fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("the interface is there")
}

/// Has the far ends take what the program for drivers sends them; or says why not.
pub fn receive_from_drivers() -> bool {
    ["far-clients", "far-peers"].iter().all(|name| {
        let ethtool = Command::new("ethtool").args(["-K", name, "gro", "on"]).output();
        let is_on = ethtool.is_ok_and(|output| output.status.success());
        if !is_on {
            eprintln!("SKIP: the other end of a veth is to have gro on, and that takes ethtool");
        }
        is_on
    })
}
