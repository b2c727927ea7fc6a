//! Who cannot reach whom, and how they then do: a sentence each.

use netlab::browser::BrowserKind::{Chromium, Firefox};
use netlab::call::Offer::{Everything, StunAndTurn, StunOnly, TurnTcp};
use netlab::scenario::Expectation::{CallerRelayedOver, Direct, NoCall, RelayedOver};
use netlab::scenario::{Scenario, scenario};
use netlab::topology::Nat::{AddressRestricted, PortRestricted, Symmetric};

#[rustfmt::skip] // a line each
pub fn all() -> Vec<Scenario> {
    vec![
        scenario("symmetric-meets-restricted", "Without TURN, a symmetric and an address-restricted NAT let each other through")
            .with_nats(Symmetric, AddressRestricted).offering(StunOnly).expecting(Direct),
        scenario("symmetric-meets-port-restricted", "Without TURN, a symmetric and a port-restricted NAT do not")
            .with_nats(Symmetric, PortRestricted).offering(StunOnly).expecting(NoCall),
        scenario("no-udp-and-symmetric", "L without UDP and M behind a symmetric NAT talk, L through TURN over TCP")
            .with_nats(PortRestricted, Symmetric).with_udp_blocked_at("coffee-shop").offering(StunAndTurn).expecting(CallerRelayedOver("tcp")),
        scenario("https-at-one-end", "L with nothing but HTTPS reaches M through TURN over TLS")
            .with_https_only_at(&["coffee-shop"]).offering(Everything).expecting(CallerRelayedOver("tls")),
        scenario("firefox-at-home", "M in Firefox answers L in Chromium through TURN over TCP, both behind symmetric NATs")
            .with_nats(Symmetric, Symmetric).in_browsers(Chromium, Firefox).relay_only().offering(TurnTcp).expecting(RelayedOver("tcp")),
    ]
}
