//! What came out, by section: for people, for programs, and for `docs/conformance.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::case::{Case, Level, Stop};
use crate::run::Ending;

/// The most that a document says about one failure.
const WHY_CHARS_MAX: usize = 240;

/// One requirement over all transports.
pub struct Row<'e> {
    pub case: &'e Case,
    pub section: &'static str,
    pub endings: Vec<&'e Ending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Pass,
    Fail,
    NotApplicable,
}

impl Outcome {
    const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::NotApplicable => "n/a",
        }
    }
}

fn outcome(ending: &Ending) -> Outcome {
    match ending.result {
        Ok(()) => Outcome::Pass,
        Err(Stop::Failed(_)) => Outcome::Fail,
        Err(Stop::NotApplicable(_)) => Outcome::NotApplicable,
    }
}

fn reason(ending: &Ending) -> &str {
    match &ending.result {
        Ok(()) => "",
        Err(Stop::Failed(why) | Stop::NotApplicable(why)) => why,
    }
}

impl Row<'_> {
    /// Failed if it failed anywhere, passed if it passed somewhere.
    pub fn outcome(&self) -> Outcome {
        let of = |wanted| self.endings.iter().any(|ending| outcome(ending) == wanted);
        match () {
            () if of(Outcome::Fail) => Outcome::Fail,
            () if of(Outcome::Pass) => Outcome::Pass,
            () => Outcome::NotApplicable,
        }
    }

    fn transports(&self, wanted: Outcome) -> String {
        let endings = self.endings.iter().filter(|ending| outcome(ending) == wanted);
        endings.map(|ending| ending.transport.to_string()).collect::<Vec<_>>().join(" ")
    }

    fn all_transports(&self) -> String {
        self.endings.iter().map(|ending| ending.transport.to_string()).collect::<Vec<_>>().join(" ")
    }

    /// Each reason once, with the transports it was seen over.
    fn reasons(&self, wanted: Outcome) -> Vec<(String, &str)> {
        let mut reasons: Vec<(String, &str)> = Vec::new();
        for ending in self.endings.iter().filter(|ending| outcome(ending) == wanted) {
            match reasons.iter_mut().find(|(_, why)| *why == reason(ending)) {
                Some((transports, _)) => write!(transports, " {}", ending.transport).expect("to a string"),
                None => reasons.push((ending.transport.to_string(), reason(ending))),
            }
        }
        reasons
    }
}

pub fn rows(endings: &[Ending]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for ending in endings {
        match rows.iter_mut().find(|row| row.case.id == ending.case.id) {
            Some(row) => row.endings.push(ending),
            None => rows.push(Row { case: &ending.case, section: ending.section, endings: vec![ending] }),
        }
    }
    rows
}

fn count(rows: &[Row<'_>], wanted: Outcome) -> usize {
    rows.iter().filter(|row| row.outcome() == wanted).count()
}

/// In sections, in the order of their first row.
fn by_section<'r, 'e>(rows: &'r [Row<'e>]) -> Vec<(&'static str, Vec<&'r Row<'e>>)> {
    let mut sections: Vec<(&'static str, Vec<&Row<'_>>)> = Vec::new();
    for row in rows {
        match sections.iter_mut().find(|(title, _)| *title == row.section) {
            Some((_, rows)) => rows.push(row),
            None => sections.push((row.section, vec![row])),
        }
    }
    sections
}

