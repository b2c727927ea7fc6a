//! NAT behaviour discovery (RFC 5780): Binding that tells a client how the NATs in front of it map and filter.
//!
//! The server has two addresses and two ports at each. A client learns of the other address, and may ask that the
//! answer come from there, go to another of its own ports, or be large. What is asked for comes as an
//! [`Effect::Send`]: the answer leaves from another socket than the one the question came to.
//!
//! Nobody need be authenticated here, so that an answer never goes to another IP address than the question's, and one with
//! PADDING is never longer than its question.

use std::net::{IpAddr, SocketAddr};

use super::attributes::unknown_attributes;
use super::authenticate::Sealing;
use super::request::{Answering, method_index};
use super::{Effect, FiveTuple, ReplyBuffer, Server, Transport, Verdict};
use crate::stun::{AttributeType, Class, ErrorCode, Message, MessageWriter, Method, read_u32};

/// What is offered. All of it together costs a client no more than Binding does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BehaviorDiscovery {
    /// Two addresses of the server for each family that has two. Without, there is no OTHER-ADDRESS, and
    /// CHANGE-REQUEST is unknown (NATB-5780-6-02).
    pub addresses: Vec<[ServerAddress; 2]>,
    /// The two ports at each of them, by transport; `None` where there are none.
    pub udp: Option<[u16; 2]>,
    /// TCP.
    pub tcp: Option<[u16; 2]>,
    /// TLS.
    pub tls: Option<[u16; 2]>,
    /// CHANGE-REQUEST is honoured.
    pub change_request: bool,
    /// RESPONSE-PORT is honoured.
    pub response_port: bool,
    /// PADDING is honoured.
    pub padding: bool,
}

/// An address of this server, and what clients see of it (1:1 NAT). Ports are the same on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// On an interface of this machine.
    pub bind: IpAddr,
    /// In OTHER-ADDRESS and RESPONSE-ORIGIN; of the same family.
    pub advertise: IpAddr,
}

/// Flags of CHANGE-REQUEST (NATB-5780-7.2-01).
const CHANGE_IP: u32 = 0x04;
const CHANGE_PORT: u32 = 0x02;

/// More PADDING than this makes no answer more of a fragmented one: the MTU of Ethernet (NATB-5780-6.1-06).
const PADDING_BYTES_MAX: usize = 1500;

/// Where a request came in: one of two addresses, at one of two ports.
#[derive(Clone, Copy)]
struct Place<'c> {
    addresses: &'c [ServerAddress; 2],
    ports: [u16; 2],
    address: usize,
    port: usize,
}

impl Place<'_> {
    fn at(&self, change_ip: bool, change_port: bool) -> (ServerAddress, u16) {
        (self.addresses[self.address ^ usize::from(change_ip)], self.ports[self.port ^ usize::from(change_port)])
    }
}

impl BehaviorDiscovery {
    fn place(&self, path: &FiveTuple) -> Option<Place<'_>> {
        let ports = match path.transport {
            Transport::Udp => self.udp,
            Transport::Tcp => self.tcp,
            Transport::Tls => self.tls,
            Transport::Dtls => None,
        }?;
        let port = ports.iter().position(|port| *port == path.server.port())?;
        self.addresses.iter().find_map(|addresses| {
            let address = addresses.iter().position(|address| address.bind == path.server.ip())?;
            Some(Place { addresses, ports, address, port })
        })
    }

    fn knows(&self, kind: AttributeType, has_other_address: bool) -> bool {
        match kind {
            AttributeType::CHANGE_REQUEST => self.change_request && has_other_address,
            AttributeType::RESPONSE_PORT => self.response_port,
            AttributeType::PADDING => self.padding,
            _ => false,
        }
    }
}

/// What a request asks for beyond the addresses.
struct Wishes {
    change: u32,
    response_port: Option<u16>,
    padding: Option<usize>,
}

