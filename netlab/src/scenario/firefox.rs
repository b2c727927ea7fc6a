//! Firefox with itself and with Chromium.

use super::{Scenario, scenario};
use crate::browser::BrowserKind::*;
use crate::call::Offer;
use crate::scenario::Expectation::*;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("firefox-relay-only-udp", "L and M in Firefox allow relayed paths only and reach TURN over UDP")
            .in_browsers(Firefox, Firefox)
            .relay_only()
            .offering(Offer::TurnUdp)
            .expecting(RelayedOver("udp")),
        scenario("firefox-relay-only-tcp", "L in Chromium and M in Firefox, relayed paths only, reach TURN over TCP")
            .in_browsers(Chromium, Firefox)
            .relay_only()
            .offering(Offer::TurnTcp)
            .expecting(RelayedOver("tcp")),
        scenario("firefox-relay-only-tls", "L in Firefox and M in Chromium, relayed paths only, reach TURN over TLS")
            .in_browsers(Firefox, Chromium)
            .relay_only()
            .offering(Offer::TurnTls)
            .expecting(RelayedOver("tls")),
    ]
}