fn totals_line(rows: &[&Row<'_>]) -> String {
    let of = |wanted| rows.iter().filter(|row| row.outcome() == wanted).count();
    let [passed, failed, inapplicable] = [Outcome::Pass, Outcome::Fail, Outcome::NotApplicable].map(of);
    format!("{passed} passed, {failed} failed, {inapplicable} not applicable")
}

/// The table for a terminal. With `transcripts`, what was said in each case that failed.
pub fn text(rows: &[Row<'_>], transcripts: bool) -> String {
    let mut out = String::new();
    for (title, rows) in by_section(rows) {
        writeln!(out, "\n{title}: {}", totals_line(&rows)).expect("to a string");
        for row in rows {
            let (label, id, level) = (row.outcome().label(), row.case.id, row.case.level);
            let passed = row.transports(Outcome::Pass);
            writeln!(out, "  {label:<4}  {level:<6}  {id:<24} {passed:<12} {}", row.case.title).expect("to a string");
            for (transports, why) in row.reasons(Outcome::Fail) {
                writeln!(out, "          {transports}: {why}").expect("to a string");
            }
            if row.outcome() == Outcome::NotApplicable {
                for (_, why) in row.reasons(Outcome::NotApplicable) {
                    writeln!(out, "          {why}").expect("to a string");
                }
            }
            if transcripts {
                for ending in row.endings.iter().filter(|ending| outcome(ending) == Outcome::Fail) {
                    for line in &ending.transcript {
                        writeln!(out, "            | {line}").expect("to a string");
                    }
                }
            }
        }
    }
    writeln!(out, "\n{}", totals(rows)).expect("to a string");
    out
}

/// By level, and of all.
pub fn totals(rows: &[Row<'_>]) -> String {
    let mut out = String::new();
    for level in [Level::Must, Level::Should, Level::May, Level::Policy] {
        let of_level: Vec<&Row<'_>> = rows.iter().filter(|row| row.case.level == level).collect();
        writeln!(out, "{level:<7} {}", totals_line(&of_level)).expect("to a string");
    }
    let all: Vec<&Row<'_>> = rows.iter().collect();
    write!(out, "all     {}", totals_line(&all)).expect("to a string");
    out
}

pub fn json(name: &str, rows: &[Row<'_>]) -> Value {
    let cases: Vec<Value> = rows
        .iter()
        .map(|row| {
            let transports: BTreeMap<String, Value> = row
                .endings
                .iter()
                .map(|ending| {
                    let mut value = json!({ "outcome": outcome(ending).label().to_lowercase() });
                    if ending.result.is_err() {
                        value["reason"] = reason(ending).into();
                    }
                    if !ending.transcript.is_empty() {
                        value["transcript"] = ending.transcript.clone().into();
                    }
                    (ending.transport.to_string(), value)
                })
                .collect();
            json!({
                "id": row.case.id,
                "level": row.case.level.to_string(),
                "section": row.section,
                "title": row.case.title,
                "outcome": row.outcome().label().to_lowercase(),
                "transports": transports,
            })
        })
        .collect();
    json!({
        "server": name,
        "passed": count(rows, Outcome::Pass),
        "failed": count(rows, Outcome::Fail),
        "not_applicable": count(rows, Outcome::NotApplicable),
        "cases": cases,
    })
}

/// A table for a document: totals by section, then what did not simply pass.
pub fn markdown(rows: &[Row<'_>]) -> String {
    let mut out = String::from("| section | pass | fail | not applicable |\n|---|---:|---:|---:|\n");
    for (title, rows) in by_section(rows) {
        let of = |wanted| rows.iter().filter(|row| row.outcome() == wanted).count();
        let [passed, failed, inapplicable] = [Outcome::Pass, Outcome::Fail, Outcome::NotApplicable].map(of);
        writeln!(out, "| {title} | {passed} | {failed} | {inapplicable} |").expect("to a string");
    }
    let [passed, failed, inapplicable] =
        [Outcome::Pass, Outcome::Fail, Outcome::NotApplicable].map(|wanted| count(rows, wanted));
    writeln!(out, "| **all** | **{passed}** | **{failed}** | **{inapplicable}** |").expect("to a string");
    for (wanted, heading) in [(Outcome::Fail, "fails"), (Outcome::NotApplicable, "not applicable")] {
        if count(rows, wanted) == 0 {
            continue;
        }
        writeln!(out, "\n| {heading} | level | requirement | why |\n|---|---|---|---|").expect("to a string");
        for row in rows.iter().filter(|row| row.outcome() == wanted) {
            let mut reasons: Vec<(String, String)> = Vec::new();
            for (transports, why) in row.reasons(wanted) {
                let why = stable(why);
                match reasons.iter_mut().find(|(_, other)| *other == why) {
                    Some((before, _)) => write!(before, " {transports}").expect("to a string"),
                    None => reasons.push((transports, why)),
                }
            }
            let is_everywhere = reasons.len() == 1 && row.transports(wanted) == row.all_transports();
            let reasons = reasons.into_iter().map(|(transports, why)| match is_everywhere {
                true => why,
                false => format!("{transports}: {why}"),
            });
            let why = reasons.collect::<Vec<_>>().join("; ").replace('|', "\\|");
            let Case { id, level, title, .. } = row.case;
            writeln!(out, "| {id} | {level} | {title} | {why} |").expect("to a string");
        }
    }
    out
}

/// Without what differs from run to run, like ports and nonces, and without what says nothing here.
fn stable(why: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut is_quoted = false;
    for word in why.split_whitespace() {
        // SOFTWARE may have spaces in it.
        let (was_quoted, quotes) = (is_quoted, word.matches('"').count());
        is_quoted ^= quotes % 2 == 1 && (was_quoted || word.starts_with("SOFTWARE="));
        let is_seal = ["MESSAGE-INTEGRITY", "FINGERPRINT"].contains(&word.trim_end_matches([';', ',']));
        if was_quoted || word.starts_with("SOFTWARE=") || is_seal {
            if let (true, Some(last)) = (word.ends_with(';'), words.last_mut()) {
                last.push(';');
            }
            continue;
        }
        let (name, value) = word.split_once('=').map_or(("", word), |(name, value)| (name, value));
        let bare = value.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != ']' && c != '[');
        let is_secret = bare.len() >= 16 && bare.trim_start_matches("0x").chars().all(|c| c.is_ascii_hexdigit());
        let is_secret =
            is_secret || matches!(name, "NONCE" | "RESERVATION-TOKEN" | "MOBILITY-TICKET" | "CONNECTION-ID");
        let value = match bare.parse::<std::net::SocketAddr>() {
            Ok(address) if address.port() >= 10_000 => value.replace(&address.port().to_string(), "…"),
            _ if is_secret => "…".to_owned(),
            _ => value.to_owned(),
        };
        words.push(if name.is_empty() { value } else { format!("{name}={value}") });
    }
    let text = words.join(" ");
    match text.char_indices().nth(WHY_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Writes a table between the markers of its name in a document.
///
/// # Errors
/// If the document has no such markers.
pub fn insert(document: &str, name: &str, table: &str) -> Result<String, String> {
    let (begin, end) = (format!("<!-- table: {name} -->\n"), "<!-- end of table -->");
    let missing = || format!("no line \"{}\", followed by \"{end}\"", begin.trim_end());
    let (head, rest) = document.split_once(&begin).ok_or_else(missing)?;
    let (_, tail) = rest.split_once(end).ok_or_else(missing)?;
    Ok(format!("{head}{begin}{table}{end}{tail}"))
}
