//! Bad links are as bad as they say: how many of a burst of packets come through?

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Trial};
use netlab::lab::Lab;
use netlab::topology::{Service, Topology};
use netlab::{Session, impair};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

const PACKETS: usize = 400;
const PACKET_BYTES: usize = 1000;
/// Room for the whole burst in the receiver's socket, with what the kernel adds to each packet.
const ROOM_BYTES: usize = 8 << 20;

/// After a silence of this length, nothing more is on its way.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How often, and how long each time, to try whether the way is open.
const WARM_UP_ATTEMPTS: usize = 20;
const WARM_UP_INTERVAL: Duration = Duration::from_millis(100);

/// How often there and back.
const ROUND_TRIPS: u64 = 20;

/// A router's keys, how many packets of the burst arrive, and how long the first takes at the least.
const CASES: &[(&str, &str, RangeInclusive<usize>, u64)] = &[
    ("a good link loses nothing", "", PACKETS..=PACKETS, 0),
    // Chance would have to try 10^30 times to leave these bounds.
    ("a link that loses half does", r#"loss = "50%""#, 80..=320, 0),
    ("a link that loses everything does", r#"loss = "100%""#, 0..=0, 0),
    // 400 kB at once: a queue of 0.4 s holds 50 kB of it.
    ("a slow link drops what its queue does not hold", r#"rate = "1mbit""#, 20..=200, 0),
    ("a link with delay has it", r#"delay = "60ms""#, PACKETS..=PACKETS, 60),
    // The first to arrive is no earlier than the delay less the jitter, and there is one.
    ("a link with jitter keeps within it", "delay = \"60ms\"\njitter = \"20ms\"", PACKETS..=PACKETS, 40),
    ("a slow link with delay has both", "rate = \"1mbit\"\ndelay = \"60ms\"", 20..=200, 60),
];

fn main() {
    let arguments = Arguments::from_args();
    let session: &'static Result<_, _> = Box::leak(Box::new(Session::enter()));
    let trials = CASES.iter().map(|(name, keys, arriving, late)| {
        Trial::test(name.replace(' ', "_"), move || {
            let session = match session {
                Ok(session) => session,
                Err(reason) => {
                    eprintln!("SKIP: {reason}");
                    return Ok(());
                }
            };
            let topology = topology(keys)?;
            if let Err(missing) = impair::missing_for(&topology) {
                eprintln!("SKIP: {missing}");
                return Ok(());
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let measured = runtime.block_on(burst(session, &topology)).map_err(|error| format!("{error:#}"))?;
            let (arrived, first) = measured;
            if arriving.contains(&arrived) && first.is_none_or(|first| first >= Duration::from_millis(*late)) {
                Ok(())
            } else {
                Err(format!("{arrived} of {PACKETS} packets arrived, the first after {first:?}").into())
            }
        })
    });
    let once = Trial::test("a_link_with_delay_has_it_once_in_each_direction", move || {
        let (Ok(session), topology) = (session, topology(r#"delay = "60ms""#)?) else { return Ok(()) };
        if impair::missing_for(&topology).is_ok() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let trip =
                runtime.block_on(quickest_round_trip(session, &topology)).map_err(|error| format!("{error:#}"))?;
            // One more delay's time for a machine that is busy, in its best of many moments.
            if !(120..180).contains(&trip.as_millis()) {
                return Err(format!("the quickest round trip took {trip:?}").into());
            }
        }
        Ok(())
    });
    let conclusion = libtest_mimic::run(&arguments, trials.chain([once]).collect());
    if let Ok(session) = session {
        // The session is leaked, so nothing drops it.
        let _ = std::fs::remove_dir_all(session.directory());
    }
    conclusion.exit()
}

fn topology(keys: &str) -> Result<Topology> {
    let router = |name: &str, keys: &str| format!("[[router]]\nname = \"{name}\"\nnat = \"none\"\n{keys}\n");
    let host = |kind: &str, name: &str, more: &str| {
        format!(
            "[[{kind}]]\nname = \"{name}\"\nbehind = \"{}\"\n{more}\n",
            if kind == "browser" { "far" } else { "near" }
        )
    };
    let text = [
        "description = \"a link\"\n".to_owned(),
        router("near", ""),
        router("far", keys),
        host("server", "web", "runs = \"web\""),
        host("server", "turn", "runs = \"turn\""),
        host("browser", "browser-l", ""),
    ];
    Ok(Topology::parse("link.toml", &text.concat())?)
}

/// Sends packets from the web server to the browser's host all at once. How many arrive, and when does the first?
async fn burst(session: &Session, topology: &Topology) -> Result<(usize, Option<Duration>)> {
    let lab = Lab::build(session, topology).await?;
    let (sender, _) = lab.server(Service::Web)?;
    let receiver = lab.device("browser-l")?;
    let target = SocketAddr::from((receiver.ip().context("no address")?, 9000));
    let listening = receiver.spawn(move |_| UdpSocket::bind(target))?.await??;
    // On a busy machine the receiver may not run while all of them arrive.
    setsockopt(&listening, sockopt::RcvBufForce, &ROOM_BYTES).context("SO_RCVBUFFORCE")?;
    let socket = sender.spawn(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?.await??;
    // Neighbours on new links may need a second to find each other. The packets until then are told apart by their size.
    let (socket, listening) = (Arc::new(socket), Arc::new(listening));
    for _ in 0..WARM_UP_ATTEMPTS {
        let (socket, listening) = (Arc::clone(&socket), Arc::clone(&listening));
        sender.spawn(move |_| async move { socket.send_to(b"hello", target).await })?.await??;
        let hears = async move |_| timeout(WARM_UP_INTERVAL, listening.recv_from(&mut [0; PACKET_BYTES])).await.is_ok();
        if receiver.spawn(hears)?.await? {
            break;
        }
    }
    let counting = receiver.spawn(move |_| async move {
        let (mut arrived, mut first) = (0, None);
        let mut packet = [0; PACKET_BYTES];
        while let Ok(Ok((length, _))) = timeout(PATIENCE, listening.recv_from(&mut packet)).await {
            if length == PACKET_BYTES {
                first.get_or_insert_with(Instant::now);
                arrived += 1;
            }
        }
        (arrived, first)
    })?;
    let started = Instant::now();
    let sending = sender.spawn(move |_| async move {
        for number in 0..PACKETS {
            socket.send_to(&[0; PACKET_BYTES], target).await?;
            // The receiver's socket buffer is no part of the link.
            if number % 50 == 49 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        std::io::Result::Ok(())
    })?;
    sending.await??;
    let (arrived, first) = counting.await?;
    Ok((arrived, first.map(|first| first - started)))
}

/// The quickest of many answers of the browser's host to the web server.
async fn quickest_round_trip(session: &Session, topology: &Topology) -> Result<Duration> {
    let lab = Lab::build(session, topology).await?;
    let (near, far) = (lab.server(Service::Web)?.0, lab.device("browser-l")?);
    let target = SocketAddr::from((far.ip().context("no address")?, 9000));
    let listening = far.spawn(move |_| UdpSocket::bind(target))?.await??;
    let _echo = far.spawn(move |_| async move {
        let mut packet = [0; 8];
        while let Ok((length, from)) = listening.recv_from(&mut packet).await {
            let _ = listening.send_to(&packet[..length], from).await;
        }
    })?;
    let measuring = near.spawn(move |_| async move {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        let mut quickest = None;
        for number in 0..ROUND_TRIPS {
            let started = Instant::now();
            socket.send_to(&number.to_be_bytes(), target).await?;
            let mut answer = [0; 8];
            while let Ok(Ok((8, _))) = timeout(PATIENCE, socket.recv_from(&mut answer)).await {
                if answer == number.to_be_bytes() {
                    quickest = quickest.min(Some(started.elapsed())).or(Some(started.elapsed()));
                    break;
                }
            }
        }
        std::io::Result::Ok(quickest)
    })?;
    measuring.await??.context("no answer")
}
