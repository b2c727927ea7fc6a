//! Every NAT against every other with bare UDP sockets, in both orders: exactly the pairs reach each other of which RFC
//! 4787 lets one expect it.

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Trial};
use netlab::nat::{Nat, punch};
use netlab::options::find_turn_server;
use netlab::topology::Service;
use netlab::turn::{Setup, TurnServer};
use netlab::{Options, Session};

fn main() {
    let arguments = Arguments::from_args();
    let session: &'static Result<_, _> = Box::leak(Box::new(Session::enter()));
    let trial = Trial::test("every_pair_of_nats_punches_as_rfc_4787_lets_expect", move || {
        let session = match session {
            Ok(session) => session,
            Err(reason) => {
                eprintln!("SKIP: {reason}");
                return Ok(());
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(prove(session)).map_err(|error| format!("{error:#}").into())
    });
    let conclusion = libtest_mimic::run(&arguments, vec![trial]);
    if let Ok(session) = session {
        // The session is leaked, so nothing drops it.
        let _ = std::fs::remove_dir_all(session.directory());
    }
    conclusion.exit()
}

async fn prove(session: &Session) -> Result<()> {
    let hairpin = match find_turn_server(&Options::default()) {
        Ok(hairpin) => hairpin,
        Err(missing) => {
            eprintln!("SKIP: {missing}");
            return Ok(());
        }
    };
    let lab = netlab::lab::Lab::build(session, &punch::topology(&Nat::PRESETS)?).await?;
    let scratch = session.new_directory()?;
    let authority = netlab::authority::Authority::new()?;
    let log = scratch.join("turn.log");
    let host = lab.topology().server(Service::Turn);
    let _server = TurnServer::start(&hairpin, Setup::Configured, &lab, host, &authority, &scratch, &log).await?;
    let attempts = punch::grid(&lab, &Nat::PRESETS).await?;
    ensure!(attempts.len() == 2 * Nat::PRESETS.len().pow(2), "{} attempts", attempts.len());
    let wrong: Vec<String> = attempts
        .iter()
        .filter(|attempt| attempt.reached != attempt.expected())
        .map(|attempt| format!("{} and {}, {:?}: {}", attempt.nats[0], attempt.nats[1], attempt.order, attempt.reached))
        .collect();
    ensure!(wrong.is_empty(), "{} pairs are not as expected:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}
