//! 300 (Try Alternate): clients that want to allocate are sent to another server (RFC 8489 §10, RFC 8656 §7.2), and
//! those that came by an anycast address to this server's own ones (RFC 8155 §6).
//!
//! How two servers that redirect to each other keep a client from bouncing (STUN-8489-10-06): the NONCE in a 300 is
//! one for port 0 of the client's address, which no client has. The servers of a cluster share the keys of nonces, so
//! that the target takes it for good, and knows by it that the client was redirected already: it is not sent on, and
//! nobody has to remember anybody. It is bound to the address alone because a new connection has another port, and
//! good for five minutes only, the time in which a client does not come back by itself (RFC 8489 §10).

use std::net::{IpAddr, SocketAddr};

use super::authenticate::{Authenticated, Sealing};
use super::realms::Scope;
use super::request::Answering;
use super::{Clock, FiveTuple, NonceKeys, ReplyBuffer, Server, Transport};
use crate::stun::{AttributeType, Class, ErrorCode, Message, MessageWriter, Method};

/// How long a client counts as redirected, in seconds.
const REDIRECTED_SECS: u32 = 300;

/// When, and where to. By default there is nowhere to go.
#[derive(Clone, Debug, Default)]
pub struct Redirect {
    /// When clients go to the alternates.
    pub when: RedirectWhen,
    /// Other servers with the same users. Clients are spread over those that serve their address family.
    pub alternates: Vec<Alternate>,
    /// Also in answer to requests without credentials, unsigned: for clients that cannot go elsewhere after they have
    /// been challenged (STUN-8489-10-05). Whoever can forge packets can then send clients anywhere.
    pub unauthenticated: bool,
    /// The alternates have the same nonce keys and realm, so that a 300 may give REALM and NONCE (STUN-8489-10-07).
    pub shares_nonces: bool,
    /// Addresses of this server that others have, too: who comes there is told `unicast`, and nothing is allocated.
    pub anycast: Vec<IpAddr>,
    /// Addresses that only this server has. Its ports are the same there.
    pub unicast: Vec<IpAddr>,
}

/// When clients go to the alternates. Each includes those before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RedirectWhen {
    /// While this server is draining.
    #[default]
    Draining,
    /// When it has no room for another allocation.
    Full,
    /// Whenever they want to allocate.
    Always,
}

/// Another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternate {
    /// At most one of each family.
    pub addresses: Vec<IpAddr>,
    /// For clients on UDP and TCP.
    pub port: u16,
    /// For clients on TLS.
    pub tls_port: u16,
    /// The name in its certificate, if that is another than here: at most 255 bytes (STUN-8489-14.16-01).
    pub domain: Option<String>,
}

impl Redirect {
    /// What a client on this path is told: addresses, its own family first, and a name for the certificate.
    fn target(&self, path: &FiveTuple, spread: u64) -> Option<(Vec<SocketAddr>, Option<&str>)> {
        let is_near = |ip: &&IpAddr| ip.is_ipv4() == path.client.is_ipv4();
        let order = |ips: &[IpAddr], port| -> Vec<SocketAddr> {
            let (near, far): (Vec<&IpAddr>, Vec<&IpAddr>) = ips.iter().partition(is_near);
            near.into_iter().chain(far).map(|ip| SocketAddr::new(*ip, port)).collect()
        };
        if self.anycast.contains(&path.server.ip()) {
            return Some((order(&self.unicast, path.server.port()), None));
        }
        let is_tls = matches!(path.transport, Transport::Tls | Transport::Dtls);
        let port_of = |alternate: &Alternate| if is_tls { alternate.tls_port } else { alternate.port };
        let usable = || {
            self.alternates.iter().filter(|alternate| {
                // A list may be the same on all servers of a cluster: nobody is sent to where it is (STUN-8489-10-06).
                alternate.addresses.iter().any(|ip| is_near(&ip))
                    && !alternate
                        .addresses
                        .iter()
                        .any(|ip| *ip == path.server.ip() && port_of(alternate) == path.server.port())
            })
        };
        let place = spread.checked_rem(usable().count() as u64)?;
        let chosen = usable().nth(place as usize)?;
        Some((order(&chosen.addresses, port_of(chosen)), chosen.domain.as_deref().filter(|_| is_tls)))
    }
}

