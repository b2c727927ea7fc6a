//! Children with a deadline, killed by their process id.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A child that does not outlive the test.
pub struct Guarded(pub Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // Both fail for a child that has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks until the answer is yes; panics after the deadline.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a tool is installed; says why a test is skipped.
pub fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(tool).is_file());
    if !found {
        println!("SKIP: {tool} is not installed (Debian: package coturn)");
    }
    found
}

/// Starts a tool whose end and output nobody waits for.
pub fn start(tool: &str, arguments: &[String]) -> Guarded {
    println!("$ {tool} {} &", arguments.join(" "));
    let mut command = Command::new(tool);
    let command = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Guarded(command.spawn().expect("it is installed"))
}

/// Runs a tool to its end and returns all it wrote.
pub fn run(tool: &str, arguments: &[String]) -> String {
    println!("$ {tool} {}", arguments.join(" "));
    let mut command = Command::new(tool);
    let command = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Guarded(command.spawn().expect("it is installed"));
    let mut outputs: [Box<dyn Read + Send>; 2] =
        [Box::new(child.0.stdout.take().expect("piped")), Box::new(child.0.stderr.take().expect("piped"))];
    let readers =
        outputs.each_mut().map(|output| std::mem::replace(output, Box::new(std::io::empty()))).map(|output| {
            std::thread::spawn(move || {
                let (mut output, mut bytes) = (output, Vec::new());
                // A tool that is killed at the deadline leaves what it wrote until then.
                let _ = output.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        });
    wait_until(tool, || child.0.try_wait().expect("our own child").is_some());
    let text = readers.map(|reader| reader.join().expect("it only reads")).concat();
    println!("{text}");
    text
}
