//! Realms of a running server: by address and by server name, added and taken out by SIGHUP, and in the admin API.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use super::admin::{TOKEN, ask};
use super::harness::{Place, Server};
use super::turn_client::TurnClient;

const BACK_END: &str = "back-end-back-end-back";
const NAMES: [&str; 3] = ["turn.shop.example", "turn.club.example", "turn.example.org"];

/// By the address 127.0.0.2, and by a name.
const SHOP: &str = "[[realms]]\nname = \"shop.example\"\nlisten = [\"127.0.0.2\"]\nserver_names = [\"Turn.Shop.Example\"]\n\
                    secrets = [\"shop-shop-shop-shop\"]\n[[realms.users]]\nname = \"alice\"\npassword = \"sh0p\"\n";
/// By a name alone.
const CLUB: &str = "[[realms]]\nname = \"club.example\"\nserver_names = [\"*.club.example\"]\n\
                    [[realms.users]]\nname = \"alice\"\npassword = \"club\"\n";

/// With Alice in the server's own realm, too.
fn configuration(auth: &str, realms: &[&str]) -> String {
    format!(
        "threads = 2\n[listen]\nudp = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\ntcp = []\ntls = [\"127.0.0.1:0\"]\n\
         [tls]\ncertificate = \"chain.pem\"\nkey = \"key.pem\"\n[relay]\naddresses = [\"127.0.0.1\"]\n\
         [admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"token\"\ncredentials_token = \"{BACK_END}\"\n\
         [log]\nformat = \"json\"\n[shutdown]\ndrain = \"0s\"\n[auth]\nsecrets = [\"own-own-own-own-own\"]\n{auth}\
         [[auth.users]]\nname = \"alice\"\npassword = \"0wn\"\n{}",
        realms.concat()
    )
}

struct World {
    place: Place,
    server: Server,
    /// Over UDP: of the server's own realm, and of the shop.
    own: SocketAddr,
    shop: SocketAddr,
    tls: SocketAddr,
    admin: SocketAddr,
    roots: RootCertStore,
}

