//! What a shard has counted, where others can read it.
//!
//! The shard counts in plain integers of its own and now and then puts a copy into its [`Slot`]: before it sleeps, so
//! that the copy of an idle shard is exact, and ten times a second while it does not sleep.

use std::sync::{Mutex, PoisonError};

use crate::net::{HandshakeFailure, ProxyRefusal, SocketErrors};
use crate::turn;

/// Sums of the shell of one shard, since it was started; a restart after a panic does not reset them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShellCounters {
    /// Datagrams read from sockets of listeners and relays.
    pub datagrams_received: u64,
    /// System calls that read at least one datagram.
    pub receive_batches: u64,
    /// Datagrams the kernel took.
    pub datagrams_sent: u64,
    /// System calls that sent datagrams.
    pub send_batches: u64,
    /// Datagrams the kernel dropped because the receive queue of a socket was full, as far as it has said so.
    pub receive_queue_drops: u64,
    /// Errors of system calls on sockets, by kind.
    pub socket_errors: SocketErrors,
    /// Relayed messages dropped because the client reads its connection too slowly (TURN-8656-LIFE-04).
    pub send_buffer_drops: u64,
    /// Packets to relays of other shards dropped because the mailbox there was full.
    pub mailbox_overflows: u64,
    /// Packets for an allocation, connection or listener that was gone when they were to be sent.
    pub unsendable: u64,
    /// Connections accepted and kept.
    pub connections_accepted: u64,
    /// Connections that came from another shard, because their client has business here.
    pub connections_moved: u64,
    /// Connections closed at once, because there are too many altogether or from that address.
    pub connections_refused: u64,
    /// Those of them that had too many from their address.
    pub connections_refused_per_address: u64,
    /// Those of them that had too many from their network.
    pub connections_refused_per_prefix: u64,
    /// Connections closed because their bytes were no messages (any more).
    pub connections_lost_framing: u64,
    /// Connections closed because their bytes were not TLS (any more).
    pub connections_broken_tls: u64,
    /// Connections closed because their client had asked for Binding only and then for something else.
    pub connections_not_binding: u64,
    /// Connections closed because nothing came for too long.
    pub connections_idle: u64,
    /// What came through a proxy, or should have, and was not served, as in [`ProxyRefusal::ALL`].
    pub proxy_refusals: [u64; ProxyRefusal::ALL.len()],
    /// ClientHellos of DTLS answered with a cookie.
    pub dtls_cookies: u64,
    /// Datagrams to DTLS listeners, and messages to DTLS clients, that were dropped, as in [`DtlsDrop::ALL`].
    pub dtls_drops: [u64; DtlsDrop::ALL.len()],
    /// Connections to and from peers refused because there are too many on the whole server.
    pub peers_refused: u64,
    /// How often a panic has cost this shard its allocations.
    pub shard_restarts: u64,
    /// Time not spent waiting, in nanoseconds.
    pub busy_nanos: u64,
}

/// Why something was dropped where DTLS is spoken; a metric label each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtlsDrop {
    /// Not DTLS, on a listener that speaks nothing else.
    NotDtls,
    /// Neither a ClientHello that could be understood nor a record.
    Malformed,
    /// A record from somebody without association or handshake: strangers, and clients of a server before a restart.
    NoAssociation,
    /// More waits for the thread of the handshakes than may.
    Overflow,
    /// A message that fits no record (DTLS-7350-3-08).
    Oversized,
}

impl DtlsDrop {
    /// Every reason.
    pub const ALL: &'static [Self] =
        &[Self::NotDtls, Self::Malformed, Self::NoAssociation, Self::Overflow, Self::Oversized];

    /// Its name in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotDtls => "not_dtls",
            Self::Malformed => "malformed",
            Self::NoAssociation => "no_association",
            Self::Overflow => "overflow",
            Self::Oversized => "oversized",
        }
    }
}

/// Everything of one shard, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardSnapshot {
    /// What the machine has counted, those before a restart included.
    pub turn: turn::Counters,
    /// What its shell has counted.
    pub shell: ShellCounters,
    /// Allocations alive.
    pub allocations: usize,
    /// Connections open, without client data connections.
    pub connections: usize,
    /// Connections between TCP relays and peers, open or being made.
    pub peer_connections: usize,
    /// Requests that wait for a key.
    pub requests_waiting: usize,
    /// Relayed addresses alive.
    pub relayed_addresses: turn::RelayedAddresses,
    /// Flows that somebody else relays now.
    pub flows_mirrored: usize,
}

