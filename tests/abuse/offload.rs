//! Relaying in the kernel, with packets that really go through it: nobody must see a difference, whatever they send.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::Attack;
use crate::case::{Step, failed, not_applicable};
use crate::client::{Client, Judged};
use crate::drafts::{channel_data, refresh_for};
use crate::ensure;
use crate::link::{Arrival, Transport};
use crate::numbers::DATA;
use crate::world::{self, ALICE, PATIENCE, Server};

pub const ATTACKS: &[Attack] = &[
    ("o01_calls_pass_through_the_kernel", calls),
    ("o02_switched_in_mid_call_without_a_loss", switched),
    ("o03_the_kernel_forwards_what_the_server_would", hostile),
    ("o04_calls_pass_through_the_driver", calls_in_driver),
    ("o05_the_driver_forwards_what_the_server_would", hostile_in_driver),
    ("o06_what_is_kept_goes_on_without_the_server", kept),
    ("o09_indications_pass_through_the_kernel", calls_without_channel),
];

pub const CHANNEL: u16 = 0x4001;
const ON: &str = "[offload]\nmode = \"auto\"\n";
const IN_DRIVER: &str = "[offload]\nmode = \"xdp\"\n";
const OFF: &str = "[offload]\nmode = \"off\"\n";

/// A client, the relayed address, and its peer.
pub struct Call {
    has_channel: bool,
    pub client: Client,
    pub relayed: SocketAddr,
    pub peer: UdpSocket,
}

/// A server that relays in the kernel, or a reason why there is none.
pub fn start() -> Step<Server> {
    start_with(ON)
}

/// The same in drivers.
fn start_in_driver() -> Step<Server> {
    let server = start_with(IN_DRIVER)?;
    let log = server.log();
    match log.lines().find(|line| line.contains("\"offload_attached_otherwise\"")) {
        Some(line) => not_applicable(line.to_owned()),
        None => Ok(server),
    }
}

fn start_with(offload: &str) -> Step<Server> {
    let server = Server::start(offload)?;
    let log = server.log();
    if let Some(line) = log
        .lines()
        .find(|line| ["\"offload_unused\"", "\"offload_unavailable\""].iter().any(|event| line.contains(event)))
    {
        return not_applicable(line.to_owned());
    }
    Ok(server)
}

pub fn call(server: &Server) -> Step<Call> {
    let mut call = call_without_channel(server)?;
    call.client.bind_channel(CHANNEL, call.peer.local_addr().expect("it is bound"))?;
    Ok(Call { has_channel: true, ..call })
}

/// As browsers do it that know no channels.
fn call_without_channel(server: &Server) -> Step<Call> {
    let mut client = server.client(Transport::Udp)?;
    let relayed = client.allocate()?;
    let peer = UdpSocket::bind((world::PEER, 0)).expect("an address of ours");
    peer.set_read_timeout(Some(PATIENCE)).expect("as always");
    client.permit(peer.local_addr().expect("it is bound"))?;
    Ok(Call { has_channel: false, client, relayed, peer })
}

impl Call {
    /// Neither passes to the other any more.
    fn is_over(&mut self) -> Step<()> {
        self.client.send_on_channel(CHANNEL, b"after the end")?;
        // Nobody may be listening there.
        let _ = self.peer.send_to(b"after the end", self.relayed);
        let heard = self.client.all_before_now()?;
        ensure!(heard.is_empty(), "{:?}", heard.iter().map(described).collect::<Vec<_>>());
        self.peer.set_nonblocking(true).expect("as always");
        let mut buffer = [0; 2048];
        let received = self.peer.recv_from(&mut buffer);
        ensure!(received.is_err(), "{received:?}");
        Ok(())
    }

    /// To the peer and back.
    pub fn exchange(&mut self, number: usize) -> Step<()> {
        let data = format!("packet {number} of a call, as long as those with sound often are");
        let data = &data[..data.len() - number % 4];
        match self.has_channel {
            true => self.client.send_on_channel(CHANNEL, data.as_bytes())?,
            false => self.client.send(self.peer.local_addr().expect("it is bound"), data.as_bytes())?,
        }
        let mut buffer = [0; 2048];
        match self.peer.recv_from(&mut buffer) {
            Ok((len, from)) => {
                ensure!(from == self.relayed, "packet {number} came from {from}");
                ensure!(buffer[..len] == *data.as_bytes(), "packet {number} has changed on its way");
            }
            Err(error) => return failed(format!("packet {number} did not reach the peer: {error}")),
        }
        self.peer.send_to(data.as_bytes(), self.relayed).expect("it is near");
        match self.has_channel {
            true => _ = self.client.expect_channel_data(CHANNEL, data.as_bytes())?,
            false => _ = self.client.expect_data(data.as_bytes())?,
        }
        Ok(())
    }
}

