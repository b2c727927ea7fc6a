//! One call between two browsers of a running lab.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::accounting::Accounts;
use crate::browser::{Browser, BrowserKind, Opening};
use crate::fault::{Fault, Recovery};
use crate::lab::{PROXY_PORT, WEB_HOST};
use crate::report::{CallOutcome, PageReport};
use crate::running::RunningLab;
use crate::turn::Relayed;
use crate::web::{Progress, Side};

/// How long a page tries before it gives a call up. ICE in Chromium fails by itself after 15 s without an answer.
pub(crate) const PAGE_PATIENCE: Duration = Duration::from_secs(20);

/// How much longer the lab waits for a page than the page itself does: starting a browser on a busy machine.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long media may take to flow again after a fault: two rounds of ICE's own patience and a restart each.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(60);

/// How long a page may take to measure and to close once it is told to.
pub(crate) const STEP_PATIENCE: Duration = Duration::from_secs(10);

/// Which ICE servers the pages are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offer {
    /// STUN: only direct paths are possible.
    StunOnly,
    /// STUN, TURN over UDP and TURN over TCP.
    StunAndTurn,
    /// TURN over UDP.
    TurnUdp,
    /// TURN over TCP.
    TurnTcp,
    /// TURN over TLS.
    TurnTls,
    /// STUN, and TURN over UDP, TCP and TLS.
    Everything,
}

/// `iceTransportPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Any path.
    #[default]
    All,
    /// Relayed paths only.
    Relay,
}

/// A call to be made.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CallPlan {
    /// The browser node that makes the offer.
    pub caller: String,
    /// The browser node that answers.
    pub callee: String,
    /// The caller's browser and the callee's.
    #[serde(default)]
    pub browsers: [BrowserKind; 2],
    /// What ICE servers there are.
    pub offer: Offer,
    /// Which paths the pages may use.
    pub policy: Policy,
    /// How long to go on once everything has arrived.
    #[serde(default)]
    pub talk_seconds: u16,
    /// What breaks meanwhile.
    #[serde(default)]
    pub fault: Option<Fault>,
    /// A file for a picture of the caller's page, in Chromium, while the call is up.
    #[serde(default)]
    pub screenshot: Option<PathBuf>,
}

/// What came of a call.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct CallReport {
    /// The caller's page.
    pub caller: PageReport,
    /// The callee's page.
    pub callee: PageReport,
    /// What the server relayed during the call. Other calls at the same time would be in it.
    pub relayed: Relayed,
    /// The browsers' and the server's counters side by side.
    pub accounts: Accounts,
    /// How it got over the fault, if there was one and it did.
    #[serde(default)]
    pub recovery: Option<Recovery>,
}

impl CallReport {
    /// Both pages, caller first.
    pub fn pages(&self) -> [&PageReport; 2] {
        [&self.caller, &self.callee]
    }

    /// From the offer until both sides were connected, in milliseconds; `None` if they never were.
    pub fn connected_milliseconds(&self) -> Option<i64> {
        let times = self.pages().map(|page| page.milestones.get("connected").copied());
        times[0].zip(times[1]).map(|(caller, callee)| caller.max(callee))
    }

    /// Whether both pages were satisfied.
    pub fn connected(&self) -> bool {
        self.pages().iter().all(|page| page.outcome == CallOutcome::Connected)
    }
}

impl RunningLab {
    /// Opens both browsers, lets them call each other, hangs up, and brings the reports.
    ///
    /// That the call fails is a report, not an error.
    ///
    /// # Errors
    /// A node is not a browser, a browser does not start or dies, or a page does not report in time.
    pub async fn call(&self, plan: &CallPlan) -> Result<CallReport> {
        if plan.caller == plan.callee {
            bail!("{:?} cannot call itself; name two browsers", plan.caller);
        }
        let room = format!("{}-{}-{}", plan.caller, plan.callee, next_number());
        let before = self.relayed().await?;
        let mut browsers = Vec::new();
        for side in Side::BOTH {
            browsers.push(self.open(plan, side, &room)?);
        }

        let rooms = self.web.rooms();
        let both = |done: fn(&Progress) -> bool| Side::BOTH.iter().all(|side| done(&rooms.progress(&room, *side)));
        let settled = self.watch(&mut browsers, PAGE_PATIENCE + START_PATIENCE, || {
            both(|page| page.stage.is_some() || page.result.is_some())
        });
        settled.await.context("the pages do not say how the call goes")?;

        // Talking ends early when a page reports by itself: it has failed, or somebody has hung up there.
        let ended = || Side::BOTH.iter().find_map(|side| rooms.progress(&room, *side).result);
        rooms.wait(Duration::from_secs(plan.talk_seconds.into()), ended).await;
        let mut recovered = false;
        if let Some(fault) = &plan.fault
            && ended().is_none()
        {
            recovered = self.break_and_watch(fault, &room, &mut browsers).await?;
        }
        if let Some(file) = &plan.screenshot {
            let picture = browsers[0].screenshot().context("cannot take the screenshot")?;
            std::fs::write(file, picture).with_context(|| format!("cannot write {}", file.display()))?;
        }

        rooms.tell_both(&room, &json!({ "kind": "finish" }));
        let reported = self.watch(&mut browsers, STEP_PATIENCE, || both(|page| page.result.is_some()));
        reported.await.context("the pages do not report their results")?;
        rooms.tell_both(&room, &json!({ "kind": "bye" }));
        let closed = |page: &Progress| page.stage.as_deref() == Some("closed");
        let closed = self.watch(&mut browsers, STEP_PATIENCE, || both(closed));
        closed.await.context("the pages do not close their connections")?;

        // Waiting for the end of allocations is in vain when a fault has cut their owners off.
        let relayed = match plan.fault {
            None => self.relayed().await?.since(&before),
            Some(_) => Relayed::default(),
        };
        drop(browsers);
        let report = |side: Side| -> Result<PageReport> {
            let result = rooms.progress(&room, side).result;
            serde_json::from_value(result.unwrap_or_default()).with_context(|| format!("the {side:?}'s result is odd"))
        };
        let (caller, callee) = (report(Side::Caller)?, report(Side::Callee)?);
        let mut accounts = Accounts::new(&[&caller, &callee], &relayed);
        accounts.expect_loss(self.lab.topology().routers.iter().map(|router| router.impairment.loss_permille).sum());
        let recovery = plan.fault.as_ref().filter(|_| recovered);
        let recovery = recovery.map(|fault| Recovery::new(fault, [&caller, &callee]));
        let report = CallReport { caller, callee, relayed, accounts, recovery };
        let file = self.output.join(format!("{room}.json"));
        let written = std::fs::write(&file, serde_json::to_vec_pretty(&report)?);
        written.with_context(|| format!("cannot write {}", file.display()))?;
        Ok(report)
    }

