//! A client over DTLS: OpenSSL's, on a UDP socket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use openssl::ssl::{ErrorCode, Ssl, SslContextBuilder, SslMethod, SslOptions, SslStream, SslVerifyMode};
use openssl::x509::X509;

use super::client::{PATIENCE, peer_at};

/// OpenSSL looks at its timers when a read comes back without anything.
const STEP: Duration = Duration::from_millis(200);

/// A UDP socket as OpenSSL wants it.
pub(in crate::shard::tests) struct Datagrams {
    pub(in crate::shard::tests) socket: UdpSocket,
    /// What stands in front of each datagram.
    pub(in crate::shard::tests) prefix: Vec<u8>,
    /// Collects what would be sent, to be sent together.
    pub(in crate::shard::tests) held: Option<Vec<u8>>,
}

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buffer)
    }
}

impl Write for Datagrams {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(held) = &mut self.held {
            held.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        self.socket.send(&[&self.prefix, bytes].concat()).map(|_| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins its handshake with its first message.
pub(in crate::shard::tests) struct DtlsClient {
    pub(in crate::shard::tests) stream: SslStream<Datagrams>,
    is_connected: bool,
}

impl DtlsClient {
    /// Trusts this certificate for `turn.example.org`, with what the test changes.
    pub(in crate::shard::tests) fn new(
        server: SocketAddr,
        certificate: &str,
        change: impl FnOnce(&mut SslContextBuilder),
    ) -> Self {
        let socket = peer_at(if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
        socket.connect(server).unwrap();
        Self::on(socket, certificate, change)
    }

    /// The same on a socket that is there.
    pub(in crate::shard::tests) fn on(
        socket: UdpSocket,
        certificate: &str,
        change: impl FnOnce(&mut SslContextBuilder),
    ) -> Self {
        Self::with(socket, certificate, change, |ssl| ssl.param_mut().set_host("turn.example.org").unwrap())
    }

    /// One that asks for this name.
    pub(in crate::shard::tests) fn asking_for(name: &str, server: SocketAddr, certificate: &str) -> Self {
        let socket = peer_at("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        Self::with(socket, certificate, |_| {}, |ssl| ssl.set_hostname(name).unwrap())
    }

    fn with(
        socket: UdpSocket,
        certificate: &str,
        change: impl FnOnce(&mut SslContextBuilder),
        name: impl FnOnce(&mut Ssl),
    ) -> Self {
        socket.set_read_timeout(Some(STEP)).unwrap();
        let mut builder = SslContextBuilder::new(SslMethod::dtls_client()).unwrap();
        builder.cert_store_mut().add_cert(X509::from_pem(certificate.as_bytes()).unwrap()).unwrap();
        builder.set_verify(SslVerifyMode::PEER);
        builder.set_options(SslOptions::NO_QUERY_MTU);
        change(&mut builder);
        let mut ssl = Ssl::new(&builder.build()).unwrap();
        name(&mut ssl);
        ssl.set_mtu(1400).unwrap();
        ssl.set_connect_state();
        let stream = SslStream::new(ssl, Datagrams { socket, prefix: Vec::new(), held: None }).unwrap();
        Self { stream, is_connected: false }
    }

    /// Brings the handshake to its end.
    pub(in crate::shard::tests) fn connect(&mut self) -> Result<(), openssl::ssl::Error> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.stream.do_handshake() {
            let is_waiting = error.code() == ErrorCode::WANT_READ && Instant::now() < deadline;
            if !is_waiting {
                return Err(error);
            }
        }
        self.is_connected = true;
        Ok(())
    }

    pub(in crate::shard::tests) fn send(&mut self, message: &[u8]) {
        if !self.is_connected {
            self.connect().expect("a handshake");
        }
        assert_eq!(self.stream.ssl_write(message).unwrap(), message.len());
    }

    /// The next message, or `None` if the server has said that there is none.
    pub(in crate::shard::tests) fn receive(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 1 << 14];
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.stream.ssl_read(&mut buffer) {
                Ok(len) => {
                    buffer.truncate(len);
                    return Some(buffer);
                }
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => return None,
                Err(error) if error.code() == ErrorCode::WANT_READ => {
                    assert!(Instant::now() < deadline, "nothing came")
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}
