//! What is printed, and what is written into the document.

use std::fmt::Write as _;

use crate::contestants::names::{
    COTURN, FORWARDER, HAIRPIN, HAIRPIN_BEFORE, KERNEL_FORWARDER, SCRAPED, WITHOUT_OFFLOAD, WITHOUT_RECORDER,
};
use crate::results::{Document, Measured, Spread};
use crate::rows::{Goal, Row, Section};

/// Relayed packets of a voice call in a second, both ways.
const VOICE_PACKETS: f64 = 100.0;
/// And of a video call of 1 Mbit/s each way, at 1,200 bytes.
const VIDEO_PACKETS: f64 = 210.0;

/// Tables for a terminal.
pub fn text(document: &Document) -> String {
    let mut out = String::new();
    let rows = document.in_order();
    writeln!(
        out,
        "{:<22} {:>20} {:>20} {:>20} {:>18} {:>7}",
        "median (min to max)", "coturn", "Hairpin", "forwarder", "to coturn", "goal"
    )
    .expect("to a string");
    for (row, measured) in &rows {
        let of = |server: &str| measured.value(server).map_or("–".to_owned(), |spread| with_unit(row, spread));
        let ratio = measured.ratio(HAIRPIN, COTURN).map_or("–".to_owned(), figures);
        writeln!(
            out,
            "{:<22} {:>20} {:>20} {:>20} {:>18} {:>7} {}",
            row.name,
            of(COTURN),
            of(HAIRPIN),
            of(FORWARDER),
            ratio,
            goal(row),
            verdict(document, row, measured)
        )
        .expect("to a string");
        if let (Some(before), Some(ratio)) = (measured.value(HAIRPIN_BEFORE), measured.ratio(HAIRPIN, HAIRPIN_BEFORE)) {
            writeln!(out, "{:<22} before: {}; now by before: {}", "", with_unit(row, before), figures(ratio))
                .expect("to a string");
        }
        for (server, what) in [
            (WITHOUT_RECORDER, "without recorder"),
            (SCRAPED, "scraped"),
            (WITHOUT_OFFLOAD, "not in the kernel"),
            (KERNEL_FORWARDER, "bare forwarder in the kernel"),
        ] {
            if let (Some(value), Some(ratio)) = (measured.value(server), measured.ratio(server, HAIRPIN)) {
                writeln!(out, "{:<22} {what}: {}; by as it comes: {}", "", with_unit(row, value), figures(ratio))
                    .expect("to a string");
            }
        }
        if let (samples, disturbed @ 1..) = measured.disturbed() {
            writeln!(out, "{:<22} {disturbed} of {samples} measurements were disturbed", "").expect("to a string");
        }
    }
    out
}

/// Puts every table into its place in a document.
///
/// # Errors
/// If the document lacks one of the markers.
pub fn insert_all(text: &str, document: &Document) -> Result<String, String> {
    let text = insert(text, "machine", &machine(document))?;
    let text = insert(&text, "comparison", &comparison(document))?;
    let text = insert(&text, "loads", &loads(document))?;
    let text = insert(&text, "growth", &growth(document))?;
    let text = insert(&text, "observing", &observing(document))?;
    let text = insert(&text, "kernel", &kernel(document))?;
    let text = insert(&text, "kernel-loads", &kernel_loads(document))?;
    insert(&text, "capacity", &capacity(document))
}

