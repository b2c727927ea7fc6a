//! How commands reach a running server: its Unix socket, or its admin port with a token.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use clap::Args;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::CONFIG_VARIABLE;
use crate::config::{self, AdminSocket, Machine, Token, default_admin_socket};

/// The longest answer: a page of sessions.
const ANSWER_BYTES_MAX: usize = 4 << 20;
const TIME_MAX: Duration = Duration::from_secs(15);
/// Where a service of the system has it.
const SYSTEM_SOCKET: &str = "/run/hairpin/admin.sock";
const DEFAULT_PORT: &str = "127.0.0.1:9641";

/// Where the server is.
#[derive(Debug, Args)]
pub(super) struct Whereabouts {
    /// The server's configuration file, which says where its admin socket or port is, and the token.
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,

    /// The admin socket or port itself: a path, or http://ADDRESS:PORT.
    #[arg(long, value_name = "URL|SOCKET")]
    admin: Option<String>,

    /// A file with the token (admin.token), for a port.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Print what the server answers, as JSON.
    #[arg(long)]
    pub json: bool,
}

/// A way to a server.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Socket(PathBuf),
    /// Name or address, with port.
    Port(String),
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Port(port) => write!(f, "http://{port}"),
        }
    }
}

/// The query of a filter, encoded.
pub(super) fn query<'v>(parameters: impl IntoIterator<Item = (&'v str, Option<&'v str>)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (key, value) in parameters {
        if let Some(value) = value {
            query.append_pair(key, value);
        }
    }
    query.finish()
}

impl Whereabouts {
    /// Asks, and returns the answer. `path` has its query with it.
    ///
    /// # Errors
    /// Nobody there, or what the server refuses, with the remedy.
    pub fn ask(&self, method: Method, path: &str) -> Result<Value, String> {
        let (way, token) = self.find()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("the network cannot be used: {error}"))?;
        let answered =
            runtime.block_on(async { tokio::time::timeout(TIME_MAX, exchange(&way, token, method, path)).await });
        let (status, body) = answered.map_err(|_| format!("{way}: there was no answer in time"))??;
        let document: Value = serde_json::from_slice(&body).map_err(|_| {
            format!("{way}: this is not Hairpin's admin API (status {status})\n    fix: correct --admin")
        })?;
        if (200..300).contains(&status) { Ok(document) } else { Err(complaint(&document)) }
    }

    fn find(&self) -> Result<(Way, Option<Vec<u8>>), String> {
        let mut token = match &self.token_file {
            Some(file) => Some(read_token(file)?),
            None => None,
        };
        if let Some(admin) = &self.admin {
            return Ok((way(admin)?, token));
        }
        let Some(file) = &self.config else {
            let sockets = default_admin_socket().into_iter().chain([PathBuf::from(SYSTEM_SOCKET)]);
            let socket = sockets.into_iter().find(|socket| socket.exists());
            return Ok((socket.map_or_else(|| Way::Port(DEFAULT_PORT.into()), Way::Socket), token));
        };
        // It may be about another machine, or be only half readable here: its addresses are not looked at.
        let admin = config::load(Some(file), &Machine::any()).map_err(|errors| errors.to_string())?.admin;
        let socket = match admin.socket {
            AdminSocket::At(socket) => Some(socket),
            AdminSocket::Default(socket) => Some(socket).filter(|socket| socket.exists()),
            AdminSocket::Off => Some(PathBuf::from(SYSTEM_SOCKET)).filter(|socket| socket.exists()),
        };
        token = token.or_else(|| admin.token.as_ref().map(|token| Token::text(token).to_vec()));
        match (socket, admin.listen) {
            (Some(socket), _) if token.is_none() || admin.listen.is_none() || can_open(&socket) => {
                Ok((Way::Socket(socket), token))
            }
            (_, Some(address)) => Ok((Way::Port(reachable(address).to_string()), token)),
            (Some(socket), None) => Ok((Way::Socket(socket), token)),
            (None, None) => Err(format!(
                "{}: the server has neither an admin socket nor an admin port\n    fix: set admin.socket",
                file.display()
            )),
        }
    }
}

