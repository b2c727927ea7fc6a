//! Whatever is sent to the admin port: the answer is one of HTTP, and the server lives on.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::admin::{TOKEN, exchange, start};
use super::harness::Place;

/// Ends nothing and kills nobody by chance; everything else of the API.
const PATHS: [&str; 16] = [
    "/metrics",
    "/livez",
    "/readyz",
    "/v1/openapi.json",
    "/v1/sessions",
    "/v1/sessions/0123456789abcdef",
    "/v1/drain",
    "/v1/undrain",
    "/v1/reload",
    "/v1/log-level",
    "/v1/limits",
    "/v1/stats",
    "/v1/credentials",
    "/v1/",
    "/",
    "*",
];

fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![
        8 => prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"]).prop_map(str::to_owned),
        1 => "[A-Z]{1,9}",
    ];
    let path = prop_oneof![
        8 => prop::sample::select(PATHS.to_vec()).prop_map(str::to_owned),
        1 => "/v1/sessions/[ -~]{0,20}",
        1 => "/[!-~]{0,40}",
    ];
    let query = prop_oneof![
        2 => Just(String::new()),
        4 => "\\?(id|user|client|relayed|transport|limit|after|all|x)=[!-~]{0,20}(&limit=[0-9]{1,5})?",
        1 => "\\?[!-~]{0,60}",
    ];
    let header = prop_oneof![
        4 => Just(format!("authorization: Bearer {TOKEN}")),
        1 => "authorization: [ -~]{0,40}",
        1 => "origin: [ -~]{0,40}",
        1 => "(content-length|transfer-encoding|expect|connection|upgrade|te): [ -~]{0,20}",
        1 => "[a-z-]{1,12}: [ -~]{0,60}",
    ];
    let body = prop_oneof![
        2 => Just(Vec::new()),
        2 => "\\{\"(level|user|ttl_seconds|x)\": ?(\"[ -~]{0,20}\"|-?[0-9]{1,22}|null|\\[\\])\\}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..300),
        1 => (8_000..20_000_usize).prop_map(|len| vec![b'7'; len]),
    ];
    let well_formed = (method, path, query, prop::collection::vec(header, 0..4), body, any::<bool>()).prop_map(
        |(method, path, query, headers, body, says_length)| {
            let mut head = format!("{method} {path}{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
            headers.iter().for_each(|header| head.extend([header, "\r\n"]));
            if says_length {
                head.push_str(&format!("content-length: {}\r\n", body.len()));
            }
            [head.into_bytes(), b"\r\n".to_vec(), body].concat()
        },
    );
    let broken = (prop::collection::vec(any::<u8>(), 1..200)).prop_map(|bytes| [bytes, b"\r\n\r\n".to_vec()].concat());
    prop_oneof![9 => well_formed, 1 => broken]
}

/// The same requests at each run: a failure can be looked at again.
#[test]
fn s20_whatever_comes_gets_a_bounded_answer() {
    let place = Place::new();
    let (mut server, _, admin) = start(&place, "");
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 400, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    runner
        .run(&request(), |request| {
            let (status, head, body) = exchange(admin, &request);
            prop_assert!((200..600).contains(&status), "{status}");
            prop_assert!(head.len() < 2_000 && body.len() < 200_000);
            if head.contains("application/json") && !body.is_empty() {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&body).is_ok(), "{body}");
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(exchange(admin, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").0, 200);
    assert!(!server.log().contains("panic"), "{}", server.log());
    assert_eq!(server.terminate_and_wait(), Some(0));
}
