//! Bad links: loss, rate, delay and jitter at a router, in both directions.
//!
//! Loss is nftables (`numgen random`) and the rate is tc's token bucket, which every kernel with a lab has. Delay and
//! jitter are netem's business, and where a kernel has none, ours ([`crate::delay`]). [`missing_for`] says before
//! anything is built if neither is possible.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use patchbay::Router;

use crate::delay::{self, Delay, Lateness};
use crate::process::find_program;
use crate::session::CannotRun;
use crate::topology::{Impairment, Topology};

/// A table of its own, so that it can be taken away again and no NAT is touched.
const TABLE: &str = "inet netlab_impairment";

/// How long a token bucket may hold a packet before it drops it: what home routers have.
const QUEUE_MILLISECONDS: u32 = 400;

/// Whether this machine lacks something that a topology's links need.
///
/// # Errors
/// What it lacks, and what to do.
pub fn missing_for(topology: &Topology) -> Result<(), CannotRun> {
    let impairments = || topology.routers.iter().map(|router| router.impairment);
    if impairments().any(|impairment| impairment.rate_kbits.is_some() || impairment.is_late()) {
        find_program("tc").ok_or_else(|| CannotRun::new("tc is not installed", "install it (Debian: iproute2)"))?;
    }
    if impairments().any(|impairment| impairment.is_late()) && !has_netem() && !delay::is_possible() {
        return Err(CannotRun::new(
            "this kernel has no netem, which delay and jitter need, and packets cannot be queued with iptables either",
            "install iptables, or use a kernel with CONFIG_NET_SCH_NETEM (Debian's has it; `modprobe sch_netem` as \
             root loads it)",
        ));
    }
    Ok(())
}

/// Tries netem on the loopback interface of a new namespace. A thread enters that, and goes with it.
fn has_netem() -> bool {
    let probe = std::thread::spawn(|| -> Result<bool> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        let mut tc = tool("tc")?;
        tc.args(["qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]);
        Ok(tc.stderr(Stdio::null()).status()?.success())
    });
    matches!(probe.join(), Ok(Ok(true)))
}

/// Makes a good router's links as bad as said. What it brings has to live as long as packets are to be late.
///
/// # Errors
/// `nft`, `tc` or `iptables` refuses; the message says what it printed.
pub fn apply(router: &Router, impairment: Impairment) -> Result<Option<Delay>> {
    let netem = impairment.is_late() && has_netem();
    lose(router, impairment.loss_permille)?;
    for interface in [uplink(router)?, downlink(router)?] {
        shape(router, &interface, impairment, netem)?;
    }
    let lateness = Lateness { delay: impairment.delay, jitter: impairment.jitter };
    (impairment.is_late() && !netem).then(|| Delay::start(router, lateness)).transpose()
}

/// Drops packets that a router would forward: so many of a thousand, in each direction; all, if it is 1,000.
///
/// # Errors
/// As [`apply`].
pub fn lose(router: &Router, permille: u16) -> Result<()> {
    // The first line makes the second one succeed whether the table was there or not.
    let mut rules = format!("table {TABLE}\ndelete table {TABLE}\n");
    if permille > 0 {
        let matching = if permille < 1000 { format!("numgen random mod 1000 < {permille} ") } else { String::new() };
        rules += &format!(
            "table {TABLE} {{\n chain forward {{\n  type filter hook forward priority -10; policy accept;\n  {matching}drop\n }}\n}}\n"
        );
    }
    let mut nft = tool("nft")?;
    nft.arg(&rules);
    run(router, nft)
}

fn shape(router: &Router, interface: &str, impairment: Impairment, netem: bool) -> Result<()> {
    let tc = |arguments: &str| -> Result<()> {
        let mut tc = tool("tc")?;
        tc.args(arguments.split_whitespace());
        run(router, tc)
    };
    let mut parent = "root".to_owned();
    if let Some(rate) = impairment.rate_kbits {
        // A bucket of ten milliseconds, and room for a few packets at the least.
        let burst = (rate / 8 * 10).max(6_000);
        tc(&format!(
            "qdisc add dev {interface} {parent} handle 1: tbf rate {rate}kbit burst {burst} latency {QUEUE_MILLISECONDS}ms"
        ))?;
        parent = "parent 1:".to_owned();
    }
    if impairment.is_late() && netem {
        let (delay, jitter) = (impairment.delay.as_millis(), impairment.jitter.as_millis());
        tc(&format!("qdisc add dev {interface} {parent} handle 2: netem delay {delay}ms {jitter}ms"))?;
    }
    Ok(())
}

/// The interface towards the Internet.
pub(crate) fn uplink(router: &Router) -> Result<String> {
    let found = router.interfaces().into_iter().find(|interface| interface.ip() == router.uplink_ip());
    Ok(found.with_context(|| format!("router {:?} has no uplink", router.name()))?.name().to_owned())
}

/// The interface towards the hosts.
fn downlink(router: &Router) -> Result<String> {
    let found = router.interfaces().into_iter().find(|interface| interface.ip() != router.uplink_ip());
    Ok(found.with_context(|| format!("router {:?} has no downlink", router.name()))?.name().to_owned())
}

fn tool(name: &str) -> Result<Command> {
    Ok(Command::new(find_program(name).with_context(|| format!("{name} is not installed"))?))
}

/// Runs a tool in a router's namespace and waits for it.
pub(crate) fn run(router: &Router, mut command: Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = router.spawn_command_sync(command).with_context(|| format!("cannot start {program}"))?;
    let output = child.wait_with_output().with_context(|| format!("cannot wait for {program}"))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("{program} fails on router {:?} ({}): {}", router.name(), output.status, message.trim());
    }
    Ok(())
}
