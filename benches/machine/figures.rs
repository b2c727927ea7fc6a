//! What metrics cost: a shard that publishes what it has counted, and a scrape of all shards.

use hairpin::ops::ShardCollector;
use hairpin::shard::{ShellCounters, Slot, Snapshot};
use hairpin::turn::Counters;
use prometheus::{Registry, TextEncoder};

/// What every scrape reads.
pub struct Figures {
    slots: std::sync::Arc<[Slot]>,
    machine: Counters,
    earlier: Counters,
    shell: ShellCounters,
    registry: Registry,
}

impl Figures {
    /// Of so many shards.
    pub fn new(shards: usize) -> Self {
        let slots: std::sync::Arc<[Slot]> = (0..shards).map(|_| Slot::default()).collect();
        let (registry, all) = (Registry::new(), slots.clone());
        let collector = ShardCollector::new(move || Snapshot::of(all.iter()));
        registry.register(Box::new(collector)).expect("the only collector");
        Self {
            slots,
            machine: Counters::default(),
            earlier: Counters::default(),
            shell: ShellCounters::default(),
            registry,
        }
    }

    /// A shard is about to sleep.
    pub fn publish(&mut self) {
        self.shell.datagrams_received += 1;
        self.slots[0].publish_all(&self.machine, &self.earlier, &self.shell, |copy| copy.allocations = 1);
    }

    /// Somebody asks for /metrics; the page's length.
    pub fn scrape(&self) -> usize {
        TextEncoder::new().encode_to_string(&self.registry.gather()).expect("it is text").len()
    }
}