    /// Breaks something in a call that is up and waits until media flows again. False if it does not in time.
    async fn break_and_watch(&self, fault: &Fault, room: &str, browsers: &mut [Browser]) -> Result<bool> {
        let rooms = self.web.rooms();
        let both_at = |stage: &str| {
            let progress = || Side::BOTH.iter().map(|side| rooms.progress(room, *side));
            progress().all(|page| page.stage.as_deref() == Some(stage)) || progress().any(|page| page.result.is_some())
        };
        rooms.tell_both(room, &json!({ "kind": "fault" }));
        self.watch(browsers, STEP_PATIENCE, || both_at("watching")).await.context("the pages do not watch")?;
        fault.inject(self).await.with_context(|| format!("cannot make the fault ({fault})"))?;
        rooms.tell_both(room, &json!({ "kind": "settle" }));
        let done = rooms.wait(RECOVERY_PATIENCE, || {
            let died = browsers.iter_mut().any(|browser| browser.ended().is_some());
            (died || both_at("recovered")).then_some(())
        });
        Ok(done.await.is_some()
            && Side::BOTH.iter().all(|side| rooms.progress(room, *side).stage.as_deref() == Some("recovered")))
    }

    fn open(&self, plan: &CallPlan, side: Side, room: &str) -> Result<Browser> {
        let [caller, callee] = plan.browsers;
        let (name, peer, kind) = match side {
            Side::Caller => (&plan.caller, &plan.callee, caller),
            Side::Callee => (&plan.callee, &plan.caller, callee),
        };
        let host = self.lab.topology().browser(name)?;
        let ice_servers = self.turn_of(host)?.ice_servers(plan.offer);
        let url = page_url(room, side, plan.policy, [name, peer], &ice_servers);
        self.open_page(kind, name, &url, room)
    }

    /// Opens a page in a new browser on a node.
    pub(crate) fn open_page(&self, kind: BrowserKind, name: &str, url: &str, room: &str) -> Result<Browser> {
        // Short, because Chromium makes a socket deep below it and a socket's path has 107 characters at most.
        let home = self.scratch.join(format!("b{}", next_number()));
        let log = self.output.join(format!("{room}-{name}.log"));
        let host = self.lab.topology().browser(name)?;
        let proxy = host.proxy.as_ref().map(|proxy| format!("{proxy}.lab:{PROXY_PORT}"));
        let opening = Opening { kind, url, proxy: proxy.as_deref(), home, trust: &self.trust, log: &log };
        Browser::open(&self.browser_tools, self.lab.device(name)?, opening)
    }

    /// Waits for a condition on the rooms, or for a browser to die.
    pub(crate) async fn watch(
        &self,
        browsers: &mut [Browser],
        patience: Duration,
        condition: impl Fn() -> bool,
    ) -> Result<()> {
        let look = || {
            // A browser that has died will change no room: look at the processes whenever we look at the rooms.
            let dead = browsers.iter_mut().find_map(Browser::ended);
            dead.map(Err).or_else(|| condition().then_some(Ok(())))
        };
        match self.web.rooms().wait(patience, look).await {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => bail!("a browser ended ({status}); see the logs in {}", self.output.display()),
            None => bail!("no answer within {} s; see the logs in {}", patience.as_secs(), self.output.display()),
        }
    }
}

/// Where a side of a call has its page. `names` are the nodes: its own, and the other side's.
pub(crate) fn page_url(
    room: &str,
    side: Side,
    policy: Policy,
    [me, peer]: [&str; 2],
    ice_servers: &serde_json::Value,
) -> String {
    format!(
        "https://{WEB_HOST}/call?room={room}&side={}&policy={}&patience={}&me={me}&peer={peer}&ice={}",
        if side == Side::Caller { "caller" } else { "callee" },
        if policy == Policy::Relay { "relay" } else { "all" },
        PAGE_PATIENCE.as_secs(),
        percent_encoded(&ice_servers.to_string()),
    )
}

/// Keeps rooms and files of several calls in one lab apart.
pub(crate) fn next_number() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

pub(crate) fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_parameter_survives_any_json() {
        assert_eq!(percent_encoded(r#"[{"urls":"a?b=c"}]"#), "%5B%7B%22urls%22%3A%22a%3Fb%3Dc%22%7D%5D");
    }
}
