//! Just enough of a TURN client over UDP to get into trouble.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use hairpin::stun::{
    AttributeType, Class, Message, MessageWriter, Method, Seal, TransactionId, integrity, read_xor_address,
};

pub struct Client {
    socket: UdpSocket,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    name: String,
    key: [u8; 16],
}

impl Client {
    pub fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { socket, realm: Vec::new(), nonce: Vec::new(), name: String::new(), key: [0; 16] }
    }

    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    pub fn nonce(&self) -> String {
        String::from_utf8(self.nonce.clone()).unwrap()
    }

    /// The relayed address, or the code of the error, if it is not the first 401.
    pub fn allocate(&mut self, name: &str, password: &str) -> Result<SocketAddr, u16> {
        // UDP, in the upper byte.
        let udp = |writer: &mut MessageWriter<'_>| writer.u32(AttributeType::REQUESTED_TRANSPORT, 17 << 24);
        if self.nonce.is_empty() {
            assert_eq!(self.request(Method::Allocate, udp), Err(401));
        }
        self.name = name.to_owned();
        let realm = String::from_utf8(self.realm.clone()).unwrap();
        self.key = integrity::long_term_key_md5(name, &realm, password);
        self.request(Method::Allocate, udp).map(|relayed| relayed.expect("a relayed address"))
    }

    /// Refresh with a lifetime of zero.
    pub fn release(&mut self) {
        self.request(Method::Refresh, |writer| writer.u32(AttributeType::LIFETIME, 0)).unwrap();
    }

    /// CreatePermission.
    pub fn permit(&mut self, peer: SocketAddr) -> Result<(), u16> {
        let peer = |writer: &mut MessageWriter<'_>| writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        self.request(Method::CreatePermission, peer).map(drop)
    }

    pub fn send_indication(&self, peer: SocketAddr, data: &[u8]) {
        let mut buffer = [0; 1_232];
        let mut writer = MessageWriter::new(&mut buffer, Method::Send, Class::Indication, TransactionId([7; 12]));
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        writer.attribute(AttributeType::DATA, data);
        let len = writer.finish(Seal::None, false);
        self.socket.send(&buffer[..len]).unwrap();
    }

    /// Loopback loses nothing, so nothing is sent twice.
    fn request(
        &mut self,
        method: Method,
        fill: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Result<Option<SocketAddr>, u16> {
        // Random, because the kernel may give this client the port of one before it.
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
        self.socket.send(&buffer[..len]).unwrap();
        let len = self.socket.recv(&mut buffer).unwrap();
        let response = Message::parse(&buffer[..len]).unwrap();
        if response.class() == Class::Success {
            let relayed = response.first(AttributeType::XOR_RELAYED_ADDRESS);
            return Ok(relayed.map(|value| read_xor_address(value, TransactionId(id)).unwrap()));
        }
        let of = |kind| response.first(kind).unwrap_or_default().to_vec();
        if response.first(AttributeType::NONCE).is_some() {
            (self.realm, self.nonce) = (of(AttributeType::REALM), of(AttributeType::NONCE));
        }
        let code = of(AttributeType::ERROR_CODE);
        Err(u16::from(code[2]) * 100 + u16::from(code[3]))
    }
}
