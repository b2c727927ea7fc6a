//! Whose certificates are believed, and the handshake that needs them.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

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
        let mut roots = RootCertStore::empty();
        // What the system has that cannot be used is no business of this command.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = extra {
            let wrong =
                |why: String| format!("--ca {}: {why}; name a PEM file with certificates in it", path.display());
            let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            let mut found = 0;
            for certificate in CertificateDer::pem_slice_iter(&bytes) {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
                found += 1;
            }
            if found == 0 {
                return Err(wrong("it has no certificate in it".into()));
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider serves the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"stun.turn".to_vec()];
        Ok(Self(Arc::new(config)))
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
