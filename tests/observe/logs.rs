//! docs/logs.md and the sources name the same events, with the same levels and fields.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// By event: its level and its fields.
type Events = BTreeMap<String, (String, BTreeSet<String>)>;

#[test]
fn every_event_of_the_log_is_documented_and_the_reverse() {
    let mut written = Events::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut written);
    let documented = documented(&super::documents::read("docs/logs.md"));
    let names = |events: &Events| events.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&written), names(&documented), "left: src, right: docs/logs.md");
    for (name, event) in &written {
        assert_eq!(event, &documented[name], "{name}; left: src, right: docs/logs.md");
    }
    assert!(written.len() > 30, "they are found at all");
}

fn documented(text: &str) -> Events {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let events = rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let fields = cells[2].split_whitespace().map(|field| field.trim_matches('`').to_owned());
        (cells[0].trim_matches('`').to_owned(), (cells[1].to_owned(), fields.collect()))
    });
    events.collect()
}

fn visit(folder: &Path, events: &mut Events) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, events);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            // Tests, which stand at the end, may log what they like.
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            for level in ["error", "warn", "info", "debug", "trace"] {
                for call in text.split(&format!("{level}!(")).skip(1) {
                    read_call(level, call, events);
                }
            }
        }
    }
}

/// Takes in one call, if it names an event.
fn read_call(level: &str, call: &str, events: &mut Events) {
    let arguments = arguments(call);
    let mut name = None;
    let mut fields = BTreeSet::new();
    for argument in &arguments {
        let is_name = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        match argument.split_once(" = ") {
            Some(("event", value)) => name = Some(value.trim_matches('"').to_owned()),
            Some((field, _)) if is_name(field) => drop(fields.insert(field.to_owned())),
            Some(_) => {}
            None => {
                let field = argument.trim_start_matches(['%', '?']);
                if is_name(field) {
                    fields.insert(field.to_owned());
                }
            }
        }
    }
    let name = name.unwrap_or_else(|| panic!("{level}!({}: without an event", arguments.join(", ")));
    let known = events.entry(name.clone()).or_insert_with(|| (level.to_owned(), BTreeSet::new()));
    assert_eq!(known.0, level, "{name} has two levels");
    known.1.extend(fields);
}

/// The arguments of a call, of which the opening parenthesis has been read.
fn arguments(call: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let (mut depth, mut is_text, mut is_escaped) = (0, false, false);
    for one in call.chars() {
        let is_end = match one {
            '"' if !is_escaped => {
                is_text = !is_text;
                false
            }
            '(' | '[' | '{' if !is_text => {
                depth += 1;
                false
            }
            ')' | ']' | '}' if !is_text => {
                depth -= 1;
                depth < 0
            }
            ',' if !is_text && depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => false,
        };
        if is_end {
            break;
        }
        is_escaped = is_text && one == '\\' && !is_escaped;
        found.last_mut().expect("never empty").push(one);
    }
    found.into_iter().map(|argument| argument.trim().to_owned()).collect()
}
