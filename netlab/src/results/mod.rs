//! What came of a run, kept for files: JSON, JUnit's XML, and one HTML page.

mod html;
mod junit;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::call::CallReport;
use crate::fault::Recovery;
use crate::report::{CallOutcome, PageReport};

/// How a call was connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Not at all.
    NoCall,
    /// Without a relay.
    Direct,
    /// Through relays whose owners reach them over UDP.
    RelayUdp,
    /// The same, one of them over TCP.
    RelayTcp,
    /// The same, one of them over TLS.
    RelayTls,
}

impl Outcome {
    /// The path that a call has taken.
    pub fn of(report: &CallReport) -> Outcome {
        Outcome::of_pages(&report.pages())
    }

    /// The path that a call has taken, by what its pages say.
    pub fn of_pages(pages: &[&PageReport]) -> Outcome {
        if pages.iter().any(|page| page.outcome != CallOutcome::Connected) {
            return Outcome::NoCall;
        }
        let pairs = pages.iter().filter_map(|page| page.selected.as_ref());
        let ends = pairs.flat_map(|pair| [&pair.local, &pair.remote]).filter(|end| end.is_relay());
        let path = |end: &crate::report::Candidate| match end.relay_protocol.as_deref() {
            Some("tls") => Outcome::RelayTls,
            Some("tcp") => Outcome::RelayTcp,
            _ => Outcome::RelayUdp,
        };
        ends.map(path).max().unwrap_or(Outcome::Direct)
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Outcome::NoCall => "no call",
            Outcome::Direct => "direct",
            Outcome::RelayUdp => "relay udp",
            Outcome::RelayTcp => "relay tcp",
            Outcome::RelayTls => "relay tls",
        }
    }
}

/// Whether it was as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It was.
    Passed,
    /// It was not.
    Failed,
    /// It was not run.
    Skipped,
}

/// Where in a grid a call belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// The grid: which browsers.
    pub grid: String,
    /// The caller's NAT.
    pub caller: String,
    /// The callee's NAT.
    pub callee: String,
}

/// One scenario, or one call of a grid.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// What it shows.
    pub sentence: String,
    /// As expected?
    pub verdict: Verdict,
    /// The path, if there was a call.
    pub path: Option<Outcome>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// From the offer until both sides were connected, in milliseconds.
    pub connected_milliseconds: Option<i64>,
    /// One line: what was measured, or what is wrong.
    pub line: String,
    /// How it got over a fault, if one was made and it did.
    pub recovery: Option<Recovery>,
    /// Its place in a grid.
    pub cell: Option<Cell>,
    /// Logs, results and captures.
    pub files: Vec<PathBuf>,
}

/// Which files to write.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// JSON: a list of records.
    pub json: Option<PathBuf>,
    /// JUnit's XML, as continuous integration reads it.
    pub junit: Option<PathBuf>,
    /// A page with everything in it but the logs, which it links.
    pub html: Option<PathBuf>,
}

impl Files {
    /// Writes them.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, title: &str, records: &[Record]) -> Result<()> {
        let put = |file: &Path, text: String| {
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        if let Some(file) = &self.json {
            put(file, serde_json::to_string_pretty(records)?)?;
        }
        if let Some(file) = &self.junit {
            put(file, junit::document(title, records))?;
        }
        if let Some(file) = &self.html {
            put(file, html::document(title, records, file.parent().unwrap_or(Path::new("."))))?;
        }
        Ok(())
    }
}

/// What has been written to a directory of logs since then, sorted. Captures are deleted if they are not to be kept.
pub(crate) fn files_in(directory: &Path, since: SystemTime, keep_captures: bool) -> Vec<PathBuf> {
    let is_new = |path: &Path| {
        let modified = path.metadata().ok().filter(std::fs::Metadata::is_file).and_then(|file| file.modified().ok());
        // File systems' clocks are coarse.
        modified.is_some_and(|modified| modified + Duration::from_secs(1) >= since)
    };
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let (captures, mut files): (Vec<_>, Vec<_>) =
        entries.filter(|path| is_new(path)).partition(|path| path.extension().is_some_and(|end| end == "pcap"));
    for capture in captures {
        if keep_captures {
            files.push(capture);
        } else {
            let _ = std::fs::remove_file(capture);
        }
    }
    files.sort();
    files
}

/// Text that XML and HTML take for text.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push('\n'),
            other if other.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Cure;

    pub(super) fn record(name: &str, verdict: Verdict) -> Record {
        Record {
            name: name.to_owned(),
            sentence: "L & M talk".to_owned(),
            verdict,
            path: (verdict == Verdict::Passed).then_some(Outcome::RelayTls),
            seconds: 4.25,
            connected_milliseconds: Some(310),
            line: "a \"line\" with <marks>".to_owned(),
            recovery: None,
            cell: Some(Cell { grid: "Chromium".into(), caller: "full-cone".into(), callee: "symmetric".into() }),
            files: vec!["/logs/a b/turn.log".into()],
        }
    }

    #[test]
    fn junit_counts_and_escapes() {
        let records = [record("a", Verdict::Passed), record("b", Verdict::Failed), record("c", Verdict::Skipped)];
        let xml = junit::document("netlab", &records);
        assert!(xml.contains(r#"tests="3" failures="1" skipped="1" time="12.750""#), "{xml}");
        assert!(xml.contains("a &quot;line&quot; with &lt;marks&gt;") && !xml.contains("<marks>"), "{xml}");
    }

    /// Not in the line of text only: programs read it, too.
    #[test]
    fn how_a_call_got_over_a_fault_is_in_every_file() {
        let recovery = Recovery {
            fault: "relay <restarts>".to_owned(),
            silence_milliseconds: [6_900, 6_800],
            freeze_milliseconds: [0, 9_000],
            restarts: [0, 1],
            cure: Cure::IceRestart,
        };
        let records = [Record { recovery: Some(recovery), cell: None, ..record("fault-x", Verdict::Passed) }];
        let json = serde_json::to_value(&records).unwrap();
        assert_eq!(json[0]["recovery"]["silence_milliseconds"], serde_json::json!([6_900, 6_800]));
        assert_eq!(json[0]["recovery"]["cure"], "ice-restart");
        let xml = junit::document("netlab", &records);
        assert!(xml.contains(r#"<property name="silence-milliseconds" value="6900"/>"#), "{xml}");
        assert!(xml.contains(r#"<property name="cure" value="ICE restart"/></properties><system-out>"#), "{xml}");
        let page = html::document("netlab", &records, Path::new("/logs"));
        assert!(page.contains("relay &lt;restarts&gt;") && page.contains(">6.9 s</td>"), "{page}");
        assert!(page.contains("ICE restart (1 by the callee)"), "{page}");
    }

    #[test]
    fn the_page_links_what_is_near_by_its_short_name() {
        let page = html::document("netlab", &[record("b", Verdict::Failed)], Path::new("/logs"));
        assert!(page.contains(r#"href="a%20b/turn.log""#), "{page}");
        assert!(page.contains("full-cone") && !page.contains("<marks>"), "{page}");
    }
}
