//! What comes before the first message of a connection: a proxy's header, the choice between TLS and none, the
//! handshake. Bytes are looked at without being taken until it is clear whom they are for.

use std::io::{self, Read};
use std::mem;
use std::net::SocketAddr;

use mio::net::TcpStream;

use super::directory::{ConnectionHeld, ConnectionRefusal};
use super::{ListenAddress, ListenOptions, PassThrough};
use crate::net::proxy_protocol::{self, Carrier, HEADER_LEN_MAX};
use crate::net::{
    CLIENT_HELLO_LEN_MAX, ClientHello, ClientStream, Handshake, HandshakeFailure, Identity, Look, OfferedProtocols,
    ProxyRefusal, TlsStream, tcp,
};
use crate::turn::{FiveTuple, Transport};

/// A connection without messages yet.
pub(super) struct Opening {
    /// The two ends of the connection, or what a proxy has said of them.
    pub(super) path: FiveTuple,
    /// Counted for the client as soon as that is known, before only for the whole server.
    pub(super) held: ConnectionHeld,
    options: ListenOptions,
    stage: Stage,
}

enum Stage {
    /// A proxy is to say who the client is.
    Header(TcpStream),
    /// The client's first byte is to say whether it speaks TLS.
    FirstByte(TcpStream),
    /// Without TLS there is nothing to wait for.
    Plain(TcpStream),
    /// The client's first message is to say who answers it.
    Hello(TcpStream, SocketAddr),
    Handshake(Box<TlsStream>),
    /// It is over, well or not.
    Over,
}

/// What to do with a connection now.
pub(super) enum Progress {
    /// Wait for more from the other side.
    Waiting,
    /// Wait for more, and that by another time.
    Next,
    /// Messages can be exchanged.
    Open {
        stream: ClientStream,
        /// Binding and nothing else (ALPN-7443-2-04).
        binding_only: bool,
    },
    /// It is not for us: somebody else is to answer what waits on it.
    PassOn {
        stream: TcpStream,
        /// Who.
        to: SocketAddr,
    },
}

/// Why there will be no messages.
pub(super) enum Failure {
    Proxy(ProxyRefusal),
    Refused(ConnectionRefusal),
    Handshake(HandshakeFailure),
    Socket(io::Error),
}

impl Opening {
    /// Takes an accepted connection. `held` need not have a name yet where a proxy is to say it.
    pub(super) fn new(
        stream: TcpStream,
        listen: &ListenAddress,
        path: FiveTuple,
        held: ConnectionHeld,
        identity: Option<&Identity>,
    ) -> Result<Self, Failure> {
        let mut this = Self { path, held, options: listen.options, stage: Stage::Over };
        this.stage =
            if listen.options.proxy_protocol { Stage::Header(stream) } else { this.after_header(stream, identity)? };
        Ok(this)
    }

    /// The connection, for events. `None` when it is over.
    pub(super) fn tcp(&mut self) -> Option<&mut TcpStream> {
        match &mut self.stage {
            Stage::Header(stream) | Stage::FirstByte(stream) | Stage::Plain(stream) | Stage::Hello(stream, _) => {
                Some(stream)
            }
            Stage::Handshake(stream) => Some(stream.tcp()),
            Stage::Over => None,
        }
    }

    /// Goes on as far as what has come allows. `is_read_closed` says that nothing more will.
    pub(super) fn go_on(
        &mut self,
        identity: Option<&Identity>,
        rules: &PassThrough,
        is_read_closed: bool,
    ) -> Result<Progress, Failure> {
        let mut progress = Progress::Waiting;
        loop {
            match mem::replace(&mut self.stage, Stage::Over) {
                Stage::Header(mut stream) => {
                    if !self.read_header(&mut stream, is_read_closed)? {
                        self.stage = Stage::Header(stream);
                        return Ok(progress);
                    }
                    self.stage = self.after_header(stream, identity)?;
                    progress = Progress::Next;
                }
                Stage::FirstByte(stream) => {
                    let mut byte = [0];
                    match tcp::peek(&stream, &mut byte).map_err(Failure::Socket)? {
                        None => {
                            self.stage = Stage::FirstByte(stream);
                            return Ok(progress);
                        }
                        Some(0) => return Err(Failure::Handshake(HandshakeFailure::Closed)),
                        Some(_) if TlsStream::is_client_hello(byte[0]) => self.stage = self.begin(stream, identity)?,
                        // Whatever it is: the shard knows what a message looks like.
                        Some(_) => self.stage = Stage::Plain(stream),
                    }
                }
                Stage::Handshake(mut stream) => match stream.handshake(is_read_closed).map_err(Failure::Handshake)? {
                    Handshake::Going => {
                        self.stage = Stage::Handshake(stream);
                        return Ok(progress);
                    }
                    Handshake::Done { binding_only } => {
                        return Ok(Progress::Open { stream: ClientStream::Tls(stream), binding_only });
                    }
                },
                Stage::Hello(stream, to) => match look(&stream, is_read_closed)? {
                    Look::Incomplete => {
                        self.stage = Stage::Hello(stream, to);
                        return Ok(progress);
                    }
                    Look::Whole(hello) if !rules.is_for_us(&hello, identity) => {
                        return Ok(Progress::PassOn { stream, to });
                    }
                    // What cannot be read is answered with an alert.
                    Look::Whole(_) | Look::Unreadable => self.stage = self.shake_hands(stream, identity)?,
                },
                Stage::Plain(stream) => {
                    return Ok(Progress::Open { stream: ClientStream::Tcp(stream), binding_only: false });
                }
                Stage::Over => unreachable!("whoever hears that it is over does not ask again"),
            }
        }
    }

