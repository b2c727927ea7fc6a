//! Port 443 shared with a web server: real TLS on both sides, the web server here in the test.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::harness::{Place, Server};

type Pem = (String, String);

const PAGE_BYTES: usize = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

fn certificate(name: &str) -> Pem {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2090, 1, 1);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A web server for `www.example.org`: answers one line with as many bytes as it asks for, and what the proxy's header
/// said, if it wants one. Ends with the test.
fn web_server(pem: &Pem, wants_header: bool) -> SocketAddr {
    let chain = vec![CertificateDer::from_pem_slice(pem.0.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pem.1.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut tcp, _)) = listener.accept() {
            let config = Arc::clone(&config);
            thread::spawn(move || {
                let mut header = [0; 28];
                if wants_header {
                    tcp.read_exact(&mut header).unwrap();
                }
                let session = ServerConnection::new(config).unwrap();
                let mut stream = StreamOwned::new(session, tcp);
                let mut request = Vec::new();
                // The end of the client's direction, while its own goes on.
                match stream.read_to_end(&mut request) {
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof),
                }
                let page = if request == b"who am I?" { header.to_vec() } else { vec![7; PAGE_BYTES] };
                let _ = stream.write_all(&page);
                stream.conn.send_close_notify();
                let _ = stream.flush();
            });
        }
    });
    address
}

struct Setting {
    server: Server,
    place: Place,
    turn: Pem,
    web: Pem,
}

/// A server for `turn.example.org` that passes on what is not for it; `more` are lines of `[pass_through]`.
fn start(web_address: impl FnOnce(&Pem) -> SocketAddr, more: &str) -> Setting {
    let (turn, web) = (certificate("turn.example.org"), certificate("www.example.org"));
    let place = Place::new();
    let to = web_address(&web);
    place.file("chain.pem", &turn.0).secret_file("key.pem", &turn.1).file(
        "shared.toml",
        &format!(
            "[listen]\nudp = [\"127.0.0.1:0\"]\ntcp = []\n\
             tls = [{{ address = \"127.0.0.1:0\", pass_through = \"{to}\" }}]\n\
             [pass_through]\n{more}\n[tls]\ncertificate = \"chain.pem\"\nkey = \"key.pem\"\n\
             [auth]\nsecrets = [\"0123456789abcdef\"]\n[relay]\naddresses = [\"127.0.0.1\"]\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\nlevel = \"debug\"\n"
        ),
    );
    let server = Server::start(&place, &["--config", "shared.toml"]);
    server.wait_until_listening();
    Setting { server, place, turn, web }
}

impl Setting {
    /// A TLS client that trusts both certificates.
    fn connect(&self, name: &str, protocols: &[&str]) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        for pem in [&self.turn, &self.web] {
            roots.add(CertificateDer::from_pem_slice(pem.0.as_bytes()).unwrap()).unwrap();
        }
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|label| label.as_bytes().to_vec()).collect();
        let session = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
        let tcp = TcpStream::connect(self.server.listening("tls")).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        StreamOwned::new(session, tcp)
    }

    /// Asks the web server, and says with the end of TCP that this is all.
    fn page(&self, name: &str, protocols: &[&str], request: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = self.connect(name, protocols);
        stream.write_all(request)?;
        stream.conn.send_close_notify();
        stream.flush()?;
        stream.sock.shutdown(Shutdown::Write)?;
        let mut page = Vec::new();
        stream.read_to_end(&mut page)?;
        Ok(page)
    }

    /// Whether a STUN server answers.
    fn is_turn(&self, name: &str, protocols: &[&str]) -> bool {
        let mut stream = self.connect(name, protocols);
        let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
        let mut answer = [0; 20];
        stream.write_all(&request).and_then(|()| stream.read_exact(&mut answer)).is_ok() && answer[4..] == request[4..]
    }

    fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(self.server.listening("admin")).unwrap();
        write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
    }
}

