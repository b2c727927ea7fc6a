//! GStreamer's webrtcbin, which is ICE and TURN by libnice. Two ends in one process, relayed candidates only, Opus audio
//! from one to the other.
//!
//! Not over TLS: libnice 0.1.21 takes `turns://` and then writes plain TURN to the TLS port.

use std::path::Path;

use crate::python::{CREDENTIALS, SYSTEM_PYTHON, place, run_script};
use crate::server::Server;

fn webrtcbin_calls_over(transport: &str) {
    if !Path::new(SYSTEM_PYTHON).is_file() {
        println!("SKIP: there is no {SYSTEM_PYTHON} (Debian: python3-gst-1.0)");
        return;
    }
    let server = Server::start();
    let ([name, password], (host, port)) = (CREDENTIALS, place(&server, transport));
    let uri = format!("turn://{name}:{password}@{host}:{port}?transport={transport}");
    let Some(text) = run_script(Path::new(SYSTEM_PYTHON), "webrtcbin_call.py", &[&uri], &server) else { return };
    assert!(text.contains(r#""candidates": ["relay"], "audio_buffers": 50}"#), "{text}");
    assert!(server.allocations_over(transport) >= 2, "{}", server.log());
}

#[test]
fn webrtcbin_udp() {
    webrtcbin_calls_over("udp");
}

#[test]
fn webrtcbin_tcp() {
    webrtcbin_calls_over("tcp");
}
