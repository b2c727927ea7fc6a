//! `netlab up TOPOLOGY`

use std::process::ExitCode;

use anyhow::{Context, Result};
use netlab::lab::Lab;
use netlab::options::Tools;
use netlab::running::RunningLab;
use netlab::topology::{Role, Topology};
use netlab::turn::Setup;
use netlab::{Options, Session, drawing, say};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::control::{Answer, LabState, Plan, socket};

/// A call plan is some hundred bytes; nobody needs to send more.
const PLAN_BYTES_MAX: u64 = 16 * 1024;

/// Builds the lab and keeps it, making calls on request, until it is told to stop.
pub fn up(topology: &str, options: &Options) -> Result<ExitCode> {
    let topology = Topology::load(topology)?;
    let session = Session::enter()?;
    let tools = Tools::find(options, &[])?;
    super::runtime()?.block_on(async {
        // Before anything is there to be left behind: what is half built then goes like the rest.
        let interrupted = super::interruption()?;
        let lab = keep(&session, &tools, options, &topology);
        tokio::select! {
            done = lab => done?,
            () = interrupted => {}
        }
        eprintln!("taking the lab down");
        Ok(ExitCode::SUCCESS)
    })
}

/// Builds the lab and serves it for ever.
async fn keep(session: &Session, tools: &Tools, options: &Options, topology: &Topology) -> Result<()> {
    let running = RunningLab::start(session, tools, options, topology, Setup::Configured, "up").await?;
    let listener = UnixListener::bind(socket(session.directory())).context("cannot make the control socket")?;
    let state = LabState {
        process: std::process::id(),
        topology: topology.name.clone(),
        threads: threads(running.lab())?,
        directory: session.directory().to_owned(),
    };
    state.publish(session.directory())?;
    greet(&running);
    serve(&listener, &running).await
}

/// Which thread is in which node's namespaces.
fn threads(lab: &Lab) -> Result<std::collections::BTreeMap<String, i32>> {
    let here = || Ok(nix::unistd::gettid().as_raw());
    let hosts = lab.devices().map(|(name, device)| Ok((name.to_owned(), device.run_sync(here)?)));
    let routers = lab.routers().map(|(name, router)| Ok((name.to_owned(), router.run_sync(here)?)));
    hosts.chain(routers).collect()
}

fn greet(running: &RunningLab) {
    let lab = running.lab();
    let address = |name: &str| {
        let host = lab.device(name).ok().and_then(patchbay::Device::ip);
        let router = || lab.routers().find(|(router, _)| *router == name).and_then(|(_, router)| router.uplink_ip());
        host.or_else(router).map(|address| address.to_string())
    };
    say!("{}", drawing::text(lab.topology(), address).trim_end());
    let browsers: Vec<_> = lab.browsers().collect();
    say!("The lab is up. In another terminal, for example:");
    if let [first, .., last] = browsers[..] {
        say!("  netlab exec {first} -- ip address");
        say!("  netlab call {first} {last} --policy relay");
    }
    let phone = lab.topology().hosts.iter().find(|host| matches!(host.role, Role::SipClient | Role::Telephone));
    if let ([browser, ..], Some(phone)) = (&browsers[..], phone) {
        say!("  netlab call {browser} {} --policy relay", phone.name);
    }
    say!("Logs are in {}. Ctrl-C takes the lab down.", running.output().display());
}

/// Makes one call after the other for whoever connects to the control socket.
async fn serve(listener: &UnixListener, running: &RunningLab) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("the control socket broke")?;
        if let Err(error) = answer(stream, running).await {
            eprintln!("netlab: a caller went away: {error:#}");
        }
    }
}

async fn answer(stream: UnixStream, running: &RunningLab) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(PLAN_BYTES_MAX)).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Plan>(&line) {
        Err(error) => Answer::Problem(format!("this is no plan: {error}")),
        Ok(plan) => plan.carry_out(running).await,
    };
    let mut answer = serde_json::to_vec(&answer)?;
    answer.push(b'\n');
    Ok(write.write_all(&answer).await?)
}
