//! The connection of a client, whether it is encrypted or not.

use std::io::{self, Write};
use std::net::Shutdown;

use mio::net::TcpStream;

use super::tls::{Decrypted, TlsStream, read};

/// TCP, or TLS over it.
#[derive(Debug)]
pub enum ClientStream {
    /// Bytes as they are.
    Tcp(TcpStream),
    /// Bytes in records; the handshake is over.
    Tls(Box<TlsStream>),
}

/// Where a connection is read into; kept and used again.
#[derive(Debug, Default)]
pub struct ReadBuffers {
    raw: Box<[u8]>,
    plain: Vec<u8>,
    /// Bytes of `raw` if they are the message bytes themselves.
    raw_len: Option<usize>,
}

impl ReadBuffers {
    /// For so many bytes from the system at a time.
    pub fn new(len: usize) -> Self {
        Self { raw: vec![0; len].into_boxed_slice(), ..Self::default() }
    }

    /// What the last read brought, decrypted.
    pub fn bytes(&self) -> &[u8] {
        match self.raw_len {
            Some(len) => &self.raw[..len],
            None => &self.plain,
        }
    }
}

/// What a read says about the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// It filled the buffer: there may be more. A short read has emptied the socket, unless the end of the stream is
    /// waiting behind it.
    pub is_full: bool,
    /// There will be no more.
    pub is_end: bool,
}

impl ClientStream {
    /// The connection under it, for events.
    pub fn tcp(&mut self) -> &mut TcpStream {
        match self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => tls.tcp(),
        }
    }

    /// The name that the client has asked for in a handshake.
    pub fn server_name(&self) -> Option<&str> {
        match self {
            Self::Tcp(_) => None,
            Self::Tls(tls) => tls.server_name(),
        }
    }

    /// Reads once.
    ///
    /// # Errors
    /// As the system says; `InvalidData` if the bytes are no TLS.
    pub fn receive(&mut self, buffers: &mut ReadBuffers) -> io::Result<Received> {
        let Decrypted { count, is_end } = match self {
            Self::Tcp(tcp) => {
                buffers.raw_len = Some(0);
                let count = read(tcp, &mut buffers.raw)?;
                buffers.raw_len = Some(count);
                Decrypted { count, is_end: count == 0 }
            }
            Self::Tls(tls) => {
                buffers.raw_len = None;
                tls.receive(&mut buffers.raw, &mut buffers.plain)?
            }
        };
        Ok(Received { is_full: count == buffers.raw.len(), is_end })
    }

    /// Whether something written before still waits here.
    pub fn wants_write(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Tls(tls) => tls.wants_write(),
        }
    }

    /// Says that nothing more will be written, and means it; reading goes on.
    ///
    /// # Errors
    /// `WouldBlock` while something waits here: then again. Otherwise the connection is gone.
    pub fn finish(&mut self) -> io::Result<()> {
        self.say_goodbye();
        if self.wants_write() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.tcp().shutdown(Shutdown::Write)
    }

    /// Tells the client that the end is meant, where the protocol has a word for it.
    pub fn say_goodbye(&mut self) {
        if let Self::Tls(tls) = self {
            tls.say_goodbye();
        }
    }
}

impl Write for ClientStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    /// Fails with `WouldBlock` while something written before still waits here.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) => Ok(()),
            Self::Tls(tls) => tls.flush(),
        }
    }
}
