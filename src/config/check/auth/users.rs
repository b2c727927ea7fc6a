//! `[[auth.users]]`: the keys of each, in every form that a client may make them in.

use std::collections::HashSet;

use unicode_normalization::UnicodeNormalization;

use crate::config::check::Checker;
use crate::config::values::{self, Mistake, Prepared};
use crate::config::written;
use crate::stun::unquoted;
use crate::turn::{ShortTermUsers, StaticUser, Users};

/// RFC 8489 §14.3: fewer than 509 bytes.
const USERNAME_BYTES_MAX: usize = 508;

impl Checker<'_> {
    pub(super) fn users(&mut self, written: &written::Auth) -> Users {
        let realm = Prepared::new(&written.realm).map(|realm| realm.0).unwrap_or_default();
        self.users_of("auth", &written.users, &realm, written.saslprep)
    }

    /// The users in the section `base`.
    pub(super) fn users_of(&mut self, base: &str, written: &[written::User], realm: &str, saslprep: bool) -> Users {
        let mut users: Vec<(String, StaticUser)> = Vec::new();
        let mut taken = HashSet::new();
        for (index, user) in written.iter().enumerate() {
            let base = format!("{base}.users[{index}]");
            let key = |name: &str| format!("{base}.{name}");
            let Some(name) = self.user_name(&key("name"), &user.name, "name = \"alice\"") else {
                continue;
            };
            let Some(keys) = self.keys_of(&base, user, &name, realm, saslprep) else {
                continue;
            };
            self.name_is_free(key("name"), &name, &mut taken);
            users.push((name, keys));
        }
        users.into_iter().collect()
    }

    /// `[[auth.binding_users]]`: short-term credentials.
    pub(super) fn binding_users(&mut self, written: &written::Auth) -> ShortTermUsers {
        let mut users: Vec<(String, Vec<String>)> = Vec::new();
        let mut taken = HashSet::new();
        for (index, user) in written.binding_users.iter().enumerate() {
            let key = |name: &str| format!("auth.binding_users[{index}].{name}");
            let name = self.user_name(&key("name"), &user.name, "name = \"alice\"");
            let forms = self.password_forms(&key("password"), &user.password, written.saslprep);
            if let Some((name, forms)) = name.zip(forms) {
                self.name_is_free(key("name"), &name, &mut taken);
                users.push((name, forms));
            }
        }
        users.into_iter().collect()
    }

    fn name_is_free(&mut self, key: String, name: &str, taken: &mut HashSet<String>) {
        if !taken.insert(name.to_owned()) {
            let wrong = "this name is taken by a user before";
            self.problem(key, Mistake::new(wrong, "give every user another name, or remove one"));
        }
    }

    /// A name as the machine looks for it.
    pub(super) fn user_name(&mut self, key: &str, text: &str, example: &str) -> Option<String> {
        let fix = format!("write a name, like {example}");
        let mistake = match Prepared::new(text) {
            Ok(name) if name.0.len() > USERNAME_BYTES_MAX => {
                Mistake::new("the name is too long", format!("write at most {USERNAME_BYTES_MAX} bytes"))
            }
            // Quotes around it are taken off what clients send (STUN-8489-9.2.2-02).
            Ok(name) if unquoted(name.0.as_bytes()) != name.0.as_bytes() => {
                Mistake::new("the name has quotes around it", "write it without them")
            }
            Ok(name) => return Some(name.0),
            Err(why) => Mistake::new(format!("the name is not usable: {why}"), fix),
        };
        self.problem(key, mistake);
        None
    }

    fn keys_of(
        &mut self,
        base: &str,
        user: &written::User,
        name: &str,
        realm: &str,
        saslprep: bool,
    ) -> Option<StaticUser> {
        let key = |name: &str| format!("{base}.{name}");
        let has_keys = !user.key_md5.is_empty() || !user.key_sha256.is_empty();
        match (user.password.is_empty(), has_keys) {
            (true, false) => {
                let fix = "write password = \"…\", or key_md5 and key_sha256 made from it";
                self.problem(key("password"), Mistake::new("this user has neither password nor keys", fix));
                None
            }
            (false, true) => {
                let wrong = "this user has both a password and keys made from one";
                self.problem(key("password"), Mistake::new(wrong, "keep one of the two"));
                None
            }
            (false, false) => {
                let passwords = self.password_forms(&key("password"), &user.password, saslprep)?;
                let mut keys = StaticUser::from_password(name, realm, &passwords[0]);
                for name in name_forms(name, &user.name) {
                    for password in &passwords {
                        keys.add_form(&name, realm, password);
                    }
                }
                Some(keys)
            }
            (true, true) => {
                let key_md5 = self.optional_key(&key("key_md5"), &user.key_md5);
                let key_sha256 = self.optional_key(&key("key_sha256"), &user.key_sha256);
                Some(StaticUser::from_keys(name, realm, key_md5, key_sha256))
            }
        }
    }

    pub(super) fn password_forms(&mut self, key: &str, text: &str, saslprep: bool) -> Option<Vec<String>> {
        let forms = password_forms(text, saslprep);
        let mistake = |why| Mistake::new(format!("the password is not usable: {why}"), "take another password");
        self.accept(key, forms.map_err(mistake))
    }

    fn optional_key<const N: usize>(&mut self, key: &str, text: &str) -> Option<[u8; N]> {
        if text.is_empty() {
            return None;
        }
        self.accept(key, values::key(text))
    }
}

/// A password as clients may hash it: prepared, which comes first; as it stands there, or taken apart (NFD), by
/// those that prepare nothing (requirement L21); and if wanted as RFC 5389 had it (CLASSIC-5389-15-01).
///
/// # Errors
/// Why it cannot be one. It is not repeated.
pub(in crate::config) fn password_forms(text: &str, saslprep: bool) -> Result<Vec<String>, String> {
    let prepared = match Prepared::new(text) {
        Ok(prepared) => prepared.0,
        // What RFC 8265 refuses, RFC 4013 may accept: a soft hyphen, which it removes.
        Err(why) => match stringprep::saslprep(text).ok().filter(|form| saslprep && !form.is_empty()) {
            Some(form) => form.into_owned(),
            None => return Err(why.to_string()),
        },
    };
    let mut forms = vec![prepared.clone(), text.to_owned(), prepared.nfd().collect()];
    if saslprep && let Ok(form) = stringprep::saslprep(text) {
        forms.push(form.into_owned());
    }
    let mut seen: Vec<String> = Vec::new();
    forms.retain(|form| {
        !form.is_empty() && !seen.contains(form) && {
            seen.push(form.clone());
            true
        }
    });
    Ok(forms)
}

/// A name as clients may hash it: prepared, as it stands there, and taken apart.
fn name_forms(prepared: &str, written: &str) -> [String; 3] {
    [prepared.to_owned(), written.to_owned(), prepared.nfd().collect()]
}
