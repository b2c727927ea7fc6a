//! `hairpin serve`, and `hairpin` alone.

use std::path::PathBuf;

use clap::Args;
use tracing::warn;

use super::{CONFIG_VARIABLE, Outcome, banner, this_machine};
use crate::config::{self, TimeLimited};
use crate::ops;

/// Serve until told to stop; what `hairpin` without a command does.
///
/// SIGTERM and SIGINT stop it: no new allocations, a bounded wait for the others to end (shutdown.drain), exit code 0.
/// A second signal ends it at once. SIGHUP makes it read the configuration again; a faulty one changes nothing.
/// Logs go to the standard error output.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration file, in TOML; without it everything has its default.
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let machine = this_machine()?;
    let file = arguments.config.clone();
    let mut config = config::load(file.as_deref(), &machine).map_err(|errors| errors.to_string())?;
    let log_level = ops::install_logging(config.log);
    for note in &config.notes {
        warn!(event = "configuration_note", key = note.key, "{}", note.text);
    }
    let kept = config.secret_is_made_up.then(|| config::keep_secret(&mut config));
    if let Some(Err(why)) = &kept {
        warn!(event = "secret_not_kept", key = "auth.secrets", why, "it ends with this server");
    }
    // With credentials of their own, operators know how to hand them out, and a log is no place for any.
    let facts = kept.map(|kept| banner::Facts {
        secret_file: kept.ok(),
        relays: config.shards.turn.relays.clone(),
        notes: config.notes.clone(),
        credential: credential(&config),
        lifetime_secs: credential_lifetime_secs(&config),
    });
    let ready = |running: &ops::Running<'_>| {
        if let Some(facts) = &facts {
            // Nobody may be there to read it, which is no reason to stop.
            let _ = banner::print(&mut std::io::stdout().lock(), facts, running);
        }
    };
    let load = Box::new(move || {
        let mut config = config::load(file.as_deref(), &machine)?;
        if config.secret_is_made_up
            && let Err(why) = config::keep_secret(&mut config)
        {
            warn!(event = "secret_made_up_again", key = "auth.secrets", why, "the kept one cannot be read");
        }
        Ok(config)
    });
    ops::run(config, log_level, load, ready).map_err(|error| error.to_string())
}

/// Long enough to try things out for a day.
const TRIAL_SECS: u64 = 24 * 60 * 60;

fn credential_lifetime_secs(config: &config::Config) -> u64 {
    TRIAL_SECS.min(config.shards.turn.credentials.ttl_secs_max)
}

fn credential(config: &config::Config) -> TimeLimited {
    let expires_unix_secs = super::credentials::unix_secs() + credential_lifetime_secs(config);
    let credentials = &config.shards.turn.credentials;
    TimeLimited::derive(credentials.time_limited, &credentials.secrets[0], "trial", expires_unix_secs)
}
