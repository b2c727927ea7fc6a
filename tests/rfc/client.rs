//! A client of the simplest kind: it writes bytes and reads bytes, and can be told to do either wrongly.

use std::net::SocketAddr;

use hairpin::stun::{
    AttributeType, Class, Message, MessageWriter, Method, Seal, TransactionId, integrity, read_u32, read_xor_address,
};

pub type Attributes = Vec<(AttributeType, Vec<u8>)>;

/// How a request is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signing {
    /// RFC 5389: MD5 key, MESSAGE-INTEGRITY, no algorithm attributes.
    Classic,
    /// RFC 8489: PASSWORD-ALGORITHM SHA-256 and MESSAGE-INTEGRITY-SHA256.
    Sha256,
    /// PASSWORD-ALGORITHM MD5 and MESSAGE-INTEGRITY-SHA256.
    Md5WithSha256Mac,
}

/// Somebody with a name, a password and the nonce of the last challenge.
#[derive(Clone, Debug)]
pub struct Client {
    pub username: String,
    pub realm: String,
    pub password: String,
    pub nonce: Vec<u8>,
    pub signing: Signing,
    pub fingerprint: bool,
    /// Makes the transaction ids of several clients differ.
    pub id_tail: u8,
    next_id: u32,
}

impl Client {
    pub fn new(username: &str, password: &str) -> Self {
        Self {
            username: username.into(),
            realm: super::world::REALM.into(),
            password: password.into(),
            nonce: Vec::new(),
            signing: Signing::Classic,
            fingerprint: false,
            id_tail: 11,
            next_id: 0,
        }
    }

    pub fn transaction_id(&mut self) -> TransactionId {
        self.next_id += 1;
        let [a, b, c, d] = self.next_id.to_le_bytes();
        TransactionId([a, 1, 2, 3, 4, 5, 6, b, c, d, 10, self.id_tail])
    }

    pub fn key(&self) -> Vec<u8> {
        match self.signing {
            Signing::Sha256 => integrity::long_term_key_sha256(&self.username, &self.realm, &self.password).into(),
            _ => integrity::long_term_key_md5(&self.username, &self.realm, &self.password).into(),
        }
    }

    /// The attributes a signed request carries besides its own.
    pub fn credentials(&self) -> Attributes {
        let mut all = vec![
            (AttributeType::USERNAME, self.username.clone().into_bytes()),
            (AttributeType::REALM, self.realm.clone().into_bytes()),
            (AttributeType::NONCE, self.nonce.clone()),
        ];
        let chosen = match self.signing {
            Signing::Classic => return all,
            Signing::Sha256 => vec![0, 2, 0, 0],
            Signing::Md5WithSha256Mac => vec![0, 1, 0, 0],
        };
        all.push((AttributeType::PASSWORD_ALGORITHMS, vec![0, 2, 0, 0, 0, 1, 0, 0]));
        all.push((AttributeType::PASSWORD_ALGORITHM, chosen));
        all
    }

    /// A signed request with a new transaction id.
    pub fn signed(&mut self, method: Method, own: Attributes) -> Vec<u8> {
        let id = self.transaction_id();
        let all: Attributes = own.into_iter().chain(self.credentials()).collect();
        self.seal(method, id, &all)
    }

    /// Signs exactly these attributes.
    pub fn seal(&self, method: Method, id: TransactionId, attributes: &Attributes) -> Vec<u8> {
        let key = self.key();
        let seal = match self.signing {
            Signing::Classic => Seal::Sha1(&key),
            _ => Seal::Sha256(&key),
        };
        write(method, Class::Request, id, attributes, seal, self.fingerprint)
    }
}

/// Writes a message of any kind.
pub fn write(
    method: Method,
    class: Class,
    id: TransactionId,
    attributes: &Attributes,
    seal: Seal<'_>,
    fingerprint: bool,
) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let mut writer = MessageWriter::new(&mut buffer, method, class, id);
    for (kind, value) in attributes {
        writer.attribute(*kind, value);
    }
    let len = writer.finish(seal, fingerprint);
    buffer.truncate(len);
    buffer
}

