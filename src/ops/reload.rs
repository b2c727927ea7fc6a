//! SIGHUP: the configuration is read again, and what can change without a restart changes, all of it or nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{error, info, warn};

use super::certificates::Files;
use super::logging::LogLevel;
use super::run::SharedShards;
use crate::config::{Config, Errors};

/// Keys, and sections with a dot behind, that count only at start: what they make cannot be taken away from clients that
/// use it.
const ONLY_AT_START: [&str; 6] =
    ["threads", "listen.", "sockets.listen_buffer", "tls.handshake_timeout", "admin.listen", "log.format"];

/// Where a configuration comes from; called again for each reload.
pub type Load = Box<dyn Fn() -> Result<Config, Errors>>;

/// What is in force, and whom to tell about what comes next.
pub(super) struct Reload {
    pub(super) load: Load,
    pub(super) current: Config,
    pub(super) shards: SharedShards,
    pub(super) log_level: LogLevel,
    pub(super) files: Option<Files>,
}

impl Reload {
    /// Reads the configuration again. Whatever is wrong with it, the server goes on as before.
    pub(super) fn run(&mut self) {
        let mut new = match (self.load)() {
            Ok(new) => new,
            Err(errors) => {
                error!(event = "reload_failed", problems = %errors, "nothing was changed");
                return;
            }
        };
        for note in &new.notes {
            warn!(key = note.key, "{}", note.text);
        }
        let changed = self.current.changed_keys(&new);
        let (late, now): (BTreeSet<_>, BTreeSet<_>) = changed.into_iter().partition(|key| counts_only_at_start(key));
        self.keep_nonces(&mut new);
        // Files named in the configuration may have changed while it has not: everything is handed on, whatever the keys.
        self.shards.with(|shards| shards.configure(&new.shards));
        self.log_level.set(new.log.level);
        // Without a TLS listener from the start there is nobody to show a certificate.
        if let (Some(files), Some(certificate)) = (&self.files, &new.certificate) {
            files.set(certificate.clone());
        }
        let words = |keys: &BTreeSet<String>| keys.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        info!(event = "reloaded", changed = words(&now), "configuration read again");
        if !late.is_empty() {
            warn!(event = "restart_needed", keys = words(&late), "these count from the next start on");
        }
        self.current = new;
    }

    /// Clients keep the nonces they have: only how long these are good may change.
    fn keep_nonces(&self, new: &mut Config) {
        let old = &self.current.shards.turn.nonces;
        let nonces = &mut Arc::make_mut(&mut new.shards.turn).nonces;
        (nonces.current, nonces.previous) = (old.current, old.previous);
    }
}

fn counts_only_at_start(key: &str) -> bool {
    ONLY_AT_START.iter().any(|entry| if entry.ends_with('.') { key.starts_with(entry) } else { key == *entry })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EXAMPLE;

    /// A key that is renamed must not silently become one that is thought to have been reloaded.
    #[test]
    fn the_keys_of_the_list_exist() {
        let mut section = String::new();
        let mut known = Vec::new();
        for line in EXAMPLE.lines().map(|line| line.trim_start_matches('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = format!("{}.", name.trim_matches(['[', ']']));
                known.push(section.clone());
            } else if let Some((key, _)) = line.split_once(" = ") {
                known.push(format!("{section}{key}"));
            }
        }
        for entry in ONLY_AT_START {
            assert!(known.iter().any(|key| key == entry), "{entry} is no key: {known:?}");
        }
        assert!(counts_only_at_start("listen.udp") && !counts_only_at_start("auth.secrets"));
    }
}
