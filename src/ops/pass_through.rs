//! Carries connections that are not for us to the web server that shares a port with us, and back.
//!
//! Bytes go as they are: TLS is between the client and the web server. Nothing of this runs on a thread that relays; a
//! slow side holds the other one back through TCP itself, since no more than a buffer is read before it is written.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use crate::config::PassThrough;
use crate::shard::{PassedOn, write_proxy_header};

/// Read in one direction before it is written.
const BUFFER_BYTES: usize = 16 * 1024;

/// Seconds between two lines about a web server that does not answer; the metrics have the rest.
const WARNING_SECS: u64 = 10;

/// How a connection ended, other than by its two sides.
#[derive(Clone, Copy)]
enum Failure {
    TooMany,
    WebServer,
    Idle,
    Broken,
}

impl Failure {
    const ALL: [Self; 4] = [Self::TooMany, Self::WebServer, Self::Idle, Self::Broken];

    const fn label(self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::WebServer => "web_server",
            Self::Idle => "idle",
            Self::Broken => "broken",
        }
    }
}

struct Metrics {
    open: IntGauge,
    begun: IntCounter,
    failures: IntCounterVec,
    to_server: IntCounter,
    to_client: IntCounter,
    bytes: IntCounterVec,
}

impl Metrics {
    fn new() -> Self {
        let vector = |name: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(name, help), &[label]).expect("a constant name")
        };
        let bytes = vector(
            "hairpin_pass_through_bytes_total",
            "Bytes carried for connections passed on to the web server.",
            "direction",
        );
        let failures = vector(
            "hairpin_pass_through_failures_total",
            "Connections passed on that neither side has ended, by reason.",
            "reason",
        );
        // A series that is not there yet looks like one that was lost.
        Failure::ALL.iter().for_each(|why| drop(failures.with_label_values(&[why.label()])));
        Self {
            open: IntGauge::new("hairpin_pass_through_connections", "Connections being passed on to the web server.")
                .expect("a constant name"),
            begun: IntCounter::new(
                "hairpin_pass_through_connections_total",
                "Connections whose ClientHello was not for this server.",
            )
            .expect("a constant name"),
            to_server: bytes.with_label_values(&["to_server"]),
            to_client: bytes.with_label_values(&["to_client"]),
            failures,
            bytes,
        }
    }
}

/// Takes connections on any thread; they are carried on the control plane's.
pub(super) struct Carrier {
    config: PassThrough,
    metrics: Arc<Metrics>,
    passed_on: UnboundedReceiver<PassedOn>,
}

/// Where to put connections. Each is counted by the limits of the shards until its end, so no more wait here than those
/// allow.
pub(super) type Entrance = UnboundedSender<PassedOn>;

impl Carrier {
    pub fn new(config: PassThrough) -> (Self, Entrance) {
        let (entrance, passed_on) = unbounded_channel();
        (Self { config, metrics: Arc::new(Metrics::new()), passed_on }, entrance)
    }

    pub fn register(&self, registry: &Registry) {
        let Metrics { open, begun, failures, bytes, .. } = &*self.metrics;
        let collectors: [Box<dyn prometheus::core::Collector>; 4] =
            [Box::new(open.clone()), Box::new(begun.clone()), Box::new(failures.clone()), Box::new(bytes.clone())];
        for collector in collectors {
            registry.register(collector).expect("another name");
        }
    }

    /// Carries until nobody can bring connections any more.
    pub async fn run(mut self) {
        let mut warned: Option<Instant> = None;
        let (tell, mut told) = unbounded_channel::<(SocketAddr, io::Error)>();
        loop {
            tokio::select! {
                passed = self.passed_on.recv() => match passed {
                    Some(passed) => self.begin(passed, tell.clone()),
                    None => return,
                },
                Some((to, error)) = told.recv() => {
                    if warned.is_none_or(|at| at.elapsed().as_secs() >= WARNING_SECS) {
                        warned = Some(Instant::now());
                        warn!(event = "web_server_unreachable", address = %to, why = %error, "pass_through");
                    }
                }
            }
        }
    }

    fn begin(&self, passed: PassedOn, tell: UnboundedSender<(SocketAddr, io::Error)>) {
        let (config, metrics) = (self.config, Arc::clone(&self.metrics));
        metrics.begun.inc();
        if metrics.open.get() >= config.connections as i64 {
            metrics.failures.with_label_values(&[Failure::TooMany.label()]).inc();
            return;
        }
        metrics.open.inc();
        tokio::spawn(async move {
            let to = passed.to;
            if let Err((why, error)) = carry(passed, config, &metrics).await {
                debug!(event = "pass_through_ended", why = why.label(), error = %error);
                metrics.failures.with_label_values(&[why.label()]).inc();
                if matches!(why, Failure::WebServer) {
                    // Nobody listens only when the server has ended.
                    let _ = tell.send((to, error));
                }
            }
            metrics.open.dec();
        });
    }
}

async fn carry(passed: PassedOn, config: PassThrough, metrics: &Metrics) -> Result<(), (Failure, io::Error)> {
    let broken = |error| (Failure::Broken, error);
    let unreachable = |error| (Failure::WebServer, error);
    let PassedOn { stream, client: address, server: asked, to, .. } = passed;
    let client = TcpStream::from_std(stream).map_err(broken)?;
    let server = timeout(config.connect_timeout, TcpStream::connect(to))
        .await
        .map_err(|_| unreachable(io::ErrorKind::TimedOut.into()))?
        .map_err(unreachable)?;
    server.set_nodelay(true).map_err(unreachable)?;
    if config.proxy_protocol {
        write_all(&server, &write_proxy_header(address, asked), || ()).await.map_err(unreachable)?;
    }
    let heard = LastHeard::now();
    let idle = async {
        loop {
            let due = heard.get() + config.idle;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    };
    let both = async {
        tokio::try_join!(
            one_way(&client, &server, &heard, &metrics.to_server),
            one_way(&server, &client, &heard, &metrics.to_client),
        )
    };
    tokio::select! {
        result = both => result.map(drop).map_err(broken),
        () = idle => Err((Failure::Idle, io::ErrorKind::TimedOut.into())),
    }
}

/// When something last went on, in whole milliseconds.
struct LastHeard {
    start: Instant,
    millis: AtomicU64,
}

impl LastHeard {
    fn now() -> Self {
        Self { start: Instant::now(), millis: AtomicU64::new(0) }
    }

    fn set_now(&self) {
        self.millis.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn get(&self) -> Instant {
        self.start + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }
}

/// Carries bytes until their end, and then says so: the other direction may go on.
async fn one_way(from: &TcpStream, to: &TcpStream, heard: &LastHeard, bytes: &IntCounter) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        from.readable().await?;
        let count = match from.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        heard.set_now();
        write_all(to, &buffer[..count], || heard.set_now()).await?;
        bytes.inc_by(count as u64);
    }
    match SockRef::from(to).shutdown(Shutdown::Write) {
        // The other side has gone altogether.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8], progress: impl Fn()) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(count) => {
                progress();
                bytes = &bytes[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