impl Scope<'_> {
    /// Whether this nonce was in a 300 to this client. Any server that has the same keys can tell.
    pub(super) fn was_redirected(self, clock: Clock, path: &FiveTuple, nonce: &[u8]) -> bool {
        let nonces = &self.config().nonces;
        let lifetime_secs = nonces.lifetime_secs.min(REDIRECTED_SECS);
        let keys = NonceKeys { lifetime_secs, ..nonces.clone() };
        keys.check(self.offer(), clock.unix_secs, &anywhere_at(path), nonce).is_ok()
    }
}

/// Stands for all ports of the client.
fn anywhere_at(path: &FiveTuple) -> FiveTuple {
    FiveTuple { client: SocketAddr::new(path.client.ip(), 0), ..*path }
}

impl Server {
    /// Whether this client is sent on although there may be room here.
    pub(super) fn redirects_all(&self, clock: Clock, path: &FiveTuple, request: &Authenticated<'_, '_>) -> bool {
        // Nothing is ever allocated where the next packet may come to another server (DISC-8155-6-01).
        self.config.redirect.anycast.contains(&path.server.ip())
            || self.redirects(RedirectWhen::Always, clock, path, request.first(AttributeType::NONCE))
    }

    /// Whether this client is sent on where it would be answered 508 otherwise.
    pub(super) fn redirects_excess(&self, clock: Clock, path: &FiveTuple, request: &Authenticated<'_, '_>) -> bool {
        let when = if self.draining { RedirectWhen::Draining } else { RedirectWhen::Full };
        self.redirects(when, clock, path, request.first(AttributeType::NONCE))
    }

    /// The same for requests without credentials.
    pub(super) fn redirects_unauthenticated(&self, clock: Clock, path: &FiveTuple, message: &Message<'_>) -> bool {
        let redirect = &self.config.redirect;
        let when = if self.draining { RedirectWhen::Draining } else { RedirectWhen::Always };
        redirect.unauthenticated
            && message.method() == Method::Allocate
            && !message.has_integrity()
            && !message.has_integrity_sha256()
            && (redirect.anycast.contains(&path.server.ip()) || self.redirects(when, clock, path, None))
    }

    fn redirects(&self, when: RedirectWhen, clock: Clock, path: &FiveTuple, nonce: Option<&[u8]>) -> bool {
        let redirect = &self.config.redirect;
        !redirect.alternates.is_empty()
            && redirect.when >= when
            && redirect.target(path, 0).is_some()
            && match nonce {
                Some(nonce) => !self.config.scope(path, &self.places).was_redirected(clock, path, nonce),
                // Guests and strangers, whom no signature protects.
                None => redirect.unauthenticated,
            }
    }

    /// Whether there still is somewhere to go: the configuration may have changed since that was asked.
    pub(super) fn can_redirect(&self, path: &FiveTuple) -> bool {
        self.config.redirect.target(path, 0).is_some()
    }

    /// Writes a 300. The same client is told the same server each time it asks.
    pub(super) fn redirect(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        reply: &mut ReplyBuffer,
        answering: Answering,
        sealing: Option<&Sealing>,
    ) -> usize {
        self.count_error(ErrorCode::TryAlternate);
        let redirect = &self.config.redirect;
        let mut writer = MessageWriter::new(reply, answering.method, Class::Error, answering.transaction_id);
        writer.error_code(ErrorCode::TryAlternate);
        let spread = self.lent.hasher().hash_one(path.client);
        let (addresses, domain) = redirect.target(&path, spread).expect("asked before");
        for address in addresses {
            writer.address(AttributeType::ALTERNATE_SERVER, address);
        }
        if let Some(domain) = domain {
            writer.attribute(AttributeType::ALTERNATE_DOMAIN, domain.as_bytes());
        }
        // Who comes by anycast stays with this server, and its nonces.
        if redirect.shares_nonces || redirect.anycast.contains(&path.server.ip()) {
            let scope = self.config.scope(&path, &self.places);
            writer.attribute(AttributeType::REALM, scope.name().as_bytes());
            let offer = scope.offer();
            let nonce = self.config.nonces.issue(offer, clock.unix_secs, &anywhere_at(&path));
            writer.attribute(AttributeType::NONCE, nonce.as_bytes());
            // Without, a nonce that speaks of them would look tampered with.
            writer.attribute(AttributeType::PASSWORD_ALGORITHMS, offer.algorithms());
        }
        self.finish(writer, answering, sealing)
    }
}
