//! One call from a browser of a running lab to a phone.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::accounts::{PAGE_TONE_HERTZ, PHONE_TONE_HERTZ};
use super::baresip::{Baresip, PhoneReport};
use super::rtpengine::Party;
use super::{PASSWORD, SIP_HOST};
use crate::accounting::Accounts;
use crate::browser::{Browser, BrowserKind};
use crate::call::{Offer, PAGE_PATIENCE, Policy, START_PATIENCE, STEP_PATIENCE, next_number, percent_encoded};
use crate::lab::WEB_HOST;
use crate::report::{CallOutcome, PageReport};
use crate::running::RunningLab;
use crate::topology::{Host, Role};
use crate::turn::Relayed;
use crate::web::{Progress, Side};

/// What a phone must have sent, and a SIP client shown, before the call counts as one: as much as the page wants.
const ENOUGH_AUDIO_PACKETS: u64 = 50;
const ENOUGH_FRAMES: u64 = 15;

/// A call to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SipPlan {
    /// The browser node that calls.
    pub browser: String,
    /// The phone node that is called: by its account if it is a SIP client, by its number if it is a telephone.
    pub phone: String,
    /// What ICE servers the page is offered.
    pub offer: Offer,
    /// Which paths it may use.
    pub policy: Policy,
    /// What the page dials while they talk.
    #[serde(default)]
    pub digits: String,
    /// How long to go on once everything has arrived.
    #[serde(default)]
    pub talk_seconds: u16,
    /// A file for a picture of the page while the call is up.
    #[serde(default)]
    pub screenshot: Option<PathBuf>,
}

/// What came of a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SipReport {
    /// The page's side.
    pub page: SipPageReport,
    /// The phone's side. `None` if it came to no call.
    pub phone: Option<PhoneReport>,
    /// What the media proxy has had from the page and from whoever it called for it. `None` if it came to no call.
    pub parties: Option<[Party; 2]>,
    /// Whether the phone reaches the media proxy through the TURN server.
    pub phone_relayed: bool,
    /// What the page has dialled.
    #[serde(default)]
    pub digits: String,
    /// Whether there is video in the call.
    pub video: bool,
    /// What the TURN server relayed during the call.
    pub relayed: Relayed,
    /// Both ends' and the server's counters side by side.
    pub accounts: Accounts,
}

/// A page's result.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SipPageReport {
    /// What every page says.
    #[serde(flatten)]
    pub page: PageReport,
    /// The SIP Call-ID.
    #[serde(default)]
    pub call_id: Option<String>,
    /// Its tag in the dialog.
    #[serde(default)]
    pub from_tag: Option<String>,
    /// The loudest frequency it has heard from the phone.
    #[serde(default)]
    pub heard_hertz: Option<u32>,
}

impl SipReport {
    /// From the start of the registration until the page was connected.
    pub fn connected_milliseconds(&self) -> Option<i64> {
        self.page.page.milestones.get("connected").copied()
    }

    /// Whether the page was satisfied.
    pub fn connected(&self) -> bool {
        self.page.page.outcome == CallOutcome::Connected
    }
}

impl RunningLab {
    /// Opens the browser, lets it register and call the phone, hangs up, and brings the reports.
    ///
    /// That the call fails is a report, not an error.
    ///
    /// # Errors
    /// The lab has no such browser or phone, the browser does not start or dies, or somebody does not report in time.
    pub async fn call_phone(&self, plan: &SipPlan) -> Result<SipReport> {
        let site = self.sip.as_ref().context("this lab has no SIP server; use the topology sip or pstn")?;
        let phone = site.phone(&plan.phone)?;
        let hosts = &self.lab.topology().hosts;
        let host = hosts.iter().find(|host| host.name == plan.phone).context("a phone has a host")?;
        if !matches!(host.role, Role::SipClient | Role::Telephone) {
            bail!("{:?} is no phone", plan.phone);
        }
        let video = host.role == Role::SipClient;
        let room = format!("{}-{}-{}", plan.browser, plan.phone, next_number());
        let before = self.relayed().await?;
        let mut browsers = [self.open_sip_page(plan, host, &room)?];

        let rooms = self.web.rooms();
        let page = |done: fn(&Progress) -> bool| done(&rooms.progress(&room, Side::Caller));
        let settled = self.watch(&mut browsers, PAGE_PATIENCE + START_PATIENCE, || {
            page(|page| page.stage.is_some() || page.result.is_some())
        });
        settled.await.context("the page does not say how the call goes")?;
        let failed = page(|page| page.result.is_some());
        let mut shown_frames = 0;
        if !failed {
            shown_frames = wait_until_phone_talks(phone, video).await?;
            wait_until_dialled(phone, &plan.digits).await?;
        }

        // Talking ends early when the page reports by itself: somebody has hung up there.
        let ended = || rooms.progress(&room, Side::Caller).result;
        rooms.wait(Duration::from_secs(plan.talk_seconds.into()), ended).await;
        if let Some(file) = &plan.screenshot {
            let picture = browsers[0].screenshot().context("cannot take the screenshot")?;
            std::fs::write(file, picture).with_context(|| format!("cannot write {}", file.display()))?;
        }

        rooms.tell_both(&room, &json!({ "kind": "finish" }));
        let reported = self.watch(&mut browsers, STEP_PATIENCE, || page(|page| page.result.is_some()));
        reported.await.context("the page does not report its result")?;
        let result = rooms.progress(&room, Side::Caller).result;
        let report: SipPageReport = serde_json::from_value(result.unwrap_or_default()).context("the result is odd")?;
        // Between the BYE and the page's end: the media proxy forgets the call some seconds after the one, and consent
        // checks go on until the other.
        let (mut phone_report, mut parties) = (None, None);
        if !failed {
            phone_report = Some(phone.report(shown_frames).await?);
            let (call, tag) = report.call_id.as_deref().zip(report.from_tag.as_deref()).context("no Call-ID")?;
            parties = Some(site.rtpengine.parties(call, tag).await?);
        }
        rooms.tell_both(&room, &json!({ "kind": "bye" }));
        let closed = |page: &Progress| page.stage.as_deref() == Some("closed");
        let closed = self.watch(&mut browsers, STEP_PATIENCE, || page(closed));
        closed.await.context("the page does not close its connection")?;

        let relayed = self.relayed().await?.since(&before);
        drop(browsers);
        let mut report = SipReport {
            accounts: Accounts::new(&[&report.page], &relayed),
            page: report,
            phone: phone_report,
            parties,
            digits: plan.digits.clone(),
            phone_relayed: host.role == Role::SipClient,
            video,
            relayed,
        };
        report.add_phone_to_accounts();
        let file = self.output.join(format!("{room}.json"));
        let written = std::fs::write(&file, serde_json::to_vec_pretty(&report)?);
        written.with_context(|| format!("cannot write {}", file.display()))?;
        Ok(report)
    }

