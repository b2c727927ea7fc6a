//! Realms beside the one of `[auth]`: tenants of one server, each with its own users, secrets and limits.
//!
//! A realm is chosen in one of two ways. By place: the server name that the client has asked for in its TLS handshake, or
//! else the address that it came to. Such a realm is the REALM on the wire there, and nobody else's credentials count. The
//! machine knows no TLS: the shell asks [`Config::realm_of_server_name`] once for each handshake and says where the client
//! is ([`super::Server::came_to`]), so that a request costs one look-up more, and a packet none. Or by name: a prefix of
//! the user name, or whose secret or user it is. The client cannot know of that one; it is told the realm of `[auth]`,
//! and only what is counted and shown for it differs. Accounts have the realm behind an `@` where there are any, so that
//! the same name in two realms is two accounts. No realm's name has an `@` in it, so no name can pretend.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ahash::RandomState;
use sha2::{Digest, Sha256};

use super::allocation::Owner;
use super::nonce::Offer;
use super::server_name::{ServerName, normal};
use super::{Bandwidth, Config, Credentials, FiveTuple, HeldQuotas, Server};
use crate::stun::{opaque_string, unquoted};

/// A realm beside the one of [`Config::realm`].
#[derive(Clone, Debug)]
pub struct Realm {
    /// At most 127 bytes, without an `@`; no other realm has it.
    pub name: Arc<str>,
    /// Who belongs to it.
    pub chosen_by: RealmChoice,
    /// Users, made for the realm on the wire, and secrets. Tokens, look-ups, guests and short-term users are for the
    /// realm of the server alone.
    pub credentials: Credentials,
    /// Allocations of all its users, in all shards.
    pub allocations: usize,
    /// Allocations of one of its users.
    pub allocations_per_account: usize,
    /// What the allocations of all its users have together; the limits of the server hold beside it.
    pub held: HeldQuotas,
    /// What its users may relay, instead of what those of the server may; the total of the server holds for them as well.
    pub bandwidth: Bandwidth,
    /// In nonces.
    tag: u64,
}

/// How a client comes to a realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RealmChoice {
    /// By where it comes to. There is at least one of the two.
    Place {
        /// The addresses that it sends to, unless a server name says otherwise. The port 0 stands for any.
        addresses: Vec<SocketAddr>,
        /// What it asks for in its handshake, wherever it sends to.
        server_names: Vec<ServerName>,
    },
    /// By the beginning of the user's name, which for a time-limited one is what follows the expiry.
    UserPrefix(String),
    /// By its user or secret; nothing else tells.
    Credentials,
}

impl Realm {
    /// Without limits of its own.
    pub fn new(name: &str, chosen_by: RealmChoice, credentials: Credentials) -> Self {
        let digest = Sha256::digest(name);
        let (tag, _) = digest.split_first_chunk().expect("32 bytes are more than 8");
        Self {
            name: name.into(),
            chosen_by,
            credentials,
            allocations: usize::MAX,
            allocations_per_account: usize::MAX,
            held: HeldQuotas::UNLIMITED,
            bandwidth: Bandwidth::default(),
            tag: u64::from_be_bytes(*tag),
        }
    }

    /// Whether it is what clients on this path are told.
    fn is_at(&self, path: &FiveTuple) -> bool {
        let is_here =
            |at: &SocketAddr| at.ip() == path.server.ip() && (at.port() == 0 || at.port() == path.server.port());
        matches!(&self.chosen_by, RealmChoice::Place { addresses, .. } if addresses.iter().any(is_here))
    }

    const fn is_by_place(&self) -> bool {
        matches!(self.chosen_by, RealmChoice::Place { .. })
    }
}

/// The realm that an account is counted for, in what [`super::Effect::BindRelay`] calls it; `None` for the server's own
/// where there is no other.
pub fn realm_of_account(account: &str) -> Option<&str> {
    account.rsplit_once('@').map(|(_, realm)| realm)
}

/// The clients that have asked for the server name of a realm, by 5-tuple: at most one for each connection.
#[derive(Debug)]
pub(super) struct Places {
    by_path: HashMap<FiveTuple, Arc<str>, RandomState>,
}

impl Places {
    pub(super) fn new(hashes: RandomState) -> Self {
        Self { by_path: HashMap::with_hasher(hashes) }
    }

    fn get(&self, path: &FiveTuple) -> Option<&str> {
        // Nearly always empty, and then costs no hashing.
        if self.by_path.is_empty() { None } else { self.by_path.get(path).map(|realm| &**realm) }
    }

    pub(super) fn forget(&mut self, path: &FiveTuple) {
        if !self.by_path.is_empty() {
            self.by_path.remove(path);
        }
    }
}

impl Server {
    /// The client of this connection has come to this realm, whatever its address says. To be called before its first
    /// message, and holds until [`Server::path_closed`], or until `None` takes it back. For a datagram that another shard has
    /// read it holds for that one datagram ([`Server::from_carrier`]). A realm that the configuration does not have (any
    /// more), or has elsewhere than by place, is as none.
    pub fn came_to(&mut self, path: FiveTuple, realm: Option<Arc<str>>) {
        match realm {
            Some(realm) => drop(self.places.by_path.insert(path, realm)),
            None => self.places.forget(&path),
        }
    }

    /// 5-tuples of which it is known to which realm their clients have come.
    pub fn paths_placed(&self) -> usize {
        self.places.by_path.len()
    }
}

/// What counts on a path: the realm on the wire and its credentials.
#[derive(Clone, Copy)]
pub(super) struct Scope<'c> {
    config: &'c Config,
    /// `None` is the server's own.
    place: Option<&'c Realm>,
}

