//! Where a case works: a server, a transport, and what can be put around them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::case::{Need, Step, failed, not_applicable};
use crate::client::{Client, Credentials};
use crate::ensure;
use crate::link::{Link, PATIENCE, Transport};

/// A server as it is now configured.
pub struct Target {
    /// What the configuration is called.
    pub profile: String,
    /// For the certificate.
    pub host: String,
    /// Where it listens.
    pub ipv4: BTreeMap<Transport, SocketAddr>,
    pub ipv6: BTreeMap<Transport, SocketAddr>,
    pub user: Credentials,
    pub second_user: Option<Credentials>,
    /// For Binding, under the short-term mechanism.
    pub short_term_user: Option<Credentials>,
    pub secrets: Vec<String>,
    /// Id and key of access tokens.
    pub token_keys: Vec<(String, Vec<u8>)>,
    /// Where the suite's peers are, if the server relays to them.
    pub peer: Option<IpAddr>,
    /// A peer that the configuration refuses.
    pub denied_peer: Option<IpAddr>,
    pub has: BTreeSet<Need>,
    /// Of a local server, to be seen in its socket options and signals.
    pub process: Option<u32>,
    /// Held by a case while another one would disturb it.
    pub turn: Option<Mutex<()>>,
}

impl Target {
    /// Where a client of this transport connects, over IPv4 if that is possible.
    pub fn address(&self, transport: Transport) -> Option<SocketAddr> {
        self.ipv4.get(&transport).or_else(|| self.ipv6.get(&transport)).copied()
    }
}

/// What was said on all connections of a case.
#[derive(Clone, Default)]
pub struct Transcript(Rc<RefCell<Vec<String>>>);

impl Transcript {
    pub fn note(&self, line: String) {
        self.0.borrow_mut().push(line);
    }

    pub fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

pub struct Bench<'t> {
    pub target: &'t Target,
    pub transport: Transport,
    pub transcript: Transcript,
}

impl Bench<'_> {
    /// A new client over the transport of the case.
    pub fn client(&self) -> Step<Client> {
        self.client_over(self.transport)
    }

    pub fn client_over(&self, transport: Transport) -> Step<Client> {
        match self.target.address(transport) {
            Some(server) => self.client_at(transport, server, None),
            None => not_applicable(format!("needs {transport}")),
        }
    }

    /// A client that comes over IPv6.
    pub fn ipv6_client(&self) -> Step<Client> {
        match self.target.ipv6.get(&self.transport) {
            Some(server) => self.client_at(self.transport, *server, None),
            None => not_applicable(format!("needs {} over IPv6", self.transport)),
        }
    }

    pub fn client_at(&self, transport: Transport, server: SocketAddr, from: Option<SocketAddr>) -> Step<Client> {
        match Link::open(transport, server, &self.target.host, from, &[]) {
            Ok(link) => Ok(Client::new(link, self.target.user.clone(), self.transcript.clone())),
            Err(error) => failed(format!("no connection to {server} over {transport}: {error}")),
        }
    }

    pub fn second_user(&self) -> Step<&Credentials> {
        match &self.target.second_user {
            Some(user) => Ok(user),
            None => not_applicable("needs second-user"),
        }
    }

    /// A client with an allocation, and its relayed transport address.
    pub fn allocated(&self) -> Step<(Client, SocketAddr)> {
        let mut client = self.client()?;
        let relayed = client.allocate()?;
        Ok((client, relayed))
    }

    /// A peer over IPv4, if the server reaches the suite.
    pub fn peer(&self) -> Step<Peer> {
        match self.target.peer {
            Some(ip) => Peer::new(ip, &self.transcript),
            None => not_applicable("needs a peer that the server reaches: see --peer-address"),
        }
    }

    /// A peer over IPv6, at the address from which packets to the server leave.
    pub fn ipv6_peer(&self) -> Step<Peer> {
        let from_here = || {
            let socket = UdpSocket::bind(("::", 0)).ok()?;
            socket.connect(self.target.ipv6.values().next()?).ok()?;
            Some(socket.local_addr().ok()?.ip())
        };
        Peer::new(from_here().unwrap_or(Ipv6Addr::LOCALHOST.into()), &self.transcript)
    }

    /// An address that may be permitted like a peer's, where nobody listens.
    pub fn elsewhere(&self, last: u8) -> Step<SocketAddr> {
        match self.target.peer {
            Some(IpAddr::V4(ip)) if ip.is_loopback() => Ok(SocketAddr::from(([127, 0, 99, last], 7_000))),
            Some(IpAddr::V4(ip)) => {
                let [a, b, c, d] = ip.octets();
                Ok(SocketAddr::from(([a, b, c, d.wrapping_add(last)], 7_000)))
            }
            _ => not_applicable("needs a peer that the server reaches: see --peer-address"),
        }
    }

    /// A client with an allocation and a permission for a peer.
    pub fn relaying(&self) -> Step<(Client, SocketAddr, Peer)> {
        let (mut client, relayed) = self.allocated()?;
        let peer = self.peer()?;
        client.permit(peer.address)?;
        Ok((client, relayed, peer))
    }

    /// A client with an allocation and this channel to a peer.
    pub fn on_channel(&self, number: u16) -> Step<(Client, SocketAddr, Peer)> {
        let (mut client, relayed) = self.allocated()?;
        let peer = self.peer()?;
        client.bind_channel(number, peer.address)?;
        Ok((client, relayed, peer))
    }
}