/// The environment, as a list.
fn machine(document: &Document) -> String {
    let machine = &document.machine;
    let virtual_machine = if machine.is_virtual { ", in a virtual machine" } else { "" };
    let versions: Vec<String> = machine.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let times = document.rows.values().map(|measured| measured.measured_at);
    let dates = match (times.clone().min(), times.max()) {
        (Some(first), Some(last)) if date(first) == date(last) => date(first),
        (Some(first), Some(last)) => format!("{} to {}", date(first), date(last)),
        _ => "–".to_owned(),
    };
    let samples = || document.rows.values().flat_map(|measured| measured.rounds.iter().flatten());
    let load = Spread::of(samples().map(|sample| sample.load_average));
    let load = load.map_or("–".to_owned(), figures);
    let disturbed = samples().filter(|sample| sample.disturbed.is_some()).count();
    format!(
        "| | |\n|---|---|\n| processor | {}, {} cores{virtual_machine} |\n| kernel | Linux {} |\n\
         | mitigations | {} |\n| compared | {} |\n| cores | server {}, load {} |\n| measured | {dates} |\n\
         | load average before each measurement | {load} |\n| measurements | {}, of which {disturbed} disturbed |\n",
        machine.processor,
        machine.cores,
        machine.kernel,
        if machine.mitigations.is_empty() { "none".to_owned() } else { machine.mitigations.join("; ") },
        versions.join(", "),
        machine.pinned.0,
        machine.pinned.1,
        samples().count(),
    )
}

/// Everybody's cost beside the goals.
fn comparison(document: &Document) -> String {
    let mut out = String::from(
        "| measure | coturn | Hairpin | bare forwarder | Hairpin to coturn | goal | |\n|---|---:|---:|---:|---:|---:|---|\n",
    );
    for (row, measured) in of_section(document, Section::Comparison) {
        let of = |server: &str| measured.value(server).map_or("–".to_owned(), |spread| with_unit(&row, spread));
        let ratio = measured.ratio(HAIRPIN, COTURN).map_or("–".to_owned(), |ratio| format!("**{}**", figures(ratio)));
        writeln!(
            out,
            "| {} | {} | {} | {} | {ratio} | {} | {} |",
            row.title,
            of(COTURN),
            of(HAIRPIN),
            of(FORWARDER),
            goal(&row),
            verdict(document, &row, measured)
        )
        .expect("to a string");
    }
    out
}

/// What arrived, and how late.
fn loads(document: &Document) -> String {
    let mut out = String::from(
        "| measure | coturn, units a second | Hairpin | coturn, latency p50 / p99 | Hairpin |\n|---|---:|---:|---:|---:|\n",
    );
    for (row, measured) in of_section(document, Section::Comparison) {
        let rate = |server: &str| {
            let rate = measured.spread(server, |figures| figures.per_second);
            rate.map_or("–".to_owned(), |rate| thousands(rate.median))
        };
        let latency = |server: &str| {
            let half = measured.spread(server, |figures| figures.median_latency);
            let tail = measured.spread(server, |figures| figures.tail_latency);
            half.zip(tail).map_or("–".to_owned(), |(half, tail)| {
                format!("{} / {} µs", thousands(half.median), thousands(tail.median))
            })
        };
        if measured.spread(HAIRPIN, |figures| figures.per_second).is_none() {
            continue;
        }
        let [coturn, hairpin] = [COTURN, HAIRPIN].map(|server| (rate(server), latency(server)));
        writeln!(out, "| {} | {} | {} | {} | {} |", row.title, coturn.0, hairpin.0, coturn.1, hairpin.1)
            .expect("to a string");
    }
    out
}

/// The curves.
fn growth(document: &Document) -> String {
    let mut out = String::from(
        "| measure | coturn | Hairpin | bare forwarder | Hairpin to its first row | goal | |\n|---|---:|---:|---:|---|---:|---|\n",
    );
    for (row, measured) in of_section(document, Section::Growth) {
        let of = |server: &str| measured.value(server).map_or("–".to_owned(), |spread| with_unit(&row, spread));
        let curve = document.against_goal(&row, measured).map_or("1.00".to_owned(), |(ratio, _)| format!("{ratio:.2}"));
        let bar = "█".repeat(measured.value(HAIRPIN).map_or(0, |spread| bar_len(&row, spread.median)));
        writeln!(
            out,
            "| {} | {} | {} | {} | {curve} {bar} | {} | {} |",
            row.title,
            of(COTURN),
            of(HAIRPIN),
            of(FORWARDER),
            goal(&row),
            verdict(document, &row, measured)
        )
        .expect("to a string");
    }
    out
}

