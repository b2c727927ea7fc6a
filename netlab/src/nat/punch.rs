//! Hole punching with bare UDP sockets: every kind of NAT against every other, without a browser.
//!
//! All of a grid's pairs share one lab: two routers of each kind, a host behind each, and for every attempt two new
//! sockets, whose external addresses nobody has met before.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use patchbay::Device;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Nat;
use super::model::{self, Order};
use super::probe::{ask, bind};
use super::stun::Wish;
use crate::lab::Lab;
use crate::topology::{Host, Role, Service, Topology, TopologyError};

/// How often a side sends to everybody it knows of ...
const ROUNDS: u32 = 8;

/// ... and how long it listens in between: a packet in the lab takes far less than a millisecond.
const ROUND: Duration = Duration::from_millis(60);

/// What is sent by a side that has not heard the other yet ...
const HELLO: &[u8] = b"hello";

/// ... and by one that has.
const YES: &[u8] = b"I hear you";

/// How many pairs are tried at the same time.
const PAIRS_AT_ONCE: usize = 24;

/// One attempt, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The two NATs.
    pub nats: [Nat; 2],
    /// Which side sent first.
    pub order: Order,
    /// Whether both sides have heard that they were heard.
    pub reached: bool,
}

impl Attempt {
    /// Whether RFC 4787 lets one expect that it succeeds.
    pub fn expected(&self) -> bool {
        model::reaches(self.nats, self.order)
    }
}

/// A topology with two routers of each kind, numbered by their place in `nats`, and a host behind each.
///
/// # Errors
/// There are none to begin with: the shipped topology it starts from is valid.
pub fn topology(nats: &[Nat]) -> Result<Topology, TopologyError> {
    let mut topology = Topology::load("internet")?;
    topology.name = "punch".to_owned();
    topology.routers.retain(|router| router.name == "datacenter");
    topology.hosts.retain(|host| host.behind == "datacenter");
    let template = topology.routers[0].clone();
    for (number, nat) in nats.iter().enumerate() {
        for side in ["l", "r"] {
            let name = format!("{side}{number}");
            // All the rest as with a router that does nothing.
            let mut router = template.clone();
            router.name.clone_from(&name);
            router.nat = *nat;
            topology.routers.push(router);
            let name_of_host = format!("host-{name}");
            topology.hosts.push(Host {
                name: name_of_host,
                role: Role::Browser,
                behind: name,
                turn: None,
                proxy: None,
                number: None,
            });
        }
    }
    Ok(topology)
}

/// Tries all pairs of `nats` in both orders, in a lab of [`topology`] whose TURN server answers STUN. In the order of
/// the list: row, column, who is first.
///
/// # Errors
/// The lab is of another topology, or STUN does not work.
pub async fn grid(lab: &Lab, nats: &[Nat]) -> Result<Vec<Attempt>> {
    let (_, server) = lab.server(Service::Turn)?;
    let server = SocketAddr::from((server, crate::turn::PORT));
    let mut waiting = Vec::new();
    for row in 0..nats.len() {
        for column in 0..nats.len() {
            for order in Order::BOTH {
                let devices = [format!("host-l{row}"), format!("host-r{column}")];
                let [left, right] = devices.map(|name| lab.device(&name).cloned());
                let attempt = Attempt { nats: [nats[row], nats[column]], order, reached: false };
                waiting.push((waiting.len(), attempt, [left?, right?]));
            }
        }
    }
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    let mut waiting = waiting.into_iter();
    loop {
        while running.len() < PAIRS_AT_ONCE
            && let Some((number, attempt, devices)) = waiting.next()
        {
            running.spawn(async move {
                let reached = punch(devices, server, attempt.order).await;
                reached.map(|reached| (number, Attempt { reached, ..attempt }))
            });
        }
        match running.join_next().await {
            Some(result) => done.push(result.context("an attempt panicked")??),
            None => break,
        }
    }
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, attempt)| attempt).collect())
}

/// Lets two hosts try to reach each other.
async fn punch(devices: [Device; 2], server: SocketAddr, order: Order) -> Result<bool> {
    let mut sides = Vec::new();
    for device in &devices {
        let socket = device.spawn(move |_| async move {
            let socket = bind().await?;
            let answer = ask(&socket, server, Wish::default()).await?.context("the STUN server does not answer")?;
            anyhow::Ok((socket, answer.mapped))
        })?;
        sides.push(socket.await??);
    }
    let [(left, left_mapped), (right, right_mapped)] =
        <[_; 2]>::try_from(sides).ok().context("a pair has two sides")?;
    let [left_device, right_device] = devices;
    let (mut ahead, mut behind) = ((left_device, left, right_mapped), (right_device, right, left_mapped));
    if order == Order::SecondFirst {
        std::mem::swap(&mut ahead, &mut behind);
    }
    let (sent, was_sent) = oneshot::channel();
    let (device, socket, target) = ahead;
    let ahead = device.spawn(move |_| knock(socket, target, None, Some(sent)))?;
    let (device, socket, target) = behind;
    let behind = device.spawn(move |_| knock(socket, target, Some(was_sent), None))?;
    let (ahead, behind) = tokio::join!(ahead, behind);
    Ok(ahead?? && behind??)
}

/// Sends to the other side's address, and to every address that it hears from, until it is heard or gives up.
async fn knock(
    socket: UdpSocket,
    target: SocketAddr,
    begin: Option<oneshot::Receiver<()>>,
    begun: Option<oneshot::Sender<()>>,
) -> Result<bool> {
    if let Some(begin) = begin {
        // Across a pair of virtual links the first packet is at its end, or dropped, before sending it returns; the
        // pause is for a kernel that puts that off.
        let _ = begin.await;
        tokio::time::sleep(ROUND / 4).await;
    }
    let mut targets = vec![target];
    let mut begun = begun;
    let (mut has_heard, mut is_heard) = (false, false);
    let mut bytes = [0; 16];
    for _ in 0..ROUNDS {
        for target in &targets {
            // What an earlier packet met on its way may be reported here.
            let _ = socket.send_to(if has_heard { YES } else { HELLO }, target).await;
        }
        if let Some(begun) = begun.take() {
            let _ = begun.send(());
        }
        let deadline = Instant::now() + ROUND;
        while let Ok(received) = timeout_at(deadline, socket.recv_from(&mut bytes)).await {
            let Ok((length, source)) = received else { continue };
            has_heard = true;
            is_heard |= &bytes[..length] == YES;
            if !targets.contains(&source) {
                targets.push(source);
            }
        }
        // Once more, so that the other side hears it, too.
        if is_heard {
            for target in &targets {
                let _ = socket.send_to(YES, target).await;
            }
            return Ok(true);
        }
    }
    Ok(false)
}
