//! What a public server is attacked with, done to a real one: the S-tests of docs/abuse.md that need sockets.
//!
//! `cargo test --test abuse`, or with the beginning of names to run only those: `cargo test --test abuse -- s04`. The
//! server lives in a network namespace of its own whose only way out leads to this process, in another one; nothing can
//! leave the machine, whatever goes wrong. Without the right to make namespaces it says SKIP.
//!
//! Floods are as long as FLOOD says in packets, 200,000 without it; the ten million that the requirement speaks of take
//! a minute or two: `FLOOD=10000000 cargo test --test abuse -- s05`.
//!
//! `world.rs` makes the namespaces and servers; `peers.rs`, `floods.rs`, `sessions.rs`, `streams.rs`,
//! `offload.rs` and `under_fire.rs` have the attacks. The server relays in the kernel where it can; `OFFLOAD=off` has it
//! do without. The client is that of tests/conformance, which shares no line with the server.

#[expect(dead_code, reason = "the other suite needs more of it")]
#[path = "../conformance/bench.rs"]
mod bench;
#[expect(dead_code, reason = "the other suite needs more of it")]
#[path = "../conformance/case.rs"]
mod case;
#[expect(dead_code, reason = "the other suite needs more of it")]
#[path = "../conformance/client.rs"]
mod client;
#[path = "../conformance/drafts.rs"]
mod drafts;
#[cfg(feature = "dtls")]
#[path = "../conformance/dtls.rs"]
mod dtls;
#[expect(dead_code, reason = "the other suite needs more of it")]
#[path = "../conformance/link.rs"]
mod link;
#[expect(dead_code, reason = "the other suite needs more of it")]
#[path = "../conformance/numbers.rs"]
mod numbers;
#[path = "../conformance/rest_credentials.rs"]
mod rest_credentials;
#[expect(dead_code, reason = "the other suite needs more of it")]
#[path = "../conformance/wire.rs"]
mod wire;

mod floods;
mod offload;
mod peers;
mod sessions;
mod streams;
mod under_fire;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use case::{Step, Stop};

/// An attack: its name, and what must not come of it. What it returns is printed: the figures.
type Attack = (&'static str, fn() -> Step<String>);

fn main() -> ExitCode {
    match world::enter() {
        Ok(world::Entered::Inside) => {}
        Ok(world::Entered::Ended(code)) => return code,
        Err(why) => {
            println!("SKIP the abuse tests: {why}");
            return ExitCode::SUCCESS;
        }
    }
    // Those of the test runner, like --nocapture, mean nothing here.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let attacks =
        [peers::ATTACKS, floods::ATTACKS, sessions::ATTACKS, streams::ATTACKS, offload::ATTACKS, under_fire::ATTACKS]
            .concat();
    let chosen: Vec<Attack> = attacks
        .into_iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|word| name.starts_with(word.as_str())))
        .collect();
    let mut failed = 0;
    for (name, attack) in &chosen {
        let start = Instant::now();
        let outcome = attack();
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(figures) => println!("ok    {name:<44} {seconds:5.1} s  {figures}"),
            Err(Stop::NotApplicable(why)) => println!("SKIP  {name:<44} {why}"),
            Err(Stop::Failed(why)) => {
                failed += 1;
                println!("FAIL  {name:<44} {seconds:5.1} s  {why}");
            }
        }
    }
    println!("abuse: {} attacks, {failed} failed", chosen.len());
    if failed == 0 && !chosen.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
