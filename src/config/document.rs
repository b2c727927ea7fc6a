//! TOML with positions: finds where a key stands, and reads as much of a faulty file as can be read.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Position, Problem};
use super::{EXAMPLE, Written};

/// A file that is TOML; whether its keys make sense is not known yet.
pub(super) struct Document<'t> {
    text: &'t str,
    root: Spanned<DeTable<'t>>,
}

/// One step from a table or array to what is in it.
#[derive(Clone)]
enum Step {
    Key(String),
    Index(usize),
}

impl<'t> Document<'t> {
    /// # Errors
    /// The first thing that is not TOML.
    pub fn parse(text: &'t str) -> Result<Self, Problem> {
        let root = DeTable::parse(text).map_err(|error| Problem {
            position: error.span().map(|span| Position::of(text.as_bytes(), span.start)),
            key: String::new(),
            wrong: format!("this is not TOML: {}", error.message()),
            fix: syntax_fix(error.message()).into(),
        })?;
        Ok(Self { text, root })
    }

    /// Reads the keys. Each unknown or ill-typed one becomes a problem and counts as not written, so that the rest of
    /// the file can still be checked.
    pub fn read(&self, problems: &mut Vec<Problem>) -> Written {
        let mut table = self.root.clone();
        loop {
            let error = match Written::deserialize(toml::Deserializer::from(table.clone())) {
                Ok(written) => return written,
                Err(error) => error,
            };
            let span = error.span().unwrap_or(0..self.text.len());
            let path = path_to(table.get_ref(), &span);
            problems.push(explain(&path, error.message(), Position::of(self.text.as_bytes(), span.start)));
            // Each round takes something away, so there is a last one.
            if !remove(table.get_mut(), &path) {
                return Written::default();
            }
        }
    }

    /// Where the value of this key stands (`auth.users[0].name`), or the nearest thing around it.
    pub fn position(&self, key: &str) -> Option<Position> {
        let (span, _) = self.follow(key);
        span.map(|span| Position::of(self.text.as_bytes(), span.start))
    }

    /// Whether this very key is written.
    #[cfg(test)]
    pub fn has(&self, key: &str) -> bool {
        self.follow(key).1
    }

    /// Every key that is written, with a digest of its value as it is spelled: enough to see that it has changed, and
    /// not enough to see a secret.
    pub fn digests(&self) -> BTreeMap<String, u64> {
        let mut digests = BTreeMap::new();
        self.digest_table(self.root.get_ref(), "", &mut digests);
        digests
    }

    fn digest_table(&self, table: &DeTable<'_>, prefix: &str, digests: &mut BTreeMap<String, u64>) {
        for (key, value) in table {
            let key = format!("{prefix}{}", key.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) => self.digest_table(inner, &format!("{key}."), digests),
                // A table written by headers has no spelling of its own in one place.
                DeValue::Array(array) => {
                    for (index, entry) in array.iter().enumerate() {
                        match entry.get_ref() {
                            DeValue::Table(inner) => {
                                self.digest_table(inner, &format!("{key}[{index}]."), digests);
                            }
                            _ => drop(digests.insert(format!("{key}[{index}]"), self.digest(entry.span()))),
                        }
                    }
                }
                _ => drop(digests.insert(key, self.digest(value.span()))),
            }
        }
    }

    fn digest(&self, span: Range<usize>) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.text.get(span).hash(&mut hasher);
        hasher.finish()
    }

    /// The span of the last thing that exists on the way, and whether it is the end of the way.
    fn follow(&self, key: &str) -> (Option<Range<usize>>, bool) {
        let mut found = None;
        let mut here: Option<&DeValue<'_>> = None;
        for step in steps(key) {
            let next = match (&step, here) {
                (Step::Key(key), None) => self.root.get_ref().get(key.as_str()),
                (Step::Key(key), Some(DeValue::Table(table))) => table.get(key.as_str()),
                (Step::Index(index), Some(DeValue::Array(array))) => array.get(*index),
                _ => None,
            };
            let Some(next) = next else { return (found, false) };
            found = Some(next.span());
            here = Some(next.get_ref());
        }
        (found, true)
    }

    /// The value of a key as it is spelled.
    fn spelling(&self, path: &[Step]) -> Option<&'t str> {
        let mut table = self.root.get_ref();
        let mut found = None;
        for step in path {
            let Step::Key(key) = step else { break };
            let value = table.get(key.as_str())?;
            found = self.text.get(value.span());
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        found
    }
}

