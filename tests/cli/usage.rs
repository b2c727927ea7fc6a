//! Usage records: each at least once, whichever side is away for a while.

#[path = "usage/receivers.rs"]
mod receivers;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::receivers::{Redis, WebServer};
use super::harness::{Place, Server};
use super::serve::QUIET;
use super::turn_client::TurnClient;

const PATIENCE: Duration = Duration::from_secs(30);
const TOKEN: &str = "a-token-of-many-letters";

/// A server with these lines in `[usage]`.
fn write_config(place: &Place, usage: &str, more: &str) {
    let text = format!(
        "threads = 2\n{QUIET}[[auth.users]]\nname = \"alice\"\npassword = \"wonder\"\n[shutdown]\ndrain = \"0s\"\n\
         [peers]\nallow = [\"127.0.0.1\"]\n[limits]\nallocations_per_user = 2000\n{more}\n\
         [usage]\nspool = \"spool\"\nretry_max = \"1s\"\n{usage}\n"
    );
    place.file("usage.toml", &text);
}

fn start(place: &Place) -> (Server, SocketAddr, SocketAddr) {
    let server = Server::start(place, &["--config", "usage.toml"]);
    let (udp, admin) = server.wait_until_listening();
    (server, udp, admin)
}

fn allocate(udp: SocketAddr) -> TurnClient {
    let mut client = TurnClient::new(udp);
    client.allocate("alice", "wonder").unwrap();
    client
}

/// Waits until it is there.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn parse_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn of_file(place: &Place, name: &str) -> Vec<Value> {
    parse_lines(&fs::read_to_string(place.path().join(name)).unwrap_or_default())
}

/// What is in the spool, which a receiver may have got or not.
fn in_spool(place: &Place) -> Vec<Value> {
    let Ok(entries) = fs::read_dir(place.path().join("spool")) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort();
    let texts = paths.into_iter().map(|path| fs::read_to_string(path).unwrap_or_default());
    // The last line may be half written at this moment.
    let whole = |text: String| text.rsplit_once('\n').map(|(whole, _)| whole.to_owned()).unwrap_or_default();
    texts.flat_map(|text| parse_lines(&whole(text))).collect()
}

fn ids(records: &[Value]) -> BTreeSet<String> {
    records.iter().map(|record| record["id"].as_str().unwrap().to_owned()).collect()
}

/// Every address that began has ended, each with one record of either kind however often it came, in unbroken order.
fn assert_complete(records: &[Value], addresses: usize) {
    let mut by_usage: BTreeMap<&str, BTreeMap<u64, &Value>> = BTreeMap::new();
    for record in records {
        let sequence = record["sequence"].as_u64().unwrap();
        let before = by_usage.entry(record["usage"].as_str().unwrap()).or_default().insert(sequence, record);
        assert!(before.is_none_or(|before| before == record), "two records with one number: {before:?} {record}");
    }
    assert_eq!(by_usage.len(), addresses);
    for records in by_usage.values() {
        let kinds: Vec<&str> = records.values().map(|record| record["kind"].as_str().unwrap()).collect();
        let numbers: Vec<u64> = records.keys().copied().collect();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "{records:?}");
        assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("start", "stop"), "{records:?}");
        assert!(kinds[1..kinds.len() - 1].iter().all(|kind| *kind == "interim"), "{records:?}");
    }
}

/// The sum of a field over all stops.
fn sum(records: &[Value], field: &str) -> u64 {
    records.iter().filter(|record| record["kind"] == "stop").map(|record| record[field].as_u64().unwrap()).sum()
}

fn metric(admin: SocketAddr, series: &str) -> u64 {
    let page = super::serve::get(admin, "/metrics");
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series}")).parse::<f64>().unwrap() as u64
}

