//! How many instructions the machine takes for each thing it does, counted by callgrind: `make instructions`.
//!
//! A count has no noise, so a change of a few per cent shows, on any machine and beside any load. It is not time: a cache
//! miss and an addition count the same. `benches/instructions.txt` has the counts of the last change that meant to change
//! them, and the program fails when they have grown by more than the tolerance; `-- --write` writes them again. Compilers
//! differ, and cryptography picks its code by what the processor can do: after a change of either, write them again.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};

use benches::machine::{Machine, application_data, binding_request, channel_data_message, send_indication};

/// Counts may grow by so much.
const TOLERANCE: f64 = 0.03;
/// The second argument of this program when it is the one that is counted.
const COUNTED: &str = "counted";

/// A name, how many units are counted, and the work: what is not to be counted first, what is to be counted inside
/// [`measured`].
type Unit = (&'static str, u32, fn(u32));

const UNITS: &[Unit] = &[
    ("channel-data-to-peer", 2000, |count| to_peer(100, count)),
    ("channel-data-to-peer-of-15000", 15_000, |count| to_peer(15_000, count)),
    ("channel-data-to-client", 2000, |count| to_client(100, count)),
    ("channel-data-to-client-of-15000", 15_000, |count| to_client(15_000, count)),
    ("send-indication", 2000, indications),
    ("binding", 2000, binding),
    ("set-up", 100, |count| set_up(100, count)),
    ("set-up-beside-15000", 100, |count| set_up(15_000, count)),
    ("expiry-of-100", 100, expiry),
    ("expiry-of-15000", 15_000, expiry),
];

/// Callgrind counts while this runs.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
    // Keeps the call from becoming a jump, behind which callgrind would not see the end.
    black_box(());
}

fn to_peer(allocations: u32, count: u32) {
    let (mut machine, mut message) = (Machine::new(allocations), channel_data_message(160));
    // The first packet of an allocation is an event, and another matter.
    (0..allocations).for_each(|at| machine.to_peer(at, &mut message));
    measured(&mut || (0..count).for_each(|at| machine.to_peer(at % allocations, &mut message)));
}

fn to_client(allocations: u32, count: u32) {
    let (mut machine, mut data) = (Machine::new(allocations), application_data(160));
    (0..allocations).for_each(|at| machine.to_client(at, &mut data));
    measured(&mut || (0..count).for_each(|at| machine.to_client(at % allocations, &mut data)));
}

fn indications(count: u32) {
    let (mut machine, mut message) = (Machine::new(100), send_indication(160));
    measured(&mut || (0..count).for_each(|at| machine.to_peer(at % 100, &mut message)));
}

fn binding(count: u32) {
    let (mut machine, mut request) = (Machine::new(0), binding_request());
    measured(&mut || (0..count).for_each(|_| machine.binding(&mut request)));
}

/// Allocate, permission and channel: three requests with credentials.
fn set_up(allocations: u32, count: u32) {
    let mut machine = Machine::new(allocations);
    let mut clients: Vec<_> = (0..count).map(|_| machine.write_set_up()).collect();
    measured(&mut || clients.iter_mut().for_each(|client| machine.set_up(client)));
}

/// The end of allocations that nobody refreshed, timers and all.
fn expiry(count: u32) {
    let mut machine = Machine::new(count);
    measured(&mut || machine.expire_all());
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [COUNTED, name] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        let (_, count, work) = UNITS.iter().find(|(unit, ..)| *unit == name).expect("a unit");
        work(*count);
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("SKIP: valgrind is not installed");
        return ExitCode::SUCCESS;
    }
    match run(arguments.iter().any(|argument| argument == "--write")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(is_to_be_written: bool) -> Result<(), String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt");
    let baseline = fs::read_to_string(&file).unwrap_or_default();
    let before = |name: &str| -> Option<f64> {
        let line = baseline.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    };
    let mut lines: String =
        baseline.lines().filter(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let mut grown = Vec::new();
    println!("{:<34}{:>12}{:>12}", "instructions per unit", "committed", "now");
    for (name, units, _) in UNITS {
        let now = count(name)? as f64 / f64::from(*units);
        lines.push_str(&format!("{name} {now:.0}\n"));
        match before(name) {
            Some(before) => {
                let change = now / before - 1.0;
                println!("{name:<34}{before:>12.0}{now:>12.0} {:>+7.1} %", change * 100.0);
                if change > TOLERANCE {
                    grown.push(*name);
                }
            }
            None => println!("{name:<34}{:>12}{now:>12.0}", "–"),
        }
    }
    if is_to_be_written {
        return fs::write(&file, lines).map_err(|error| format!("{}: {error}", file.display()));
    }
    match grown[..] {
        [] => Ok(()),
        _ => Err(format!(
            "{} took over {:.0} % more instructions than benches/instructions.txt has: find out why, or write them again \
             with `make instructions ARGUMENTS=--write`",
            grown.join(", "),
            TOLERANCE * 100.0
        )),
    }
}

/// Instructions inside [`measured`] of one unit's work. Callgrind's file stays, for callgrind_annotate.
fn count(name: &str) -> Result<u64, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let file = own.with_file_name(format!("callgrind.{name}.out"));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=instructions::measured"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(own)
        .args([COUNTED, name])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    if !output.status.success() {
        return Err(format!("valgrind: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.filter(|total| *total > 0).ok_or_else(|| format!("callgrind saw no call of what is measured in {name}"))
}
