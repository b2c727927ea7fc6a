//! Listeners with options: proxies in front, TLS or DTLS beside, a web server behind.

use super::*;

const REFUSED: &[(&str, Complaint)] = &[
    ("[listen]\nudp = [{ addres = \"x\" }]", (2, "listen.udp[0].addres", "no such key", "did you mean address?")),
    ("[listen]\nudp = [{ address = \"::\" }]", (2, "listen.udp[0].address", "not an address", "\"[::]:3478\"")),
    (
        "[listen]\nudp = [{ address = \"0.0.0.0:3478\", tls = true }]",
        (2, "listen.udp[0].tls", "belongs to a TCP listener", "move the entry"),
    ),
    (
        "[listen]\ntcp = [{ address = \"0.0.0.0:3478\", tls = true }]",
        (2, "listen.tcp", "there is none", "certificate = \"fullchain.pem\""),
    ),
    (
        "[listen]\ntcp = [{ address = \"0.0.0.0:3478\", proxy_protocol = true }]",
        (2, "listen.tcp[0].proxy_protocol", "there are none", "load balancers"),
    ),
    (
        "[listen]\ntcp = [{ address = \"0.0.0.0:3478\", pass_through = \"127.0.0.1:80\" }]",
        (2, "listen.tcp[0].pass_through", "from TLS only", "listen.tls"),
    ),
    ("[pass_through]\nnames = [\"*.example.org\"]", (2, "pass_through.names[0]", "one server", "turn.example.org")),
    ("[pass_through]\nconnections = 0", (2, "pass_through.connections", "out of bounds", "from 1 to")),
    ("[proxy_protocol]\nfrom = [\"10.0.0.1/8\"]", (2, "proxy_protocol.from[0]", "bits set", "10.0.0.0/8")),
    (
        "[listen]\ntls = [{ address = \"0.0.0.0:443\", dtls = true }]\n",
        (2, "listen.tls[0].dtls", "belongs to a UDP listener", "move the entry"),
    ),
];

#[test]
fn mistakes_about_listeners_are_refused_with_line_key_and_remedy() {
    let certificate_is_missing = |text: &str| text.contains("tls = [");
    let (with_certificate, others): (Vec<_>, Vec<_>) =
        REFUSED.iter().copied().partition(|(text, _)| certificate_is_missing(text));
    each_is_refused(&others);
    for (text, (_, key, wrong, fix)) in with_certificate {
        let errors = check(text).expect_err(text);
        let problem = errors.problems().iter().find(|problem| problem.key == key).expect(text);
        assert!(problem.wrong.contains(wrong) && problem.fix.contains(fix), "{errors}");
    }
}

/// DTLS-7350-3-06: the port that clients assume is the one that is suggested, and the one in the example.
#[test]
fn dtls_7350_3_06_5349_is_the_port_of_dtls() {
    let errors = check("[listen]\ndtls = [\"0.0.0.0\"]").unwrap_err();
    assert_eq!(errors.problems()[0].fix, "add the port: \"0.0.0.0:5349\"");
    assert!(EXAMPLE.contains("#dtls = [\"0.0.0.0:5349\", \"[::]:5349\"]"));
}

/// A build without the feature says so, instead of listening for nobody.
#[test]
fn dtls_needs_the_feature_and_a_certificate() {
    let errors = check("[listen]\nudp = [{ address = \"0.0.0.0:3478\", dtls = true }]").unwrap_err();
    let says = |words: &str| errors.problems().iter().any(|problem| problem.wrong.contains(words));
    assert!(says("there is none"), "{errors}");
    assert_eq!(says("built without DTLS"), !cfg!(feature = "dtls"), "{errors}");
}

#[test]
fn what_is_probably_not_meant_about_listeners_is_noted() {
    let noted = [
        ("[proxy_protocol]\nfrom = [\"10.0.0.0/8\"]", "no listener has proxy_protocol"),
        ("[pass_through]\nidle = \"5m\"", "nothing is passed on"),
        (
            "[listen]\nudp = [{ address = \"0.0.0.0:3478\", proxy_protocol = true }]\n\
             [proxy_protocol]\nfrom = [\"0.0.0.0/0\"]",
            "may claim to be anybody",
        ),
    ];
    for (text, note) in noted {
        let config = accept(text);
        assert!(config.notes.iter().any(|n| n.text.contains(note)), "{text}: {:?}", config.notes);
    }
}

#[test]
fn listeners_are_addresses_or_tables_with_options() {
    let config = accept(
        "[listen]\nudp = [\"0.0.0.0:3478\", { address = \"10.0.0.5:3479\", proxy_protocol = true }]\n\
         tcp = [{ address = \"0.0.0.0:3478\" }]\n[proxy_protocol]\nfrom = [\"10.0.0.0/24\", \"10.0.1.1\"]",
    );
    let plain = shard::ListenOptions::default();
    let options: Vec<_> = config.shards.listen.iter().map(|entry| entry.options).collect();
    assert_eq!(options, [plain, shard::ListenOptions { proxy_protocol: true, ..plain }, plain]);
    assert!(config.shards.listen.iter().all(|entry| entry.required));
    assert_eq!(config.shards.proxies.prefixes.len(), 2);
    assert_eq!(config.shards.proxies.header_timeout, Duration::from_secs(5));
}
