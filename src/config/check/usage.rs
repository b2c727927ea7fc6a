//! `[usage]`: where usage records go.

use std::path::PathBuf;
use std::time::Duration;

use super::{Checker, DAY, GIB, KIB, MIB, MINUTE, TABLE_MAX};
use crate::config::kept_secret::state_directory;
use crate::config::usage::authorities;
use crate::config::values::Mistake;
use crate::config::{Usage, UsageFile, UsageRedis, UsageWebhook, written};

/// What a live allocation takes in the spool, twice over: a checkpoint has a line for each.
const SPOOL_BYTES_PER_ALLOCATION: u64 = 4 * KIB;

impl Checker<'_> {
    /// `None` if there is nobody to tell.
    pub(super) fn usage(&mut self, written: &written::Usage, allocations: usize) -> Option<Usage> {
        // All keys are checked, whether anything comes of them or not.
        let spool_bytes = self.size("usage.spool_max", &written.spool_max, MIB..=1024 * GIB) as u64;
        let file = self.usage_file(written);
        let webhook = self.usage_webhook(written);
        let redis = self.usage_redis(written);
        let interim = self.duration("usage.interim", &written.interim, 0..=DAY);
        if (1..10).contains(&interim) {
            let wrong = format!("\"{}\" is too often", written.interim);
            self.problem("usage.interim", Mistake::new(wrong, "write \"10s\" or more, or \"0s\" for none"));
        }
        let secs = |secs: u32| Duration::from_secs(secs.into());
        let usage = Usage {
            spool: PathBuf::new(),
            spool_bytes,
            sync: secs(self.duration("usage.sync", &written.sync, 0..=MINUTE)),
            queue: self.count("usage.queue", written.queue, 64..=TABLE_MAX),
            interim: (interim > 0).then(|| secs(interim)),
            client_addresses: written.client_addresses,
            batch: self.count("usage.batch", written.batch, 1..=10_000),
            retry_max: secs(self.duration("usage.retry_max", &written.retry_max, 1..=60 * MINUTE)),
            file,
            webhook,
            redis,
        };
        if usage.file.is_none() && usage.webhook.is_none() && usage.redis.is_none() {
            return None;
        }
        let least = SPOOL_BYTES_PER_ALLOCATION * allocations as u64;
        if spool_bytes < least {
            let wrong = format!("\"{}\" is too little for limits.allocations = {allocations}", written.spool_max);
            let fix = format!("write \"{}MiB\" or more, or fewer allocations", least.div_ceil(MIB));
            self.problem("usage.spool_max", Mistake::new(wrong, fix));
        }
        let spool = match written.spool.as_str() {
            "" => match state_directory(|name| std::env::var_os(name)) {
                Some(directory) => directory.join("usage"),
                None if self.machine.is_another => PathBuf::new(),
                None => {
                    let wrong = "nothing says where records are to be kept until they are delivered";
                    self.problem(
                        "usage.spool",
                        Mistake::new(
                            wrong,
                            "write a directory, like \"/var/lib/hairpin/usage\", or set STATE_DIRECTORY",
                        ),
                    );
                    PathBuf::new()
                }
            },
            path => self.relative(path),
        };
        Some(Usage { spool, ..usage })
    }

    fn usage_file(&mut self, written: &written::Usage) -> Option<UsageFile> {
        let rotate = self.size("usage.file_rotate", &written.file_rotate, 0..=1024 * GIB) as u64;
        let keep = self.count("usage.file_keep", written.file_keep, 1..=10_000);
        let path = (!written.file.is_empty()).then(|| self.relative(&written.file))?;
        Some(UsageFile { path, rotate_bytes: (rotate > 0).then_some(rotate), keep })
    }

    fn usage_webhook(&mut self, written: &written::Usage) -> Option<UsageWebhook> {
        let timeout = self.duration("usage.webhook_timeout", &written.webhook_timeout, 1..=5 * MINUTE);
        let token = self.token("usage.webhook_token", &written.webhook_token, &written.webhook_token_file);
        if written.webhook.is_empty() {
            return None;
        }
        let uri = written.webhook.parse::<axum::http::Uri>().ok();
        let uri = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
        match uri {
            None => self.problem(
                "usage.webhook",
                Mistake::new("this is not the URL of a web server", "write it like \"https://example.org/usage\""),
            ),
            Some(uri) => {
                if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
                    self.problem(
                        "usage.webhook",
                        Mistake::new("a name or password in the URL is not sent", "write usage.webhook_token instead"),
                    );
                }
                let host = uri.host().unwrap_or_default();
                let is_local = host == "localhost" || host.starts_with("127.") || host == "[::1]";
                if uri.scheme_str() == Some("http") && !is_local {
                    let text = "records and the token travel in the clear: write https:// if anybody may listen.";
                    self.note("usage.webhook", text);
                }
            }
        }
        if let Some(token) = &token
            && !token.text().iter().all(u8::is_ascii_graphic)
        {
            let wrong = "the token has characters that cannot be sent in a header";
            self.problem("usage.webhook_token", Mistake::new(wrong, "take letters, digits and punctuation of ASCII"));
        }
        let authorities = (!written.webhook_ca.is_empty()).then(|| authorities(&self.relative(&written.webhook_ca)));
        let authorities = match authorities.transpose() {
            // They lie where the server runs.
            Err(_) if self.machine.is_another => None,
            Err(wrong) => {
                let fix = "name a PEM file with the certificates of authorities, or leave the key out";
                self.problem("usage.webhook_ca", Mistake::new(wrong, fix));
                None
            }
            Ok(authorities) => authorities,
        };
        let timeout = Duration::from_secs(timeout.into());
        Some(UsageWebhook { url: written.webhook.clone(), token, authorities, timeout })
    }

    fn usage_redis(&mut self, written: &written::Usage) -> Option<UsageRedis> {
        let length = self.count("usage.redis_length", written.redis_length, 0..=1_000_000_000);
        let timeout = self.duration("usage.redis_timeout", &written.redis_timeout, 1..=5 * MINUTE);
        if written.redis_stream.is_empty() {
            self.problem("usage.redis_stream", Mistake::new("a stream needs a key", "write \"hairpin:usage\""));
        }
        let url = self.url_or_file("usage.redis", &written.redis, &written.redis_file)?;
        // What it says may have a password in it, and is not repeated.
        #[cfg(feature = "redis")]
        if redis::Client::open(url.as_str()).is_err() {
            let fix = "write it like \"redis://127.0.0.1:6379/0\", \"rediss://:PASSWORD@example.org\" or \
                       \"redis+unix:///run/redis/redis.sock\"";
            self.problem("usage.redis", Mistake::new("this is not the URL of a Redis or Valkey server", fix));
        }
        #[cfg(not(feature = "redis"))]
        self.problem(
            "usage.redis",
            Mistake::new("this hairpin was built without Redis", "build it with --features redis, or take a webhook"),
        );
        Some(UsageRedis {
            url,
            stream: written.redis_stream.clone(),
            length_max: (length > 0).then_some(length),
            timeout: Duration::from_secs(timeout.into()),
        })
    }
}