/// Somebody on the other side of the relay.
pub struct Peer {
    pub socket: UdpSocket,
    pub address: SocketAddr,
    transcript: Transcript,
}

impl Peer {
    pub fn new(ip: IpAddr, transcript: &Transcript) -> Step<Self> {
        // Not from where relayed ports are: at the address of a relay, such a port is taken for another relay.
        let draw = || UdpSocket::bind((ip, 0)).ok();
        let is_other = |socket: &UdpSocket| socket.local_addr().is_ok_and(|address| address.port() < 49_152);
        let mut drawn: Vec<UdpSocket> = Vec::new();
        while drawn.len() < 100 {
            match draw() {
                Some(socket) if is_other(&socket) => {
                    let address = socket.local_addr().expect("it is bound");
                    return Ok(Self { socket, address, transcript: transcript.clone() });
                }
                // Kept, so that it is not drawn again.
                Some(socket) => drawn.push(socket),
                None => break,
            }
        }
        failed(format!("no peer at {ip}"))
    }

    pub fn send(&self, to: SocketAddr, data: &[u8]) -> Step<()> {
        self.transcript.note(format!("P {} → {to} [{} bytes]", self.address, data.len()));
        match self.socket.send_to(data, to) {
            Ok(_) => Ok(()),
            Err(error) => failed(format!("the peer could not send: {error}")),
        }
    }

    /// The next datagram and where it came from.
    pub fn receive(&self) -> Step<(Vec<u8>, SocketAddr)> {
        let mut data = vec![0; 70_000];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "expected a datagram at the peer, but none came in {} s", PATIENCE.as_secs());
            let received = self
                .socket
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))
                .and_then(|()| self.socket.recv_from(&mut data));
            if let Ok((len, from)) = received {
                self.transcript.note(format!("{from} → P {} [{len} bytes]", self.address));
                data.truncate(len);
                return Ok((data, from));
            }
        }
    }

    /// The next datagram is exactly this; where it came from.
    pub fn expect(&self, data: &[u8]) -> Step<SocketAddr> {
        let (received, from) = self.receive()?;
        if received != data {
            let shown = hex::encode(&received[..received.len().min(32)]);
            return failed(format!(
                "expected {} bytes at the peer, received {} (0x{shown}…)",
                data.len(),
                received.len()
            ));
        }
        Ok(from)
    }
}
