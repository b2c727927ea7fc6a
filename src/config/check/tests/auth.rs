//! Who may do what: users, secrets, tokens, realms.

use super::*;
use crate::config::ice_servers::uris_for;

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

/// Each kind of realm, completed by what holds for all.
#[test]
fn realms_are_read_with_their_users_secrets_and_limits() {
    let config = accept(
        "[listen]\nudp = [\"127.0.0.1:3478\"]\n[auth]\nrealm = \"example.org\"\ncredential_lifetime_max = \"1h\"\n\
         [[realms]]\nname = \"shop\"\nlisten = [\"127.0.0.1\"]\nallocations = 7\nbandwidth = \"8Mbit/s\"\nbandwidth_per_user = \"off\"\n\
         [[realms.users]]\nname = \"alice\"\npassword = \"pw\"\n\
         [[realms]]\nname = \"club\"\nuser_prefix = \"c-\"\nallocations_per_user = 3\nchannels = 7\nbandwidth_per_allocation = \"80kbit/s\"\n\
         [[realms.users]]\nname = \"c-alice\"\npassword = \"pw\"\n\
         [[realms]]\nname = \"lab\"\nsecrets = [\"0123456789abcdef\"]\n[limits]\nbandwidth_per_user = \"1Mbit/s\"",
    );
    assert!(!config.secret_is_made_up);
    let [shop, club, lab] = &config.shards.turn.realms[..] else { panic!("three realms") };
    let addresses = vec!["127.0.0.1:0".parse().unwrap()];
    assert_eq!(shop.chosen_by, turn::RealmChoice::Place { addresses, server_names: vec![] });
    assert_eq!((shop.allocations, shop.allocations_per_account), (7, 128));
    assert_eq!((club.allocations, club.allocations_per_account), (usize::MAX, 3));
    assert_eq!((lab.credentials.secrets.len(), lab.credentials.ttl_secs_max), (1, 3600));
    let rates = |per_allocation, per_account, total| turn::Bandwidth { per_allocation, per_account, total };
    assert_eq!(
        [shop, club, lab].map(|realm| realm.bandwidth),
        [rates(0, 0, 1_000_000), rates(10_000, 125_000, 0), rates(0, 125_000, 0)]
    );
    // With the realm that the client is told.
    let made = |name, realm| turn::StaticUser::from_password(name, realm, "pw");
    assert!(*shop.credentials.users.get("alice").unwrap() == made("alice", "shop"));
    assert!(*club.credentials.users.get("c-alice").unwrap() == made("c-alice", "example.org"));
    for (realm, user, good) in [
        (None, "bob", true),
        (Some("example.org"), "bob", true),
        (None, "c-bob", false),
        (Some("club"), "c-bob", true),
        (Some("club"), "bob", false),
        (Some("lab"), "bob", true),
        (Some("nowhere"), "bob", false),
    ] {
        assert_eq!(config.credentials_for(realm, user).is_ok(), good, "{realm:?} {user}");
    }
}

#[test]
fn realms_that_contradict_each_other_are_refused() {
    const SECRETS: [&str; 2] = ["secrets = [\"0123456789abcdef\"]\n", "secrets = [\"fedcba9876543210\"]\n"];
    let realm = |place: usize, rest: &str| format!("[[realms]]\n{}{rest}\n", SECRETS[place]);
    let two = |first: &str, second: &str| realm(0, first) + &realm(1, second);
    for (text, key, words) in [
        (two("name = \"a\"", "name = \"a\""), "realms[1].name", "another realm"),
        (realm(0, "name = \"hairpin\""), "realms[0].name", "another realm"),
        (realm(0, "name = \"a@b\""), "realms[0].name", "\"@\""),
        (realm(0, ""), "realms[0].name", "empty"),
        ("[[realms]]\nname = \"a\"".into(), "realms[0].name", "neither secrets nor users"),
        (realm(0, "name = \"a\"\nlisten = [\"8.8.8.8:9\"]"), "realms[0].listen[0]", "nobody listens"),
        (realm(0, "name = \"a\"\nlisten = [\"x\"]"), "realms[0].listen[0]", "not an address"),
        (realm(0, "name = \"a\"\nlisten = [\"0.0.0.0\"]"), "realms[0].listen[0]", "any address"),
        (
            two("name = \"a\"\nlisten = [\"127.0.0.1\"]", "name = \"b\"\nlisten = [\"127.0.0.1:3478\"]"),
            "realms[1].listen[0]",
            "belongs to the realm a",
        ),
        (
            realm(0, "name = \"a\"\nlisten = [\"127.0.0.1\"]\nuser_prefix = \"a-\""),
            "realms[0].user_prefix",
            "both listen and user_prefix",
        ),
        (
            realm(0, "name = \"a\"\nserver_names = [\"a.example\"]"),
            "realms[0].server_names[0]",
            "nobody listens for TLS",
        ),
        (
            realm(0, "name = \"a\"\nserver_names = [\"a.example\"]\nuser_prefix = \"a-\""),
            "realms[0].user_prefix",
            "both server_names and user_prefix",
        ),
        (
            two("name = \"a\"\nuser_prefix = \"a-\"", "name = \"b\"\nuser_prefix = \"a-b-\""),
            "realms[1].user_prefix",
            "belong to a",
        ),
        (
            realm(0, "name = \"a\"\nuser_prefix = \"a-\"\n[[realms.users]]\nname = \"bob\"\npassword = \"p\""),
            "realms[0].users[0].name",
            "does not begin",
        ),
        (
            realm(0, "name = \"a\"\nuser_prefix = \"b\"") + "[[auth.users]]\nname = \"bob\"\npassword = \"p\"",
            "auth.users[0].name",
            "belongs to the realm a",
        ),
        (
            realm(0, "name = \"a\"\n[[realms.users]]\nname = \"bob\"\npassword = \"p\"")
                + "[[auth.users]]\nname = \"bob\"\npassword = \"p\"",
            "realms[0].users[0].name",
            "another realm",
        ),
        (realm(0, "name = \"a\"") + &realm(0, "name = \"b\""), "realms[1].secrets[0]", "twice"),
        (realm(0, "name = \"a\"\nallocations = -1"), "realms[0].allocations", "out of bounds"),
        (realm(0, "name = \"a\"\nbandwidth = \"1bit/s\""), "realms[0].bandwidth", "out of bounds"),
        (realm(0, "name = \"a\"\nbandwidth_per_user = \"fast\""), "realms[0].bandwidth_per_user", "not a rate"),
    ] {
        let text = format!("{text}\n[listen]\nudp = [\"127.0.0.1:3478\"]");
        let errors = check(&text).expect_err(&text);
        let shown = errors.to_string();
        assert!(shown.contains(&format!("{key}:")) && shown.contains(words), "{text}\n{shown}");
    }
}

