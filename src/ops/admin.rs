//! The admin port: `/metrics`, `/livez`, `/readyz` over HTTP/1.1, one request a connection.
//!
//! On loopback by default, and unreachable through a relay, because every address of the machine is refused as a peer
//! (abuse S20). It only reads. Connections are few, short and counted, so that whoever reaches it cannot do harm.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tracing::warn;

/// Open connections; more wait in the kernel.
const CONNECTIONS_MAX: usize = 32;
/// From accepting a connection to the last byte of its answer.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Before accepting again after that failed, as it does without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Whether new allocations are granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Starting,
    Ready,
    Draining,
}

/// What requests are answered from.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    pub registry: Registry,
    pub readiness: watch::Receiver<Readiness>,
}

/// Binds the port, and tells which if it was 0.
pub(super) async fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, sources: Sources) {
    let routes = routes(sources);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let routes = routes.clone();
                tokio::spawn(async move {
                    // Neither a slow nor a broken client is worth a log line.
                    let _ = tokio::time::timeout(CONNECTION_TIME_MAX, answer(stream, routes)).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "the admin port cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, routes: Router) -> hyper::Result<()> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIME_MAX)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await
}

fn routes(sources: Sources) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .fallback(async || (StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz\n"))
        .with_state(sources)
}

async fn metrics(State(sources): State<Sources>) -> Response {
    match TextEncoder::new().encode_to_string(&sources.registry.gather()) {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(sources): State<Sources>) -> (StatusCode, &'static str) {
    match *sources.readiness.borrow() {
        Readiness::Ready => (StatusCode::OK, "ready\n"),
        Readiness::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn request(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[test]
    fn health_metrics_and_nothing_else() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (tell, readiness) = watch::channel(Readiness::Starting);
            let registry = Registry::new();
            let gauge = prometheus::IntGauge::new("test_gauge", "A gauge.").unwrap();
            registry.register(Box::new(gauge)).unwrap();
            let (listener, address) = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            tokio::spawn(serve(listener, Sources { registry, readiness }));
            let get = async |path: &str| request(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;

            assert!(get("/readyz").await.starts_with("HTTP/1.1 503"));
            tell.send_replace(Readiness::Ready);
            assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
            tell.send_replace(Readiness::Draining);
            assert!(get("/readyz").await.ends_with("draining\n"));
            assert!(get("/livez").await.starts_with("HTTP/1.1 200"));
            assert!(get("/metrics").await.contains("test_gauge 0"));
            for path in ["/", "/metrics/", "/admin", "/../etc/passwd"] {
                assert!(get(path).await.starts_with("HTTP/1.1 404"), "{path}");
            }
            let post = request(address, "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await;
            assert!(post.starts_with("HTTP/1.1 405"));
            let endless = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(2 * HEAD_BYTES_MAX));
            assert!(request(address, &endless).await.starts_with("HTTP/1.1 431"));
        });
    }
}
