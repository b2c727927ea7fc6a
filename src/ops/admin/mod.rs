//! The admin port and socket: metrics, health, and the admin API, over HTTP/1.1, one request a connection.
//!
//! On loopback by default, and unreachable through a relay, because every address of the machine is refused as a peer
//! (abuse S20). Connections are few, short and counted, heads and bodies bounded, so that whoever reaches it cannot do
//! harm; who may do what is in `access.rs`. The routes are a table (`routes.rs`), which a test holds against the
//! description that is served (`openapi.json`).

mod access;
mod answer;
mod credentials;
mod figures;
mod routes;
mod sessions;
mod steering;
mod stories;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::unistd::{Gid, Uid};
use prometheus::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::warn;

use self::access::{Caller, Guesses};
use super::offload::Offload;
use super::orders::Order;
use super::run::SharedShards;
use crate::config::Config;
use crate::shard::ListenAddress;

/// Open connections of one listener; more wait in the kernel.
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

impl Readiness {
    /// The word in answers.
    const fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// What requests are answered from.
#[derive(Clone)]
pub(super) struct Sources {
    pub registry: Registry,
    pub readiness: watch::Receiver<Readiness>,
    pub shards: SharedShards,
    /// What is in force.
    pub config: watch::Receiver<Arc<Config>>,
    /// Where clients connect, with actual ports.
    pub listening: Arc<[ListenAddress]>,
    /// To the server's life.
    pub orders: mpsc::Sender<Order>,
    pub offload: Offload,
    /// When the server was started.
    pub started: std::time::Instant,
}

/// A request and what it may need.
#[derive(Clone)]
struct Desk {
    sources: Sources,
    guesses: Arc<Guesses>,
}

/// Where requests come in, each with what is served there.
pub(super) struct Doors {
    tcp: Vec<(TcpListener, bool)>,
    unix: Option<(UnixListener, SocketFile)>,
}

/// A Unix socket that is removed with its server.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    owner: u32,
}

impl SocketFile {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nobody listens any more; what is left does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds the port, and tells which if it was 0.
pub(super) async fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Binds the socket, for its owner only: this process, or whom it is about to become. One that a server has left behind is
/// replaced.
///
/// # Errors
/// Another server listens there, something else lies there, or the system says no.
pub(super) fn bind_socket(path: &Path, user: Option<(Uid, Gid)>) -> io::Result<(UnixListener, SocketFile)> {
    let hand_over = |path: &Path| match user {
        Some((user, group)) => chown(path, Some(user.as_raw()), Some(group.as_raw())),
        None => Ok(()),
    };
    if let Some(directory) = path.parent()
        && !directory.exists()
    {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        hand_over(directory)?;
    }
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            _ => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens there")),
        }
    }
    let listener = UnixListener::bind(path)?;
    // Whoever was quicker than this is told from its owner by the kernel.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    hand_over(path)?;
    let owner = std::fs::metadata(path)?.uid();
    Ok((listener, SocketFile { path: path.to_owned(), owner }))
}

impl Doors {
    /// `admin` has everything, `credentials` only what web back ends need.
    pub fn new(
        admin: Option<TcpListener>,
        credentials: Option<TcpListener>,
        unix: Option<(UnixListener, SocketFile)>,
    ) -> Self {
        let tcp = admin.map(|listener| (listener, false)).into_iter();
        Self { tcp: tcp.chain(credentials.map(|listener| (listener, true))).collect(), unix }
    }

    /// Serves until it is dropped.
    pub async fn serve(self, sources: Sources) {
        let desk = Desk { sources, guesses: Arc::default() };
        let mut doors = tokio::task::JoinSet::new();
        for (listener, is_for_back_ends) in self.tcp {
            let routes = if is_for_back_ends { routes::for_back_ends(&desk) } else { routes::all(&desk) };
            doors.spawn(serve_tcp(listener, routes));
        }
        if let Some((listener, file)) = self.unix {
            doors.spawn(serve_unix(listener, file, routes::all(&desk)));
        }
        while doors.join_next().await.is_some() {}
    }
}

async fn serve_tcp(listener: TcpListener, routes: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        match listener.accept().await {
            Ok((stream, from)) => {
                let answered = answer(stream, routes.clone(), Caller::Address(from.ip()));
                tokio::spawn(async move {
                    answered.await;
                    drop(place);
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn serve_unix(listener: UnixListener, file: SocketFile, routes: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let is_trusted = stream.peer_cred().is_ok_and(|peer| peer.uid() == file.owner || peer.uid() == 0);
                let caller = if is_trusted { Caller::Owner } else { Caller::Stranger };
                let answered = answer(stream, routes.clone(), caller);
                tokio::spawn(async move {
                    answered.await;
                    drop(place);
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &io::Error) {
    warn!(event = "admin_accept_failed", %error);
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, routes: Router, caller: Caller) {
    let routes = routes.layer(axum::Extension(caller));
    let answered = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIME_MAX)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // Neither a slow nor a broken client is worth a log line.
    let _ = tokio::time::timeout(CONNECTION_TIME_MAX, answered).await;
}
