//! Where answers leave to clients whose datagrams come through a proxy: the machine knows the client, the network only
//! the proxy.
//!
//! The address in a proxy's header cannot be reached from here, so the way back has to be remembered. For a client with
//! an allocation that is as long as the allocation lives; for the rest, who are about to be answered, there is a small
//! ring, so that strangers cost no memory however many they are.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use super::offload::Proxied;
use crate::turn::FiveTuple;

/// Clients without an allocation that are remembered. Each answer is on its way within microseconds, or within the time
/// that another shard or a back end takes.
const RECENT_MAX: usize = 1024;

/// How to reach the sender of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Whose socket sends.
    pub(super) listener: usize,
    /// The sender: the client itself, or its proxy.
    pub(super) to: SocketAddr,
    /// The address of ours that it sent to.
    pub(super) from: SocketAddr,
}

/// The ways back through proxies, by the client's 5-tuple.
#[derive(Debug)]
pub(super) struct Routes {
    by_path: HashMap<FiveTuple, Entry, ahash::RandomState>,
    /// Of those without an allocation, the oldest first.
    recent: VecDeque<FiveTuple>,
    /// Those in `by_path` whose datagrams have other addresses than their own.
    proxied: Proxied,
}

#[derive(Debug)]
struct Entry {
    route: Route,
    allocations: usize,
}

impl Routes {
    /// None yet.
    pub(super) fn new(hasher: ahash::RandomState) -> Self {
        Self { by_path: HashMap::with_hasher(hasher), recent: VecDeque::new(), proxied: Proxied::default() }
    }

    /// This client has just been heard this way.
    pub(super) fn learn(&mut self, path: FiveTuple, route: Route) {
        if let Some(entry) = self.by_path.get_mut(&path) {
            entry.route = route;
            return;
        }
        self.by_path.insert(path, Entry { route, allocations: 0 });
        if (route.to, route.from) != (path.client, path.server) {
            self.proxied.insert(path);
        }
        self.remember(path);
    }

    /// Which way this client was heard last.
    pub(super) fn get(&self, path: &FiveTuple) -> Option<Route> {
        self.by_path.get(path).map(|entry| entry.route)
    }

    /// Those who are behind a proxy, for whoever has to leave them out.
    pub(super) fn proxied(&self) -> Proxied {
        self.proxied.clone()
    }

    /// The client has one allocation more.
    pub(super) fn hold(&mut self, path: &FiveTuple) {
        if let Some(entry) = self.by_path.get_mut(path) {
            entry.allocations += 1;
        }
    }

    /// The client has one allocation less.
    pub(super) fn release(&mut self, path: &FiveTuple) {
        let Some(entry) = self.by_path.get_mut(path) else {
            return;
        };
        entry.allocations = entry.allocations.saturating_sub(1);
        if entry.allocations == 0 {
            // Its last answer is not sent yet.
            self.remember(*path);
        }
    }

    fn remember(&mut self, path: FiveTuple) {
        if self.recent.len() >= RECENT_MAX
            && let Some(oldest) = self.recent.pop_front()
            && self.by_path.get(&oldest).is_some_and(|entry| entry.allocations == 0)
        {
            self.by_path.remove(&oldest);
            self.proxied.remove(&oldest);
        }
        self.recent.push_back(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::Transport;

    fn path(client: u32) -> FiveTuple {
        FiveTuple {
            transport: Transport::Udp,
            client: SocketAddr::new(std::net::Ipv4Addr::from(client).into(), 1),
            server: "203.0.113.5:3478".parse().unwrap(),
        }
    }

    fn route(port: u16) -> Route {
        Route { listener: 0, to: ([10, 0, 0, 1], port).into(), from: ([10, 0, 0, 2], 3478).into() }
    }

    #[test]
    fn strangers_are_forgotten_and_clients_are_not() {
        let mut routes = Routes::new(ahash::RandomState::with_seeds(1, 2, 3, 4));
        routes.learn(path(0), route(1));
        routes.hold(&path(0));
        for client in 1..10 * RECENT_MAX as u32 {
            routes.learn(path(client), route(2));
            assert_eq!(routes.get(&path(client)), Some(route(2)));
        }
        assert_eq!(routes.get(&path(0)), Some(route(1)));
        assert!(routes.by_path.len() <= RECENT_MAX + 1 && routes.recent.len() <= RECENT_MAX);
        // The proxy has taken another port for it.
        routes.learn(path(0), route(3));
        assert_eq!(routes.get(&path(0)), Some(route(3)));
        routes.release(&path(0));
        assert_eq!(routes.get(&path(0)), Some(route(3)), "the answer to the end");
        (1..=RECENT_MAX as u32).for_each(|client| routes.learn(path(1 << 20 | client), route(2)));
        assert_eq!(routes.get(&path(0)), None);
    }
}
