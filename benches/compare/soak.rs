//! Whether Hairpin stays as large as it is: a long run with a steady load, and everything else that clients do beside it.
//!
//! `compare soak --minutes 60`, or `make soak`. Calls last as long as the run; meanwhile others come and go over UDP, TCP
//! and TLS, ask for Binding, try wrong passwords, and somebody reads /metrics once a second. Memory and descriptors are
//! looked at all the time: in the last tenth of the run memory has to be what it was in the second one, and when the load has
//! gone, no descriptor is left of it.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::Value;

use crate::Scratch;
use crate::contestants::{self, Contestant, PASSWORD, PORT, TLS_PORT, USERNAME};
use crate::machine;
use crate::network::{self, CLIENTS, Network, PEERS, SERVER};
use crate::options::own_build;
use crate::scraper::Scraper;

/// First word of the command line that leads here.
pub const COMMAND: &str = "soak";

/// Calls that are there from the beginning to the end.
const CALLS: usize = 200;
/// From the end of one chore to the next one.
const PAUSE: Duration = Duration::from_secs(15);
/// What a chore may take beyond its second, on a machine that does other things as well.
const CHORE_PATIENCE: Duration = Duration::from_secs(60);
/// How long it takes until nothing of the load is left: connections close, and relays are given back.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a program that is to end.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A shorter run still fills caches when it ends: it shows that everything works, and nothing of growth.
const JUDGED_FROM: Duration = Duration::from_secs(300);
/// What memory may grow by, from the second tenth of the run to its last: a part of it, or so many bytes if that is more.
const GROWTH: (u64, u64) = (33, 512 * 1024);

/// Let one server run for long under everything that clients do, and see that it does not grow.
#[derive(Debug, Parser)]
#[command(name = "compare soak")]
struct Options {
    /// How long
    #[arg(long, default_value_t = 60.0, value_parser = minutes)]
    minutes: f64,
    /// Packets a second of the 200 calls that last as long
    #[arg(long, default_value_t = 3000)]
    rate: u32,
    /// The Hairpin that runs; the load is always this build's
    #[arg(long, value_name = "FILE", default_value_os_t = own_build())]
    hairpin: PathBuf,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match minutes {
        0.1..=10_080.0 => Ok(minutes),
        _ => Err("from 0.1 to 10080, which is a week".into()),
    }
}

/// What others do for a second, while the calls go on.
const CHORES: [Chore; 5] = [
    Chore { name: "set-ups over UDP", words: "allocate UDP --clients 4", is_refused: false },
    Chore { name: "set-ups over TCP", words: "setup TCP", is_refused: false },
    Chore { name: "set-ups over TLS", words: "setup TLS", is_refused: false },
    Chore { name: "Binding requests", words: "binding UDP --clients 4", is_refused: false },
    Chore { name: "wrong passwords", words: "allocate UDP", is_refused: true },
];

struct Chore {
    name: &'static str,
    words: &'static str,
    /// Its password is wrong.
    is_refused: bool,
}

/// What is looked at.
#[derive(Clone, Copy)]
struct Size {
    resident: u64,
    descriptors: usize,
}

impl Size {
    fn of(pid: u32) -> Result<Self, String> {
        let gone = |error: std::io::Error| format!("the server is gone: {error}");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(gone)?;
        let resident =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_err(gone)?.count();
        match resident {
            Some(kilobytes) => Ok(Self { resident: kilobytes_to_bytes(kilobytes), descriptors }),
            None => Err("the server is gone".into()),
        }
    }
}

fn kilobytes_to_bytes(kilobytes: u64) -> u64 {
    kilobytes * 1024
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.2} MB resident, {} descriptors", self.resident as f64 / 1e6, self.descriptors)
    }
}

