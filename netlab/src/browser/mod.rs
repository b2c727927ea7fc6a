//! A headless browser inside a node, with a fresh profile that trusts the lab's certification authority.

mod chromium;
mod devtools;
mod firefox;

use std::fmt;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use patchbay::Device;

use crate::CannotRun;
use crate::process::{Process, find_program};
use devtools::DevTools;

/// The browsers a lab can run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BrowserKind {
    /// Chromium.
    #[default]
    Chromium,
    /// Firefox.
    Firefox,
}

impl fmt::Display for BrowserKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            BrowserKind::Chromium => "Chromium",
            BrowserKind::Firefox => "Firefox",
        })
    }
}

/// The programs needed to run browsers.
#[derive(Clone, Debug)]
pub struct BrowserTools {
    /// Chromium, if it is there.
    chromium: Option<PathBuf>,
    /// Firefox, if it is there.
    firefox: Option<PathBuf>,
    /// NSS's `certutil`, for the certificate store.
    certutil: PathBuf,
}

impl BrowserTools {
    /// Finds them; `chromium` and `firefox` override the search for these. A browser that is missing matters when it
    /// is wanted ([`BrowserTools::program`]).
    ///
    /// # Errors
    /// `certutil` is missing, and the Debian package it is in.
    pub fn find(chromium: Option<&Path>, firefox: Option<&Path>) -> Result<BrowserTools, CannotRun> {
        let find = |chosen: Option<&Path>, names: &[&str]| match chosen {
            Some(path) => find_program(&path.to_string_lossy()),
            None => names.iter().find_map(|name| find_program(name)),
        };
        Ok(BrowserTools {
            chromium: find(chromium, chromium::NAMES),
            firefox: find(firefox, firefox::NAMES),
            certutil: find_program("certutil").ok_or_else(|| missing("certutil", "libnss3-tools"))?,
        })
    }

    /// The executable of a browser.
    ///
    /// # Errors
    /// It is missing, and the Debian package it is in.
    pub fn program(&self, kind: BrowserKind) -> Result<&Path, CannotRun> {
        let (program, package) = match kind {
            BrowserKind::Chromium => (&self.chromium, "chromium"),
            BrowserKind::Firefox => (&self.firefox, "firefox-esr"),
        };
        program.as_deref().ok_or_else(|| missing(&kind.to_string(), package))
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

fn missing(what: &str, package: &str) -> CannotRun {
    CannotRun::new(format!("{what} is not installed"), format!("install it (Debian: apt install {package})"))
}

/// What a browser is opened with.
#[derive(Debug)]
pub struct Opening<'a> {
    /// Which browser.
    pub kind: BrowserKind,
    /// The page.
    pub url: &'a str,
    /// Host and port of the HTTP proxy for everything, if there is one.
    pub proxy: Option<&'a str>,
    /// Its home: must not exist, and will be deleted.
    pub home: PathBuf,
    /// What [`BrowserTools::make_trust`] made.
    pub trust: &'a Path,
    /// Takes the browser's output, console messages of the page included.
    pub log: &'a Path,
}

/// A running browser. Dropping it kills it and deletes its profile.
pub struct Browser {
    process: Process,
    /// Chromium's; Firefox has none.
    devtools: Option<DevTools>,
    home: PathBuf,
}

impl Browser {
    /// Opens a page in a new browser on `device`.
    ///
    /// # Errors
    /// The browser is not installed or cannot be started, or the home cannot be made.
    pub fn open(tools: &BrowserTools, device: &Device, opening: Opening<'_>) -> Result<Browser> {
        let Opening { kind, url, proxy, home, trust, log } = opening;
        let program = tools.program(kind)?;
        let store = match kind {
            BrowserKind::Chromium => chromium::TRUST,
            BrowserKind::Firefox => firefox::TRUST,
        };
        make_home(&home, store, trust).with_context(|| format!("cannot make the browser's home {}", home.display()))?;
        let log_file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;

        let mut command = Command::new(program);
        // A clean environment: no proxy, no desktop session, and every file it makes below its own home.
        command.env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &home).env("TMPDIR", home.join("tmp")).env("LANG", "C.UTF-8");
        command.env("XDG_RUNTIME_DIR", home.join("tmp"));
        command.current_dir(&home);
        command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
        let pipes = match kind {
            BrowserKind::Chromium => Some(chromium::prepare(&mut command, &home, url, proxy)?),
            BrowserKind::Firefox => {
                firefox::prepare(&mut command, &home, url, proxy)?;
                None
            }
        };
        let process = Process::spawn(device, command)?;
        Ok(Browser { process, devtools: pipes.map(|(commands, answers)| DevTools::new(commands, answers)), home })
    }

    /// Whether it still runs; if not, how it ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.process.exit_status()
    }

    /// A PNG of what it shows.
    ///
    /// # Errors
    /// The browser does not answer within ten seconds, or is Firefox, which needs a WebDriver for that.
    pub fn screenshot(&self) -> Result<Vec<u8>> {
        self.devtools.as_ref().context("pictures are taken of Chromium only")?.screenshot()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

fn make_home(home: &Path, store: &str, trust: &Path) -> Result<()> {
    let store = home.join(store);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_browser_is_named_with_its_package_and_matters_only_when_wanted() {
        let here = Some(PathBuf::from("/bin/true"));
        let tools = BrowserTools { chromium: here, firefox: None, certutil: "/bin/true".into() };
        assert!(tools.program(BrowserKind::Chromium).is_ok());
        let missing = tools.program(BrowserKind::Firefox).unwrap_err().to_string();
        assert!(missing.contains("Firefox") && missing.contains("firefox-esr"), "{missing}");
    }
}
