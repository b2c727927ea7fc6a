//! What the operator wrote, and what the server may rely on: two types, and the checks between them.
//!
//! Lives here: reading a TOML file ([`Written`], keys and defaults), checking it against itself and against the machine
//! it runs on ([`Config`], nothing left to doubt), and saying what is wrong in words that name the line, the key and
//! the remedy ([`Errors`]). Also the arithmetic of time-limited credentials, because their secrets live here.
//! May import `stun`, `turn` and `shard`, for the types it fills. Opens no socket that stays open and starts nothing:
//! that is `ops`. Command-line arguments are not here but in `cli`.
//!
//! Reading order: `written.rs` (the keys), `document.rs` (TOML with positions), `check.rs` and `check/` (one file a
//! section), `admin.rs`, `offload.rs`, `token.rs`, `usage.rs`,
//! `values.rs` (how a duration, a size, a prefix is written), `machine.rs`, `error.rs`, `credentials.rs`, `ice_servers.rs`
//! (what a browser is told).

#![forbid(unsafe_code)]

mod admin;
mod check;
mod credentials;
mod document;
mod error;
pub mod ice_servers;
mod kept_secret;
mod key_backend;
mod machine;
mod offload;
mod token;
mod usage;
mod values;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

pub use admin::{Admin, AdminSocket, CredentialsApi, default_admin_socket};
pub use check::check_text;
pub use credentials::{TimeLimited, user_name};
pub use error::{Errors, Note, Position, Problem};
pub use kept_secret::keep_secret;
pub use key_backend::{KeyBackend, KeyBackendKind, KeyRecord, QueryPart};
pub use machine::Machine;
pub use offload::{Offload, OffloadMode};
pub use token::Token;
pub use usage::{Usage, UsageFile, UsageRedis, UsageWebhook};
pub use values::{Prepared, parse_duration_secs};
pub use written::Written;

use crate::shard;

/// The shipped example: every key with its default.
pub const EXAMPLE: &str = include_str!("../../config.example.toml");

/// A configuration that may be relied on: parsed, in bounds, free of contradictions, completed with what was found out
/// about the machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// For the shards and the machines in them.
    pub shards: shard::Settings,
    /// The files of the certificate, if there is one; `shards` has what was in them.
    pub certificate: Option<CertificateFiles>,
    /// How connections are carried that are not for us.
    pub pass_through: PassThrough,
    /// Where metrics, health and the admin API are, and who may use them.
    pub admin: Admin,
    /// Where the keys of more users are kept, if anywhere.
    pub key_backend: Option<KeyBackend>,
    /// Where usage records go, if they go anywhere.
    pub usage: Option<Usage>,
    /// What the kernel is to relay by itself.
    pub offload: Offload,
    /// What to log and how.
    pub log: Log,
    /// How long to wait for allocations to end after a request to stop.
    pub drain: Duration,
    /// What the process gives up once all sockets are open.
    pub confinement: Confinement,
    /// Neither users nor secrets were configured, so that the only secret is a made-up one. [`keep_secret`] makes it
    /// last; without that it is forgotten at the end of this process.
    pub secret_is_made_up: bool,
    /// What is allowed but probably not meant; for a person to read.
    pub notes: Vec<Note>,
    /// What stood in the file, for [`Config::changed_keys`].
    digests: BTreeMap<String, u64>,
}

impl Config {
    /// The keys of the file that are written otherwise in `new`, or in only one of the two. Entries of lists go by the
    /// list's name. What has changed in files that the file names is not known here.
    pub fn changed_keys(&self, new: &Self) -> BTreeSet<String> {
        let differs = |key: &&String| self.digests.get(*key) != new.digests.get(*key);
        let changed = self.digests.keys().chain(new.digests.keys()).filter(differs);
        changed.map(|key| key.split('[').next().unwrap_or(key).to_owned()).collect()
    }
}

/// Where the certificate is read from, at start and when it is renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain.
    pub certificate: std::path::PathBuf,
    /// The private key.
    pub key: std::path::PathBuf,
}

/// How connections are carried to a web server that shares a port with us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassThrough {
    /// Write a PROXY header of version 2 first, with the client's address.
    pub proxy_protocol: bool,
    /// At the same time; more are closed at once.
    pub connections: usize,
    /// For the web server to accept.
    pub connect_timeout: Duration,
    /// Silence in both directions after which a connection is closed.
    pub idle: Duration,
}

/// What to log and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Lines below this level are not written.
    pub level: tracing::Level,
    /// For people or for programs.
    pub format: LogFormat,
}

/// What the process gives up once all sockets are open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// The user to become, which takes a start as root.
    pub user: Option<String>,
    /// The group to become, if it is not the user's.
    pub group: Option<String>,
    /// Have the kernel refuse system calls that a running server does not make.
    pub filter_system_calls: bool,
}

/// For people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of words.
    Text,
    /// One line of `key=value`.
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// Reads and checks a file; without one, the built-in defaults.
///
/// # Errors
/// Everything wrong with the file that could be found at once.
pub fn load(file: Option<&Path>, machine: &Machine) -> Result<Config, Errors> {
    let Some(path) = file else {
        return check_text("", None, machine);
    };
    let bytes = std::fs::read(path).map_err(|error| Errors::unreadable(path, &error))?;
    let text = str::from_utf8(&bytes).map_err(|error| Errors::not_text(path, &bytes, &error))?;
    check_text(text, Some(path), machine)
}
