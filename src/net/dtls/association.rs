//! One association, over OpenSSL.

use std::fmt;
use std::io::{self, Read, Write};
use std::time::Duration;

use foreign_types_shared::ForeignTypeRef;
use libc::{c_int, c_long, c_void};
use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{
    AlpnError, ErrorCode, NameType, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions,
    SslSessionCacheMode, SslStream, SslVersion,
};
use openssl::x509::X509;

use super::MESSAGE_LEN_MAX;
use crate::net::tls::ALPN_PROTOCOLS;
use crate::net::{Handshake, HandshakeFailure, Identity};

/// What every association of one certificate shares.
pub(in crate::net) type Context = SslContext;

/// Datagrams of a handshake are no longer than this: they pass everywhere (RFC 8200 §5 minus the heads of IPv6 and UDP).
const HANDSHAKE_MTU: u32 = 1232;

/// Forward secrecy and AEAD only, as for TLS (STUN-8489-6.2.3-01, BCP 195).
const CIPHERS: &str = "ECDHE+AESGCM:ECDHE+CHACHA20";

/// Makes the context of a certificate chain and its key, both PEM and known to fit.
pub(in crate::net) fn context(certificate: &[u8], key: &[u8]) -> Result<SslContext, ErrorStack> {
    let mut builder = SslContextBuilder::new(SslMethod::dtls_server())?;
    // DTLS-7350-3-02. What OpenSSL has beyond 1.2 it may speak.
    builder.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
    builder.set_cipher_list(CIPHERS)?;
    let mut chain = X509::stack_from_pem(certificate)?.into_iter();
    if let Some(leaf) = chain.next() {
        builder.set_certificate(&leaf)?;
    }
    for intermediate in chain {
        builder.add_extra_chain_cert(intermediate)?;
    }
    builder.set_private_key(&*PKey::private_key_from_pem(key)?)?;
    builder.set_options(
        SslOptions::NO_QUERY_MTU
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_TICKET
            | SslOptions::NO_COMPRESSION
            | SslOptions::CIPHER_SERVER_PREFERENCE,
    );
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    // Thousands of associations are silent most of the time.
    builder.set_mode(SslMode::RELEASE_BUFFERS);
    // Ours was checked before; this one only lets OpenSSL begin with the second ClientHello.
    builder.set_cookie_verify_cb(|_, _| true);
    // ALPN-7443-2-01, -03.
    builder.set_alpn_select_callback(|_, offered| {
        let offers = |wanted: &[u8]| protocols(offered).any(|label| label == wanted);
        ALPN_PROTOCOLS.into_iter().find(|ours| offers(ours)).ok_or(AlpnError::ALERT_FATAL)
    });
    Ok(builder.build())
}

/// The labels in a list of RFC 7301 §3.1, each with its length in front.
fn protocols(mut list: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&len, rest) = list.split_first()?;
        let (label, rest) = rest.split_at_checked(usize::from(len))?;
        list = rest;
        Some(label)
    })
}

/// The association is over: the client has said so, or something that cannot be mended has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// A client's DTLS association, from the ClientHello with a good cookie on.
pub struct Association {
    stream: SslStream<Datagrams>,
}

/// What OpenSSL takes for a socket.
#[derive(Debug, Default)]
struct Datagrams {
    incoming: Vec<u8>,
    has_incoming: bool,
    /// In order.
    outgoing: Vec<Vec<u8>>,
}

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !std::mem::take(&mut self.has_incoming) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // What does not fit is longer than any record.
        let len = self.incoming.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.incoming[..len]);
        Ok(len)
    }
}

impl Write for Datagrams {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Association {
    /// Begins with a ClientHello whose cookie was good. Costs memory, but no signature yet.
    ///
    /// # Errors
    /// OpenSSL does not take it.
    pub fn new(identity: &Identity, client_hello: &[u8]) -> Result<Self, HandshakeFailure> {
        let protocol = |_: ErrorStack| HandshakeFailure::Protocol;
        let mut ssl = Ssl::new(&identity.dtls).map_err(protocol)?;
        ssl.set_mtu(HANDSHAKE_MTU).map_err(protocol)?;
        ssl.set_accept_state();
        let mut this = Self { stream: SslStream::new(ssl, Datagrams::default()).map_err(protocol)? };
        this.put(client_hello);
        if sys::listen(this.stream.ssl().as_ptr()) {
            Ok(this)
        } else {
            // It asks for the cookie by itself, or has nothing to say: either way there is no association.
            Err(HandshakeFailure::of_openssl(&ErrorStack::get()))
        }
    }

    fn put(&mut self, datagram: &[u8]) {
        let datagrams = self.stream.get_mut();
        datagrams.incoming.clear();
        datagrams.incoming.extend_from_slice(datagram);
        datagrams.has_incoming = true;
    }

    /// Goes on with the handshake, with one more datagram or with the first. May cost a signature.
    ///
    /// # Errors
    /// It is over; an alert may wait among the outgoing datagrams.
    pub fn handshake(&mut self, datagram: Option<&[u8]>) -> Result<Handshake, HandshakeFailure> {
        if let Some(datagram) = datagram {
            self.put(datagram);
        }
        match self.stream.do_handshake() {
            Ok(()) => {
                let chosen = self.stream.ssl().selected_alpn_protocol();
                Ok(Handshake::Done { binding_only: chosen == Some(ALPN_PROTOCOLS[1]) })
            }
            Err(error) if matches!(error.code(), ErrorCode::WANT_READ | ErrorCode::WANT_WRITE) => Ok(Handshake::Going),
            Err(error) => match error.ssl_error() {
                Some(errors) => Err(HandshakeFailure::of_openssl(errors)),
                None => Err(HandshakeFailure::Closed),
            },
        }
    }