fn read_wishes(message: &Message<'_>, is_stream: bool) -> Result<Wishes, ErrorCode> {
    let change = message.first(AttributeType::CHANGE_REQUEST).map(read_u32).transpose();
    let change = change.map_err(|_| ErrorCode::BadRequest)?.unwrap_or(0) & (CHANGE_IP | CHANGE_PORT);
    // The text has two bytes of padding behind the port; whether the length counts them is read in both ways.
    let response_port = match message.first(AttributeType::RESPONSE_PORT) {
        None => None,
        Some(&[high, low] | &[high, low, _, _]) => Some(u16::from_be_bytes([high, low])),
        Some(_) => return Err(ErrorCode::BadRequest),
    };
    let padding = message.first(AttributeType::PADDING).map(<[u8]>::len);
    // Nothing can be sent to port 0. Both together would make fragments for a port of somebody else's behind the same
    // NAT (NATB-5780-6.1-07). A stream has one source and one destination (NATB-5780-7.2-02).
    if response_port == Some(0)
        || (padding.is_some() && response_port.is_some())
        || (is_stream && (change != 0 || response_port.is_some()))
    {
        return Err(ErrorCode::BadRequest);
    }
    Ok(Wishes { change, response_port, padding })
}

impl Server {
    /// Binding where discovery is offered.
    pub(super) fn on_behavior_discovery(
        &mut self,
        path: FiveTuple,
        message: &Message<'_>,
        answering: Answering,
        sealing: Option<&Sealing>,
        reply: &mut ReplyBuffer,
    ) -> Verdict {
        let config = std::sync::Arc::clone(&self.config);
        let discovery = config.behavior_discovery.as_ref().expect("asked before");
        let place = discovery.place(&path);
        let knows = |kind| config.knows(kind) || discovery.knows(kind, place.is_some());
        if let Some(unknown) = unknown_attributes(message, knows) {
            return Verdict::Reply { len: self.refuse_unknown(reply, answering, unknown, sealing) };
        }
        let wishes = match read_wishes(message, path.transport.is_stream()) {
            Ok(wishes) => wishes,
            Err(code) => return Verdict::Reply { len: self.respond(reply, answering, Err(code), sealing) },
        };
        let (change_ip, change_port) = (wishes.change & CHANGE_IP != 0, wishes.change & CHANGE_PORT != 0);
        let from = match place {
            Some(place) => {
                let (address, port) = place.at(change_ip, change_port);
                SocketAddr::new(address.bind, port)
            }
            None => path.server,
        };
        let to = SocketAddr::new(path.client.ip(), wishes.response_port.unwrap_or(path.client.port()));

        let mut large = Vec::new();
        let buffer: &mut [u8] = match wishes.padding {
            None => &mut *reply,
            Some(_) => {
                // However much has come in (NATB-5780-7.6-01).
                large.resize(ReplyBuffer::LEN + PADDING_BYTES_MAX, 0);
                &mut large
            }
        };
        self.counters.successes[method_index(Method::Binding)] += 1;
        let mut writer = MessageWriter::new(buffer, Method::Binding, Class::Success, answering.transaction_id);
        writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, path.client);
        writer.address(AttributeType::MAPPED_ADDRESS, path.client);
        writer.address(AttributeType::RESPONSE_ORIGIN, self.config.advertised(discovery, from));
        if let Some(place) = place {
            let (address, port) = place.at(true, true);
            writer.address(AttributeType::OTHER_ADDRESS, SocketAddr::new(address.advertise, port));
        }
        if let Some(asked) = wishes.padding {
            let rest = if answering.fingerprint { 4 + 8 } else { 4 };
            let room = message.total_len().saturating_sub(writer.len() + rest);
            let len = asked.next_multiple_of(4).min(PADDING_BYTES_MAX).min(room) / 4 * 4;
            writer.attribute(AttributeType::PADDING, &[0; PADDING_BYTES_MAX][..len]);
        }
        let len = self.finish(writer, answering, sealing);
        if from == path.server && to == path.client && wishes.padding.is_none() {
            return Verdict::Reply { len };
        }
        let bytes = if large.is_empty() { reply[..len].into() } else { large[..len].into() };
        self.effects.push_back(Effect::Send { to: FiveTuple { client: to, server: from, ..path }, bytes });
        Verdict::Later
    }
}

impl super::Config {
    /// What clients see of an address of this server. Relays and listeners are behind the same NAT.
    fn advertised(&self, discovery: &BehaviorDiscovery, local: SocketAddr) -> SocketAddr {
        let pairs = discovery.addresses.iter().flatten().map(|address| (address.bind, address.advertise));
        let relays = self.relays.iter().map(|relay| (relay.bind, relay.advertise));
        let found = pairs.chain(relays).find(|(bind, _)| *bind == local.ip());
        SocketAddr::new(found.map_or(local.ip(), |(_, advertise)| advertise), local.port())
    }
}