fn calls() -> Step<String> {
    calls_at(&start()?, call)
}

fn calls_without_channel() -> Step<String> {
    calls_at(&start()?, call_without_channel)
}

fn calls_in_driver() -> Step<String> {
    let server = start_in_driver()?;
    let ways = server.http(&format!("GET /metrics HTTP/1.1\r\nhost: {}\r\n\r\n", server.admin))?;
    ensure!(ways.contains("way=\"xdp\"} 1"), "the metrics do not say so:\n{ways}");
    calls_at(&server, call)
}

fn calls_at(server: &Server, call: fn(&Server) -> Step<Call>) -> Step<String> {
    const COUNT: usize = 200;
    let mut call = call(server)?;
    for number in 0..COUNT {
        call.exchange(number)?;
    }
    let all = server.wait_for("hairpin_relayed_packets_total", |count| count == 2.0 * COUNT as f64)?;
    let in_kernel = server.metric("hairpin_offload_packets_total")?;
    // The first ones may wait for addresses of neighbours.
    ensure!(in_kernel > 0.9 * all, "only {in_kernel} of {all} packets went through the kernel:\n{}", server.log());
    ensure!(server.metric("hairpin_offload_flows")? == 1.0, "one flow");
    call.client.ask_signed(&refresh_for(0))?.success()?;
    server.wait_for("hairpin_offload_flows", |count| count == 0.0)?;
    server.serves()?;
    Ok(format!("{in_kernel} of {all} packets in the kernel"))
}

/// On and off, on and off, while data goes back and forth; allocation and channel are those of before.
fn switched() -> Step<String> {
    const COUNT: usize = 100;
    let server = start()?;
    let mut call = call(&server)?;
    let mut counts = Vec::new();
    for round in 0..5 {
        for number in 0..COUNT {
            call.exchange(round * COUNT + number)?;
        }
        let all = 2.0 * ((round + 1) * COUNT) as f64;
        server.wait_for("hairpin_relayed_packets_total", |count| count == all)?;
        counts.push(server.metric("hairpin_offload_packets_total")?);
        if round % 2 == 0 {
            server.reload("mode = \"auto\"", "mode = \"off\"", "offload_off")?;
            server.wait_for("hairpin_offload_flows", |count| count == 0.0)?;
        } else {
            server.reload("mode = \"off\"", "mode = \"auto\"", "offload_on")?;
            // What was bound before is mirrored again, without a word from the client.
            server.wait_for("hairpin_offload_flows", |count| count == 1.0)?;
        }
    }
    let in_round: Vec<f64> =
        std::iter::once(counts[0]).chain(counts.windows(2).map(|pair| pair[1] - pair[0])).collect();
    for (round, count) in in_round.iter().enumerate() {
        let is_on = round % 2 == 0;
        ensure!(if is_on { *count > COUNT as f64 } else { *count == 0.0 }, "packets in the kernel: {in_round:?}");
    }
    server.serves()?;
    Ok(format!("{} packets, none lost, in the kernel by round: {in_round:?}", 10 * COUNT))
}

/// A BPF file system, for as long as this lives; beyond that none but this process sees it.
struct FileSystem(PathBuf);

impl FileSystem {
    fn mount() -> Step<Self> {
        let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("abuse-pins-{}", std::process::id()));
        fs::create_dir_all(&place).expect("the build directory can be written to");
        match world::run(&format!("mount -t bpf bpf {}", place.display())) {
            Ok(()) => Ok(Self(place)),
            Err(why) => not_applicable(why),
        }
    }

    fn directory(&self) -> PathBuf {
        self.0.join("kept")
    }

    /// What the server keeps there: names, and numbers that only the same thing has.
    fn kept(&self) -> BTreeMap<PathBuf, u64> {
        let entries = |folder: &Path| fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("as before"));
        let folders = entries(&self.directory()).map(|entry| entry.path());
        let files = folders.flat_map(|folder| entries(&folder).collect::<Vec<_>>());
        files.map(|file| (file.path(), file.metadata().expect("as before").ino())).collect()
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        let _ = world::run(&format!("umount -l {}", self.0.display()));
        let _ = fs::remove_dir(&self.0);
    }
}

