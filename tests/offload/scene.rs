//! A machine with two clients, and its flows in the kernel.

use std::collections::HashMap;
use std::net::SocketAddr;

use hairpin::offload::{Kernel, Mode, Settings, Way};
use hairpin::stun::{AttributeType, ChannelNumber};
use hairpin::turn::{FiveTuple, Flow, FlowId, Offload, PeerPolicy, RelayId, Transport};

use crate::client::Client;
use crate::lab::{self, INTERFACES};
use crate::world::{World, config, signed_with_peers};

/// Where clients are, and what they talk to.
pub const CLIENTS: [[&str; 2]; 8] = [
    ["192.0.2.10:40000", "192.0.2.1:3478"],
    ["192.0.2.11:40001", "192.0.2.1:3478"],
    ["[2001:db8:2::10]:40002", "[2001:db8:2::1]:3478"],
    ["[2001:db8:2::11]:40003", "[2001:db8:2::1]:3478"],
    ["192.0.2.10:40004", "192.0.2.1:3478"],
    ["192.0.2.11:40005", "192.0.2.1:3478"],
    ["[2001:db8:2::10]:40006", "[2001:db8:2::1]:3478"],
    ["[2001:db8:2::11]:40007", "[2001:db8:2::1]:3478"],
];
/// Peers of both families.
pub const PEERS: [&str; 2] = ["198.51.100.7:7000", "[2001:db8:1::7]:7001"];

/// One allocation.
#[derive(Clone, Debug)]
pub struct Party {
    pub path: FiveTuple,
    pub client: Client,
    pub relay: RelayId,
    /// Bound and told alike: there is no NAT here.
    pub relayed: SocketAddr,
    next_channel: u16,
}

/// The machine, the kernel, and the flows that both know.
pub struct Scene {
    pub world: World,
    pub kernel: Kernel,
    pub mirror: Box<dyn Offload>,
    pub parties: Vec<Party>,
    pub flows: Vec<(Flow, FlowId, usize)>,
}

/// For the namespace's interfaces.
pub fn settings(flows: u32) -> Settings {
    let addresses = ["192.0.2.1", "203.0.113.5", "2001:db8:2::1", "2001:db8::5"].map(|ip| ip.parse().unwrap());
    Settings { addresses: addresses.into(), flows, ..Settings::default() }
}

impl Scene {
    /// Eight clients, four of each family, of which those with an even number have relayed addresses of IPv4, the others of
    /// IPv6.
    pub fn new(flows: u32) -> Self {
        Self::with(Kernel::load(&settings(flows)).expect("the program can be loaded by root"))
    }

    /// The same with the program in drivers as well, if it can be.
    pub fn in_drivers(flows: u32) -> Self {
        lab::receive_from_drivers();
        let settings = Settings { mode: Mode::Xdp, ..settings(flows) };
        Self::with(Kernel::load(&settings).expect("the program can be loaded by root"))
    }

    /// Whether the program is in drivers.
    pub fn is_in_drivers(&self) -> bool {
        self.kernel.status().interfaces.iter().all(|on| on.way == Way::Xdp)
    }

    /// The same with this program.
    pub fn with(kernel: Kernel) -> Self {
        let names: Vec<_> = kernel.status().interfaces.iter().map(|on| on.name.as_str()).collect();
        assert_eq!(names, INTERFACES, "{:?}", kernel.status());
        let mut world = World::with({
            let base = config();
            hairpin::turn::Config { peers: PeerPolicy { own: Vec::new(), ..base.peers.clone() }, ..base }
        });
        let parties = (0..CLIENTS.len()).map(|number| allocate(&mut world, number, None)).collect();
        let mirror = kernel.mirror(0, 1);
        Self { world, kernel, mirror, parties, flows: Vec::new() }
    }

    /// Binds a channel in the machine and mirrors it in the kernel. The party's number, and who the peer is.
    pub fn bind(&mut self, number: usize, peer: SocketAddr) -> usize {
        let party = &mut self.parties[number];
        party.next_channel += 1;
        let channel = 0x4000 + party.next_channel;
        let attribute = (AttributeType::CHANNEL_NUMBER, [channel.to_be_bytes(), [0, 0]].concat());
        let request = signed_with_peers(
            &mut party.client,
            hairpin::stun::Method::ChannelBind,
            vec![attribute],
            &[&peer.to_string()],
        );
        assert_eq!(self.world.exchange(party.path, &request).error(), 0, "{peer}");
        self.mirror(number, peer, ChannelNumber::new(channel))
    }

    /// The same with a permission and indications.
    pub fn permit(&mut self, number: usize, peer: SocketAddr) -> usize {
        let party = &mut self.parties[number];
        let request = signed_with_peers(
            &mut party.client,
            hairpin::stun::Method::CreatePermission,
            Vec::new(),
            &[&peer.to_string()],
        );
        assert_eq!(self.world.exchange(party.path, &request).error(), 0, "{peer}");
        self.mirror(number, peer, None)
    }

    fn mirror(&mut self, number: usize, peer: SocketAddr, channel: Option<ChannelNumber>) -> usize {
        let party = &self.parties[number];
        let flow = Flow {
            path: party.path,
            relay: party.relayed,
            relayed: party.relayed,
            peer,
            peer_relay: self.parties.iter().any(|other| other.relayed == peer).then_some(peer),
            channel,
        };
        let until = self.world.clock.now.plus_secs(3600);
        let id = self.mirror.mirror(&flow, until).expect("the kernel can do it");
        self.flows.push((flow, id, number));
        self.flows.len() - 1
    }

    /// A new allocation for a party that has none any more.
    pub fn allocate_again(&mut self, number: usize) {
        // Whose transaction ids go on: with those of before this would be the same request again.
        let client = self.parties[number].client.clone();
        self.parties[number] = allocate(&mut self.world, number, Some(client));
    }

    /// The flow towards a client that a packet from one relay to another takes.
    pub fn relayed_addresses(&self) -> HashMap<RelayId, SocketAddr> {
        self.parties.iter().map(|party| (party.relay, party.relayed)).collect()
    }
}

fn allocate(world: &mut World, number: usize, known: Option<Client>) -> Party {
    // The kernel's clock counts for both.
    world.clock.now = hairpin::net::clock::monotonic();
    let [client, server] = CLIENTS[number].map(|address| address.parse().unwrap());
    let path = FiveTuple { transport: Transport::Udp, client, server };
    let mut alice = known.unwrap_or_else(|| world.alice(path));
    let family = 1 + (number % 2) as u8;
    let asked = vec![(AttributeType::REQUESTED_ADDRESS_FAMILY, vec![family, 0, 0, 0])];
    let (relay, response) = world.allocate(path, &mut alice, asked);
    let relayed = response.address(AttributeType::XOR_RELAYED_ADDRESS).expect("a relayed address");
    Party { path, client: alice, relay, relayed, next_channel: 0 }
}
