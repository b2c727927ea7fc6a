//! SIGHUP: the configuration read again while clients are served.

use super::harness::{Place, Server};
use super::serve::QUIET;
use super::turn_client::TurnClient;

fn with_users(users: &[(&str, &str)], more: &str) -> String {
    let entries =
        users.iter().map(|(name, password)| format!("[[auth.users]]\nname = \"{name}\"\npassword = \"{password}\"\n"));
    format!("{QUIET}[shutdown]\ndrain = \"0s\"\n{}{more}", entries.collect::<String>())
}

/// REST-05, and everything else that is in the file.
#[test]
fn rest_05_sighup_reads_the_configuration_again() {
    let place = Place::new();
    place.file("turn.toml", &with_users(&[("alice", "wonder"), ("eve", "evil")], ""));
    let mut server = Server::start(&place, &["--config", "turn.toml"]);
    let (udp, _) = server.wait_until_listening();
    let mut old = TurnClient::new(udp);
    old.allocate("alice", "wonder").unwrap();
    TurnClient::new(udp).allocate("eve", "evil").unwrap();

    let secrets = "[limits]\nallocations_per_user = 1\n";
    place.file("turn.toml", &with_users(&[("alice", "wonder"), ("bob", "builder")], secrets));
    server.hang_up();
    server.wait_for_log("\"reloaded\"");
    assert!(server.log().contains("\"changed\":\"auth.users limits.allocations_per_user\""), "{}", server.log());
    // Eve's call ends with her being there.
    server.wait_for_log("\"why\":\"revoked\"");
    TurnClient::new(udp).allocate("bob", "builder").unwrap();
    assert_eq!(TurnClient::new(udp).allocate("eve", "evil").unwrap_err(), 401);
    assert_eq!(TurnClient::new(udp).allocate("alice", "wonder").unwrap_err(), 486, "the quota is the new one");
    // With the nonce from before, and the allocation from before.
    old.release();
    assert_eq!(server.terminate_and_wait(), Some(0));
    for secret in ["wonder", "evil", "builder"] {
        assert!(!server.log().contains(secret), "a password is in the log:\n{}", server.log());
    }
}

#[test]
fn a_faulty_file_changes_nothing_and_says_where() {
    let place = Place::new();
    place.file("turn.toml", &with_users(&[("alice", "wonder")], ""));
    let mut server = Server::start(&place, &["--config", "turn.toml"]);
    let (udp, _) = server.wait_until_listening();
    place.file("turn.toml", &with_users(&[("bob", "builder")], "[limits]\nallocations_per_user = 0\n"));
    server.hang_up();
    server.wait_for_log("\"reload_failed\"");
    for words in ["turn.toml", "limits.allocations_per_user", "nothing was changed"] {
        assert!(server.log().contains(words), "{words} is missing in {}", server.log());
    }
    TurnClient::new(udp).allocate("alice", "wonder").unwrap();
    assert_eq!(TurnClient::new(udp).allocate("bob", "builder").unwrap_err(), 401);
    assert_eq!(server.terminate_and_wait(), Some(0));
}

#[test]
fn what_needs_a_restart_is_named() {
    let place = Place::new();
    place.file("turn.toml", QUIET);
    let mut server = Server::start(&place, &["--config", "turn.toml"]);
    let (udp, _) = server.wait_until_listening();
    let other = QUIET.replace("tcp = [\"127.0.0.1:0\"]", "tcp = []").replace("[log]\n", "[log]\nlevel = \"debug\"\n");
    place.file("turn.toml", &format!("threads = 3\n{other}"));
    server.hang_up();
    server.wait_for_log("\"restart_needed\"");
    assert!(server.log().contains("\"keys\":\"listen.tcp threads\""), "{}", server.log());
    assert!(!server.log().contains("\"DEBUG\""));
    // The level counts at once.
    assert_eq!(TurnClient::new(udp).allocate("nobody", "nothing").unwrap_err(), 401);
    server.wait_for_log("\"DEBUG\"");
    assert_eq!(server.terminate_and_wait(), Some(0));
}