impl Config {
    pub(super) fn scope(&self, path: &FiveTuple, places: &Places) -> Scope<'_> {
        let asked_for = places.get(path).and_then(|name| self.realm_named(name)).filter(|realm| realm.is_by_place());
        Scope { config: self, place: asked_for.or_else(|| self.realms.iter().find(|realm| realm.is_at(path))) }
    }

    /// The realm of clients that ask for this server name; one that has exactly this name before one with a wildcard.
    pub fn realm_of_server_name(&self, asked: &str) -> Option<Arc<str>> {
        if self.realms.is_empty() {
            return None;
        }
        let asked = normal(asked);
        let having = |is_meant: fn(&ServerName, &str) -> bool| {
            self.realms.iter().find(|realm| match &realm.chosen_by {
                RealmChoice::Place { server_names, .. } => server_names.iter().any(|name| is_meant(name, &asked)),
                _ => false,
            })
        };
        let realm = having(ServerName::is_exactly).or_else(|| having(ServerName::covers))?;
        Some(Arc::clone(&realm.name))
    }

    /// Those under which an allocation was made, if they are there still.
    pub(super) fn credentials_of(&self, owner: &Owner) -> Option<&Credentials> {
        match &owner.realm {
            None => Some(&self.credentials),
            Some(name) => self.realm_named(name).map(|realm| &realm.credentials),
        }
    }

    /// What the keys of an allocation's owner are made with.
    pub(super) fn realm_on_wire<'c>(&'c self, owner: &'c Owner) -> &'c str {
        match &owner.realm {
            Some(name) if self.realm_named(name).is_none_or(Realm::is_by_place) => name,
            _ => &self.realm,
        }
    }

    fn realm_named(&self, name: &str) -> Option<&Realm> {
        self.realms.iter().find(|realm| *realm.name == *name)
    }

    /// Where nobody can be found by USERHASH alone.
    fn has_realms_by_name(&self) -> bool {
        self.realms.iter().any(|realm| !realm.is_by_place())
    }
}

impl<'c> Scope<'c> {
    pub(super) const fn config(self) -> &'c Config {
        self.config
    }

    /// REALM.
    pub(super) fn name(self) -> &'c str {
        self.place.map_or(&self.config.realm, |realm| &realm.name)
    }

    pub(super) fn credentials(self) -> &'c Credentials {
        self.place.map_or(&self.config.credentials, |realm| &realm.credentials)
    }

    /// What challenges offer here. A nonce of another realm is not good for it.
    pub(super) fn offer(self) -> Offer {
        let offer = self.credentials().offer();
        match self.place {
            Some(realm) => Offer { realm: realm.tag, ..offer },
            None => Offer { userhash: offer.userhash && !self.config.has_realms_by_name(), ..offer },
        }
    }

    /// Where a user of this name may be known, in the order in which it is tried.
    pub(super) fn homes(self, username: Option<&[u8]>) -> impl Iterator<Item = Home<'c>> {
        let home = move |realm| Home { scope: self, realm };
        let of_prefix = username.and_then(|name| self.of_prefix(name));
        let others = self.config.realms.iter().filter(move |realm| {
            of_prefix.is_none() && self.place.is_none() && realm.chosen_by == RealmChoice::Credentials
        });
        others.map(move |realm| home(Some(realm))).chain(std::iter::once(home(of_prefix.or(self.place))))
    }

    fn of_prefix(self, username: &[u8]) -> Option<&'c Realm> {
        if self.place.is_some() || !self.config.has_realms_by_name() {
            return None;
        }
        let account = self.config.credentials.claimed(username)?;
        let prepared = opaque_string(&account).unwrap_or_else(|_| account.as_ref().into());
        self.config.realms.iter().find(
            |realm| matches!(&realm.chosen_by, RealmChoice::UserPrefix(prefix) if prepared.starts_with(prefix.as_str())),
        )
    }

    /// For people: the account that the name of a request that failed would count for.
    pub(super) fn claimed(self, username: &[u8]) -> Option<Arc<str>> {
        let home = Home { scope: self, realm: self.of_prefix(username).or(self.place) };
        Some(home.account(self.credentials().claimed(unquoted(username))?))
    }

    /// The realm of somebody of whom only the name is known.
    pub(super) fn presumed_realm(self, username: &[u8]) -> Option<Arc<str>> {
        self.of_prefix(username).or(self.place).map(|realm| Arc::clone(&realm.name))
    }
}

/// A realm whose users may come on a path.
#[derive(Clone, Copy)]
pub(super) struct Home<'c> {
    scope: Scope<'c>,
    realm: Option<&'c Realm>,
}

impl<'c> Home<'c> {
    pub(super) fn credentials(self) -> &'c Credentials {
        self.realm.map_or(&self.scope.config.credentials, |realm| &realm.credentials)
    }

    /// `None` is the server's own.
    pub(super) fn realm(self) -> Option<Arc<str>> {
        self.realm.map(|realm| Arc::clone(&realm.name))
    }

    /// Whether an allocation belongs to somebody of here.
    pub(super) fn has(self, owner: &Owner) -> bool {
        owner.realm.as_deref() == self.realm.map(|realm| &*realm.name)
    }

    /// What quotas count by, and logs show.
    pub(super) fn account(self, user: Arc<str>) -> Arc<str> {
        if self.scope.config.realms.is_empty() {
            return user;
        }
        let realm = self.realm.map_or(self.scope.config.realm.as_str(), |realm| &realm.name);
        format!("{user}@{realm}").into()
    }
}
