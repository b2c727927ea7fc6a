//! A certification authority that lives as long as the lab, and the certificates of its servers.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The authority; browsers trust it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A server's certificate and its key.
pub struct Certified {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    /// Makes a new one.
    ///
    /// # Errors
    /// The cryptography library refuses; nothing in the environment can cause it.
    pub fn new() -> Result<Authority> {
        let key = KeyPair::generate().context("cannot make the lab CA's key")?;
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "netlab CA (this lab only)");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = authority.self_signed(&key).context("cannot sign the lab CA")?.pem();
        Ok(Authority { issuer: Issuer::new(authority, key), pem })
    }

    /// Its own certificate as PEM, for the browsers.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Makes a certificate for the server of this name.
    ///
    /// # Errors
    /// As for [`Authority::new`].
    pub fn certify(&self, host: &str) -> Result<Certified> {
        let key = KeyPair::generate().with_context(|| format!("cannot make a key for {host}"))?;
        let mut leaf =
            CertificateParams::new(vec![host.to_owned()]).with_context(|| format!("cannot describe {host}"))?;
        leaf.distinguished_name.push(DnType::CommonName, host);
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate =
            leaf.signed_by(&key, &self.issuer).with_context(|| format!("cannot sign the certificate of {host}"))?;
        Ok(Certified { certificate, key })
    }
}

impl Certified {
    /// The certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// The private key as PEM.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// For a server inside this process that speaks HTTP.
    ///
    /// # Errors
    /// As for [`Authority::new`].
    pub fn https(&self) -> Result<rustls::ServerConfig> {
        let chain: Vec<CertificateDer<'static>> = vec![self.certificate.der().clone()];
        let private: PrivateKeyDer<'static> = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("cannot choose TLS versions")?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .context("cannot use the web server's certificate")?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(server)
    }
}
