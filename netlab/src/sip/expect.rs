//! What must come of a call to a phone.

use super::accounts::{PAGE_TONE_HERTZ, PHONE_TONE_HERTZ};
use super::call::SipReport;
use super::rtpengine::Party;
use crate::report::CallOutcome;
use crate::scenario::problem_of;

/// How far a tone may be off after two codecs, in hertz.
const TONE_TOLERANCE_HERTZ: u32 = 15;

/// How many packets may be on one party's account only: those sent before the other was ready, and those on the way
/// when the call ended.
const TAIL_PACKETS_MAX: u64 = 30;

/// How many packets of events (RFC 4733) a digit makes at the most; eleven have been seen.
const DIGIT_PACKETS_MAX: u64 = 20;

/// What must come of a call. Every kind means: the page was registered and the call established; each end has sent and
/// received audio and heard the other's tone; each has had what the other says it has sent; the page's media was
/// encrypted and its path relayed, and what was relayed is what the TURN server has counted; and no allocation is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SipExpectation {
    /// A call to a SIP client: Opus from end to end, and video that both have seen. The client's media is relayed, too.
    VideoCall,
    /// A call to a telephone: Opus at the page, G.711 at the telephone, and what the page dials arrives.
    TelephoneCall,
}

impl SipExpectation {
    /// What the page dials while they talk: at a telephone there may be a machine.
    pub fn digits(self) -> &'static str {
        if self == SipExpectation::TelephoneCall { "159#" } else { "" }
    }

    /// Checks a report.
    ///
    /// # Errors
    /// The first thing that is not as expected.
    pub fn check(self, report: &SipReport) -> Result<(), String> {
        if report.relayed.allocations > 0 {
            return Err(format!("the TURN server still has {} allocations", report.relayed.allocations));
        }
        let page = &report.page.page;
        if page.outcome != CallOutcome::Connected {
            return Err(format!("page: {}", problem_of(page)));
        }
        for milestone in ["registered", "established"] {
            if !page.milestones.contains_key(milestone) {
                return Err(format!("the page was never {milestone}"));
            }
        }
        let (Some(phone), Some(parties)) = (&report.phone, &report.parties) else {
            return Err("the phone says nothing about the call".to_owned());
        };
        heard("the page", report.page.heard_hertz, PHONE_TONE_HERTZ)?;
        heard("the phone", phone.heard_hertz, PAGE_TONE_HERTZ)?;

        let mut counts = vec![
            ("audio packets sent by the page", page.media.audio.sent_packets),
            ("audio packets received by the page", page.media.audio.received_packets),
            ("audio packets sent by the phone", phone.audio.sent_packets),
            ("audio packets received by the phone", phone.audio.received_packets),
        ];
        if self == SipExpectation::VideoCall {
            let video = phone.video.as_ref().ok_or("the phone had no video")?;
            counts.extend([
                ("video frames sent by the page", page.media.video.sent_frames),
                ("video frames decoded by the page", page.media.video.received_frames),
                ("video packets sent by the phone", video.sent_packets),
                ("video packets received by the phone", video.received_packets),
                ("video frames shown by the phone", phone.shown_frames),
            ]);
        }
        if let Some((what, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(format!("no {what}"));
        }
        if phone.digits != report.digits {
            return Err(format!("the page has dialled {:?}, but the phone has had {:?}", report.digits, phone.digits));
        }
        self.check_codecs(report)?;
        check_parties(report, parties)?;
        if !page.selected.as_ref().is_some_and(|pair| pair.local.is_relay()) {
            return Err(format!("expected a relayed address at the page, but it has {}", page.selected_types()));
        }
        report.accounts.check()
    }

    fn check_codecs(self, report: &SipReport) -> Result<(), String> {
        let (page, phone) = (&report.page.page.media, report.phone.as_ref());
        let video = phone.and_then(|phone| phone.video.as_ref());
        let audio = phone.map(|phone| &phone.audio);
        let mut codecs = vec![
            ("the page sends", &page.audio.sent_codec, "audio/opus"),
            ("the page receives", &page.audio.received_codec, "audio/opus"),
        ];
        let far = if self == SipExpectation::TelephoneCall { "PCMA 8000Hz 1ch" } else { "opus 48000Hz 2ch" };
        if let Some(audio) = audio {
            codecs.extend([("the phone sends", &audio.encoder, far), ("the phone receives", &audio.decoder, far)]);
        }
        if let Some(video) = video {
            codecs.extend([
                ("the page shows", &page.video.sent_codec, "video/VP8"),
                ("the page sees", &page.video.received_codec, "video/VP8"),
                ("the phone shows", &video.encoder, "VP8"),
                ("the phone sees", &video.decoder, "VP8"),
            ]);
        }
        for (who, is, expected) in codecs {
            if is.as_deref() != Some(expected) {
                return Err(format!("{who} {}, not {expected}", is.as_deref().unwrap_or("nothing")));
            }
        }
        Ok(())
    }
}

fn heard(who: &str, pitch: Option<u32>, expected: u32) -> Result<(), String> {
    match pitch {
        Some(pitch) if pitch.abs_diff(expected) <= TONE_TOLERANCE_HERTZ => Ok(()),
        Some(pitch) => Err(format!("{who} heard {pitch} Hz, not {expected} Hz")),
        None => Err(format!("{who} heard nothing")),
    }
}

