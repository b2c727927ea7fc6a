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
//!
//! Firefox counts the same bytes, to the byte what Chromium at the other end counts, but neither packets nor ICE
//! messages. Its packets are then between what its bytes fill and what they could make up at the least, and its ICE
//! messages are bounded by the length of the call (`FIREFOX_ICE_MESSAGES`). Bytes have been seen to agree within 2,800
//! in 1,000 packets, and may differ by some 9,000: the 36 bytes of Send and Data indications, which is all that Firefox
//! uses, are found out. It books what it receives to the pair in use, whichever it came by, so its account can be
//! compared with the server's where every pair is relayed.

use std::ops::RangeInclusive;

use crate::report::{PageReport, Pair};
use crate::turn::Relayed;

/// Packets after the last statistics, and before the first: a second or so of RTCP and consent checks.
const TAIL_PACKETS_MAX: u64 = 30;

/// The size of packets the browsers do not count. An ICE response has 64 bytes, a request about 110, RTCP and the
/// closing messages 40 to 180.
const SMALL_PACKET_BYTES: RangeInclusive<u64> = 40..=180;

/// The largest packet a browser sends, with room to spare.
const RTP_PACKET_BYTES_MAX: u64 = 1_250;

/// ICE messages that Firefox sends, or receives, without counting them: some at the beginning ...
const FIREFOX_ICE_MESSAGES: u64 = 10;

/// ... and then consent checks, one every four seconds at most (RFC 7675), and as many answers.
const FIREFOX_MILLISECONDS_PER_ICE_MESSAGE: u64 = 2_000;

