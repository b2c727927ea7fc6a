//! A client with a real socket, and a world to put it in.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::super::{
    ConnectionLimits, ListenAddress, ListenOptions, PassThrough, Privacy, Proxies, Quotas, RecorderSettings, Settings,
    Shards, Snapshot, Tls,
};
#[cfg(feature = "dtls")]
use super::dtls_client::DtlsClient;
use crate::net::{Identity, make_certificate};
use crate::stun::{
    AttributeType, Class, Message, MessageWriter, Method, Seal, TransactionId, integrity, read_xor_address, stream,
};
use crate::turn::{
    Config, Credentials, HeldQuotas, Lifetimes, Limits, NonceKeys, PeerPolicy, PortRange, RelayAddress, StaticUser,
    Transport,
};

pub(super) const REALM: &str = "example.org";
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn config() -> Config {
    let relay = |ip: &str| RelayAddress { bind: ip.parse().unwrap(), advertise: ip.parse().unwrap() };
    let user = |name: &str| (name.to_owned(), StaticUser::from_password(name, REALM, "password"));
    let nonces = NonceKeys { current: [1; 32], previous: None, lifetime_secs: 3600 };
    Config {
        realm: REALM.into(),
        software: None,
        credentials: Credentials { users: ["alice", "bob"].map(user).into(), ..Credentials::default() },
        relays: vec![relay("127.0.0.1")],
        // Below the ports that the kernel gives to clients and peers of these tests.
        ports: PortRange { first: 20_000, last: 29_999, quarantine_secs: 0 },
        peers: PeerPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], ..PeerPolicy::default() },
        lifetimes: Lifetimes { allocation_default_secs: 600, allocation_max_secs: 3600 },
        limits: Limits {
            allocations: 1000,
            permissions_per_allocation: 8,
            channels_per_allocation: 8,
            effects: 1000,
            ..Limits::default()
        },
        ..Config::new(nonces)
    }
}

/// Every transport that this build speaks.
pub(super) const TRANSPORTS: &[Transport] = match Transport::ALL {
    [udp, tcp, tls, dtls] if cfg!(feature = "dtls") => &[udp, tcp, tls, dtls],
    [udp, tcp, tls, _] => &[udp, tcp, tls],
};

pub(super) fn settings(count: u16) -> Settings {
    let listen = |transport| ListenAddress {
        transport,
        address: "127.0.0.1:0".parse().unwrap(),
        required: true,
        options: ListenOptions::default(),
    };
    Settings {
        count,
        listen: TRANSPORTS.iter().copied().map(listen).collect(),
        tls: Some(Tls {
            identity: Arc::new(identity(&CERTIFICATE)),
            handshake_timeout: Duration::from_secs(10),
            dtls_handshakes: 1000,
        }),
        proxies: Proxies { prefixes: ["127.0.0.0/8".parse().unwrap()].into(), header_timeout: Duration::from_secs(10) },
        pass_through: PassThrough::default(),
        connections: ConnectionLimits {
            total: 1000,
            per_address: 1000,
            per_prefix: 1000,
            send_buffer_bytes: 64 * 1024,
            idle_secs: 60,
        },
        socket_buffer_bytes: 4 << 20,
        relay_socket_buffer_bytes: 1 << 20,
        coalesce: Duration::ZERO,
        coalesce_streams: Duration::from_micros(250),
        privacy: Privacy::default(),
        stranger_lines_per_sec: 50,
        recorder: RecorderSettings { events: 1024, silence_secs: 1 },
        peer_connections: 1000,
        quotas: Quotas {
            allocations: 1000,
            allocations_per_account: 1000,
            allocations_per_prefix: 1000,
            per_account: HeldQuotas::UNLIMITED,
            per_prefix: HeldQuotas::UNLIMITED,
            in_all: HeldQuotas::UNLIMITED,
        },
        turn: Arc::new(config()),
    }
}

/// For `turn.example.org`: certificate and key, as PEM.
pub(super) static CERTIFICATE: LazyLock<(String, String)> =
    LazyLock::new(|| make_certificate(&["turn.example.org"], |_| {}));

