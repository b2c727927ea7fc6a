//! Kamailio: registrar and proxy. Pages reach it over WebSocket on TLS, phones and the gateway over UDP.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::{PASSWORD, SIP_HOST, SipTools, address_of, logged_command, rtpengine};
use crate::CannotRun;
use crate::authority::Authority;
use crate::lab::Lab;
use crate::process::Process;
use crate::topology::Service;

/// How long it may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Where Debian has its modules, below `/usr/lib/ARCHITECTURE/`, and those that are in packages of their own.
const MODULES: &[(&str, &str)] = &[("websocket.so", "kamailio-websocket-modules"), ("tls.so", "kamailio-tls-modules")];

/// A running SIP server.
pub(super) struct Kamailio {
    _process: Process,
}

/// Whether the modules are there that are not in Kamailio's main package.
///
/// # Errors
/// The package that is missing.
pub(super) fn find_modules() -> Result<(), CannotRun> {
    let directories = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let directories: Vec<_> = directories.map(|entry| entry.path().join("kamailio/modules")).collect();
    for (module, package) in MODULES {
        if !directories.iter().any(|directory| directory.join(module).is_file()) {
            return Err(CannotRun::new(
                format!("Kamailio's module {module} is not installed"),
                format!("install it (Debian: apt install {package})"),
            ));
        }
    }
    Ok(())
}

impl Kamailio {
    /// Starts it on the lab's SIP node and waits until pages can connect.
    pub async fn start(
        tools: &SipTools,
        lab: &Lab,
        authority: &Authority,
        scratch: &Path,
        output: &Path,
    ) -> Result<Kamailio> {
        let address = address_of(lab, Service::Sip)?;
        let gateway = lab.topology().find_server(Service::Gateway).is_some();
        let gateway = gateway.then(|| address_of(lab, Service::Gateway)).transpose()?;
        let (log, directory) = (output.join("sip.log"), scratch.join("kamailio"));
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let certified = authority.certify(SIP_HOST)?;
        write(&directory.join("certificate.pem"), &certified.certificate_pem())?;
        write(&directory.join("key.pem"), &certified.key_pem())?;
        let file = directory.join("kamailio.cfg");
        write(&file, &configuration(address, address_of(lab, Service::Media)?, gateway, &directory))?;

        // In a process namespace of its own: its workers do not notice when their parent is killed, but they go with
        // its namespace. Little memory, one worker per socket.
        let mut command = logged_command(&tools.unshare, &log)?;
        command.args(["--pid", "--fork", "--kill-child", "--"]).arg(&tools.kamailio);
        command.args(["-DD", "-E", "-m", "32", "-M", "4", "-Y"]).arg(&directory).arg("-f").arg(&file);
        let device = lab.device(&lab.topology().find_server(Service::Sip).context("no SIP node")?.name)?;
        let mut process = Process::spawn(device, command)?;

        let deadline = Instant::now() + START_PATIENCE;
        let target = SocketAddr::from((address, 443));
        while !device.spawn(move |_| async move { TcpStream::connect(target).await.is_ok() })?.await? {
            if let Some(status) = process.exit_status() {
                bail!("the SIP server ended at once ({status}); see {}", log.display());
            }
            if Instant::now() > deadline {
                bail!("the SIP server does not listen after {} s; see {}", START_PATIENCE.as_secs(), log.display());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Kamailio { _process: process })
    }
}

/// Readable to its owner only, as a key has to be.
fn write(file: &Path, text: &str) -> Result<()> {
    let opened = File::options().create(true).write(true).truncate(true).mode(0o600).open(file);
    let written = opened.and_then(|mut opened| opened.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", file.display()))
}

fn configuration(address: Ipv4Addr, media: Ipv4Addr, gateway: Option<Ipv4Addr>, directory: &Path) -> String {
    let directory = directory.display();
    // Without a gateway nobody has a number.
    let to_gateway = gateway.map_or_else(
        || r#"sl_send_reply("404", "No Gateway"); exit;"#.to_owned(),
        |gateway| format!(r#"$du = "sip:{gateway}:5060"; route(TO_GATEWAY);"#),
    );
    let fixed = include_str!("kamailio.cfg");
    format!(
        "#!KAMAILIO\nlisten=udp:{address}:5060\nlisten=tls:{address}:443\nalias=\"{SIP_HOST}\"\n\
         #!subst \"!DIRECTORY!{directory}!g\"\n\
         #!subst \"!MEDIA_PROXY!udp:{media}:{port}!g\"\n\
         #!subst \"!DOMAIN!{SIP_HOST}!g\"\n#!subst \"!PASSWORD!{PASSWORD}!g\"\n\
         {fixed}\nroute[NUMBER] {{\n    {to_gateway}\n}}\n",
        port = rtpengine::CONTROL_PORT,
    )
}
