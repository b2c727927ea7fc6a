//! The certificate a server shows, and the key that proves it: read from PEM files, checked against each other.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CipherSuite, InconsistentKeys, ServerConfig, version};

use super::tls::ALPN_PROTOCOLS;

/// Chains and keys are a few kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the server likes best: strong enough for everybody, and the least work.
const AES_128_SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

/// A certificate chain with its private key, ready to serve.
pub struct Identity {
    pub(super) config: Arc<ServerConfig>,
    /// For clients that like AES less than ChaCha20.
    pub(super) without_aes: Arc<ServerConfig>,
    #[cfg(feature = "dtls")]
    pub(super) dtls: super::dtls::Context,
    leaf: CertificateDer<'static>,
    dns_names: Vec<String>,
    expiry: Expiry,
}

/// The last second of a certificate's validity.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expiry {
    unix_secs: u64,
    /// For people.
    text: String,
}

/// One of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityFile {
    /// The chain.
    Certificate,
    /// The private key.
    Key,
}

/// Why there is no identity: which file, what is wrong with it, and what to do. Never has a part of the key in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityError {
    /// Which file to look at.
    pub file: IdentityFile,
    /// What is wrong, as a statement.
    pub wrong: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.wrong, self.fix)
    }
}

impl std::error::Error for IdentityError {}

const CERTIFICATE_FIX: &str = "name a PEM file with the server's certificate first and the intermediate ones behind it, \
                               like fullchain.pem of Let's Encrypt";
const KEY_FIX: &str = "name a PEM file with the private key of the certificate, without a passphrase, like privkey.pem \
                       of Let's Encrypt";

impl Identity {
    /// Reads both files.
    ///
    /// # Errors
    /// One cannot be read, is not what it should be, or the two do not belong together.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let read = |file, path: &Path, fix: &str| {
            read_file(path).map_err(|error| IdentityError {
                file,
                wrong: format!("{} cannot be read: {error}", path.display()),
                fix: match error.kind() {
                    io::ErrorKind::PermissionDenied => "let the user that runs hairpin read the file".into(),
                    _ => fix.into(),
                },
            })
        };
        Self::from_pem(
            &read(IdentityFile::Certificate, certificate, CERTIFICATE_FIX)?,
            &read(IdentityFile::Key, key, KEY_FIX)?,
        )
    }

    /// The same from what is in the files.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let bad_certificate =
            |wrong: String| IdentityError { file: IdentityFile::Certificate, wrong, fix: CERTIFICATE_FIX.into() };
        let bad_key = |wrong: String, fix: &str| IdentityError { file: IdentityFile::Key, wrong, fix: fix.into() };

        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| bad_certificate(format!("this is not PEM: {error}")))?;
        let leaf = chain.first().ok_or_else(|| bad_certificate("there is no certificate in this file".into()))?.clone();
        let not_x509 = || bad_certificate("the first certificate in this file is not a server's".into());
        let parsed = webpki::EndEntityCert::try_from(&leaf).map_err(|_| not_x509())?;
        let dns_names = parsed.valid_dns_names().map(str::to_owned).collect();
        let expiry = expiry(&leaf).ok_or_else(not_x509)?;

        #[cfg(feature = "dtls")]
        let key_pem = key;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
            let is_encrypted = key.windows(9).any(|word| word == b"ENCRYPTED");
            match is_encrypted {
                true => bad_key(
                    "the private key is encrypted, and there is nobody to ask for the passphrase".into(),
                    "decrypt it with: openssl pkey -in OLD -out NEW, and let only the user that runs hairpin read it",
                ),
                false => bad_key("there is no private key in this file".into(), KEY_FIX),
            }
        })?;
        let mut provider = aws_lc_rs::default_provider();
        // SHA-384, which comes with AES-256, was a tenth of a client's set-up.
        provider.cipher_suites.sort_by_key(|suite| !AES_128_SUITES.contains(&suite.suite()));
        let provider = Arc::new(provider);
        let key = provider.key_provider.load_private_key(key).map_err(|_| {
            bad_key(
                "the private key is of a kind that is not supported".into(),
                "use ECDSA with P-256, P-384 or P-521, Ed25519, or RSA with 2048 to 8192 bits",
            )
        })?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(_) => {
                return Err(bad_key(
                    "the private key does not belong to the certificate".into(),
                    "name the key that the certificate was issued for, and the server's certificate as the first one",
                ));
            }
        }
        // STUN-8489-6.2.3-01, -02, requirement A22: TLS 1.3, and 1.2 with ephemeral elliptic curves and AEAD only; there
        // is no compression and nothing older in this library.
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .expect("the provider has suites for both")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = ALPN_PROTOCOLS.map(Vec::from).into();
        // A client connects once and stays: tickets would be bytes and memory for nobody, and a resumed session would
        // outlive the certificate it began with.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let without_aes = config.clone();
        config.ignore_client_order = true;
        #[cfg(feature = "dtls")]
        let dtls = super::dtls::context(certificate, key_pem)
            .map_err(|why| bad_key(format!("OpenSSL does not take certificate and key: {why}"), KEY_FIX))?;
        Ok(Self {
            config: Arc::new(config),
            without_aes: Arc::new(without_aes),
            #[cfg(feature = "dtls")]
            dtls,
            leaf,
            dns_names,
            expiry,
        })
    }

    /// When the certificate expires.
    pub fn expires_unix_secs(&self) -> u64 {
        self.expiry.unix_secs
    }

    /// The same for people, like `2027-01-31 23:59:59 UTC`.
    pub fn expires(&self) -> &str {
        &self.expiry.text
    }

    /// The names in the certificate, wildcards included.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// Whether a client that connects to this name or address will accept the certificate for it.
    pub fn is_for(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else {
            return false;
        };
        ParsedCertificate::try_from(&self.leaf)
            .is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, &name).is_ok())
    }

    /// Whether both show the same certificate.
    pub fn same_certificate(&self, other: &Self) -> bool {
        self.leaf == other.leaf
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}, until {})", self.dns_names.join(" "), self.expiry.text)
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path)?;
    // A device or pipe could be read without end.
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read(path)
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// `notAfter` of RFC 5280 §4.1: a few steps into the certificate, which the library does not show.
fn expiry(certificate: &[u8]) -> Option<Expiry> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if let Some((_, after)) = element(fields, VERSION) {
        fields = after;
    }
    // serialNumber, signature, issuer.
    for _ in 0..3 {
        (_, _, fields) = any_element(fields)?;
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    let (_, _, not_after) = any_element(validity)?;
    let (tag, digits, _) = any_element(not_after)?;
    let digits = str::from_utf8(digits).ok()?.strip_suffix('Z').filter(|digits| digits.is_ascii())?;
    let digits = match tag {
        // RFC 5280 §4.1.2.5.1: years of two digits are 1950 to 2049.
        UTC_TIME if digits.len() == 12 => format!("{}{digits}", if digits < "5" { "20" } else { "19" }),
        GENERALIZED_TIME if digits.len() == 14 => digits.to_owned(),
        _ => return None,
    };
    let number = |range: std::ops::Range<usize>| digits[range].parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let (hour, minute, second) = (number(8..10)?, number(10..12)?, number(12..14)?);
    let days = days_since_1970(year, month, day)?;
    Some(Expiry {
        unix_secs: ((days * 24 + hour) * 60 + minute) * 60 + second,
        text: format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC"),
    })
}