/// A peer that sends everything back.
fn echo() -> SocketAddr {
    // Among the ports of relays it would be taken for one.
    let mut ports = 20_000..30_000;
    let socket = ports.find_map(|port| UdpSocket::bind(("127.0.0.1", port)).ok()).unwrap();
    let address = socket.local_addr().unwrap();
    // Ends with the test's process.
    std::thread::spawn(move || {
        let mut bytes = [0; 2_048];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..len], from);
        }
    });
    address
}

#[test]
fn a_thousand_allocations_have_relayed_what_the_metrics_say() {
    let place = Place::new();
    write_config(&place, "file = \"usage.jsonl\"\nfile_rotate = \"100KiB\"\nfile_keep = 100", "");
    let (mut server, udp, admin) = start(&place);
    let peer = echo();
    let mut kept = Vec::new();
    for number in 0..1_000 {
        let mut client = allocate(udp);
        client.permit(peer).unwrap();
        client.exchange(peer, &vec![7; 1 + number]);
        if number % 10 == 0 {
            kept.push(client);
        } else {
            client.release();
        }
    }
    let labels = "transport=\"udp\",family=\"ipv4\"";
    let series =
        |what: &str, direction: &str| format!("hairpin_relayed_{what}_total{{{labels},direction=\"{direction}\"}}");
    let expected = (1..=1_000).sum::<u64>();
    // Shards publish what they have counted a moment later.
    eventually("the metrics have it all", || {
        (metric(admin, &series("bytes", "to_client")) == expected
            && metric(admin, &series("packets", "to_peer")) == 1_000
            && metric(admin, "hairpin_usage_records_total{kind=\"stop\"}") == 900)
            .then_some(())
    });
    let told = ["bytes", "packets"]
        .map(|what| ["to_peer", "to_client"].map(|direction| metric(admin, &series(what, direction))));
    assert_eq!(server.terminate_and_wait(), Some(0));
    let mut records = of_file(&place, "usage.jsonl");
    let mut aside = 0;
    while place.path().join(format!("usage.jsonl.{}", aside + 1)).exists() {
        aside += 1;
        records.extend(of_file(&place, &format!("usage.jsonl.{aside}")));
    }
    assert!(aside >= 3, "{aside} files were put aside");
    assert_eq!(ids(&records).len(), records.len(), "without a crash nothing comes twice");
    assert_complete(&records, 1_000);
    let found = ["bytes", "packets"]
        .map(|what| ["to_peer", "to_client"].map(|direction| sum(&records, &format!("{what}_{direction}"))));
    assert_eq!(found, told);
    assert_eq!(found[0], [expected; 2]);
    let reasons: Vec<_> = records.iter().filter_map(|record| record["reason"].as_str()).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == "deleted_by_client").count(), 900);
    assert_eq!(reasons.iter().filter(|reason| **reason == "shutdown").count(), 100);
    let stop = records.iter().find(|record| record["kind"] == "stop").unwrap();
    assert_eq!((stop["account"].as_str(), stop["transport"].as_str()), (Some("alice"), Some("udp")));
    assert!(stop["client"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(stop["session"].as_str().unwrap().len(), 16);
    assert!(server.log().contains(stop["session"].as_str().unwrap()), "the log calls it the same");
    // All was delivered, so nothing is kept.
    assert_eq!(in_spool(&place).iter().filter(|record| record["kind"] == "live").count(), 0);
}

#[test]
fn a_server_that_was_killed_loses_nothing_and_ends_what_it_had() {
    let place = Place::new();
    write_config(&place, "file = \"usage.jsonl\"\nclient_addresses = false", "");
    let (server, udp, _) = start(&place);
    let mut first = allocate(udp);
    let _living: Vec<TurnClient> = (0..5).map(|_| allocate(udp)).collect();
    first.release();
    eventually("all is in the spool", || (in_spool(&place).len() == 7).then_some(()));
    // SIGKILL.
    drop(server);
    // What a crash in the middle of a line leaves.
    let spool = place.path().join("spool/0000000000000001.jsonl");
    let whole = fs::read(&spool).unwrap();
    fs::write(&spool, [&whole[..], b"{\"kind\":\"start\",\"id\":\"half"].concat()).unwrap();
    let (mut server, udp, _) = start(&place);
    eventually("all has ended", || (ids(&of_file(&place, "usage.jsonl")).len() == 12).then_some(()));
    let mut again = allocate(udp);
    again.release();
    assert_eq!(server.terminate_and_wait(), Some(0));
    let records = of_file(&place, "usage.jsonl");
    assert_complete(&records, 7);
    let ended = records.iter().filter(|record| record["reason"] == "server_ended").count();
    assert_eq!(ended, 5);
    assert!(records.iter().all(|record| record.get("client").is_none()));
    // Nothing ends twice.
    let (mut server, ..) = start(&place);
    assert_eq!(server.terminate_and_wait(), Some(0));
    assert_complete(&of_file(&place, "usage.jsonl"), 7);
}

#[test]
fn a_web_server_gets_all_of_it_however_bad_it_is() {
    let place = Place::new();
    place.secret_file("token", TOKEN);
    let mut web = WebServer::start(500);
    let url = web.url();
    write_config(
        &place,
        &format!("webhook = \"{url}\"\nwebhook_token_file = \"token\"\nwebhook_timeout = \"1s\"\nbatch = 4"),
        "",
    );
    let (server, udp, admin) = start(&place);
    let failures = "hairpin_usage_delivery_failures_total{sink=\"webhook\"}";
    let release = || allocate(udp).release();
    release();
    eventually("500 is no receipt", || (metric(admin, failures) >= 1).then_some(()));
    assert_eq!(metric(admin, "hairpin_usage_records_delivered_total{sink=\"webhook\"}"), 0);
    // Slower than is waited for.
    web.answer(0);
    let before = metric(admin, failures);
    release();
    eventually("no answer is no receipt", || (metric(admin, failures) > before).then_some(()));
    // Too much at once: fewer, then.
    web.answer(413);
    web.answer_later(204, 2);
    release();
    eventually("it has all", || (ids(&web.accepted()).len() == 6).then_some(()));
    // Gone, and nobody listens.
    web.stop();
    let before = metric(admin, failures);
    release();
    eventually("nobody is there", || (metric(admin, failures) > before).then_some(()));
    assert!(metric(admin, "hairpin_usage_records_waiting{sink=\"webhook\"}") >= 2);
    // Both sides are away.
    drop(server);
    web.restart(204);
    let (mut server, udp, _) = start(&place);
    allocate(udp).release();
    eventually("it has all again", || (ids(&web.accepted()).len() == 10).then_some(()));
    assert_eq!(server.terminate_and_wait(), Some(0));
    assert_complete(&web.accepted(), 5);
    assert!(web.heads().iter().all(|head| head.contains(&format!("authorization: Bearer {TOKEN}"))));
    assert!(!server.log().contains(TOKEN));
}

#[test]
fn a_web_server_must_be_who_it_says() {
    let place = Place::new();
    let web = WebServer::start_tls(&place);
    let url = web.url();
    write_config(&place, &format!("webhook = \"{url}\""), "");
    let (mut server, udp, admin) = start(&place);
    allocate(udp).release();
    let failures = "hairpin_usage_delivery_failures_total{sink=\"webhook\"}";
    eventually("nobody knows it", || (metric(admin, failures) > 0).then_some(()));
    assert!(server.log().contains("UnknownIssuer"), "{}", server.log());
    assert_eq!(server.terminate_and_wait(), Some(0));
    assert!(web.accepted().is_empty());
    write_config(&place, &format!("webhook = \"{url}\"\nwebhook_ca = \"web.pem\""), "");
    let (mut server, ..) = start(&place);
    eventually("it has both", || (web.accepted().len() == 2).then_some(()));
    assert_eq!(server.terminate_and_wait(), Some(0));
}

#[test]
fn a_redis_stream_gets_all_of_it_across_restarts() {
    let place = Place::new();
    let Some(mut redis) = Redis::start(&place) else { return };
    let usage =
        format!("redis = \"{}\"\nredis_stream = \"calls\"\nredis_length = 0\nredis_timeout = \"2s\"", redis.url());
    write_config(&place, &usage, "");
    let (server, udp, admin) = start(&place);
    let release = |count: usize| (0..count).for_each(|_| allocate(udp).release());
    release(50);
    eventually("it has them", || (ids(&redis.entries("calls")).len() == 100).then_some(()));
    redis.stop();
    release(50);
    let failures = "hairpin_usage_delivery_failures_total{sink=\"redis\"}";
    eventually("it is away", || (metric(admin, failures) >= 1).then_some(()));
    redis.restart();
    eventually("it has more", || (ids(&redis.entries("calls")).len() == 200).then_some(()));
    let living = allocate(udp);
    eventually("that one, too", || (ids(&redis.entries("calls")).len() == 201).then_some(()));
    drop((server, living));
    let (mut server, ..) = start(&place);
    eventually("its end", || (ids(&redis.entries("calls")).len() == 202).then_some(()));
    assert_eq!(server.terminate_and_wait(), Some(0));
    let records = redis.entries("calls");
    assert_complete(&records, 101);
    assert_eq!(records.iter().filter(|record| record["reason"] == "server_ended").count(), 1);
}

#[test]
fn a_redis_on_a_unix_socket_is_shown_a_password_from_a_file() {
    const SECRET: &str = "password-of-redis";
    let place = Place::new();
    let Some(mut redis) = Redis::start(&place) else { return };
    place.secret_file("url", &redis.unix_url("another-password"));
    write_config(&place, "redis_file = \"url\"", "");
    redis.require(SECRET);
    let (mut server, udp, admin) = start(&place);
    allocate(udp).release();
    let failures = "hairpin_usage_delivery_failures_total{sink=\"redis\"}";
    eventually("the password is wrong", || (metric(admin, failures) > 0).then_some(()));
    assert_eq!(server.terminate_and_wait(), Some(0));
    assert!(!server.log().contains("another-password"), "{}", server.log());
    place.secret_file("url", &redis.unix_url(SECRET));
    let (mut server, _, admin) = start(&place);
    let delivered = "hairpin_usage_records_delivered_total{sink=\"redis\"}";
    eventually("it has both", || (metric(admin, delivered) == 2).then_some(()));
    assert_eq!(server.terminate_and_wait(), Some(0));
    assert!(!server.log().contains(SECRET), "{}", server.log());
    assert_eq!(redis.entries("hairpin:usage").len(), 2);
}

#[test]
fn a_redis_over_tls_must_be_who_it_says() {
    let place = Place::new();
    let Some(redis) = Redis::start(&place) else { return };
    write_config(&place, &format!("redis = \"{}\"", redis.tls_url()), "");
    let (mut server, udp, admin) = start(&place);
    allocate(udp).release();
    let failures = "hairpin_usage_delivery_failures_total{sink=\"redis\"}";
    eventually("nobody knows it", || (metric(admin, failures) > 0).then_some(()));
    assert_eq!(server.terminate_and_wait(), Some(0));
    assert!(redis.entries("hairpin:usage").is_empty());
    // Where the system's authorities are.
    let mut command = place.command(&["--config", "usage.toml"]);
    command.env("SSL_CERT_FILE", place.path().join("redis.pem"));
    let mut server = Server::start_command(command);
    server.wait_until_listening();
    eventually("it has both", || (redis.entries("hairpin:usage").len() == 2).then_some(()));
    assert_eq!(server.terminate_and_wait(), Some(0));
}

#[test]
fn interim_records_come_while_an_allocation_lives() {
    let place = Place::new();
    write_config(&place, "file = \"usage.jsonl\"\ninterim = \"10s\"", "");
    let (mut server, udp, _) = start(&place);
    let peer = echo();
    let mut client = allocate(udp);
    client.permit(peer).unwrap();
    client.exchange(peer, &[7; 100]);
    let interim = eventually("an interim record", || {
        of_file(&place, "usage.jsonl").into_iter().find(|record| record["kind"] == "interim")
    });
    assert_eq!((interim["bytes_to_peer"].as_u64(), interim["bytes_to_client"].as_u64()), (Some(100), Some(100)));
    assert_eq!((interim["peers"].as_u64(), interim["sequence"].as_u64()), (Some(1), Some(1)));
    client.release();
    assert_eq!(server.terminate_and_wait(), Some(0));
    let records = of_file(&place, "usage.jsonl");
    assert_complete(&records, 1);
    assert_eq!(records.last().unwrap()["peers"], 1);
}

#[test]
fn a_file_that_was_moved_is_opened_again_upon_sighup() {
    let place = Place::new();
    write_config(&place, "file = \"usage.jsonl\"\nfile_rotate = \"0B\"", "");
    let (mut server, udp, _) = start(&place);
    allocate(udp).release();
    eventually("two records", || (of_file(&place, "usage.jsonl").len() == 2).then_some(()));
    fs::rename(place.path().join("usage.jsonl"), place.path().join("moved")).unwrap();
    server.hang_up();
    server.wait_for_log("\"reloaded\"");
    allocate(udp).release();
    eventually("two more", || (of_file(&place, "usage.jsonl").len() == 2).then_some(()));
    assert_eq!(server.terminate_and_wait(), Some(0));
    assert_complete(&of_file(&place, "moved"), 1);
}

/// Whatever cannot be kept shows in the metrics; the newest is kept.
#[test]
fn a_spool_that_is_full_drops_the_oldest_and_says_how_many() {
    let place = Place::new();
    let web = WebServer::start(503);
    write_config(&place, &format!("webhook = \"{}\"\nspool_max = \"1MiB\"", web.url()), "allocations = 200");
    let (mut server, udp, admin) = start(&place);
    let dropped = "hairpin_usage_records_dropped_total{reason=\"spool_full\"}";
    let mut made = 0;
    while metric(admin, dropped) == 0 {
        (0..50).for_each(|_| allocate(udp).release());
        made += 100;
        assert!(made < 20_000);
    }
    let written = || {
        metric(admin, "hairpin_usage_records_total{kind=\"start\"}")
            + metric(admin, "hairpin_usage_records_total{kind=\"stop\"}")
    };
    eventually("all is written", || (written() == made).then_some(()));
    web.answer(200);
    let delivered = "hairpin_usage_records_delivered_total{sink=\"webhook\"}";
    eventually("the rest comes", || (metric(admin, delivered) + metric(admin, dropped) >= made).then_some(()));
    assert_eq!(ids(&web.accepted()).len() as u64 + metric(admin, dropped), made);
    assert_eq!(server.terminate_and_wait(), Some(0));
}

#[test]
fn two_servers_do_not_share_a_spool_and_faults_are_named() {
    let place = Place::new();
    write_config(&place, "file = \"usage.jsonl\"", "");
    let (mut server, ..) = start(&place);
    let second = place.run(&["--config", "usage.toml"]);
    assert_eq!(second.code, Some(1), "{}", second.stderr);
    assert!(second.stderr.contains("usage.spool: ") && second.stderr.contains("another server"), "{}", second.stderr);
    assert_eq!(server.terminate_and_wait(), Some(0));
    write_config(
        &place,
        "webhook = \"ftp://example.org\"\nwebhook_token = \"short\"\nredis = \"secret-nonsense\"\ninterim = \"3s\"\n\
         spool_max = \"2MiB\"\nredis_stream = \"\"\nqueue = 1",
        "",
    );
    let run = place.run(&["check-config", "usage.toml"]);
    for key in ["webhook", "webhook_token", "redis", "interim", "spool_max", "redis_stream", "queue"] {
        assert!(run.stderr.contains(&format!("usage.{key}: ")), "{key} is missing in\n{}", run.stderr);
    }
    assert!(!run.stderr.contains("secret-nonsense"), "{}", run.stderr);
}