/// Killed, ended in good order, and started without.
fn kept() -> Step<String> {
    const COUNT: usize = 100;
    let files = FileSystem::mount()?;
    let mut server = start_with(&format!("{ON}pin = \"{}\"\n", files.directory().display()))?;
    let mut first = call(&server)?;
    for number in 0..COUNT {
        first.exchange(number)?;
    }
    server.wait_for("hairpin_offload_flows", |count| count == 1.0)?;
    let at_first = files.kept();
    ensure!(at_first.len() > 6, "maps and links: {at_first:?}");
    server.end(Signal::SIGKILL);
    for number in 0..COUNT {
        first.exchange(number)?;
    }
    server.start_again("", "")?;
    ensure!(server.log().contains("\"adopted\":true"), "it does not go on with it:\n{}", server.log());
    ensure!(server.log().contains("1 flows that an earlier process has left"), "no word of it:\n{}", server.log());
    ensure!(files.kept() == at_first, "not the same: {at_first:?} {:?}", files.kept());
    // What the dead knew is over; who comes now is served as ever.
    first.is_over()?;
    let mut second = call(&server)?;
    for number in 0..COUNT {
        second.exchange(number)?;
    }
    let all = server.wait_for("hairpin_relayed_packets_total", |count| count == 2.0 * COUNT as f64)?;
    let in_kernel = server.metric("hairpin_offload_packets_total")?;
    ensure!(in_kernel > 0.9 * all, "only {in_kernel} of {all} packets went through the kernel:\n{}", server.log());
    server.serves()?;
    // In good order nothing is left.
    server.end(Signal::SIGTERM);
    ensure!(files.kept().is_empty(), "left: {:?}", files.kept());
    server.start_again("", "")?;
    second.is_over()?;
    ensure!(server.log().contains("\"adopted\":false"), "there was nothing to go on with:\n{}", server.log());
    ensure!(!server.log().contains("\"offload_note\""), "nothing is odd about it:\n{}", server.log());
    // Neither is it after a start without.
    let mut third = call(&server)?;
    third.exchange(0)?;
    server.wait_for("hairpin_offload_flows", |count| count == 1.0)?;
    server.end(Signal::SIGKILL);
    third.exchange(1)?;
    server.start_again("mode = \"auto\"", "mode = \"off\"")?;
    third.is_over()?;
    ensure!(files.kept().is_empty(), "left: {:?}", files.kept());
    server.serves()?;
    Ok(format!("{} packets without a server; {in_kernel} of {all} after that in the kernel", 2 * COUNT))
}

/// What came of it.
#[derive(Debug, PartialEq)]
struct Outcome {
    at_peer: Vec<String>,
    at_client: Vec<String>,
    /// Packets by what became of them, as the server counts them.
    counts: BTreeMap<String, u64>,
}

fn hostile() -> Step<String> {
    hostile_at(start()?)
}

fn hostile_in_driver() -> Step<String> {
    hostile_at(start_in_driver()?)
}

fn hostile_at(server: Server) -> Step<String> {
    let (with, in_kernel) = ordeal(&server)?;
    drop(server);
    let server = Server::start(OFF)?;
    let (without, nothing) = ordeal(&server)?;
    ensure!(in_kernel > 0.0 && nothing == 0.0, "{in_kernel} and {nothing} packets in the kernel");
    ensure!(with == without, "the kernel makes a difference:\nwith    {with:?}\nwithout {without:?}");
    Ok(format!("{in_kernel} packets in the kernel; {:?}", with.counts))
}