/// All shards at about the same moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Their sums.
    pub total: ShardSnapshot,
    /// Each by its index.
    pub shards: Vec<ShardSnapshot>,
    /// What happens before a shard gets a TLS connection; zero without TLS.
    pub tls: TlsCounters,
}

impl Snapshot {
    /// Adds up what all of them have published.
    pub fn of<'s>(slots: impl IntoIterator<Item = &'s Slot>) -> Self {
        let shards: Vec<ShardSnapshot> = slots.into_iter().map(Slot::read).collect();
        let mut total = ShardSnapshot::default();
        shards.iter().for_each(|shard| total.add(shard));
        Self { total, shards, tls: TlsCounters::default() }
    }
}

/// Handshakes, over all TLS listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsCounters {
    /// Handshakes that ended well.
    pub completed: u64,
    /// Those that did not, as in [`HandshakeFailure::ALL`].
    pub failures: [u64; HandshakeFailure::ALL.len()],
    /// Connections closed at once, because there are too many altogether or from that address. Part of the total of
    /// [`ShellCounters::connections_refused`].
    pub refused: u64,
    /// Those of them that had too many from their address.
    pub refused_per_address: u64,
    /// Those of them that had too many from their network.
    pub refused_per_prefix: u64,
    /// Those of them that came while too many handshakes of DTLS were going on.
    pub refused_by_handshakes: u64,
    /// Part of the total of [`ShellCounters::socket_errors`].
    pub socket_errors: SocketErrors,
    /// Part of the total of [`ShellCounters::proxy_refusals`].
    pub proxy_refusals: [u64; ProxyRefusal::ALL.len()],
    /// Handshakes, and what comes before them, not over yet.
    pub in_progress: usize,
}

impl TlsCounters {
    pub(super) fn fail(&mut self, why: HandshakeFailure) {
        self.failures[why as usize] += 1;
    }
}

impl Snapshot {
    pub(super) fn add_tls(&mut self, tls: TlsCounters) {
        self.total.shell.connections_refused += tls.refused;
        self.total.shell.connections_refused_per_address += tls.refused_per_address;
        self.total.shell.connections_refused_per_prefix += tls.refused_per_prefix;
        add_each(&mut self.total.shell.socket_errors.0, &tls.socket_errors.0);
        add_each(&mut self.total.shell.proxy_refusals, &tls.proxy_refusals);
        self.tls = tls;
    }
}