/// An unsigned request.
pub fn bare(method: Method, attributes: Attributes) -> Vec<u8> {
    write(method, Class::Request, TransactionId([9; 12]), &attributes, Seal::None, false)
}

/// An indication.
pub fn indication(method: Method, attributes: Attributes) -> Vec<u8> {
    write(method, Class::Indication, TransactionId([8; 12]), &attributes, Seal::None, false)
}

/// Appends raw attributes behind a finished message and corrects its length.
pub fn append(message: &mut Vec<u8>, attributes: &Attributes) {
    for (kind, value) in attributes {
        message.extend(kind.0.to_be_bytes());
        message.extend((value.len() as u16).to_be_bytes());
        message.extend(value);
        message.resize(message.len().next_multiple_of(4), 0);
    }
    let body = (message.len() - 20) as u16;
    message[2..4].copy_from_slice(&body.to_be_bytes());
}

/// XOR-PEER-ADDRESS for a message with this transaction id.
pub fn peer_for(id: TransactionId, address: &str) -> (AttributeType, Vec<u8>) {
    let mut buffer = [0; 64];
    let mut writer = MessageWriter::new(&mut buffer, Method::Binding, Class::Request, id);
    writer.xor_address(AttributeType::XOR_PEER_ADDRESS, address.parse().expect("an address with port"));
    let len = writer.finish(Seal::None, false);
    (AttributeType::XOR_PEER_ADDRESS, buffer[24..len].to_vec())
}

/// REQUESTED-TRANSPORT TCP.
pub fn tcp() -> (AttributeType, Vec<u8>) {
    (AttributeType::REQUESTED_TRANSPORT, vec![6, 0, 0, 0])
}

/// REQUESTED-TRANSPORT UDP.
pub fn udp() -> (AttributeType, Vec<u8>) {
    (AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])
}

pub fn lifetime(secs: u32) -> (AttributeType, Vec<u8>) {
    (AttributeType::LIFETIME, secs.to_be_bytes().to_vec())
}

pub fn channel(number: u16) -> (AttributeType, Vec<u8>) {
    (AttributeType::CHANNEL_NUMBER, [number.to_be_bytes(), [0, 0]].concat())
}

pub fn data(bytes: &[u8]) -> (AttributeType, Vec<u8>) {
    (AttributeType::DATA, bytes.to_vec())
}

pub fn channel_data(number: u16, bytes: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A received response, with what tests ask of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response(pub Vec<u8>);

impl Response {
    pub fn message(&self) -> Message<'_> {
        Message::parse(&self.0).expect("our own responses parse")
    }

    pub fn first(&self, kind: AttributeType) -> Option<Vec<u8>> {
        self.message().first(kind).map(<[u8]>::to_vec)
    }

    pub fn is_success(&self) -> bool {
        self.message().class() == Class::Success
    }

    /// The error number, 0 for a success.
    pub fn error(&self) -> u16 {
        let Some(value) = self.first(AttributeType::ERROR_CODE) else {
            return 0;
        };
        assert_eq!(self.message().class(), Class::Error);
        u16::from(value[2]) * 100 + u16::from(value[3])
    }

    pub fn lifetime(&self) -> Option<u32> {
        self.first(AttributeType::LIFETIME).map(|value| read_u32(&value).unwrap())
    }

    pub fn address(&self, kind: AttributeType) -> Option<SocketAddr> {
        self.first(kind).map(|value| read_xor_address(&value, self.message().transaction_id()).unwrap())
    }

    pub fn nonce(&self) -> Vec<u8> {
        self.first(AttributeType::NONCE).expect("a nonce")
    }

    /// The 16-bit list of a 420.
    pub fn unknown(&self) -> Vec<u16> {
        let value = self.first(AttributeType::UNKNOWN_ATTRIBUTES).expect("a list of unknown attributes");
        value.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
    }
}
