//! `hairpin credentials`: one JSON document that a browser takes as it is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha1::Sha1;
use sha2::Sha256;

use super::harness::Place;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn unix_secs() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn entry_of(stdout: &str) -> Value {
    let document: Value = serde_json::from_str(stdout).expect("exactly one JSON document");
    document["iceServers"][0].clone()
}

#[test]
fn rest_01_credentials_are_made_from_the_first_secret() {
    let place = Place::new();
    place.file("secret", &format!("{SECRET}\n")).file("good.toml", "[auth]\nsecret_files = [\"secret\"]\n");
    let before = unix_secs();
    let run = place.run(&[
        "credentials",
        "--user",
        "alice",
        "--ttl",
        "1h",
        "--config",
        "good.toml",
        "--host",
        "turn.example.org",
    ]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.stderr, "");
    let entry = entry_of(&run.stdout);
    assert_eq!(
        entry["urls"],
        serde_json::json!([
            "stun:turn.example.org:3478",
            "turn:turn.example.org:3478?transport=udp",
            "turn:turn.example.org:3478?transport=tcp"
        ])
    );
    let username = entry["username"].as_str().unwrap();
    let (expiry, user) = username.split_once(':').unwrap();
    assert_eq!(user, "alice");
    let expiry: u64 = expiry.parse().unwrap();
    assert!((before + 3_600..=unix_secs() + 3_600).contains(&expiry));
    let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(username.as_bytes());
    assert_eq!(entry["credential"], STANDARD.encode(mac.finalize().into_bytes()));
    assert!(!run.stdout.contains(SECRET));
}

#[test]
fn the_host_comes_from_the_configuration_unless_given() {
    let text = format!(
        "[listen]\nudp = [\"0.0.0.0:5000\"]\ntcp = []\n[auth]\nsecrets = [\"{SECRET}\"]\n\
         [relay]\naddresses = [{{ bind = \"10.9.9.9\", advertise = \"203.0.113.5\" }}]\n"
    );
    let place = Place::new();
    let run = place.file("good.toml", &text).run(&["credentials", "--user", "a", "--config", "good.toml"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let urls = entry_of(&run.stdout)["urls"].clone();
    assert_eq!(urls, serde_json::json!(["stun:203.0.113.5:5000", "turn:203.0.113.5:5000?transport=udp"]));
}

#[test]
fn what_would_not_work_is_not_printed() {
    let place = Place::new();
    place.file("users.toml", "[[auth.users]]\nname = \"a\"\npassword = \"b\"\n");
    place.file("secret.toml", &format!("[auth]\nsecrets = [\"{SECRET}\"]\n"));
    let refused: [(&[&str], &str); 3] = [
        (&["--config", "users.toml"], "no shared secret"),
        (&["--config", "secret.toml", "--host", "a", "--ttl", "8d"], "credential_lifetime_max"),
        (&["--config", "secret.toml"], "--host turn.example.org"),
    ];
    for (arguments, reason) in refused {
        let run = place.run(&[&["credentials", "--user", "alice"], arguments].concat());
        assert_eq!(run.code, Some(1), "{arguments:?}");
        assert!(run.stderr.contains(reason), "{arguments:?}:\n{}", run.stderr);
        assert_eq!(run.stdout, "");
    }
}

/// Without a file the secret is made up once, outside of the current directory, and stays.
#[test]
fn without_a_file_the_made_up_secret_is_kept() {
    let place = Place::new();
    let run = || {
        let run = place.run(&["credentials", "--user", "alice", "--ttl", "1h", "--host", "turn.example.org"]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        entry_of(&run.stdout)
    };
    run();
    let secret = std::fs::read_to_string(place.state().join("hairpin/secret")).unwrap();
    let entry = run();
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.trim().as_bytes()).unwrap();
    mac.update(entry["username"].as_str().unwrap().as_bytes());
    assert_eq!(entry["credential"], STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn where_nothing_can_be_kept_it_says_so() {
    let place = Place::new();
    let mut command = place.command(&["credentials", "--user", "alice"]);
    let output = command.env_remove("XDG_STATE_HOME").env_remove("HOME").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("STATE_DIRECTORY"));
}

#[test]
fn the_environment_can_name_the_configuration() {
    let place = Place::new();
    place.file("good.toml", &format!("[auth]\nsecrets = [\"{SECRET}\"]\n"));
    let mut command = place.command(&["credentials", "--user", "alice", "--host", "::1"]);
    let output = command.env("HAIRPIN_CONFIG", "good.toml").output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("turn:[::1]:3478?transport=udp"));
}

/// The server's own options count for who makes credentials by hand, too.
#[test]
fn rest_06_separator_and_hash_are_those_of_the_configuration() {
    let place = Place::new();
    let file =
        format!("[auth]\nsecrets = [\"{SECRET}\"]\ncredential_separator = \"|\"\ncredential_hash = \"sha256\"\n");
    place.file("other.toml", &file);
    let run = place.run(&["credentials", "--user", "alice", "--host", "::1", "--config", "other.toml"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let entry = entry_of(&run.stdout);
    let username = entry["username"].as_str().unwrap();
    assert_eq!(username.split_once('|').unwrap().1, "alice");
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(username.as_bytes());
    assert_eq!(entry["credential"], STANDARD.encode(mac.finalize().into_bytes()));
}

/// A realm's users get credentials from its own secret.
#[test]
fn credentials_are_made_for_a_realm() {
    let place = Place::new();
    let text = format!(
        "[auth]\nsecrets = [\"fedcba9876543210\"]\n[[realms]]\nname = \"club\"\nuser_prefix = \"c-\"\nsecrets = [\"{SECRET}\"]\n"
    );
    place.file("realms.toml", &text);
    let make = |user: &str, realm: &str| {
        let to = ["--realm", realm, "--host", "::1", "--config", "realms.toml"];
        place.run(&[&["credentials", "--user", user][..], &to].concat())
    };
    let run = make("c-alice", "club");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let entry = entry_of(&run.stdout);
    let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(entry["username"].as_str().unwrap().as_bytes());
    assert_eq!(entry["credential"], STANDARD.encode(mac.finalize().into_bytes()));
    for (user, realm, words) in [
        ("alice", "club", "begin with \"c-\""),
        ("alice", "pub", "no realm \"pub\""),
        ("c-alice", "hairpin", "belongs to the realm club"),
    ] {
        let run = make(user, realm);
        assert!(run.code != Some(0) && run.stderr.contains(words), "{}", run.stderr);
    }
}
