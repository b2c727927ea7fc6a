//! What a ClientHello asks for, read before anybody has decided who is to answer it.

use rustls::server::Acceptor;

use super::tls::ALPN_PROTOCOLS;

/// The longest that is looked at. With post-quantum keys and many extensions they come to two or three kilobytes.
pub const CLIENT_HELLO_LEN_MAX: usize = 16 * 1024;

/// The head of a TLS record: type, version, length.
const RECORD_HEAD_LEN: usize = 5;

/// What decides who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The name that the client has connected to (SNI), in lower case; clients that use an address send none.
    pub server_name: Option<String>,
    /// The application protocols it offers (ALPN).
    pub protocols: OfferedProtocols,
}

/// The application protocols in a ClientHello (RFC 7443).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfferedProtocols {
    /// It offers none: STUN and TURN clients, browsers' among them.
    None,
    /// `stun.turn` or `stun.nat-discovery` is among them.
    Stun,
    /// Only others, like `h2`.
    Foreign,
}

/// How far reading has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// There have to be more bytes.
    Incomplete,
    /// It is all there.
    Whole(ClientHello),
    /// This is no ClientHello that anybody here would understand.
    Unreadable,
}

impl ClientHello {
    /// Reads it from the first bytes of a connection.
    pub fn look(bytes: &[u8]) -> Look {
        // Not worth the library's time before the first record is whole; nearly always it is the only one.
        let record = bytes.first_chunk::<RECORD_HEAD_LEN>();
        let needed = record.map(|head| RECORD_HEAD_LEN + usize::from(u16::from_be_bytes([head[3], head[4]])));
        if needed.is_none_or(|needed| bytes.len() < needed.min(CLIENT_HELLO_LEN_MAX)) {
            return Look::Incomplete;
        }
        let mut acceptor = Acceptor::default();
        let mut rest = bytes;
        loop {
            match acceptor.read_tls(&mut rest) {
                Ok(0) => return Look::Incomplete,
                Ok(_) => {}
                Err(_) => return Look::Unreadable,
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let protocols = match hello.alpn() {
                        None => OfferedProtocols::None,
                        Some(mut offered) => match offered.any(|label| ALPN_PROTOCOLS.contains(&label)) {
                            true => OfferedProtocols::Stun,
                            false => OfferedProtocols::Foreign,
                        },
                    };
                    let server_name = hello.server_name().map(str::to_ascii_lowercase);
                    return Look::Whole(Self { server_name, protocols });
                }
                Err(_) => return Look::Unreadable,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn hello(name: &str, protocols: &[&str]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|label| label.as_bytes().to_vec()).collect();
        let name = name.to_owned().try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn name_and_protocols_are_found_wherever_it_is_cut() {
        for (name, protocols, server_name, found) in [
            ("Turn.Example.ORG", &[][..], Some("turn.example.org"), OfferedProtocols::None),
            ("www.example.org", &["h2", "http/1.1"], Some("www.example.org"), OfferedProtocols::Foreign),
            ("www.example.org", &["h2", "stun.turn"], Some("www.example.org"), OfferedProtocols::Stun),
            ("192.0.2.1", &["stun.nat-discovery"], None, OfferedProtocols::Stun),
        ] {
            let bytes = hello(name, protocols);
            let expected = ClientHello { server_name: server_name.map(str::to_owned), protocols: found };
            for end in 0..bytes.len() {
                assert_eq!(ClientHello::look(&bytes[..end]), Look::Incomplete, "cut at {end}");
            }
            assert_eq!(ClientHello::look(&bytes), Look::Whole(expected.clone()));
            // In many records, and with something behind it.
            let in_records: Vec<u8> = bytes[RECORD_HEAD_LEN..]
                .chunks(100)
                .flat_map(|part| [&bytes[..3], &(part.len() as u16).to_be_bytes(), part].concat())
                .collect();
            assert_eq!(ClientHello::look(&in_records[..in_records.len() - 1]), Look::Incomplete);
            assert_eq!(ClientHello::look(&[in_records, vec![7; 9]].concat()), Look::Whole(expected));
        }
    }

    #[test]
    fn anything_else_is_unreadable() {
        let mut broken = hello("www.example.org", &[]);
        broken[RECORD_HEAD_LEN] = 2;
        assert_eq!(ClientHello::look(&broken), Look::Unreadable);
        assert_eq!(ClientHello::look(&[22, 3, 1, 0, 4, 1, 0, 0, 0]), Look::Unreadable);
        assert_eq!(ClientHello::look(&[0xFF; CLIENT_HELLO_LEN_MAX]), Look::Unreadable);
    }
}