fn steps(key: &str) -> impl Iterator<Item = Step> {
    key.split('.').flat_map(|part| {
        let mut pieces = part.split('[');
        let name = pieces.next().map(|name| Step::Key(name.into()));
        let indices = pieces.filter_map(|piece| piece.trim_end_matches(']').parse().ok().map(Step::Index));
        name.into_iter().chain(indices)
    })
}

fn show(path: &[Step]) -> String {
    let mut shown = String::new();
    for step in path {
        match step {
            Step::Key(key) if shown.is_empty() => shown.push_str(key),
            Step::Key(key) => shown.extend([".", key]),
            Step::Index(index) => shown.push_str(&format!("[{index}]")),
        }
    }
    shown
}

/// The path to the smallest key or value around a span. All tables are searched: one made by a header spans the header
/// only.
fn path_to(table: &DeTable<'_>, span: &Range<usize>) -> Vec<Step> {
    let mut best = (usize::MAX, Vec::new());
    search_table(table, span, &mut Vec::new(), &mut best);
    best.1
}

fn search_table(table: &DeTable<'_>, span: &Range<usize>, path: &mut Vec<Step>, best: &mut (usize, Vec<Step>)) {
    for (key, value) in table {
        path.push(Step::Key(key.get_ref().to_string()));
        consider(&key.span(), span, path, best);
        search_value(value, span, path, best);
        path.pop();
    }
}

fn search_value(
    value: &Spanned<DeValue<'_>>,
    span: &Range<usize>,
    path: &mut Vec<Step>,
    best: &mut (usize, Vec<Step>),
) {
    consider(&value.span(), span, path, best);
    match value.get_ref() {
        DeValue::Table(inner) => search_table(inner, span, path, best),
        DeValue::Array(inner) => {
            for (index, value) in inner.iter().enumerate() {
                path.push(Step::Index(index));
                search_value(value, span, path, best);
                path.pop();
            }
        }
        _ => {}
    }
}

fn consider(candidate: &Range<usize>, span: &Range<usize>, path: &[Step], best: &mut (usize, Vec<Step>)) {
    if candidate.start <= span.start && span.end <= candidate.end && candidate.len() < best.0 {
        *best = (candidate.len(), path.to_vec());
    }
}

/// Removes what the path leads to; of an array everything, so that the indices in later messages stay true. Whether
/// there was anything.
fn remove(table: &mut DeTable<'_>, path: &[Step]) -> bool {
    match path {
        [Step::Key(key), Step::Key(_), ..] => match table.get_mut(key.as_str()).map(Spanned::get_mut) {
            Some(DeValue::Table(inner)) => remove(inner, &path[1..]),
            _ => false,
        },
        [Step::Key(key), ..] => table.remove(key.as_str()).is_some(),
        _ => false,
    }
}

/// From the words of serde to ours.
fn explain(path: &[Step], message: &str, position: Position) -> Problem {
    let problem = |wrong: String, fix: String| Problem { position: Some(position), key: show(path), wrong, fix };
    if message.starts_with("unknown field") {
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        if let [unknown, known @ ..] = names.as_slice() {
            return problem("there is no such key".into(), which_was_meant(unknown, known));
        }
    }
    problem(wrong_kind(path, message.trim()), right_kind(path, message))
}

