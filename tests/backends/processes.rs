//! Servers of others, started for one test and ended with it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where Debian puts what is not for users.
const MORE_PATHS: [&str; 3] = ["/usr/sbin", "/usr/local/bin", "/usr/lib/postgresql/15/bin"];

/// The program, if it is installed.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut versions: Vec<String> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin").display().to_string()).collect())
        .unwrap_or_default();
    versions.extend(MORE_PATHS.map(str::to_owned));
    let folders = path.split(':').map(str::to_owned).chain(versions);
    folders.map(|folder| Path::new(&folder).join(program)).find(|file| file.is_file())
}

/// A process that is killed when this is dropped.
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// At once, without a chance to say goodbye.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for what has to come true.
pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_true() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(50));
    }
}
