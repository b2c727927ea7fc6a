//! What must come of a scenario's call.

use crate::call::CallReport;
use crate::fault::Cure;
use crate::report::{CallOutcome, PageReport};

/// What must come of a call. Every kind that connects also means: audio, video and data arrived both ways, data was
/// verified byte by byte, and what was relayed is what the server has counted (nothing, if the path is direct). Every
/// kind means that no allocation is left afterwards: a page that closes deletes its own by a Refresh with lifetime zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// It connects without any relay.
    Direct,
    /// It connects between addresses of the two hosts themselves.
    HostToHost,
    /// It does not connect, and the pages notice.
    NoCall,
    /// It connects, with relayed addresses or without: which of them depends on whose packet comes first.
    Connected,
    /// It connects with a relayed address on at least one side.
    Relayed,
    /// It connects with relayed addresses on both sides.
    RelayedTwice,
    /// It connects with relayed addresses on both sides, whose owners reach the server over this protocol.
    RelayedOver(&'static str),
    /// It connects with relayed addresses on both sides over UDP, and the kernel relays most of it without the process.
    RelayedInKernel,
    /// It connects, and the caller needs its relayed address, reached over this protocol.
    CallerRelayedOver(&'static str),
    /// A fault interrupts it, or does not, and this makes media flow again. Nothing is said about the server's account:
    /// what a fault swallows is on one party's only, and allocations may outlive the addresses of their owners.
    Recovers(Cure),
}

impl Expectation {
    /// Checks a report.
    ///
    /// # Errors
    /// The first thing that is not as expected.
    pub fn check(self, report: &CallReport) -> Result<(), String> {
        if let Expectation::Recovers(cure) = self {
            return check_recovery(report, cure);
        }
        self.check_path(report)?;
        match self {
            Expectation::NoCall | Expectation::Direct | Expectation::HostToHost => Ok(()),
            _ => report.accounts.check(),
        }
    }

    /// Whether it takes a kernel that relays.
    pub(super) fn needs_the_kernel(self) -> bool {
        self == Expectation::RelayedInKernel
    }

    /// Checks a report, but not whether browsers and server have counted the same.
    ///
    /// # Errors
    /// The first thing that is not as expected.
    pub fn check_path(self, report: &CallReport) -> Result<(), String> {
        if report.relayed.allocations > 0 {
            return Err(format!(
                "the server still has {} allocations after both pages have closed",
                report.relayed.allocations
            ));
        }
        if self == Expectation::NoCall {
            return check_no_call(report);
        }
        for (name, page) in [("caller", &report.caller), ("callee", &report.callee)] {
            check_page(page).map_err(|problem| format!("{name}: {problem}"))?;
        }
        let chosen =
            format!("caller has {}, callee {}", report.caller.selected_types(), report.callee.selected_types());
        let wrong = |expected: &str| Err(format!("expected {expected}, but {chosen}"));
        let ends = |page: &PageReport| page.selected.clone().map(|pair| [pair.local, pair.remote]).unwrap_or_default();
        let local_over = |page: &PageReport, protocol: &str| {
            let [local, _] = ends(page);
            local.is_relay() && local.relay_protocol.as_deref() == Some(protocol)
        };
        let all_ends = report.pages().into_iter().flat_map(ends).collect::<Vec<_>>();
        match self {
            Expectation::NoCall | Expectation::Connected | Expectation::Recovers(_) => {}
            Expectation::Direct if all_ends.iter().any(|end| end.is_relay()) => return wrong("no relay"),
            Expectation::HostToHost if all_ends.iter().any(|end| end.r#type.as_deref() != Some("host")) => {
                return wrong("host candidates only");
            }
            Expectation::Relayed if !all_ends.iter().any(|end| end.is_relay()) => return wrong("a relayed address"),
            Expectation::RelayedTwice if !report.pages().into_iter().all(|page| ends(page)[0].is_relay()) => {
                return wrong("relayed addresses on both sides");
            }
            Expectation::RelayedOver(protocol) if !report.pages().iter().all(|page| local_over(page, protocol)) => {
                return wrong(&format!("relayed addresses over {protocol} on both sides"));
            }
            Expectation::RelayedInKernel if !report.pages().iter().all(|page| local_over(page, "udp")) => {
                return wrong("relayed addresses over udp on both sides");
            }
            Expectation::CallerRelayedOver(protocol) if !local_over(&report.caller, protocol) => {
                return wrong(&format!("the caller's relayed address over {protocol}"));
            }
            _ => {}
        }
        match self {
            Expectation::Direct | Expectation::HostToHost if report.relayed.packets_to_peers > 0 => {
                Err(format!("the server has relayed {} packets of a direct call", report.relayed.packets_to_peers))
            }
            Expectation::RelayedInKernel if report.relayed.packets_in_kernel * 2 < report.relayed.packets() => {
                let (kernel, all) = (report.relayed.packets_in_kernel, report.relayed.packets());
                Err(format!("the kernel has relayed only {kernel} of {all} packets"))
            }
            _ => Ok(()),
        }
    }
}

fn check_recovery(report: &CallReport, cure: Cure) -> Result<(), String> {
    for (name, page) in [("caller", &report.caller), ("callee", &report.callee)] {
        check_page(page).map_err(|problem| format!("{name}: {problem}"))?;
    }
    match &report.recovery {
        None => Err("media did not flow again in time".to_owned()),
        Some(recovery) if recovery.cure != cure => {
            Err(format!("expected {cure} to be the cure, not {}", recovery.cure))
        }
        Some(_) => Ok(()),
    }
}

fn check_no_call(report: &CallReport) -> Result<(), String> {
    for page in report.pages() {
        match page.outcome {
            CallOutcome::Failed | CallOutcome::Deadline => {}
            CallOutcome::Connected => {
                return Err(format!("expected no call, but it connected ({})", page.selected_types()));
            }
            CallOutcome::Error => return Err(problem_of(page)),
        }
        // A page that never got as far as trying proves nothing about the network.
        if !page.timeline.iter().any(|entry| entry.what.starts_with("candidate srflx")) {
            return Err("the call failed before STUN gave an address".to_owned());
        }
    }
    Ok(())
}

fn check_page(page: &PageReport) -> Result<(), String> {
    if page.outcome != CallOutcome::Connected {
        return Err(problem_of(page));
    }
    if page.selected.is_none() {
        return Err("the page reports no selected pair".to_owned());
    }
    let media = &page.media;
    let counters = [
        ("audio packets sent", media.audio.sent_packets),
        ("audio packets received", media.audio.received_packets),
        ("video frames sent", media.video.sent_frames),
        ("video frames decoded", media.video.received_frames),
        ("data messages sent", page.data.sent_messages),
        ("data messages received", page.data.received_messages),
    ];
    if let Some((what, _)) = counters.iter().find(|(_, count)| *count == 0) {
        return Err(format!("no {what}"));
    }
    if page.data.verified_messages != page.data.received_messages {
        return Err(format!(
            "{} of {} data messages are right",
            page.data.verified_messages, page.data.received_messages
        ));
    }
    Ok(())
}

pub(crate) fn problem_of(page: &PageReport) -> String {
    let last = page.timeline.iter().rev().take(4).map(|entry| &*entry.what).collect::<Vec<_>>();
    match &page.problem {
        Some(problem) => format!("the page went wrong: {problem}"),
        None => format!("{:?} (last: {})", page.outcome, last.join(" < ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::Accounts;
    use crate::turn::Relayed;
    use serde_json::json;

    fn page(local: &str, remote: &str) -> PageReport {
        serde_json::from_value(json!({
            "outcome": "connected",
            "selected": { "local": { "type": local, "relayProtocol": (local == "relay").then_some("udp") },
                          "remote": { "type": remote } },
            "media": { "audio": { "sentPackets": 9, "receivedPackets": 9 }, "video": { "sentFrames": 9, "receivedFrames": 9 } },
            "data": { "sentMessages": 2, "receivedMessages": 2, "verifiedMessages": 2 },
        }))
        .unwrap()
    }

    fn call(caller: PageReport, callee: PageReport) -> CallReport {
        let relayed = Relayed::default();
        let accounts = Accounts::new(&[&caller, &callee], &relayed);
        CallReport { caller, callee, relayed, accounts, recovery: None }
    }

    #[test]
    fn each_expectation_accepts_its_own_and_refuses_others() {
        let direct = call(page("srflx", "prflx"), page("prflx", "srflx"));
        let lan = call(page("host", "host"), page("host", "host"));
        let one_relay = call(page("relay", "prflx"), page("prflx", "relay"));
        let two_relays = call(page("relay", "relay"), page("relay", "relay"));
        let no_call = call(PageReport { outcome: CallOutcome::Failed, ..page("host", "host") }, page("host", "host"));
        for (expectation, good, bad) in [
            (Expectation::Direct, &direct, &one_relay),
            (Expectation::HostToHost, &lan, &direct),
            (Expectation::Connected, &direct, &no_call),
            (Expectation::Connected, &one_relay, &no_call),
            (Expectation::Relayed, &one_relay, &direct),
            (Expectation::RelayedTwice, &two_relays, &one_relay),
            (Expectation::RelayedOver("udp"), &two_relays, &one_relay),
            (Expectation::CallerRelayedOver("udp"), &one_relay, &lan),
        ] {
            assert_eq!(expectation.check(good), Ok(()), "{expectation:?}");
            assert!(expectation.check(bad).is_err(), "{expectation:?}");
        }
        assert!(Expectation::RelayedOver("tcp").check(&two_relays).is_err());
        assert!(Expectation::NoCall.check(&direct).is_err());
    }

    #[test]
    fn a_call_without_sound_or_with_damaged_data_is_not_a_call() {
        let mut silent = page("host", "host");
        silent.media.audio.received_packets = 0;
        let mut damaged = page("host", "host");
        damaged.data.verified_messages = 1;
        for (bad, word) in [(silent, "audio packets received"), (damaged, "1 of 2")] {
            let problem = Expectation::HostToHost.check(&call(page("host", "host"), bad)).unwrap_err();
            assert!(problem.contains(word), "{problem}");
        }
    }

    #[test]
    fn the_kernel_has_to_relay_most() {
        let mut report = call(page("relay", "relay"), page("relay", "relay"));
        report.relayed.packets_to_clients = 100;
        for (in_kernel, is_enough) in [(0, false), (49, false), (50, true)] {
            report.relayed.packets_in_kernel = in_kernel;
            assert_eq!(Expectation::RelayedInKernel.check_path(&report).is_ok(), is_enough, "{in_kernel}");
        }
    }

    #[test]
    fn allocations_must_not_outlive_the_pages() {
        let mut report = call(page("relay", "relay"), page("relay", "relay"));
        report.relayed.allocations = 1;
        assert!(Expectation::Relayed.check(&report).unwrap_err().contains("1 allocations"));
    }

    #[test]
    fn a_failure_counts_only_if_stun_had_worked() {
        let page = |timeline: serde_json::Value| -> PageReport {
            serde_json::from_value(json!({ "outcome": "failed", "timeline": timeline })).unwrap()
        };
        let tried = json!([{ "milliseconds": 5, "what": "candidate srflx udp 198.18.0.2:5000" }]);
        assert_eq!(Expectation::NoCall.check(&call(page(tried.clone()), page(tried.clone()))), Ok(()));
        assert!(Expectation::NoCall.check(&call(page(tried), page(json!([])))).is_err());
    }
}