/// What to write where a value of another kind stands.
fn right_kind(path: &[Step], message: &str) -> String {
    let wants = |what: &str| message.contains(&format!("expected {what}"));
    match path {
        [.., Step::Key(key)] if wants("a sequence") => format!("write a list, like {key} = [\"…\", \"…\"]"),
        [.., Step::Key(list), Step::Index(_)] if wants("struct") => {
            format!("write an entry of its own for each: [[{}.{list}]] with its keys below", show(&path[..1]))
        }
        [.., Step::Key(_)] if wants("struct") => format!("write [{}] with its keys below, one a line", show(path)),
        [.., Step::Index(_)] => "write each value in quotes, separated by commas".into(),
        [.., Step::Key(key)] => match Document::parse(EXAMPLE).ok().as_ref().and_then(|example| example.spelling(path))
        {
            Some(spelling) => format!("write a value of the right kind, like {key} = {spelling}"),
            None => "write text in \"quotes\"; see config.example.toml".into(),
        },
        [] => "see config.example.toml for what belongs here".into(),
    }
}

fn wrong_kind(path: &[Step], message: &str) -> String {
    let message = message
        .replace("expected i64", "expected a whole number")
        .replace("a sequence", "a list in [brackets]")
        .replace("expected struct", "expected the section");
    match (path.first(), message.split_once(", expected ")) {
        // The value may be a password or a token, which belongs on no screen and in no log.
        (Some(Step::Key(section)), Some((_, expected))) if section == "auth" || section == "admin" => {
            format!("this is of the wrong kind, expected {expected}")
        }
        _ => message,
    }
}

fn which_was_meant(unknown: &str, known: &[&str]) -> String {
    let closest = known
        .iter()
        .map(|name| (strsim::jaro_winkler(unknown, name), name))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match closest {
        Some((_, name)) => format!("did you mean {name}? Otherwise remove it"),
        None => format!("remove it; the keys here are {}", known.join(", ")),
    }
}

fn syntax_fix(message: &str) -> &'static str {
    if message.contains("duplicate") {
        "write each key and each [section] once; merge the two"
    } else {
        "write key = value, text in \"quotes\"; see config.example.toml"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<(String, usize, usize)> {
        let mut problems = Vec::new();
        Document::parse(text).unwrap().read(&mut problems);
        let key_and_place = |problem: Problem| {
            let position = problem.position.unwrap();
            (problem.key, position.line, position.column)
        };
        problems.into_iter().map(key_and_place).collect()
    }

    #[test]
    fn every_unknown_and_ill_typed_key_is_found_in_one_go() {
        let text = r#"threads = "two"
colour = 1
[listen]
udp = "0.0.0.0:3478"
tcp = ["127.0.0.1:3478", 5]
[relay]
addresses = ["10.0.0.1", { bind = "10.0.0.2", advertize = "203.0.113.5" }]
[auth]
secret = "x"
[[auth.users]]
name = "alice"
[[auth.users]]
name = 5
"#;
        let mut found = problems(text);
        found.sort_by_key(|(_, line, _)| *line);
        let keys: Vec<&str> = found.iter().map(|(key, ..)| key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "threads",
                "colour",
                "listen.udp",
                "listen.tcp[1]",
                "relay.addresses[1].advertize",
                "auth.secret",
                "auth.users[1].name"
            ]
        );
        assert_eq!((found[3].1, found[3].2), (5, 26));
        assert_eq!((found[4].1, found[4].2), (7, 47));
        assert_eq!((found[6].1, found[6].2), (13, 8));
    }

    #[test]
    fn keys_are_located_in_tables_and_arrays() {
        let text = "[auth]\nrealm = \"x\"\n[[auth.users]]\nname = \"a\"\n[[auth.users]]\nname = \"b\"\n";
        let document = Document::parse(text).unwrap();
        assert_eq!(document.position("auth.realm"), Some(Position { line: 2, column: 9 }));
        assert_eq!(document.position("auth.users[1].name"), Some(Position { line: 6, column: 8 }));
        // Not written: the nearest thing around it.
        assert_eq!(document.position("auth.users[1].password").unwrap().line, 5);
        assert_eq!(document.position("limits.connections"), None);
    }
}
