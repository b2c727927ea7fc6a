//! What may be relied on about usage records.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::Token;

/// Where usage records go, and what lies on the way.
#[derive(Clone, Debug)]
pub struct Usage {
    /// The directory of the spool, which is this server's alone.
    pub spool: PathBuf,
    /// Bytes in it, at most.
    pub spool_bytes: u64,
    /// The longest that a written record may wait for the disk. Zero: none waits.
    pub sync: Duration,
    /// What may wait between the shards and the spool.
    pub queue: usize,
    /// Between two interim records of an allocation, if there are any.
    pub interim: Option<Duration>,
    /// Whether records have the client's address.
    pub client_addresses: bool,
    /// Records in one delivery, at most.
    pub batch: usize,
    /// The longest pause between two attempts to deliver.
    pub retry_max: Duration,
    /// A file.
    pub file: Option<UsageFile>,
    /// A web server.
    pub webhook: Option<UsageWebhook>,
    /// A stream of Redis or Valkey.
    pub redis: Option<UsageRedis>,
}

/// Records as lines of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageFile {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes after which it is put aside; `None` leaves that to others.
    pub rotate_bytes: Option<u64>,
    /// How many files put aside are kept.
    pub keep: usize,
}

/// Records as JSON arrays that are posted.
#[derive(Clone, Debug)]
pub struct UsageWebhook {
    /// Where to.
    pub url: String,
    /// Shown to the web server.
    pub token: Option<Token>,
    /// The authorities to trust instead of the system's.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// The longest a request may take.
    pub timeout: Duration,
}

/// Records as entries of a stream.
#[derive(Clone)]
pub struct UsageRedis {
    /// Where the data base is, with its password if it has one.
    pub url: String,
    /// The key of the stream.
    pub stream: String,
    /// About how many entries it keeps; `None` keeps all.
    pub length_max: Option<usize>,
    /// The longest that connecting or a command may take.
    pub timeout: Duration,
}

/// Without the URL, which may have a password in it.
impl std::fmt::Debug for UsageRedis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UsageRedis").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// The certificates in a PEM file.
///
/// # Errors
/// One sentence: the file cannot be read, or has none.
pub(super) fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let name = path.display();
    let found = CertificateDer::pem_file_iter(path).map_err(|error| format!("{name} cannot be read: {error}"))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| format!("{name} is not PEM: {error}"))?;
    if found.is_empty() { Err(format!("{name} has no certificate")) } else { Ok(found) }
}
