//! Faults in mid-call, and what came of them.
//!
//! A call that is up is told that something will break, [`Fault::inject`] breaks it, and the pages say when sound and
//! picture flow again, how long there was silence ([`Outage`](crate::report::Outage)), and what they did about it.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::impair;
use crate::lab::{self, Lab};
use crate::options::Offload;
use crate::process::find_program;
use crate::report::{MediaKind, PageReport};
use crate::running::RunningLab;
use crate::session::CannotRun;
use crate::turn::Relayed;

/// The interface every host has.
const INTERFACE: &str = "eth0";

/// How long the kernel may take until it relays what it can.
const KERNEL_PATIENCE: Duration = Duration::from_secs(5);

/// What breaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A router's NAT forgets what it knows of UDP. With a symmetric NAT, what a host sends next comes from another
    /// port.
    Rebinding {
        /// The router.
        router: String,
    },
    /// A host leaves its network for the one behind another router.
    Roam {
        /// The host.
        host: String,
        /// The router.
        to: String,
    },
    /// A host is given another address in its network.
    Renumbering {
        /// The host.
        host: String,
    },
    /// A router loses packets for a while.
    Loss {
        /// The router.
        router: String,
        /// Of a thousand; 1,000 is a blackout.
        permille: u16,
        /// For how long.
        seconds: u16,
    },
    /// The TURN servers are killed and started again.
    RelayRestart,
    /// The kernel, which relays, leaves it to the process for a while.
    RelayingSwitched,
}

impl Fault {
    /// Whether this machine lacks something the fault needs.
    ///
    /// # Errors
    /// What it lacks, and what to do.
    pub fn missing(&self) -> Result<(), CannotRun> {
        if matches!(self, Fault::Rebinding { .. }) && find_program("conntrack").is_none() {
            return Err(CannotRun::new("conntrack is not installed", "install it (Debian: apt install conntrack)"));
        }
        Ok(())
    }

    /// Breaks it. What breaks for a while is whole again afterwards.
    ///
    /// # Errors
    /// The lab has no such node, or the system refuses.
    pub async fn inject(&self, running: &RunningLab) -> Result<()> {
        match self {
            Fault::Rebinding { router } => forget_udp(&running.lab, router),
            Fault::Roam { host, to } => {
                let interface = running.lab.device(host)?.iface(INTERFACE).context("the host has no interface")?;
                interface.replug(running.lab.router(to)?.id()).await
            }
            Fault::Renumbering { host } => {
                let device = running.lab.device(host)?;
                device.iface(INTERFACE).context("the host has no interface")?.renew_ip().await?;
                // The kernel drops routes with the last address of an interface.
                device.set_default_route(INTERFACE).await
            }
            Fault::Loss { router, permille, seconds } => {
                let router = running.lab.router(router)?;
                impair::lose(router, *permille)?;
                sleep(Duration::from_secs((*seconds).into())).await;
                impair::lose(router, 0)
            }
            Fault::RelayRestart => {
                for (_, server) in &running.turn {
                    server.restart().await?;
                }
                Ok(())
            }
            Fault::RelayingSwitched => switch_relaying(running).await,
        }
    }
}

/// Leaves TCP alone: signalling is not what is tested. Nothing passes meanwhile, since a flow that conntrack still knows
/// would be noted again as it was.
fn forget_udp(lab: &Lab, name: &str) -> Result<()> {
    let router = lab.router(name)?;
    let described = lab.topology().routers.iter().find(|router| router.name == name);
    let described = described.with_context(|| format!("there is no router {name:?}"))?;
    let mut conntrack = Command::new(find_program("conntrack").context("conntrack is not installed")?);
    conntrack.args(["-D", "-p", "udp"]);
    impair::lose(router, 1000)?;
    lab::apply_nat(router, described.nat)?;
    impair::run(router, conntrack)?;
    impair::lose(router, described.impairment.loss_permille)
}

