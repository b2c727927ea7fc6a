//! `[tls]`: the certificate that TLS listeners show.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::auth::others_may_read;
use super::{Checker, MINUTE, TABLE_MAX};
use crate::config::CertificateFiles;
use crate::config::values::Mistake;
use crate::config::written;
use crate::shard::{self, Identity, IdentityFile, ListenAddress};
use crate::turn::{Realm, RealmChoice, ServerName, Transport};

impl Checker<'_> {
    /// What the shards need, and the files to watch.
    pub(super) fn tls(
        &mut self,
        written: &written::Tls,
        limits: &written::Limits,
        listen: &[ListenAddress],
    ) -> (Option<shard::Tls>, Option<CertificateFiles>) {
        let timeout = self.duration("tls.handshake_timeout", &written.handshake_timeout, 1..=MINUTE);
        let dtls_handshakes = self.count("limits.dtls_handshakes", limits.dtls_handshakes, 1..=TABLE_MAX);
        let wanted_by = listen.iter().find(|entry| entry.speaks_tls() || entry.speaks_dtls());
        let is_wanted = wanted_by.is_some();
        let missing = match (written.certificate.is_empty(), written.key.is_empty()) {
            (false, false) => None,
            (true, true) if !is_wanted => return (None, None),
            (true, _) => Some("tls.certificate"),
            (_, true) => Some("tls.key"),
        };
        if let Some(key) = missing {
            // The listeners are why it is missed, or else the other file.
            let at = match wanted_by.map(|entry| entry.transport) {
                Some(Transport::Udp) => "listen.udp",
                Some(Transport::Tcp) => "listen.tcp",
                Some(Transport::Tls) => "listen.tls",
                Some(Transport::Dtls) => "listen.dtls",
                None => key,
            };
            let wrong = match key {
                "tls.key" => "there is a certificate but no private key for it",
                _ if is_wanted => "TLS clients want to see a certificate, and there is none",
                _ => "there is a private key but no certificate for it",
            };
            let fix = "write both into [tls], like certificate = \"fullchain.pem\" and key = \"privkey.pem\"";
            self.problem(at, Mistake::new(wrong, fix));
            return (None, None);
        }
        if !is_wanted {
            self.note(
                "tls.certificate",
                "nothing listens for TLS: write listen.tls = [\"0.0.0.0:5349\", \"[::]:5349\"], or remove [tls].",
            );
        }
        let files =
            CertificateFiles { certificate: self.relative(&written.certificate), key: self.relative(&written.key) };
        if others_may_read(&files.key) {
            let text = format!("every user of this machine can read {}: chmod o= it.", files.key.display());
            self.note("tls.key", text);
        }
        let identity = match Identity::read(&files.certificate, &files.key) {
            Ok(identity) => identity,
            // They lie where the server runs.
            Err(_) if self.machine.is_another => return (None, None),
            Err(error) => {
                let (key, path) = match error.file {
                    IdentityFile::Certificate => ("tls.certificate", &files.certificate),
                    IdentityFile::Key => ("tls.key", &files.key),
                };
                // Errors about the content do not say whose it is.
                let path = path.display().to_string();
                let wrong = if error.wrong.contains(&path) { error.wrong } else { format!("{path}: {}", error.wrong) };
                self.problem(key, Mistake::new(wrong, error.fix));
                return (None, None);
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if identity.expires_unix_secs() < now {
            let text = format!(
                "the certificate has expired on {}: clients will refuse it. It is read again when the file changes.",
                identity.expires()
            );
            self.note("tls.certificate", text);
        }
        let tls = shard::Tls {
            identity: Arc::new(identity),
            handshake_timeout: Duration::from_secs(timeout.into()),
            dtls_handshakes,
        };
        (Some(tls), Some(files))
    }

    /// Clients of a realm hold the certificate to the name that brought them there.
    pub(super) fn realms_fit_certificate(&mut self, realms: &[Realm], identity: &Identity) {
        for realm in realms {
            let RealmChoice::Place { server_names, .. } = &realm.chosen_by else { continue };
            let is_missing = |name: &&ServerName| !identity.dns_names().iter().any(|own| name.is_certified_by(own));
            let missing: Vec<String> = server_names.iter().filter(is_missing).map(ToString::to_string).collect();
            if !missing.is_empty() {
                let text = format!(
                    "the certificate is not for {}, which clients of the realm {} ask for and will refuse it over: add \
                     the names to the certificate.",
                    missing.join(", "),
                    realm.name
                );
                self.note("realms", text);
            }
        }
    }

    /// Relative to the file that names it, wherever the server was started.
    pub(super) fn relative(&self, path: &str) -> PathBuf {
        self.file.and_then(Path::parent).map_or_else(|| PathBuf::from(path), |at| at.join(path))
    }
}
