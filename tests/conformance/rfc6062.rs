//! RFC 6062: TCP allocations; and RFC 6544, whose relayed candidates they are.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::case::{Need, Section, Step, failed, must, policy};
use crate::client::{Client, Judged};
use crate::drafts::*;
use crate::ensure;
use crate::link::{Arrival, DATAGRAMS, PATIENCE, STREAMS, TCP};
use crate::numbers::*;
use crate::wire::Draft;

const ON: &[Need] = &[Need::TcpRelay];

pub fn sections() -> Vec<Section> {
    vec![allocating(), connecting(), listening(), binding_connections()]
}

fn allocating() -> Section {
    let cases = vec![
        must("TCP-6062-4.2-01", "on a data connection Refresh is data").over(STREAMS).needs(ON).test(|bench| {
            let (_control, mut data, mut peer) = connected(bench)?;
            let request = refresh();
            data.tell(request.bytes())?;
            expect(&mut peer, request.bytes())
        }),
        must("TCP-6062-5.1-01", "a protocol that is not served is 442").test(|bench| {
            let mut client = bench.client()?;
            let sctp = Draft::new(message::ALLOCATE).with(REQUESTED_TRANSPORT, [132, 0, 0, 0]);
            client.ask_signed(&sctp)?.error_is(442)?;
            if !bench.target.has.contains(&Need::TcpRelay) && client.transport().is_stream() {
                client.ask_signed(&allocate_tcp())?.error_is(442)?;
            }
            Ok(())
        }),
        must("TCP-6062-5.1-02", "UDP that is forbidden is 403")
            .over(STREAMS)
            .needs(&[Need::TcpRelayOnly])
            .test(|bench| bench.client()?.ask_signed(&allocate())?.error_is(403).map(drop)),
        must("TCP-6062-5.1-03", "a TCP relay asked for over UDP is 400")
            .over(DATAGRAMS)
            .needs(ON)
            .test(|bench| bench.client()?.ask_signed(&allocate_tcp())?.error_is(400).map(drop)),
        must("TCP-6062-5.1-04", "DONT-FRAGMENT, EVEN-PORT and RESERVATION-TOKEN are 400").over(STREAMS).needs(ON).test(
            |bench| {
                let mut client = bench.client()?;
                for (kind, value) in [(DONT_FRAGMENT, &[][..]), (EVEN_PORT, &[0]), (RESERVATION_TOKEN, &[7; 8])] {
                    let response = client.ask_signed(&allocate_tcp().with(kind, value))?;
                    ensure!(response.error() == Some(400), "expected 400 with {}: {response}", attribute_name(kind));
                }
                Ok(())
            },
        ),
        must("TCP-6062-5.1-05", "the relayed address listens").over(STREAMS).needs(ON).test(|bench| {
            let mut client = bench.client()?;
            let response = client.ask_signed(&allocate_tcp())?.success()?;
            ensure!(!response.has(RESERVATION_TOKEN), "RESERVATION-TOKEN: {response}");
            let Some(relayed) = response.xored(XOR_RELAYED_ADDRESS) else {
                return failed(format!("no XOR-RELAYED-ADDRESS: {response}"));
            };
            match TcpStream::connect_timeout(&relayed, PATIENCE) {
                // Whoever has no permission is turned away, at once.
                Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
                    failed(format!("{relayed} does not accept: {error}"))
                }
                _ => Ok(()),
            }
        }),
    ];
    Section { title: "RFC 6062 §4, §5.1 TCP allocations", cases }
}

