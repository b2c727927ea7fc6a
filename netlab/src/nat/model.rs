//! Who reaches whom by punching holes, from RFC 4787 alone: two NATs in pure code and the packets of an attempt.
//!
//! One thing is taken from practice: an answer leaves by the mapping by which the question came in, as with everything
//! that tracks sessions, Linux included. With address-dependent mapping that decides.

use super::{Behaviour, Filtering, Mapping, Nat};

/// Who sends first; the other one follows when that packet has arrived or been dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first of a pair.
    FirstFirst,
    /// The second of a pair.
    SecondFirst,
}

impl Order {
    /// Both.
    pub const BOTH: [Order; 2] = [Order::FirstFirst, Order::SecondFirst];
}

/// How often each side tries its targets. Nothing new happens after three.
const ROUNDS: usize = 5;

/// A host's external address and a port there.
type Endpoint = (Host, u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Server,
    Side(usize),
}

/// Whether two hosts behind these NATs come to hear each other, when each knows only the address at which a STUN server
/// sees the other, and answers whom it hears.
pub fn reaches(nats: [Nat; 2], order: Order) -> bool {
    let mut sides = nats.map(|nat| Side::new(nat.behaviour()));
    let [first, second] = [0, 1].map(|side| sides[side].sends_to((Host::Server, 3478)));
    sides[0].targets.push((Host::Side(1), second));
    sides[1].targets.push((Host::Side(0), first));
    let turns = match order {
        Order::FirstFirst => [0, 1],
        Order::SecondFirst => [1, 0],
    };
    for _ in 0..ROUNDS {
        for sender in turns {
            for target in sides[sender].targets.clone() {
                let source = (Host::Side(sender), sides[sender].sends_to(target));
                let (_, port) = target;
                let has_heard = sides[sender].has_heard;
                let receiver = &mut sides[1 - sender];
                if receiver.lets_in(source, port) {
                    receiver.has_heard = true;
                    receiver.is_heard |= has_heard;
                    if !receiver.targets.contains(&source) {
                        receiver.targets.push(source);
                    }
                }
            }
        }
    }
    sides.iter().all(|side| side.is_heard)
}

/// A host with one socket, and the NAT in front of it.
struct Side {
    behaviour: Option<Behaviour>,
    mappings: Vec<(Endpoint, u16)>,
    /// Remote endpoints that are being spoken to, and by which external port.
    sessions: Vec<(Endpoint, u16)>,
    /// Everybody it has sent to.
    contacted: Vec<Endpoint>,
    /// Where an unguarded NAT has taken a packet for the router's own.
    misunderstood: Vec<(Endpoint, u16)>,
    last_port: u16,
    targets: Vec<Endpoint>,
    has_heard: bool,
    is_heard: bool,
}

impl Side {
    fn new(behaviour: Option<Behaviour>) -> Side {
        Side {
            behaviour,
            mappings: Vec::new(),
            sessions: Vec::new(),
            contacted: Vec::new(),
            misunderstood: Vec::new(),
            last_port: 1000,
            targets: Vec::new(),
            has_heard: false,
            is_heard: false,
        }
    }

    fn new_port(&mut self) -> u16 {
        self.last_port += 1;
        self.last_port
    }

    /// The external port by which a packet to this endpoint leaves.
    fn sends_to(&mut self, remote: Endpoint) -> u16 {
        let Some(behaviour) = self.behaviour else { return 1000 };
        self.contacted.push(remote);
        if let Some((_, port)) = self.sessions.iter().find(|(other, _)| *other == remote) {
            return *port;
        }
        let same = |other: Endpoint| match behaviour.mapping {
            Mapping::EndpointIndependent => true,
            Mapping::AddressDependent => other.0 == remote.0,
            Mapping::AddressAndPortDependent => other == remote,
        };
        let known = self.mappings.iter().find(|(other, _)| same(*other)).map(|(_, port)| *port);
        let mut port = known.unwrap_or_else(|| self.new_port());
        if known.is_none() {
            self.mappings.push((remote, port));
        }
        if self.misunderstood.contains(&(remote, port)) {
            port = self.new_port();
        }
        self.sessions.push((remote, port));
        port
    }

    /// Whether a packet from this endpoint to an external port arrives.
    fn lets_in(&mut self, remote: Endpoint, port: u16) -> bool {
        let Some(behaviour) = self.behaviour else { return true };
        if self.sessions.contains(&(remote, port)) {
            return true;
        }
        let is_mapped = self.mappings.iter().any(|(_, other)| *other == port);
        let passes = match behaviour.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => self.contacted.iter().any(|other| other.0 == remote.0),
            Filtering::AddressAndPortDependent => false,
        };
        if is_mapped && passes {
            self.sessions.retain(|(other, _)| *other != remote);
            self.sessions.push((remote, port));
            return true;
        }
        if !behaviour.guarded {
            self.misunderstood.push((remote, port));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As engineers know it: a relay is needed where one side's mapping depends on the destination's port and the other
    /// side filters by port.
    #[test]
    fn only_symmetric_against_what_filters_by_port_needs_a_relay() {
        let usual = Nat::PRESETS.into_iter().filter(|nat| *nat != Nat::BareMasquerade);
        for first in usual.clone() {
            for second in usual.clone() {
                let of = |nat: Nat| nat.behaviour();
                let is_symmetric =
                    |nat: Nat| of(nat).is_some_and(|nat| nat.mapping == Mapping::AddressAndPortDependent);
                let by_port = |nat: Nat| of(nat).is_some_and(|nat| nat.filtering == Filtering::AddressAndPortDependent);
                let expected = !(is_symmetric(first) && by_port(second) || is_symmetric(second) && by_port(first));
                for order in Order::BOTH {
                    assert_eq!(reaches([first, second], order), expected, "{first} and {second}, {order:?}");
                }
            }
        }
    }

    #[test]
    fn a_bare_masquerade_works_when_it_is_first() {
        let pair = |second| [Nat::BareMasquerade, second];
        assert!(reaches(pair(Nat::PortRestricted), Order::FirstFirst));
        assert!(!reaches(pair(Nat::PortRestricted), Order::SecondFirst));
        for order in Order::BOTH {
            assert!(reaches(pair(Nat::FullCone), order));
            assert!(reaches(pair(Nat::AddressRestricted), order));
            assert!(reaches(pair(Nat::AddressDependent), order));
            assert!(reaches(pair(Nat::None), order));
            assert!(!reaches(pair(Nat::BareMasquerade), order));
            assert!(!reaches(pair(Nat::Symmetric), order));
        }
    }
}
