//! What every TURN server is for: direct paths where NATs allow, relayed ones where they do not.

use super::{Scenario, scenario};
use crate::call::Offer;
use crate::scenario::Expectation::*;
use crate::topology::Nat::*;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("cone-direct", "L and M behind cone NATs talk directly with nothing but STUN")
            .with_nats(PortRestricted, PortRestricted)
            .offering(Offer::StunOnly)
            .expecting(Direct),
        scenario(
            "triangle",
            "L and M, signalling through the web server, have audio, video and data straight between them",
        )
        .on("triangle")
        .offering(Offer::StunOnly)
        .expecting(Direct),
        scenario("symmetric-stun-only", "L and M behind symmetric NATs cannot talk with nothing but STUN")
            .with_nats(Symmetric, Symmetric)
            .offering(Offer::StunOnly)
            .expecting(NoCall),
        scenario("symmetric-relayed", "L and M behind symmetric NATs talk through the relay")
            .with_nats(Symmetric, Symmetric)
            .offering(Offer::StunAndTurn)
            .expecting(Relayed),
        scenario("relay-only-udp", "L and M allow relayed paths only and reach TURN over UDP")
            .relay_only()
            .offering(Offer::TurnUdp)
            .expecting(RelayedOver("udp")),
        scenario("kernel-relayed", "L and M reach TURN over UDP, and the kernel relays what they say")
            .relay_only()
            .offering(Offer::TurnUdp)
            .expecting(RelayedInKernel),
        scenario("relay-only-tcp", "L and M allow relayed paths only and reach TURN over TCP")
            .relay_only()
            .offering(Offer::TurnTcp)
            .expecting(RelayedOver("tcp")),
        scenario("same-lan", "M and T at home talk without leaving the LAN")
            .between("browser-m", "browser-t")
            .offering(Offer::StunOnly)
            .expecting(HostToHost),
        scenario("udp-blocked", "L in a coffee shop that blocks UDP talks to M through TURN over TCP")
            .with_udp_blocked_at("coffee-shop")
            .offering(Offer::StunAndTurn)
            .expecting(CallerRelayedOver("tcp")),
        scenario("out-of-the-box", "L and M talk through a server without configuration, with what it has printed")
            .with_nats(Symmetric, Symmetric)
            .out_of_the_box()
            .relay_only()
            .expecting(RelayedTwice),
        scenario(
            "only-tls-443",
            "L and M behind firewalls that let out TCP to port 443 only talk through TURN over TLS",
        )
        .with_https_only_at(&["coffee-shop", "home"])
        .offering(Offer::Everything)
        .expecting(RelayedOver("tls")),
    ]
}
