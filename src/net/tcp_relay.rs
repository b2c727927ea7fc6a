//! TCP sockets of relayed transport addresses: one that listens, and others that connect from the same address and port
//! (RFC 6062 §5.2).

use std::io;
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections the kernel keeps ready to be accepted. Whoever has no permission is turned away after that, so a flood
/// costs no more than this.
const BACKLOG: i32 = 64;

/// The socket of a TCP relay. Fails when anybody else has the address, even somebody who would share it.
///
/// Afterwards it shares its address (SO_REUSEPORT) with [`connect`], which nothing else allows beside a listener. The
/// kernel lets only sockets of the same user share, and Hairpin binds nothing there but that; so whoever could join in
/// could read this process' memory, too. SO_REUSEADDR lets a port be used again while connections of the allocation
/// before are in TIME_WAIT.
///
/// # Errors
/// Whatever the system says to `socket`, `setsockopt`, `bind` or `listen`; EADDRINUSE when somebody has the port.
pub fn listen(local: SocketAddr) -> io::Result<TcpListener> {
    let socket = unbound(local)?;
    socket.bind(&local.into())?;
    // After `bind`, for the reason given at `UdpSocket::listener`.
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Begins to connect from the address of a relay, without waiting: when it can be written to, or has an error,
/// [`outcome`] tells what came of it.
///
/// # Errors
/// It has failed already.
pub fn connect(local: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = unbound(local)?;
    socket.set_reuse_port(true)?;
    socket.bind(&local.into())?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// Whether a connection has come about; `false` means not yet.
///
/// # Errors
/// Nor will it.
pub fn outcome(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => prepare(stream).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sets up a connection with a peer: what a client sends leaves at once.
///
/// # Errors
/// Whatever the system says; the connection is probably gone already.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)
}

fn unbound(local: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn local() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    /// Waits for a connection that does not wait itself.
    fn settled(stream: &TcpStream) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !outcome(stream)? {
            assert!(Instant::now() < deadline, "neither connected nor refused");
            std::thread::yield_now();
        }
        Ok(())
    }

    /// TCP-6062-5.2-05: from the very address that listens, to several peers at once.
    #[test]
    fn tcp_6062_5_2_05_listener_and_connections_share_an_address() {
        let relay = listen(local()).unwrap();
        let address = relay.local_addr().unwrap();
        let peers = [(); 3].map(|()| std::net::TcpListener::bind(local()).unwrap());
        let connected = peers.each_ref().map(|peer| {
            let stream = connect(address, peer.local_addr().unwrap()).unwrap();
            settled(&stream).unwrap();
            assert_eq!(peer.accept().unwrap().1, address);
            stream
        });
        // It goes on listening, and its address can be had again while the connections linger.
        let visitor = std::net::TcpStream::connect(address).unwrap();
        drop((relay, connected, visitor));
        listen(address).expect("free again");
    }

    #[test]
    fn a_relay_has_its_port_alone() {
        let relay = listen(local()).unwrap();
        let address = relay.local_addr().unwrap();
        assert_eq!(listen(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let other = std::net::TcpListener::bind(local()).unwrap();
        assert_eq!(listen(other.local_addr().unwrap()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_closed_port_refuses() {
        let relay = listen(local()).unwrap();
        let closed = std::net::TcpListener::bind(local()).unwrap().local_addr().unwrap();
        let refused = connect(relay.local_addr().unwrap(), closed).and_then(|stream| settled(&stream));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
