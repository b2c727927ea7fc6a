//! Who may do what: users, secrets, tokens, realms.

use super::*;

#[test]
fn users_and_secrets_work_at_once_and_are_prepared() {
    let config = accept(
        "[auth]\nrealm = \"example.org\"\nsecrets = [\"0123456789abcdef\", \"fedcba9876543210\"]\n\
         [[auth.users]]\nname = \"e\u{301}va\"\npassword = \"p\u{3000}w\"\n\
         [[auth.users]]\nname = \"bob\"\nkey_md5 = \"00112233445566778899aabbccddeeff\"",
    );
    let credentials = &config.shards.turn.credentials;
    assert!(!config.secret_is_made_up);
    assert_eq!(credentials.secrets.len(), 2);
    let mut eva = turn::StaticUser::from_password("\u{e9}va", "example.org", "p w");
    eva.add_form("\u{e9}va", "example.org", "p\u{3000}w");
    eva.add_form("e\u{301}va", "example.org", "p w");
    eva.add_form("e\u{301}va", "example.org", "p\u{3000}w");
    assert!(*credentials.users.get("\u{e9}va").unwrap() == eva);
    let key = [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
    let bob = turn::StaticUser::from_keys("bob", "example.org", Some(key), None);
    assert!(*credentials.users.get("bob").unwrap() == bob);
}

/// STUN-8489-14.9-01: a REALM is prepared, unquoted, and short of 128 characters.
#[test]
fn stun_8489_14_9_01_realms_are_prepared_and_short() {
    let realm =
        |text: &str| check(&format!("[auth]\nrealm = \"{text}\"")).map(|config| config.shards.turn.realm.clone());
    assert_eq!(realm("cafe\u{301}.example").unwrap(), "caf\u{e9}.example");
    assert_eq!(realm(&"x".repeat(127)).unwrap().len(), 127);
    for refused in ["x".repeat(128), "x".repeat(200), "\u{e9}".repeat(64), "a\u{7f}".into(), String::new()] {
        assert!(realm(&refused).is_err(), "{refused:?}");
    }
}

/// OAUTH-7635-6.2-02, OAUTH-7635-4-01: keys of both lengths, in both spellings.
#[test]
fn oauth_7635_4_01_token_keys_are_read_in_hex_and_base64() {
    let text = |key: &str| format!("[[auth.token_keys]]\nkid = \"k\"\nkey = \"{key}\"\n");
    for key in [
        "00112233445566778899aabbccddeeff",
        "00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff",
        "ABEiM0RVZneImaq7zN3u/w==",
        "ABEiM0RVZneImaq7zN3u/w",
        "ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v8=",
    ] {
        let config = accept(&text(key));
        assert!(!config.secret_is_made_up);
        assert_eq!(config.shards.turn.credentials.tokens.as_ref().unwrap().server_name, "hairpin");
        assert!(!format!("{config:?}").contains("0x11"), "keys are redacted");
    }
    let two = format!(
        "{}{}",
        text("00112233445566778899aabbccddeeff"),
        text("ABEiM0RVZneImaq7zN3u/w").replace("\"k\"", "\"l\"")
    );
    let named = accept(&format!("[auth]\ntoken_server_name = \"turn.example.org\"\n{two}"));
    assert_eq!(
        format!("{:?}", named.shards.turn.credentials.tokens.as_ref().unwrap()),
        "TokenKeys(turn.example.org, 2 keys)"
    );
    assert!(accept("").shards.turn.credentials.tokens.is_none());
    for key in ["0011", "", "x", "00112233445566778899aabbccddeef", "0g112233445566778899aabbccddeeff"] {
        let errors = check(&text(key)).unwrap_err().to_string();
        assert!(key.len() < 2 || !errors.contains(key), "{errors}");
    }
}

/// CLASSIC-5389-15-01.
#[test]
fn classic_5389_15_01_saslprep_is_an_option() {
    let text = |option: &str, password: &str| {
        format!("[auth]\nrealm = \"example.org\"\n{option}[[auth.users]]\nname = \"a\"\npassword = \"{password}\"\n")
    };
    let matrix = "The\u{AD}M\u{AA}tr\u{2168}";
    assert!(check(&text("", matrix)).is_err(), "RFC 8265 refuses soft hyphens");
    let user = |text: &str| accept(text).shards.turn.credentials.users.get("a").unwrap().clone();
    let mut both = turn::StaticUser::from_password("a", "example.org", "TheMatrIX");
    both.add_form("a", "example.org", matrix);
    assert!(user(&text("saslprep = true\n", matrix)) == both);
    // What both profiles accept is a key each: U+2168 is one character to RFC 8265, and two letters to RFC 4013.
    let mut nine = turn::StaticUser::from_password("a", "example.org", "\u{2168}");
    assert!(user(&text("", "\u{2168}")) == nine);
    nine.add_form("a", "example.org", "IX");
    assert!(user(&text("saslprep = true\n", "\u{2168}")) == nine);
    let plain = turn::StaticUser::from_password("a", "example.org", "plain");
    assert!(user(&text("saslprep = true\n", "plain")) == plain, "ASCII has one form");
}
