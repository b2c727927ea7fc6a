//! Every requirement of the checklist has a test, or a reason why not.
//!
//! The checklist is not part of this repository: it lies beside it, in `../shared/spec/requirements.md`. An id counts as
//! tested where a test carries it: in its name (TURN-8656-12.2-08 as `turn_8656_12_2_08_…`), in its doc comment, or as a
//! case of `tests/conformance`. Comments in the code that name an id are about the code, and do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::{root, rust_files};

/// What tests say, all of it.
fn tests_text() -> String {
    let mut text = String::new();
    let is_house = |file: &std::path::PathBuf| file.starts_with(root().join("tests/house"));
    let files = rust_files(&root().join("tests")).into_iter().chain(rust_files(&root().join("netlab")));
    for file in files.filter(|file| !is_house(file)) {
        text.push_str(&fs::read_to_string(file).expect("a readable file"));
    }
    for file in rust_files(&root().join("src")) {
        let code = fs::read_to_string(&file).expect("a readable file");
        let name = file.strip_prefix(root()).expect("below it").to_string_lossy();
        if name.contains("/tests") {
            text.push_str(&code);
        } else if let Some((_, tests)) = code.split_once("#[cfg(test)]\nmod tests {") {
            text.push_str(tests);
        }
    }
    text
}

/// The ids in the first column of the checklist's tables.
fn ids(checklist: &str) -> BTreeSet<String> {
    let first_cells = checklist.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    let is_id = |cell: &&str| {
        let mut parts = cell.split('-');
        let is_upper = |part: &str| part.starts_with(|c: char| c.is_ascii_uppercase()) && part.len() >= 3;
        parts.next().is_some_and(is_upper) && parts.next_back().is_some_and(|part| part.parse::<u8>().is_ok())
    };
    first_cells.map(|cell| cell.trim().trim_end_matches('†')).filter(is_id).map(str::to_owned).collect()
}

/// `ID: reason` lines of a list.
fn reasons(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{}: \"{line}\" is not ID: reason", path.display())))
        .map(|(id, reason)| (id.to_owned(), reason.to_owned()))
        .collect()
}

/// Whether the text has this id, and not one that only begins with it.
fn has(text: &str, id: &str) -> bool {
    let function = format!("fn {}_", id.to_lowercase().replace(['-', '.'], "_"));
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric());
    text.contains(&function) || text.match_indices(id).any(|(at, _)| ends(&text[at + id.len()..]))
}

#[test]
fn every_requirement_has_a_test_or_a_reason_why_not() {
    let path = root().join("../shared/spec/requirements.md");
    let Ok(checklist) = fs::read_to_string(&path) else {
        println!("SKIP: {} is not there: the checklist comes with the project, not with a clone", path.display());
        return;
    };
    let ids = ids(&checklist);
    assert!(ids.len() > 300, "the checklist has only {} ids: its form must have changed", ids.len());
    let text = tests_text();
    let exempt = reasons(&root().join("tests/conformance/exemptions.txt"));
    let is_tested = |id: &&String| has(&text, id);

    let tested = ids.iter().filter(is_tested).count();
    let missing: Vec<&String> = ids.iter().filter(|id| !is_tested(id) && !exempt.contains_key(*id)).collect();
    let unknown: Vec<&String> = exempt.keys().filter(|id| !ids.contains(*id)).collect();
    let needless: Vec<&String> = exempt.keys().filter(is_tested).collect();
    println!("requirements covered: {tested} / {}, and {} exempt", ids.len(), exempt.len());
    assert!(missing.is_empty(), "no test carries {missing:?}, and tests/conformance/exemptions.txt does not say why");
    assert!(unknown.is_empty(), "the checklist does not have {unknown:?}");
    assert!(needless.is_empty(), "tests carry {needless:?}: take them off the exemptions");
}