    fn open_sip_page(&self, plan: &SipPlan, host: &Host, room: &str) -> Result<Browser> {
        let SipPlan { browser, phone, .. } = plan;
        let turn = self.turn_of(self.lab.topology().browser(browser)?)?;
        let (called, video) = match &host.number {
            Some(number) => (number, "no"),
            None => (phone, "yes"),
        };
        let policy = if plan.policy == Policy::Relay { "relay" } else { "all" };
        let url = format!(
            "https://{WEB_HOST}/sip?room={room}&side=caller&policy={policy}&patience={}&me={browser}&peer={phone}\
             &server={}&account={}&password={PASSWORD}&target={}&video={video}&digits={}&tone={PAGE_TONE_HERTZ}\
             &expect={PHONE_TONE_HERTZ}&ice={}",
            PAGE_PATIENCE.as_secs(),
            percent_encoded(&format!("wss://{SIP_HOST}/")),
            percent_encoded(&format!("sip:{browser}@{SIP_HOST}")),
            percent_encoded(&format!("sip:{called}@{SIP_HOST}")),
            percent_encoded(&plan.digits),
            percent_encoded(&turn.ice_servers(plan.offer).to_string()),
        );
        self.open_page(BrowserKind::Chromium, browser, &url, room)
    }
}

/// Waits until the phone has sent and shown enough; returns how many pictures it has shown.
async fn wait_until_phone_talks(phone: &Baresip, video: bool) -> Result<u64> {
    let deadline = Instant::now() + STEP_PATIENCE;
    loop {
        let progress = phone.progress().await?;
        let enough =
            progress.sent_audio_packets >= ENOUGH_AUDIO_PACKETS && (!video || progress.shown_frames >= ENOUGH_FRAMES);
        // What is missing in the end is for the expectation to say.
        if enough || Instant::now() > deadline {
            return Ok(progress.shown_frames);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until what the page dials has arrived.
async fn wait_until_dialled(phone: &Baresip, digits: &str) -> Result<()> {
    let deadline = Instant::now() + STEP_PATIENCE;
    // What is missing in the end is for the expectation to say.
    while !phone.digits()?.ends_with(digits) && Instant::now() < deadline {
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

impl SipReport {
    /// What a phone behind the TURN server sends and receives passes the server, too. How much that is, RTCP with it,
    /// the media proxy says, which passes on what it gets and counts it decrypted. What it passes on before the phone
    /// has installed a permission is lost.
    fn add_phone_to_accounts(&mut self) {
        let (true, Some(phone), Some([page, client])) = (self.phone_relayed, &self.phone, &self.parties) else {
            return;
        };
        let to_peers = &mut self.accounts.to_peers;
        to_peers.browser_packets += client.received.packets + client.received.control_packets;
        to_peers.browser_bytes += client.received.bytes + client.received.control_bytes;
        let to_clients = &mut self.accounts.to_clients;
        // RTCP is among the page's RTP, on one port.
        to_clients.browser_packets += page.received.packets;
        to_clients.browser_bytes += page.received.bytes;
        to_clients.lost_packets += self.page.page.media.sent_packets().saturating_sub(phone.received_packets());
    }
}
