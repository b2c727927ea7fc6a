//! What it is measured on.

use std::fs;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

use crate::network;
use crate::options::Options;

/// Sockets that the largest rows take, on each side.
const DESCRIPTORS: u64 = 200_000;

/// What readers must know before they compare figures with their own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's own name.
    pub processor: String,
    /// Online.
    pub cores: usize,
    /// Whose machine this is a part of, if the processor says that it is.
    pub is_virtual: bool,
    /// Release.
    pub kernel: String,
    /// Each vulnerability of the processor that costs something: name and what is done about it.
    pub mitigations: Vec<String>,
    /// What was compared: name and version.
    pub versions: Vec<(String, String)>,
    /// Server's core, load's core.
    pub pinned: (usize, usize),
}

/// Describes this one.
pub fn describe(options: &Options) -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": ")).map_or(String::new(), |(_, value)| value.to_owned())
    };
    let coturn = options.coturn.clone().or_else(|| network::find("turnserver"));
    let versions = [
        ("Hairpin", version(&options.hairpin.to_string_lossy(), "--version")),
        ("coturn", coturn.and_then(|path| version(&path.to_string_lossy(), "--version"))),
    ];
    Machine {
        processor: field("model name"),
        cores: network::cores(),
        is_virtual: field("flags").split(' ').any(|flag| flag == "hypervisor"),
        kernel: uname().map_or(String::new(), |name| name.release().to_string_lossy().into_owned()),
        mitigations: mitigations(),
        versions: versions.into_iter().filter_map(|(name, version)| Some((name.to_owned(), version?))).collect(),
        pinned: (options.server_cpu(), options.load_cpu()),
    }
}

/// The last word of the first line that has a digit in it.
fn version(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains(|c: char| c.is_ascii_digit()))?;
    Some(line.split_whitespace().last()?.to_owned())
}

fn mitigations() -> Vec<String> {
    let Ok(folder) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else { return Vec::new() };
    let mut all: Vec<String> = folder
        .flatten()
        .filter_map(|entry| {
            let what = fs::read_to_string(entry.path()).ok()?;
            let what = what.trim().strip_prefix("Mitigation: ")?.to_owned();
            Some(format!("{}: {what}", entry.file_name().to_string_lossy()))
        })
        .collect();
    all.sort();
    all
}

/// Load average over one minute.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

/// Raises this process's limit, which what it starts inherits.
pub fn raise_descriptor_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    // Root may exceed the hard limit; where even that is forbidden, the largest rows will say what failed.
    if setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS.max(hard)).is_err() {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
