//! How many instructions the machine takes for each thing it does, counted by callgrind: `make instructions`.
//!
//! A count has no noise, so a change of a few per cent shows, on any machine and beside any load. It is not time: a cache
//! miss and an addition count the same. `benches/instructions.txt` has the counts of the last change that meant to change
//! them, and the program fails when they have grown by more than the tolerance; `--write` writes them again. Compilers
//! differ, and cryptography picks its code by what the processor can do: after a change of either, write them again.
//!
//! `--unoptimised` does the same with a few units in the build that tests have: `counts.rs` runs it, in `make test`.
//! Those counts say little about cost, but one that has grown says that there is more work.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};

use benches::machine::figures::Figures;
use benches::machine::{Machine, application_data, binding_request, channel_data_message, send_indication};

/// Counts may grow by so much.
const TOLERANCE: f64 = 0.03;
/// And those of unoptimised code, of which compilers and dependencies change more.
const TOLERANCE_UNOPTIMISED: f64 = 0.10;
/// What their lines begin with.
const UNOPTIMISED: &str = "unoptimised/";
/// Behind which is the compiler that they are of.
const COMPILER: &str = "unoptimised/compiler ";
/// Of the flight recorder where there is one: full after 400 set-ups, so that each new story pushes another out.
const EVENTS: usize = 1600;
/// The second argument of this program when it is the one that is counted.
const COUNTED: &str = "counted";

/// A name, how many units are counted, and the work: what is not to be counted first, what is to be counted inside
/// [`measured`].
type Unit = (&'static str, u32, fn(u32));

const UNITS: &[Unit] = &[
    ("channel-data-to-peer", 2000, |count| to_peer(100, 0, count)),
    ("channel-data-to-peer-recorded", 2000, |count| to_peer(100, EVENTS, count)),
    ("channel-data-to-peer-of-15000", 15_000, |count| to_peer(15_000, 0, count)),
    ("channel-data-to-client", 2000, |count| to_client(100, count)),
    ("channel-data-to-client-of-15000", 15_000, |count| to_client(15_000, count)),
    ("send-indication", 2000, |count| indications(100, count)),
    ("binding", 2000, binding),
    ("allocate", 100, |count| allocate(500, count)),
    ("set-up", 100, |count| set_up(500, 0, count)),
    ("set-up-recorded", 100, |count| set_up(500, EVENTS, count)),
    ("set-up-beside-15000", 100, |count| set_up(15_000, 0, count)),
    ("expiry-of-100", 100, expiry),
    ("expiry-of-15000", 15_000, expiry),
    ("recorder-looks-at-100", 100, looks),
    ("publish-counters", 1000, publish),
    ("scrape-of-8-shards", 20, scrape),
];

/// The packet path and an authenticated Allocate, small enough for unoptimised code.
const UNITS_UNOPTIMISED: &[Unit] = &[
    ("channel-data-to-peer", 500, |count| to_peer(20, 0, count)),
    ("channel-data-to-peer-recorded", 500, |count| to_peer(20, EVENTS, count)),
    ("channel-data-to-client", 500, |count| to_client(20, count)),
    ("send-indication", 500, |count| indications(20, count)),
    ("allocate", 20, |count| allocate(20, count)),
];

/// Callgrind counts while this runs.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
    // Keeps the call from becoming a jump, behind which callgrind would not see the end.
    black_box(());
}

fn to_peer(allocations: u32, events: usize, count: u32) {
    let (mut machine, mut message) = (Machine::with_recorder(allocations, events), channel_data_message(160));
    // The first packet of an allocation is an event, and another matter.
    (0..allocations).for_each(|at| machine.to_peer(at, &mut message));
    measured(&mut || (0..count).for_each(|at| machine.to_peer(at % allocations, &mut message)));
}

fn to_client(allocations: u32, count: u32) {
    let (mut machine, mut data) = (Machine::new(allocations), application_data(160));
    (0..allocations).for_each(|at| machine.to_client(at, &mut data));
    measured(&mut || (0..count).for_each(|at| machine.to_client(at % allocations, &mut data)));
}

fn indications(allocations: u32, count: u32) {
    let (mut machine, mut message) = (Machine::new(allocations), send_indication(160));
    measured(&mut || (0..count).for_each(|at| machine.to_peer(at % allocations, &mut message)));
}

fn binding(count: u32) {
    let (mut machine, mut request) = (Machine::new(0), binding_request());
    measured(&mut || (0..count).for_each(|_| machine.binding(&mut request)));
}

/// Allocate with credentials, a port and the answer: all but the socket.
fn allocate(allocations: u32, count: u32) {
    let mut machine = Machine::new(allocations);
    let mut clients: Vec<_> = (0..count).map(|_| machine.write_set_up()).collect();
    measured(&mut || clients.iter_mut().for_each(|client| machine.allocate(client)));
}

/// Allocate, permission and channel: three requests with credentials.
fn set_up(allocations: u32, events: usize, count: u32) {
    let mut machine = Machine::with_recorder(allocations, events);
    let mut clients: Vec<_> = (0..count).map(|_| machine.write_set_up()).collect();
    measured(&mut || clients.iter_mut().for_each(|client| machine.set_up(client)));
}

/// The end of allocations that nobody refreshed, timers and all.
fn expiry(count: u32) {
    let mut machine = Machine::new(count);
    measured(&mut || machine.expire_all());
}