/// Sees to it that each of the three times it is relayed by whom it should be.
async fn switch_relaying(running: &RunningLab) -> Result<()> {
    let grown = async |before: &Relayed| Ok::<_, anyhow::Error>(running.relayed_so_far().await?.since(before));
    let switch = async |offload| -> Result<()> {
        for (_, server) in &running.turn {
            server.switch_offload(offload).await?;
        }
        Ok(())
    };
    let wait_for_the_kernel = async |when: &str| -> Result<()> {
        let (before, deadline) = (running.relayed_so_far().await?, Instant::now() + KERNEL_PATIENCE);
        while grown(&before).await?.packets_in_kernel == 0 {
            if Instant::now() > deadline {
                bail!("the kernel relays nothing within {} s {when}", KERNEL_PATIENCE.as_secs());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    wait_for_the_kernel("of the call").await?;
    switch(Offload::Off).await?;
    // What it had still under way is counted by then.
    sleep(Duration::from_secs(1)).await;
    let before = running.relayed_so_far().await?;
    sleep(Duration::from_secs(2)).await;
    let by_process = grown(&before).await?;
    if by_process.packets_in_kernel > 0 || by_process.packets() == 0 {
        let (kernel, all) = (by_process.packets_in_kernel, by_process.packets());
        bail!("switched off, the kernel has relayed {kernel} of {all} packets");
    }
    switch(Offload::On).await?;
    wait_for_the_kernel("after it is switched on again").await
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Rebinding { router } => write!(f, "NAT rebinding at {router}"),
            Fault::Roam { host, to } => write!(f, "{host} roams to {to}"),
            Fault::Renumbering { host } => write!(f, "{host} gets another address"),
            Fault::Loss { router, permille: 1000, seconds } => write!(f, "{seconds} s blackout at {router}"),
            Fault::Loss { router, permille, seconds } => {
                write!(f, "{seconds} s of {} % loss at {router}", f64::from(*permille) / 10.0)
            }
            Fault::RelayRestart => f.write_str("relay restarts"),
            Fault::RelayingSwitched => f.write_str("kernel stops relaying for a while"),
        }
    }
}

/// What made media flow again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cure {
    /// Nothing had to: the pair in use remained the same.
    Nothing,
    /// Consent checks found another pair; no page did anything.
    AnotherPair,
    /// A page, or both, restarted ICE.
    IceRestart,
}

impl fmt::Display for Cure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Cure::Nothing => "nothing",
            Cure::AnotherPair => "another pair",
            Cure::IceRestart => "ICE restart",
        })
    }
}

/// How a call got over a fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// What had broken, in words.
    pub fault: String,
    /// The longest silence at the caller and at the callee, in milliseconds; zero if there was none.
    pub silence_milliseconds: [i64; 2],
    /// The longest time without a new picture, likewise.
    pub freeze_milliseconds: [i64; 2],
    /// How often the caller and the callee have restarted ICE.
    pub restarts: [usize; 2],
    /// What made media flow again.
    pub cure: Cure,
}

impl Recovery {
    /// Reads it out of what the pages have reported.
    pub fn new(fault: &Fault, pages: [&PageReport; 2]) -> Recovery {
        let longest = |kind: MediaKind, page: &PageReport| {
            let outages = page.outages.iter().filter(|outage| outage.kind == kind);
            outages.map(|outage| outage.milliseconds).max().unwrap_or(0)
        };
        let restarts = pages.map(|page| page.restarts.len());
        let cure = if restarts != [0, 0] {
            Cure::IceRestart
        } else if pages.iter().any(|page| !page.pair_changes.is_empty()) {
            Cure::AnotherPair
        } else {
            Cure::Nothing
        };
        Recovery {
            fault: fault.to_string(),
            silence_milliseconds: pages.map(|page| longest(MediaKind::Audio, page)),
            freeze_milliseconds: pages.map(|page| longest(MediaKind::Video, page)),
            restarts,
            cure,
        }
    }
}

