//! A real Prometheus scrapes a real server under load: every query of every panel brings data, every alert expression is
//! understood, and everything it asks for is there.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::documents::{Expression, alerts, panels, root, selectors};
use super::load::Served;

/// The longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a program of Debian's package prometheus is there.
fn is_missing(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        println!("SKIP: {program} is not installed (Debian: package prometheus)");
    }
    found.is_err()
}

struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// With the rules of this repository, at a port of the kernel's choice.
    fn start(served: &Served) -> Self {
        let rules = root().join("grafana/prometheus/hairpin.rules.yml");
        served.place.file(
            "prometheus.yml",
            &format!(
                "global: {{scrape_interval: 250ms, evaluation_interval: 250ms}}\nrule_files: ['{}']\nscrape_configs:\n  \
                 - job_name: hairpin\n    static_configs: [{{targets: ['{}']}}]\n",
                rules.display(),
                served.admin()
            ),
        );
        let mut child = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=series", "--web.listen-address=127.0.0.1:0"])
            .current_dir(served.place.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (found, address) = mpsc::channel();
        // Reads on to the end, so that it never blocks on a full pipe.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if line.contains("Listening on") {
                    let address = line.split("address=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
                    let _ = found.send(address);
                }
            }
        });
        let mut prometheus = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        // On any failure from here on `prometheus` is ended by its `Drop`.
        prometheus.address = address.recv_timeout(PATIENCE).expect("it did not start").expect("an address in its log");
        prometheus
    }

    /// The answer of its API to a GET, once there is one.
    fn get(&self, path: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.try_get(path).unwrap_or_default();
            let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            match serde_json::from_str(body) {
                Ok(document) => return document,
                Err(error) => assert!(Instant::now() < deadline, "{path}: {error} in {text}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn try_get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // HTTP/1.0: the answer ends with the connection and comes in one piece.
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The values an expression has now; numbers only, without those that are not.
    fn query(&self, expression: &str) -> Result<Vec<f64>, String> {
        let encode = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        };
        let encoded: String = expression.bytes().map(encode).collect();
        let answer = self.get(&format!("/api/v1/query?query={encoded}"));
        if answer["status"] != "success" {
            return Err(format!("{expression}: {}", answer["error"]));
        }
        let value = |entry: &Value| entry["value"][1].as_str()?.parse::<f64>().ok().filter(|value| !value.is_nan());
        Ok(answer["data"]["result"].as_array().into_iter().flatten().filter_map(value).collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As Grafana does.
fn filled_in(expression: &str) -> String {
    expression.replace("$instance", ".*").replace("$__rate_interval", "1m")
}

#[test]
fn every_query_brings_data_from_a_server_under_load() {
    if is_missing("prometheus") {
        return;
    }
    let served = Served::start();
    let prometheus = Prometheus::start(&served);
    // A rate needs two scrapes, one before and one after.
    let deadline = Instant::now() + PATIENCE;
    while prometheus.query("hairpin_build_info").unwrap().is_empty() {
        assert!(Instant::now() < deadline, "no scrape");
        std::thread::sleep(Duration::from_millis(50));
    }
    let _client = served.load();
    let mut waiting = panels();
    while !waiting.is_empty() {
        waiting.retain(|Expression { place, text }| {
            let values = prometheus.query(&filled_in(text));
            values.unwrap_or_else(|error| panic!("{place}: {error}")).is_empty()
        });
        assert!(Instant::now() < deadline, "without data: {waiting:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    // What the load has moved has to be seen to move.
    for moved in [
        "hairpin_relayed_bytes_total{transport=\"udp\",family=\"ipv4\",direction=\"to_peer\"}",
        "hairpin_relayed_packets_total{transport=\"tls\",family=\"ipv4\",direction=\"to_client\"}",
        "hairpin_authentications_total",
        "hairpin_authentication_failures_total{reason=\"wrong_password\"}",
        "hairpin_errors_total{code=\"403\"}",
        "hairpin_dropped_packets_total{reason=\"not_stun\"}",
        "hairpin_tls_handshakes_total",
        "hairpin_tls_handshake_failures_total{reason=\"not_tls\"}",
        "hairpin_connections_closed_total{reason=\"lost_framing\"}",
        "hairpin_allocations_ended_total{reason=\"deleted_by_client\"}",
        "hairpin_relayed_addresses{transport=\"udp\",family=\"ipv4\"}",
    ] {
        while prometheus.query(moved).unwrap().iter().sum::<f64>() == 0.0 {
            assert!(Instant::now() < deadline, "{moved} has not moved");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    // Alerts are quiet here; what they are made of must be there.
    for Expression { place, text } in alerts() {
        prometheus.query(&text).unwrap_or_else(|error| panic!("{place}: {error}"));
        for selector in selectors(&text) {
            assert!(!prometheus.query(selector.any()).unwrap().is_empty(), "{place}: no {}", selector.any());
        }
    }
    let rules = prometheus.get("/api/v1/rules");
    let rules = rules["data"]["groups"][0]["rules"].as_array().expect("rules").clone();
    assert_eq!(rules.len(), alerts().len());
    for rule in rules {
        assert_ne!(rule["health"], "err", "{rule:#}");
    }
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    if is_missing("promtool") {
        return;
    }
    for arguments in [["check", "rules", "hairpin.rules.yml"], ["test", "rules", "hairpin.rules.test.yml"]] {
        let mut command = Command::new("promtool");
        let output = command.args(arguments).current_dir(root().join("grafana/prometheus")).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn the_example_configuration_is_one() {
    if is_missing("promtool") {
        return;
    }
    let mut command = Command::new("promtool");
    let output = command
        .args(["check", "config", "prometheus.yml"])
        .current_dir(root().join("grafana/prometheus"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
