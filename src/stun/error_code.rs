//! The error codes a server of ours can answer with (RFC 8489 §14.8, RFC 8656 §19, RFC 6062 §6.3).

/// An ERROR-CODE value with its registered name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ErrorCode {
    /// Another server is to be asked; carries its address.
    TryAlternate = 300,
    /// Malformed, or a combination of attributes that makes no sense.
    BadRequest = 400,
    /// No credentials, or wrong ones; carries REALM and NONCE.
    Unauthenticated = 401,
    /// Refused by policy; the only code after which browsers keep the relay and give up just this peer (F07).
    Forbidden = 403,
    /// Clients may not take their allocation with them to another address.
    MobilityForbidden = 405,
    /// A comprehension-required attribute this server does not know.
    UnknownAttribute = 420,
    /// No allocation where one is needed, or one where none may be.
    AllocationMismatch = 437,
    /// The nonce is too old or not ours; carries a fresh one.
    StaleNonce = 438,
    /// The requested address family is not served.
    AddressFamilyNotSupported = 440,
    /// Somebody else's allocation.
    WrongCredentials = 441,
    /// REQUESTED-TRANSPORT names a protocol that is not relayed.
    UnsupportedTransportProtocol = 442,
    /// The peer's family is not among the allocation's.
    PeerAddressFamilyMismatch = 443,
    /// There is a connection to this peer already, or one is being made.
    ConnectionAlreadyExists = 446,
    /// The peer could not be connected to, or not in time.
    ConnectionTimeoutOrFailure = 447,
    /// This user has as many allocations as allowed.
    AllocationQuotaReached = 486,
    /// A temporary fault of the server.
    ServerError = 500,
    /// Ports, memory or a configured limit are used up.
    InsufficientCapacity = 508,
}

impl ErrorCode {
    /// Every code, ascending.
    pub const ALL: [ErrorCode; 17] = [
        ErrorCode::TryAlternate,
        ErrorCode::BadRequest,
        ErrorCode::Unauthenticated,
        ErrorCode::Forbidden,
        ErrorCode::MobilityForbidden,
        ErrorCode::UnknownAttribute,
        ErrorCode::AllocationMismatch,
        ErrorCode::StaleNonce,
        ErrorCode::AddressFamilyNotSupported,
        ErrorCode::WrongCredentials,
        ErrorCode::UnsupportedTransportProtocol,
        ErrorCode::PeerAddressFamilyMismatch,
        ErrorCode::ConnectionAlreadyExists,
        ErrorCode::ConnectionTimeoutOrFailure,
        ErrorCode::AllocationQuotaReached,
        ErrorCode::ServerError,
        ErrorCode::InsufficientCapacity,
    ];

    /// The number on the wire, 300–699.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The reason phrase: the name in the IANA registry.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TryAlternate => "Try Alternate",
            Self::BadRequest => "Bad Request",
            Self::Unauthenticated => "Unauthenticated",
            Self::Forbidden => "Forbidden",
            Self::MobilityForbidden => "Mobility Forbidden",
            Self::UnknownAttribute => "Unknown Attribute",
            Self::AllocationMismatch => "Allocation Mismatch",
            Self::StaleNonce => "Stale Nonce",
            Self::AddressFamilyNotSupported => "Address Family not Supported",
            Self::WrongCredentials => "Wrong Credentials",
            Self::UnsupportedTransportProtocol => "Unsupported Transport Protocol",
            Self::PeerAddressFamilyMismatch => "Peer Address Family Mismatch",
            Self::ConnectionAlreadyExists => "Connection Already Exists",
            Self::ConnectionTimeoutOrFailure => "Connection Timeout or Failure",
            Self::AllocationQuotaReached => "Allocation Quota Reached",
            Self::ServerError => "Server Error",
            Self::InsufficientCapacity => "Insufficient Capacity",
        }
    }
}
