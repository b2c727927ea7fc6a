//! `[[realms]]`: tenants with their own users, secrets and limits.

use std::net::{IpAddr, SocketAddr};

use crate::config::check::limits::HELD_MAX;
use crate::config::check::{Checker, TABLE_MAX};
use crate::config::values::{Mistake, Prepared};
use crate::config::written;
use crate::shard::ListenAddress;
use crate::turn::{Bandwidth, Config, Credentials, HeldQuotas, Realm, RealmChoice, ServerName, SharedSecret, Users};

impl Checker<'_> {
    /// `server` has what `[auth]` says.
    pub(in crate::config::check) fn realms(
        &mut self,
        written: &written::Written,
        server: &Config,
        listen: &[ListenAddress],
    ) -> Vec<Realm> {
        if !written.realms.is_empty() && server.realm.contains('@') {
            let wrong = "with [[realms]] no realm can have an \"@\" in its name: users are told apart as user@realm";
            self.problem("auth.realm", Mistake::new(wrong, "write another name, like \"example.org\""));
        }
        let mut realms: Vec<Realm> = Vec::new();
        let mut secrets = server.credentials.secrets.clone();
        for (index, table) in written.realms.iter().enumerate() {
            let base = format!("realms[{index}]");
            let name = self.realm_name(&format!("{base}.name"), &table.name, server, &realms);
            let chosen_by = self.choice(&base, table, &realms, written, listen);
            let is_by_place = matches!(chosen_by, RealmChoice::Place { .. });
            let on_wire = if is_by_place { &name } else { &server.realm };
            let users = self.users_of(&base, &table.users, on_wire, written.auth.saslprep);
            self.users_fit(&base, table, &chosen_by, server, &realms);
            let own = self.secrets_of_realm(&base, table, &mut secrets);
            if table.users.is_empty() && table.secrets.is_empty() && table.secret_files.is_empty() {
                let wrong = "this realm has neither secrets nor users";
                self.problem(format!("{base}.name"), Mistake::new(wrong, "write secrets = [\"…\"] below it"));
            }
            let credentials = credentials(&server.credentials, users, own);
            let allocations = self.count(&format!("{base}.allocations"), table.allocations, 0..=TABLE_MAX);
            let per_user =
                self.count(&format!("{base}.allocations_per_user"), table.allocations_per_user, 0..=TABLE_MAX);
            let of_server = usize::try_from(written.limits.allocations_per_user).unwrap_or_default();
            let mut realm = Realm::new(&name, chosen_by, credentials);
            realm.allocations = if allocations == 0 { usize::MAX } else { allocations };
            realm.allocations_per_account = if per_user == 0 { of_server } else { per_user };
            realm.held = self.held_of_realm(&base, table);
            realm.bandwidth = self.bandwidth_of_realm(&base, table, server);
            realms.push(realm);
        }
        self.users_of_server_fit(&written.auth, &realms);
        realms
    }

    fn held_of_realm(&mut self, base: &str, table: &written::Realm) -> HeldQuotas {
        let mut quota = |key: &str, count: i64| match self.count(&format!("{base}.{key}"), count, 0..=HELD_MAX) {
            0 => usize::MAX,
            count => count,
        };
        HeldQuotas {
            permissions: quota("permissions", table.permissions),
            channels: quota("channels", table.channels),
            peer_connections: quota("peer_connections", table.peer_connections),
        }
    }

    fn bandwidth_of_realm(&mut self, base: &str, table: &written::Realm, server: &Config) -> Bandwidth {
        let mut rate = |key: &str, text: &str, of_server: u64| match text {
            "" => of_server,
            text => self.rate(&format!("{base}.{key}"), text),
        };
        let of_server = server.limits.bandwidth;
        Bandwidth {
            per_allocation: rate("bandwidth_per_allocation", &table.bandwidth_per_allocation, of_server.per_allocation),
            per_account: rate("bandwidth_per_user", &table.bandwidth_per_user, of_server.per_account),
            total: rate("bandwidth", &table.bandwidth, 0),
        }
    }

    fn realm_name(&mut self, key: &str, text: &str, server: &Config, others: &[Realm]) -> String {
        let name = self.checked_realm(key, text);
        if name.contains('@') {
            let wrong = "the realm has an \"@\" in it, and users are told apart as user@realm";
            self.problem(key, Mistake::new(wrong, "write another name, like \"example.org\""));
        }
        if !name.is_empty() && (name == server.realm || others.iter().any(|other| *other.name == *name)) {
            let wrong = format!("there is another realm \"{name}\"");
            self.problem(key, Mistake::new(wrong, "give every realm a name of its own; auth.realm counts as well"));
        }
        name
    }

    fn choice(
        &mut self,
        base: &str,
        table: &written::Realm,
        others: &[Realm],
        written: &written::Written,
        listen: &[ListenAddress],
    ) -> RealmChoice {
        let by_place = match (table.listen.is_empty(), table.server_names.is_empty()) {
            (false, _) => Some("listen"),
            (true, false) => Some("server_names"),
            (true, true) => None,
        };
        let by_prefix = !table.user_prefix.is_empty();
        if let Some(key) = by_place {
            if by_prefix {
                let wrong = format!(
                    "this realm has both {key} and user_prefix: where it is the only one, all users are its own"
                );
                self.problem(format!("{base}.user_prefix"), Mistake::new(wrong, "keep one of the two"));
            }
            let mut addresses = Vec::new();
            for (place, text) in table.listen.iter().enumerate() {
                let key = format!("{base}.listen[{place}]");
                let result = place_of(text, &addresses, others, listen);
                addresses.extend(self.accept(key, result));
            }
            let mut server_names = Vec::new();
            for (place, text) in table.server_names.iter().enumerate() {
                let key = format!("{base}.server_names[{place}]");
                let result = server_name(text, &server_names, others, written, listen);
                server_names.extend(self.accept(key, result));
            }
            return RealmChoice::Place { addresses, server_names };
        }
        if !by_prefix {
            return RealmChoice::Credentials;
        }
        let key = format!("{base}.user_prefix");
        let prefix = Prepared::new(&table.user_prefix).map_or_else(
            |why| {
                let wrong = format!("the prefix is not usable: {why}");
                self.problem(key.as_str(), Mistake::new(wrong, "write how the names begin, like \"shop-\""));
                String::new()
            },
            |prefix| prefix.0,
        );
        for other in others {
            if let RealmChoice::UserPrefix(taken) = &other.chosen_by
                && (taken.starts_with(&prefix) || prefix.starts_with(taken.as_str()))
            {
                let wrong = format!("a name may begin so and belong to {}, with \"{taken}\", as well", other.name);
                self.problem(key.as_str(), Mistake::new(wrong, "write prefixes of which none begins with another"));
            }
        }
        RealmChoice::UserPrefix(prefix)
    }

    fn secrets_of_realm(
        &mut self,
        base: &str,
        table: &written::Realm,
        all: &mut Vec<SharedSecret>,
    ) -> Vec<SharedSecret> {
        let mut own = Vec::new();
        for (place, secret) in table.secrets.iter().enumerate() {
            own.extend(self.secret(&format!("{base}.secrets[{place}]"), secret.as_bytes(), all));
            all.extend(own.last().cloned());
        }
        for (place, path) in table.secret_files.iter().enumerate() {
            let secret = self.secret_file(&format!("{base}.secret_files[{place}]"), path, all);
            all.extend(secret.clone());
            own.extend(secret);
        }
        own
    }

    /// Users that nobody could log in as, or that two realms would claim.
    fn users_fit(
        &mut self,
        base: &str,
        table: &written::Realm,
        chosen_by: &RealmChoice,
        server: &Config,
        others: &[Realm],
    ) {
        for (place, user) in table.users.iter().enumerate() {
            let Ok(name) = Prepared::new(&user.name).map(|name| name.0) else { continue };
            let key = format!("{base}.users[{place}].name");
            match chosen_by {
                RealmChoice::Place { .. } => {}
                RealmChoice::UserPrefix(prefix) if !name.starts_with(prefix.as_str()) => {
                    let wrong = format!("the name does not begin with \"{prefix}\", the user_prefix of its realm");
                    self.problem(key, Mistake::new(wrong, "rename the user, or leave user_prefix out"));
                }
                RealmChoice::UserPrefix(_) => {}
                RealmChoice::Credentials => {
                    let has = |users: &Users| users.get(&name).is_some();
                    let by_name = others.iter().filter(|other| other.chosen_by == RealmChoice::Credentials);
                    if has(&server.credentials.users) || by_name.clone().any(|other| has(&other.credentials.users)) {
                        let wrong = "another realm has a user of this name, and nothing would tell which is meant";
                        self.problem(
                            key,
                            Mistake::new(wrong, "rename one, or give the realm listen, server_names or user_prefix"),
                        );
                    }
                }
            }
        }
    }

    fn users_of_server_fit(&mut self, auth: &written::Auth, realms: &[Realm]) {
        for (place, user) in auth.users.iter().enumerate() {
            let Ok(name) = Prepared::new(&user.name).map(|name| name.0) else { continue };
            let taken = realms.iter().find(
                |realm| matches!(&realm.chosen_by, RealmChoice::UserPrefix(prefix) if name.starts_with(prefix.as_str())),
            );
            if let Some(realm) = taken {
                let wrong = format!("a name that begins so belongs to the realm {}", realm.name);
                let fix = "rename the user, or move it to [[realms.users]] of that realm";
                self.problem(format!("auth.users[{place}].name"), Mistake::new(wrong, fix));
            }
        }
    }
}