fn connecting() -> Section {
    let cases = vec![
        must("TCP-6062-5.2-01", "Connect without an allocation is 437").over(STREAMS).needs(ON).test(|bench| {
            let peer = bench.elsewhere(1)?;
            bench.client()?.ask_signed(&connect(peer))?.error_is(437).map(drop)
        }),
        must("TCP-6062-5.2-02", "a second Connect to the same peer is 446").over(STREAMS).needs(ON).test(|bench| {
            let (mut client, _) = tcp_allocated(bench)?;
            let (_listener, peer) = listener(bench)?;
            client.ask_signed(&connect(peer))?.success()?;
            client.ask_signed(&connect(peer))?.error_is(446).map(drop)
        }),
        must("TCP-6062-5.2-03", "Connect without a peer is 400").over(STREAMS).needs(ON).test(|bench| {
            let (mut client, _) = tcp_allocated(bench)?;
            client.ask_signed(&Draft::new(message::CONNECT))?.error_is(400).map(drop)
        }),
        must("TCP-6062-5.2-04", "a forbidden peer is 403, one of another family 443").over(STREAMS).needs(ON).test(
            |bench| {
                let (mut client, _) = tcp_allocated(bench)?;
                let multicast = SocketAddr::from(([224, 0, 0, 1], 7_000));
                client.ask_signed(&connect(multicast))?.error_is(403)?;
                let ipv6 = "[2001:db8::7]:7000".parse().expect("an address");
                client.ask_signed(&connect(ipv6))?.error_is(443).map(drop)
            },
        ),
        must("TCP-6062-5.2-05", "the connection comes from the relayed address").over(STREAMS).needs(ON).test(
            |bench| {
                let (mut client, relayed) = tcp_allocated(bench)?;
                let (listener, peer) = listener(bench)?;
                client.ask_signed(&connect(peer))?.success()?;
                let (_, from) = accept(&listener)?;
                ensure!(from == relayed, "it came from {from} instead of {relayed}");
                Ok(())
            },
        ),
        must("TCP-6062-5.2-06", "a closed port is 447").over(STREAMS).needs(ON).test(|bench| {
            let (mut client, _) = tcp_allocated(bench)?;
            let (listener, closed) = listener(bench)?;
            drop(listener);
            client.ask_signed(&connect(closed))?.error_is(447).map(drop)
        }),
        must("TCP-6062-5.2-07", "success has a CONNECTION-ID of its own").over(STREAMS).needs(ON).test(|bench| {
            let (mut client, _) = tcp_allocated(bench)?;
            let listeners: Vec<_> = (0..4).map(|_| listener(bench)).collect::<Step<_>>()?;
            let mut ids = Vec::new();
            for (_, peer) in &listeners {
                ids.push(connection_id(&client.ask_signed(&connect(*peer))?.success()?)?);
            }
            let numbers: Vec<i64> = ids.iter().map(|id| i64::from(u32::from_be_bytes(*id))).collect();
            let follow = numbers.windows(2).filter(|pair| (pair[0] - pair[1]).abs() < 16).count();
            ensure!(follow == 0, "the next one can be guessed: {numbers:?}");
            Ok(())
        }),
        must("TCP-6062-5.2-08", "a connection that nobody binds is closed after 30 s").over(TCP).needs(ON).slow().test(
            |bench| {
                let (mut client, _) = tcp_allocated(bench)?;
                let (listener, peer) = listener(bench)?;
                client.ask_signed(&connect(peer))?.success()?;
                let (stream, _) = accept(&listener)?;
                closed_after_30_s(stream)
            },
        ),
        must("TCP-6062-5.2-09", "a Connect that waits delays nothing")
            .over(STREAMS)
            .needs(&[Need::TcpRelay, Need::SameMachine])
            .test(|bench| {
                let (mut client, _) = tcp_allocated(bench)?;
                let (_full, _waiting, hole) = black_hole(bench)?;
                let signed = client.signed(&connect(hole))?;
                client.tell(signed.bytes())?;
                client.ask_signed(&refresh())?.success().map(drop)
            }),
    ];
    Section { title: "RFC 6062 §5.2 Connect", cases }
}

