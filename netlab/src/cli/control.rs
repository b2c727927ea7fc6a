//! How `exec` and `call` find a running lab and speak with it.
//!
//! `netlab up` leaves two things in its session's private directory: `state.json`, which says which thread holds each
//! node's namespaces, and the Unix socket `control`, which takes one plan as a line of JSON and answers with one line.
//! The directory is the user's alone (0700), so nobody else can do either.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use netlab::call::{CallPlan, CallReport};
use netlab::running::RunningLab;
use netlab::session::{base_directory, live_sessions};
use netlab::sip::call::{SipPlan, SipReport};
use serde::{Deserialize, Serialize};

/// A lab that is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabState {
    /// The process that holds it.
    pub process: u32,
    /// The topology it was built from.
    pub topology: String,
    /// Which thread of the process is in the namespaces of each host and router.
    pub threads: BTreeMap<String, i32>,
    /// The session's directory.
    #[serde(skip)]
    pub directory: PathBuf,
}

/// What the control socket is asked for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// A browser calls a browser.
    Browsers(CallPlan),
    /// A browser calls a phone.
    Phone(SipPlan),
}

/// The answer on the control socket.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The call took place, well or badly.
    Report(Box<CallReport>),
    /// So did a call to a phone.
    PhoneReport(Box<SipReport>),
    /// It did not.
    Problem(String),
}

impl Plan {
    /// Carries it out.
    pub async fn carry_out(&self, running: &RunningLab) -> Answer {
        let answer = match self {
            Plan::Browsers(plan) => running.call(plan).await.map(|report| Answer::Report(Box::new(report))),
            Plan::Phone(plan) => running.call_phone(plan).await.map(|report| Answer::PhoneReport(Box::new(report))),
        };
        answer.unwrap_or_else(|error| Answer::Problem(format!("{error:#}")))
    }
}

impl LabState {
    /// Writes it where others will look.
    pub fn publish(&self, directory: &Path) -> Result<()> {
        let file = directory.join("state.json");
        std::fs::write(&file, serde_json::to_vec(self)?).with_context(|| format!("cannot write {}", file.display()))
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        socket(&self.directory)
    }
}

/// The control socket in a session's directory.
pub fn socket(directory: &Path) -> PathBuf {
    directory.join("control")
}

/// This user's labs that are up.
pub fn running_labs() -> Vec<LabState> {
    let read = |directory: PathBuf| {
        let text = std::fs::read(directory.join("state.json")).ok()?;
        let state: LabState = serde_json::from_slice(&text).ok()?;
        Some(LabState { directory, ..state })
    };
    live_sessions(&base_directory()).into_iter().filter_map(read).collect()
}

/// The lab that is meant: the one with that process id, or the only one. `None` if none runs and none was named.
pub fn choose_lab(process: Option<u32>) -> Result<Option<LabState>> {
    let labs = running_labs();
    if let Some(process) = process {
        let found = labs.into_iter().find(|lab| lab.process == process);
        return Ok(Some(
            found.with_context(|| format!("no lab {process} is running; `netlab list` shows those that are"))?,
        ));
    }
    if labs.len() > 1 {
        let names = labs.iter().map(|lab| format!("{} ({})", lab.process, lab.topology)).collect::<Vec<_>>().join(", ");
        bail!("several labs are running: {names}; choose one with --lab NUMBER");
    }
    Ok(labs.into_iter().next())
}