/// Days in the Gregorian calendar, from 1970 on.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let leap_days_before = |year: u64| year / 4 - year / 100 + year / 400;
    let is_leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let lengths = [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let months: u64 = lengths[..month as usize - 1].iter().sum();
    Some((year - 1970) * 365 + leap_days_before(year - 1) - leap_days_before(1969) + months + day - 1)
}

/// Content of the next DER element if it has this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    any_element(bytes).and_then(|(found, content, after)| (found == tag).then_some((content, after)))
}

fn any_element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk()?;
    let (len, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x84 => {
            let (len, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (len.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(len)?;
    Some((tag, content, after))
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A certificate for these names and its key, both PEM, good for one day from now.
    pub(crate) fn make(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn identity(pem: &(String, String)) -> Result<Identity, IdentityError> {
        Identity::from_pem(pem.0.as_bytes(), pem.1.as_bytes())
    }

    #[test]
    fn names_and_end_are_read() {
        for (year, text, unix_secs) in [
            (2031, "2031-03-01 00:00:00 UTC", 1_930_089_600),
            (2049, "2049-03-01 00:00:00 UTC", 2_498_169_600),
            (2100, "2100-03-01 00:00:00 UTC", 4_107_542_400),
        ] {
            let pem = make(&["turn.example.org", "*.example.net", "192.0.2.7"], |params| {
                params.not_after = rcgen::date_time_ymd(year, 3, 1);
            });
            let identity = identity(&pem).unwrap();
            assert_eq!((identity.expires(), identity.expires_unix_secs()), (text, unix_secs));
            assert_eq!(identity.dns_names(), ["turn.example.org", "*.example.net"]);
            for (host, is_for) in [
                ("turn.example.org", true),
                ("TURN.example.org", true),
                ("a.example.net", true),
                ("a.b.example.net", false),
                ("192.0.2.7", true),
                ("192.0.2.8", false),
                ("::1", false),
                ("not a name", false),
            ] {
                assert_eq!(identity.is_for(host), is_for, "{host}");
            }
        }
    }

    #[test]
    fn what_is_wrong_names_the_file_and_the_remedy() {
        let good = make(&["turn.example.org"], |_| {});
        let other = make(&["turn.example.org"], |_| {});
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGb\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (certificate, key, file, wrong) in [
            ("", good.1.as_str(), IdentityFile::Certificate, "no certificate"),
            (good.1.as_str(), good.1.as_str(), IdentityFile::Certificate, "no certificate"),
            (garbage, good.1.as_str(), IdentityFile::Certificate, "not a server's"),
            (good.0.as_str(), "", IdentityFile::Key, "no private key"),
            (good.0.as_str(), good.0.as_str(), IdentityFile::Key, "no private key"),
            (good.0.as_str(), encrypted, IdentityFile::Key, "encrypted"),
            (good.0.as_str(), other.1.as_str(), IdentityFile::Key, "does not belong"),
        ] {
            let error = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap_err();
            assert!(error.file == file && error.wrong.contains(wrong) && !error.fix.is_empty(), "{error}");
        }
        assert!(identity(&good).unwrap().same_certificate(&identity(&good).unwrap()));
        assert!(!identity(&good).unwrap().same_certificate(&identity(&other).unwrap()));
    }

    #[test]
    fn damaged_certificates_are_refused_and_nothing_else() {
        let pem = make(&["turn.example.org"], |_| {});
        let der = CertificateDer::from_pem_slice(pem.0.as_bytes()).unwrap();
        for len in 0..der.len() {
            assert_eq!(expiry(&der[..len]), None, "cut at {len}");
        }
        for at in 0..der.len() {
            for value in [0, 0x80, 0xFF] {
                let mut damaged = der.to_vec();
                damaged[at] = value;
                let _ = expiry(&damaged);
            }
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let pem = make(&["turn.example.org"], |_| {});
        let shown = format!("{:?}", identity(&pem).unwrap());
        assert!(shown.starts_with("Identity(turn.example.org, until "), "{shown}");
    }
}
