//! Two network namespaces joined by two links, and which core does the work of which.
//!
//! Nothing leads out of them and nothing has a name outside: a namespace is held by a thread of this process, and goes
//! with it, however it ends.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::{Pid, geteuid, gettid};

/// Where the server listens.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// Where clients are.
pub const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
/// Where the server's relays are.
pub const RELAYS: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 1);
/// Where peers are.
pub const PEERS: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 2);

/// Both links, by the same names on both sides.
pub const LINKS: [&str; 2] = ["clients", "peers"];

/// Packets that show where packets are received.
const PROBES: u64 = 500;
/// The counters are the whole machine's: what else it receives just then may hide what is looked for.
const TRIES: usize = 5;

/// Whether this user on this machine can make such a network.
///
/// # Errors
/// What is missing.
pub fn can_run() -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("a core can only be given to interfaces by root".into());
    }
    if cores() < 2 {
        return Err("server and load need a core each, and this machine has one".into());
    }
    for (program, package) in [("ip", "iproute2"), ("ethtool", "ethtool"), ("setpriv", "util-linux")] {
        if find(program).is_none() {
            return Err(format!("{program} is not installed (package {package})"));
        }
    }
    let probe = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)).join();
    match probe {
        Ok(Ok(())) => Ok(()),
        _ => Err("this machine lets nobody make network namespaces".into()),
    }
}

/// Cores there are.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Where a program is installed, if it is.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"]);
    folders.map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
}

/// Both namespaces.
pub struct Network {
    /// For the server.
    pub server: Namespace,
    /// For clients and peers.
    pub load: Namespace,
}