/// Runs it.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let options = Options::parse_from([OsString::from("compare soak")].iter().chain(arguments));
    if let Err(reason) = network::can_run() {
        println!("SKIP: {reason}");
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let scratch = Scratch::new()?;
    machine::raise_descriptor_limit();
    let network = Network::new(0, 1)?;
    let contestant = Contestant::to_soak(&options.hairpin);
    let server = contestant.start(&network, &scratch.0, &contestants::certificate())?;
    let before = Size::of(server.pid())?;
    say(&format!("before any load: {before}"));

    let length = Duration::from_secs_f64(options.minutes * 60.0);
    let calls = format!(
        "relay UDP --allocations {CALLS} --payload 160 --rate {} --peer-address {PEERS} --warm-up 0 --seconds {}",
        options.rate,
        length.as_secs_f64()
    );
    let (start, scraper) = (Instant::now(), Scraper::begin(&network));
    let mut calls = Load::start(&network, &calls, PASSWORD)?;
    let mut done = [0_u64; CHORES.len()];
    let mut sizes: Vec<(Duration, Size)> = Vec::new();
    let mut told = Duration::ZERO;
    for (which, chore) in CHORES.iter().enumerate().cycle() {
        let pause = Instant::now() + PAUSE.min(length / 50);
        while Instant::now() < pause && !calls.has_ended()? {
            thread::sleep(LOOK_AGAIN);
        }
        let (size, now) = (Size::of(server.pid())?, start.elapsed());
        sizes.push((now, size));
        if now >= told {
            say(&format!("{:6.1} minutes: {size}", now.as_secs_f64() / 60.0));
            told += length / 20;
        }
        if calls.has_ended()? {
            break;
        }
        done[which] += chore.run(&network)?;
    }
    let report = calls.end(CHORE_PATIENCE)?;
    let pages = scraper.end()?;

    let after = settled(server.pid(), before.descriptors)?;
    say(&format!("after it: {after}"));
    let number = |field: &str| report.pointer(field).and_then(Value::as_f64).unwrap_or_default();
    say(&format!(
        "packets relayed: {}, lost {}, corrupted {}; latency p50 {:.0} µs, p99 {:.0} µs",
        number("/done"),
        number("/lost"),
        number("/corrupted"),
        number("/latency_micros/p50"),
        number("/latency_micros/p99")
    ));
    for (chore, done) in CHORES.iter().zip(done) {
        say(&format!("{}: {done}", chore.name));
    }
    say(&format!("pages of metrics: {pages}"));
    if number("/done") == 0.0 || number("/corrupted") > 0.0 {
        return Err("the calls did not get what they sent".into());
    }
    judge(&sizes, length)
}

/// Whether memory stayed what it was.
fn judge(sizes: &[(Duration, Size)], length: Duration) -> Result<(), String> {
    if length < JUDGED_FROM {
        say("too short to say whether it grows: give it five minutes at least");
        return Ok(());
    }
    let median = |from: u32, to: u32| {
        let is_in = |at: &Duration| *at >= length * from / 10 && *at <= length * to / 10 + PAUSE;
        let mut resident: Vec<u64> = sizes.iter().filter(|(at, _)| is_in(at)).map(|(_, size)| size.resident).collect();
        resident.sort_unstable();
        resident.get(resident.len() / 2).copied().ok_or("nothing was looked at in a tenth of the run")
    };
    let (early, late) = (median(1, 2)?, median(9, 10)?);
    let allowed = early + (early / GROWTH.0).max(GROWTH.1);
    say(&format!("resident in the second tenth {:.2} MB, in the last {:.2} MB", early as f64 / 1e6, late as f64 / 1e6));
    match late <= allowed {
        true => Ok(()),
        false => Err(format!("it has grown: at most {:.2} MB were allowed", allowed as f64 / 1e6)),
    }
}

/// The server's size when the load's sockets have gone.
fn settled(pid: u32, descriptors: usize) -> Result<Size, String> {
    let deadline = Instant::now() + END_PATIENCE;
    loop {
        let size = Size::of(pid)?;
        if size.descriptors <= descriptors {
            return Ok(size);
        }
        if Instant::now() > deadline {
            return Err(format!(
                "descriptors are left of the load: {} before it, {} after",
                descriptors, size.descriptors
            ));
        }
        thread::sleep(LOOK_AGAIN);
    }
}

