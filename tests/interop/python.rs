//! Clients in Python: where their interpreters are, and how their scripts are run.

use std::path::{Path, PathBuf};

use crate::processes::run;
use crate::server::{PASSWORD, Server, USERNAME};

/// Has GStreamer's bindings, which come as Debian packages.
pub const SYSTEM_PYTHON: &str = "/usr/bin/python3";

/// Has what `tests/interop/python/requirements.txt` names; `.ci/install` makes it. Says why a test is skipped.
pub fn virtual_environment() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("interop-python").join("bin/python");
    if python.is_file() {
        return Some(python);
    }
    println!("SKIP: there is no {} (.ci/install makes it)", python.display());
    None
}

/// Runs a script of `tests/interop/python` to its end; it trusts the server's certificate. Returns what it wrote, or
/// nothing if it cannot run here and has said why.
pub fn run_script(python: &Path, script: &str, arguments: &[&str], server: &Server) -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/python").join(script);
    let mut command = vec![
        format!("SSL_CERT_FILE={}", server.certificate().display()),
        // No caches of compiled scripts between the sources.
        "PYTHONDONTWRITEBYTECODE=1".to_owned(),
        python.display().to_string(),
        script.display().to_string(),
    ];
    command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    let text = run("env", &command);
    (!text.starts_with("SKIP")).then_some(text)
}

/// Host and port of the server for a transport: by name where a certificate is looked at.
pub fn place(server: &Server, transport: &str) -> (&'static str, u16) {
    if transport == "tls" { ("localhost", server.tls_port) } else { ("127.0.0.1", server.address.port()) }
}

/// The user's name and password.
pub const CREDENTIALS: [&str; 2] = [USERNAME, PASSWORD];
