//! `hairpin credentials`: what a web back end does with the shared secret, for trying things out and for scripts.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::{CONFIG_VARIABLE, Outcome, print, this_machine};
use crate::config::ice_servers::{configuration, host, uris_for};
use crate::config::{self, Machine, TimeLimited, parse_duration_secs, user_name};

/// Print ready `iceServers` with time-limited credentials, as JSON.
///
/// They are made from the first shared secret of the configuration, as a web back end would: the user name is when it
/// expires, a colon, and NAME; the password is base64(HMAC-SHA1(secret, user name)), unless the configuration has
/// another separator or hash. No server is asked, and none has to be told. Works on any machine that has the
/// configuration; without one, for the server of the same user on this machine that runs without one too.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// For whom: whatever tells your users apart in quotas and logs.
    #[arg(long, value_name = "NAME", value_parser = user_name)]
    user: String,

    /// For a user of this realm of the configuration, instead of its auth.realm.
    #[arg(long, value_name = "REALM")]
    realm: Option<String>,

    /// How long they are good for, like 90s, 10m, 1h or 7d.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration_secs)]
    ttl: u64,

    /// The server's configuration file, with the secret.
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,

    /// The name or address under which clients reach the server; otherwise the first address of the configuration
    /// that means anything to others.
    #[arg(long, value_name = "HOST", value_parser = host)]
    host: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let file = arguments.config.as_deref();
    // A file may describe another machine; without one it is about the server that runs, or will, on this one.
    let machine = file.map_or_else(this_machine, |_| Ok(Machine::any()))?;
    let mut config = config::load(file, &machine).map_err(|errors| errors.to_string())?;
    let file = file.map_or("the built-in configuration".to_owned(), |file| file.display().to_string());
    if config.secret_is_made_up {
        config::keep_secret(&mut config).map_err(|why| {
            format!(
                "{file} has no shared secret, and a made-up one cannot be kept: {why}\n    \
                 fix: add one to auth.secrets or auth.secret_files; make it with: openssl rand -hex 32"
            )
        })?;
    }
    let auth = config
        .credentials_for(arguments.realm.as_deref(), &arguments.user)
        .map_err(|what| format!("{what}\n    fix: take the --realm of this --user: see [[realms]] in {file}"))?;
    let secret = auth.secrets.first().ok_or_else(|| {
        format!(
            "{file}: auth.secrets: there is no shared secret to make credentials from\n    \
             fix: add one to auth.secrets or auth.secret_files; make it with: openssl rand -hex 32"
        )
    })?;
    if arguments.ttl > auth.ttl_secs_max {
        return Err(format!(
            "--ttl: the server will refuse credentials that are good for {} s\n    \
             fix: stay within auth.credential_lifetime_max of {file}, {} s, or raise that",
            arguments.ttl, auth.ttl_secs_max
        ));
    }
    let credential = TimeLimited::derive(auth.time_limited, secret, &arguments.user, unix_secs() + arguments.ttl);
    let identity = config.shards.tls.as_ref().map(|tls| &*tls.identity);
    let (realm, host) = (arguments.realm.as_deref(), arguments.host.as_deref());
    let uris = uris_for(&config, realm, host, &config.shards.listen, identity).ok_or_else(|| {
        format!(
            "{file} does not tell under which address clients reach the server\n    \
             fix: give its name, like --host turn.example.org"
        )
    })?;
    let document =
        serde_json::to_string_pretty(&configuration(uris, &credential)).map_err(|error| error.to_string())?;
    print(document)
}

/// Of the wall clock.
pub(super) fn unix_secs() -> u64 {
    // A clock before 1970 makes credentials that have expired, which is what it deserves.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