/// Everything that a client, its peer and strangers may come up with, each thing a few times.
fn ordeal(server: &Server) -> Step<(Outcome, f64)> {
    const TIMES: usize = 20;
    let mut call = call(server)?;
    for number in 0..10 {
        call.exchange(number)?;
    }
    server.wait_for("hairpin_relayed_packets_total", |count| count == 20.0)?;
    let before = counts(server)?;
    let mut sent = 0;
    // Headers that lie about their lengths, and channels that are none or not this client's.
    let mut malformed: Vec<Vec<u8>> = Vec::new();
    for (channel, len, bytes) in [
        (CHANNEL, 5_u16, 4_usize),
        (CHANNEL, 0xFFFF, 100),
        (CHANNEL, 101, 100),
        (CHANNEL, 0, 0),
        (CHANNEL, 3, 4),
        (CHANNEL, 3, 7),
        (CHANNEL, 0, 60),
        (CHANNEL + 1, 8, 8),
        (0x3FFF, 8, 8),
        (0x4FFF, 8, 8),
        (0x5000, 8, 8),
        (0x7FFF, 8, 8),
        (0xFFFF, 8, 8),
    ] {
        let mut message = [channel.to_be_bytes(), len.to_be_bytes()].concat();
        message.extend(std::iter::repeat_n(b'm', bytes));
        malformed.push(message);
    }
    malformed.extend([vec![], vec![0x40], vec![0x40, 0x01], vec![0x40, 0x01, 0x00]]);
    for _ in 0..TIMES {
        for message in &malformed {
            call.client.tell(message)?;
            sent += 1;
        }
    }
    // The channel's data from somebody else: another address, and the client's address with another port.
    let strangers = ["45.9.10.77", world::CLIENT, world::PEER];
    for address in strangers {
        let stranger = UdpSocket::bind((address, 0)).expect("an address of ours");
        for _ in 0..TIMES {
            let message = channel_data(CHANNEL, b"not from the client");
            stranger.send_to(&message, server.addresses[&Transport::Udp]).expect("it is near");
            sent += 1;
        }
    }
    // To the relayed address from somebody without a permission, and from the peer's address with another port, which has
    // one, but no channel.
    let unpermitted = UdpSocket::bind(("45.9.10.78", 0)).expect("an address of ours");
    let other_port = UdpSocket::bind((world::PEER, 0)).expect("as before");
    for _ in 0..TIMES {
        unpermitted.send_to(b"no permission", call.relayed).expect("it is near");
        other_port.send_to(b"a permission, no channel", call.relayed).expect("as before");
        sent += 2;
    }
    // Behind it all good ones, which go on passing.
    for number in 0..10 {
        let data = format!("good packet {number}");
        call.client.send_on_channel(CHANNEL, data.as_bytes())?;
        call.peer.send_to(data.as_bytes(), call.relayed).expect("it is near");
        sent += 2;
    }
    let settled = |counts: &BTreeMap<String, u64>| counts.iter().map(|(name, count)| count - before[name]).sum::<u64>();
    // Datagrams without a byte and Binding-like ones are counted as well: all of them are one or the other.
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    let mut now = counts(server)?;
    while settled(&now) < sent as u64 && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        now = counts(server)?;
    }
    ensure!(settled(&now) == sent as u64, "of {sent} packets the counters explain {}: {now:?}", settled(&now));
    // After its end nothing passes, be it on its way already or not.
    call.client.ask_signed(&refresh_for(0))?.success()?;
    for _ in 0..TIMES {
        call.client.send_on_channel(CHANNEL, b"after the end")?;
        let _ = call.peer.send_to(b"after the end", call.relayed);
    }
    let in_kernel = server.metric("hairpin_offload_packets_total")?;
    let heard = call.client.all_before_now()?;
    let mut at_client: Vec<String> = heard.iter().map(described).collect();
    at_client.sort();
    call.peer.set_read_timeout(Some(Duration::from_millis(300))).expect("as always");
    let (mut at_peer, mut buffer) = (Vec::new(), [0; 2048]);
    while let Ok((len, from)) = call.peer.recv_from(&mut buffer) {
        ensure!(from == call.relayed, "from {from}");
        at_peer.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
    }
    at_peer.sort();
    let counts =
        now.into_iter().map(|(name, count)| (name.clone(), count - before[&name])).filter(|(_, count)| *count > 0);
    let outcome = Outcome { at_peer, at_client, counts: counts.collect() };
    ensure!(!outcome.at_peer.iter().any(|data| data.contains("after") || data.contains("not from")), "{outcome:?}");
    server.client_of(Transport::Udp, ALICE, None)?.allocate()?;
    server.serves()?;
    Ok((outcome, in_kernel))
}

/// Ports and transaction ids differ from run to run.
fn described(arrival: &Arrival) -> String {
    match arrival {
        Arrival::ChannelData { number, data, .. } => format!("{number:x} {}", String::from_utf8_lossy(data)),
        Arrival::Stun(message) => format!("a message with {:?}", message.text(DATA)),
        _ => "something else".to_owned(),
    }
}

/// What was relayed and what was dropped, by reason.
pub fn counts(server: &Server) -> Step<BTreeMap<String, u64>> {
    let text = server.http(&format!("GET /metrics HTTP/1.1\r\nhost: {}\r\n\r\n", server.admin))?;
    let wanted = ["hairpin_relayed_packets_total{", "hairpin_dropped_packets_total{"];
    let lines = text.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    let counts = lines.filter_map(|line| line.rsplit_once(' '));
    Ok(counts.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect())
}
