//! Packets in at one interface and out at another, on wires: what redirects really do.

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use hairpin::offload::{Kernel, Mode, Settings, Way};
use hairpin::turn::{Direction, Flow};

use crate::flows::frame;
use crate::frame::Frame;
use crate::lab::{self, CLIENTS_MAC, GATEWAY_MAC, OWN_MAC};
use crate::scene::{PEERS, Scene, settings};
use crate::world::read_data_indication;

/// The far end of a wire: what is sent here comes in at the other end, and what leaves there is received.
fn wire(interface: &str) -> UdpSocket {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: a new descriptor, which nobody else has; the address is valid for its length.
    #[allow(unsafe_code)]
    let socket = unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol));
        assert!(socket >= 0, "{}", std::io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(socket);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = lab::index(interface) as i32;
        let len = size_of::<libc::sockaddr_ll>() as u32;
        assert_eq!(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len), 0);
        socket
    };
    // Any socket can send and receive; this one is not what its type says.
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket
}

/// The next frame with this payload.
fn receive(wire: &UdpSocket, payload: &[u8]) -> Frame {
    let mut bytes = [0; 2048];
    loop {
        let len = wire.recv(&mut bytes).expect("the packet comes out there");
        // The kernel talks to its neighbors as well.
        if bytes[..len].ends_with(payload) {
            return Frame::parse(&bytes[..len]);
        }
    }
}

fn relays(scene: &Scene) {
    let (far_clients, far_peers) = (wire("far-clients"), wire("far-peers"));
    for (number, (flow, _, _)) in scene.flows.iter().enumerate() {
        // The first of a flow leaves by the kernel's own next hop, the others by what the program wrote.
        for turn in 0..4 {
            let data = [&[0x80, number as u8, turn][..], &[7; 100][..96 + usize::from(turn)]].concat();
            let incoming = frame(flow, Direction::ToPeer, &data);
            far_clients.send(&incoming.bytes()).unwrap();
            let out = receive(&far_peers, &data);
            assert_eq!((out.source, out.destination, &out.payload), (flow.relay, flow.peer, &data));
            assert_eq!((out.to_mac, out.from_mac, out.hops), (GATEWAY_MAC, OWN_MAC[1], 64));
            far_peers.send(&frame(flow, Direction::ToClient, &data).bytes()).unwrap();
            let out = match flow.channel {
                Some(_) => receive(&far_clients, &incoming.payload),
                None => {
                    let padding = vec![0; data.len().wrapping_neg() & 3];
                    let out = receive(&far_clients, &[&data[..], &padding].concat());
                    assert_eq!(read_data_indication(&out.payload), (flow.peer, data.clone()));
                    out
                }
            };
            assert_eq!((out.source, out.destination), (flow.path.server, flow.path.client));
            assert_eq!((out.to_mac, out.from_mac, out.hops), (CLIENTS_MAC, OWN_MAC[0], 64));
        }
    }
}

fn scene_with(kernel: Kernel) -> Scene {
    let mut scene = Scene::with(kernel);
    for number in 0..4 {
        scene.bind(number, PEERS[number % 2].parse().unwrap());
    }
    for number in 4..8 {
        scene.permit(number, PEERS[number % 2].parse().unwrap());
    }
    scene
}

#[test]
fn packets_leave_by_the_right_wire_for_the_right_hop() {
    lab::in_namespace(|| {
        let scene = scene_with(Kernel::load(&settings(64)).expect("the program can be loaded by root"));
        let ways: Vec<_> = scene.kernel.status().interfaces.iter().map(|on| on.way).collect();
        println!("{:?}", scene.kernel.status());
        assert!(ways.iter().all(|way| [Way::Tcx, Way::Clsact].contains(way)));
        relays(&scene);
    });
}

/// Linux before 6.6, and a filter that a killed process has left there.
#[test]
fn without_tcx_a_filter_does_it_and_replaces_an_earlier_one() {
    lab::in_namespace(|| {
        let filters = || {
            let output =
                std::process::Command::new("tc").args(["filter", "show", "dev", "clients", "ingress"]).output();
            let text = String::from_utf8(output.expect("iproute2 is installed").stdout).unwrap();
            text.lines().filter(|line| line.contains("hairpin_tc")).count()
        };
        std::mem::forget(Kernel::load_without_tcx(&settings(64)).expect("the program can be loaded by root"));
        assert_eq!(filters(), 1);
        let scene = scene_with(Kernel::load_without_tcx(&settings(64)).expect("the program can be loaded by root"));
        assert!(scene.kernel.status().interfaces.iter().all(|on| on.way == Way::Clsact));
        assert_eq!(filters(), 1);
        relays(&scene);
        drop(scene);
        assert_eq!(filters(), 0);
    });
}

/// In drivers, and back to tc with a reason where redirected frames would not arrive.
#[test]
fn drivers_relay_where_frames_are_seen_to_leave() {
    lab::in_namespace(|| {
        let settings = Settings { mode: Mode::Xdp, ..settings(64) };
        let scene = scene_with(Kernel::load(&settings).expect("the program can be loaded by root"));
        for on in &scene.kernel.status().interfaces {
            assert!([Way::Tcx, Way::Clsact].contains(&on.way) && on.why.contains("gro on"), "{on:?}");
        }
        relays(&scene);
        drop(scene);
        if !lab::receive_from_drivers() {
            return;
        }
        let scene = scene_with(Kernel::load(&settings).expect("the program can be loaded by root"));
        let ways = &scene.kernel.status().interfaces;
        assert!(ways.iter().all(|on| on.way == Way::Xdp), "{ways:?}");
        // Whoever listens there sees what the driver has handed on: what this relays is not among it.
        let handed_on = wire("clients");
        relays(&scene);
        handed_on.set_nonblocking(true).unwrap();
        let mut bytes = [0; 2048];
        let lens = std::iter::from_fn(|| handed_on.recv(&mut bytes).ok().map(|len| (len, bytes[12..14].to_vec())));
        // Of each flow the first to the peer, and one to the client that tc sent; a slow machine may take a second for one.
        let calls = lens.filter(|(len, protocol)| *len > 100 && protocol[1] != 0x06).count();
        // Of those with indications all four turns, both ways.
        let of_flow = |flow: &Flow| if flow.channel.is_some() { 2 } else { 8 };
        let least = scene.flows.iter().map(|(flow, ..)| of_flow(flow)).sum();
        assert!((least..least + scene.flows.len()).contains(&calls), "{calls}");
        drop(scene);
        let left = lab::show("link show dev clients");
        assert!(!left.contains("xdp"), "it goes with its owner: {left}");
    });
}

/// lo has no driver that could do it; another's program is not pushed away.
#[test]
fn without_a_driver_tc_does_it_and_the_reason_is_told() {
    lab::in_namespace(|| {
        let settings = Settings { mode: Mode::Xdp, interfaces: vec!["lo".to_owned()], ..settings(64) };
        let kernel = Kernel::load(&settings).expect("the program can be loaded by root");
        let on = &kernel.status().interfaces[0];
        assert!(on.way != Way::Xdp && on.why.starts_with("no XDP: "), "{on:?}");
    });
}