impl World {
    fn new(text: &str) -> Self {
        let mut params = CertificateParams::new(NAMES.map(str::to_owned)).unwrap();
        params.not_after = rcgen::date_time_ymd(2090, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let place = Place::new();
        place.file("chain.pem", &certificate).secret_file("key.pem", &key.serialize_pem()).secret_file("token", TOKEN);
        place.secret_file("turn.toml", text);
        let server = Server::start(&place, &["--config", "turn.toml"]);
        server.wait_for_log("\"listening\"");
        let log = server.log();
        let line = log.lines().find(|line| line.contains("\"listening\"")).unwrap();
        let line: Value = serde_json::from_str(line).unwrap();
        let udp: Vec<SocketAddr> = line["udp"]
            .as_str()
            .unwrap()
            .split([',', ' '])
            .filter(|text| !text.is_empty())
            .map(|text| text.parse().unwrap())
            .collect();
        let at = |ip: &str| *udp.iter().find(|address| address.ip().to_string() == ip).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
        let (own, shop) = (at("127.0.0.1"), at("127.0.0.2"));
        let (tls, admin) = (server.listening("tls"), server.listening("admin"));
        Self { place, server, own, shop, tls, admin, roots }
    }

    /// A client over TLS that asks for this name.
    fn asking_for(&self, name: &'static str) -> TurnClient {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        let session = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let tcp = TcpStream::connect(self.tls).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        TurnClient::over_stream(Box::new(StreamOwned::new(session, tcp)))
    }

    /// Until the log has these words.
    fn reload(&self, text: &str, words: &str) {
        self.place.secret_file("turn.toml", text);
        self.server.hang_up();
        self.server.wait_for_log(words);
    }

    fn sessions(&self, query: &str) -> Vec<Value> {
        let (status, answer) = ask(self.admin, &format!("GET /v1/sessions?{query}"), TOKEN, "");
        assert_eq!(status, 200, "{answer}");
        answer["sessions"].as_array().unwrap().clone()
    }
}

/// Alice with this password comes in, and is told this realm.
#[track_caller]
fn comes_in(mut client: TurnClient, password: &str, realm: &str) -> TurnClient {
    client.allocate("alice", password).unwrap_or_else(|code| panic!("{code} in {}", client.realm()));
    assert_eq!(client.realm(), realm);
    client
}

/// One server, three users of the same name.
#[test]
fn addresses_and_server_names_lead_to_realms() {
    let mut world = World::new(&configuration("", &[SHOP, CLUB]));
    let rows: [(&dyn Fn() -> TurnClient, &str, &str); 5] = [
        (&|| TurnClient::new(world.own), "hairpin", "0wn"),
        (&|| TurnClient::new(world.shop), "shop.example", "sh0p"),
        (&|| world.asking_for("turn.shop.example"), "shop.example", "sh0p"),
        (&|| world.asking_for("turn.club.example"), "club.example", "club"),
        (&|| world.asking_for("turn.example.org"), "hairpin", "0wn"),
    ];
    for (client, realm, good) in rows {
        for password in ["0wn", "sh0p", "club"] {
            let mut client = client();
            let expected = if password == good { Ok(()) } else { Err(401) };
            assert_eq!(client.allocate("alice", password), expected, "{password} in {realm}");
            assert_eq!(client.realm(), realm);
        }
    }
    assert_eq!(world.server.terminate_and_wait(), Some(0));
}

#[test]
fn sighup_adds_a_realm_and_takes_one_out_with_its_sessions() {
    let mut world = World::new(&configuration("", &[SHOP]));
    let mut own = comes_in(TurnClient::new(world.own), "0wn", "hairpin");
    let mut shop = comes_in(TurnClient::new(world.shop), "sh0p", "shop.example");
    let mut early = comes_in(world.asking_for("turn.club.example"), "0wn", "hairpin");

    world.reload(&configuration("", &[SHOP, CLUB]), "\"changed\":\"realms\"");
    let mut club = comes_in(world.asking_for("turn.club.example"), "club", "club.example");
    // Nobody else notices, not even who has asked for its name before there was one.
    for client in [&mut own, &mut shop, &mut early, &mut club] {
        client.refresh().unwrap();
    }
    assert_eq!(world.sessions("").len(), 4);

    world.reload(&configuration("", &[CLUB]), "\"why\":\"revoked\"");
    assert_eq!(world.sessions("").len(), 3);
    assert_eq!(world.sessions("realm=shop.example").len(), 0);
    for client in [&mut own, &mut early, &mut club] {
        client.refresh().unwrap();
    }
    // Its address and its name lead to the server's own realm now.
    assert_eq!(shop.refresh(), Err(401));
    comes_in(TurnClient::new(world.shop), "0wn", "hairpin");
    comes_in(world.asking_for("turn.shop.example"), "0wn", "hairpin");
    assert_eq!(world.server.terminate_and_wait(), Some(0));
}

/// `auth.end_sessions = "never"`: they live until they have to show that they may.
#[test]
fn sessions_of_a_realm_that_is_gone_can_live_until_their_refresh() {
    let auth = "end_sessions = \"never\"\n";
    let mut world = World::new(&configuration(auth, &[SHOP, CLUB]));
    let mut shop = comes_in(TurnClient::new(world.shop), "sh0p", "shop.example");
    let mut club = comes_in(world.asking_for("turn.club.example"), "club", "club.example");
    world.reload(&configuration(auth, &[]), "\"changed\":\"realms\"");
    assert_eq!(world.sessions("").len(), 2);
    assert_eq!((shop.refresh(), club.refresh()), (Err(401), Err(401)));
    assert!(!world.server.log().contains("revoked"));
    assert_eq!(world.server.terminate_and_wait(), Some(0));
}

/// Abuse S12: counted over all threads, for the realm and for each of its users, and for nobody else.
#[test]
fn s12_a_realm_has_limits_of_its_own() {
    let limits = "secrets = [\"shop-shop-shop-shop\"]\nallocations = 3\nallocations_per_user = 2\n";
    let shop = SHOP.replace("secrets = [\"shop-shop-shop-shop\"]\n", limits)
        + "[[realms.users]]\nname = \"bob\"\npassword = \"b0b\"\n";
    let mut world = World::new(&configuration("", &[&shop]));
    let users = [("alice", "sh0p"), ("alice", "sh0p"), ("alice", "sh0p"), ("bob", "b0b"), ("bob", "b0b")];
    let mut clients: Vec<TurnClient> = users.iter().map(|_| TurnClient::new(world.shop)).collect();
    let results = clients.iter_mut().zip(users).map(|(client, (name, password))| client.allocate(name, password));
    assert_eq!(results.collect::<Vec<_>>(), [Ok(()), Ok(()), Err(486), Ok(()), Err(486)]);
    (0..4).for_each(|_| drop(comes_in(TurnClient::new(world.own), "0wn", "hairpin")));
    clients[0].release();
    comes_in(TurnClient::new(world.shop), "sh0p", "shop.example");
    assert_eq!(world.server.terminate_and_wait(), Some(0));
}

#[test]
fn the_admin_api_knows_realms() {
    let mut world = World::new(&configuration("", &[SHOP, CLUB]));
    let mut own = comes_in(TurnClient::new(world.own), "0wn", "hairpin");
    let mut shop = comes_in(TurnClient::new(world.shop), "sh0p", "shop.example");
    let mut club = comes_in(world.asking_for("turn.club.example"), "club", "club.example");
    for realm in ["hairpin", "shop.example", "club.example"] {
        let [session] = &world.sessions(&format!("realm={realm}"))[..] else { panic!("one session of {realm}") };
        assert_eq!((&session["realm"], &session["user"]), (&json!(realm), &json!(format!("alice@{realm}"))));
    }
    assert_eq!(world.sessions("realm=example").len(), 0);
    assert_eq!(world.sessions("user=alice").len(), 3);
    let run = world.place.run(&["kill", "--realm", "club.example", "--config", "turn.toml"]);
    assert_eq!((run.code, &*run.stdout), (Some(0), "1 session ended\n"));
    assert_eq!(club.refresh(), Err(437));
    own.refresh().unwrap();
    shop.refresh().unwrap();

    // From the realm's own secret, and for its own places.
    let make = |body: &str| ask(world.admin, "POST /v1/credentials", BACK_END, body);
    let (status, answer) = make("{\"user\":\"bob\",\"realm\":\"shop.example\"}");
    assert_eq!(status, 200, "{answer}");
    let entry = &answer["iceServers"][0];
    let urls = [
        format!("stun:127.0.0.2:{}", world.shop.port()),
        format!("turn:127.0.0.2:{}?transport=udp", world.shop.port()),
        format!("turns:turn.shop.example:{}?transport=tcp", world.tls.port()),
    ];
    assert_eq!(entry["urls"], json!(urls));
    let (name, password) = (entry["username"].as_str().unwrap(), entry["credential"].as_str().unwrap());
    TurnClient::new(world.shop).allocate(name, password).unwrap();
    world.asking_for("turn.shop.example").allocate(name, password).unwrap();
    assert_eq!(TurnClient::new(world.own).allocate(name, password), Err(401));
    assert_eq!(world.asking_for("turn.club.example").allocate(name, password), Err(401));
    for (body, status) in [
        ("{\"user\":\"bob\",\"realm\":\"nowhere\"}", 400),
        ("{\"user\":\"bob\",\"realm\":\"club.example\"}", 409),
        ("{\"user\":\"bob\",\"realm\":7}", 400),
    ] {
        assert_eq!(make(body).0, status, "{body}");
    }
    assert_eq!(world.server.terminate_and_wait(), Some(0));
}

/// Clients would refuse the certificate for such a name.
#[test]
fn names_of_realms_that_the_certificate_does_not_have_are_named() {
    let world = World::new(&configuration("", &[SHOP, CLUB]));
    let run = world.place.run(&["check-config", "turn.toml"]);
    let said = run.stdout + &run.stderr;
    assert_eq!(run.code, Some(0), "{said}");
    let note =
        said.lines().find(|line| line.contains("the certificate is not for")).unwrap_or_else(|| panic!("{said}"));
    assert!(note.contains("*.club.example") && note.contains("club.example ask for"), "{note}");
    assert!(!said.contains("not for turn.shop.example"), "{said}");
}