    /// What it means that nothing has come for too long.
    pub(super) fn timeout(&self) -> Failure {
        match self.stage {
            Stage::Header(_) => Failure::Proxy(ProxyRefusal::Timeout),
            _ => Failure::Handshake(HandshakeFailure::Timeout),
        }
    }

    /// Whether the proxy's header was there, and has been taken off the connection.
    fn read_header(&mut self, stream: &mut TcpStream, is_read_closed: bool) -> Result<bool, Failure> {
        let mut bytes = [0; HEADER_LEN_MAX];
        let Some(count) = tcp::peek(stream, &mut bytes).map_err(Failure::Socket)? else {
            return Ok(false);
        };
        let header = match proxy_protocol::parse(&bytes[..count], Carrier::Stream).map_err(Failure::Proxy)? {
            Some(header) => header,
            None if is_read_closed || count == 0 => return Err(Failure::Proxy(ProxyRefusal::Closed)),
            None => return Ok(false),
        };
        stream.read_exact(&mut bytes[..header.len]).map_err(Failure::Socket)?;
        if let Some(addresses) = header.addresses {
            self.path.client = addresses.client;
            self.path.server = addresses.server;
        }
        self.held.name(self.path.client.ip()).map_err(Failure::Refused)?;
        Ok(true)
    }

    fn after_header(&mut self, stream: TcpStream, identity: Option<&Identity>) -> Result<Stage, Failure> {
        match self.path.transport {
            _ if self.options.tls_too => Ok(Stage::FirstByte(stream)),
            Transport::Tls => self.begin(stream, identity),
            _ => Ok(Stage::Plain(stream)),
        }
    }

    /// MUX-7983-7-03
    fn begin(&mut self, stream: TcpStream, identity: Option<&Identity>) -> Result<Stage, Failure> {
        self.path.transport = Transport::Tls;
        match self.options.pass_through {
            Some(to) => Ok(Stage::Hello(stream, to)),
            None => self.shake_hands(stream, identity),
        }
    }

    fn shake_hands(&self, stream: TcpStream, identity: Option<&Identity>) -> Result<Stage, Failure> {
        let identity = identity.expect("whoever asks for TLS listeners gives a certificate");
        let stream = TlsStream::new(stream, identity).map_err(|_| Failure::Handshake(HandshakeFailure::Protocol))?;
        Ok(Stage::Handshake(Box::new(stream)))
    }
}

/// Looks at the ClientHello, which stays where it is.
fn look(stream: &TcpStream, is_read_closed: bool) -> Result<Look, Failure> {
    let mut bytes = [0; CLIENT_HELLO_LEN_MAX];
    let count = match tcp::peek(stream, &mut bytes).map_err(Failure::Socket)? {
        None => return Ok(Look::Incomplete),
        Some(0) => return Err(Failure::Handshake(HandshakeFailure::Closed)),
        Some(count) => count,
    };
    if !TlsStream::is_client_hello(bytes[0]) {
        return Err(Failure::Handshake(HandshakeFailure::NotTls));
    }
    match ClientHello::look(&bytes[..count]) {
        Look::Incomplete if is_read_closed => Err(Failure::Handshake(HandshakeFailure::Closed)),
        Look::Incomplete if count == bytes.len() => Err(Failure::Handshake(HandshakeFailure::Protocol)),
        look => Ok(look),
    }
}

impl PassThrough {
    /// Who answers. The application protocol is the surest sign, then the name. A client with neither, or with our name
    /// and no protocol, is one of ours: web clients offer theirs, and browsers offer none for `turns:`.
    fn is_for_us(&self, hello: &ClientHello, identity: Option<&Identity>) -> bool {
        let is_our_name = |name: &str| match &*self.names {
            [] => identity.is_some_and(|identity| identity.is_for(name)),
            names => names.iter().any(|ours| ours == name),
        };
        match hello.protocols {
            OfferedProtocols::Stun => true,
            OfferedProtocols::Foreign => false,
            OfferedProtocols::None => hello.server_name.as_deref().is_none_or(is_our_name),
        }
    }
}
