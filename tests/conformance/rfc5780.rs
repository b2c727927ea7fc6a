//! RFC 5780: NAT behaviour discovery.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::case::{Need, Section, Step, failed, must, policy, should};
use crate::client::Judged;
use crate::drafts::*;
use crate::ensure;
use crate::link::{Arrival, PATIENCE, TCP, Transport, UDP};
use crate::numbers::*;
use crate::wire::{Draft, Message};

const ON: &[Need] = &[Need::TwoAddresses];
const CHANGE_IP: u32 = 4;
const CHANGE_PORT: u32 = 2;

pub fn sections() -> Vec<Section> {
    vec![discovery()]
}

fn discovery() -> Section {
    let cases = vec![
        should("NATB-5780-6-01", "two addresses with the same two ports each").over(UDP).needs(ON).test(|bench| {
            for server in four(bench)? {
                let (response, from) = ask(server, &binding())?;
                ensure!(from == server, "{server} answers from {from}: {response}");
            }
            Ok(())
        }),
        must("NATB-5780-6-02", "without a second address CHANGE-REQUEST is unknown")
            .needs(&[Need::NoSecondAddress])
            .test(|bench| {
                let mut client = bench.client()?;
                let response = client.ask(&binding())?.success()?;
                ensure!(!response.has(OTHER_ADDRESS), "OTHER-ADDRESS: {response}");
                client.ask(&binding().number(CHANGE_REQUEST, CHANGE_IP | CHANGE_PORT))?.error_is(420).map(drop)
            }),
        must("NATB-5780-6.1-01", "both MAPPED-ADDRESS and XOR-MAPPED-ADDRESS").needs(ON).test(|bench| {
            let response = bench.client()?.ask(&binding())?.success()?;
            let (plain, xored) = (response.plain(MAPPED_ADDRESS), response.xored(XOR_MAPPED_ADDRESS));
            ensure!(plain.is_some() && plain == xored, "expected the same address twice: {response}");
            Ok(())
        }),
        must("NATB-5780-6.1-02", "the response leaves from where CHANGE-REQUEST says").over(UDP).needs(ON).test(
            |bench| {
                sixteen(bench, |_, from, expected, response| {
                    ensure!(from == expected, "expected it from {expected}, it came from {from}: {response}");
                    Ok(())
                })
            },
        ),
        must("NATB-5780-6.1-03", "RESPONSE-ORIGIN is where the response leaves from").over(UDP).needs(ON).test(
            |bench| {
                sixteen(bench, |_, from, _, response| {
                    ensure!(response.plain(RESPONSE_ORIGIN) == Some(from), "it came from {from}: {response}");
                    Ok(())
                })
            },
        ),
        must("NATB-5780-6.1-04", "OTHER-ADDRESS is the other address and port").over(UDP).needs(ON).test(|bench| {
            let all = four(bench)?;
            sixteen(bench, move |server, _, _, response| {
                let other = all.iter().find(|other| other.ip() != server.ip() && other.port() != server.port());
                let Some(other) = other else { return failed("two addresses and two ports are four") };
                ensure!(response.plain(OTHER_ADDRESS) == Some(*other), "expected OTHER-ADDRESS={other} : {response}");
                Ok(())
            })
        }),
        must("NATB-5780-6.1-06", "PADDING is answered with PADDING").over(UDP).needs(ON).test(|bench| {
            let response = bench.client()?.ask(&binding().with(PADDING, [0; 1_500]))?.success()?;
            let len = response.get(PADDING).map(<[u8]>::len);
            ensure!(len.is_some_and(|len| len > 0 && len.is_multiple_of(4)), "expected PADDING: {response}");
            Ok(())
        }),
        must("NATB-5780-6.1-07", "PADDING together with RESPONSE-PORT is 400").over(UDP).needs(ON).test(|bench| {
            let draft = binding().with(PADDING, [0; 64]).with(RESPONSE_PORT, [0x20, 0, 0, 0]);
            bench.client()?.ask(&draft)?.error_is(400).map(drop)
        }),
        must("NATB-5780-6.1-08", "no ALTERNATE-SERVER beside these attributes").needs(ON).test(|bench| {
            let response = bench.client()?.ask(&binding())?.success()?;
            ensure!(!response.has(ALTERNATE_SERVER), "ALTERNATE-SERVER: {response}");
            Ok(())
        }),
        must("NATB-5780-7.2-01", "CHANGE-REQUEST has four bytes, and is for Binding").over(UDP).needs(ON).test(
            |bench| {
                let [server, ..] = four(bench)?;
                for wrong in [0, 3, 8] {
                    let (response, _) = ask(server, &binding().with(CHANGE_REQUEST, vec![0; wrong]))?;
                    response.error_is_one_of(&[400, 420])?;
                }
                let (response, _) = ask(server, &binding().number(CHANGE_REQUEST, 0))?;
                response.success().map(drop)
            },
        ),
        policy("NATB-5780-7.2-02", "over TCP only flags of zero can be honoured").over(TCP).needs(ON).test(|bench| {
            let mut client = bench.client()?;
            let both = binding().number(CHANGE_REQUEST, CHANGE_IP | CHANGE_PORT);
            client.ask(&both)?.error_is_one_of(&[400, 420])?;
            client.ask(&binding().number(CHANGE_REQUEST, 0))?.success().map(drop)
        }),
        must("NATB-5780-7.5-01", "RESPONSE-PORT sends the answer to another port").over(UDP).needs(ON).test(|bench| {
            let [server, ..] = four(bench)?;
            let other = socket(server)?;
            let port = other.local_addr().expect("it is bound").port().to_be_bytes();
            let draft = binding().with(RESPONSE_PORT, [port[0], port[1], 0, 0]);
            let asking = socket(server)?;
            asking.send_to(draft.bytes(), server).or_else(|error| failed(error.to_string()))?;
            let (response, _) = receive(&other, &draft)?;
            response.success().map(drop)
        }),
        must("NATB-5780-7.6-01", "a PADDING of 60,000 bytes does no harm").over(UDP).needs(ON).test(|bench| {
            let mut client = bench.client()?;
            client.tell(binding().with(PADDING, vec![0; 60_000]).bytes())?;
            client.all_before_now().map(drop)
        }),
        policy("NATB-5780-10-01", "by default it is off").needs(&[Need::NoSecondAddress]).test(|bench| {
            let mut client = bench.client()?;
            for draft in [
                binding().number(CHANGE_REQUEST, CHANGE_IP),
                binding().with(PADDING, [0; 64]),
                binding().with(RESPONSE_PORT, [0x20, 0, 0, 0]),
            ] {
                client.ask(&draft)?.error_is(420)?;
            }
            Ok(())
        }),
        policy("NATB-5780-7-01", "CACHE-TIMEOUT is ignored")
            .test(|bench| bench.client()?.ask(&binding().number(CACHE_TIMEOUT, 60))?.success().map(drop)),
    ];
    Section { title: "RFC 5780 NAT behaviour discovery", cases }
}