/// How it is done is the server's decision, who may is the realm's.
fn credentials(server: &Credentials, users: Users, secrets: Vec<SharedSecret>) -> Credentials {
    Credentials {
        users,
        secrets,
        ttl_secs_max: server.ttl_secs_max,
        time_limited: server.time_limited,
        md5: server.md5,
        strict_algorithms: server.strict_algorithms,
        userhash: server.userhash,
        end_sessions: server.end_sessions,
        ..Credentials::default()
    }
}

/// An address of ours that no other realm has; the port 0 is any.
fn place_of(text: &str, own: &[SocketAddr], others: &[Realm], listen: &[ListenAddress]) -> Result<SocketAddr, Mistake> {
    let address = match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
        (Ok(address), _) if address.port() != 0 => address,
        (_, Ok(ip)) => SocketAddr::new(ip, 0),
        _ => {
            let fix = "write an address with or without a port, like \"203.0.113.1:3478\" or \"203.0.113.1\"";
            return Err(Mistake::new(format!("\"{text}\" is not an address"), fix));
        }
    };
    if address.ip().is_unspecified() {
        let wrong = format!("{} stands for any address, and no client comes to it", address.ip());
        return Err(Mistake::new(wrong, "write the address that the clients of this realm come to"));
    }
    let is_heard = |entry: &&ListenAddress| {
        let at = entry.address;
        (at.port() == address.port() || address.port() == 0)
            && (at.ip() == address.ip() || at.ip().is_unspecified() && at.is_ipv4() == address.is_ipv4())
    };
    if !listen.iter().any(|entry| is_heard(&entry)) {
        let wrong = format!("nobody listens on {text}");
        return Err(Mistake::new(wrong, "write an address of [listen], or add this one there"));
    }
    let meets = |other: &SocketAddr| {
        other.ip() == address.ip() && (other.port() == address.port() || other.port() == 0 || address.port() == 0)
    };
    let taken = |realm: &&Realm| matches!(&realm.chosen_by, RealmChoice::Place { addresses, .. } if addresses.iter().any(meets));
    if let Some(realm) = others.iter().find(|realm| taken(realm)) {
        let wrong = format!("{text} belongs to the realm {} already", realm.name);
        return Err(Mistake::new(wrong, "write every address for one realm only"));
    }
    if own.iter().any(meets) {
        return Err(Mistake::new(format!("{text} is listed twice"), "remove one of the two"));
    }
    Ok(address)
}

