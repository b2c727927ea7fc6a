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
//! the other's. An ICE message is between 56 bytes (a response: STUN header, XOR-MAPPED-ADDRESS, MESSAGE-INTEGRITY,
//! FINGERPRINT, less padding differences between browsers) and 180 (a request with user name, priority, role, network
//! cost and Chromium's own attributes).
//!
//! Equality cannot be exact, because the pages take their last statistics before they close: in between come RTCP
//! reports, consent checks, and the closing DTLS alert and SCTP abort; and because a check that was sent on its way
//! before a permission existed counts in the browser and not in the server. [`SLACK_PACKETS`] is for those: a small
//! number, independent of how long the call was, against several hundred packets of the shortest call. A server that
//! counts framing, counts a direction twice, or misses the data channel is off by far more.

use crate::report::{PageReport, Pair};
use crate::turn::Relayed;

/// The smallest and largest ICE message.
const ICE_MESSAGE_BYTES: std::ops::RangeInclusive<u64> = 56..=180;

/// Packets that may be on one side's account only.
const SLACK_PACKETS: u64 = 40;

/// The largest such packet: RTCP compound packets and unanswered checks; media has stopped by then.
const SLACK_PACKET_BYTES: u64 = 200;

/// What both parties say about one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Direction {
    /// Payload bytes by the browsers' account.
    pub browser_bytes: u64,
    /// Packets by the browsers' account.
    pub browser_packets: u64,
    /// ICE messages by the browsers' account.
    pub ice_messages: u64,
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
        Accounts {
            to_peers: Direction {
                browser_bytes: sum(|pair| pair.bytes_sent),
                browser_packets: sum(|pair| pair.packets_sent),
                ice_messages: sum(|pair| pair.requests_sent + pair.responses_sent),
                server_bytes: server.bytes_to_peers,
                server_packets: server.packets_to_peers,
            },
            to_clients: Direction {
                browser_bytes: sum(|pair| pair.bytes_received),
                browser_packets: sum(|pair| pair.packets_received),
                ice_messages: sum(|pair| pair.requests_received + pair.responses_received),
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
        if self.server_packets.abs_diff(packets) > SLACK_PACKETS {
            return Err(format!(
                "the server counts {} packets, the browsers {} and {} ICE messages (more than {SLACK_PACKETS} apart)",
                self.server_packets, self.browser_packets, self.ice_messages
            ));
        }
        let slack = SLACK_PACKETS * SLACK_PACKET_BYTES;
        let least = (self.browser_bytes + self.ice_messages * ICE_MESSAGE_BYTES.start()).saturating_sub(slack);
        let most = self.browser_bytes + self.ice_messages * ICE_MESSAGE_BYTES.end() + slack;
        if !(least..=most).contains(&self.server_bytes) {
            return Err(format!(
                "the server counts {} bytes; by the browsers' account ({} bytes and {} ICE messages) it is {least} to {most}",
                self.server_bytes, self.browser_bytes, self.ice_messages
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HONEST: Direction = Direction {
        browser_bytes: 900_000,
        browser_packets: 1_500,
        ice_messages: 60,
        server_bytes: 900_000 + 60 * 90,
        server_packets: 1_562,
    };

    #[test]
    fn honest_accounts_agree() {
        HONEST.check().unwrap();
    }

    #[test]
    fn a_server_that_counts_wrongly_is_found_out() {
        let with_channel_data_framing = Direction { server_bytes: HONEST.server_bytes + 4 * 1_560 * 3, ..HONEST };
        let with_send_indications = Direction { server_bytes: HONEST.server_bytes + 36 * 1_560, ..HONEST };
        let without_the_data_channel = Direction { server_bytes: HONEST.server_bytes - 200 * 1_024, ..HONEST };
        let twice = Direction { server_packets: 2 * HONEST.server_packets, ..HONEST };
        let nothing = Direction { server_bytes: 0, server_packets: 0, ..HONEST };
        for wrong in [with_channel_data_framing, with_send_indications, without_the_data_channel, twice, nothing] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_pairs_with_a_local_relay_go_through_the_server() {
        let pair = |r#type: &str| Pair {
            local: crate::report::Candidate { r#type: Some(r#type.into()), ..Default::default() },
            bytes_sent: 100,
            ..Default::default()
        };
        let page: PageReport =
            serde_json::from_value(serde_json::json!({ "outcome": "connected", "pairs": [pair("relay"), pair("srflx")] }))
                .unwrap();
        let accounts = Accounts::new([&page, &page], &Relayed::default());
        assert_eq!(accounts.to_peers.browser_bytes, 200);
    }
}