fn can_open(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

/// Nobody can connect to the unspecified address everywhere.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, v6.port()).into(),
        other => other,
    }
}

fn way(text: &str) -> Result<Way, String> {
    let wrong = || format!("--admin: \"{text}\" is neither\n    fix: write a path, or http://ADDRESS:PORT");
    if let Some(port) = text.strip_prefix("http://") {
        let port = port.trim_end_matches('/');
        let is_port = port.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        return if is_port && !port.contains('/') { Ok(Way::Port(port.to_owned())) } else { Err(wrong()) };
    }
    if text.contains("://") || text.is_empty() {
        return Err(wrong());
    }
    Ok(Way::Socket(text.into()))
}

fn read_token(file: &Path) -> Result<Vec<u8>, String> {
    let bytes =
        std::fs::read(file).map_err(|error| format!("--token-file: {} cannot be read: {error}", file.display()))?;
    Ok(bytes.trim_ascii().to_vec())
}

fn complaint(document: &Value) -> String {
    let Some(errors) = document["errors"].as_array() else { return document.to_string() };
    let line = |error: &Value| {
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        let place = match (error["line"].as_u64(), error["column"].as_u64()) {
            (Some(line), Some(column)) => format!("{line}:{column}: {}", text("where")),
            _ => text("where"),
        };
        format!("{place}: {}\n    fix: {}", text("what"), text("fix"))
    };
    errors.iter().map(line).collect::<Vec<_>>().join("\n")
}

async fn exchange(way: &Way, token: Option<Vec<u8>>, method: Method, path: &str) -> Result<(u16, Vec<u8>), String> {
    let nobody = |error: std::io::Error| {
        let fix = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "be root, or the user that runs the server",
            _ => "start the server, or say where it is with --admin or --config",
        };
        format!("no server answers at {way}: {error}\n    fix: {fix}")
    };
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, [b"Bearer ", &token[..]].concat());
    }
    match way {
        Way::Socket(path) => {
            let request = request.header(HOST, "localhost").body(Body::empty());
            let stream = tokio::net::UnixStream::connect(path).await.map_err(nobody)?;
            over(stream, request.map_err(|error| error.to_string())?).await
        }
        Way::Port(port) => {
            let request = request.header(HOST, port).body(Body::empty());
            let stream = tokio::net::TcpStream::connect(port).await.map_err(nobody)?;
            over(stream, request.map_err(|error| format!("the token cannot be sent: {error}"))?).await
        }
    }
    .map_err(|error| format!("{way}: {error}"))
}

async fn over(stream: impl AsyncRead + AsyncWrite + Unpin, request: Request<Body>) -> Result<(u16, Vec<u8>), String> {
    let broken = |error: hyper::Error| format!("the server does not speak HTTP as it should: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await;
        Ok((status, body.map_err(|error| format!("the answer broke off: {error}"))?.to_vec()))
    };
    tokio::pin!(connection);
    tokio::pin!(answered);
    // The connection is worked on until the answer is there; its own end may come first.
    tokio::select! {
        answer = &mut answered => answer,
        _ = &mut connection => answered.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_sockets_and_ports() {
        assert_eq!(way("/run/x.sock"), Ok(Way::Socket("/run/x.sock".into())));
        assert_eq!(way("http://127.0.0.1:9641/"), Ok(Way::Port("127.0.0.1:9641".into())));
        assert_eq!(way("http://[::1]:9641"), Ok(Way::Port("[::1]:9641".into())));
        for wrong in ["", "http://", "http://x", "http://x:y", "https://x:1", "http://x:1/v1"] {
            assert!(way(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn s20_names_are_encoded_in_queries() {
        let query = query([("user", Some("a%'\"\n\0&=b")), ("id", None), ("transport", Some("udp"))]);
        assert_eq!(query, "user=a%25%27%22%0A%00%26%3Db&transport=udp");
    }
}
