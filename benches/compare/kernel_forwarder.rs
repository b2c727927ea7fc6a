//! The limit of the kernel: what moving packets costs at tc when nothing is checked (`program/forwarder.c`). Told by the bare
//! forwarder, which answers requests, whose data is to be moved where.

use std::fs;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use aya::programs::SchedClassifier;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};

use crate::network::{CLIENTS, LINKS, PEERS};

/// As clang made it (`build.rs`), if it was there.
#[cfg(kernel_programs)]
static PROGRAM: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/forwarder.o")));
#[cfg(not(kernel_programs))]
static PROGRAM: Option<&[u8]> = None;

/// Between two looks for a link-layer address, and how many there are.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const LOOKS: usize = 100;

/// The program at both links.
pub struct KernelForwarder {
    _program: Ebpf,
    _links: Vec<SchedClassifierLink>,
    changes: HashMap<MapData, [u8; 12], [u8; 36]>,
    /// What frames to clients and to peers begin with, and the link they leave by.
    ways: [([u8; 14], u32); 2],
}

/// Ends of a flow.
pub struct Flow {
    pub client: SocketAddrV4,
    pub server: SocketAddrV4,
    pub relay: SocketAddrV4,
    pub peer: SocketAddrV4,
    pub channel: [u8; 2],
}

impl KernelForwarder {
    /// Attaches it.
    ///
    /// # Errors
    /// What the kernel does not allow.
    pub fn new() -> std::io::Result<Self> {
        let bytes = PROGRAM.ok_or_else(|| std::io::Error::other("built without clang"))?;
        let mut program = Ebpf::load(bytes).map_err(std::io::Error::other)?;
        let changes = program.take_map("changes").expect("its own");
        let changes = HashMap::try_from(changes).map_err(std::io::Error::other)?;
        let part = program.program_mut("forward").expect("its own");
        let part: &mut SchedClassifier = part.try_into().map_err(std::io::Error::other)?;
        part.load().map_err(std::io::Error::other)?;
        let mut links = Vec::new();
        for link in LINKS {
            let options = TcAttachOptions::TcxOrder(LinkOrder::default());
            let link = part.attach_with_options(link, TcAttachType::Ingress, options).map_err(std::io::Error::other)?;
            links.push(part.take_link(link).map_err(std::io::Error::other)?);
        }
        let ways = [way(LINKS[0], CLIENTS)?, way(LINKS[1], PEERS)?];
        Ok(Self { _program: program, _links: links, changes, ways })
    }

    /// Moves a flow's data from now on, both ways.
    ///
    /// # Errors
    /// When there are too many.
    pub fn add(&mut self, flow: &Flow) -> std::io::Result<()> {
        let Flow { client, server, relay, peer, channel } = *flow;
        let [to_client, to_peer] = self.ways;
        for (from, to, channel_in, channel_out, way) in [
            ([client, server], [relay, peer], channel, [0; 2], to_peer),
            ([peer, relay], [server, client], [0; 2], channel, to_client),
        ] {
            let mut sum = 0_u64;
            let mut add = |bytes: &[u8], mask: u16| {
                sum += bytes
                    .chunks_exact(2)
                    .map(|word| u64::from(u16::from_ne_bytes([word[0], word[1]]) ^ mask))
                    .sum::<u64>();
            };
            for address in from {
                add(&address.ip().octets(), 0xFFFF);
                add(&address.port().to_be_bytes(), 0xFFFF);
            }
            add(&channel_in, 0xFFFF);
            for address in to {
                add(&address.ip().octets(), 0);
                add(&address.port().to_be_bytes(), 0);
            }
            add(&channel_out, 0);
            let ends = |[one, other]: [SocketAddrV4; 2]| {
                [&one.ip().octets()[..], &other.ip().octets(), &one.port().to_be_bytes(), &other.port().to_be_bytes()]
                    .concat()
            };
            let key: [u8; 12] = ends(from).try_into().expect("as long");
            let (ethernet, interface) = way;
            let change =
                [&ethernet[..], &channel_out, &ends(to), &interface.to_ne_bytes(), &(sum as u32).to_ne_bytes()];
            let change: [u8; 36] = change.concat().try_into().expect("as long");
            self.changes.insert(key, change, 0).map_err(std::io::Error::other)?;
        }
        Ok(())
    }
}

/// What a frame to a neighbor on a link begins with, and the link's index.
fn way(link: &str, neighbor: std::net::Ipv4Addr) -> std::io::Result<([u8; 14], u32)> {
    let of_link = |name: &str| fs::read_to_string(format!("/sys/class/net/{link}/{name}"));
    let own = octets(of_link("address")?.trim());
    let index = of_link("ifindex")?.trim().parse().map_err(std::io::Error::other)?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    for _ in 0..LOOKS {
        // The port of nobody.
        socket.send_to(&[0; 20], (neighbor, 9))?;
        std::thread::sleep(LOOK_AGAIN);
        let table = fs::read_to_string("/proc/net/arp")?;
        let line = table.lines().find(|line| line.split_whitespace().next() == Some(&neighbor.to_string()));
        let other = line.and_then(|line| line.split_whitespace().nth(3)).and_then(octets);
        if let Some((own, other)) = own.zip(other).filter(|(_, other)| *other != [0; 6]) {
            let ethernet = [&other[..], &own, &[0x08, 0]].concat();
            return Ok((ethernet.try_into().expect("as long"), index));
        }
    }
    Err(std::io::Error::other(format!("{neighbor} has no link-layer address")))
}

fn octets(text: &str) -> Option<[u8; 6]> {
    let octets: Option<Vec<u8>> = text.split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets?.try_into().ok()
}
