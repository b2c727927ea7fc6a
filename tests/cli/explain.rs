//! `hairpin explain` against a running server; the stories themselves are in tests/explain.

use super::admin::start;
use super::harness::Place;
use super::turn_client::TurnClient;

#[test]
fn explain_tells_a_story_by_user_and_address_and_knows_when_there_is_none() {
    let place = Place::new();
    let (mut server, udp, _) = start(&place, "");
    let explain =
        |about: &str, more: &[&str]| place.run(&[&["explain", about, "--config", "turn.toml"], more].concat());
    let unknown = explain("alice", &[]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("nothing is remembered") && unknown.stderr.contains("fix:"), "{}", unknown.stderr);

    assert_eq!(TurnClient::new(udp).allocate("alice", "wrong"), Err(401));
    let told = explain("alice", &[]);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    for words in ["\"alice\" from 127.0.0.1:", "failed authentication: wrong password", "→ The client's password"] {
        assert!(told.stdout.contains(words), "{words} is missing in\n{}", told.stdout);
    }
    let mut bob = TurnClient::new(udp);
    bob.allocate("bob", "builder").unwrap();
    let document = explain("127.0.0.1", &["--json"]);
    let document: serde_json::Value = serde_json::from_str(&document.stdout).unwrap();
    let stories = document["stories"].as_array().unwrap();
    assert_eq!(stories.len(), 2, "{document}");
    let session = stories.iter().find(|story| story["is_live"] == true).expect("bob's")["session"].as_str().unwrap();
    assert!(server.log().contains(session), "logs call it the same");
    let by_id = explain(session, &[]);
    assert!(by_id.stdout.contains("allocated 127.0.0.1:"), "{}", by_id.stdout);
    assert_eq!(server.terminate_and_wait(), Some(0));
}
