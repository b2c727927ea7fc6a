//! Whether `make bench` and `make soak` measure at all, and leaves nothing behind: no figures are judged here.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// What is measured shows where packets are received, which another run's packets would hide: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A run of the comparison, and the programs it has been seen to start.
struct Run {
    process: Child,
    programs: BTreeSet<u32>,
    results: PathBuf,
}

impl Run {
    fn new(name: &str, arguments: &[&str]) -> Self {
        let results = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.json", std::process::id()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
        command.args(arguments).arg("--json").arg(&results);
        let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self { process: process.expect("our own program"), programs: BTreeSet::new(), results }
    }

    /// Looks whom it has started.
    fn look(&mut self) {
        let own = self.process.id();
        self.programs.extend(processes().into_iter().filter(|(_, parent)| *parent == own).map(|(pid, _)| pid));
    }

    /// Waits for its end; what it said.
    fn end(mut self) -> (bool, String, Value) {
        let deadline = Instant::now() + PATIENCE;
        while self.process.try_wait().expect("our child").is_none() {
            self.look();
            assert!(Instant::now() < deadline, "the comparison does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let scratch = std::env::temp_dir().join(format!("hairpin-compare-{}", self.process.id()));
        let output = self.process.wait_with_output().expect("our child");
        let text = [output.stdout, output.stderr].concat();
        // The kernel kills what outlives it, at once but not before.
        while processes().iter().any(|(pid, _)| self.programs.contains(pid)) {
            assert!(Instant::now() < deadline, "programs of the comparison outlive it");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!scratch.exists(), "{} is left", scratch.display());
        let results = fs::read_to_string(&self.results).ok().and_then(|text| serde_json::from_str(&text).ok());
        let _ = fs::remove_file(&self.results);
        (output.status.success(), String::from_utf8_lossy(&text).into_owned(), results.unwrap_or_default())
    }
}

/// Every process that is not merely waiting to be reaped, with its parent.
fn processes() -> Vec<(u32, u32)> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("stat")).ok()?;
            let mut fields = text.rsplit_once(')')?.1.split_whitespace();
            let is_alive = fields.next()? != "Z";
            is_alive.then_some((pid, fields.next()?.parse().ok()?))
        })
        .collect()
}

#[test]
fn figures_come_out_and_nothing_is_left() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rows = vec!["relay-160-100", "start"];
    rows.extend(["allocate", "observing-relay"]);
    let (succeeded, said, results) = Run::new("figures", &["--tiny", "--only", &rows.join(",")]).end();
    assert!(succeeded, "{said}");
    if said.starts_with("SKIP") {
        eprintln!("{said}");
        return;
    }
    for row in rows {
        let samples = results.pointer(&format!("/rows/{row}/rounds/0")).and_then(Value::as_array);
        let samples = samples.unwrap_or_else(|| panic!("no {row} in the results: {said}"));
        let of = |server: &str| samples.iter().find(|sample| sample["server"] == server);
        assert!(of("hairpin").is_some(), "no Hairpin in {row}: {said}");
        if row.starts_with("observing") {
            assert!(of("no-recorder").is_some() && of("scraped").is_some(), "{row}: {said}");
        } else if of("coturn").is_none() {
            eprintln!("SKIP coturn: it is not installed");
        }
        for sample in samples {
            let value = sample.pointer("/figures/value").and_then(Value::as_f64);
            assert!(value.is_some_and(|value| value > 0.0), "{row}: {sample}");
        }
    }
}

#[test]
fn an_interrupted_comparison_leaves_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut run = Run::new("interrupted", &["--only", "relay-160-100", "--seconds", "600"]);
    let deadline = Instant::now() + PATIENCE;
    // A server, and then its load.
    while run.programs.len() < 2 {
        if let Some(status) = run.process.try_wait().expect("our child") {
            let (_, said, _) = run.end();
            assert!(status.success() && said.starts_with("SKIP"), "{said}");
            eprintln!("{said}");
            return;
        }
        run.look();
        assert!(Instant::now() < deadline, "nothing is started");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(Pid::from_raw(run.process.id() as i32), Signal::SIGINT).expect("our child");
    let (succeeded, said, _) = run.end();
    assert!(!succeeded, "it was interrupted: {said}");
}

#[test]
fn a_short_soak_has_everything_in_it() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(env!("CARGO_BIN_EXE_compare")).args(["soak", "--minutes", "0.1"]).output();
    let output = output.expect("our own program");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    if said.starts_with("SKIP") {
        eprintln!("{said}");
        return;
    }
    let done = |what: &str| {
        let line =
            said.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_else(|| panic!("no {what} in {said}"));
        line.split(',').next().and_then(|number| number.parse().ok()).unwrap_or(0_u64)
    };
    for what in ["packets relayed: ", "set-ups over UDP: ", "set-ups over TCP: ", "pages of metrics: "] {
        assert!(done(what) > 0, "{what}{said}");
    }
}
