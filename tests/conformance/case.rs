//! One case for one requirement: what it is called, where it applies, what it needs, and how it ends.

use std::fmt;

use crate::bench::Bench;
use crate::link::Transport;

/// How strongly the document asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Must,
    Should,
    May,
    /// No keyword of an RFC: drawn from security sections, errata, and what deployed clients need.
    Policy,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::May => "MAY",
            Self::Policy => "POL",
        })
    }
}

/// What not every server has. Our own and coturn get a configuration for it (`profiles.rs`, `coturn.rs`); for another
/// server it is said on the command line: `--has ipv6,second-user=bob:password`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Need {
    /// The server listens on an IPv6 address that the suite can reach.
    Ipv6,
    /// It relays over IPv4 and over IPv6, and reaches peers of the suite over both.
    DualRelay,
    /// It relays over IPv4 only.
    Ipv4RelayOnly,
    /// Another user than that of `--username`, as NAME:PASSWORD.
    SecondUser,
    /// An allocation quota of two per user.
    QuotaOfTwo,
    /// Few relayed ports: the fourth allocation finds none.
    FewPorts,
    /// At most three permissions and two channels an allocation.
    FewPermissions,
    /// Peers on loopback, private and other special addresses are refused, as by default.
    PeersRestricted,
    /// This peer is refused by configuration, given as its address.
    DeniedPeer,
    /// The suite's address may not allocate.
    ClientDenied,
    /// DONT-FRAGMENT is not supported.
    NoDontFragment,
    /// Credentials made from a shared secret, given as its value.
    SharedSecret,
    /// A second shared secret beside the first.
    SecondSecret,
    /// Responses carry SOFTWARE.
    Software,
    /// Responses do not.
    NoSoftware,
    /// The relayed address is advertised as another than it is bound to.
    AdvertisedAddress,
    /// A maximum lifetime of an hour, a default of ten minutes: the RFC's numbers.
    DefaultLifetimes,
    /// Idle connections are closed within ten seconds.
    ShortIdle,
    /// A name with "é" in it among the users, NFC in the configuration, with the password `s3cret`.
    AccentedUser,
    /// USERHASH is accepted and offered.
    Userhash,
    /// MD5 is switched off.
    Sha256Only,
    /// A user with the name of RFC 5769 §2.4, whose password is also accepted as SASLprep makes it.
    Saslprep,
    /// Binding asks for short-term credentials, given as NAME:PASSWORD.
    ShortTerm,
    /// Redirects with 300 after authentication.
    Redirect,
    /// The suite reaches it at an anycast address, where it allocates nothing.
    Anycast,
    /// Redirects with 300 before authentication.
    RedirectUnsigned,
    /// Allocations without credentials.
    Guests,
    /// RFC 3489 Binding requests are answered.
    Classic,
    /// They are not.
    NoClassic,
    /// Channel numbers 0x5000 to 0x7FFE are accepted (RFC 5766).
    WideChannels,
    /// TCP allocations (RFC 6062).
    TcpRelay,
    /// TCP allocations, and none for UDP.
    TcpRelayOnly,
    /// Mobility (RFC 8016).
    Mobility,
    /// Mobility is known, and forbidden.
    MobilityForbidden,
    /// Two addresses for NAT behaviour discovery (RFC 5780).
    TwoAddresses,
    /// No second address: CHANGE-REQUEST is unknown.
    NoSecondAddress,
    /// A shared key for access tokens (RFC 7635).
    TokenKey,
    /// Access tokens are switched off.
    NoTokens,
    /// ALPN labels are looked at (RFC 7443).
    Alpn,
    /// DTLS and plain UDP on one port (RFC 7350).
    DtlsOnUdpPort,
    /// TLS and plain TCP on one port.
    TlsOnTcpPort,
    /// TRANSACTION_TRANSMIT_COUNTER is echoed (RFC 7982).
    TransmitCounter,
    /// An HTTP endpoint for credentials.
    CredentialEndpoint,
    /// The server runs on this machine, so that packets can be seen as they are.
    SameMachine,
}

impl Need {
    /// As `--has` spells it.
    pub fn label(self) -> String {
        use clap::ValueEnum as _;
        self.to_possible_value().expect("none is hidden").get_name().to_owned()
    }
}

/// Why a case did not pass.
#[derive(Clone, Debug)]
pub enum Stop {
    /// What was expected, and what came.
    Failed(String),
    /// It has nothing to say about this server.
    NotApplicable(String),
}

pub type Step<T> = Result<T, Stop>;

pub fn failed<T>(why: impl Into<String>) -> Step<T> {
    Err(Stop::Failed(why.into()))
}

pub fn not_applicable<T>(why: impl Into<String>) -> Step<T> {
    Err(Stop::NotApplicable(why.into()))
}

/// Ends the case as failed, with these words, unless something holds.
#[macro_export]
macro_rules! ensure {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err($crate::case::Stop::Failed(format!($($words)+)));
        }
    };
}

pub type Test = fn(&Bench) -> Step<()>;

#[derive(Clone)]
pub struct Case {
    /// As in the checklist.
    pub id: &'static str,
    pub level: Level,
    pub title: &'static str,
    pub transports: &'static [Transport],
    pub needs: &'static [Need],
    /// Takes minutes of real time.
    pub slow: bool,
    pub test: Test,
}

impl Case {
    const fn new(id: &'static str, level: Level, title: &'static str) -> Self {
        let test: Test = |_| not_applicable("nothing is tested");
        Self { id, level, title, transports: &Transport::ALL, needs: &[], slow: false, test }
    }

    pub const fn over(mut self, transports: &'static [Transport]) -> Self {
        self.transports = transports;
        self
    }

    pub const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    pub const fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    pub const fn test(mut self, test: Test) -> Self {
        self.test = test;
        self
    }
}

pub const fn must(id: &'static str, title: &'static str) -> Case {
    Case::new(id, Level::Must, title)
}

pub const fn should(id: &'static str, title: &'static str) -> Case {
    Case::new(id, Level::Should, title)
}

pub const fn may(id: &'static str, title: &'static str) -> Case {
    Case::new(id, Level::May, title)
}

pub const fn policy(id: &'static str, title: &'static str) -> Case {
    Case::new(id, Level::Policy, title)
}

/// A part of the table.
pub struct Section {
    pub title: &'static str,
    pub cases: Vec<Case>,
}
