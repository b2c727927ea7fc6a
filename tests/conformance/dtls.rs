//! DTLS of a client (RFC 7350): OpenSSL's, on a connected UDP socket.

use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use openssl::ssl::{ErrorCode, ShutdownState, Ssl, SslContextBuilder, SslMethod, SslOptions, SslStream, SslVerifyMode};

use crate::link::PATIENCE;

/// Between two looks at OpenSSL's timers while a handshake lasts.
const STEP: Duration = Duration::from_millis(200);

/// For paths that we do not know: what Ethernet carries, less what tunnels take.
const MTU: u32 = 1400;

/// One datagram a read and a write.
struct Datagrams(UdpSocket);

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.recv(buffer) {
            // An ICMP error says nothing about what comes next.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(io::ErrorKind::WouldBlock.into()),
            received => received,
        }
    }
}

impl Write for Datagrams {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.send(bytes) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.0.send(bytes),
            sent => sent,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub struct Dtls(SslStream<Datagrams>);

impl Dtls {
    /// Shakes hands, believing every certificate.
    ///
    /// # Errors
    /// Those of the handshake, or that it did not end in time.
    pub fn connect(socket: UdpSocket, name: &str) -> io::Result<Self> {
        let mut builder = SslContextBuilder::new(SslMethod::dtls_client())?;
        builder.set_verify(SslVerifyMode::NONE);
        builder.set_options(SslOptions::NO_QUERY_MTU);
        let mut ssl = Ssl::new(&builder.build())?;
        if name.parse::<std::net::IpAddr>().is_err() {
            ssl.set_hostname(name)?;
        }
        ssl.set_mtu(MTU)?;
        ssl.set_connect_state();
        socket.set_read_timeout(Some(STEP))?;
        let mut stream = SslStream::new(ssl, Datagrams(socket))?;
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = stream.do_handshake() {
            if error.code() != ErrorCode::WANT_READ || Instant::now() > deadline {
                return Err(error.into_io_error().unwrap_or_else(io::Error::other));
            }
        }
        Ok(Self(stream))
    }

    pub fn socket(&self) -> &UdpSocket {
        &self.0.get_ref().0
    }

    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.0.ssl_write(message).map(drop).map_err(|error| error.into_io_error().unwrap_or_else(io::Error::other))
    }

    /// The next message, as `UdpSocket::recv` has it; none for ever after `close_notify`.
    ///
    /// # Errors
    /// `WouldBlock` after the time that the socket waits, `ConnectionAborted` at the end of the association.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.ssl_read(buffer).map_err(|error| match error.code() {
            ErrorCode::WANT_READ => io::ErrorKind::WouldBlock.into(),
            ErrorCode::ZERO_RETURN => io::ErrorKind::ConnectionAborted.into(),
            _ => error.into_io_error().unwrap_or_else(io::Error::other),
        })
    }

    pub fn close(&mut self) {
        // Said once; nobody answers.
        let _ = self.0.shutdown();
    }
}

impl Drop for Dtls {
    fn drop(&mut self) {
        if !self.0.get_shutdown().contains(ShutdownState::SENT) {
            self.close();
        }
    }
}
