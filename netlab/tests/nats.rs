//! Each NAT of the lab does what its name says, by RFC 4787's own tests: where do packets to two servers come from
//! (mapping), and whose packets come back (filtering)?

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Trial};
use netlab::Session;
use netlab::lab::Lab;
use netlab::topology::{Nat, Service, Topology};
use patchbay::Device;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// A packet in the lab takes less than a millisecond; one that has not come by then was filtered.
const PATIENCE: Duration = Duration::from_millis(400);

/// Which of the packets that the client has not asked for reach it, and from where its own seem to come.
#[derive(Debug, PartialEq, Eq)]
struct Behaviour {
    /// Packets to two servers come from one address and port.
    same_mapping: bool,
    /// A packet from another port of the server that was spoken to arrives.
    hears_other_port: bool,
    /// A packet from a server that was never spoken to arrives.
    hears_other_server: bool,
}

const CASES: &[(Nat, Behaviour)] = &[
    (Nat::None, Behaviour { same_mapping: true, hears_other_port: true, hears_other_server: true }),
    (Nat::Cone, Behaviour { same_mapping: true, hears_other_port: true, hears_other_server: true }),
    (Nat::AddressRestricted, Behaviour { same_mapping: true, hears_other_port: true, hears_other_server: false }),
    (Nat::PortRestricted, Behaviour { same_mapping: true, hears_other_port: false, hears_other_server: false }),
    (Nat::OneToOne, Behaviour { same_mapping: true, hears_other_port: true, hears_other_server: true }),
    (Nat::Symmetric, Behaviour { same_mapping: false, hears_other_port: false, hears_other_server: false }),
];

fn main() {
    let arguments = Arguments::from_args();
    let session: &'static Result<_, _> = Box::leak(Box::new(Session::enter()));
    let trials = CASES.iter().map(|(nat, expected)| {
        Trial::test(format!("nat_{nat}_behaves_as_its_name_says"), move || {
            let session = match session {
                Ok(session) => session,
                Err(reason) => {
                    eprintln!("SKIP: {reason}");
                    return Ok(());
                }
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let found = runtime.block_on(measure(session, *nat)).map_err(|error| format!("{error:#}"))?;
            if found == *expected { Ok(()) } else { Err(format!("expected {expected:?}, found {found:?}").into()) }
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if let Ok(session) = session {
        // The session is leaked, so nothing drops it.
        let _ = std::fs::remove_dir_all(session.directory());
    }
    conclusion.exit()
}

async fn measure(session: &Session, nat: Nat) -> Result<Behaviour> {
    let topology = Topology::load("internet")?.with_nat("coffee-shop", nat)?;
    let lab = Lab::build(session, &topology).await?;
    let client = lab.device("browser-l")?;
    let (known, known_address) = lab.server(Service::Web)?;
    let (stranger, stranger_address) = lab.server(Service::Turn)?;

    let known_socket = bind(known, known_address, 9001).await?;
    let known_other_port = bind(known, known_address, 9002).await?;
    let stranger_socket = bind(stranger, stranger_address, 9001).await?;

    // Filtering first: one packet, to one port of one server, and then see who gets through to where it came from.
    let socket = bind(client, Ipv4Addr::UNSPECIFIED, 0).await?;
    let outside = reach(client, &socket, known, &known_socket).await?;
    send(known, &known_socket, outside).await?;
    ensure!(hears(client, &socket).await?, "not even the server that was spoken to gets an answer through");
    send(known, &known_other_port, outside).await?;
    let hears_other_port = hears(client, &socket).await?;
    send(stranger, &stranger_socket, outside).await?;
    let hears_other_server = hears(client, &socket).await?;

    // Mapping, with a new socket.
    let socket = bind(client, Ipv4Addr::UNSPECIFIED, 0).await?;
    let first = reach(client, &socket, known, &known_socket).await?;
    let second = reach(client, &socket, stranger, &stranger_socket).await?;
    Ok(Behaviour { same_mapping: first == second, hears_other_port, hears_other_server })
}

type Socket = std::sync::Arc<UdpSocket>;

/// Binds a socket on a node. It belongs to that node's runtime, so everything done with it is done there.
async fn bind(node: &Device, address: Ipv4Addr, port: u16) -> Result<Socket> {
    let socket = node.spawn(move |_| UdpSocket::bind((address, port)))?.await?;
    Ok(socket.with_context(|| format!("cannot bind {address}:{port} on {}", node.name()))?.into())
}

async fn send(node: &Device, socket: &Socket, to: SocketAddr) -> Result<()> {
    let socket = Socket::clone(socket);
    node.spawn(move |_| async move { socket.send_to(b"hello", to).await })?.await??;
    Ok(())
}

/// Whether a packet arrives. What arrives is taken out, so that it is not mistaken for the next.
async fn hears(node: &Device, socket: &Socket) -> Result<bool> {
    Ok(source_of_next(node, socket).await?.is_some())
}

/// Sends from the client to a server and says from where the server sees it come.
async fn reach(client: &Device, socket: &Socket, server: &Device, server_socket: &Socket) -> Result<SocketAddr> {
    send(client, socket, server_socket.local_addr()?).await?;
    source_of_next(server, server_socket).await?.context("the client's packet does not arrive")
}

async fn source_of_next(node: &Device, socket: &Socket) -> Result<Option<SocketAddr>> {
    let socket = Socket::clone(socket);
    let receive = node.spawn(move |_| async move { timeout(PATIENCE, socket.recv_from(&mut [0; 64])).await })?;
    match receive.await? {
        Ok(received) => Ok(Some(received?.1)),
        Err(_) => Ok(None),
    }
}
