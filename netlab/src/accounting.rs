//! Do the browsers and the server agree about what was relayed?
//!
//! What each side counts:
//!
//! * The server counts the payload of every packet it relays, without TURN's framing: what a peer sees in UDP.
//! * Chromium's `bytesSent`, `bytesReceived`, `packetsSent` and `packetsReceived` of a candidate pair count DTLS (so
//!   also SCTP, the data channel), SRTP and SRTCP, with their own headers and without TURN's framing: the same bytes.
//!   ICE checks and their answers are not among them; they are counted apart, as messages without a size.
//!
//! So, over all pairs whose local end is a relayed address (only those go through the server), and in each direction,
//!
//! ```text
//! server packets = pair packets + ICE messages          server bytes = pair bytes + sizes of ICE messages
//! ```
//!
//! and this holds for relay to relay as well: what one browser sends is `to_peer` at its allocation and `to_client` at
//! the other's.
//!
//! Equality of packets cannot be exact. The pages take their last statistics before they close: in between come RTCP
//! reports, consent checks, the closing DTLS alert and SCTP abort (`TAIL_PACKETS_MAX`; media has stopped by then).
//! A check that got no answer may have been dropped for want of a permission. And RTP that the receiver missed is on
//! one side's account only. The first is a constant, whatever the length of the call; the others are counted.
//!
//! Bytes are then bounded by the packets that the server has and the browsers have not: ICE messages and that tail,
//! each between `SMALL_PACKET_BYTES`. In calls of some 1,000 packets, packets have been seen to agree within 6 and
//! bytes within 75 for each such packet: a server that counts even ChannelData's four bytes a packet is found out.

use std::ops::RangeInclusive;

use crate::report::{PageReport, Pair};
use crate::turn::Relayed;

/// Packets after the last statistics, and before the first: a second or so of RTCP and consent checks.
const TAIL_PACKETS_MAX: u64 = 30;

/// The size of packets the browsers do not count. An ICE response has 64 bytes, a request about 110, RTCP and the
/// closing messages 40 to 180.
const SMALL_PACKET_BYTES: RangeInclusive<u64> = 40..=180;

/// The largest RTP packet Chromium sends, with room to spare.
const RTP_PACKET_BYTES_MAX: u64 = 1_250;

/// What both parties say about one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Direction {
    /// Payload bytes by the browsers' account.
    pub browser_bytes: u64,
    /// Packets by the browsers' account.
    pub browser_packets: u64,
    /// ICE messages by the browsers' account.
    pub ice_messages: u64,
    /// Of these, checks that got no answer and may not have got through.
    pub unanswered_checks: u64,
    /// RTP packets that their receivers missed.
    pub lost_packets: u64,
    /// Payload bytes by the server's account.
    pub server_bytes: u64,
    /// Packets by the server's account.
    pub server_packets: u64,
}

/// Both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Accounts {
    /// From clients to peers.
    pub to_peers: Direction,
    /// From peers to clients.
    pub to_clients: Direction,
}

impl Accounts {
    /// Puts the pages' and the server's counters side by side.
    pub fn new(pages: [&PageReport; 2], server: &Relayed) -> Accounts {
        let relayed_pairs = pages.iter().flat_map(|page| &page.pairs).filter(|pair| pair.local.is_relay());
        let sum = |count: fn(&Pair) -> u64| relayed_pairs.clone().map(count).sum();
        let lost = |page: &PageReport| page.media.audio.lost_packets.max(0) + page.media.video.lost_packets.max(0);
        let lost_packets = pages.iter().map(|page| lost(page) as u64).sum();
        Accounts {
            to_peers: Direction {
                browser_bytes: sum(|pair| pair.bytes_sent),
                browser_packets: sum(|pair| pair.packets_sent),
                ice_messages: sum(|pair| pair.requests_sent + pair.responses_sent),
                unanswered_checks: sum(|pair| pair.requests_sent.saturating_sub(pair.responses_received)),
                lost_packets,
                server_bytes: server.bytes_to_peers,
                server_packets: server.packets_to_peers,
            },
            to_clients: Direction {
                browser_bytes: sum(|pair| pair.bytes_received),
                browser_packets: sum(|pair| pair.packets_received),
                ice_messages: sum(|pair| pair.requests_received + pair.responses_received),
                unanswered_checks: 0,
                lost_packets,
                server_bytes: server.bytes_to_clients,
                server_packets: server.packets_to_clients,
            },
        }
    }

