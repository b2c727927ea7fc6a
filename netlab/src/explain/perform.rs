//! How it happens: a lab, a call, and the question why it went wrong.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::time::sleep;

use super::{Course, ExplainScenario, Told, missing};
use crate::browser::{Browser, BrowserKind};
use crate::call::{Offer, PAGE_PATIENCE, Policy, START_PATIENCE, STEP_PATIENCE, page_url};
use crate::options::{Options, Tools};
use crate::running::RunningLab;
use crate::session::Session;
use crate::topology::Topology;
use crate::turn::{PASSWORD, Setup, USER};
use crate::web::{Progress, Side};

const TOPOLOGY: &str = "internet";
const CALLER: &str = "browser-l";
const CALLEE: &str = "browser-m";
/// The router that the caller is behind.
const CALLERS_ROUTER: &str = "coffee-shop";
const ROOM: &str = "trouble";

/// How often the server is asked.
const ASK_EVERY: Duration = Duration::from_millis(200);

impl ExplainScenario {
    pub(super) async fn perform(&self, session: &Session, tools: &Tools, options: &Options) -> Result<Told> {
        let topology = Topology::load(TOPOLOGY)?;
        let setup = Setup::Explaining(self.configuration);
        let running = RunningLab::start(session, tools, options, &topology, setup, self.name).await?;
        let started = Instant::now();
        let mut browsers = self.open_both(&running)?;
        if matches!(self.course, Course::Talk | Course::Vanish) {
            talk(&running, &mut browsers).await?;
        }
        match self.course {
            Course::Talk => hang_up(&running, &mut browsers).await?,
            Course::Vanish => drop(browsers.pop()),
            Course::Try | Course::TryWithoutCandidates => {}
        }
        let story = self.wait_for_story(&running, &mut browsers).await?;
        let file = running.output().join("story.md");
        let text = format!("### {}\n\n```\n{}\n```\n", self.headline, story.trim_end());
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Told { story, after: started.elapsed().as_secs_f64() })
    }

    /// The caller's page and then the callee's.
    fn open_both(&self, running: &RunningLab) -> Result<Vec<Browser>> {
        let server = running.turn_of(running.lab().topology().browser(CALLER)?)?;
        let caller = server.ice_servers_for(self.caller.offer, (self.caller.user, self.caller.password));
        let callee = server.ice_servers_for(Offer::StunOnly, (USER, PASSWORD));
        let caller = page_url(ROOM, Side::Caller, self.caller.policy, [CALLER, CALLEE], &caller);
        let mut callee = page_url(ROOM, Side::Callee, Policy::All, [CALLEE, CALLER], &callee);
        if self.course == Course::TryWithoutCandidates {
            callee += "&withhold=candidates";
        }
        let open = |name, url: &str| running.open_page(BrowserKind::Chromium, name, url, ROOM);
        Ok(vec![open(CALLER, &caller)?, open(CALLEE, &callee)?])
    }

    /// Asks until the story has all the words.
    async fn wait_for_story(&self, running: &RunningLab, browsers: &mut [Browser]) -> Result<String> {
        let server = running.turn_of(running.lab().topology().browser(CALLER)?)?;
        let about = match self.caller.offer {
            // Who fails in TLS has not said a name. What the server sees is the router's address.
            Offer::TurnTls => {
                let address = running.lab().router(CALLERS_ROUTER)?.uplink_ip();
                address.context("the caller's router has no address")?.to_string()
            }
            _ => self.caller.user.rsplit(':').next().unwrap_or_default().to_owned(),
        };
        let deadline = Instant::now() + PAGE_PATIENCE + START_PATIENCE;
        loop {
            let told = server.explain(&about).await?;
            // Several sessions, with an empty line between: the story is of one of them.
            let whole = told.split("\n\n").find(|story| missing(&format!("{story}\n"), self.words).is_none());
            if let Some(story) = whole {
                return Ok(format!("{story}\n"));
            }
            if let Some(status) = browsers.iter_mut().find_map(Browser::ended) {
                bail!("a browser ended ({status})");
            }
            if Instant::now() > deadline {
                let word = missing(&told, self.words).unwrap_or("all in one story");
                bail!("{word:?} is missing in what is told about {about}:\n{told}");
            }
            sleep(ASK_EVERY).await;
        }
    }
}

/// Until audio, video and data have arrived on both sides.
async fn talk(running: &RunningLab, browsers: &mut [Browser]) -> Result<()> {
    let rooms = running.web.rooms();
    let progress = || Side::BOTH.iter().map(|side| rooms.progress(ROOM, *side));
    let settled = || progress().all(|page| page.stage.is_some()) || progress().any(|page| page.result.is_some());
    running.watch(browsers, PAGE_PATIENCE + START_PATIENCE, settled).await.context("the pages do not talk")?;
    match progress().find_map(|page| page.result) {
        Some(result) => bail!("there is no call to begin with: {}", result["outcome"]),
        None => Ok(()),
    }
}

/// Politely, so that the caller deletes its allocations.
async fn hang_up(running: &RunningLab, browsers: &mut [Browser]) -> Result<()> {
    let rooms = running.web.rooms();
    let both = |done: fn(&Progress) -> bool| Side::BOTH.iter().all(|side| done(&rooms.progress(ROOM, *side)));
    rooms.tell_both(ROOM, &json!({ "kind": "finish" }));
    let reported = running.watch(browsers, STEP_PATIENCE, || both(|page| page.result.is_some()));
    reported.await.context("the pages do not report their results")?;
    rooms.tell_both(ROOM, &json!({ "kind": "bye" }));
    let closed = running.watch(browsers, STEP_PATIENCE, || both(|page| page.stage.as_deref() == Some("closed")));
    closed.await.context("the pages do not close their connections")
}
