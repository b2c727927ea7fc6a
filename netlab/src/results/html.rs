//! One HTML page with everything in it: grids coloured by outcome, a table of all records, links to logs.

use std::fmt::Write as _;
use std::path::Path;

use super::{Outcome, Record, Verdict, escaped};
use crate::fault::seconds;

const STYLE: &str = include_str!("report.css");

pub(super) fn document(title: &str, records: &[Record], directory: &Path) -> String {
    let count = |verdict| records.iter().filter(|record| record.verdict == verdict).count();
    let seconds: f64 = records.iter().map(|record| record.seconds).sum();
    let title = escaped(title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\n<style>\n{STYLE}</style>\n\
         <h1>{title}</h1>\n<p class=\"tally\"><b>{}</b> passed, <b class=\"{}\">{}</b> failed, <b>{}</b> skipped, in {:.0} s</p>\n\
         <ul class=\"legend\">",
        count(Verdict::Passed),
        if count(Verdict::Failed) > 0 { "bad" } else { "" },
        count(Verdict::Failed),
        count(Verdict::Skipped),
        seconds,
    );
    let outcomes = [Outcome::Direct, Outcome::RelayUdp, Outcome::RelayTcp, Outcome::RelayTls, Outcome::NoCall];
    for (class, words) in outcomes.map(|outcome| (class(outcome), outcome.words())) {
        let _ = write!(page, "<li class=\"{class}\">{words}</li>");
    }
    page.push_str("<li class=\"failed\">not as expected</li><li class=\"skipped\">skipped</li></ul>\n");
    draw_failures(&mut page, records, directory);
    let mut grids: Vec<&str> = Vec::new();
    for grid in records.iter().filter_map(|record| record.cell.as_ref()).map(|cell| &*cell.grid) {
        if !grids.contains(&grid) {
            grids.push(grid);
        }
    }
    if !grids.is_empty() {
        page.push_str(
            "<p class=\"note\">A cell is what came of two NATs in the end: with nothing but STUN where that is enough, or else \
             with TURN. Below it, the milliseconds from the offer until both sides were connected.</p>\n",
        );
    }
    for grid in grids {
        draw_grid(&mut page, grid, records);
    }
    draw_faults(&mut page, records);
    draw_table(&mut page, records, directory);
    page.push_str("</html>\n");
    page
}

fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NoCall => "no-call",
        Outcome::Direct => "direct",
        Outcome::RelayUdp => "relay-udp",
        Outcome::RelayTcp => "relay-tcp",
        Outcome::RelayTls => "relay-tls",
    }
}

fn classes(record: &Record) -> &'static str {
    match (record.verdict, record.path) {
        (Verdict::Failed, _) => "failed",
        (Verdict::Skipped, _) | (_, None) => "skipped",
        (Verdict::Passed, Some(outcome)) => class(outcome),
    }
}

fn words(record: &Record) -> &'static str {
    match (record.verdict, record.path) {
        (Verdict::Skipped, _) => "skipped",
        (Verdict::Failed, None) => "failed",
        (Verdict::Failed, Some(Outcome::NoCall)) => "no call!",
        (_, Some(outcome)) => outcome.words(),
        (Verdict::Passed, None) => "passed",
    }
}

/// What comes of a pair in the end: its last call, unless an earlier one was not as expected.
fn last<'r>(records: &'r [Record], grid: &str, caller: &str, callee: &str) -> Option<(usize, &'r Record)> {
    let here = |record: &Record| {
        record.cell.as_ref().is_some_and(|cell| cell.grid == grid && cell.caller == caller && cell.callee == callee)
    };
    let found = || records.iter().enumerate().filter(|(_, record)| here(record));
    found().find(|(_, record)| record.verdict == Verdict::Failed).or_else(|| found().next_back())
}

/// What was not as expected comes first, with all that is known of it.
fn draw_failures(page: &mut String, records: &[Record], directory: &Path) {
    let mut failed = records.iter().enumerate().filter(|(_, record)| record.verdict == Verdict::Failed).peekable();
    if failed.peek().is_none() {
        return;
    }
    page.push_str("<h2>Not as expected</h2>\n<ul class=\"failures\">\n");
    for (number, record) in failed {
        let _ = write!(
            page,
            "<li><a href=\"#r{number}\"><b>{}</b></a> {}<br>{}",
            escaped(&record.name),
            escaped(&record.sentence),
            escaped(&record.line)
        );
        draw_links(page, record, directory);
        page.push_str("</li>\n");
    }
    page.push_str("</ul>\n");
}

fn draw_links(page: &mut String, record: &Record, directory: &Path) {
    if record.files.is_empty() {
        return;
    }
    page.push_str("<br><small class=\"files\">");
    for file in &record.files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let _ = write!(
            page,
            "<span>{} <a href=\"{}\">{}</a></span> ",
            kind_of_file(&name),
            link(file, directory),
            escaped(&name)
        );
    }
    page.push_str("</small>");
}