impl Network {
    /// Makes namespaces and links, and gives each side's work to its core.
    ///
    /// # Errors
    /// What could not be made; nothing of it is left.
    pub fn new(server_cpu: usize, load_cpu: usize) -> Result<Self, String> {
        let network = Self { server: Namespace::new(server_cpu)?, load: Namespace::new(load_cpu)? };
        let server = &network.server.path;
        for (link, inside, outside) in [("clients", CLIENTS, SERVER), ("peers", PEERS, RELAYS)] {
            network.load.ip(&format!("link add {link} type veth peer name {link} netns {server}"))?;
            network.load.ip(&format!("addr add {inside}/24 dev {link}"))?;
            network.server.ip(&format!("addr add {outside}/24 dev {link}"))?;
        }
        for namespace in [&network.server, &network.load] {
            for link in ["lo", "clients", "peers"] {
                namespace.ip(&format!("link set {link} up"))?;
            }
            for link in ["clients", "peers"] {
                // What crosses the link are single UDP packets, as on a wire: whoever sends a segmented one pays for the
                // cutting, and nobody receives it whole by way of this shortcut.
                namespace.tool("ethtool", &format!("-K {link} tx-udp-segmentation off"))?;
                namespace.steer(link)?;
            }
        }
        network
            .load
            .run(|| fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65000"))
            .map_err(|error| format!("ip_local_port_range: {error}"))?;
        Ok(network)
    }

    /// Whether packets of the load carry complete checksums, as those from a wire do, or none, as between programs of one
    /// machine; the kernel relays only the former by itself. With them the server's links take frames of the kernel's own
    /// load (`flood.rs`) as well.
    ///
    /// # Errors
    /// When the links cannot be told.
    pub fn complete_checksums(&self, are_complete: bool) -> Result<(), String> {
        let (tx, gro) = if are_complete { ("off", "on") } else { ("on", "off") };
        LINKS.iter().try_for_each(|link| {
            self.load.tool("ethtool", &format!("-K {link} tx {tx}"))?;
            self.load.tool("ethtool", &format!("-K {link} tx-udp-segmentation off"))?;
            self.server.tool("ethtool", &format!("-K {link} gro {gro}"))
        })
    }

    /// Whether the server's core, and no other, receives what is sent to the server.
    ///
    /// # Errors
    /// Where they were received, the last time that it was tried.
    pub fn check_steering(&self) -> Result<(), String> {
        let mut tries = (0..TRIES).map(|_| self.try_steering());
        tries.find(Result::is_ok).unwrap_or_else(|| self.try_steering())
    }

    fn try_steering(&self) -> Result<(), String> {
        let problem = |error: std::io::Error| format!("cannot try the links: {error}");
        let receiver = self.server.run(|| UdpSocket::bind((SERVER, 0))).map_err(problem)?;
        let to = receiver.local_addr().map_err(problem)?;
        let (start, before) = (Instant::now(), received_by_core()?);
        let send = move || {
            let socket = UdpSocket::bind((CLIENTS, 0))?;
            for _ in 0..PROBES {
                socket.send_to(&[0; 100], to)?;
                thread::sleep(Duration::from_micros(20));
            }
            std::io::Result::Ok(())
        };
        self.load.run(send).map_err(problem)?;
        thread::sleep(Duration::from_millis(20));
        let after = received_by_core()?;
        // What the machine receives besides, in the same time.
        thread::sleep(start.elapsed());
        let besides = received_by_core()?;
        let of = |cpu: usize| {
            let at = |counts: &[u64]| counts.get(cpu).copied().unwrap_or_default();
            (at(&after) - at(&before)).saturating_sub(at(&besides) - at(&after))
        };
        let (server, load) = (of(self.server.cpu), of(self.load.cpu));
        if server < PROBES * 9 / 10 || load > PROBES / 10 {
            return Err(format!(
                "of {PROBES} packets to the server its core {} received {server}, and the load's core {} {load}: \
                 without receive packet steering nothing can be compared",
                self.server.cpu, self.load.cpu
            ));
        }
        Ok(())
    }
}

/// Packets that each core has received, since the machine was started.
fn received_by_core() -> Result<Vec<u64>, String> {
    let text = fs::read_to_string("/proc/net/softnet_stat").map_err(|error| format!("softnet_stat: {error}"))?;
    let first = |line: &str| line.split_whitespace().next().and_then(|count| u64::from_str_radix(count, 16).ok());
    Ok(text.lines().filter_map(first).collect())
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, and the thread that lives in it on one core.
pub struct Namespace {
    /// Where it can be reached while it is there.
    path: String,
    /// The core of its thread, of what that starts, and of what its interfaces receive.
    pub cpu: usize,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    fn new(cpu: usize) -> Result<Self, String> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (tell, made) = mpsc::channel();
        let thread = thread::spawn(move || {
            let is_made = enter(cpu);
            let failed = is_made.is_err();
            let _ = tell.send(is_made);
            if !failed {
                inbox.into_iter().for_each(|job| job());
            }
        });
        let path = made.recv().map_err(|_| "a thread has ended".to_owned())??;
        Ok(Self { path, cpu, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Does something inside.
    pub fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let (tell, done) = mpsc::channel();
        let job = Box::new(move || drop(tell.send(work())));
        self.jobs.as_ref().expect("there until it is dropped").send(job).expect("the thread waits for work");
        done.recv().expect("the thread does its work")
    }

    /// Starts a program inside and on its core. It is killed when this process ends, however that comes about.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(
        &self,
        program: &Path,
        configure: impl FnOnce(&mut Command) + Send + 'static,
    ) -> Result<Child, String> {
        let name = program.display().to_string();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        self.run(move || {
            configure(&mut command);
            command.spawn()
        })
        .map_err(|error| format!("{name}: {error}"))
    }

    fn ip(&self, arguments: &str) -> Result<(), String> {
        self.tool("ip", arguments)
    }

    fn tool(&self, program: &'static str, arguments: &str) -> Result<(), String> {
        let path = find(program).ok_or_else(|| format!("{program} is not installed"))?;
        let words: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        let output = self
            .run(move || Command::new(path).args(words).output())
            .map_err(|error| format!("{program} {arguments}: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Has this namespace's core receive what comes over a link, as a network card's interrupt would.
    fn steer(&self, link: &str) -> Result<(), String> {
        let (folder, cpu) = (format!("/sys/class/net/{link}/queues"), self.cpu);
        self.run(move || {
            for queue in fs::read_dir(&folder)? {
                let file = queue?.path().join("rps_cpus");
                if file.exists() {
                    fs::write(file, core_mask(cpu))?;
                }
            }
            std::io::Result::Ok(())
        })
        .map_err(|error| format!("cannot give {link} to core {}: {error}", self.cpu))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes this thread into a new namespace and onto a core; where others find the namespace.
fn enter(cpu: usize) -> Result<String, String> {
    let problem = |what: &'static str| move |error: nix::Error| format!("cannot {what}: {error}");
    pin(cpu)?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(problem("make a network namespace"))?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(problem("keep mounts to itself"))?;
    // /sys shows the interfaces of the namespace in which it was mounted.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).map_err(problem("mount /sys"))?;
    Ok(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid()))
}

/// Ties this thread, and what it starts from now on, to a core.
///
/// # Errors
/// When there is no such core.
pub fn pin(cpu: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(cpu).map_err(|error| format!("core {cpu}: {error}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).map_err(|error| format!("core {cpu}: {error}"))
}

/// One core as the kernel writes sets of them: 32 bits in each group, the lowest last.
fn core_mask(cpu: usize) -> String {
    let zeros = ",00000000".repeat(cpu / 32);
    format!("{:x}{zeros}", 1_u32 << (cpu % 32))
}