#[test]
fn server_names_of_realms_are_read_and_told_apart() {
    let pem = crate::shard::make_certificate(&["a.example", "*.b.example"], |_| {});
    let place = std::env::temp_dir().join(format!("hairpin-names-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let write = |name: &str, text: &str| {
        let path = place.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (certificate, key) = (write("cert.pem", &pem.0), write("key.pem", &pem.1));
    let text = |listen: &str, names: [&str; 2], rest: &str| {
        let realm = |place: usize| {
            let (name, names, secret) =
                (["a", "b"][place], names[place], ["0123456789abcdef", "fedcba9876543210"][place]);
            format!("[[realms]]\nname = \"{name}\"\nserver_names = [{names}]\nsecrets = [\"{secret}\"]\n")
        };
        let tls = format!("[tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n");
        format!("[listen]\nudp = [\"127.0.0.1:3478\"]\n{listen}\n{rest}{tls}{}{}", realm(0), realm(1))
    };
    let tls = "tls = [\"127.0.0.1:5349\"]";
    let tls_too = "tcp = [{ address = \"127.0.0.1:3478\", tls = true }]";
    let names = |texts: &[&str]| texts.iter().map(|text| turn::ServerName::parse(text).unwrap()).collect();
    for listen in [tls, tls_too] {
        let config = accept(&text(listen, ["\"A.Example.\", \"turn.b.example\"", "\"*.b.example\""], ""));
        let [a, b] = &config.shards.turn.realms[..] else { panic!("two realms") };
        let place = |server_names| turn::RealmChoice::Place { addresses: vec![], server_names };
        assert_eq!(a.chosen_by, place(names(&["a.example", "turn.b.example"])));
        assert_eq!(b.chosen_by, place(names(&["*.b.example"])));
        let port = config.shards.listen.last().unwrap().address.port();
        for (realm, host, name) in [
            ("a", None, Some("a.example")),
            ("a", Some("turn.b.example"), Some("turn.b.example")),
            ("a", Some("elsewhere.example"), Some("a.example")),
            // One that its wildcard stands for, and that is not the other's.
            ("b", Some("x.b.example"), Some("x.b.example")),
            ("b", Some("turn.b.example"), None),
            ("b", None, None),
        ] {
            let uris = uris_for(&config, Some(realm), host, &config.shards.listen, None);
            assert_eq!(uris, name.map(|name| vec![format!("turns:{name}:{port}?transport=tcp")]), "{realm} {host:?}");
        }
    }
    let shared = "tls = [{ address = \"127.0.0.1:5349\", pass_through = \"127.0.0.1:8443\" }]";
    let ours = "[pass_through]\nnames = [\"a.example\", \"B.example\"]\n";
    accept(&text(shared, ["\"a.example\"", "\"b.example\""], ours));
    accept(&text(shared, ["\"a.example\"", "\"*.b.example\""], ""));
    for (listen, names, rest, key, words) in [
        (
            tls,
            ["\"a.example\"", "\"b.example\", \"A.EXAMPLE\""],
            "",
            "realms[1].server_names[1]",
            "belongs to the realm a",
        ),
        (tls, ["\"a.example\", \"a.example.\"", "\"b\""], "", "realms[0].server_names[1]", "listed twice"),
        (tls, ["\"127.0.0.1\"", "\"b\""], "", "realms[0].server_names[0]", "not a name"),
        (tls, ["\"a.*.example\"", "\"b\""], "", "realms[0].server_names[0]", "not a name"),
        (shared, ["\"a.example\"", "\"c.example\""], ours, "realms[1].server_names[0]", "passed on"),
    ] {
        let text = text(listen, names, rest);
        let shown = check(&text).expect_err(&text).to_string();
        assert!(shown.contains(&format!("{key}:")) && shown.contains(words), "{text}\n{shown}");
    }
    std::fs::remove_dir_all(place).unwrap();
}