    /// The name that the client has asked for, if it has asked for one. Known when the handshake is over.
    pub fn server_name(&self) -> Option<&str> {
        self.stream.ssl().servername(NameType::HOST_NAME)
    }

    /// Decrypts a datagram and hands over each message in it, as far as it is one of this association; the rest is
    /// ignored, as RFC 6347 §4.1.2.7 wants it. `buffer` has room for [`MESSAGE_LEN_MAX`] bytes.
    ///
    /// # Errors
    /// The client has ended the association.
    pub fn receive(&mut self, datagram: &[u8], buffer: &mut [u8], mut take: impl FnMut(&[u8])) -> Result<(), Gone> {
        debug_assert!(buffer.len() >= MESSAGE_LEN_MAX);
        self.put(datagram);
        loop {
            match self.stream.ssl_read(buffer) {
                Ok(count) => take(&buffer[..count]),
                Err(error) if matches!(error.code(), ErrorCode::WANT_READ | ErrorCode::WANT_WRITE) => return Ok(()),
                Err(_) => return Err(Gone),
            }
        }
    }

    /// Encrypts a message into one datagram. Whether it fits a record; else it is lost, and nothing else
    /// (DTLS-7350-3-08).
    ///
    /// # Errors
    /// The association is over.
    pub fn send(&mut self, message: &[u8]) -> Result<bool, Gone> {
        if message.len() > MESSAGE_LEN_MAX {
            return Ok(false);
        }
        // OpenSSL has no word for an empty message; TURN has none either.
        if message.is_empty() {
            return Ok(true);
        }
        self.stream.ssl_write(message).map(|_| true).map_err(|_| Gone)
    }

    /// Datagrams that are to be sent now, in order.
    pub fn outgoing(&mut self) -> impl Iterator<Item = Vec<u8>> {
        self.stream.get_mut().outgoing.drain(..)
    }

    /// Whether there are any.
    pub fn has_outgoing(&self) -> bool {
        !self.stream.get_ref().outgoing.is_empty()
    }

    /// After how long to call [`Association::retransmit`], while a handshake waits for the client.
    pub fn timeout(&self) -> Option<Duration> {
        sys::timeout(self.stream.ssl().as_ptr())
    }

    /// Sends the last flight again, if it is time.
    ///
    /// # Errors
    /// It has been sent often enough.
    pub fn retransmit(&mut self) -> Result<(), HandshakeFailure> {
        if sys::handle_timeout(self.stream.ssl().as_ptr()) { Ok(()) } else { Err(HandshakeFailure::Timeout) }
    }

    /// Says that there will be no more.
    pub fn say_goodbye(&mut self) {
        // If the client does not hear it, silence will tell.
        let _ = self.stream.shutdown();
    }
}

impl HandshakeFailure {
    /// By the words of OpenSSL, which are the same in all its versions; what is not recognised is a broken protocol.
    fn of_openssl(errors: &ErrorStack) -> Self {
        let reason = errors.errors().first().and_then(|error| error.reason()).unwrap_or_default();
        match reason {
            "unsupported protocol" | "wrong version number" | "version too low" => Self::Version,
            "no shared cipher" | "no suitable signature algorithm" | "no shared groups" => Self::NothingInCommon,
            "no application protocol" => Self::ApplicationProtocol,
            reason if reason.contains("alert") => Self::RefusedByClient,
            _ => Self::Protocol,
        }
    }
}

impl fmt::Debug for Association {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Association").field("state", &self.stream.ssl().state_string_long()).finish_non_exhaustive()
    }
}

/// What the binding has no cover for.
mod sys {
    use std::ptr;

    use openssl_sys::SSL;

    use super::{Duration, c_int, c_long, c_void};

    /// `DTLS_CTRL_GET_TIMEOUT` and `DTLS_CTRL_HANDLE_TIMEOUT` of <openssl/ssl.h>.
    const GET_TIMEOUT: c_int = 73;
    const HANDLE_TIMEOUT: c_int = 74;

    unsafe extern "C" {
        fn DTLSv1_listen(ssl: *mut SSL, client: *mut c_void) -> c_int;
        fn BIO_ADDR_new() -> *mut c_void;
        fn BIO_ADDR_free(address: *mut c_void);
    }

    /// Lets a fresh server begin with a ClientHello that is not its client's first. Whether it does.
    pub(super) fn listen(ssl: *mut SSL) -> bool {
        // SAFETY: `ssl` belongs to the caller's stream, which outlives the call and has its own BIO; the address is only
        // written to, by OpenSSL, and freed once.
        unsafe {
            let nobody = BIO_ADDR_new();
            if nobody.is_null() {
                return false;
            }
            let result = DTLSv1_listen(ssl, nobody);
            BIO_ADDR_free(nobody);
            result == 1
        }
    }

    pub(super) fn timeout(ssl: *mut SSL) -> Option<Duration> {
        let mut left = libc::timeval { tv_sec: 0, tv_usec: 0 };
        // SAFETY: `ssl` as above; one timeval is written through a valid pointer.
        let is_armed = unsafe { openssl_sys::SSL_ctrl(ssl, GET_TIMEOUT, 0, (&raw mut left).cast()) } == 1;
        is_armed.then(|| {
            let micros = Duration::from_micros(left.tv_usec.max(0).cast_unsigned());
            Duration::from_secs(left.tv_sec.max(0).cast_unsigned()) + micros
        })
    }

    /// Whether the handshake may go on.
    pub(super) fn handle_timeout(ssl: *mut SSL) -> bool {
        // SAFETY: `ssl` as above; nothing is passed.
        let result: c_long = unsafe { openssl_sys::SSL_ctrl(ssl, HANDLE_TIMEOUT, 0, ptr::null_mut()) };
        result >= 0
    }
}
