//! One measurement: a fresh server, a load on it, and what the load's report says.

use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::awake::Awake;
use crate::contestants::{Certificate, Contestant, PASSWORD, PORT, Running, TLS_PORT, USERNAME};
use crate::disturbance::Watch;
use crate::flood::Flood;
use crate::machine;
use crate::network::{CLIENTS, Network, PEERS, SERVER};
use crate::options::{self, Options};
use crate::profile::Profile;
use crate::results::{Figures, Sample};
use crate::rows::{Row, Section, Transport, What};
use crate::scraper::Scraper;

/// Beyond what a load is to last: setting 15,000 allocations up, one after the other, and down.
const LOAD_PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks whether a load has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The part of its core's time that a server takes when it, and not the load, is at its limit.
const SATURATED_MIN: f64 = 0.97;
/// How long a background load has to set itself up.
const BACKGROUND_PATIENCE: Duration = Duration::from_secs(60);

/// What measurements share.
pub struct Bench<'b> {
    pub network: &'b Network,
    pub options: &'b Options,
    pub scratch: &'b Path,
    pub certificate: Certificate,
}

impl Bench<'_> {
    /// Measures a row with one server; again, if something disturbed it, but not for ever.
    ///
    /// # Errors
    /// When the server does not start or the load fails.
    pub fn sample(&self, row: &Row, contestant: &Contestant) -> Result<Sample, String> {
        let mut sample = self.once(row, contestant)?;
        for _ in 0..self.options.repetitions() {
            if sample.disturbed.is_none() {
                break;
            }
            sample = self.once(row, contestant)?;
        }
        Ok(sample)
    }

    fn once(&self, row: &Row, contestant: &Contestant) -> Result<Sample, String> {
        let problem = |error| format!("{} with {}: {error}", row.name, contestant.name);
        let watch = Watch::begin();
        let load_average = machine::load_average();
        // The first at the links, in front of whatever the server puts there.
        let what = match row.what {
            // Who relays by itself is at its limit before the ordinary load is.
            What::Flood { arguments, .. } if !contestant.is_in_kernel() => {
                What::Load { transport: Transport::Udp, arguments, background: &[] }
            }
            what => what,
        };
        let flood = match what {
            What::Flood { .. } => Some(Flood::new(self.network).map_err(problem)?),
            _ => None,
        };
        let running = contestant.start(self.network, self.scratch, &self.certificate)?;
        let figures = match what {
            What::Start => Figures { value: running.first_answer.as_secs_f64() * 1000.0, ..Figures::default() },
            What::Memory { arguments } => {
                let report = self.load(Transport::Udp, arguments, &running).map_err(problem)?;
                let bytes = report.pointer("/server/resident_bytes_per_allocation").and_then(Value::as_f64);
                let value = bytes.ok_or_else(|| problem("the report does not speak of memory".to_owned()))?;
                Figures { value, ..Figures::default() }
            }
            What::Flood { arguments, flows } => {
                let flood = flood.expect("made above");
                self.flood(flood, arguments, flows, &running).map_err(problem)?
            }
            What::Load { transport, arguments, background } => {
                let _background = match background {
                    [] => None,
                    arguments => Some(self.background(arguments, contestant, &running).map_err(problem)?),
                };
                let scraper = contestant.is_scraped().then(|| Scraper::begin(self.network));
                let seconds = self.options.warm_up() + self.options.seconds();
                let profile = match self.options.profile {
                    true => Some(Profile::begin(self.network, self.scratch, running.pid(), seconds).map_err(problem)?),
                    false => None,
                };
                let awake = match self.options.awake || row.section == Section::Kernel {
                    true => Some(Awake::begin(self.network.server.cpu).map_err(problem)?),
                    false => None,
                };
                let report = self.load(transport, arguments, &running).map_err(problem)?;
                scraper.map_or(Ok(0), Scraper::end).map_err(problem)?;
                if let Some(profile) = profile {
                    println!("{} with {}, {}", row.name, contestant.name, profile.end().map_err(problem)?);
                }
                let mut figures =
                    figures(&report).ok_or_else(|| problem("the report lacks what it should have".to_owned()))?;
                if let Some(awake) = awake {
                    let units = report.get("done").and_then(Value::as_f64).unwrap_or_default();
                    let between = ["0", "1"]
                        .map(|end| report.pointer(&format!("/server/between_nanos/{end}")).and_then(Value::as_u64));
                    let micros = match between {
                        [Some(from), Some(until)] => awake.end(from, until).map_err(problem)?,
                        _ => return Err(problem("the report does not say when it measured".to_owned())),
                    };
                    figures.value = micros / units;
                    // By the tick, which does not know its own sleeper from the server.
                    figures.softirq_share = None;
                }
                figures
            }
        };
        let disturbed = watch.end();
        Ok(Sample { server: contestant.name.to_owned(), figures, load_average, disturbed })
    }

    /// Has the kernel repeat what a load has sent, as fast as the server can, until the time is over.
    fn flood(&self, flood: Flood, arguments: &[&str], flows: u64, running: &Running) -> Result<Figures, String> {
        let mut words = self.words(Transport::Udp, arguments, running);
        words.extend(["--rate", "8000", "--seconds", "60", "--warm-up", "0"].map(str::to_owned));
        let mut load = self.start_load(words)?;
        let deadline = Instant::now() + BACKGROUND_PATIENCE;
        while flood.learnt() < flows {
            if load.0.try_wait().map_err(|error| error.to_string())?.is_some() {
                return Err(format!("the load to learn from failed: {}", load.complaint()));
            }
            if Instant::now() > deadline {
                return Err(format!("of {flows} flows only {} were seen", flood.learnt()));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        // What it has set up stays, since it is killed: by nobody's wish.
        drop(load);
        let awake = Awake::begin(self.network.server.cpu)?;
        let profile = match self.options.profile {
            true => Some(Profile::begin(self.network, self.scratch, running.pid(), self.options.seconds())?),
            false => None,
        };
        let outcome = flood.run(self.network, self.options.warm_up(), self.options.seconds())?;
        if let Some(profile) = profile {
            println!("{}", profile.end()?);
        }
        let micros = awake.end(outcome.from, outcome.until)?;
        let seconds = (outcome.until - outcome.from) as f64 / 1e9;
        Ok(Figures {
            value: micros / outcome.received as f64,
            per_second: Some(outcome.received as f64 / seconds),
            lost: Some(outcome.lost as f64),
            // Whoever waits is not the limit.
            generator_busy: Some(if micros / 1e6 / seconds < SATURATED_MIN { 1.0 } else { 0.0 }),
            ..Figures::default()
        })
    }

    /// Runs `hairpin bench` to its end; its report.
    fn load(&self, transport: Transport, arguments: &[&str], running: &Running) -> Result<Value, String> {
        let seconds = self.options.seconds();
        let mut words = self.words(transport, arguments, running);
        words.extend(["--seconds".into(), seconds.to_string(), "--warm-up".into(), self.options.warm_up().to_string()]);
        let mut load = self.start_load(words)?;
        let deadline = Instant::now() + LOAD_PATIENCE + Duration::from_secs_f64(seconds);
        let read = load.0.stdout.take().map(|mut output| {
            std::thread::spawn(move || {
                let mut text = String::new();
                output.read_to_string(&mut text).map(|_| text)
            })
        });
        let status = loop {
            match load.0.try_wait().map_err(|error| error.to_string())? {
                Some(status) => break status,
                None if Instant::now() > deadline => return Err("the load does not end".into()),
                None => std::thread::sleep(LOOK_AGAIN),
            }
        };
        let text = read.expect("a pipe").join().expect("it reads").map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("the load failed: {}", load.complaint()));
        }
        serde_json::from_str(&text).map_err(|error| format!("the load's report is not JSON: {error}"))
    }

    /// Starts a load that only has to be there, and waits until it has set itself up: then its first packets arrive.
    fn background(&self, arguments: &[&str], contestant: &Contestant, running: &Running) -> Result<Load, String> {
        let mut load = self.start_load(self.words(Transport::Udp, arguments, running))?;
        let wanted: usize = arguments.iter().filter_map(|word| word.parse().ok()).next().unwrap_or(0);
        let deadline = Instant::now() + BACKGROUND_PATIENCE;
        // Each allocation is a socket of the server's, whoever it is.
        while sockets(running.pid()) < wanted {
            if load.0.try_wait().map_err(|error| error.to_string())?.is_some() {
                return Err(format!("{}: the load beside it failed: {}", contestant.name, load.complaint()));
            }
            if Instant::now() > deadline {
                return Err("the load beside it does not set itself up".into());
            }
            std::thread::sleep(LOOK_AGAIN * 10);
        }
        std::thread::sleep(Duration::from_millis(200));
        Ok(load)
    }

    fn words(&self, transport: Transport, arguments: &[&str], running: &Running) -> Vec<String> {
        let (mode, rest) = arguments.split_first().expect("a mode");
        let mut words = vec!["bench".to_owned(), (*mode).to_owned()];
        match transport {
            Transport::Udp => words.push(format!("turn:{SERVER}:{PORT}")),
            Transport::Tcp => words.push(format!("turn:{SERVER}:{PORT}?transport=tcp")),
            Transport::Tls => words.extend([format!("turns:{SERVER}:{TLS_PORT}"), "--insecure".to_owned()]),
        }
        words.extend(rest.iter().map(|word| (*word).to_owned()));
        let server = (running.pid().to_string(), self.network.server.cpu.to_string());
        let (clients, peers) = (IpAddr::from(CLIENTS).to_string(), IpAddr::from(PEERS).to_string());
        let more: [(&str, &str); 6] = [
            ("--user", USERNAME),
            ("--password", PASSWORD),
            ("--client-address", &clients),
            ("--peer-address", &peers),
            ("--server-pid", &server.0),
            ("--server-cpu", &server.1),
        ];
        words.extend(more.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_owned()]));
        words.push("--json".to_owned());
        words
    }

    /// The load is that of this build, whichever server it is put on.
    fn start_load(&self, words: Vec<String>) -> Result<Load, String> {
        let child = self.network.load.spawn(&options::own_build(), move |command| {
            command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        })?;
        Ok(Load(child))
    }
}

/// A load under way; it ends when this is dropped.
struct Load(Child);

impl Load {
    /// What it said when it failed.
    fn complaint(&mut self) -> String {
        let mut text = String::new();
        if let Some(errors) = &mut self.0.stderr {
            let _ = errors.read_to_string(&mut text);
        }
        text.trim().to_owned()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sockets(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn figures(report: &Value) -> Option<Figures> {
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64);
    Some(Figures {
        value: number("/server/core_micros_per_unit")?,
        per_second: number("/per_second"),
        lost: number("/lost"),
        softirq_share: number("/server/softirq_share"),
        median_latency: number("/latency_micros/p50"),
        tail_latency: number("/latency_micros/p99"),
        generator_busy: number("/generator/busy").or_else(|| number("/generator_busy")),
    })
}
