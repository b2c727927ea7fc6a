//! `[auth]` and `[[realms]]`: who may allocate.

use serde::Deserialize;

section! {
    /// `[auth]`
    Auth {
        /// REALM.
        realm: String = "hairpin".into(),
        /// Shared secrets, in the file itself.
        secrets: Vec<String> = Vec::new(),
        /// Files with one shared secret each.
        secret_files: Vec<String> = Vec::new(),
        /// How far ahead a time-limited user name may expire.
        credential_lifetime_max: String = "7d".into(),
        /// Between expiry and user in a time-limited user name.
        credential_separator: String = ":".into(),
        /// `sha1` or `sha256`: under the HMAC that is a time-limited password.
        credential_hash: String = "sha1".into(),
        /// How long a nonce is good for.
        nonce_lifetime: String = "1h".into(),
        /// What nonce keys are made from; empty: drawn at every start.
        nonce_secret: String = String::new(),
        /// The same, in a file.
        nonce_secret_file: String = String::new(),
        /// Accept MD5 keys.
        md5: bool = true,
        /// Refuse PASSWORD-ALGORITHM with MESSAGE-INTEGRITY.
        strict_algorithms: bool = false,
        /// Offer USERHASH where everybody can be found by it.
        userhash: bool = true,
        /// Accept passwords under SASLprep, too.
        saslprep: bool = false,
        /// Prefixes of clients that need no credentials.
        guests: Vec<String> = Vec::new(),
        /// This server in access tokens; empty means the realm.
        token_server_name: String = String::new(),
        /// `never`, `removed` or `expired`.
        end_sessions: String = "removed".into(),
        /// Where the keys of more users are kept.
        backend: Backend = Backend::default(),
        /// Static users.
        users: Vec<User> = Vec::new(),
        /// Keys of access tokens.
        token_keys: Vec<TokenKey> = Vec::new(),
        /// Short-term credentials for Binding.
        binding_users: Vec<BindingUser> = Vec::new(),
    }
}

section! {
    /// `[auth.backend]`; without a URL there is none.
    Backend {
        /// Where it is.
        url: String = String::new(),
        /// A file with the URL.
        url_file: String = String::new(),
        /// SQL, or the name of a Redis key; empty: that of the documented schema.
        query: String = String::new(),
        /// For HTTP.
        authorization: String = String::new(),
        /// The longest a question may take.
        timeout: String = "5s".into(),
        /// Questions at the same time.
        concurrent: i64 = 16,
        /// How long a key is good for without asking again.
        remember: String = "1m".into(),
        /// How long a name counts as unknown without asking again.
        remember_not_found: String = "5s".into(),
        /// How much longer a key is good for while the back end cannot answer.
        stale: String = "10m".into(),
        /// Users whose keys a thread remembers.
        remembered_users: i64 = 10_000,
    }
}

section! {
    /// `[[auth.users]]`; empty text means that the key is not there.
    User {
        /// User name.
        name: String = String::new(),
        /// Password in clear.
        password: String = String::new(),
        /// Instead of a password: MD5(name:realm:password) in hex.
        key_md5: String = String::new(),
        /// Instead of a password: SHA-256(name:realm:password) in hex.
        key_sha256: String = String::new(),
    }
}

section! {
    /// `[[realms]]`
    Realm {
        /// REALM where it is chosen by `listen`, and its name in accounts.
        name: String = String::new(),
        /// Addresses of ours, with or without a port.
        listen: Vec<String> = Vec::new(),
        /// Names that its clients ask for in their TLS handshakes.
        server_names: Vec<String> = Vec::new(),
        /// How the names of its users begin.
        user_prefix: String = String::new(),
        /// Shared secrets, in the file itself.
        secrets: Vec<String> = Vec::new(),
        /// Files with one shared secret each.
        secret_files: Vec<String> = Vec::new(),
        /// Of all its users; 0 is no limit of its own.
        allocations: i64 = 0,
        /// Of each of its users; 0 is that of the server.
        allocations_per_user: i64 = 0,
        /// Of all its users together; 0 is no limit of its own.
        permissions: i64 = 0,
        /// The same.
        channels: i64 = 0,
        /// The same.
        peer_connections: i64 = 0,
        /// Of all its users together.
        bandwidth: String = "off".into(),
        /// Of each of its users; "" is that of the server.
        bandwidth_per_user: String = String::new(),
        /// Of each of their allocations; "" is that of the server.
        bandwidth_per_allocation: String = String::new(),
        /// Static users.
        users: Vec<User> = Vec::new(),
    }
}

section! {
    /// `[[auth.token_keys]]`
    TokenKey {
        /// What clients send as USERNAME.
        kid: String = String::new(),
        /// 16 or 32 bytes in hex or base64.
        key: String = String::new(),
    }
}

section! {
    /// `[[auth.binding_users]]`
    BindingUser {
        /// User name.
        name: String = String::new(),
        /// Password in clear.
        password: String = String::new(),
    }
}