/// A name that clients may ask for here, and that no other realm has.
fn server_name(
    text: &str,
    own: &[ServerName],
    others: &[Realm],
    written: &written::Written,
    listen: &[ListenAddress],
) -> Result<ServerName, Mistake> {
    let name = ServerName::parse(text).map_err(|_| {
        let fix = "write a DNS name in ASCII, like \"turn.example.org\", or \"*.example.org\" for one label in front";
        Mistake::new(format!("\"{text}\" is not a name that a client could ask for in a TLS handshake"), fix)
    })?;
    if !listen.iter().any(|entry| entry.speaks_tls() || entry.speaks_dtls()) {
        let wrong = "nobody listens for TLS, and other clients do not say whom they want";
        return Err(Mistake::new(wrong, "add an address to listen.tls, or choose the realm by listen or user_prefix"));
    }
    let ours = &written.pass_through.names;
    let is_ours = |ours: &String| ServerName::parse(ours).is_ok_and(|ours| ours == name);
    if !ours.is_empty() && listen.iter().any(|entry| entry.options.pass_through.is_some()) && !ours.iter().any(is_ours)
    {
        let wrong = format!("clients that ask for {name} are passed on to the web server");
        return Err(Mistake::new(wrong, "add each name to pass_through.names, or leave those out"));
    }
    let has = |realm: &&Realm| matches!(&realm.chosen_by, RealmChoice::Place { server_names, .. } if server_names.contains(&name));
    if let Some(realm) = others.iter().find(|realm| has(realm)) {
        let wrong = format!("{name} belongs to the realm {} already", realm.name);
        return Err(Mistake::new(wrong, "write every name for one realm only"));
    }
    if own.contains(&name) {
        return Err(Mistake::new(format!("{name} is listed twice"), "remove one of the two"));
    }
    Ok(name)
}
