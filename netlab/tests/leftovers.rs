//! Several labs at once do not get in each other's way, and however one ends, nothing of it is left.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(30);

/// A place of its own for a test: sessions, logs. Its name is short, since sockets' paths are.
struct Place(PathBuf);

impl Place {
    fn new(letter: char) -> Place {
        let directory = std::env::temp_dir().join(format!("nl{letter}{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Place(directory)
    }

    fn netlab(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netlab"));
        command.arg("--output").arg(self.0.join("out")).args(arguments).env("TMPDIR", &self.0);
        command.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    /// The directories of sessions that there are.
    fn sessions(&self) -> Vec<PathBuf> {
        let bases = fs::read_dir(&self.0).unwrap().flatten().map(|entry| entry.path());
        let bases = bases.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("netlab-"));
        let entries = bases.flat_map(|base| fs::read_dir(base).into_iter().flatten().flatten());
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A lab that is up, and the programs in it.
struct Up {
    process: Child,
    programs: Vec<i32>,
    /// Held, since the lab would die of a closed pipe.
    _output: Box<dyn Iterator<Item = String>>,
}

impl Up {
    /// `None` where no lab can be built.
    fn new(place: &Place) -> Option<Up> {
        Up::with(place, &[])
    }

    fn with(place: &Place, options: &[&str]) -> Option<Up> {
        let mut process = place.netlab(&[options, &["up", "internet"]].concat()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        if lines.any(|line| line.contains("Ctrl-C takes the lab down")) {
            let programs = children(process.id() as i32);
            assert!(!programs.is_empty(), "a lab runs a TURN server");
            return Some(Up { process, programs, _output: Box::new(lines) });
        }
        let output = process.wait_with_output().unwrap();
        let problem = String::from_utf8_lossy(&output.stderr).into_owned();
        let missing = ["is not installed", "is not there", "cannot enter a user namespace", "cannot make network"];
        assert!(missing.iter().any(|words| problem.contains(words)), "{problem}");
        eprintln!("SKIP: {problem}");
        None
    }

    fn end(mut self, signal: Signal) -> std::process::ExitStatus {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
        let status = self.process.wait().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while self.programs.iter().any(|program| lives(*program)) {
            assert!(Instant::now() < deadline, "programs of a lab outlive it");
            std::thread::sleep(Duration::from_millis(20));
        }
        status
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Where a test has failed; otherwise it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The processes that this one has started, in any of its threads.
fn children(process: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<_>>()).collect()
}

/// Whether a process exists and is not merely waiting to be reaped.
fn lives(process: i32) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat")).unwrap_or_default();
    status.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[test]
fn two_labs_live_side_by_side_and_each_ends_alone() {
    let place = Place::new('a');
    let Some(first) = Up::new(&place) else { return };
    let second = Up::new(&place).expect("where there is one lab there can be two");
    assert_eq!(place.sessions().len(), 2);
    let in_node = |lab: &Up| {
        let number = lab.process.id().to_string();
        let output = place.netlab(&["exec", "--lab", &number, "browser-l", "--", "hostname", "-I"]).output().unwrap();
        output.status.success()
    };
    assert!(in_node(&first) && in_node(&second));

    assert!(first.end(Signal::SIGINT).success(), "Ctrl-C is how a lab is meant to end");
    assert_eq!(place.sessions().len(), 1);
    assert!(in_node(&second), "the other lab goes on");
    assert!(second.end(Signal::SIGTERM).success());
    assert_eq!(place.sessions(), [] as [PathBuf; 0]);
}

#[test]
fn a_lab_that_is_killed_leaves_a_directory_that_the_next_one_removes() {
    let place = Place::new('b');
    let Some(killed) = Up::new(&place) else { return };
    let left = place.sessions();
    killed.end(Signal::SIGKILL);
    assert_eq!(place.sessions(), left);
    let next = Up::new(&place).expect("what was killed is not in the way");
    assert!(!left[0].exists() && place.sessions().len() == 1);
    next.end(Signal::SIGINT);
}

#[test]
fn a_lab_that_cannot_be_set_up_leaves_nothing() {
    let place = Place::new('c');
    let Some(possible) = Up::new(&place) else { return };
    possible.end(Signal::SIGINT);
    let output = place.netlab(&["--turn-binary", "/bin/false", "up", "internet"]).output().unwrap();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && problem.contains("the TURN server ended at once"), "{problem}");
    assert_eq!(place.sessions(), [] as [PathBuf; 0]);
}

#[test]
fn any_binary_of_a_turn_server_can_be_the_one_in_the_lab() {
    let place = Place::new('d');
    let installed = ["/usr/bin/turnserver", "/usr/local/bin/turnserver"].map(Path::new);
    let Some(installed) = installed.into_iter().find(|binary| binary.exists()) else {
        eprintln!("SKIP: turnserver is not installed");
        return;
    };
    let chosen = place.0.join("my-own-turnserver");
    fs::copy(installed, &chosen).unwrap();
    let options = ["--turn-server", "coturn", "--turn-binary", &chosen.to_string_lossy()];
    let Some(lab) = Up::with(&place, &options) else { return };
    // It is up, so the server in it has answered a STUN Binding request.
    let runs = |program: &i32| fs::read_link(format!("/proc/{program}/exe")).is_ok_and(|binary| binary == chosen);
    assert!(lab.programs.iter().any(runs), "the lab runs {}", chosen.display());
    lab.end(Signal::SIGINT);
}

#[test]
fn what_nobody_reads_ends_quietly_and_leaves_nothing() {
    let place = Place::new('e');
    for arguments in [&["list"][..], &["show", "internet"], &["up", "internet"]] {
        // Nobody reads from the start on: a reader that leaves later may leave after the last word.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = place.netlab(arguments).stdout(writer).output().unwrap();
        let problem = String::from_utf8_lossy(&output.stderr);
        assert!(!problem.contains("panicked"), "{arguments:?}: {problem}");
        // 141 is what shells call an end by SIGPIPE; where no lab can be built, `up` has nothing to say.
        let code = output.status.code();
        assert!(code == Some(141) || arguments == ["up", "internet"], "{arguments:?}: {code:?}");
    }
    assert_eq!(place.sessions(), [] as [PathBuf; 0]);
}
