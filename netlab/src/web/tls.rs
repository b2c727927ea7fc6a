//! A certification authority that lives as long as the lab, and the web server's certificate from it.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The authority's certificate, for the browsers, and the server's TLS configuration.
pub struct Identity {
    /// The authority's certificate as PEM.
    pub authority_pem: String,
    /// What the server presents.
    pub server: rustls::ServerConfig,
}

/// Makes a new authority and a certificate for `host`.
///
/// # Errors
/// The cryptography library refuses; nothing in the environment can cause it.
pub fn make_identity(host: &str) -> Result<Identity> {
    let authority_key = KeyPair::generate().context("cannot make the lab CA's key")?;
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "netlab CA (this lab only)");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_certificate = authority.self_signed(&authority_key).context("cannot sign the lab CA")?;
    let issuer = Issuer::new(authority, authority_key);

    let key = KeyPair::generate().context("cannot make the web server's key")?;
    let mut leaf = CertificateParams::new(vec![host.to_owned()]).context("cannot describe the web server")?;
    leaf.distinguished_name.push(DnType::CommonName, host);
    leaf.use_authority_key_identifier_extension = true;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = leaf.signed_by(&key, &issuer).context("cannot sign the web server's certificate")?;

    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let private: PrivateKeyDer<'static> = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("cannot choose TLS versions")?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .context("cannot use the web server's certificate")?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Identity { authority_pem: authority_certificate.pem(), server })
}