/// Both addresses with both ports, the one of the command line first.
fn four(bench: &Bench) -> Step<[SocketAddr; 4]> {
    let Some(server) = bench.target.address(Transport::Udp) else {
        return crate::case::not_applicable("needs udp");
    };
    let (response, _) = ask(server, &binding())?;
    let Some(other) = response.plain(OTHER_ADDRESS) else {
        return failed(format!("expected OTHER-ADDRESS: {response}"));
    };
    let distinct = other.ip() != server.ip() && other.port() != server.port();
    ensure!(distinct, "OTHER-ADDRESS of {server} is {other}: {response}");
    let (here, there) = (server.ip(), other.ip());
    Ok([server, other, SocketAddr::new(here, other.port()), SocketAddr::new(there, server.port())])
}

/// Each of the four, with each of the four flags: the server, the source, the source that was asked for, the response.
fn sixteen(bench: &Bench, judge: impl Fn(SocketAddr, SocketAddr, SocketAddr, &Message) -> Step<()>) -> Step<()> {
    let all = four(bench)?;
    let (ips, ports) = ([all[0].ip(), all[1].ip()], [all[0].port(), all[1].port()]);
    for server in all {
        for flags in [0, CHANGE_IP, CHANGE_PORT, CHANGE_IP | CHANGE_PORT] {
            let other_ip = if ips[0] == server.ip() { ips[1] } else { ips[0] };
            let other_port = if ports[0] == server.port() { ports[1] } else { ports[0] };
            let ip = if flags & CHANGE_IP != 0 { other_ip } else { server.ip() };
            let port = if flags & CHANGE_PORT != 0 { other_port } else { server.port() };
            let (response, from) = ask(server, &binding().number(CHANGE_REQUEST, flags))?;
            judge(server, from, SocketAddr::new(ip, port), &response.success()?)?;
        }
    }
    Ok(())
}

fn socket(server: SocketAddr) -> Step<UdpSocket> {
    let any = if server.ip().is_loopback() { [127, 0, 0, 1] } else { [0; 4] };
    UdpSocket::bind((IpAddr::from(any), 0)).or_else(|error| failed(error.to_string()))
}

/// Asks from a socket that hears everybody.
fn ask(server: SocketAddr, draft: &Draft) -> Step<(Message, SocketAddr)> {
    let socket = socket(server)?;
    socket.send_to(draft.bytes(), server).or_else(|error| failed(error.to_string()))?;
    receive(&socket, draft)
}

fn receive(socket: &UdpSocket, draft: &Draft) -> Step<(Message, SocketAddr)> {
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = [0; 70_000];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "expected a response, but none came in {} s", PATIENCE.as_secs());
        let timeout = Some(left.max(Duration::from_millis(1)));
        let received = socket.set_read_timeout(timeout).and_then(|()| socket.recv_from(&mut bytes));
        let Ok((len, from)) = received else { continue };
        match Message::read(&bytes[..len]) {
            Ok(message) if message.id() == draft.id() => return Ok((message, from)),
            Ok(message) => return failed(format!("expected a response, received: {}", Arrival::Stun(message))),
            Err(why) => return failed(why),
        }
    }
}
