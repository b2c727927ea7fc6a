//! The table of routes against the description that is served, and what needs no token.

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::routes::{OPENAPI, ROUTES};
use super::*;
use crate::config::{Machine, check_text};
use crate::shard::Shards;

fn document() -> Value {
    serde_json::from_str(OPENAPI).expect("JSON")
}

#[test]
fn the_description_has_every_route_and_no_other() {
    let document = document();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(|method| (path.clone(), method.to_ascii_uppercase()))
        })
        .collect();
    let real: BTreeSet<(String, String)> =
        ROUTES.iter().map(|route| (route.path.to_owned(), route.method.to_owned())).collect();
    assert_eq!(described, real);
    let names: Vec<&Value> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values().map(|operation| &operation["operationId"]))
        .collect();
    assert_eq!(names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>().len(), names.len());
    // What needs a token says so.
    for route in ROUTES {
        let security = &document["paths"][route.path][route.method.to_ascii_lowercase()]["security"];
        let expected = match route.right {
            access::Right::Nothing => serde_json::json!([{}]),
            access::Right::Metrics => serde_json::json!([{}, { "metrics": [] }]),
            access::Right::Operate => serde_json::json!([{ "operator": [] }]),
            access::Right::MakeCredentials => serde_json::json!([{ "backEnd": [] }]),
        };
        assert_eq!(*security, expected, "{route:?}");
    }
}

/// Every reference leads somewhere, and every schema is used.
#[test]
fn the_description_is_whole() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(name) = members.get("$ref").and_then(Value::as_str) {
                    found.insert(name.strip_prefix("#/components/schemas/").expect("a schema").to_owned());
                }
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(members) => members.iter().for_each(|member| references(member, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    let schemas: BTreeSet<String> = document["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(found, schemas);
}

/// The fields that the code writes are those that are described.
#[test]
fn the_description_has_every_field_and_no_other() {
    use crate::config::ice_servers::IceServer;
    use crate::ops::explain::{Event, Explanation, Story};
    let address = "192.0.2.1:1".parse().unwrap();
    let relayed = || sessions::Relayed {
        address,
        lifetime_left_seconds: 1,
        packets_to_peer: 1,
        bytes_to_peer: 1,
        packets_to_client: 1,
        bytes_to_client: 1,
    };
    let session = || sessions::Session {
        id: "0".repeat(16),
        user: "a".into(),
        realm: "r".into(),
        username: "1:a".into(),
        transport: "udp",
        client: address,
        server: address,
        is_in_reach: true,
        peer_transport: "udp",
        relayed: vec![relayed()],
        age_seconds: 1,
        permissions: 1,
        channels: 1,
        peer_connections: 1,
    };
    let fault = || answer::Fault {
        place: "query".into(),
        what: "wrong".into(),
        fix: "right".into(),
        line: Some(1),
        column: Some(1),
    };
    let story = || Story {
        session: "0".repeat(16),
        client: "192.0.2.1:1".into(),
        transport: "udp",
        user: Some("a".into()),
        is_live: true,
        summary: "a came".into(),
        events_left_out: 0,
        events: vec![Event { time: "now".into(), event: "challenged", times: 1, for_seconds: 0, words: "came".into() }],
        advice: vec!["b".into()],
    };
    let server = || IceServer { urls: vec!["stun:x".into()], username: "a", credential: "b" };
    let value = |value: &dyn erased::Json| value.json();
    let written = [
        ("Errors", value(&answer::Refusal { status: axum::http::StatusCode::OK, errors: vec![fault()] })),
        ("Error", value(&fault())),
        ("Page", value(&sessions::Page { sessions: vec![session()], next: Some("0.1".into()) })),
        ("Session", value(&session())),
        ("Relayed", value(&relayed())),
        ("Ended", value(&sessions::Ended { ended: 1, shards_without_answer: 0 })),
        ("State", value(&steering::State { state: "ready", sessions: 1 })),
        (
            "Reloaded",
            value(&steering::Reloaded { changed: vec!["a".into()], needs_restart: vec![], notes: vec!["b".into()] }),
        ),
        ("LogLevel", value(&steering::LogLevel { level: "info".into() })),
        ("Credentials", value(&credentials::Credentials { ice_servers: [server()], ttl_seconds: 1 })),
        ("IceServer", value(&server())),
        ("Explanation", value(&Explanation { stories: vec![story()], left_out: 0 })),
        ("Story", value(&story())),
        ("StoryEvent", value(&story().events[0])),
    ];
    for (name, value) in &written {
        fits(name, value);
    }
}

/// For documents of different types in one table.
mod erased {
    pub trait Json {
        fn json(&self) -> serde_json::Value;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).expect("JSON")
        }
    }
}