/// What cores and machines carry, by what a packet takes in the tables: sentences, since it is arithmetic.
fn capacity(document: &Document) -> String {
    let sentence = |(name, allocations): &(&str, &str)| {
        let cost = document.rows.get(*name)?.value(HAIRPIN)?.median;
        // 0.7 s of work in a second, the cost in microseconds.
        let packets = 700_000.0 / cost;
        let calls = |cores: f64, each: f64| thousands((packets * cores / each).floor());
        let [one, eight, fleet] = [1.0, 8.0, 80.0].map(|cores| {
            format!("{} voice or {} video calls", calls(cores, VOICE_PACKETS), calls(cores, VIDEO_PACKETS))
        });
        Some(format!(
            "With {allocations} allocations a packet takes {cost:.2} µs, so one core carries {one}, eight cores {eight}, \
             and a fleet of ten such machines {fleet}.\n"
        ))
    };
    let rows = [("relay-160-100", "100"), ("relay-160-2000", "2,000"), ("grow-relay-15000", "15,000")];
    let sentences: String = rows.iter().filter_map(sentence).collect();
    if sentences.is_empty() { "Nothing has been measured yet.\n".to_owned() } else { sentences }
}

/// What seeing costs.
fn observing(document: &Document) -> String {
    let mut out = String::from(
        "| measure | as it comes | without recorder | to as it comes | /metrics every second | to as it comes |\n\
         |---|---:|---:|---:|---:|---:|\n",
    );
    for (row, measured) in of_section(document, Section::Observing) {
        let of = |server: &str| measured.value(server).map_or("–".to_owned(), |spread| with_unit(&row, spread));
        let to = |server: &str| measured.ratio(server, HAIRPIN).map_or("–".to_owned(), figures);
        let [without, scraped] = [WITHOUT_RECORDER, SCRAPED].map(|server| format!("{} | {}", of(server), to(server)));
        writeln!(out, "| {} | {} | {without} | {scraped} |", row.title, of(HAIRPIN)).expect("to a string");
    }
    out
}

/// The kernel's part and the process's, beside coturn and the kernel's limit.
fn kernel(document: &Document) -> String {
    let mut out = String::from(
        "| measure | coturn | Hairpin by itself | Hairpin in the kernel | bare eBPF forwarder | in the kernel to coturn | goal | | to the bare forwarder |\n\
         |---|---:|---:|---:|---:|---:|---:|---|---:|\n",
    );
    for (row, measured) in of_section(document, Section::Kernel) {
        let of = |server: &str| measured.value(server).map_or("–".to_owned(), |spread| with_unit(&row, spread));
        let ratio = measured.ratio(HAIRPIN, COTURN).map_or("–".to_owned(), |ratio| format!("**{}**", figures(ratio)));
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {ratio} | {} | {} | {} |",
            row.title,
            of(COTURN),
            of(WITHOUT_OFFLOAD),
            of(HAIRPIN),
            of(KERNEL_FORWARDER),
            goal(&row),
            verdict(document, &row, measured),
            measured.ratio(HAIRPIN, KERNEL_FORWARDER).map_or("–".to_owned(), figures),
        )
        .expect("to a string");
    }
    out
}

/// What arrived there, and how late.
fn kernel_loads(document: &Document) -> String {
    let mut out = String::from(
        "| measure | coturn, packets a second | Hairpin by itself | Hairpin in the kernel | bare eBPF forwarder | in the kernel to coturn | coturn, latency p50 / p99 | Hairpin by itself | Hairpin in the kernel |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for (row, measured) in of_section(document, Section::Kernel) {
        let median = |server: &str| measured.spread(server, |figures| figures.per_second).map(|rate| rate.median);
        let rate = |server: &str| median(server).map_or("–".to_owned(), thousands);
        let latency = |server: &str| {
            let half = measured.spread(server, |figures| figures.median_latency);
            let tail = measured.spread(server, |figures| figures.tail_latency);
            half.zip(tail).map_or("–".to_owned(), |(half, tail)| {
                format!("{} / {} µs", thousands(half.median), thousands(tail.median))
            })
        };
        let times =
            median(HAIRPIN).zip(median(COTURN)).map_or("–".to_owned(), |(one, other)| format!("{:.1}×", one / other));
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {times} | {} | {} | {} |",
            row.title,
            rate(COTURN),
            rate(WITHOUT_OFFLOAD),
            rate(HAIRPIN),
            rate(KERNEL_FORWARDER),
            latency(COTURN),
            latency(WITHOUT_OFFLOAD),
            latency(HAIRPIN),
        )
        .expect("to a string");
    }
    out
}

