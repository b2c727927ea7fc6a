//! Networks people really sit in, each a topology of its own.

use super::{Scenario, scenario};
use crate::call::Offer;
use crate::scenario::Expectation::*;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("carrier-nat", "L in a coffee shop and M at home behind a carrier's NAT talk through the relay")
            .on("carrier")
            .expecting(Relayed)
            .only_when_asked(),
        scenario("cloud", "L and M talk through a server that sits behind the 1:1 NAT of a cloud")
            .on("cloud")
            .relay_only()
            .offering(Offer::TurnUdp)
            .expecting(RelayedOver("udp")),
        scenario("two-nodes", "L and M talk from relay to relay, each with a server of its own")
            .on("two-nodes")
            .relay_only()
            .offering(Offer::TurnUdp)
            .expecting(RelayedOver("udp")),
        scenario("hotel", "L in a hotel with nothing but TCP to port 443 talks to M at home through TURN over TLS")
            .on("hotel")
            .offering(Offer::Everything)
            .expecting(CallerRelayedOver("tls"))
            .only_when_asked(),
        scenario("ipv6-firewalls", "L and M behind symmetric NATs and stateful IPv6 firewalls talk directly over IPv6")
            .on("ipv6-firewalls")
            .offering(Offer::StunOnly)
            .expecting(HostToHost),
        scenario("narrow", "L and M talk through the relay over links that carry 1,280 bytes")
            .on("narrow")
            .relay_only()
            .offering(Offer::TurnUdp)
            .expecting(RelayedOver("udp"))
            .only_when_asked(),
        scenario("office", "L in an office with an HTTP proxy only talks to M at home through TURN over TLS")
            .on("office")
            .offering(Offer::Everything)
            .expecting(CallerRelayedOver("tls")),
        scenario("nat64", "L in a mobile network with IPv6 only reaches TURN through NAT64 and talks to M")
            .on("nat64")
            .offering(Offer::StunAndTurn)
            .expecting(Relayed),
        scenario("lossy", "L and M talk through the relay over a slow and late link that loses packets")
            .on("lossy")
            .relay_only()
            .offering(Offer::TurnUdp)
            .expecting(RelayedOver("udp"))
            .only_when_asked(),
    ]
}
