//! `[auth]`: who may allocate.

mod backend;
mod realms;
mod tokens;
mod users;

pub(in crate::config) use users::password_forms;

use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use ipnet::IpNet;
use sha2::Sha256;

use super::{Checker, DAY, HOUR, MINUTE};
use crate::config::KeyBackend;
use crate::config::values::{Mistake, Prepared};
use crate::config::written;
use crate::turn::{Credentials, EndSessions, MacHash, NonceKeys, SharedSecret, TimeLimitedForm};

/// STUN-8489-14.9-01: fewer than 128 characters. Every unauthenticated client is told the realm.
const REALM_BYTES_MAX: usize = 127;
/// 128 bits of a random secret in hex or base64 are longer; anything shorter can be found by trying, because whoever
/// holds one credential can test guesses at home.
const SECRET_BYTES_MIN: usize = 16;
const SECRET_FILE_BYTES_MAX: u64 = 4_096;

/// The largest network that one operator may know all of, 10.0.0.0/8.
const GUEST_PREFIX_MIN: u8 = 8;

const SECRET_FIX: &str = "make one with: openssl rand -hex 32";

impl Checker<'_> {
    pub(super) fn realm(&mut self, text: &str) -> String {
        self.checked_realm("auth.realm", text)
    }

    fn checked_realm(&mut self, key: &str, text: &str) -> String {
        let fix = || format!("write 1 to {REALM_BYTES_MAX} bytes without quotes or backslashes, like \"example.org\"");
        let prepared = match Prepared::new(text) {
            Ok(prepared) => prepared.0,
            Err(why) => {
                self.problem(key, Mistake::new(format!("the realm is not usable: {why}"), fix()));
                return String::new();
            }
        };
        if prepared.len() > REALM_BYTES_MAX {
            let wrong = format!("the realm is {} bytes long", prepared.len());
            self.problem(key, Mistake::new(wrong, fix()));
        }
        if prepared.contains(['"', '\\']) {
            self.problem(key, Mistake::new("the realm has a quote or backslash in it", fix()));
        }
        prepared
    }

    /// Without a secret keys are fresh at every start: clients with an old nonce are told 438 and go on with a new one.
    pub(super) fn nonces(&mut self, written: &written::Auth) -> NonceKeys {
        NonceKeys {
            current: self.nonce_key(written).unwrap_or_else(random_bytes),
            previous: None,
            // TURN-8656-5-02: at most an hour.
            lifetime_secs: self.duration("auth.nonce_lifetime", &written.nonce_lifetime, MINUTE..=HOUR),
        }
    }

    fn nonce_key(&mut self, written: &written::Auth) -> Option<[u8; 32]> {
        let secret = match (written.nonce_secret.is_empty(), written.nonce_secret_file.is_empty()) {
            (true, true) => return None,
            (false, true) => self.secret("auth.nonce_secret", written.nonce_secret.as_bytes(), &[]),
            (true, false) => self.secret_file("auth.nonce_secret_file", &written.nonce_secret_file, &[]),
            (false, false) => {
                let wrong = "there is a secret here and another one in auth.nonce_secret_file";
                self.problem("auth.nonce_secret", Mistake::new(wrong, "keep one of the two"));
                None
            }
        }?;
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&secret.0).expect("HMAC takes keys of any length");
        mac.update(b"hairpin nonces");
        Some(mac.finalize().into_bytes().into())
    }

    /// And whether the only secret was made up.
    pub(super) fn credentials(
        &mut self,
        written: &written::Auth,
        limits: &written::Limits,
        threads: u16,
        has_realms: bool,
    ) -> (Credentials, bool, Option<KeyBackend>) {
        let mut secrets = self.secrets_of_file(written);
        secrets.extend(self.secret_files(written));
        let users = self.users(written);
        let has_secrets = !written.secrets.is_empty() || !written.secret_files.is_empty();
        let has_backend = !written.backend.url.is_empty() || !written.backend.url_file.is_empty();
        let has_users = !written.users.is_empty() || !written.token_keys.is_empty() || !written.guests.is_empty();
        let made_up = !has_secrets && !has_users && !has_backend && !has_realms;
        if made_up {
            self.note(
                "auth.secrets",
                "there are neither secrets nor users, token keys or guests: a made-up secret is used.",
            );
            secrets.push(SharedSecret(random_bytes::<32>().to_vec()));
        }
        let (look_ups, backend) = self.look_ups(written, limits, threads).unzip();
        let lifetime = &written.credential_lifetime_max;
        let credentials = Credentials {
            tokens: self.token_keys(written, &users),
            look_ups,
            users,
            secrets,
            ttl_secs_max: self.duration("auth.credential_lifetime_max", lifetime, MINUTE..=366 * DAY).into(),
            time_limited: self.time_limited(written),
            md5: written.md5,
            strict_algorithms: written.strict_algorithms,
            userhash: written.userhash,
            end_sessions: self.word(
                "auth.end_sessions",
                &written.end_sessions,
                &[("removed", EndSessions::Removed), ("never", EndSessions::Never), ("expired", EndSessions::Expired)],
            ),
            guests: self.guests(written),
            binding_users: self.binding_users(written),
        };
        (credentials, made_up, backend)
    }

    fn guests(&mut self, written: &written::Auth) -> Vec<IpNet> {
        let guests: Vec<IpNet> =
            self.prefixes("auth.guests", &written.guests).into_iter().map(|(_, prefix)| prefix).collect();
        if guests.iter().any(|prefix| prefix.prefix_len() < GUEST_PREFIX_MIN) {
            let text = "it includes large parts of the Internet, whose people may allocate without credentials.";
            self.note("auth.guests", text);
        }
        guests
    }

    fn time_limited(&mut self, written: &written::Auth) -> TimeLimitedForm {
        let mut characters = written.credential_separator.chars();
        let separator = match (characters.next(), characters.next()) {
            (Some(separator), None) if separator.is_ascii_punctuation() && separator != '"' => separator,
            _ => {
                let wrong = "this cannot stand between the expiry and the user";
                let fix = "write one ASCII punctuation character, like \":\"";
                self.problem("auth.credential_separator", Mistake::new(wrong, fix));
                ':'
            }
        };
        let hashes = [("sha1", MacHash::Sha1), ("sha256", MacHash::Sha256)];
        TimeLimitedForm { separator, hash: self.word("auth.credential_hash", &written.credential_hash, &hashes) }
    }

    fn secrets_of_file(&mut self, written: &written::Auth) -> Vec<SharedSecret> {
        let mut secrets = Vec::new();
        for (index, secret) in written.secrets.iter().enumerate() {
            secrets.extend(self.secret(&format!("auth.secrets[{index}]"), secret.as_bytes(), &secrets));
        }
        let has_passwords =
            !written.binding_users.is_empty() || written.users.iter().any(|user| !user.password.is_empty());
        if let Some(file) = self.file
            && (!secrets.is_empty()
                || has_passwords
                || !written.backend.url.is_empty()
                || !written.token_keys.is_empty())
            && others_may_read(file)
        {
            let text = format!("every user of this machine can read {}: chmod o= it.", file.display());
            self.note("auth", text);
        }
        secrets
    }

    fn secret_files(&mut self, written: &written::Auth) -> Vec<SharedSecret> {
        let mut secrets = Vec::new();
        for (index, path) in written.secret_files.iter().enumerate() {
            secrets.extend(self.secret_file(&format!("auth.secret_files[{index}]"), path, &secrets));
        }
        secrets
    }

    pub(super) fn secret_file(&mut self, key: &str, path: &str, others: &[SharedSecret]) -> Option<SharedSecret> {
        let path = self.relative(path);
        if others_may_read(&path) {
            let text = format!("every user of this machine can read {}: chmod o= it.", path.display());
            let place = match key.split('.').next() {
                Some("admin") => "admin",
                Some("usage") => "usage",
                _ => "auth.secret_files",
            };
            self.note(place, text);
        }
        match read_short_file(&path) {
            Ok(bytes) => self.secret(key, bytes.trim_ascii_end(), others),
            Err(why) => {
                let wrong = format!("{} cannot be read: {why}", path.display());
                let fix = "name a file with one secret in it that the user who runs hairpin can read";
                self.problem(key, Mistake::new(wrong, fix));
                None
            }
        }
    }

    pub(super) fn secret(&mut self, key: &str, bytes: &[u8], others: &[SharedSecret]) -> Option<SharedSecret> {
        if bytes.len() < SECRET_BYTES_MIN {
            let wrong = format!("a secret of {} bytes can be guessed; the least is {SECRET_BYTES_MIN}", bytes.len());
            self.problem(key, Mistake::new(wrong, SECRET_FIX));
            return None;
        }
        let secret = SharedSecret(bytes.to_vec());
        if others.contains(&secret) {
            self.problem(key, Mistake::new("this secret is listed twice", "remove one of the two"));
        }
        Some(secret)
    }
}

pub(super) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("a system without random numbers cannot keep secrets");
    bytes
}

fn read_short_file(path: &Path) -> Result<Vec<u8>, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    // A device or pipe could be read without end.
    if !metadata.is_file() {
        return Err("it is not a file".into());
    }
    if metadata.len() > SECRET_FILE_BYTES_MAX {
        return Err(format!("it is larger than {SECRET_FILE_BYTES_MAX} bytes"));
    }
    std::fs::read(path).map_err(|error| error.to_string())
}

#[cfg(unix)]
pub(super) fn others_may_read(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
pub(super) fn others_may_read(_: &Path) -> bool {
    false
}