/// A bar of a curve: half a microsecond a block for packets, five for requests.
fn bar_len(row: &Row, micros: f64) -> usize {
    let block = if row.name.starts_with("grow-relay") { 0.5 } else { 5.0 };
    (micros / block).round().clamp(1.0, 60.0) as usize
}

fn of_section(document: &Document, section: Section) -> impl Iterator<Item = (Row, &Measured)> {
    document.in_order().into_iter().filter(move |(row, _)| row.section == section)
}

/// Figures of a row: median, lowest and highest.
fn with_unit(row: &Row, spread: Spread) -> String {
    let decimals = if spread.median < 20.0 { 2 } else { 0 };
    let Spread { median, min, max } = spread;
    format!("{median:.decimals$} {} ({min:.decimals$}–{max:.decimals$})", row.what.unit())
}

fn figures(spread: Spread) -> String {
    format!("{:.2} ({:.2}–{:.2})", spread.median, spread.min, spread.max)
}

fn goal(row: &Row) -> String {
    match row.goal {
        Goal::None => String::new(),
        Goal::OfCoturn(most) => format!("≤ {most:.2}"),
        Goal::OfRow(_, most) => format!("≤ {most:.2}×"),
        Goal::Absolute(most) => format!("≤ {most:.0} {}", row.what.unit()),
    }
}

fn verdict(document: &Document, row: &Row, measured: &Measured) -> String {
    match document.against_goal(row, measured) {
        None => String::new(),
        Some((_, true)) => "met".to_owned(),
        Some((got, false)) if matches!(row.goal, Goal::OfRow(..)) => format!("not met ({got:.2}×)"),
        Some((_, false)) => "not met".to_owned(),
    }
}

fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Days since 1970 as a date (Howard Hinnant's civil calendar).
fn date(unix_secs: u64) -> String {
    let days = unix_secs / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

/// Writes a table between the markers of its name.
fn insert(document: &str, name: &str, table: &str) -> Result<String, String> {
    let (begin, end) = (format!("<!-- table: {name} -->\n"), "<!-- end of table -->");
    let missing = || format!("no line \"{}\", followed by \"{end}\"", begin.trim_end());
    let (head, rest) = document.split_once(&begin).ok_or_else(missing)?;
    let (_, tail) = rest.split_once(end).ok_or_else(missing)?;
    Ok(format!("{head}{begin}{table}{end}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Figures, Sample};

    fn measured(value: f64) -> Measured {
        let figures = Figures { value, ..Figures::default() };
        let sample = Sample { server: HAIRPIN.to_owned(), figures, load_average: 0.0, disturbed: None };
        Measured { measured_at: 0, rounds: vec![vec![sample]] }
    }

    #[test]
    fn capacity_is_arithmetic_on_what_was_measured() {
        let mut document = Document::default();
        assert_eq!(capacity(&document), "Nothing has been measured yet.\n");
        document.rows.insert("relay-160-100".to_owned(), measured(8.0));
        let text = capacity(&document);
        assert!(
            text.contains("takes 8.00 µs, so one core carries 875 voice or 416 video calls, eight cores 7,000"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn the_documentation_has_a_place_for_every_table() {
        insert_all(include_str!("../../docs/performance.md"), &Document::default()).unwrap();
    }
}