/// The recorder goes through 100 stories, with data flowing in all of them.
fn looks(count: u32) {
    let (mut machine, mut message) = (Machine::with_recorder(100, EVENTS), channel_data_message(160));
    (0..100).for_each(|at| machine.to_peer(at, &mut message));
    measured(&mut || (0..count).for_each(|_| machine.look()));
}

/// A shard that has nothing to do lets others see what it has counted.
fn publish(count: u32) {
    let mut figures = Figures::new(1);
    measured(&mut || (0..count).for_each(|_| figures.publish()));
}

/// All of /metrics that shards have to tell.
fn scrape(count: u32) {
    let figures = Figures::new(8);
    measured(&mut || (0..count).for_each(|_| assert!(figures.scrape() > 0)));
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let build = if has("--unoptimised") { UNOPTIMISED_BUILD } else { OPTIMISED_BUILD };
    if let [COUNTED, name, ..] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        let (_, count, work) = build.units.iter().find(|(unit, ..)| *unit == name).expect("a unit");
        work(*count);
        return ExitCode::SUCCESS;
    }
    if cfg!(debug_assertions) != build.is_unoptimised {
        println!("SKIP: this program is not built for these counts; `make instructions` builds it optimised");
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("SKIP: valgrind is not installed");
        return ExitCode::SUCCESS;
    }
    match build.run(has("--write")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// A way of compiling, and what is counted of it.
#[derive(Clone, Copy)]
struct Build {
    is_unoptimised: bool,
    units: &'static [Unit],
    /// Of its lines in the file.
    prefix: &'static str,
    tolerance: f64,
    /// What writes the counts again.
    command: &'static str,
}

const OPTIMISED_BUILD: Build = Build {
    is_unoptimised: false,
    units: UNITS,
    prefix: "",
    tolerance: TOLERANCE,
    command: "make instructions ARGUMENTS=--write",
};

const UNOPTIMISED_BUILD: Build = Build {
    is_unoptimised: true,
    units: UNITS_UNOPTIMISED,
    prefix: UNOPTIMISED,
    tolerance: TOLERANCE_UNOPTIMISED,
    command: "INSTRUCTIONS=write cargo test --workspace --test counts",
};

impl Build {
    fn run(&self, is_to_be_written: bool) -> Result<(), String> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt");
        let baseline = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let recorded = baseline.lines().find_map(|line| line.strip_prefix(COMPILER));
        if self.is_unoptimised && !is_to_be_written && recorded != Some(&compiler()) {
            println!("SKIP: counts of another compiler are recorded: {}", recorded.unwrap_or("none"));
            return Ok(());
        }
        let (mut counts, mut grown) = (Vec::new(), Vec::new());
        println!("{:<34}{:>12}{:>12}", "instructions per unit", "committed", "now");
        for (name, units, _) in self.units {
            let now = self.count(name)? as f64 / f64::from(*units);
            let key = format!("{}{name}", self.prefix);
            let before = baseline.lines().find_map(|line| line.strip_prefix(&key)?.strip_prefix(' '));
            match before.and_then(|before| before.trim().parse::<f64>().ok()) {
                Some(before) => {
                    let change = now / before - 1.0;
                    println!("{name:<34}{before:>12.0}{now:>12.0} {:>+7.1} %", change * 100.0);
                    if change > self.tolerance {
                        grown.push(*name);
                    }
                }
                None => println!("{name:<34}{:>12}{now:>12.0}", "–"),
            }
            counts.push(format!("{key} {now:.0}"));
        }
        if is_to_be_written {
            let text = self.rewritten(&baseline, counts);
            return fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()));
        }
        match grown[..] {
            [] => Ok(()),
            _ => Err(format!(
                "{} took over {:.0} % more instructions than benches/instructions.txt has: find out why, or write them \
                 again with `{}`",
                grown.join(", "),
                self.tolerance * 100.0,
                self.command
            )),
        }
    }

    /// The file with these counts in place of its own: comments first, then what is optimised.
    fn rewritten(&self, baseline: &str, mut counts: Vec<String>) -> String {
        let is_comment = |line: &&str| line.starts_with('#');
        let lines = |wanted: bool| {
            let of = move |line: &&str| !is_comment(line) && line.starts_with(UNOPTIMISED) == wanted;
            baseline.lines().filter(of).map(str::to_owned).collect::<Vec<_>>()
        };
        if self.is_unoptimised {
            counts.insert(0, format!("{COMPILER}{}", compiler()));
        }
        let (optimised, unoptimised) = if self.is_unoptimised { (lines(false), counts) } else { (counts, lines(true)) };
        let all = baseline.lines().filter(is_comment).map(str::to_owned).chain(optimised).chain(unoptimised);
        all.map(|line| line + "\n").collect()
    }

    /// Instructions inside [`measured`] of one unit's work. Callgrind's file stays, for callgrind_annotate.
    fn count(&self, name: &str) -> Result<u64, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let file = own.with_file_name(format!("callgrind.{name}.out"));
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=instructions::measured"])
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(own)
            .args([COUNTED, name])
            .args(self.is_unoptimised.then_some("--unoptimised"))
            .output()
            .map_err(|error| format!("valgrind: {error}"))?;
        if !output.status.success() {
            return Err(format!("valgrind: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
        total.filter(|total| *total > 0).ok_or_else(|| format!("callgrind saw no call of what is measured in {name}"))
    }
}

/// What compiles here now.
fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
