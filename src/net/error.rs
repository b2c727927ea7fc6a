//! What may go wrong with a socket and is counted, not feared.

use std::io;

/// Kinds of errors of a system call on a socket. None of them ends a UDP socket: the network between two hosts, or a
/// firewall on this one, says "no" about one datagram and means nothing about the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketErrorKind {
    /// EAGAIN: the send buffer is full.
    WouldBlock,
    /// ECONNREFUSED, ECONNRESET, EPIPE: nobody listens there (any more).
    Refused,
    /// EHOSTUNREACH, ENETUNREACH, ENETDOWN, EHOSTDOWN, EADDRNOTAVAIL: no way to that address (from this one).
    Unreachable,
    /// ENOBUFS, ENOMEM: the kernel or the interface queue is full.
    NoBuffers,
    /// EPERM, EACCES: a local firewall or policy route refused it.
    NotPermitted,
    /// EMSGSIZE: larger than can be sent.
    TooLarge,
    /// EMFILE, ENFILE: out of file descriptors.
    OutOfDescriptors,
    /// Anything else.
    Other,
}

impl SocketErrorKind {
    /// Every kind, in order of declaration.
    pub const ALL: &'static [Self] = &[
        Self::WouldBlock,
        Self::Refused,
        Self::Unreachable,
        Self::NoBuffers,
        Self::NotPermitted,
        Self::TooLarge,
        Self::OutOfDescriptors,
        Self::Other,
    ];

    /// The word used in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::WouldBlock => "would_block",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NoBuffers => "no_buffers",
            Self::NotPermitted => "not_permitted",
            Self::TooLarge => "too_large",
            Self::OutOfDescriptors => "out_of_descriptors",
            Self::Other => "other",
        }
    }

    /// Classifies what a system call returned.
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Self::WouldBlock,
            Some(libc::ECONNREFUSED | libc::ECONNRESET | libc::EPIPE) => Self::Refused,
            Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN | libc::EHOSTDOWN | libc::EADDRNOTAVAIL) => {
                Self::Unreachable
            }
            Some(libc::ENOBUFS | libc::ENOMEM) => Self::NoBuffers,
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted,
            Some(libc::EMSGSIZE) => Self::TooLarge,
            Some(libc::EMFILE | libc::ENFILE) => Self::OutOfDescriptors,
            _ => Self::Other,
        }
    }
}

/// How often each kind happened, as in [`SocketErrorKind::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketErrors(pub [u64; SocketErrorKind::ALL.len()]);

impl SocketErrors {
    /// Counts one.
    pub fn count(&mut self, error: &io::Error) {
        self.0[SocketErrorKind::of(error) as usize] += 1;
    }

    /// How often this kind happened.
    pub const fn of(&self, kind: SocketErrorKind) -> u64 {
        self.0[kind as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_stands_at_its_own_place() {
        for (index, &kind) in SocketErrorKind::ALL.iter().enumerate() {
            assert_eq!(kind as usize, index, "{}", kind.label());
        }
    }

    #[test]
    fn errors_are_counted_by_kind() {
        let mut errors = SocketErrors::default();
        for code in [libc::EPERM, libc::EMSGSIZE, libc::EPERM, libc::EXDEV] {
            errors.count(&io::Error::from_raw_os_error(code));
        }
        assert_eq!(errors.of(SocketErrorKind::NotPermitted), 2);
        assert_eq!(errors.of(SocketErrorKind::TooLarge), 1);
        assert_eq!(errors.of(SocketErrorKind::Other), 1);
        assert_eq!(errors.of(SocketErrorKind::WouldBlock), 0);
    }
}
