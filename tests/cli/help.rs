//! Arguments and their explanation.

use super::harness::Place;

#[test]
fn help_names_every_command_and_option() {
    let expected: [(&[&str], &[&str]); 7] = [
        (&["--help"], &["serve", "check-config", "credentials", "dns-records", "--config", "HAIRPIN_CONFIG"]),
        (&["--help"], &["sessions", "kill", "drain", "undrain", "reload", "stats"]),
        (&["sessions", "--help"], &["--user", "--client", "--id", "--relayed", "--json", "--admin", "--token-file"]),
        (&["undrain", "--help"], &["Let new allocations in again"]),
        (&["check-config", "--help"], &["FILE", "remedy"]),
        (&["dns-records", "--help"], &["--host", "--domain", "--config", "zone"]),
        (&["credentials", "--help"], &["--user", "--ttl", "--host", "--config", "iceServers"]),
    ];
    for (arguments, words) in expected {
        let run = Place::new().run(arguments);
        assert_eq!(run.code, Some(0), "{arguments:?}");
        for word in words {
            assert!(run.stdout.contains(word), "{arguments:?} lacks {word}:\n{}", run.stdout);
        }
    }
}

#[test]
fn wrong_arguments_exit_with_2_and_say_which() {
    let wrong: [(&[&str], &str); 6] = [
        (&["--colour"], "--colour"),
        (&["sevre"], "sevre"),
        (&["check-config"], "FILE"),
        (&["credentials"], "--user"),
        (&["credentials", "--user", "a", "--ttl", "60"], "add the unit"),
        (&["credentials", "--user", "a", "--host", "turn:example.org"], "without scheme"),
    ];
    for (arguments, word) in wrong {
        let run = Place::new().run(arguments);
        assert_eq!(run.code, Some(2), "{arguments:?}");
        assert!(run.stderr.contains(word), "{arguments:?}:\n{}", run.stderr);
        assert_eq!(run.stdout, "");
    }
}
