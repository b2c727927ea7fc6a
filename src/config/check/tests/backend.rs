//! `[auth.backend]`.

use super::{accept, check};
use crate::config::{KeyBackendKind, QueryPart};

#[test]
fn a_back_end_is_known_by_its_url_and_its_secrets_are_not_shown() {
    let load = |more: &str| accept(&format!("[auth.backend]\n{more}")).key_backend.unwrap();
    let sql = load("url = \"postgres://hairpin:s3cret@db/users\"");
    assert_eq!(sql.kind, KeyBackendKind::Postgres);
    assert!(sql.query.contains(&QueryPart::Realm) && sql.query.contains(&QueryPart::Name));
    assert!(!format!("{sql:?}").contains("s3cret"));
    assert_eq!(load("url = \"rediss://cache\"").kind, KeyBackendKind::Redis);
    assert_eq!(load("url = \"redis+unix:///run/redis.sock\"").kind, KeyBackendKind::Redis);
    let web = load("url = \"https://app.example.org/keys\"\nauthorization = \"Bearer x\"");
    assert_eq!((web.kind, web.query.len()), (KeyBackendKind::Http, 0));
    let config = accept("[auth.backend]\nurl = \"sqlite:users.db\"");
    let turn = &config.shards.turn;
    assert!(turn.credentials.look_ups.is_some() && turn.credentials.secrets.is_empty());
    assert!(!config.secret_is_made_up);
    assert!(accept("").shards.turn.credentials.look_ups.is_none());
}

#[test]
fn what_cannot_be_asked_is_refused() {
    for (text, key, wrong) in [
        ("url = \"ftp://x:s3cret@y\"", "auth.backend.url", "no URL of a back end"),
        ("url = \"redis://x\"\nurl_file = \"x\"", "auth.backend.url", "another one"),
        ("url = \"mysql://x\"\nquery = \"SELECT 1\"", "auth.backend.query", "the same for every user"),
        ("url = \"mysql://x\"\nquery = \"… '{name}'\"", "auth.backend.query", "quotes around"),
        ("url = \"http://x\"\nquery = \"{name}\"", "auth.backend.query", "without one"),
        ("url = \"redis://x\"\nauthorization = \"x\"", "auth.backend.authorization", "only a web server"),
        ("url = \"http://x\"\nauthorization = \"x\\n\"", "auth.backend.authorization", "cannot be a header"),
        ("timeout = \"31s\"", "auth.backend.timeout", "out of bounds"),
        ("concurrent = 0", "auth.backend.concurrent", "out of bounds"),
        ("remember = \"1s\"", "auth.backend.remember_not_found", "longer than"),
        ("remembered_users = 0", "auth.backend.remembered_users", "out of bounds"),
    ] {
        let errors = check(&format!("[auth.backend]\n{text}")).unwrap_err();
        let found = errors.problems().iter().any(|problem| problem.key == key && problem.wrong.contains(wrong));
        assert!(found && !errors.to_string().contains("s3cret"), "{text}: {errors}");
    }
}
