//! TLS from outside: what is said about bad certificates, and how a renewed one is taken up.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::harness::{Place, Server};

/// `hairpin probe` with TLS: the certificate is checked, and everything behind it works as without.
#[test]
fn probe_speaks_tls_and_checks_the_certificate() {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2090, 1, 1);
    let key = KeyPair::generate().unwrap();
    let pem = (params.self_signed(&key).unwrap().pem(), key.serialize_pem());
    let place = place(&pem);
    let file = format!("{FILE}[[auth.users]]\nname = \"alice\"\npassword = \"s3cret\"\n");
    place.file("tls.toml", &file);
    let server = Server::start(&place, &["--config", "tls.toml"]);
    let port = {
        server.wait_for_log("\"listening\"");
        server.listening("tls").port()
    };
    let probe = |host: &str, more: &[&str]| {
        let uri = format!("turns:{host}:{port}");
        place.run(&[&["probe", &uri, "--user", "alice", "--password", "s3cret"], more].concat())
    };
    let good = probe("localhost", &["--ca", "chain.pem"]);
    assert_eq!(good.code, Some(0), "{}{}", good.stdout, good.stderr);
    assert!(good.stdout.contains("ok   tls") && good.stdout.contains("TLS 1.3"), "{}", good.stdout);
    for (host, more) in [("localhost", &[][..]), ("127.0.0.1", &["--ca", "chain.pem"])] {
        let bad = probe(host, more);
        assert_eq!(bad.code, Some(1));
        assert!(bad.stdout.contains("FAIL tls") && bad.stdout.contains("certificate"), "{}", bad.stdout);
    }
    let run = place.run(&["probe", "stuns:localhost", "--ca", "tls.toml"]);
    assert!(run.stderr.contains("--ca tls.toml"), "{}", run.stderr);
}

const FILE: &str = "[listen]\nudp = [\"127.0.0.1:0\"]\ntcp = []\ntls = [\"127.0.0.1:0\"]\n\
                    [tls]\ncertificate = \"chain.pem\"\nkey = \"key.pem\"\n\
                    [auth]\nsecrets = [\"0123456789abcdef\"]\n\
                    [relay]\naddresses = [\"127.0.0.1\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n";

/// Certificate and key for `turn.example.org`.
fn make(year: i32) -> (String, String) {
    let mut params = CertificateParams::new(vec!["turn.example.org".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, 3, 1);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn place(pem: &(String, String)) -> Place {
    let place = Place::new();
    place.file("tls.toml", FILE).file("chain.pem", &pem.0).secret_file("key.pem", &pem.1);
    place
}

/// A Binding over TLS, from a client that trusts this certificate only.
fn binding(server: SocketAddr, pem: &(String, String)) -> std::io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.0.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let session = ClientConnection::new(Arc::new(config), "turn.example.org".try_into().unwrap()).unwrap();
    let tcp = TcpStream::connect(server)?;
    tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut stream = StreamOwned::new(session, tcp);
    let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
    stream.write_all(&request)?;
    let mut answer = [0; 20];
    stream.read_exact(&mut answer)?;
    assert_eq!((answer[0], answer[1], &answer[4..]), (1, 1, &request[4..]));
    Ok(())
}

fn metric(admin: SocketAddr, name: &str) -> f64 {
    let mut stream = TcpStream::connect(admin).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
}

/// Replaces a file as a renewal does: at once.
fn replace(place: &Place, name: &str, text: &str) {
    let new = place.path().join("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, place.path().join(name)).unwrap();
}

#[test]
fn a_renewed_certificate_is_taken_up_and_a_bad_one_is_not() {
    let (first, second) = (make(2090), make(2091));
    let place = place(&first);
    let mut server = Server::start(&place, &["--config", "tls.toml"]);
    let (_, admin) = server.wait_until_listening();
    let tls = server.listening("tls");
    binding(tls, &first).unwrap();
    assert_eq!(metric(admin, "hairpin_certificate_expiry_timestamp_seconds"), 3_792_009_600.0);

    // The key does not belong to it.
    replace(&place, "chain.pem", &second.0);
    server.wait_for_log("certificate_not_reloaded");
    assert!(server.log().contains("does not belong to the certificate"), "{}", server.log());
    binding(tls, &first).unwrap();

    replace(&place, "key.pem", &second.1);
    server.wait_for_log("2091-03-01");
    binding(tls, &second).unwrap();
    binding(tls, &first).expect_err("the first is not shown any more");
    assert_eq!(metric(admin, "hairpin_certificate_expiry_timestamp_seconds"), 3_823_545_600.0);

    // Nothing at all is no certificate either.
    fs::remove_file(place.path().join("chain.pem")).unwrap();
    server.wait_for_log("chain.pem cannot be read");
    binding(tls, &second).unwrap();
    assert_eq!(metric(admin, "hairpin_tls_handshakes_total"), 4.0);
    assert_eq!(metric(admin, "hairpin_tls_handshake_failures_total{reason=\"refused_by_client\"}"), 1.0);
    assert_eq!(server.terminate_and_wait(), Some(0));
}

#[test]
fn bad_certificates_are_refused_with_line_key_and_remedy() {
    let (good, other) = (make(2090), make(2090));
    let refused = [
        ("", &*good.1, "tls.toml:6:15: tls.certificate: chain.pem: there is no certificate", "fullchain.pem"),
        (&good.0, "", "tls.toml:7:7: tls.key: key.pem: there is no private key", "privkey.pem"),
        (&good.0, &other.1, "tls.toml:7:7: tls.key: key.pem: the private key does not belong", "issued for"),
    ];
    for (certificate, key, wrong, fix) in refused {
        let place = Place::new();
        place.file("tls.toml", FILE).file("chain.pem", certificate).secret_file("key.pem", key);
        let run = place.run(&["check-config", "tls.toml"]);
        assert_eq!(run.code, Some(1));
        assert!(run.stderr.starts_with(wrong) && run.stderr.contains(fix), "{}", run.stderr);
    }
}

#[test]
fn expired_certificates_and_open_keys_are_noted() {
    let place = place(&make(2020));
    let run = place.run(&["check-config", "tls.toml"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("tls.certificate: the certificate has expired on 2020-03-01 00:00:00 UTC"));
    assert!(!run.stdout.contains("tls.key"), "{}", run.stdout);

    let open = make(2090);
    place.file("chain.pem", &open.0).file("open.pem", &open.1);
    place.file("tls.toml", &FILE.replace("key.pem", "open.pem"));
    let run = place.run(&["check-config", "tls.toml"]);
    assert!(run.stdout.contains("every user of this machine can read open.pem"), "{}", run.stdout);
}

#[test]
fn credentials_have_a_turns_uri_with_or_without_the_certificate() {
    let file = FILE.replace("tls = [\"127.0.0.1:0\"]", "tls = [\"127.0.0.1:5349\"]");
    let pem = make(2090);
    let place = place(&pem);
    place.file("tls.toml", &file);
    let uri = |host: &str| {
        let run = place.run(&["credentials", "--user", "alice", "--config", "tls.toml", "--host", host]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let document: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        document["iceServers"][0]["urls"].as_array().unwrap().last().unwrap().as_str().unwrap().to_owned()
    };
    assert_eq!(uri("127.0.0.1"), "turns:turn.example.org:5349?transport=tcp");
    fs::remove_file(place.path().join("key.pem")).unwrap();
    assert_eq!(uri("turn.example.net"), "turns:turn.example.net:5349?transport=tcp");
}