/// Each end must have had what the other says it has sent, and the media proxy in the middle, too. (What it counts of
/// the page has RTCP in it, since both share a port.)
fn check_parties(report: &SipReport, [near, far]: &[Party; 2]) -> Result<(), String> {
    let page = &report.page.page.media;
    let phone = report.phone.as_ref().ok_or("the phone says nothing about the call")?;
    if !near.protocol.contains("SAVP") || far.protocol != "RTP/AVP" {
        return Err(format!(
            "expected encrypted media from the page and plain RTP from the phone, not {:?} and {:?}",
            near.protocol, far.protocol
        ));
    }
    // What the page has dialled by SIP the gateway says by RTP.
    let dialled = report.digits.len() as u64 * DIGIT_PACKETS_MAX;
    for (who, sent, by, had, more) in [
        ("the page", page.sent_packets(), "the phone", phone.received_packets(), dialled),
        ("the phone", phone.sent_packets(), "the media proxy", far.received.packets, 0),
        ("the phone", phone.sent_packets(), "the page", page.received_packets(), 0),
    ] {
        if !(sent.saturating_sub(TAIL_PACKETS_MAX)..=sent + TAIL_PACKETS_MAX + more).contains(&had) {
            return Err(format!("{who} has sent {sent} RTP packets, but {by} had {had}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A call to a telephone in which everything is right.
    fn good() -> serde_json::Value {
        let direction = json!({ "browser_bytes": 10_000, "browser_packets": 100, "ice_messages": 10,
                                "unanswered_checks": 0, "lost_packets": 0,
                                "server_bytes": 10_800, "server_packets": 110 });
        let received = |packets| json!({ "packets": packets, "bytes": 1, "control_packets": 0, "control_bytes": 0 });
        json!({
            "page": {
                "outcome": "connected", "heardHertz": 441,
                "milestones": { "registered": 60, "established": 300 },
                "selected": { "local": { "type": "relay", "relayProtocol": "udp" }, "remote": { "type": "host" } },
                "media": { "audio": { "sentPackets": 90, "receivedPackets": 90,
                                      "sentCodec": "audio/opus", "receivedCodec": "audio/opus" } },
            },
            "phone": {
                "audio": { "sent_packets": 92, "received_packets": 89,
                           "encoder": "PCMA 8000Hz 1ch", "decoder": "PCMA 8000Hz 1ch" },
                "video": null, "shown_frames": 0, "digits": "159#", "heard_hertz": 650,
            },
            "parties": [
                { "protocol": "RTP/SAVPF", "received": received(95) },
                { "protocol": "RTP/AVP", "received": received(91) },
            ],
            "phone_relayed": false, "digits": "159#", "video": false,
            "relayed": { "bytes_to_peers": 10_800, "packets_to_peers": 110,
                         "bytes_to_clients": 10_800, "packets_to_clients": 110, "allocations": 0 },
            "accounts": { "to_peers": direction, "to_clients": direction },
        })
    }

    fn check(report: serde_json::Value) -> Result<(), String> {
        SipExpectation::TelephoneCall.check(&serde_json::from_value(report).unwrap())
    }

    #[test]
    fn a_good_call_is_accepted_and_each_fault_named() {
        assert_eq!(check(good()), Ok(()));
        for (place, wrong, expected) in [
            ("/page/outcome", json!("deadline"), "page: Deadline"),
            ("/page/milestones", json!({ "established": 300 }), "never registered"),
            ("/page/heardHertz", json!(null), "the page heard nothing"),
            ("/phone/heard_hertz", json!(440), "the phone heard 440 Hz, not 650 Hz"),
            ("/phone/audio/decoder", json!("opus 48000Hz 2ch"), "the phone receives opus"),
            ("/page/media/audio/sentCodec", json!("audio/PCMA"), "the page sends audio/PCMA"),
            ("/digits", json!("12"), "the page has dialled \"12\", but the phone has had \"159#\""),
            ("/page/media/audio/sentPackets", json!(0), "no audio packets sent by the page"),
            ("/phone/audio/received_packets", json!(30), "the page has sent 90 RTP packets, but the phone had 30"),
            ("/parties/1/received/packets", json!(40), "but the media proxy had 40"),
            ("/parties/0/protocol", json!("RTP/AVP"), "expected encrypted media"),
            ("/page/selected/local/type", json!("srflx"), "expected a relayed address"),
            ("/accounts/to_peers/server_packets", json!(300), "to peers"),
            ("/relayed/allocations", json!(1), "1 allocations"),
            ("/phone", json!(null), "the phone says nothing"),
        ] {
            let mut report = good();
            *report.pointer_mut(place).unwrap() = wrong;
            let problem = check(report).unwrap_err();
            assert!(problem.contains(expected), "{place}: {problem}");
        }
    }

    #[test]
    fn a_video_call_needs_video() {
        let report = serde_json::from_value(good()).unwrap();
        let problem = SipExpectation::VideoCall.check(&report).unwrap_err();
        assert_eq!(problem, "the phone had no video");
    }
}
