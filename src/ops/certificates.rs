//! Watches the certificate's files and shows new clients what is in them; says how long that is good for.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::Gauge;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::config::CertificateFiles;
use crate::shard::Identity;

/// How often the files are looked at. They are read when they have changed, and then stayed the same for one look more:
/// whoever renews writes one after the other.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Before the end from which on every start and every new certificate says so.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What tells one state of the files from another, without reading them: a renewal writes a new file, moves one into
/// place, or turns a symbolic link.
type State = [Option<[i64; 5]>; 2];

/// What is in use, and where it came from.
pub(super) struct Certificates {
    files: watch::Receiver<CertificateFiles>,
    named: Files,
    current: Arc<Identity>,
    expiry: Gauge,
    seen: State,
}

/// Which files are looked at.
#[derive(Clone)]
pub(super) struct Files(watch::Sender<CertificateFiles>);

impl Files {
    /// From now on these.
    pub fn set(&self, files: CertificateFiles) {
        self.0.send_if_modified(|now| std::mem::replace(now, files.clone()) != files);
    }
}

impl Certificates {
    /// `current` is what has been read from the files; `expiry` is kept up to date.
    pub fn new(files: CertificateFiles, current: Arc<Identity>) -> Self {
        let expiry = Gauge::new(
            "hairpin_certificate_expiry_timestamp_seconds",
            "When the certificate that TLS clients get to see expires, in Unix seconds.",
        )
        .expect("a constant name");
        let seen = state(&files);
        let (named, files) = watch::channel(files);
        let certificates = Self { files, named: Files(named), current, expiry, seen };
        certificates.tell();
        certificates
    }

    /// To name other files.
    pub fn files(&self) -> Files {
        self.named.clone()
    }

    /// For the registry.
    pub fn gauge(&self) -> Gauge {
        self.expiry.clone()
    }

    /// Looks at the files until it is dropped, and gives each new identity to `show`.
    pub async fn watch(mut self, show: impl Fn(Arc<Identity>)) {
        let mut before = self.seen;
        loop {
            sleep(LOOK_EVERY).await;
            let now = state(&self.files.borrow());
            if now != self.seen && now == before {
                self.seen = now;
                self.read_again(&show);
            }
            before = now;
        }
    }

    /// A few kilobytes from a disk: not worth a thread.
    fn read_again(&mut self, show: &impl Fn(Arc<Identity>)) {
        let files = self.files.borrow().clone();
        match Identity::read(&files.certificate, &files.key) {
            Ok(new) => {
                let new = Arc::new(new);
                show(Arc::clone(&new));
                let is_same = new.same_certificate(&self.current);
                self.current = new;
                if !is_same {
                    self.tell();
                }
            }
            Err(why) => warn!(
                event = "certificate_not_reloaded",
                certificate = %files.certificate.display(),
                key = %files.key.display(),
                why = %why,
                still_good_until = self.current.expires(),
                "the new certificate is no good, the one before stays in use"
            ),
        }
    }

    fn tell(&self) {
        self.expiry.set(self.current.expires_unix_secs() as f64);
        let names = self.current.dns_names().join(" ");
        info!(event = "certificate_loaded", names, expires = self.current.expires(), "certificate");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let left = self.current.expires_unix_secs().saturating_sub(now);
        if left < EXPIRES_SOON.as_secs() {
            let days = left / (24 * 60 * 60);
            warn!(event = "certificate_expires", expires = self.current.expires(), days, "renew the certificate");
        }
    }
}

fn state(files: &CertificateFiles) -> State {
    // Through symbolic links, which is how certbot names the newest.
    let of = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        let [dev, ino, len] = [metadata.dev(), metadata.ino(), metadata.len()].map(|number| number as i64);
        Some([dev, ino, len, metadata.mtime(), metadata.mtime_nsec()])
    };
    [of(&files.certificate), of(&files.key)]
}
