//! `[auth.backend]`: users whose keys are kept elsewhere.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::config::check::{Checker, DAY, HOUR, TABLE_MAX};
use crate::config::key_backend::{KeyBackend, KeyBackendKind, QueryPart};
use crate::config::values::Mistake;
use crate::config::written;
use crate::turn::KeyLookUps;

const SQL: &str = "SELECT password, key_md5, key_sha256 FROM turn_users WHERE realm = {realm} AND name = {name}";
const REDIS_KEY: &str = "turn:user:{realm}:{name}";

const SCHEMES: [(&str, KeyBackendKind, bool); 9] = [
    ("sqlite:", KeyBackendKind::Sqlite, cfg!(feature = "sqlite")),
    ("postgres:", KeyBackendKind::Postgres, cfg!(feature = "postgres")),
    ("postgresql:", KeyBackendKind::Postgres, cfg!(feature = "postgres")),
    ("mysql:", KeyBackendKind::Mysql, cfg!(feature = "mysql")),
    ("redis:", KeyBackendKind::Redis, cfg!(feature = "redis")),
    ("rediss:", KeyBackendKind::Redis, cfg!(feature = "redis")),
    ("redis+unix:", KeyBackendKind::Redis, cfg!(feature = "redis")),
    ("http:", KeyBackendKind::Http, true),
    ("https:", KeyBackendKind::Http, true),
];

impl Checker<'_> {
    /// `None` without a URL.
    fn key_backend(&mut self, written: &written::Auth) -> Option<KeyBackend> {
        let backend = &written.backend;
        let timeout = self.duration("auth.backend.timeout", &backend.timeout, 1..=30);
        let concurrent = self.count("auth.backend.concurrent", backend.concurrent, 1..=1_024);
        let url = self.url_or_file("auth.backend.url", &backend.url, &backend.url_file)?;
        let fix = "write sqlite:PATH, postgres://…, mysql://…, redis://… or https://…";
        let Some((scheme, kind, is_built)) = SCHEMES.into_iter().find(|(scheme, ..)| url.starts_with(scheme)) else {
            // There may be a password in it: not repeated.
            self.problem("auth.backend.url", Mistake::new("this is no URL of a back end", fix));
            return None;
        };
        if !is_built {
            let wrong = format!("this hairpin was built without {scheme}");
            self.problem("auth.backend.url", Mistake::new(wrong, "take another build, or another back end"));
        }
        let url = match kind {
            KeyBackendKind::Sqlite => {
                let path = url["sqlite:".len()..].trim_start_matches("//");
                format!("sqlite:{}", self.relative(path).display())
            }
            _ => url,
        };
        let authorization = backend.authorization.clone();
        if !authorization.is_empty() && kind != KeyBackendKind::Http {
            let wrong = "only a web server is shown an Authorization header";
            self.problem("auth.backend.authorization", Mistake::new(wrong, "remove it"));
        }
        if authorization.chars().any(|character| !character.is_ascii_graphic() && character != ' ') {
            let fix = "write a line like \"Bearer TOKEN\"";
            self.problem("auth.backend.authorization", Mistake::new("this cannot be a header", fix));
        }
        let query = self.backend_query(backend, kind);
        let saslprep = written.saslprep;
        let timeout = Duration::from_secs(timeout.into());
        Some(KeyBackend { kind, url, query, authorization, timeout, concurrent, saslprep })
    }

    /// A URL that may have a password in it, from the key of this name or from the file that the key `…_file` names;
    /// `None` if there is neither.
    pub(in crate::config) fn url_or_file(&mut self, key: &str, url: &str, file: &str) -> Option<String> {
        let file_key = format!("{key}_file");
        match (url.is_empty(), file.is_empty()) {
            (true, true) => None,
            (false, true) => Some(url.to_owned()),
            (true, false) => {
                let secret = self.secret_file(&file_key, file, &[])?;
                let text = String::from_utf8(secret.0).ok();
                if text.is_none() {
                    let mistake = Mistake::new("there is no URL in it", "write one line with the URL");
                    self.problem(&file_key, mistake);
                }
                text
            }
            (false, false) => {
                let wrong = format!("there is a URL here and another one in {file_key}");
                self.problem(key, Mistake::new(wrong, "keep one of the two"));
                None
            }
        }
    }

    fn backend_query(&mut self, backend: &written::Backend, kind: KeyBackendKind) -> Vec<QueryPart> {
        let default = match kind {
            KeyBackendKind::Sqlite | KeyBackendKind::Postgres | KeyBackendKind::Mysql => SQL,
            KeyBackendKind::Redis => REDIS_KEY,
            KeyBackendKind::Http => {
                if !backend.query.is_empty() {
                    let wrong = "a web server is asked without one";
                    self.problem("auth.backend.query", Mistake::new(wrong, "remove it"));
                }
                return Vec::new();
            }
        };
        let text = if backend.query.is_empty() { default } else { &backend.query };
        if !text.contains("{name}") {
            let wrong = "the query is the same for every user";
            self.problem("auth.backend.query", Mistake::new(wrong, format!("write {{name}} in it, like {default:?}")));
        }
        if text.contains("'{name}'") || text.contains("'{realm}'") {
            let wrong = "quotes around a parameter make it a text";
            self.problem(
                "auth.backend.query",
                Mistake::new(wrong, "write it without them: values are never part of SQL"),
            );
        }
        QueryPart::cut(text)
    }

    /// For the machines, and for the control plane.
    pub(super) fn look_ups(
        &mut self,
        written: &written::Auth,
        limits: &written::Limits,
        threads: u16,
    ) -> Option<(KeyLookUps, KeyBackend)> {
        let backend = &written.backend;
        let found_secs = self.duration("auth.backend.remember", &backend.remember, 1..=DAY);
        let not_found_secs = self.duration("auth.backend.remember_not_found", &backend.remember_not_found, 1..=HOUR);
        let stale_secs = self.duration("auth.backend.stale", &backend.stale, 0..=7 * DAY);
        let remembered = self.count("auth.backend.remembered_users", backend.remembered_users, 1..=TABLE_MAX);
        let waiting = self.count("limits.look_ups_waiting", limits.look_ups_waiting, 1..=65_536);
        let per_prefix = self.count("limits.look_ups_per_prefix", limits.look_ups_per_prefix, 0..=1_000_000);
        if not_found_secs > found_secs {
            let wrong = "names that were not found are remembered longer than users that were";
            let fix = "write no more than auth.backend.remember";
            self.problem("auth.backend.remember_not_found", Mistake::new(wrong, fix));
        }
        let source = self.key_backend(written)?;
        let mut digest = DefaultHasher::new();
        source.hash(&mut digest);
        let look_ups = KeyLookUps {
            found_secs,
            not_found_secs,
            stale_secs,
            // The shell gives up first; this is for what never comes back.
            timeout_secs: source.timeout.as_secs() as u32 + 1,
            remembered,
            waiting,
            // The kernel spreads the ports of one network over all shards.
            per_prefix: per_prefix.div_ceil(usize::from(threads)) as u32,
            source: digest.finish(),
        };
        Some((look_ups, source))
    }
}
