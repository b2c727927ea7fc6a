//! A server's life: start, serve, drain, end.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::{Gid, Uid};
use prometheus::Registry;
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::admin::{self, Doors, Readiness, SocketFile, Sources};
use super::certificates::Certificates;
use super::confinement::{ConfinementError, Rights};
use super::descriptors;
use super::keys::Keys;
use super::logging::LogLevel;
use super::metrics::{Control, OffloadCollector, ProcessCollector, ShardCollector, UsageCollector};
use super::offload::Offload;
use super::orders::{ORDERS_MAX, Order};
use super::pass_through::Carrier;
use super::reload::{Load, Reload};
use super::signals::{Signals, Wish};
use super::usage;
use crate::config::{AdminSocket, Config};
use crate::shard::{Identity, ListenAddress, Shards, Skipped, Snapshot, StartError};
use crate::turn::Transport;

/// How often a draining server looks whether allocations are left.
const DRAIN_STEP: Duration = Duration::from_millis(50);
/// Allocations are ended and threads joined within this, or the process ends without.
const SHUT_DOWN_TIME_MAX: Duration = Duration::from_secs(5);

/// What has been started, for whoever wants to tell.
#[derive(Debug)]
pub struct Running<'a> {
    /// Where clients connect, with the ports that were taken for 0.
    pub listening: &'a [ListenAddress],
    /// Optional addresses that could not be bound, as sentences.
    pub skipped: &'a [String],
    /// Where metrics and the admin API are.
    pub admin: Option<SocketAddr>,
    /// What TLS clients get to see.
    pub identity: Option<&'a Identity>,
}