/// What is in a file, by the names that `README.md` gives.
fn kind_of_file(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "pcap")) => "packets",
        Some((_, "json")) => "results",
        Some(("sip" | "media", "log")) => "telephony",
        Some((name, "log")) if name.contains("-browser-") || name.starts_with("browser-") => "browser",
        Some((name, "log")) if name.contains("phone") || name == "gateway" => "telephony",
        Some((_, "log")) => "server",
        _ => "",
    }
}

fn draw_grid(page: &mut String, grid: &str, records: &[Record]) {
    let cells = || records.iter().filter_map(|record| record.cell.as_ref()).filter(|cell| cell.grid == grid);
    let (mut callers, mut callees): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for cell in cells() {
        if !callers.contains(&&*cell.caller) {
            callers.push(&cell.caller);
        }
        if !callees.contains(&&*cell.callee) {
            callees.push(&cell.callee);
        }
    }
    let _ = write!(page, "<h2>{}</h2>\n<table class=\"grid\"><tr><th>caller \\ callee</th>", escaped(grid));
    for callee in &callees {
        let _ = write!(page, "<th>{}</th>", escaped(callee));
    }
    for caller in &callers {
        let _ = write!(page, "</tr>\n<tr><th>{}</th>", escaped(caller));
        for callee in &callees {
            match last(records, grid, caller, callee) {
                Some((number, record)) => {
                    let time = record.connected_milliseconds.filter(|_| record.path != Some(Outcome::NoCall));
                    let time = time.map(|time| format!("<small>{time} ms</small>")).unwrap_or_default();
                    let _ = write!(
                        page,
                        "<td class=\"{}\" title=\"{}\"><a href=\"#r{number}\">{}{time}</a></td>",
                        classes(record),
                        escaped(&record.line),
                        words(record)
                    );
                }
                None => page.push_str("<td></td>"),
            }
        }
    }
    page.push_str("</tr></table>\n");
}

/// How the calls got over what was broken: silence and freeze in seconds, at the caller and at the callee.
fn draw_faults(page: &mut String, records: &[Record]) {
    let mended =
        || records.iter().enumerate().filter_map(|(number, record)| Some((number, record, record.recovery.as_ref()?)));
    if mended().next().is_none() {
        return;
    }
    page.push_str(
        "<h2>Faults in mid-call</h2>\n<table class=\"list faults\"><tr><th rowspan=\"2\">name</th><th rowspan=\"2\">what broke</th>\
         <th colspan=\"2\">silence</th><th colspan=\"2\">freeze</th><th rowspan=\"2\">what mended it</th></tr>\n\
         <tr><th>caller</th><th>callee</th><th>caller</th><th>callee</th></tr>\n",
    );
    for (number, record, recovery) in mended() {
        let _ = write!(
            page,
            "<tr><td><a href=\"#r{number}\">{}</a></td><td>{}</td>",
            escaped(&record.name),
            escaped(&recovery.fault)
        );
        for milliseconds in [recovery.silence_milliseconds, recovery.freeze_milliseconds].concat() {
            let _ = write!(page, "<td class=\"time\">{}</td>", seconds(milliseconds));
        }
        let _ = writeln!(page, "<td>{}</td></tr>", escaped(&recovery.mended_by()));
    }
    page.push_str("</table>\n");
}

fn draw_table(page: &mut String, records: &[Record], directory: &Path) {
    page.push_str("<h2>All calls</h2>\n<table class=\"list\"><tr><th></th><th>name</th><th>path</th><th>s</th><th>what</th></tr>\n");
    for (number, record) in records.iter().enumerate() {
        let verdict = match record.verdict {
            Verdict::Passed => "PASS",
            Verdict::Failed => "FAIL",
            Verdict::Skipped => "SKIP",
        };
        let _ = write!(
            page,
            "<tr id=\"r{number}\" class=\"row-{verdict}\"><td>{verdict}</td><td>{}</td><td><span class=\"{}\">{}</span></td>\
             <td>{:.1}</td><td>{}<br><small>{}</small>",
            escaped(&record.name),
            classes(record),
            words(record),
            record.seconds,
            escaped(&record.sentence),
            escaped(&record.line),
        );
        draw_links(page, record, directory);
        page.push_str("</td></tr>\n");
    }
    page.push_str("</table>\n");
}

/// How the page says where a file is: from its own directory if the file is below it, or else from the root.
fn link(file: &Path, directory: &Path) -> String {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let directory = std::path::absolute(directory).unwrap_or_default();
    let (start, path) = match absolute.strip_prefix(&directory) {
        Ok(below) => ("", below.to_owned()),
        Err(_) => ("file://", absolute),
    };
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    format!("{start}{}", path.to_string_lossy().bytes().map(encode).collect::<String>())
}