impl Chore {
    /// What was done in its second: units, or refusals where it is to be refused.
    fn run(&self, network: &Network) -> Result<u64, String> {
        let password = if self.is_refused { "not-the-password" } else { PASSWORD };
        let load = Load::start(network, &format!("{} --warm-up 0 --seconds 1", self.words), password)?;
        match (load.end(CHORE_PATIENCE), self.is_refused) {
            (Ok(report), false) => Ok(report.pointer("/done").and_then(Value::as_u64).unwrap_or_default()),
            (Ok(_), true) => Err(format!("{}: they were accepted", self.name)),
            (Err(problem), true) if problem.contains("401") => Ok(1),
            (Err(problem), _) => Err(format!("{}: {problem}", self.name)),
        }
    }
}

/// A `hairpin bench` under way; it ends with this process at the latest.
struct Load {
    child: Child,
    output: thread::JoinHandle<std::io::Result<String>>,
    errors: thread::JoinHandle<std::io::Result<String>>,
}

impl Load {
    /// Words are the mode, the transport, and what else it takes.
    fn start(network: &Network, words: &str, password: &str) -> Result<Self, String> {
        let mut words = words.split(' ');
        let mode = words.next().unwrap_or_default().to_owned();
        let uri = match words.next() {
            Some("TCP") => format!("turn:{SERVER}:{PORT}?transport=tcp"),
            Some("TLS") => format!("turns:{SERVER}:{TLS_PORT}"),
            _ => format!("turn:{SERVER}:{PORT}"),
        };
        let mut arguments = vec!["bench".to_owned(), mode.clone(), uri.clone(), "--json".into(), "--quiet".into()];
        arguments.extend(["--client-address".into(), CLIENTS.to_string()]);
        if mode != "binding" {
            arguments.extend(["--user".into(), USERNAME.into(), "--password".into(), password.to_owned()]);
        }
        if mode == "allocate" || mode == "setup" {
            arguments.extend(["--peer-address".into(), PEERS.to_string()]);
        }
        if uri.starts_with("turns:") {
            arguments.push("--insecure".into());
        }
        arguments.extend(words.map(str::to_owned));
        let mut child = network.load.spawn(&own_build(), move |command| {
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        })?;
        let (output, errors) = (child.stdout.take().map(read_all), child.stderr.take().map(read_all));
        Ok(Self { child, output: output.expect("a pipe"), errors: errors.expect("a pipe") })
    }

    fn has_ended(&mut self) -> Result<bool, String> {
        self.child.try_wait().map(|status| status.is_some()).map_err(|error| error.to_string())
    }

    /// Its report.
    fn end(mut self, patience: Duration) -> Result<Value, String> {
        let deadline = Instant::now() + patience;
        while !self.has_ended()? {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return Err("the load does not end".into());
            }
            thread::sleep(LOOK_AGAIN);
        }
        let status = self.child.wait().map_err(|error| error.to_string())?;
        let text = |reader: thread::JoinHandle<std::io::Result<String>>| {
            reader.join().map_err(|_| "a thread has panicked".to_owned())?.map_err(|error| error.to_string())
        };
        let (output, errors) = (text(self.output)?, text(self.errors)?);
        match status.success() {
            true => serde_json::from_str(&output).map_err(|error| format!("the report is not JSON: {error}")),
            false => Err(errors.trim().to_owned()),
        }
    }
}

fn read_all(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<std::io::Result<String>> {
    thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).map(|_| text)
    })
}

/// Written at once, also into a file: somebody may look at it during the hour.
fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Looked at every ten seconds.
    fn hour(resident: impl Fn(u64) -> u64) -> Vec<(Duration, Size)> {
        let at = |second| (Duration::from_secs(second), Size { resident: resident(second), descriptors: 219 });
        (0..3600).step_by(10).map(at).collect()
    }

    #[test]
    fn what_fills_up_and_stays_is_no_growth() {
        let filled = hour(|second| 16_000_000 + 10_000 * second.min(200));
        assert_eq!(judge(&filled, HOUR), Ok(()));
    }

    #[test]
    fn what_goes_on_growing_is_found() {
        let problem = judge(&hour(|second| 16_000_000 + 250 * second), HOUR).expect_err("0.8 MB an hour");
        assert!(problem.starts_with("it has grown"), "{problem}");
    }

    #[test]
    fn a_run_in_which_nothing_was_looked_at_is_no_proof() {
        assert!(judge(&[], HOUR).is_err());
    }
}
