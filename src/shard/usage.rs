//! Who keeps account of what allocations relay hears of their beginning and end here.

use std::fmt;
use std::sync::Arc;

use crate::turn::Event;

/// What a shard tells.
#[derive(Clone, Copy, Debug)]
pub enum Tidings<'e> {
    /// What has happened to one session.
    Event(&'e Event),
    /// The shard has panicked: all its allocations are gone, without events of their own.
    Restarted,
}

/// Hears from all shards, on their threads: it must neither wait nor take long. What one shard tells comes in order.
#[derive(Clone)]
pub struct Accountant(Arc<dyn Fn(u16, Tidings<'_>) + Send + Sync>);

impl Accountant {
    /// `hear` is given the index of the shard, and what it tells.
    pub fn new(hear: impl Fn(u16, Tidings<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    /// What shards do; for tests also others.
    pub fn tell(&self, shard: u16, told: Tidings<'_>) {
        (self.0)(shard, told);
    }
}

impl fmt::Debug for Accountant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Accountant(…)")
    }
}