    /// Whether they agree.
    ///
    /// # Errors
    /// The direction and both accounts.
    pub fn check(&self) -> Result<(), String> {
        self.to_peers.check().map_err(|problem| format!("to peers: {problem}"))?;
        self.to_clients.check().map_err(|problem| format!("to clients: {problem}"))
    }
}

impl Direction {
    fn check(&self) -> Result<(), String> {
        let packets = self.browser_packets + self.ice_messages;
        let tolerance = TAIL_PACKETS_MAX + self.unanswered_checks + self.lost_packets;
        if self.server_packets.abs_diff(packets) > tolerance {
            return Err(format!(
                "the server counts {} packets, the browsers {} and {} ICE messages (more than {tolerance} apart)",
                self.server_packets, self.browser_packets, self.ice_messages
            ));
        }
        let uncounted = self.server_packets.saturating_sub(self.browser_packets);
        let missed = self.lost_packets * RTP_PACKET_BYTES_MAX;
        let least = (self.browser_bytes + uncounted * SMALL_PACKET_BYTES.start()).saturating_sub(missed);
        let most = self.browser_bytes + uncounted * SMALL_PACKET_BYTES.end() + missed;
        if !(least..=most).contains(&self.server_bytes) {
            return Err(format!(
                "the server counts {} bytes in {} packets, the browsers {} in {}: expected {least} to {most}",
                self.server_bytes, self.server_packets, self.browser_bytes, self.browser_packets
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As measured: relay to relay over UDP, a call of 2.5 seconds.
    const HONEST: Direction = Direction {
        browser_bytes: 552_031,
        browser_packets: 950,
        ice_messages: 26,
        unanswered_checks: 6,
        lost_packets: 0,
        server_bytes: 553_689,
        server_packets: 972,
    };

    #[test]
    fn honest_accounts_agree() {
        HONEST.check().unwrap();
    }

    #[test]
    fn a_server_that_counts_wrongly_is_found_out() {
        let bytes = |server_bytes| Direction { server_bytes, ..HONEST };
        let channel_data_framing = bytes(HONEST.server_bytes + 4 * HONEST.server_packets);
        let send_indications = bytes(HONEST.server_bytes + 36 * HONEST.server_packets);
        let ip_and_udp_headers = bytes(HONEST.server_bytes + 28 * HONEST.server_packets);
        let ice_not_counted_as_bytes = bytes(HONEST.browser_bytes);
        let twice = Direction { server_packets: 2 * 972, server_bytes: 2 * 553_689, ..HONEST };
        let one_allocation_only = Direction { server_packets: 478, server_bytes: 273_100, ..HONEST };
        let nothing = Direction { server_bytes: 0, server_packets: 0, ..HONEST };
        for wrong in [
            channel_data_framing,
            send_indications,
            ip_and_udp_headers,
            ice_not_counted_as_bytes,
            twice,
            one_allocation_only,
            nothing,
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn lost_packets_may_be_on_one_account_only() {
        let lossy = Direction { browser_packets: 930, browser_bytes: 552_031 - 20 * 1_100, lost_packets: 20, ..HONEST };
        lossy.check().unwrap();
        assert!(Direction { lost_packets: 0, ..lossy }.check().is_err());
    }

    #[test]
    fn only_pairs_with_a_local_relay_go_through_the_server() {
        let pair = |r#type: &str| Pair {
            local: crate::report::Candidate { r#type: Some(r#type.into()), ..Default::default() },
            bytes_sent: 100,
            ..Default::default()
        };
        let page: PageReport = serde_json::from_value(
            serde_json::json!({ "outcome": "connected", "pairs": [pair("relay"), pair("srflx")] }),
        )
        .unwrap();
        let accounts = Accounts::new([&page, &page], &Relayed::default());
        assert_eq!(accounts.to_peers.browser_bytes, 200);
    }
}