/// What both parties say about one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Direction {
    /// Payload bytes by the browsers' account.
    pub browser_bytes: u64,
    /// Packets by the browsers' account.
    pub browser_packets: u64,
    /// How many more there may be, since a browser does not count them.
    #[serde(default)]
    pub uncounted_packets_max: u64,
    /// ICE messages by the browsers' account.
    pub ice_messages: u64,
    /// How many more there may be, since a browser does not count them.
    #[serde(default)]
    pub uncounted_ice_messages_max: u64,
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
    pub fn new(pages: &[&PageReport], server: &Relayed) -> Accounts {
        let relayed_pairs = pages.iter().flat_map(|page| &page.pairs).filter(|pair| pair.local.is_relay());
        let sum = |count: fn(&Pair) -> u64| relayed_pairs.clone().map(count).sum();
        let lost = |page: &PageReport| page.media.audio.lost_packets.max(0) + page.media.video.lost_packets.max(0);
        let lost_packets = pages.iter().map(|page| lost(page) as u64).sum();
        let uncounted_ice_messages_max = pages.iter().map(|page| uncounted_ice_messages_max(page)).sum();
        Accounts {
            to_peers: Direction {
                browser_bytes: sum(|pair| pair.bytes_sent),
                browser_packets: sum(|pair| pair.packets_sent.unwrap_or(packets_min(pair.bytes_sent))),
                uncounted_packets_max: sum(|pair| uncounted_packets_max(pair.packets_sent, pair.bytes_sent)),
                uncounted_ice_messages_max,
                ice_messages: sum(|pair| pair.requests_sent + pair.responses_sent),
                unanswered_checks: sum(|pair| pair.requests_sent.saturating_sub(pair.responses_received)),
                lost_packets,
                server_bytes: server.bytes_to_peers,
                server_packets: server.packets_to_peers,
            },
            to_clients: Direction {
                browser_bytes: sum(|pair| pair.bytes_received),
                browser_packets: sum(|pair| pair.packets_received.unwrap_or(packets_min(pair.bytes_received))),
                uncounted_packets_max: sum(|pair| uncounted_packets_max(pair.packets_received, pair.bytes_received)),
                uncounted_ice_messages_max,
                ice_messages: sum(|pair| pair.requests_received + pair.responses_received),
                unanswered_checks: 0,
                lost_packets,
                server_bytes: server.bytes_to_clients,
                server_packets: server.packets_to_clients,
            },
        }
    }

    /// Allows for links that lose so many of a thousand packets on purpose: browsers count what they send, and what is
    /// sent again is not among the RTP packets that their receivers miss.
    pub fn expect_loss(&mut self, permille: u16) {
        for direction in [&mut self.to_peers, &mut self.to_clients] {
            // Thrice the mean, so that chance alone does not fail a call.
            direction.lost_packets += (3 * u64::from(permille) * direction.browser_packets).div_ceil(1000);
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

/// Into how few packets these bytes fit.
fn packets_min(bytes: u64) -> u64 {
    bytes / RTP_PACKET_BYTES_MAX
}

/// How many packets more than the fewest there can be where a browser has counted the bytes only.
fn uncounted_packets_max(packets: Option<u64>, bytes: u64) -> u64 {
    if packets.is_some() { 0 } else { bytes / SMALL_PACKET_BYTES.start() - packets_min(bytes) }
}

/// How many ICE messages a page has sent, or received, without counting them.
fn uncounted_ice_messages_max(page: &PageReport) -> u64 {
    if page.pairs.iter().all(|pair| pair.packets_sent.is_some()) {
        return 0;
    }
    let milliseconds = page.timeline.last().map_or(0, |entry| entry.milliseconds).max(0) as u64;
    FIREFOX_ICE_MESSAGES + milliseconds / FIREFOX_MILLISECONDS_PER_ICE_MESSAGE
}

impl Direction {
    fn check(&self) -> Result<(), String> {
        let least = self.browser_packets + self.ice_messages;
        let most = least + self.uncounted_packets_max + self.uncounted_ice_messages_max;
        let tolerance = TAIL_PACKETS_MAX + self.unanswered_checks + self.lost_packets;
        if !(least.saturating_sub(tolerance)..=most + tolerance).contains(&self.server_packets) {
            return Err(format!(
                "the server counts {} packets, the browsers {} and {} ICE messages (more than {tolerance} apart)",
                self.server_packets, self.browser_packets, self.ice_messages
            ));
        }
        // Packets whose bytes the browsers have not counted: all the others that the server has, or where it cannot be
        // said how many those are, ICE messages and the tail.
        let others = self.server_packets.saturating_sub(self.browser_packets);
        let (fewest, most) = match self.uncounted_packets_max {
            0 => (others, others),
            _ => (self.ice_messages.saturating_sub(self.unanswered_checks), {
                let messages = self.ice_messages + self.uncounted_ice_messages_max;
                others.min(messages + TAIL_PACKETS_MAX + self.lost_packets)
            }),
        };
        let missed = self.lost_packets * RTP_PACKET_BYTES_MAX;
        let least = (self.browser_bytes + fewest * SMALL_PACKET_BYTES.start()).saturating_sub(missed);
        let most = self.browser_bytes + most * SMALL_PACKET_BYTES.end() + missed;
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
        uncounted_packets_max: 0,
        ice_messages: 26,
        uncounted_ice_messages_max: 0,
        unanswered_checks: 6,
        lost_packets: 0,
        server_bytes: 553_689,
        server_packets: 972,
    };

    /// As measured: Firefox and Firefox, relay to relay over UDP, a call of 2.9 seconds.
    const HONEST_FIREFOX: Direction = Direction {
        browser_bytes: 585_498,
        browser_packets: 467,
        uncounted_packets_max: 14_170,
        ice_messages: 0,
        uncounted_ice_messages_max: 22,
        unanswered_checks: 0,
        lost_packets: 0,
        server_bytes: 586_733,
        server_packets: 1_043,
    };

    #[test]
    fn honest_accounts_agree() {
        HONEST.check().unwrap();
        HONEST_FIREFOX.check().unwrap();
    }

    #[test]
    fn a_browser_that_counts_bytes_only_is_account_enough() {
        let with = |packets, bytes| Direction { server_packets: packets, server_bytes: bytes, ..HONEST_FIREFOX };
        for wrong in [
            with(1_043, 586_733 + 36 * 1_043), // with Send and Data indications
            with(1_043, 586_733 + 28 * 1_043), // with IP and UDP headers
            with(2 * 1_043, 2 * 586_733),      // twice
            with(518, 281_244),                // one allocation only
            with(1_043, 585_498 - 36 * 1_043), // without something
            with(20_000, 586_733),             // packets that the bytes cannot make up
            with(100, 586_733),                // packets that the bytes do not fit into
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_page_without_packet_counts_is_given_bounds() {
        let page: PageReport = serde_json::from_value(serde_json::json!({
            "outcome": "connected",
            "pairs": [{ "local": { "type": "relay" }, "bytesSent": 100_000, "bytesReceived": 4_000 }],
            "timeline": [{ "milliseconds": 8_000, "what": "result" }],
        }))
        .unwrap();
        let accounts = Accounts::new(&[&page, &page], &Relayed::default());
        let bounds = |direction: Direction| {
            [direction.browser_packets, direction.uncounted_packets_max, direction.uncounted_ice_messages_max]
        };
        assert_eq!(bounds(accounts.to_peers), [2 * 80, 2 * (2_500 - 80), 2 * 14]);
        assert_eq!(bounds(accounts.to_clients), [2 * 3, 2 * (100 - 3), 2 * 14]);
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
    fn loss_made_on_purpose_is_allowed_for() {
        let lossy = Direction { server_packets: 930, server_bytes: 530_000, ..HONEST };
        let mut accounts = Accounts { to_peers: lossy, to_clients: HONEST };
        assert!(accounts.check().is_err());
        accounts.expect_loss(20);
        accounts.check().unwrap();
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
        let accounts = Accounts::new(&[&page, &page], &Relayed::default());
        assert_eq!(accounts.to_peers.browser_bytes, 200);
    }
}
