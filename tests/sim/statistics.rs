//! Counts of a run.

/// What happened in a run; a simulation in which nothing happens proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    pub steps: u64,
    pub allocated: u64,
    pub ended: u64,
    pub to_peer: u64,
    pub to_client: u64,
    pub across_shards: u64,
    pub dropped: u64,
    pub refused: u64,
    pub binds_failed: u64,
    pub reloads: u64,
    pub received_by_clients: u64,
    pub passed_on: u64,
    pub moved: u64,
    pub icmp: u64,
    pub redeemed: u64,
    pub dual: u64,
    pub mirrored_to_peer: u64,
    pub mirrored_to_client: u64,
    pub mirrored_indications: u64,
    pub mirrored_across_shards: u64,
    pub mirror_forgot: u64,
}

impl Statistics {
    pub fn named(&self) -> [(&'static str, u64); 21] {
        [
            ("steps", self.steps),
            ("allocated", self.allocated),
            ("ended", self.ended),
            ("to peer", self.to_peer),
            ("to client", self.to_client),
            ("across shards", self.across_shards),
            ("dropped", self.dropped),
            ("refused", self.refused),
            ("binds failed", self.binds_failed),
            ("reloads", self.reloads),
            ("received by clients", self.received_by_clients),
            ("passed on between shards", self.passed_on),
            ("moved", self.moved),
            ("ICMP told", self.icmp),
            ("tokens redeemed at another shard", self.redeemed),
            ("dual", self.dual),
            ("mirrored to peer", self.mirrored_to_peer),
            ("mirrored to client", self.mirrored_to_client),
            ("mirrored indications", self.mirrored_indications),
            ("mirrored across shards", self.mirrored_across_shards),
            ("mirror forgot", self.mirror_forgot),
        ]
    }

    pub fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.allocated += other.allocated;
        self.ended += other.ended;
        self.to_peer += other.to_peer;
        self.to_client += other.to_client;
        self.across_shards += other.across_shards;
        self.dropped += other.dropped;
        self.refused += other.refused;
        self.binds_failed += other.binds_failed;
        self.reloads += other.reloads;
        self.received_by_clients += other.received_by_clients;
        self.passed_on += other.passed_on;
        self.moved += other.moved;
        self.icmp += other.icmp;
        self.redeemed += other.redeemed;
        self.dual += other.dual;
        self.mirrored_to_peer += other.mirrored_to_peer;
        self.mirrored_to_client += other.mirrored_to_client;
        self.mirrored_indications += other.mirrored_indications;
        self.mirrored_across_shards += other.mirrored_across_shards;
        self.mirror_forgot += other.mirror_forgot;
    }
}
