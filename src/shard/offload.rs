//! What stands between the machine and whoever mirrors its flows: what only the shell knows is a reason to refuse, and
//! nothing that a server has begun outlives it.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::turn::{FiveTuple, Flow, FlowId, Now, Offload, Passed};

/// Makes a mirror for each shard, by its index; called again for the server that follows a panic.
#[derive(Clone)]
pub struct Mirrors(Arc<dyn Fn(u16) -> Box<dyn Offload> + Send + Sync>);

impl Mirrors {
    /// The function is called on the threads of the shards. It must not take long.
    pub fn new(make: impl Fn(u16) -> Box<dyn Offload> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    /// A mirror for the server of this shard.
    pub(super) fn make(&self, shard: u16, proxied: Proxied) -> Box<dyn Offload> {
        Box::new(Guard { mirror: (self.0)(shard), proxied, flows: HashSet::default() })
    }
}

impl fmt::Debug for Mirrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mirrors(…)")
    }
}

/// Clients whose datagrams come through a proxy: on the wire they have other addresses than the machine is told. Written by
/// [`super::routes`]; of one shard, so that nobody ever waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxied(Arc<Mutex<HashSet<FiveTuple>>>);

impl Proxied {
    pub(super) fn insert(&self, path: FiveTuple) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
    }

    pub(super) fn remove(&self, path: &FiveTuple) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
    }

    fn contains(&self, path: &FiveTuple) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(path)
    }
}

/// The mirror of one server. Whatever still is mirrored when this is dropped, as in a panic, ends.
#[derive(Debug)]
struct Guard {
    mirror: Box<dyn Offload>,
    proxied: Proxied,
    flows: HashSet<FlowId>,
}

impl Offload for Guard {
    fn mirror(&mut self, flow: &Flow, until: Now) -> Option<FlowId> {
        if self.proxied.contains(&flow.path) {
            return None;
        }
        self.mirror.mirror(flow, until).inspect(|id| _ = self.flows.insert(*id))
    }

    fn extend(&mut self, flow: FlowId, until: Now) {
        self.mirror.extend(flow, until);
    }

    fn passed(&mut self, flow: FlowId) -> [Passed; 2] {
        self.mirror.passed(flow)
    }

    fn unmirror(&mut self, flow: FlowId) -> [Passed; 2] {
        self.flows.remove(&flow);
        self.mirror.unmirror(flow)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        for flow in self.flows.drain() {
            self.mirror.unmirror(flow);
        }
    }
}
