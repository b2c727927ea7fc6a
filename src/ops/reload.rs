//! SIGHUP, or an order: the configuration is read again, and what can change without a restart changes, all of it or nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::certificates::Files;
use super::keys::Keys;
use super::logging::LogLevel;
use super::metrics::Control;
use super::offload::Offload;
use super::run::SharedShards;
use crate::config::{Config, Errors, Note};

/// Keys, and sections with a dot behind, that count only at start: what they make cannot be taken away from clients that
/// use it.
const ONLY_AT_START: [&str; 17] = [
    "threads",
    "listen.",
    "nat_discovery.",
    "proxy_protocol.",
    "pass_through.",
    "limits.dtls_handshakes",
    "sockets.listen_buffer",
    "offload.interfaces",
    "offload.flows",
    "offload.pin",
    "tls.handshake_timeout",
    "admin.listen",
    "admin.socket",
    "admin.credentials_listen",
    "usage.",
    "log.format",
    "process.",
];

/// Where a configuration comes from; called again for each reload.
pub type Load = Box<dyn Fn() -> Result<Config, Errors>>;

/// What is in force, and whom to tell about what comes next.
pub(super) struct Reload {
    pub(super) load: Load,
    pub(super) current: Config,
    pub(super) shards: SharedShards,
    pub(super) log_level: LogLevel,
    pub(super) files: Option<Files>,
    pub(super) control: Control,
    /// Whoever else wants to know what is in force.
    pub(super) in_force: watch::Sender<Arc<Config>>,
    pub(super) keys: Keys,
    pub(super) offload: Offload,
}

/// What a reload has brought.
#[derive(Debug)]
pub(super) struct Reloaded {
    /// Keys that count from now on.
    pub(super) changed: BTreeSet<String>,
    /// Keys that count from the next start on.
    pub(super) needs_restart: BTreeSet<String>,
    pub(super) notes: Vec<Note>,
}

impl Reload {
    /// Reads the configuration again. Whatever is wrong with it, the server goes on as before.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn run(&mut self) -> Result<Reloaded, Errors> {
        let mut new = match (self.load)() {
            Ok(new) => new,
            Err(errors) => {
                self.control.reload_failed();
                error!(event = "reload_failed", problems = %errors, "nothing was changed");
                return Err(errors);
            }
        };
        for note in &new.notes {
            warn!(event = "configuration_note", key = note.key, "{}", note.text);
        }
        let changed = self.current.changed_keys(&new);
        let needs_restart = |key: &String| {
            counts_only_at_start(key) || (key == "offload.mode" && self.offload.needs_restart(new.offload.mode))
        };
        let (late, now): (BTreeSet<_>, BTreeSet<_>) = changed.into_iter().partition(needs_restart);
        keep_keys(&self.current, &mut new);
        // Nobody may be told of an address at which nobody listens.
        let discovery = self.current.shards.turn.behavior_discovery.clone();
        Arc::make_mut(&mut new.shards.turn).behavior_discovery = discovery;
        // Files named in the configuration may have changed while it has not: everything is handed on, whatever the keys.
        self.keys.set(new.key_backend.as_ref());
        self.shards.with(|shards| shards.configure(&new.shards));
        self.offload.switch(&new, &self.shards);
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
        self.control.reloaded(&new);
        let notes = new.notes.clone();
        self.in_force.send_replace(Arc::new(new.clone()));
        self.current = new;
        Ok(Reloaded { changed: now, needs_restart: late, notes })
    }
}

/// Clients keep their sessions' names, the mobility tickets they have, and the nonces: new keys come only from another
/// `auth.nonce_secret`, and then the old ones are good for as long as a nonce is.
fn keep_keys(current: &Config, new: &mut Config) {
    let old = &current.shards.turn.nonces;
    let turn = Arc::make_mut(&mut new.shards.turn);
    turn.session_key = current.shards.turn.session_key;
    if let (Some(old), Some(new)) = (&current.shards.turn.mobility, &mut turn.mobility) {
        *new = old.clone();
    }
    let nonces = &mut turn.nonces;
    if turn.redirect.shares_nonces && nonces.current != old.current {
        nonces.previous = Some(old.current);
    } else {
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

    /// STUN-8489-10-07: a new secret is taken up, with the old one beside it; without one, keys stay as they are.
    #[test]
    fn stun_8489_10_07_nonces_outlive_a_reload() {
        let load = |secret: &str| {
            let text = format!("[auth]\nsecrets = [\"0123456789abcdef\"]\nnonce_secret = \"{secret}\"");
            crate::config::check_text(&text, None, &crate::config::Machine::any()).unwrap()
        };
        let (mut first, second, none) = (load("0123456789abcdef"), load("fedcba9876543210"), load(""));
        let keys = |config: &Config| (config.shards.turn.nonces.current, config.shards.turn.nonces.previous);
        let mut new = second.clone();
        keep_keys(&first, &mut new);
        assert_eq!(keys(&new), (keys(&second).0, Some(keys(&first).0)));
        // Twice the same file: both are good still.
        let mut again = second.clone();
        keep_keys(&new, &mut again);
        assert_eq!(keys(&again), keys(&new));
        let before = keys(&none);
        keep_keys(&none, &mut first);
        assert_eq!(keys(&first).1, Some(before.0));
        let mut other = load("");
        keep_keys(&none, &mut other);
        assert_eq!(keys(&other), before);
    }

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