impl ShardSnapshot {
    fn add(&mut self, other: &Self) {
        // Taken apart completely, here and below, so that a new counter cannot be forgotten.
        let Self {
            turn,
            shell,
            allocations,
            connections,
            peer_connections,
            requests_waiting,
            relayed_addresses,
            flows_mirrored,
        } = other;
        add_machine(&mut self.turn, turn);
        self.shell.add(shell);
        self.allocations += allocations;
        self.connections += connections;
        self.peer_connections += peer_connections;
        self.requests_waiting += requests_waiting;
        self.flows_mirrored += flows_mirrored;
        for (sums, counts) in self.relayed_addresses.iter_mut().zip(relayed_addresses) {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
}

impl ShellCounters {
    fn add(&mut self, other: &Self) {
        let Self {
            datagrams_received,
            receive_batches,
            datagrams_sent,
            send_batches,
            receive_queue_drops,
            socket_errors,
            send_buffer_drops,
            mailbox_overflows,
            unsendable,
            connections_accepted,
            connections_moved,
            connections_refused,
            connections_refused_per_address,
            connections_refused_per_prefix,
            connections_lost_framing,
            connections_broken_tls,
            connections_not_binding,
            connections_idle,
            proxy_refusals,
            dtls_cookies,
            dtls_drops,
            peers_refused,
            shard_restarts,
            busy_nanos,
        } = other;
        self.datagrams_received += datagrams_received;
        self.receive_batches += receive_batches;
        self.datagrams_sent += datagrams_sent;
        self.send_batches += send_batches;
        self.receive_queue_drops += receive_queue_drops;
        add_each(&mut self.socket_errors.0, &socket_errors.0);
        self.send_buffer_drops += send_buffer_drops;
        self.mailbox_overflows += mailbox_overflows;
        self.unsendable += unsendable;
        self.connections_accepted += connections_accepted;
        self.connections_moved += connections_moved;
        self.connections_refused += connections_refused;
        self.connections_refused_per_address += connections_refused_per_address;
        self.connections_refused_per_prefix += connections_refused_per_prefix;
        self.connections_lost_framing += connections_lost_framing;
        self.connections_broken_tls += connections_broken_tls;
        self.connections_not_binding += connections_not_binding;
        self.connections_idle += connections_idle;
        add_each(&mut self.proxy_refusals, proxy_refusals);
        self.dtls_cookies += dtls_cookies;
        add_each(&mut self.dtls_drops, dtls_drops);
        self.peers_refused += peers_refused;
        self.shard_restarts += shard_restarts;
        self.busy_nanos += busy_nanos;
    }
}

/// Adds up what two machines have counted.
pub(super) fn add_machine(sum: &mut turn::Counters, other: &turn::Counters) {
    let turn::Counters {
        requests,
        successes,
        errors,
        drops,
        rejections,
        look_ups,
        authenticated,
        limits,
        allocations_created,
        allocations_ended,
        ended_peers,
        ended_ports,
        ended_foreign,
        peer_connections_begun,
        peer_connections_ended,
        traffic,
        mirrored_traffic,
        flows_mirrored,
        flows_refused,
    } = other;
    add_each(&mut sum.requests, requests);
    add_each(&mut sum.successes, successes);
    add_each(&mut sum.errors, errors);
    add_each(&mut sum.drops, drops);
    add_each(&mut sum.rejections, rejections);
    add_each(&mut sum.look_ups, look_ups);
    sum.authenticated += authenticated;
    add_each(&mut sum.limits, limits);
    sum.allocations_created += allocations_created;
    add_each(&mut sum.allocations_ended, allocations_ended);
    add_each(&mut sum.ended_peers, ended_peers);
    add_each(&mut sum.ended_ports, ended_ports);
    add_each(&mut sum.ended_foreign, ended_foreign);
    sum.peer_connections_begun += peer_connections_begun;
    add_each(&mut sum.peer_connections_ended, peer_connections_ended);
    let of_paths = sum.traffic.iter_mut().flatten().zip(traffic.iter().flatten());
    of_paths.for_each(|(sum, traffic)| sum.add(traffic));
    sum.mirrored_traffic.add(mirrored_traffic);
    sum.flows_mirrored += flows_mirrored;
    sum.flows_refused += flows_refused;
}

fn add_each(sums: &mut [u64], others: &[u64]) {
    sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
}

/// Where one shard puts its copy. On cache lines of its own; the lock is held for the time of a copy.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Slot(Mutex<ShardSnapshot>);

impl Slot {
    /// What a shard does before it sleeps: its machine's counters on top of those of machines before it, its own, and
    /// with `gauges` what there is at this moment.
    pub fn publish_all(
        &self,
        machine: &turn::Counters,
        earlier: &turn::Counters,
        shell: &ShellCounters,
        gauges: impl FnOnce(&mut ShardSnapshot),
    ) {
        self.publish(|copy| {
            copy.turn.clone_from(machine);
            add_machine(&mut copy.turn, earlier);
            copy.shell.clone_from(shell);
            gauges(copy);
        });
    }

    pub(super) fn publish(&self, write: impl FnOnce(&mut ShardSnapshot)) {
        // Numbers cannot be left in a bad state; whoever panicked while writing is counted as well.
        write(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn read(&self) -> ShardSnapshot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::SocketErrorKind;

    #[test]
    fn snapshots_sum_and_keep_each_shard() {
        let slots = [Slot::default(), Slot::default(), Slot::default()];
        for (index, slot) in slots.iter().enumerate() {
            slot.publish(|copy| {
                copy.turn.requests[1] = 1 << index;
                copy.turn.traffic[1][0].bytes_to_client = 10;
                copy.shell.socket_errors.0[SocketErrorKind::Refused as usize] = 1;
                copy.shell.datagrams_sent = index as u64;
                copy.allocations = 2;
            });
        }
        let snapshot = Snapshot::of(&slots);
        assert_eq!(snapshot.total.turn.requests[1], 7);
        assert_eq!(snapshot.total.turn.traffic[1][0].bytes_to_client, 30);
        assert_eq!(snapshot.total.shell.socket_errors.of(SocketErrorKind::Refused), 3);
        assert_eq!(snapshot.total.shell.datagrams_sent, 3);
        assert_eq!(snapshot.total.allocations, 6);
        assert_eq!(snapshot.shards[2].turn.requests[1], 4);
    }

    #[test]
    fn slots_share_no_cache_line() {
        assert!(align_of::<Slot>() >= 128 && size_of::<Slot>().is_multiple_of(128));
    }
}
