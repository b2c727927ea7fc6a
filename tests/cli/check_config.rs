//! `hairpin check-config`: everything wrong, with file, line, key and remedy.

use super::harness::Place;

#[test]
fn the_shipped_example_is_good() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml");
    let run = Place::new().run(&["check-config", example]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("config.example.toml: good"));
    assert!(run.stdout.contains("note: auth.secrets: there are neither secrets nor users"));
}

/// Text; where; key; what; remedy.
const BAD: &[(&str, &str, &str, &str, &str)] = &[
    ("threads = two", "bad.toml:1:11", "", "not TOML", "quotes"),
    ("[auth]\nsecret = \"x\"", "bad.toml:2:1", "auth.secret", "no such key", "did you mean secrets?"),
    (
        "[limits]\nallocations = \"many\"",
        "bad.toml:2:15",
        "limits.allocations",
        "a whole number",
        "allocations = 16384",
    ),
    ("[relay]\nports = \"6000-5000\"", "bad.toml:2:9", "relay.ports", "above the last", "\"5000-6000\""),
    ("[peers]\ndeny = [\"10.0.0.1/8\"]", "bad.toml:2:9", "peers.deny[0]", "beyond its length", "10.0.0.0/8"),
    ("[listen]\nudp = [\"127.0.0.1:1\", \"127.0.0.1:1\"]", "bad.toml:2:23", "listen.udp[1]", "twice", "remove"),
    ("[auth]\nsecret_files = [\"nowhere\"]", "bad.toml:2:17", "auth.secret_files[0]", "cannot be read", "one secret"),
    ("[listen]\nudp = [\"192.0.2.77:3478\"]", "bad.toml:2:8", "listen.udp[0]", "not an address of this", "127.0.0.1"),
];

#[test]
fn every_bad_file_is_refused_with_its_reason() {
    for (text, place, key, wrong, fix) in BAD {
        let run = Place::new().file("bad.toml", text).run(&["check-config", "bad.toml"]);
        assert_eq!(run.code, Some(1), "{text}");
        assert!(run.stderr.starts_with(&format!("{place}: {key}")), "{text}\n{}", run.stderr);
        let (first, second) = run.stderr.split_once("\n    fix: ").expect("a remedy");
        assert!(first.contains(wrong) && second.contains(fix), "{text}\n{}", run.stderr);
        assert_eq!(run.stdout, "", "{text}");
    }
}

#[test]
fn a_missing_or_unreadable_file_is_named() {
    for file in ["missing.toml", "."] {
        let run = Place::new().run(&["check-config", file]);
        assert_eq!(run.code, Some(1));
        assert!(run.stderr.starts_with(&format!("{file}: cannot be read: ")), "{}", run.stderr);
        assert!(run.stderr.contains("\n    fix: "));
    }
}
