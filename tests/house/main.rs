//! The rules of the house, read from ARCHITECTURE.md and held against the sources.

mod requirements;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Beyond this a file wants to be two.
const FILE_LINES_MAX: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The code of a file without comments, and without what follows `#[cfg(test)]`.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a readable file");
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The table "The rooms": room → rooms it may import.
fn rooms() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    text.lines()
        .skip_while(|line| !line.starts_with("## The rooms"))
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').collect();
            (quoted(cells[1]).pop_first().expect("a room"), quoted(cells[3]))
        })
        .collect()
}

#[test]
fn every_room_is_in_the_table_and_the_table_names_no_other() {
    let real: BTreeSet<String> = fs::read_dir(root().join("src"))
        .expect("src")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    assert_eq!(rooms().into_keys().collect::<BTreeSet<_>>(), real);
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let rooms = rooms();
    let mut wrong = Vec::new();
    for (room, allowed) in &rooms {
        for file in rust_files(&root().join("src").join(room)) {
            let text = code(&file);
            for other in rooms.keys().filter(|other| *other != room && !allowed.contains(*other)) {
                if text.contains(&format!("crate::{other}")) {
                    wrong.push(format!("{} imports `{other}`", file.display()));
                }
            }
            if text.contains("use crate::{") {
                wrong.push(format!("{}: import each room by its own `use crate::ROOM`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_lives_where_the_kernel_is_and_the_other_rooms_forbid_it() {
    for room in rooms().into_keys().filter(|room| !["net", "offload"].contains(&room.as_str())) {
        let folder = root().join("src").join(&room);
        if room != "shard" {
            let text = code(&folder.join("mod.rs"));
            assert!(text.contains("#![forbid(unsafe_code)]"), "{room}/mod.rs must forbid unsafe code");
        }
        for file in rust_files(&folder) {
            let text = code(&file).replace("unsafe_code", "");
            assert!(!text.contains("unsafe"), "{} has unsafe code", file.display());
        }
    }
}

/// Clippy's `disallowed_methods` sees calls; this sees imports and crates as well.
#[test]
fn the_machine_has_no_clock_socket_thread_or_random_source() {
    for room in ["stun", "turn"] {
        for file in rust_files(&root().join("src").join(room)) {
            let text = code(&file);
            for word in ["Instant", "SystemTime", "getrandom", "thread::", "UdpSocket", "TcpStream", "Mutex", "tracing"]
            {
                assert!(!text.contains(word), "{} uses {word}", file.display());
            }
        }
        let text = code(&root().join("src").join(room).join("mod.rs"));
        assert!(text.contains("#![deny(clippy::disallowed_methods)]"), "{room}/mod.rs must deny disallowed methods");
    }
}

#[test]
fn files_stay_readable() {
    for folder in ["src", "tests", "benches", "netlab", "fuzz"] {
        for file in rust_files(&root().join(folder)) {
            let lines = fs::read_to_string(&file).expect("a readable file").lines().count();
            assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines: it wants to be two", file.display());
        }
    }
}