#[track_caller]
fn fits(schema: &str, value: &Value) {
    let document = document();
    let schema_of = &document["components"]["schemas"][schema];
    let described: BTreeSet<&String> = schema_of["properties"].as_object().expect(schema).keys().collect();
    let real: BTreeSet<&String> = value.as_object().expect("an object").keys().collect();
    assert_eq!(described, real, "{schema}");
    for (name, member) in value.as_object().unwrap() {
        let property = &schema_of["properties"][name];
        let kinds: Vec<&str> = match &property["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => vec!["object"],
        };
        let kind = match member {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        assert!(kinds.contains(&kind), "{schema}.{name} is {kind}");
        if let (Some(words), Some(text)) = (property["enum"].as_array(), member.as_str()) {
            assert!(words.iter().any(|word| word == text), "{schema}.{name}: {text}");
        }
    }
}

/// Sources of a server without clients; nobody carries out orders.
fn sources(text: &str) -> (Sources, watch::Sender<Readiness>) {
    let text = format!(
        "[listen]\nudp = [\"127.0.0.1:0\"]\ntcp = []\n[relay]\naddresses = [\"127.0.0.1\"]\n[auth]\n\
         secrets = [\"0123456789abcdef\"]\n{text}"
    );
    let config = check_text(&text, None, &Machine::any()).unwrap_or_else(|errors| panic!("{errors}"));
    let shards = Shards::start(config.shards.clone()).unwrap();
    let listening = shards.listening().to_vec();
    let (tell, readiness) = watch::channel(Readiness::Starting);
    let registry = Registry::new();
    let gauge = prometheus::IntGauge::new("test_gauge", "A gauge.").unwrap();
    registry.register(Box::new(gauge)).unwrap();
    let sources = Sources {
        registry,
        readiness,
        shards: SharedShards::new(shards),
        config: watch::channel(Arc::new(config)).1,
        listening: listening.into(),
        orders: mpsc::channel(1).0,
        offload: Offload::none(),
        started: std::time::Instant::now(),
    };
    (sources, tell)
}

async fn request(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn health_and_metrics_need_no_token_and_everything_else_does() {
    run(async {
        let (sources, tell) = sources("[admin]\ntoken = \"fedcba9876543210\"\n");
        let (listener, address) = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        tokio::spawn(Doors::new(Some(listener), None, None).serve(sources));
        let get = async |path: &str| request(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;

        assert!(get("/readyz").await.starts_with("HTTP/1.1 503"));
        tell.send_replace(Readiness::Ready);
        assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
        tell.send_replace(Readiness::Draining);
        assert!(get("/readyz").await.ends_with("draining\n"));
        assert!(get("/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get("/metrics").await.contains("test_gauge 0"));
        for path in ["/", "/metrics/", "/admin", "/../etc/passwd", "/v1", "/v1/sessions/"] {
            assert!(get(path).await.starts_with("HTTP/1.1 404"), "{path}");
        }
        let post = request(address, "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await;
        assert!(post.starts_with("HTTP/1.1 405"));
        let endless = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(2 * HEAD_BYTES_MAX));
        assert!(request(address, &endless).await.starts_with("HTTP/1.1 431"));
        for route in ROUTES.iter().filter(|route| route.right == access::Right::Operate) {
            let path = route.path.replace("{id}", "0000000000000000");
            let line = format!("{} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", route.method);
            assert!(request(address, &line).await.starts_with("HTTP/1.1 401"), "{route:?}");
        }
        // No token makes credentials where none is configured.
        let line = "POST /v1/credentials HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
        assert!(request(address, line).await.starts_with("HTTP/1.1 403"));
    });
}

/// The fields of what only a server with figures has.
#[test]
fn figures_are_as_described() {
    run(async {
        let (sources, _tell) = sources("[admin]\ntoken = \"fedcba9876543210\"\n");
        let (listener, address) = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        tokio::spawn(Doors::new(Some(listener), None, None).serve(sources));
        let get = async |path: &str| {
            let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer fedcba9876543210\r\n\r\n");
            let answer = request(address, &head).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(answer.contains("cache-control: no-store"), "{answer}");
            serde_json::from_str::<Value>(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
        };
        let stats = get("/v1/stats").await;
        fits("Stats", &stats);
        fits("Traffic", &stats["traffic"]);
        fits("Shard", &stats["shards"][0]);
        let limits = get("/v1/limits").await;
        fits("Limits", &limits);
        for limit in limits["limits"].as_array().unwrap() {
            fits("Limit", limit);
        }
        fits("Page", &get("/v1/sessions").await);
    });
}

#[test]
fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
    run(async {
        let path = std::env::temp_dir().join(format!("hairpin-admin-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let bound = bind_socket(&path, None).expect("nobody listens there");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(bind_socket(&path, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(bound);
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        assert!(bind_socket(&path, None).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"a file", "what is no socket is left alone");
        std::fs::remove_file(&path).unwrap();
    });
}