impl Recovery {
    /// The cure, and who took it.
    pub fn mended_by(&self) -> String {
        format!("{}{}", self.cure, who_restarted(self.restarts))
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = |outages: [i64; 2]| seconds(outages[0].max(outages[1]));
        let (silence, freeze) = (longest(self.silence_milliseconds), longest(self.freeze_milliseconds));
        write!(f, "{}: silence {silence}, freeze {freeze}, cure: {}", self.fault, self.mended_by())
    }
}

/// The table of a run's faults, by the names of their scenarios.
pub fn table(recoveries: &[(&str, &Recovery)]) -> String {
    let name_width = recoveries.iter().map(|(name, _)| name.len()).max().unwrap_or_default().max("scenario".len());
    let width =
        recoveries.iter().map(|(_, recovery)| recovery.fault.len()).max().unwrap_or_default().max("fault".len());
    let line = |name: &str, fault: &str, silence: [String; 2], freeze: [String; 2], cure: &str| {
        let [silence, freeze] = [silence, freeze].map(|[caller, callee]| format!("{caller:>7} {callee:>7}"));
        let line = format!("{name:name_width$}  {fault:width$}  {silence}   {freeze}   {cure}");
        line.trim_end().to_owned() + "\n"
    };
    let sides = || ["caller", "callee"].map(str::to_owned);
    let mut table = line("", "", ["silence", ""].map(str::to_owned), ["freeze", ""].map(str::to_owned), "");
    table += &line("scenario", "fault", sides(), sides(), "cure");
    for (name, recovery) in recoveries {
        let [silence, freeze] =
            [recovery.silence_milliseconds, recovery.freeze_milliseconds].map(|outages| outages.map(seconds));
        table += &line(name, &recovery.fault, silence, freeze, &recovery.mended_by());
    }
    table
}

/// A time for people; `none` for zero.
pub(crate) fn seconds(milliseconds: i64) -> String {
    if milliseconds == 0 { "none".to_owned() } else { format!("{:.1} s", milliseconds as f64 / 1000.0) }
}

fn who_restarted(restarts: [usize; 2]) -> String {
    match restarts {
        [0, 0] => String::new(),
        [caller, 0] => format!(" ({caller} by the caller)"),
        [0, callee] => format!(" ({callee} by the callee)"),
        [caller, callee] => format!(" ({caller} by the caller, {callee} by the callee)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(extra: serde_json::Value) -> PageReport {
        let mut page = serde_json::json!({ "outcome": "connected", "faultAt": 100 });
        page.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(page).unwrap()
    }

    #[test]
    fn the_strongest_medicine_taken_is_the_cure() {
        let idle = page(serde_json::json!({}));
        let other_pair = page(serde_json::json!({ "pairChanges": [500] }));
        let restart = page(serde_json::json!({
            "pairChanges": [500], "restarts": [400],
            "outages": [
                { "kind": "audio", "since": 100, "milliseconds": 700 },
                { "kind": "audio", "since": 900, "milliseconds": 450 },
                { "kind": "video", "since": 100, "milliseconds": 2_100 },
            ],
        }));
        let fault = Fault::RelayRestart;
        assert_eq!(Recovery::new(&fault, [&idle, &idle]).cure, Cure::Nothing);
        assert_eq!(Recovery::new(&fault, [&idle, &other_pair]).cure, Cure::AnotherPair);
        let cured = Recovery::new(&fault, [&other_pair, &restart]);
        assert_eq!((cured.cure, cured.restarts), (Cure::IceRestart, [0, 1]));
        assert_eq!((cured.silence_milliseconds, cured.freeze_milliseconds), ([0, 700], [0, 2_100]));
        assert_eq!(
            table(&[("x", &cured)]),
            "                          silence            freeze\n\
             scenario  fault            caller  callee    caller  callee   cure\n\
             x         relay restarts     none   0.7 s      none   2.1 s   ICE restart (1 by the callee)\n"
        );
    }
}
