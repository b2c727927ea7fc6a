//! Runs the command in an empty directory of its own, to its end or beside the test.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a run left behind.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// An empty directory that goes away with the test.
pub struct Place(PathBuf);

impl Place {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str, text: &str) -> &Self {
        fs::write(self.0.join(name), text).unwrap();
        self
    }

    /// One that only its owner can read.
    pub fn secret_file(&self, name: &str, text: &str) -> &Self {
        self.file(name, text);
        fs::set_permissions(self.0.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        self
    }

    pub fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// Where a made-up secret is kept: beside, so that the place itself stays empty.
    pub fn state(&self) -> PathBuf {
        self.0.with_extension("state")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hairpin"));
        command.args(arguments).current_dir(&self.0).env_remove("HAIRPIN_CONFIG").stdin(Stdio::null());
        command.env_remove("STATE_DIRECTORY").env("XDG_STATE_HOME", self.state());
        command.env_remove("RUNTIME_DIRECTORY").env("XDG_RUNTIME_DIR", self.state());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Run {
        let output = self.command(arguments).output().unwrap();
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed lies in the build directory and does no harm.
        let _ = fs::remove_dir_all(&self.0);
        let _ = fs::remove_dir_all(self.state());
    }
}

/// What a running server has written so far on one of its outputs.
#[derive(Clone, Default)]
struct Output(Arc<(Mutex<String>, Condvar)>);

impl Output {
    fn collect(&self, mut from: impl Read + Send + 'static) {
        let output = self.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(len @ 1..) = from.read(&mut bytes) {
                let (text, more) = &*output.0;
                text.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..len]));
                more.notify_all();
            }
        });
    }

    fn text(&self) -> String {
        self.0.0.lock().unwrap().clone()
    }

    /// Waits for a whole line with these words.
    fn wait_for(&self, words: &str) {
        let (text, more) = &*self.0;
        let missing =
            |text: &mut String| !text.split_inclusive('\n').any(|line| line.contains(words) && line.ends_with('\n'));
        let (text, waited) = more.wait_timeout_while(text.lock().unwrap(), PATIENCE, missing).unwrap();
        assert!(!waited.timed_out(), "\"{words}\" did not come; there was:\n{text}");
    }
}

/// A running server, killed with the test if it has not ended before.
pub struct Server {
    child: Child,
    stdout: Output,
    stderr: Output,
}

impl Server {
    pub fn start(place: &Place, arguments: &[&str]) -> Self {
        Self::start_command(place.command(arguments))
    }

    pub fn start_command(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) = (Output::default(), Output::default());
        stdout.collect(child.stdout.take().unwrap());
        stderr.collect(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn wait_for_log(&self, words: &str) {
        self.stderr.wait_for(words);
    }

    pub fn wait_for_stdout(&self, words: &str) {
        self.stdout.wait_for(words);
    }

    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub fn log(&self) -> String {
        self.stderr.text()
    }

    /// The addresses for clients over UDP and for the admin, from the JSON log.
    pub fn wait_until_listening(&self) -> (SocketAddr, SocketAddr) {
        self.wait_for_log("\"listening\"");
        (self.listening("udp"), self.listening("admin"))
    }

    /// The same for one kind of listener, once it listens.
    pub fn listening(&self, kind: &str) -> SocketAddr {
        let log = self.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let line = lines.into_iter().find(|line| line["message"] == "listening").expect("a JSON line");
        line[kind].as_str().unwrap().parse().unwrap()
    }

    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Asks it to read its configuration again.
    pub fn hang_up(&self) {
        self.signal(Signal::SIGHUP);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// The exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it did not end; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn terminate_and_wait(&mut self) -> Option<i32> {
        self.terminate();
        self.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail for a server that has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
