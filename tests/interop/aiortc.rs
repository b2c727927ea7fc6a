//! aioice and aiortc (PyPI): ICE and WebRTC in Python, with a TURN client of their own. Two ends in one process, relayed
//! candidates only. They answer the server's nonce and realm, bind channels, refresh, and delete by a lifetime of zero.

use crate::python::{CREDENTIALS, place, run_script, virtual_environment};
use crate::server::Server;

fn aioice_connects_over(transport: &str) {
    let Some(python) = virtual_environment() else { return };
    let server = Server::start();
    let (host, port) = place(&server, transport);
    let port = port.to_string();
    let arguments = [&[transport, host, &port][..], &CREDENTIALS].concat();
    let text = run_script(&python, "aioice_pair.py", &arguments, &server).expect("it always runs");
    assert!(text.contains(r#""candidates": ["relay"], "messages": 100}"#), "{text}");
    assert_eq!(server.allocations_over(transport), 2);
}

fn aiortc_calls_over(transport: &str) {
    let Some(python) = virtual_environment() else { return };
    let server = Server::start();
    let (host, port) = place(&server, transport);
    let uri = match transport {
        "tls" => format!("turns:{host}:{port}?transport=tcp"),
        _ => format!("turn:{host}:{port}?transport={transport}"),
    };
    let arguments = [&[uri.as_str()][..], &CREDENTIALS].concat();
    let text = run_script(&python, "aiortc_call.py", &arguments, &server).expect("it always runs");
    assert!(text.contains(r#""candidates": ["relay"], "echoed": 50, "audio_frames": 25}"#), "{text}");
    assert!(server.allocations_over(transport) >= 2, "{}", server.log());
}

#[test]
fn aioice_udp() {
    aioice_connects_over("udp");
}

#[test]
fn aioice_tcp() {
    aioice_connects_over("tcp");
}

#[test]
fn aioice_tls() {
    aioice_connects_over("tls");
}

#[test]
fn aiortc_udp() {
    aiortc_calls_over("udp");
}

#[test]
fn aiortc_tcp() {
    aiortc_calls_over("tcp");
}

#[test]
fn aiortc_tls() {
    aiortc_calls_over("tls");
}
