//! What a caller may choose, and what is then found on the machine.

use std::path::PathBuf;

use crate::browser::{BrowserKind, BrowserTools};
use crate::process::find_program;
use crate::session::CannotRun;
use crate::turn::TurnServerKind;

/// Which TURN server to test, before it has been looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TurnServerChoice {
    /// Hairpin.
    #[default]
    Hairpin,
    /// coturn, as a control.
    Coturn,
}

/// Who relays established channels, where the TURN server is Hairpin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// The kernel where it can, as Hairpin does by itself.
    #[default]
    On,
    /// The process.
    Off,
}

/// Choices, all of which have defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// The TURN server.
    pub turn_server: TurnServerChoice,
    /// Its executable. By default Hairpin is looked for beside our own executable (and one directory up, where cargo
    /// puts binaries of tests), coturn in PATH.
    pub turn_binary: Option<PathBuf>,
    /// Whether the kernel may relay. A server without configuration does as it likes.
    pub offload: Offload,
    /// Chromium's executable.
    pub chromium: Option<PathBuf>,
    /// Firefox's executable.
    pub firefox: Option<PathBuf>,
    /// JsSIP, bundled into one file.
    pub jssip: Option<PathBuf>,
    /// Where logs and results go; a directory is made in it for each scenario.
    pub output: PathBuf,
    /// Run the scenarios outside the representative set too.
    pub all: bool,
    /// Whether packets are captured, to be kept of calls that are not as expected.
    pub capture: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            turn_server: TurnServerChoice::default(),
            turn_binary: None,
            offload: Offload::default(),
            chromium: None,
            firefox: None,
            jssip: None,
            output: PathBuf::from("netlab-out"),
            all: false,
            capture: false,
        }
    }
}

impl Options {
    /// Checks what was chosen by path. What was chosen and is not there is a mistake, not a machine that lacks something.
    ///
    /// # Errors
    /// The option and the path.
    pub fn check(&self) -> Result<(), String> {
        let programs =
            [("--turn-binary", &self.turn_binary), ("--chromium", &self.chromium), ("--firefox", &self.firefox)];
        for (option, path) in programs {
            if let Some(path) = path
                && find_program(&path.to_string_lossy()).is_none()
            {
                return Err(format!("there is no program {}; correct {option}", path.display()));
            }
        }
        if let Some(file) = self.jssip.as_ref().filter(|file| !file.is_file()) {
            return Err(format!("there is no file {}; correct --jssip", file.display()));
        }
        Ok(())
    }
}

/// The programs a lab runs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The TURN server.
    pub turn: TurnServerKind,
    /// The browsers that are there, and what they need.
    pub browser: BrowserTools,
}

impl Tools {
    /// Looks for everything; `browsers` are those that will be opened.
    ///
    /// # Errors
    /// The first thing that is missing, and where to get it.
    pub fn find(options: &Options, browsers: &[BrowserKind]) -> Result<Tools, CannotRun> {
        if find_program("nft").is_none() {
            return Err(CannotRun::new("nft is not installed", "install it (Debian: apt install nftables)"));
        }
        let browser = BrowserTools::find(options.chromium.as_deref(), options.firefox.as_deref())?;
        for kind in browsers {
            browser.program(*kind)?;
        }
        Ok(Tools { turn: find_turn_server(options)?, browser })
    }
}

/// The TURN server alone.
///
/// # Errors
/// It is not there, and where to get it.
pub fn find_turn_server(options: &Options) -> Result<TurnServerKind, CannotRun> {
    if let Some(binary) = &options.turn_binary {
        let found = find_program(&binary.to_string_lossy()).and_then(|binary| binary.canonicalize().ok());
        let binary = found.ok_or_else(|| {
            CannotRun::new(format!("there is no program {}", binary.display()), "correct --turn-binary")
        })?;
        return Ok(match options.turn_server {
            TurnServerChoice::Hairpin => TurnServerKind::Hairpin { binary, offload: options.offload },
            TurnServerChoice::Coturn => TurnServerKind::Coturn(binary),
        });
    }
    match options.turn_server {
        TurnServerChoice::Hairpin => {
            let binary = built_hairpin().ok_or_else(|| {
                CannotRun::new("the hairpin binary is not there", "run `cargo build`, or name one with --turn-binary")
            })?;
            Ok(TurnServerKind::Hairpin { binary, offload: options.offload })
        }
        TurnServerChoice::Coturn => find_program("turnserver")
            .map(TurnServerKind::Coturn)
            .ok_or_else(|| CannotRun::new("turnserver is not installed", "install it (Debian: apt install coturn)")),
    }
}

/// Hairpin from the same build as ourselves, or else from the target directory here.
fn built_hairpin() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let beside = own.ancestors().skip(1).take(2).map(|directory| directory.join("hairpin"));
    let here = ["target/debug/hairpin", "target/release/hairpin"].map(PathBuf::from);
    beside.chain(here).find(|candidate| candidate.is_file())?.canonicalize().ok()
}
