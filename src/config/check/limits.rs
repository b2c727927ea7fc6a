//! `[limits]`: how much there may be.

use super::{CHANNELS_MAX, Checker, HOUR, KIB, MIB, TABLE_MAX};
use crate::config::values::{self, Mistake};
use crate::config::written;
use crate::shard;
use crate::turn;

/// Permissions or channels.
pub(super) const HELD_MAX: i64 = 100_000_000;
/// Bytes a second. Less is of no use for a call.
const RATE_MIN: u64 = 1_000;
/// Bytes a second: a terabit.
const RATE_MAX: u64 = 125_000_000_000;

impl Checker<'_> {
    pub(super) fn table_limits(&mut self, written: &written::Limits, allocations: usize, threads: u16) -> turn::Limits {
        let answers = self.count("limits.answers_per_prefix", written.answers_per_prefix, 0..=1_000_000_000);
        // The kernel spreads the ports of one network over all shards.
        let answers_per_prefix = answers.div_ceil(usize::from(threads)) as u32;
        turn::Limits {
            // Clients spread over shards by chance, so a single one may have to hold nearly all of them.
            allocations,
            permissions_per_allocation: self.count(
                "limits.permissions_per_allocation",
                written.permissions_per_allocation,
                1..=65_536,
            ),
            channels_per_allocation: self.count(
                "limits.channels_per_allocation",
                written.channels_per_allocation,
                1..=CHANNELS_MAX,
            ),
            mirrored_flows_per_allocation: self.count(
                "limits.mirrored_flows_per_allocation",
                written.mirrored_flows_per_allocation,
                0..=CHANNELS_MAX,
            ),
            effects: self.count("limits.pending_effects", written.pending_effects, 64..=TABLE_MAX),
            answers_per_prefix,
            peer_ports_per_allocation: self.count(
                "limits.peer_ports_per_allocation",
                written.peer_ports_per_allocation,
                0..=1_000,
            ) as u32,
            foreign_packets_percent: self.count(
                "limits.foreign_packets_percent",
                written.foreign_packets_percent,
                0..=99,
            ) as u32,
            bandwidth: turn::Bandwidth {
                per_allocation: self.rate("limits.bandwidth_per_allocation", &written.bandwidth_per_allocation),
                per_account: self.rate("limits.bandwidth_per_user", &written.bandwidth_per_user),
                total: self.rate("limits.bandwidth_total", &written.bandwidth_total),
            },
        }
    }

    pub(super) fn connection_limits(&mut self, written: &written::Limits) -> shard::ConnectionLimits {
        let total = self.count("limits.connections", written.connections, 1..=TABLE_MAX);
        shard::ConnectionLimits {
            total,
            per_prefix: self.half_or("limits.connections_per_prefix", written.connections_per_prefix, total),
            per_address: self.count("limits.connections_per_address", written.connections_per_address, 1..=TABLE_MAX),
            // Less could not hold the largest message.
            send_buffer_bytes: self.size(
                "limits.connection_send_buffer",
                &written.connection_send_buffer,
                128 * KIB..=64 * MIB,
            ),
            idle_secs: self.duration("limits.connection_idle", &written.connection_idle, 5..=HOUR),
        }
    }

    pub(super) fn quotas(
        &mut self,
        written: &written::Limits,
        allocations: usize,
        peer_connections: usize,
    ) -> shard::Quotas {
        let per_user = &[
            ("limits.allocations_per_user", written.allocations_per_user, TABLE_MAX),
            ("limits.permissions_per_user", written.permissions_per_user, HELD_MAX),
            ("limits.channels_per_user", written.channels_per_user, HELD_MAX),
            ("limits.peer_connections_per_user", written.peer_connections_per_user, TABLE_MAX),
        ];
        let [allocations_per_account, permissions, channels, connections] =
            per_user.map(|(key, count, max)| self.count(key, count, 1..=max));
        let (key, of_prefix) = ("limits.peer_connections_per_prefix", written.peer_connections_per_prefix);
        shard::Quotas {
            allocations,
            allocations_per_account,
            allocations_per_prefix: self.half_or(
                "limits.allocations_per_prefix",
                written.allocations_per_prefix,
                allocations,
            ),
            per_account: turn::HeldQuotas { permissions, channels, peer_connections: connections },
            per_prefix: turn::HeldQuotas {
                permissions: self.count("limits.permissions_per_prefix", written.permissions_per_prefix, 1..=HELD_MAX),
                channels: self.count("limits.channels_per_prefix", written.channels_per_prefix, 1..=HELD_MAX),
                peer_connections: self.half_or(key, of_prefix, peer_connections),
            },
            in_all: turn::HeldQuotas {
                permissions: self.count("limits.permissions", written.permissions, 1..=HELD_MAX),
                channels: self.count("limits.channels", written.channels, 1..=HELD_MAX),
                peer_connections: usize::MAX,
            },
        }
    }

    /// What one network may have, where zero is half of all.
    fn half_or(&mut self, key: &str, count: i64, all: usize) -> usize {
        match self.count(key, count, 0..=TABLE_MAX) {
            0 => all.div_ceil(2),
            count => count,
        }
    }

    /// In bytes a second; zero for `off`.
    pub(super) fn rate(&mut self, key: &str, text: &str) -> u64 {
        if text == "off" {
            return 0;
        }
        let in_bounds = values::rate_bytes(text).and_then(|rate| {
            let wrong = || Mistake::new(format!("\"{text}\" is out of bounds"), "write \"8kbit/s\" to \"1000Gbit/s\"");
            (RATE_MIN..=RATE_MAX).contains(&rate).then_some(rate).ok_or_else(wrong)
        });
        self.accept(key, in_bounds).unwrap_or(RATE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{accept, check};
    use crate::turn::{Bandwidth, HeldQuotas};

    #[test]
    fn each_mistake_is_refused_with_key_and_remedy() {
        let refused = [
            ("permissions_per_user = 0", ("limits.permissions_per_user", "out of bounds", "from 1 to 100000000")),
            ("channels_per_prefix = 0", ("limits.channels_per_prefix", "out of bounds", "from 1 to 100000000")),
            ("connections_per_prefix = -1", ("limits.connections_per_prefix", "out of bounds", "from 0 to")),
            ("peer_connections_per_user = 0", ("limits.peer_connections_per_user", "out of bounds", "from 1 to")),
            ("allocations_per_prefix = -1", ("limits.allocations_per_prefix", "out of bounds", "from 0 to")),
            ("bandwidth_total = \"1GB\"", ("limits.bandwidth_total", "not a rate", "\"10Mbit/s\"")),
            ("bandwidth_per_user = \"5\"", ("limits.bandwidth_per_user", "not a rate", "\"off\"")),
            ("bandwidth_per_allocation = \"1bit/s\"", ("limits.bandwidth_per_allocation", "out of bounds", "8kbit/s")),
        ];
        for (text, (key, wrong, fix)) in refused {
            let told = check(&format!("[limits]\n{text}")).expect_err(text).to_string();
            assert!([key, wrong, fix].iter().all(|part| told.contains(part)), "{text}\n{told}");
        }
    }

    #[test]
    fn what_is_not_written_is_bounded_or_off() {
        let config = accept("");
        assert_eq!(config.shards.turn.limits.bandwidth, Bandwidth::default());
        assert_eq!(config.shards.quotas.allocations_per_prefix, 8192);
        let HeldQuotas { permissions, channels, peer_connections } = config.shards.quotas.per_prefix;
        assert_eq!((permissions, channels, peer_connections), (131_072, 131_072, 2048));
        assert_eq!(config.shards.connections.per_prefix, 8192);
        assert_eq!(accept("[limits]\nallocations = 7").shards.quotas.allocations_per_prefix, 4);
        let few = accept("[limits]\nconnections = 5\npeer_connections_per_prefix = 6").shards;
        assert_eq!((few.connections.per_prefix, few.quotas.per_prefix.peer_connections), (3, 6));
        let written = "[limits]\nallocations_per_prefix = 9\nbandwidth_per_allocation = \"2.5Mbit/s\"\n\
                       bandwidth_per_user = \"10Mbit/s\"\nbandwidth_total = \"1Gbit/s\"";
        let config = accept(written);
        assert_eq!(config.shards.quotas.allocations_per_prefix, 9);
        let expected = Bandwidth { per_allocation: 312_500, per_account: 1_250_000, total: 125_000_000 };
        assert_eq!(config.shards.turn.limits.bandwidth, expected);
    }
}
