//! Just enough of a TURN client over UDP to see whether credentials are good.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hairpin::stun::{
    AttributeType, Class, Message, MessageWriter, Method, Seal, TransactionId, integrity, read_xor_address,
};

pub struct TurnClient {
    link: Link,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    name: String,
    key: [u8; 16],
    relayed: Option<SocketAddr>,
}

enum Link {
    Udp(UdpSocket),
    Stream(Box<dyn Stream>),
}

/// A connection, in the clear or not.
pub trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

impl TurnClient {
    pub fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self::over(Link::Udp(socket))
    }

    #[allow(dead_code, reason = "tests/observe has no use for it")]
    pub fn tcp(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self::over_stream(Box::new(stream))
    }

    /// Over a connection that is there.
    pub fn over_stream(stream: Box<dyn Stream>) -> Self {
        Self::over(Link::Stream(stream))
    }

    fn over(link: Link) -> Self {
        Self { link, realm: Vec::new(), nonce: Vec::new(), name: String::new(), key: [0; 16], relayed: None }
    }

    pub fn binding(&mut self) {
        self.request(Method::Binding, |_| {}).unwrap();
    }

    /// The code of the error, if it is not the first 401.
    pub fn allocate(&mut self, name: &str, password: &str) -> Result<(), u16> {
        self.allocate_for(17, name, password)
    }

    /// A relay that speaks TCP.
    #[allow(dead_code, reason = "tests/observe has no use for it")]
    pub fn allocate_tcp(&mut self, name: &str, password: &str) -> Result<(), u16> {
        self.allocate_for(6, name, password)
    }

    fn allocate_for(&mut self, protocol: u32, name: &str, password: &str) -> Result<(), u16> {
        // In the upper byte.
        let udp = |writer: &mut MessageWriter<'_>| writer.u32(AttributeType::REQUESTED_TRANSPORT, protocol << 24);
        assert_eq!(self.request(Method::Allocate, udp), Err(401));
        self.name = name.to_owned();
        let realm = String::from_utf8(self.realm.clone()).unwrap();
        self.key = integrity::long_term_key_md5(name, &realm, password);
        self.request(Method::Allocate, udp)
    }

    /// Refresh with a lifetime of zero.
    pub fn release(&mut self) {
        self.request(Method::Refresh, |writer| writer.u32(AttributeType::LIFETIME, 0)).unwrap();
    }

    /// Refresh.
    #[allow(dead_code, reason = "tests/observe has no use for it")]
    pub fn refresh(&mut self) -> Result<(), u16> {
        self.request(Method::Refresh, |_| {})
    }

    /// Connect.
    #[allow(dead_code, reason = "tests/observe has no use for it")]
    pub fn connect(&mut self, peer: SocketAddr) -> Result<(), u16> {
        self.request(Method::Connect, |writer| writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer))
    }

    /// How long an answer may take.
    #[allow(dead_code, reason = "tests/backends needs it")]
    pub fn set_patience(&mut self, patience: Duration) {
        self.udp().set_read_timeout(Some(patience)).unwrap();
    }

    #[allow(dead_code, reason = "tests/backends needs it")]
    fn udp(&self) -> &UdpSocket {
        match &self.link {
            Link::Udp(socket) => socket,
            Link::Stream(_) => panic!("not over UDP"),
        }
    }

    /// What the server has said last.
    #[allow(dead_code, reason = "tests/observe has no use for it")]
    pub fn realm(&self) -> &str {
        std::str::from_utf8(&self.realm).unwrap()
    }

    /// The relayed transport address.
    #[allow(dead_code, reason = "tests/backends needs it")]
    pub fn relayed(&self) -> SocketAddr {
        self.relayed.expect("an allocation")
    }

    /// A Send indication.
    #[allow(dead_code, reason = "tests/backends needs it")]
    pub fn send_to(&self, peer: SocketAddr, data: &[u8]) {
        let mut buffer = [0; 1_232];
        let id = TransactionId([1; 12]);
        let mut writer = MessageWriter::new(&mut buffer, Method::Send, Class::Indication, id);
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        writer.attribute(AttributeType::DATA, data);
        let len = writer.finish(Seal::None, false);
        self.udp().send(&buffer[..len]).unwrap();
    }

    /// Waits for a Data indication.
    #[allow(dead_code, reason = "tests/backends needs it")]
    pub fn expect_data(&self) {
        let mut buffer = [0; 1_232];
        let len = self.udp().recv(&mut buffer).expect("a datagram");
        assert_eq!(Message::parse(&buffer[..len]).unwrap().method(), Method::Data);
    }

    /// CreatePermission.
    #[allow(dead_code, reason = "tests/observe needs it")]
    pub fn permit(&mut self, peer: SocketAddr) -> Result<(), u16> {
        self.request(Method::CreatePermission, |writer| writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer))
    }

    /// Binds the lowest channel number.
    pub fn bind_channel(&mut self, peer: SocketAddr) -> Result<(), u16> {
        self.request(Method::ChannelBind, |writer| {
            writer.u32(AttributeType::CHANNEL_NUMBER, 0x4000 << 16);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })
    }

    /// Sends data to a permitted peer that sends it back, and waits for that.
    #[allow(dead_code, reason = "tests/observe has no use for it")]
    pub fn exchange(&mut self, peer: SocketAddr, data: &[u8]) {
        let Link::Udp(socket) = &self.link else { panic!("over UDP only") };
        let mut buffer = [0; 2_048];
        let mut writer = MessageWriter::new(&mut buffer, Method::Send, Class::Indication, TransactionId([7; 12]));
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        writer.attribute(AttributeType::DATA, data);
        let len = writer.finish(Seal::None, false);
        socket.send(&buffer[..len]).unwrap();
        let len = socket.recv(&mut buffer).unwrap();
        let echo = Message::parse(&buffer[..len]).unwrap();
        assert_eq!(echo.first(AttributeType::DATA), Some(data));
    }

    /// Loopback loses nothing, so nothing is sent twice.
    fn request(&mut self, method: Method, fill: impl FnOnce(&mut MessageWriter<'_>)) -> Result<(), u16> {
        // Random, because the kernel may give this client the port of one before it, and the server remembers deletions
        // by path and id for a while.
        let mut id = [0; 12];
        getrandom::fill(&mut id).unwrap();
        let mut buffer = [0; 1_232];
        let mut writer = MessageWriter::new(&mut buffer, method, Class::Request, TransactionId(id));
        fill(&mut writer);
        let seal = if self.name.is_empty() {
            Seal::None
        } else {
            writer.attribute(AttributeType::USERNAME, self.name.as_bytes());
            writer.attribute(AttributeType::REALM, &self.realm);
            writer.attribute(AttributeType::NONCE, &self.nonce);
            Seal::Sha1(&self.key)
        };
        let len = writer.finish(seal, false);
        let len = match &mut self.link {
            Link::Udp(socket) => {
                socket.send(&buffer[..len]).unwrap();
                socket.recv(&mut buffer).unwrap()
            }
            Link::Stream(stream) => {
                stream.write_all(&buffer[..len]).unwrap();
                stream.read_exact(&mut buffer[..20]).unwrap();
                let len = 20 + usize::from(u16::from_be_bytes([buffer[2], buffer[3]]));
                stream.read_exact(&mut buffer[20..len]).unwrap();
                len
            }
        };
        let response = Message::parse(&buffer[..len]).unwrap();
        if response.class() == Class::Success {
            if let Some(value) = response.first(AttributeType::XOR_RELAYED_ADDRESS) {
                self.relayed = read_xor_address(value, response.transaction_id()).ok();
            }
            return Ok(());
        }
        let of = |kind| response.first(kind).unwrap_or_default().to_vec();
        if response.first(AttributeType::NONCE).is_some() {
            (self.realm, self.nonce) = (of(AttributeType::REALM), of(AttributeType::NONCE));
        }
        let code = of(AttributeType::ERROR_CODE);
        Err(u16::from(code[2]) * 100 + u16::from(code[3]))
    }
}
