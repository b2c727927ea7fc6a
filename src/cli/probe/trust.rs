//! Whose certificates are believed, and the handshake that needs them.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::super::certificates::believing;
use super::client::Failure;

/// A TLS client's settings, shared by the connections of one walk.
#[derive(Clone)]
pub(super) struct Trust(Arc<ClientConfig>);

impl Trust {
    /// This system's certificate authorities, and those of `extra`, a PEM file.
    ///
    /// # Errors
    /// `extra` cannot be read or has no certificate in it, in words.
    pub(super) fn new(extra: Option<&Path>) -> Result<Self, String> {
        Ok(Self(Arc::new(believing(extra)?)))
    }

    /// Shakes hands; says which version was agreed on.
    ///
    /// # Errors
    /// What went wrong, in rustls' words.
    pub(super) fn shake_hands(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<(StreamOwned<ClientConnection, TcpStream>, String), Failure> {
        let garbled = |error: rustls::Error| Failure::Tls(error.to_string());
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Failure::Tls(format!("no certificate can be for `{host}`")))?;
        let session = ClientConnection::new(Arc::clone(&self.0), name).map_err(garbled)?;
        let mut stream = StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| Failure::Tls(error.to_string()))?;
        }
        let version = stream.conn.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
        let version = version.replace("v1_", " 1.");
        Ok((stream, version))
    }
}