fn listening() -> Section {
    let cases = vec![
        must("TCP-6062-5.3-01", "a peer without permission is turned away").over(STREAMS).needs(ON).test(|bench| {
            let (mut client, relayed) = tcp_allocated(bench)?;
            match TcpStream::connect_timeout(&relayed, PATIENCE) {
                Ok(mut stream) => ended(&mut stream)?,
                // Turned away before we could look.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
                Err(error) => return failed(format!("{relayed} does not accept: {error}")),
            }
            client.hears_nothing()
        }),
        must("TCP-6062-5.3-02", "a permitted peer is announced").over(STREAMS).needs(ON).test(|bench| {
            let (_control, _id, _stream) = attempted(bench)?;
            Ok(())
        }),
        must("TCP-6062-5.3-03", "what a peer sends early is kept").over(STREAMS).needs(ON).test(|bench| {
            let (control, id, stream) = attempted(bench)?;
            let sent: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
            let whole = sent.clone();
            let writing = std::thread::spawn(move || {
                let mut stream = stream;
                stream.write_all(&whole).map(|()| stream)
            });
            let mut data = bind(bench, &control, id)?;
            let received = receive_exactly(&mut data, sent.len())?;
            ensure!(received == sent, "it is not what was sent");
            drop(writing.join());
            Ok(())
        }),
        must("TCP-6062-5.3-04", "a peer's connection that nobody binds is closed after 30 s")
            .over(TCP)
            .needs(ON)
            .slow()
            .test(|bench| {
                let (_control, _id, stream) = attempted(bench)?;
                closed_after_30_s(stream)
            }),
    ];
    Section { title: "RFC 6062 §5.3 connections from peers", cases }
}

fn binding_connections() -> Section {
    let cases = vec![
        must("TCP-6062-5.4-01", "ConnectionBind over UDP is 400")
            .over(DATAGRAMS)
            .needs(ON)
            .test(|bench| bench.client()?.ask_signed(&connection_bind([1, 2, 3, 4]))?.error_is(400).map(drop)),
        must("TCP-6062-5.4-02", "CONNECTION-ID missing, unknown or bound is 400").over(STREAMS).needs(ON).test(
            |bench| {
                bench.client()?.ask_signed(&Draft::new(message::CONNECTION_BIND))?.error_is(400)?;
                bench.client()?.ask_signed(&connection_bind([1, 2, 3, 4]))?.error_is(400)?;
                let (control, id, _stream) = attempted(bench)?;
                let _data = bind(bench, &control, id)?;
                bench.client()?.ask_signed(&connection_bind(id))?.error_is(400).map(drop)
            },
        ),
        must("TCP-6062-5.4-03", "only the control connection's user binds")
            .over(STREAMS)
            .needs(&[Need::TcpRelay, Need::SecondUser])
            .test(|bench| {
                let (control, id, _stream) = attempted(bench)?;
                bench.client()?.ask(&connection_bind(id))?.error_is(401)?;
                let mut other = bench.client()?;
                other.user = bench.second_user()?.clone();
                other.ask_signed(&connection_bind(id))?.error_is_one_of(&[400, 441])?;
                bind(bench, &control, id).map(drop)
            }),
        must("TCP-6062-5.4-04", "bound, the connection is a pipe").over(STREAMS).needs(ON).test(|bench| {
            let (_control, mut data, mut peer) = connected(bench)?;
            let bytes: Vec<u8> = (0..=255).cycle().take(5_000).collect();
            data.link.send(&bytes).or_else(|error| failed(error.to_string()))?;
            expect(&mut peer, &bytes)?;
            peer.write_all(&bytes).or_else(|error| failed(error.to_string()))?;
            let received = receive_exactly(&mut data, bytes.len())?;
            ensure!(received == bytes, "it is not what was sent");
            Ok(())
        }),
        policy("TCP-6062-5.4-05", "what follows ConnectionBind at once is data").over(STREAMS).needs(ON).test(
            |bench| {
                let (control, id, mut stream) = attempted(bench)?;
                let mut data = bench.client()?;
                data.user = control.user.clone();
                let signed = data.signed(&connection_bind(id))?;
                let early = binding();
                data.tell([signed.bytes(), early.bytes()].concat())?;
                data.response_to(&signed, PATIENCE)?.success()?;
                expect(&mut stream, early.bytes())
            },
        ),
        must("TCP-6062-5.5-01", "data connections end with the allocation").over(STREAMS).needs(ON).test(|bench| {
            let (mut control, mut data, mut peer) = connected(bench)?;
            control.ask_signed(&refresh_for(0))?.success()?;
            ended(&mut peer)?;
            data.is_closed()
        }),
        must("TCP-6062-5.5-02", "one side's end is the other's, and what is on its way arrives")
            .over(STREAMS)
            .needs(ON)
            .test(|bench| {
                let (_control, mut data, mut peer) = connected(bench)?;
                data.link.send(b"last words").or_else(|error| failed(error.to_string()))?;
                data.link.shut_down_writing();
                expect(&mut peer, b"last words")?;
                ended(&mut peer)?;
                let (_control, mut data, mut peer) = connected(bench)?;
                peer.write_all(b"last words").or_else(|error| failed(error.to_string()))?;
                peer.shutdown(Shutdown::Write).or_else(|error| failed(error.to_string()))?;
                let received = receive_exactly(&mut data, 10)?;
                ensure!(received == b"last words", "it is not what was sent");
                data.is_closed()
            }),
        policy("TCP-6062-5.5-03", "Send and channels do not belong to TCP allocations").over(STREAMS).needs(ON).test(
            |bench| {
                let (mut client, _) = tcp_allocated(bench)?;
                let peer = bench.peer()?;
                let response = client.ask_signed(&channel_bind(0x4000, peer.address))?;
                ensure!(!response.is_success(), "a channel was bound: {response}");
                client.permit(peer.address)?;
                client.send(peer.address, b"no datagrams")?;
                client.hears_nothing()?;
                let (mut other, _) = bench.allocated()?;
                other.permit(peer.address)?;
                other.send(peer.address, b"fence")?;
                peer.expect(b"fence").map(drop)
            },
        ),
        policy("ICETCP-6544-01", "relayed TCP candidates work active and passive, frames untouched")
            .over(STREAMS)
            .needs(ON)
            .test(|bench| {
                let check = binding();
                let frame = [&[0, check.bytes().len() as u8], check.bytes()].concat();
                let (_control, mut data, mut peer) = connected(bench)?;
                data.link.send(&frame).or_else(|error| failed(error.to_string()))?;
                expect(&mut peer, &frame)?;
                let (control, id, mut stream) = attempted(bench)?;
                let mut data = bind(bench, &control, id)?;
                stream.write_all(&frame).or_else(|error| failed(error.to_string()))?;
                let received = receive_exactly(&mut data, frame.len())?;
                ensure!(received == frame, "it is not what was sent");
                Ok(())
            }),
    ];
    Section { title: "RFC 6062 §5.4, §5.5, RFC 6544 data connections", cases }
}