/// Why a server did not start.
#[derive(Debug)]
pub enum RunError {
    /// tokio or the signal handlers could not be set up.
    ControlPlane(io::Error),
    /// The port of this key could not be bound.
    Admin(&'static str, SocketAddr, io::Error),
    /// The Unix socket could not be bound.
    Socket(PathBuf, io::Error),
    /// The shards could not be started.
    Shards(StartError),
    /// The spool of usage records, in this directory, could not be opened.
    Usage(PathBuf, io::Error),
    /// The process could not give up what it was told to.
    Confinement(ConfinementError),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlPlane(error) => write!(f, "the control plane cannot be set up: {error}"),
            Self::Admin(key, address, error) => write!(
                f,
                "{key}: {address} cannot be bound: {error}\n    fix: end the other program there, choose \
                 another port, or write listen = \"off\""
            ),
            Self::Socket(path, error) => write!(
                f,
                "admin.socket: {} cannot be bound: {error}\n    fix: end the other server, choose another path, or \
                 write socket = \"off\"",
                path.display()
            ),
            Self::Shards(error) => write!(f, "{error}"),
            Self::Usage(path, error) => write!(
                f,
                "usage.spool: {} cannot be used: {error}\n    fix: let the user that runs hairpin write there, or choose \
                 another directory",
                path.display()
            ),
            Self::Confinement(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for RunError {}

/// Serves until SIGTERM or SIGINT, then drains for the configured time, then ends all that is left. `ready` is called
/// once, when clients can connect; `load` whenever the configuration is to be read again, which SIGHUP asks for.
///
/// # Errors
/// If the server could not be started. Once it has, it ends well.
pub fn run(config: Config, log_level: LogLevel, load: Load, ready: impl FnOnce(&Running<'_>)) -> Result<(), RunError> {
    info!(event = "starting", version = env!("CARGO_PKG_VERSION"), threads = config.shards.count);
    let rights = Rights::look_up(&config.confinement).map_err(RunError::Confinement)?;
    descriptors::make_room(&config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::ControlPlane)?;
    let result = runtime.block_on(live(config, rights, log_level, load, ready));
    // A shard that hangs must not keep the process from ending.
    runtime.shutdown_background();
    result
}

async fn live(
    config: Config,
    rights: Rights,
    log_level: LogLevel,
    load: Load,
    ready: impl FnOnce(&Running<'_>),
) -> Result<(), RunError> {
    let mut signals = Signals::install().map_err(RunError::ControlPlane)?;
    let started = std::time::Instant::now();
    let admin = bind("admin.listen", config.admin.listen).await?;
    let for_back_ends = bind("admin.credentials_listen", config.admin.credentials.listen).await?;
    let socket = bind_socket(&config.admin.socket, rights.user())?;
    let identity = config.shards.tls.as_ref().map(|tls| Arc::clone(&tls.identity));
    let (carrier, entrance) = Carrier::new(config.pass_through);
    // Without a control plane that is left to carry it a connection is closed.
    let pass_on = move |passed| drop(entrance.send(passed));
    let (keys, ask, questions) = Keys::new();
    keys.set(config.key_backend.as_ref());
    let figures = Arc::<usage::Figures>::default();
    let usage = config.usage.clone().map(|settings| usage::Queue::new(settings, Arc::clone(&figures)));
    let accountant = usage.as_ref().map(usage::Queue::accountant);
    let shards = Shards::start_with(config.shards.clone(), pass_on, ask, accountant).map_err(RunError::Shards)?;
    let listening = shards.listening().to_vec();
    let skipped: Vec<String> =
        shards.skipped().iter().map(|Skipped { listen, why }| format!("{listen}: {why}")).collect();
    let shards = SharedShards::new(shards);
    let offload = Offload::load(&config, &listening);
    if let Err(error) = rights.give_up(offload.is_loaded()) {
        shards.shut_down().await;
        return Err(RunError::Confinement(error));
    }

    offload.switch(&config, &shards);

    let (in_force, config_in_force) = watch::channel(Arc::new(config.clone()));
    // Files in the spool belong to whoever the process has become.
    let usage = match usage.map(|queue| queue.open(shards.clone(), &in_force)).transpose() {
        Ok(usage) => usage,
        Err(error) => {
            shards.shut_down().await;
            let spool = config.usage.map(|settings| settings.spool).unwrap_or_default();
            return Err(RunError::Usage(spool, error));
        }
    };

    let certificates =
        config.certificate.clone().zip(identity.clone()).map(|(files, now)| Certificates::new(files, now));
    let files = certificates.as_ref().map(Certificates::files);
    let control = Control::new(&config);
    let (readiness, watched) = watch::channel(Readiness::Starting);
    let admin_address = admin.as_ref().map(|(_, address)| *address);
    let back_ends_address = for_back_ends.as_ref().map(|(_, address)| *address);
    let socket_path = socket.as_ref().map(|(_, file)| file.path().display().to_string());
    let (orders, mut ordered) = mpsc::channel(ORDERS_MAX);
    if admin.is_some() || socket.is_some() || for_back_ends.is_some() {
        let registry = Registry::new();
        let source = shards.clone();
        registry.register(Box::new(ShardCollector::new(move || source.snapshot()))).expect("the first collector");
        carrier.register(&registry);
        keys.register(&registry);
        registry.register(Box::new(ProcessCollector::new())).expect("other names");
        registry.register(Box::new(control.clone())).expect("other names");
        registry.register(Box::new(UsageCollector::new(figures))).expect("other names");
        let source = offload.clone();
        registry.register(Box::new(OffloadCollector::new(move || source.report()))).expect("other names");
        if let Some(certificates) = &certificates {
            registry.register(Box::new(certificates.gauge())).expect("another name");
        }
        let sources = Sources {
            registry,
            readiness: watched,
            shards: shards.clone(),
            config: config_in_force,
            listening: listening.clone().into(),
            orders,
            offload: offload.clone(),
            started,
        };
        let listener = |bound: Option<(TcpListener, SocketAddr)>| bound.map(|(listener, _)| listener);
        tokio::spawn(Doors::new(listener(admin), listener(for_back_ends), socket).serve(sources));
    }
    tokio::spawn(carrier.run());
    tokio::spawn(keys.clone().run(questions));
    if let Some(certificates) = certificates {
        let shards = shards.clone();
        let show = move |identity: Arc<Identity>| {
            shards.with(|shards| shards.set_identity(Arc::clone(&identity)));
        };
        tokio::spawn(certificates.watch(show));
    }
    readiness.send_replace(Readiness::Ready);
    for skipped in &skipped {
        warn!(event = "listener_skipped", what = %skipped);
    }
    info!(
        event = "listening",
        udp = addresses(&listening, Transport::Udp),
        tcp = addresses(&listening, Transport::Tcp),
        tls = addresses(&listening, Transport::Tls),
        dtls = addresses(&listening, Transport::Dtls),
        admin = admin_address.map_or("off".into(), |address| address.to_string()),
        credentials = back_ends_address.map(|address| address.to_string()),
        socket = socket_path,
        "listening"
    );
    let identity = identity.as_deref();
    // Without a service manager that wants to know, nothing happens.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    ready(&Running { listening: &listening, skipped: &skipped, admin: admin_address, identity });

    let at_end = offload.clone();
    let mut reload =
        Reload { load, current: config, shards: shards.clone(), log_level, files, control, in_force, keys, offload };
    let signal = loop {
        tokio::select! {
            wish = signals.next() => match wish {
                Wish::Stop(signal) => break signal,
                // What is wrong is in the log.
                Wish::Reload => drop(reload.run()),
            },
            Some(order) = ordered.recv() => carry_out(order, &mut reload, &readiness),
        }
    };
    // Whoever still asks for something is told that the server is stopping.
    drop(ordered);
    readiness.send_replace(Readiness::Draining);
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    reload.control.set_draining(true);
    drain(&shards, reload.current.drain, signal, &mut signals).await;
    shards.shut_down().await;
    at_end.end();
    if let Some(usage) = usage {
        usage.close().await;
    }
    info!(event = "stopped");
    Ok(())
}

async fn bind(key: &'static str, address: Option<SocketAddr>) -> Result<Option<(TcpListener, SocketAddr)>, RunError> {
    match address {
        Some(address) => admin::bind(address).await.map(Some).map_err(|error| RunError::Admin(key, address, error)),
        None => Ok(None),
    }
}

fn bind_socket(socket: &AdminSocket, user: Option<(Uid, Gid)>) -> Result<Option<(UnixListener, SocketFile)>, RunError> {
    match socket {
        AdminSocket::Off => Ok(None),
        AdminSocket::At(path) => {
            admin::bind_socket(path, user).map(Some).map_err(|error| RunError::Socket(path.clone(), error))
        }
        AdminSocket::Default(path) => Ok(admin::bind_socket(path, user)
            .inspect_err(|error| warn!(event = "admin_socket_off", path = %path.display(), %error))
            .ok()),
    }
}

/// Nobody need be waiting for the answer any more.
fn carry_out(order: Order, reload: &mut Reload, readiness: &watch::Sender<Readiness>) {
    match order {
        Order::Reload(answer) => _ = answer.send(reload.run()),
        Order::Drain(is_draining, answer) => {
            let state = if is_draining { Readiness::Draining } else { Readiness::Ready };
            if readiness.send_replace(state) != state {
                let allocations = reload.shards.set_draining(is_draining);
                reload.control.set_draining(is_draining);
                if is_draining {
                    info!(event = "drain_ordered", allocations, "by the admin API");
                } else {
                    info!(event = "drain_ended", allocations, "by the admin API");
                }
            }
            let _ = answer.send(state);
        }
        Order::LogLevel(level, answer) => {
            if let Some(level) = level {
                info!(event = "log_level_changed", %level, "until the configuration is read again");
                reload.log_level.set(level);
            }
            let _ = answer.send(reload.log_level.get());
        }
    }
}

/// Grants nothing new and waits until nothing old is left, the time is over, or the operator has no patience.
async fn drain(shards: &SharedShards, drain: Duration, signal: &str, signals: &mut Signals) {
    let allocations = shards.set_draining(true);
    info!(event = "draining", signal, allocations, seconds_max = drain.as_secs(), "a second signal ends at once");
    let over = sleep_until(Instant::now() + drain);
    let empty = async {
        while shards.allocations() > 0 {
            sleep(DRAIN_STEP).await;
        }
    };
    let why = tokio::select! {
        biased;
        () = empty => "no allocation is left",
        () = over => "the time is over",
        signal = signals.stop() => signal,
    };
    info!(event = "drained", why, allocations = shards.allocations());
}

fn addresses(listening: &[ListenAddress], transport: Transport) -> String {
    let of_transport = listening.iter().filter(|entry| entry.transport == transport);
    let texts: Vec<String> = of_transport.map(|entry| entry.address.to_string()).collect();
    texts.join(" ")
}

/// The shards between the life of the server, which ends them, and scrapes, which may come a moment later.
#[derive(Clone)]
pub(super) struct SharedShards(Arc<Mutex<Option<Shards>>>);

impl SharedShards {
    pub(super) fn new(shards: Shards) -> Self {
        Self(Arc::new(Mutex::new(Some(shards))))
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&Shards) -> T) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(act)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.with(Shards::snapshot).unwrap_or_default()
    }

    pub(super) fn allocations(&self) -> usize {
        self.with(Shards::allocations).unwrap_or_default()
    }

    /// How many allocations there are.
    fn set_draining(&self, is_draining: bool) -> usize {
        self.with(|shards| {
            if is_draining {
                shards.drain()
            } else {
                shards.undrain()
            }
            shards.allocations()
        })
        .unwrap_or_default()
    }

    async fn shut_down(&self) {
        let shards = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let joined = tokio::task::spawn_blocking(move || shards.map(Shards::shut_down));
        if timeout(SHUT_DOWN_TIME_MAX, joined).await.is_err() {
            warn!(event = "shard_left_behind", "a shard did not end in time");
        }
    }
}
