//! What goes wrong in mid-call, and what must get media to flow again.

use super::{Scenario, scenario};
use crate::browser::BrowserKind::*;
use crate::call::Offer;
use crate::fault::{Cure, Fault};
use crate::scenario::Expectation::*;
use crate::topology::Nat::*;

pub(super) fn scenarios() -> Vec<Scenario> {
    let rebinding = Fault::Rebinding { router: "coffee-shop".into() };
    let roam = Fault::Roam { host: "browser-l".into(), to: "router-d".into() };
    let renumbering = Fault::Renumbering { host: "browser-l".into() };
    let loss = |permille, seconds| Fault::Loss { router: "coffee-shop".into(), permille, seconds };
    vec![
        scenario("fault-rebinding-direct", "L's NAT changes ports under a direct path; consent finds another pair")
            .with_nats(Symmetric, FullCone)
            .offering(Offer::StunOnly)
            .breaking(rebinding.clone())
            .expecting(Recovers(Cure::AnotherPair)),
        scenario(
            "fault-rebinding-relayed",
            "L's NAT changes ports under TURN over UDP; an ICE restart finds a new relay",
        )
        .with_nats(Symmetric, PortRestricted)
        .relay_only()
        .offering(Offer::TurnUdp)
        .breaking(rebinding)
        .expecting(Recovers(Cure::IceRestart))
        .only_when_asked(),
        scenario("fault-roam", "L leaves the coffee shop for another Wi-Fi; an ICE restart follows it")
            .breaking(roam.clone())
            .expecting(Recovers(Cure::IceRestart)),
        scenario("fault-roam-relayed", "L leaves the coffee shop for another Wi-Fi with relayed paths only")
            .relay_only()
            .offering(Offer::TurnUdp)
            .breaking(roam)
            .expecting(Recovers(Cure::IceRestart))
            .only_when_asked(),
        scenario("fault-renumbering", "L's address changes; an ICE restart announces the new one")
            .breaking(renumbering)
            .expecting(Recovers(Cure::IceRestart))
            .only_when_asked(),
        scenario("fault-loss", "Five percent of L's packets are lost for some seconds; the relayed call goes on")
            .relay_only()
            .offering(Offer::TurnUdp)
            .breaking(loss(50, 6))
            .expecting(Recovers(Cure::Nothing))
            .only_when_asked(),
        scenario("fault-blackout", "L is cut off for three seconds; the relayed call goes on by itself")
            .relay_only()
            .offering(Offer::TurnUdp)
            .breaking(loss(1000, 3))
            .expecting(Recovers(Cure::Nothing))
            .only_when_asked(),
        scenario(
            "fault-relay-restart-udp",
            "The server is killed under TURN over UDP; an ICE restart finds a new relay",
        )
        .relay_only()
        .offering(Offer::TurnUdp)
        .breaking(Fault::RelayRestart)
        .expecting(Recovers(Cure::IceRestart)),
        scenario(
            "fault-relay-restart-tcp",
            "The server is killed under TURN over TCP; an ICE restart finds a new relay",
        )
        .relay_only()
        .offering(Offer::TurnTcp)
        .breaking(Fault::RelayRestart)
        .expecting(Recovers(Cure::IceRestart))
        .only_when_asked(),
        scenario(
            "fault-kernel-switched",
            "The kernel relays, then the process, then the kernel again, in mid-call and by a reload; the call goes on",
        )
        .relay_only()
        .offering(Offer::TurnUdp)
        .breaking(Fault::RelayingSwitched)
        .expecting(Recovers(Cure::Nothing)),
        scenario(
            "fault-firefox-blackout",
            "L in Firefox is cut off for three seconds; the relayed call goes on by itself",
        )
        .in_browsers(Firefox, Chromium)
        .relay_only()
        .offering(Offer::TurnUdp)
        .breaking(loss(1000, 3))
        .expecting(Recovers(Cure::Nothing))
        .only_when_asked(),
        scenario(
            "fault-firefox-relay-restart",
            "The server is killed under TURN over UDP in Firefox and Firefox; an ICE restart finds a new relay",
        )
        .in_browsers(Firefox, Firefox)
        .relay_only()
        .offering(Offer::TurnUdp)
        .breaking(Fault::RelayRestart)
        .expecting(Recovers(Cure::IceRestart))
        .only_when_asked(),
    ]
}
