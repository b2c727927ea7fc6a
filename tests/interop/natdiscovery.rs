//! coturn's `turnutils_natdiscovery` (RFC 5780), against two addresses of the loopback interface. There is no NAT in
//! between, and that is what it has to find.

use std::cell::Cell;

use crate::processes::{is_installed, run};
use crate::server::{Server, free_port};

const TOOL: &str = "turnutils_natdiscovery";

/// The tool's words about this server, its own address, and the other one; `None` if it is not installed.
fn discover(flags: &[&str]) -> Option<(String, [String; 4])> {
    if !is_installed(TOOL) {
        return None;
    }
    let second = Cell::new(0);
    let server = Server::start_with(|port| {
        second.set(free_port());
        format!(
            "[nat_discovery]\nenabled = true\naddresses = [\"127.0.0.1\", \"127.0.0.2\"]\nports = [{port}, {}]\n\
             response_port = true\npadding = true\n",
            second.get()
        )
    });
    let ports = [server.address.port(), second.get()];
    let mut arguments: Vec<String> = flags.iter().map(|flag| flag.to_string()).collect();
    arguments.extend(["-p", &ports[0].to_string(), "-L", "127.0.0.1", "127.0.0.1"].map(String::from));
    let at = |ip: &str, port| format!("{ip}:{port}");
    let addresses =
        [at("127.0.0.1", ports[0]), at("127.0.0.1", ports[1]), at("127.0.0.2", ports[0]), at("127.0.0.2", ports[1])];
    Some((run(TOOL, &arguments), addresses))
}

fn has_all(text: &str, lines: &[String]) {
    for line in lines {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
}

/// NATB-5780-6.1-03, NATB-5780-6.1-04: to the other address, and the mapping stays.
#[test]
fn natb_5780_6_1_04_mapping_behavior() {
    let Some((text, [first, other_port, other_ip, other])) = discover(&["-m"]) else { return };
    has_all(
        &text,
        &[
            "No ALG: Mapped == XOR-Mapped".into(),
            format!("Response origin: : {first}"),
            format!("Other addr: : {other}"),
            format!("Response origin: : {other_ip}"),
            format!("Other addr: : {other_port}"),
            "NAT with Endpoint Independent Mapping!".into(),
        ],
    );
}

/// NATB-5780-6.1-02: the answer to CHANGE-REQUEST comes from the other address and port.
#[test]
fn natb_5780_6_1_02_filtering_behavior() {
    let Some((text, [_, _, _, other])) = discover(&["-f"]) else { return };
    has_all(&text, &[format!("Response origin: : {other}"), "NAT with Endpoint Independent Filtering!".into()]);
}

/// NATB-5780-6.1-06: the same with fragments.
#[test]
fn natb_5780_6_1_06_padded_mapping_and_filtering_behavior() {
    let Some((text, _)) = discover(&["-m", "-f", "-P"]) else { return };
    has_all(&text, &["Endpoint Independent Mapping!".into(), "Endpoint Independent Filtering!".into()]);
    assert!(text.contains("RFC 5780 response 4"), "{text}");
}

/// NATB-5780-7.5-01: the second answer goes to RESPONSE-PORT.
#[test]
fn natb_5780_7_5_01_mapping_lifetime() {
    let Some((text, _)) = discover(&["-t", "-T", "1"]) else { return };
    assert!(text.contains("RFC 5780 response 2"), "{text}");
}

/// Two local addresses, one port, and each is told its own.
#[test]
fn collision_behavior() {
    let Some((text, _)) = discover(&["-c", "-A", "127.0.0.3"]) else { return };
    has_all(&text, &["UDP reflexive addr: 127.0.0.1:".into(), "UDP reflexive addr: 127.0.0.3:".into()]);
}

/// The server tells the tool its address, to which the tool sends itself something.
#[test]
fn hairpinning_behavior() {
    let Some((text, _)) = discover(&["-H"]) else { return };
    assert!(text.contains("Received a request"), "{text}");
}
