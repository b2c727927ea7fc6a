//! Headless Chromium inside a node, with a fresh profile that trusts the lab's certification authority.

mod devtools;

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use command_fds::{CommandFdExt, FdMapping};
use patchbay::Device;

use crate::process::{Process, find_program};
use devtools::DevTools;

/// Names Chromium goes by. Debian's real executable first: the `chromium` in PATH is a shell script around it.
const CHROMIUM_NAMES: &[&str] = &["/usr/lib/chromium/chromium", "chromium", "chromium-browser", "google-chrome"];

/// How Chromium is run: no window, no sandbox (it needs privileges a lab in a user namespace cannot give; the only pages
/// it sees are ours), no traffic of its own, and fake devices that are granted without asking.
const FLAGS: &[&str] = &[
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-breakpad",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--password-store=basic",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--window-size=1120,940",
    "--enable-logging=stderr",
];

/// The programs needed to run browsers.
#[derive(Clone, Debug)]
pub struct BrowserTools {
    /// Chromium.
    pub chromium: PathBuf,
    /// NSS's `certutil`, for the certificate store.
    pub certutil: PathBuf,
}

impl BrowserTools {
    /// Finds them; `chromium` overrides the search for Chromium.
    ///
    /// # Errors
    /// The name of what is missing and the Debian package it is in.
    pub fn find(chromium: Option<&Path>) -> Result<BrowserTools, crate::CannotRun> {
        let chromium = match chromium {
            Some(path) => find_program(&path.to_string_lossy()),
            None => CHROMIUM_NAMES.iter().find_map(|name| find_program(name)),
        };
        let missing = |what: &str, package: &str| {
            crate::CannotRun::new(
                format!("{what} is not installed"),
                format!("install it (Debian: apt install {package})"),
            )
        };
        Ok(BrowserTools {
            chromium: chromium.ok_or_else(|| missing("Chromium", "chromium"))?,
            certutil: find_program("certutil").ok_or_else(|| missing("certutil", "libnss3-tools"))?,
        })
    }

    /// Makes a certificate database that trusts one authority, for [`Browser::open`] to copy.
    ///
    /// # Errors
    /// `certutil` fails; the message says what it printed.
    pub fn make_trust(&self, authority_pem: &str, directory: &Path) -> Result<()> {
        make_directory(directory)?;
        let pem = directory.join("authority.pem");
        std::fs::write(&pem, authority_pem).with_context(|| format!("cannot write {}", pem.display()))?;
        let database = format!("sql:{}", directory.display());
        let certutil = |arguments: &[&str]| -> Result<()> {
            let output = Command::new(&self.certutil).arg("-d").arg(&database).args(arguments).output();
            let output = output.with_context(|| format!("cannot run {}", self.certutil.display()))?;
            if !output.status.success() {
                bail!("certutil {arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            Ok(())
        };
        certutil(&["-N", "--empty-password"])?;
        certutil(&["-A", "-n", "netlab", "-t", "C,,", "-i", &pem.to_string_lossy()])
    }
}

/// A running browser. Dropping it kills it and deletes its profile.
pub struct Browser {
    process: Process,
    devtools: DevTools,
    home: PathBuf,
}

impl Browser {
    /// Opens `url` in a new browser on `device`. `home` must not exist and will be deleted; `trust` is what
    /// [`BrowserTools::make_trust`] made; `log` takes the browser's output, console messages of the page included.
    ///
    /// # Errors
    /// The home cannot be made or Chromium cannot be started.
    pub fn open(
        tools: &BrowserTools,
        device: &Device,
        url: &str,
        home: PathBuf,
        trust: &Path,
        log: &Path,
    ) -> Result<Browser> {
        make_home(&home, trust).with_context(|| format!("cannot make the browser's home {}", home.display()))?;
        let log_file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let (commands_out, commands_in) = std::io::pipe().context("cannot make a pipe")?;
        let (answers_out, answers_in) = std::io::pipe().context("cannot make a pipe")?;

        let mut command = Command::new(&tools.chromium);
        command.args(FLAGS).arg(format!("--user-data-dir={}", home.join("profile").display())).arg(url);
        // A clean environment: no proxy, no desktop session, and every file it makes below its own home.
        command.env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &home).env("TMPDIR", home.join("tmp")).env("LANG", "C.UTF-8");
        command.env("XDG_RUNTIME_DIR", home.join("tmp"));
        command.current_dir(&home);
        command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
        command.fd_mappings(vec![
            FdMapping { parent_fd: commands_out.into(), child_fd: 3 },
            FdMapping { parent_fd: answers_in.into(), child_fd: 4 },
        ])?;
        let process = Process::spawn(device, command)?;
        Ok(Browser { process, devtools: DevTools::new(commands_in, answers_out), home })
    }

    /// Whether it still runs; if not, how it ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.process.exit_status()
    }

    /// A PNG of what it shows.
    ///
    /// # Errors
    /// The browser does not answer within ten seconds.
    pub fn screenshot(&self) -> Result<Vec<u8>> {
        self.devtools.screenshot()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

fn make_home(home: &Path, trust: &Path) -> Result<()> {
    let store = home.join(".pki/nssdb");
    make_directory(&store)?;
    make_directory(&home.join("tmp"))?;
    for entry in std::fs::read_dir(trust)? {
        let entry = entry?;
        std::fs::copy(entry.path(), store.join(entry.file_name()))?;
    }
    Ok(())
}

fn make_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make the directory {}", path.display()))
}