/// ALPN-7443-2-03: application protocol first, then the name; whole pages both ways.
#[test]
fn alpn_7443_2_03_others_are_passed_on_to_the_web_server() {
    let mut setting = start(|pem| web_server(pem, false), "");
    for (name, protocols) in [
        ("turn.example.org", &[][..]),
        ("turn.example.org", &["stun.turn"]),
        ("turn.example.org", &["h2", "stun.turn"]),
        // Whoever says so means us, under whatever name.
        ("www.example.org", &["stun.nat-discovery"]),
    ] {
        let is_ours = setting.is_turn(name, protocols);
        // The certificate shown is ours, and so not good for another name: then the client leaves.
        assert_eq!(is_ours, name == "turn.example.org", "{name} {protocols:?}");
    }
    for (name, protocols) in
        [("www.example.org", &["h2", "http/1.1"][..]), ("www.example.org", &["http/1.1"]), ("www.example.org", &[])]
    {
        let page = setting.page(name, protocols, b"give").unwrap();
        assert!(page.len() == PAGE_BYTES && page.iter().all(|byte| *byte == 7), "{name} {protocols:?}");
    }
    // A browser that opens our name by https.
    let error = setting.page("turn.example.org", &["h2"], b"give").expect_err("the web server's certificate");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert_eq!(setting.metric("hairpin_pass_through_connections_total"), 4.0);
    assert_eq!(setting.metric("hairpin_pass_through_failures_total{reason=\"web_server\"}"), 0.0);
    assert!(setting.metric("hairpin_pass_through_bytes_total{direction=\"to_client\"}") > 3.0 * PAGE_BYTES as f64);
    assert_eq!(setting.server.terminate_and_wait(), Some(0));
}

/// A client that reads nothing holds the web server back: neither side's bytes pile up in between.
#[test]
fn a_slow_reader_is_waited_for() {
    let setting = start(|pem| web_server(pem, false), "");
    let mut slow = setting.connect("www.example.org", &["h2"]);
    slow.write_all(b"give").unwrap();
    slow.conn.send_close_notify();
    slow.flush().unwrap();
    slow.sock.shutdown(Shutdown::Write).unwrap();
    // Another client gets all of it meanwhile.
    assert_eq!(setting.page("www.example.org", &["h2"], b"give").unwrap().len(), PAGE_BYTES);
    let mut page = Vec::new();
    slow.read_to_end(&mut page).unwrap();
    assert_eq!(page.len(), PAGE_BYTES);
}

#[test]
fn the_web_server_learns_who_the_client_is() {
    let setting = start(|pem| web_server(pem, true), "proxy_protocol = true");
    let header = setting.page("www.example.org", &["h2"], b"who am I?").unwrap();
    assert_eq!(header[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    assert_eq!(header[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
    assert_eq!(header[26..28], setting.server.listening("tls").port().to_be_bytes());
}

/// Named names count instead of the certificate's.
#[test]
fn names_may_be_listed() {
    let setting = start(|pem| web_server(pem, false), "names = [\"Www.Example.org\"]");
    let error = setting.page("turn.example.org", &[], b"give").expect_err("the web server's certificate");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(!setting.is_turn("www.example.org", &[]), "our certificate is not for it");
    assert_eq!(setting.metric("hairpin_pass_through_connections_total"), 1.0);
}

/// Silence, too many, and a web server that is not there: each ends the connection and is counted as what it is.
#[test]
fn what_cannot_be_carried_is_closed_and_counted() {
    let setting = start(|pem| web_server(pem, false), "connections = 1\nidle = \"5s\"");
    let mut silent = setting.connect("www.example.org", &["h2"]);
    silent.conn.complete_io(&mut silent.sock).unwrap();
    assert_eq!(setting.metric("hairpin_pass_through_connections"), 1.0);
    setting.page("www.example.org", &["h2"], b"give").expect_err("one is as many as there may be");
    assert_eq!(setting.metric("hairpin_pass_through_failures_total{reason=\"too_many\"}"), 1.0);
    silent.read(&mut [0]).expect_err("an end without close_notify");
    assert_eq!(setting.metric("hairpin_pass_through_failures_total{reason=\"idle\"}"), 1.0);

    let nobody = |_: &Pem| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let setting = start(nobody, "");
    setting.page("www.example.org", &["h2"], b"give").expect_err("no web server");
    setting.server.wait_for_log("web_server_unreachable");
    assert_eq!(setting.metric("hairpin_pass_through_failures_total{reason=\"web_server\"}"), 1.0);
    assert!(setting.is_turn("turn.example.org", &[]));
    assert!(setting.place.path().exists());
}
