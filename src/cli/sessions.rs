//! `hairpin sessions`: who has an allocation.

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::admin_client::{Whereabouts, query};
use super::{Outcome, print};

/// List the sessions of a running server.
///
/// A session is a client with an allocation. Without a filter all are listed; several filters all have to apply.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub filter: Filter,
    #[command(flatten)]
    server: Whereabouts,
}

/// Which sessions.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// The 16 digits that logs call it by.
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,

    /// The user: the name, or the part behind the colon of a time-limited one.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,

    /// The realm that the user belongs to.
    #[arg(long, value_name = "REALM")]
    pub realm: Option<String>,

    /// The client's address, or a prefix.
    #[arg(long, value_name = "ADDRESS")]
    pub client: Option<String>,

    /// The relayed address, with or without port.
    #[arg(long, value_name = "ADDRESS")]
    pub relayed: Option<String>,

    /// udp, tcp, tls or dtls.
    #[arg(long, value_name = "TRANSPORT")]
    pub transport: Option<String>,
}

impl Filter {
    pub fn parameters(&self) -> [(&'static str, Option<&str>); 6] {
        [
            ("id", self.id.as_deref()),
            ("user", self.user.as_deref()),
            ("realm", self.realm.as_deref()),
            ("client", self.client.as_deref()),
            ("relayed", self.relayed.as_deref()),
            ("transport", self.transport.as_deref()),
        ]
    }
}

const PAGE: &str = "1000";
const HEADINGS: [&str; 9] = ["id", "user", "transport", "client", "relayed", "age", "left", "to peer", "to client"];

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let mut sessions: Vec<Value> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = [("limit", Some(PAGE)), ("after", after.as_deref())];
        let query = query(arguments.filter.parameters().into_iter().chain(page));
        let mut answer = arguments.server.ask(Method::GET, &format!("/v1/sessions?{query}"))?;
        if let Some(found) = answer["sessions"].as_array_mut() {
            sessions.append(found);
        }
        match answer["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    if arguments.server.json {
        return print(serde_json::json!({ "sessions": sessions }));
    }
    if sessions.is_empty() {
        return print("no sessions");
    }
    print(table(&HEADINGS, &sessions.iter().map(row).collect::<Vec<_>>()))?;
    print(counted(sessions.len() as u64))
}

fn row(session: &Value) -> [String; 9] {
    let text = |key: &str| harmless(session[key].as_str().unwrap_or_default());
    let relayed = session["relayed"].as_array().map_or(&[][..], Vec::as_slice);
    let sum = |key: &str| relayed.iter().filter_map(|relay| relay[key].as_u64()).sum::<u64>();
    let addresses: Vec<&str> = relayed.iter().filter_map(|relay| relay["address"].as_str()).collect();
    let left = relayed.iter().filter_map(|relay| relay["lifetime_left_seconds"].as_u64()).min().unwrap_or_default();
    [
        text("id"),
        text("user"),
        text("transport"),
        text("client"),
        addresses.join(" "),
        duration(session["age_seconds"].as_u64().unwrap_or_default()),
        duration(left),
        size(sum("bytes_to_peer")),
        size(sum("bytes_to_client")),
    ]
}

/// `1 session`, `2 sessions`.
pub(super) fn counted(sessions: u64) -> String {
    format!("{sessions} session{}", if sessions == 1 { "" } else { "s" })
}

/// A user name may contain anything; a terminal may not (abuse S20).
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `1h02m`, `3m07s`, `45s`.
pub(super) fn duration(secs: u64) -> String {
    match (secs / 3600, secs / 60 % 60, secs % 60) {
        (0, 0, secs) => format!("{secs}s"),
        (0, minutes, secs) => format!("{minutes}m{secs:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

/// In the largest unit that leaves a whole part.
pub(super) fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, bits)| bytes >> bits > 0) {
        Some((unit, bits)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << bits) as f64),
        None => format!("{bytes} B"),
    }
}

/// Columns as wide as they have to be.
pub(super) fn table<const N: usize>(headings: &[&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let rows = rows.iter().map(|row| line(std::array::from_fn(|column| row[column].as_str())));
    std::iter::once(line(*headings)).chain(rows).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_names_cannot_draw() {
        let rows = [[harmless("al\u{1b}[31m\n"), "x".into()], ["b".into(), "longer".into()]];
        assert_eq!(table(&["user", "y"], &rows), "user      y\nal?[31m?  x\nb         longer");
        assert_eq!((duration(45), duration(187), duration(3725)), ("45s".into(), "3m07s".into(), "1h02m".into()));
        assert_eq!((size(1023), size(1536), size(3 << 30)), ("1023 B".into(), "1.5 KiB".into(), "3.0 GiB".into()));
    }
}