fn connection_bind(id: [u8; 4]) -> Draft {
    Draft::new(message::CONNECTION_BIND).with(CONNECTION_ID, id)
}

fn connection_id(message: &crate::wire::Message) -> Step<[u8; 4]> {
    match message.get(CONNECTION_ID).and_then(|value| value.try_into().ok()) {
        Some(id) => Ok(id),
        None => failed(format!("expected a CONNECTION-ID of four bytes: {message}")),
    }
}

fn tcp_allocated(bench: &Bench) -> Step<(Client, SocketAddr)> {
    let mut client = bench.client()?;
    let relayed = client.allocate_with(&allocate_tcp())?;
    Ok((client, relayed))
}

/// A peer that waits for connections.
fn listener(bench: &Bench) -> Step<(TcpListener, SocketAddr)> {
    let ip = bench.peer()?.address.ip();
    let listener = TcpListener::bind((ip, 0)).or_else(|error| failed(format!("no peer at {ip}: {error}")))?;
    let address = listener.local_addr().expect("it is bound");
    Ok((listener, address))
}

fn accept(listener: &TcpListener) -> Step<(TcpStream, SocketAddr)> {
    listener.set_nonblocking(true).or_else(|error| failed(error.to_string()))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok((stream, from)) = listener.accept() {
            stream.set_nonblocking(false).or_else(|error| failed(error.to_string()))?;
            return Ok((stream, from));
        }
        ensure!(Instant::now() < deadline, "expected a connection at the peer, but none came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn dial(relayed: SocketAddr) -> Step<TcpStream> {
    TcpStream::connect_timeout(&relayed, PATIENCE)
        .or_else(|error| failed(format!("{relayed} does not accept: {error}")))
}

/// A peer that never accepts: its queue is full.
fn black_hole(bench: &Bench) -> Step<(socket2::Socket, Vec<socket2::Socket>, SocketAddr)> {
    let make = || -> std::io::Result<_> {
        let stream = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let listener = stream()?;
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        listener.listen(0)?;
        let address = listener.local_addr()?;
        let mut waiting = Vec::new();
        for _ in 0..4 {
            let one = stream()?;
            one.set_nonblocking(true)?;
            // It is said to be in progress, and stays so.
            let _ = one.connect(&address);
            waiting.push(one);
        }
        Ok((listener, waiting, address.as_socket().expect("an IP socket")))
    };
    bench.peer()?;
    make().or_else(|error| failed(format!("no black hole: {error}")))
}

/// A client with a connection to a peer, and the data connection bound to it.
fn connected(bench: &Bench) -> Step<(Client, Client, TcpStream)> {
    let (mut control, _) = tcp_allocated(bench)?;
    let (listener, peer) = listener(bench)?;
    let response = control.ask_signed(&connect(peer))?.success()?;
    let (stream, _) = accept(&listener)?;
    let data = bind(bench, &control, connection_id(&response)?)?;
    Ok((control, data, stream))
}

/// A client, and a connection that a permitted peer has made to it.
fn attempted(bench: &Bench) -> Step<(Client, [u8; 4], TcpStream)> {
    let (mut control, relayed) = tcp_allocated(bench)?;
    control.permit(bench.peer()?.address)?;
    let stream = dial(relayed)?;
    let from = stream.local_addr().expect("it is connected");
    let arrival = control.receive()?;
    match &arrival {
        Arrival::Stun(message) if message.message_type() == message::CONNECTION_ATTEMPT => {
            ensure!(message.xored(XOR_PEER_ADDRESS) == Some(from), "expected XOR-PEER-ADDRESS={from}: {message}");
            Ok((control, connection_id(message)?, stream))
        }
        _ => failed(format!("expected ConnectionAttempt, received: {arrival}")),
    }
}

/// A new connection, bound.
fn bind(bench: &Bench, control: &Client, id: [u8; 4]) -> Step<Client> {
    let mut data = bench.client()?;
    data.user = control.user.clone();
    // As clients do that know only servers with one nonce for all connections; the others answer 438 with another.
    data.set_challenge(control.known_challenge()?);
    data.ask_signed(&connection_bind(id))?.success()?;
    Ok(data)
}

fn expect(peer: &mut TcpStream, bytes: &[u8]) -> Step<()> {
    let mut received = vec![0; bytes.len()];
    let read = peer.set_read_timeout(Some(PATIENCE)).and_then(|()| peer.read_exact(&mut received));
    if let Err(error) = read {
        return failed(format!("expected {} bytes at the peer: {error}", bytes.len()));
    }
    ensure!(received == bytes, "the peer received {}", hex::encode(&received[..received.len().min(32)]));
    Ok(())
}

fn receive_exactly(data: &mut Client, len: usize) -> Step<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut received = Vec::new();
    while received.len() < len {
        match data.link.receive_raw(deadline) {
            Some(bytes) if !bytes.is_empty() => received.extend(bytes),
            _ => return failed(format!("expected {len} bytes, received {}", received.len())),
        }
    }
    Ok(received)
}

/// The peer's connection is closed, well or not.
fn ended(peer: &mut TcpStream) -> Step<()> {
    peer.set_read_timeout(Some(PATIENCE)).or_else(|error| failed(error.to_string()))?;
    match peer.read(&mut [0; 16]) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        other => failed(format!("expected the end of the peer's connection: {other:?}")),
    }
}

fn closed_after_30_s(mut stream: TcpStream) -> Step<()> {
    let began = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(45))).or_else(|error| failed(error.to_string()))?;
    let read = stream.read(&mut [0; 16]);
    ensure!(!matches!(read, Ok(1..)), "the peer received something");
    let secs = began.elapsed().as_secs();
    ensure!((28..40).contains(&secs), "it was closed after {secs} s");
    Ok(())
}