pub(super) fn identity(pem: &(String, String)) -> Identity {
    Identity::from_pem(pem.0.as_bytes(), pem.1.as_bytes()).unwrap()
}

/// A client that trusts this certificate only, with what the test changes.
pub(super) fn tls_client(pem: &(String, String), change: impl FnOnce(&mut ClientConfig)) -> ClientConnection {
    tls_client_of(pem, rustls::ALL_VERSIONS, change)
}

pub(super) fn tls_client_of(
    pem: &(String, String),
    versions: &[&'static rustls::SupportedProtocolVersion],
    change: impl FnOnce(&mut ClientConfig),
) -> ClientConnection {
    tls_client_for("turn.example.org", pem, versions, change)
}

/// One that asks for this name, or for none if it is an address.
pub(super) fn tls_client_for(
    name: &str,
    pem: &(String, String),
    versions: &[&'static rustls::SupportedProtocolVersion],
    change: impl FnOnce(&mut ClientConfig),
) -> ClientConnection {
    tls_client_that_has(rustls::crypto::aws_lc_rs::default_provider(), name, pem, versions, change)
}

/// The same with other suites than usual, or in another order.
pub(super) fn tls_client_that_has(
    provider: rustls::crypto::CryptoProvider,
    name: &str,
    pem: &(String, String),
    versions: &[&'static rustls::SupportedProtocolVersion],
    change: impl FnOnce(&mut ClientConfig),
) -> ClientConnection {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.0.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    change(&mut config);
    ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap()
}

/// The address clients of this transport come to.
pub(super) fn address(shards: &Shards, transport: Transport) -> SocketAddr {
    shards.listening().iter().find(|listen| listen.transport == transport).expect("a listener").address
}

/// Waits until the counters are as they should be.
#[track_caller]
pub(super) fn wait_for(shards: &Shards, what: &str, mut is_so: impl FnMut(&Snapshot) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so(&shards.snapshot()) {
        assert!(Instant::now() < deadline, "never happened: {what}; {:#?}", shards.snapshot().total);
        std::thread::yield_now();
    }
}

/// Where the count of `one` stands in an array that is "as in `all`".
pub(super) fn place<T: PartialEq>(all: &[T], one: T) -> usize {
    all.iter().position(|other| *other == one).expect("a variant")
}

/// A peer: a plain socket.
pub(super) fn peer() -> UdpSocket {
    peer_at("127.0.0.1:0").unwrap()
}

pub(super) fn peer_at(address: &str) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

pub(super) fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (len, from) = socket.recv_from(&mut buffer).expect("a datagram");
    buffer.truncate(len);
    (buffer, from)
}

enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    #[cfg(feature = "dtls")]
    Dtls(DtlsClient),
}

pub(super) struct Client {
    socket: Socket,
    name: &'static str,
    realm: &'static str,
    nonce: Vec<u8>,
    unread: Vec<u8>,
    /// What stands in front of each datagram.
    prefix: Vec<u8>,
}

impl Client {
    pub(super) fn udp(server: SocketAddr) -> Self {
        let socket = peer_at(if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
        // Connected, so that only answers from exactly that address are seen.
        socket.connect(server).unwrap();
        Self::new(Socket::Udp(socket))
    }

    pub(super) fn tcp(server: SocketAddr) -> Self {
        let socket = TcpStream::connect(server).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::new(Socket::Tcp(socket))
    }

    pub(super) fn tls(server: SocketAddr) -> Self {
        Self::tls_with(server, tls_client(&CERTIFICATE, |_| {}))
    }

    pub(super) fn tls_with(server: SocketAddr, session: ClientConnection) -> Self {
        let Socket::Tcp(tcp) = Self::tcp(server).socket else { unreachable!("just made") };
        Self::new(Socket::Tls(Box::new(StreamOwned::new(session, tcp))))
    }

    pub(super) fn of(shards: &Shards, transport: Transport) -> Self {
        let server = address(shards, transport);
        match transport {
            Transport::Udp => Self::udp(server),
            Transport::Tcp => Self::tcp(server),
            Transport::Tls => Self::tls(server),
            Transport::Dtls => Self::dtls(server),
        }
    }

    #[cfg(feature = "dtls")]
    pub(super) fn dtls(server: SocketAddr) -> Self {
        Self::dtls_with(DtlsClient::new(server, &CERTIFICATE.0, |_| {}))
    }

    #[cfg(not(feature = "dtls"))]
    pub(super) fn dtls(_: SocketAddr) -> Self {
        panic!("this build does not speak DTLS")
    }

    #[cfg(feature = "dtls")]
    pub(super) fn dtls_with(client: DtlsClient) -> Self {
        Self::new(Socket::Dtls(client))
    }

    #[cfg(feature = "dtls")]
    pub(super) fn dtls_client(&mut self) -> &mut DtlsClient {
        match &mut self.socket {
            Socket::Dtls(client) => client,
            _ => panic!("not a DTLS client"),
        }
    }

    fn new(socket: Socket) -> Self {
        Self { socket, name: "alice", realm: REALM, nonce: Vec::new(), unread: Vec::new(), prefix: Vec::new() }
    }

    pub(super) fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    pub(super) fn of_realm(mut self, realm: &'static str) -> Self {
        self.realm = realm;
        self
    }

    /// What a proxy writes: once in front of a connection, or in front of each datagram from now on.
    pub(super) fn behind(mut self, header: &[u8]) -> Self {
        match &mut self.socket {
            Socket::Udp(_) => self.prefix = header.into(),
            Socket::Tcp(socket) => socket.write_all(header).unwrap(),
            Socket::Tls(socket) => socket.sock.write_all(header).unwrap(),
            #[cfg(feature = "dtls")]
            Socket::Dtls(client) => client.stream.get_mut().prefix = header.into(),
        }
        self
    }

    pub(super) fn local_address(&self) -> SocketAddr {
        match &self.socket {
            Socket::Udp(socket) => socket.local_addr().unwrap(),
            Socket::Tcp(socket) => socket.local_addr().unwrap(),
            Socket::Tls(socket) => socket.sock.local_addr().unwrap(),
            #[cfg(feature = "dtls")]
            Socket::Dtls(client) => client.stream.get_ref().socket.local_addr().unwrap(),
        }
    }

    pub(super) fn udp_socket(&self) -> &UdpSocket {
        match &self.socket {
            Socket::Udp(socket) => socket,
            _ => panic!("a stream client"),
        }
    }

    pub(super) fn tcp_stream(&self) -> &TcpStream {
        match &self.socket {
            Socket::Tcp(socket) => socket,
            Socket::Tls(socket) => &socket.sock,
            _ => panic!("a client of datagrams"),
        }
    }

    pub(super) fn tls_stream(&mut self) -> &mut StreamOwned<ClientConnection, TcpStream> {
        match &mut self.socket {
            Socket::Tls(socket) => socket,
            _ => panic!("not a TLS client"),
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        match &mut self.socket {
            Socket::Udp(socket) => {
                let datagram = [&self.prefix, bytes].concat();
                assert_eq!(socket.send(&datagram).unwrap(), datagram.len());
            }
            Socket::Tcp(socket) => socket.write_all(bytes).unwrap(),
            Socket::Tls(socket) => socket.write_all(bytes).unwrap(),
            #[cfg(feature = "dtls")]
            Socket::Dtls(client) => client.send(bytes),
        }
    }

    /// The next message, with the padding it has on a stream.
    pub(super) fn receive(&mut self) -> Vec<u8> {
        self.try_receive().expect("the connection is open")
    }

    /// The next message, or `None` at the end of the stream.
    pub(super) fn try_receive(&mut self) -> Option<Vec<u8>> {
        let socket: &mut dyn Read = match &mut self.socket {
            Socket::Udp(socket) => return Some(receive(socket).0),
            #[cfg(feature = "dtls")]
            Socket::Dtls(client) => return client.receive(),
            Socket::Tcp(socket) => socket,
            Socket::Tls(socket) => socket,
        };
        loop {
            if let stream::Frame::Complete { len } = stream::next_frame(&self.unread).expect("a framed stream") {
                return Some(self.unread.drain(..len).collect());
            }
            let mut chunk = [0; 65_536];
            match socket.read(&mut chunk) {
                Ok(0) => return None,
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => {
                    return None;
                }
                result => self.unread.extend_from_slice(&chunk[..result.expect("bytes in time")]),
            }
        }
    }

    fn write(&mut self, method: Method, class: Class, own: &[(AttributeType, Vec<u8>)], signed: bool) -> Vec<u8> {
        // Random, as the RFC asks: the kernel may give a client the port of one before it, and the server remembers
        // deletions by path and id for a while.
        let mut id = [0; 12];
        getrandom::fill(&mut id).unwrap();
        let mut buffer = vec![0; 66_000];
        let mut writer = MessageWriter::new(&mut buffer, method, class, TransactionId(id));
        own.iter().for_each(|(kind, value)| match *kind {
            AttributeType::XOR_PEER_ADDRESS => {
                let text = std::str::from_utf8(value).unwrap();
                writer.xor_address(*kind, text.parse().unwrap());
            }
            kind => writer.attribute(kind, value),
        });
        let key = integrity::long_term_key_md5(self.name, self.realm, "password");
        if signed {
            writer.attribute(AttributeType::USERNAME, self.name.as_bytes());
            writer.attribute(AttributeType::REALM, self.realm.as_bytes());
            writer.attribute(AttributeType::NONCE, &self.nonce);
        }
        let len = writer.finish(if signed { Seal::Sha1(&key) } else { Seal::None }, false);
        buffer.truncate(len);
        buffer
    }

    pub(super) fn binding(&mut self) -> Vec<u8> {
        self.write(Method::Binding, Class::Request, &[], false)
    }

    pub(super) fn send_signed(&mut self, method: Method, own: &[(AttributeType, Vec<u8>)]) {
        let request = self.write(method, Class::Request, own, true);
        self.send(&request);
    }

    pub(super) fn send_indication(&mut self, own: &[(AttributeType, Vec<u8>)]) {
        let indication = self.write(Method::Send, Class::Indication, own, false);
        self.send(&indication);
    }

    /// Signs, sends, and takes the next message for the answer.
    pub(super) fn ask(&mut self, method: Method, own: &[(AttributeType, Vec<u8>)]) -> Answer {
        self.send_signed(method, own);
        Answer(self.receive())
    }

    /// What the server says to an Allocate with valid credentials, for a relay of the client's own family.
    pub(super) fn try_allocate(&mut self) -> Answer {
        self.try_allocate_with(&[])
    }

    /// The same with further attributes.
    pub(super) fn try_allocate_with(&mut self, extra: &[(AttributeType, Vec<u8>)]) -> Answer {
        let mut own = vec![(AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])];
        own.extend_from_slice(extra);
        if self.local_address().is_ipv6() && extra.is_empty() {
            own.push((AttributeType::REQUESTED_ADDRESS_FAMILY, vec![2, 0, 0, 0]));
        }
        self.learn_nonce();
        self.ask(Method::Allocate, &own)
    }

    /// Asks for the challenge that comes before everything else.
    pub(super) fn learn_nonce(&mut self) {
        self.be_challenged(Method::Allocate);
    }

    /// Learns the nonce for this connection, and which realm the server says it is.
    pub(super) fn be_challenged(&mut self, method: Method) {
        let request = self.write(method, Class::Request, &[], false);
        self.send(&request);
        let challenge = Answer(self.receive());
        assert_eq!(challenge.error(), 401);
        assert_eq!(challenge.message().first(AttributeType::REALM), Some(self.realm.as_bytes()));
        self.nonce = challenge.message().first(AttributeType::NONCE).expect("a nonce").to_vec();
    }

    /// Signed, for whoever sends it himself.
    pub(super) fn signed(&mut self, method: Method, own: &[(AttributeType, Vec<u8>)]) -> Vec<u8> {
        self.write(method, Class::Request, own, true)
    }

    /// The next bytes, whatever they mean; fewer at the end of the stream.
    pub(super) fn receive_raw(&mut self, len: usize) -> Vec<u8> {
        let socket: &mut dyn Read = match &mut self.socket {
            Socket::Tcp(socket) => socket,
            Socket::Tls(socket) => socket,
            _ => panic!("not a stream client"),
        };
        while self.unread.len() < len {
            let mut chunk = vec![0; (len - self.unread.len()).min(65_536)];
            match socket.read(&mut chunk) {
                Ok(0) => break,
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => break,
                result => self.unread.extend_from_slice(&chunk[..result.expect("bytes in time")]),
            }
        }
        self.unread.drain(..len.min(self.unread.len())).collect()
    }

    /// Says that it will send no more.
    pub(super) fn finish(&mut self) {
        if let Socket::Tls(socket) = &mut self.socket {
            socket.conn.send_close_notify();
            socket.flush().unwrap();
        }
        self.tcp_stream().shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// The relayed transport address.
    #[track_caller]
    pub(super) fn allocate(&mut self) -> SocketAddr {
        let answer = self.try_allocate();
        assert_eq!(answer.error(), 0);
        answer.address(AttributeType::XOR_RELAYED_ADDRESS)
    }

    #[track_caller]
    pub(super) fn bind_channel(&mut self, number: u16, peer: SocketAddr) {
        let own = [
            (AttributeType::CHANNEL_NUMBER, [number.to_be_bytes(), [0, 0]].concat()),
            (AttributeType::XOR_PEER_ADDRESS, peer.to_string().into_bytes()),
        ];
        assert_eq!(self.ask(Method::ChannelBind, &own).error(), 0);
    }

    /// Lets data from this address in, as a Data indication.
    #[track_caller]
    pub(super) fn permit(&mut self, ip: IpAddr) {
        let own = [(AttributeType::XOR_PEER_ADDRESS, SocketAddr::new(ip, 0).to_string().into_bytes())];
        assert_eq!(self.ask(Method::CreatePermission, &own).error(), 0);
    }

    pub(super) fn refresh(&mut self, lifetime_secs: u32) -> Answer {
        self.ask(Method::Refresh, &[(AttributeType::LIFETIME, lifetime_secs.to_be_bytes().into())])
    }

    pub(super) fn send_data(&mut self, channel: u16, data: &[u8]) {
        let message = channel_data(channel, data);
        self.send(&message);
    }

    /// The data of the next message, which must be ChannelData on this channel.
    #[track_caller]
    pub(super) fn receive_data(&mut self, channel: u16) -> Vec<u8> {
        let message = self.receive();
        assert_eq!(message[..2], channel.to_be_bytes());
        let len = usize::from(u16::from_be_bytes([message[2], message[3]]));
        message[4..4 + len].to_vec()
    }
}

/// Padded, which does no harm in a datagram.
pub(super) fn channel_data(channel: u16, data: &[u8]) -> Vec<u8> {
    let mut message = [&channel.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat();
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

pub(super) struct Answer(pub(super) Vec<u8>);

impl Answer {
    pub(super) fn message(&self) -> Message<'_> {
        Message::parse(&self.0).expect("a STUN message")
    }

    /// The error number, 0 for a success.
    pub(super) fn error(&self) -> u16 {
        let message = self.message();
        match message.first(AttributeType::ERROR_CODE) {
            None => {
                assert_eq!(message.class(), Class::Success);
                0
            }
            Some(value) => u16::from(value[2]) * 100 + u16::from(value[3]),
        }
    }

    /// The relayed transport address, if this is a success.
    pub(super) fn relayed(&self) -> Option<SocketAddr> {
        (self.error() == 0).then(|| self.address(AttributeType::XOR_RELAYED_ADDRESS))
    }

    pub(super) fn address(&self, kind: AttributeType) -> SocketAddr {
        let value = self.message().first(kind).expect("the address").to_vec();
        read_xor_address(&value, self.message().transaction_id()).expect("a well-formed address")
    }
}
