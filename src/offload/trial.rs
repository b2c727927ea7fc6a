//! Runs the program on a frame of one's own (BPF_PROG_TEST_RUN), without any network: for tests and measurements.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// BPF_PROG_TEST_RUN.
const TEST_RUN: libc::c_int = 10;
/// Frames may grow by this much.
const SLACK: usize = 256;

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Whether it was sent on; otherwise it was left to the sockets, or dropped.
    pub outcome: Outcome,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// How long a run took, in nanoseconds, in the mean.
    pub nanos: u32,
}

/// What the program said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To the next who looks at it, and the sockets in the end.
    PassedUp,
    /// Out, rewritten.
    Relayed,
    /// Neither.
    Dropped,
}

/// The part of `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
struct Attributes {
    program: u32,
    returned: u32,
    len_in: u32,
    len_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    nanos: u32,
    context_len_in: u32,
    context_len_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    zero: u32,
}

/// What of `struct __sk_buff` may be given: 192 bytes, of which these are not zero.
#[repr(C)]
struct Context {
    before: [u32; 10],
    /// The interface that the frame comes in at.
    interface: u32,
    between: [u32; 30],
    /// Of how many the kernel has made one.
    segments: u32,
    after: [u32; 6],
}

/// Runs a program for tc on a frame that comes in at this interface, `segments` of them merged into one, `repeat` times.
///
/// # Errors
/// Whatever the system says: EINVAL for frames that no card could have received.
pub(super) fn run_tc(
    program: BorrowedFd<'_>,
    interface: u32,
    segments: u32,
    frame: &[u8],
    repeat: u32,
) -> io::Result<Trial> {
    let mut out = vec![0; frame.len() + SLACK];
    let context = Context { before: [0; 10], interface, between: [0; 30], segments, after: [0; 6] };
    let mut attributes = Attributes {
        program: program.as_raw_fd() as u32,
        returned: 0,
        len_in: frame.len() as u32,
        len_out: out.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        nanos: 0,
        context_len_in: size_of::<Context>() as u32,
        context_len_out: 0,
        context_in: (&raw const context) as u64,
        context_out: 0,
        flags: 0,
        cpu: 0,
        batch: 0,
        zero: 0,
    };
    // SAFETY: the attributes are valid for their length, and what they point to for the lengths beside it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, TEST_RUN, &raw mut attributes, size_of::<Attributes>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    out.truncate(attributes.len_out as usize);
    let outcome = match attributes.returned as i32 {
        -1 => Outcome::PassedUp,
        // TC_ACT_REDIRECT
        7 => Outcome::Relayed,
        _ => Outcome::Dropped,
    };
    Ok(Trial { outcome, frame: out, nanos: attributes.nanos })
}
