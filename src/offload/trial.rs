//! Runs the program on a frame of one's own (BPF_PROG_TEST_RUN), without any network: for tests and measurements. Or with
//! it, to see whether frames leave.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// BPF_PROG_TEST_RUN.
const TEST_RUN: libc::c_int = 10;
/// BPF_F_TEST_XDP_LIVE_FRAMES: what the program says of the frame is done.
const LIVE_FRAMES: u32 = 2;
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
#[derive(Default)]
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

/// `struct xdp_md`.
#[repr(C)]
struct FrameContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    interface: u32,
    queue: u32,
    out_interface: u32,
}

impl FrameContext {
    const fn new(interface: u32, len: usize) -> Self {
        Self { data: 0, data_end: len as u32, data_meta: 0, interface, queue: 0, out_interface: 0 }
    }
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
    let context = Context { before: [0; 10], interface, between: [0; 30], segments, after: [0; 6] };
    let (returned, frame, nanos) = run(program, &context, frame, repeat)?;
    let outcome = match returned {
        -1 => Outcome::PassedUp,
        // TC_ACT_REDIRECT
        7 => Outcome::Relayed,
        _ => Outcome::Dropped,
    };
    Ok(Trial { outcome, frame, nanos })
}

/// Runs a program for drivers in the same way.
///
/// # Errors
/// As there.
pub(super) fn run_xdp(program: BorrowedFd<'_>, interface: u32, frame: &[u8], repeat: u32) -> io::Result<Trial> {
    let (returned, frame, nanos) = run(program, &FrameContext::new(interface, frame.len()), frame, repeat)?;
    let outcome = match returned {
        // XDP_PASS and XDP_REDIRECT
        2 => Outcome::PassedUp,
        4 => Outcome::Relayed,
        _ => Outcome::Dropped,
    };
    Ok(Trial { outcome, frame, nanos })
}

/// Has a program for drivers really do so often what it says of a frame that comes in at this interface.
///
/// # Errors
/// EINVAL before Linux 5.18; whatever else the system says.
pub(super) fn send_by_xdp(program: BorrowedFd<'_>, interface: u32, frame: &[u8], times: u32) -> io::Result<()> {
    let context = FrameContext::new(interface, frame.len());
    let mut attributes = Attributes {
        program: program.as_raw_fd() as u32,
        len_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: times,
        context_len_in: size_of::<FrameContext>() as u32,
        context_in: (&raw const context) as u64,
        flags: LIVE_FRAMES,
        ..Attributes::default()
    };
    // SAFETY: the attributes are valid for their length, and what they point to for the lengths beside it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, TEST_RUN, &raw mut attributes, size_of::<Attributes>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What a program returns for a frame with this context, the frame afterwards, and how long it took.
fn run<C>(program: BorrowedFd<'_>, context: &C, frame: &[u8], repeat: u32) -> io::Result<(i32, Vec<u8>, u32)> {
    let mut out = vec![0; frame.len() + SLACK];
    let mut attributes = Attributes {
        program: program.as_raw_fd() as u32,
        len_in: frame.len() as u32,
        len_out: out.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        context_len_in: size_of::<C>() as u32,
        context_in: std::ptr::from_ref(context) as u64,
        ..Attributes::default()
    };
    // SAFETY: the attributes are valid for their length, and what they point to for the lengths beside it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, TEST_RUN, &raw mut attributes, size_of::<Attributes>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    out.truncate(attributes.len_out as usize);
    Ok((attributes.returned as i32, out, attributes.nanos))
}
