//! The system calls that aya has no words for, or none that a shard could make without `&mut`: changes of a hash map by
//! its descriptor, mapping an array into memory, and looking at what was pinned.
//!
//! The calls by descriptor work without any capability, since Linux 5.19 also where
//! `kernel.unprivileged_bpf_disabled` is set: a server may give up its privileges once all is attached.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

/// BPF_MAP_UPDATE_ELEM and BPF_MAP_DELETE_ELEM.
const UPDATE: libc::c_int = 2;
const DELETE: libc::c_int = 3;
/// BPF_OBJ_GET and BPF_OBJ_GET_INFO_BY_FD.
const OPEN: libc::c_int = 7;
const INFORM: libc::c_int = 15;
/// BPF_NOEXIST: only where the key is new.
const ONLY_NEW: u64 = 1;

/// The part of `union bpf_attr` that calls for elements of a map have.
#[repr(C)]
struct ElementAttributes {
    map: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Puts a new key into a hash map.
///
/// # Errors
/// EEXIST if it is there already, E2BIG if the map is full, EPERM without the capability on kernels before 5.19.
///
/// # Safety
/// `K` and `V` have the sizes that the map was made with, and no padding.
pub(super) unsafe fn insert<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let attributes = ElementAttributes {
        map: map.as_raw_fd() as u32,
        zero: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_ref(value) as u64,
        flags: ONLY_NEW,
    };
    // SAFETY: the kernel reads a key and a value of the sizes that the caller vouches for.
    unsafe { call(UPDATE, &attributes) }.map(drop)
}

/// Takes a key out of a hash map.
///
/// # Errors
/// ENOENT if it is not there.
///
/// # Safety
/// As for [`insert`].
pub(super) unsafe fn remove<K>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let attributes = ElementAttributes {
        map: map.as_raw_fd() as u32,
        zero: 0,
        key: std::ptr::from_ref(key) as u64,
        value: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads a key of the size that the caller vouches for.
    unsafe { call(DELETE, &attributes) }.map(drop)
}

/// The part for BPF_OBJ_GET.
#[repr(C)]
struct PathAttributes {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// What lies at a path of a BPF file system.
///
/// # Errors
/// Whatever the system says.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let attributes = PathAttributes { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    // SAFETY: the path ends with a zero and lives until after the call.
    let descriptor = unsafe { call(OPEN, &attributes) }?;
    // SAFETY: it is new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The part for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct InfoAttributes {
    descriptor: u32,
    len: u32,
    info: u64,
}

/// What of `struct bpf_link_info` links to an interface have: those of tcx and of XDP look alike.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    zero: u32,
    interface: u32,
    rest: [u32; 11],
}

/// The interface that a link leads to; 0 once it has gone.
///
/// # Errors
/// EINVAL if it is no link; whatever else the system says.
pub(super) fn interface_of(link: BorrowedFd<'_>) -> io::Result<u32> {
    /// BPF_LINK_TYPE_XDP and BPF_LINK_TYPE_TCX.
    const KINDS: [u32; 2] = [6, 11];
    let mut info = LinkInfo::default();
    let attributes = InfoAttributes {
        descriptor: link.as_raw_fd() as u32,
        len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel writes no more than the length, where there is room for that.
    unsafe { call(INFORM, &attributes) }?;
    if KINDS.contains(&info.kind) { Ok(info.interface) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
}

/// # Safety
/// What the attributes point to is valid for the command.
unsafe fn call<A>(command: libc::c_int, attributes: &A) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are valid for their length; the caller vouches for what they point to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

/// Maps `len` bytes of a map made with BPF_F_MMAPABLE, for reading and writing. They are never unmapped by this module.
///
/// # Errors
/// Whatever the system says.
pub(super) fn map_array(map: BorrowedFd<'_>, len: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at a place of the kernel's choice touches nobody's memory.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, map.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(start.cast()).expect("the kernel maps nothing at zero unless asked to"))
}

/// Takes away what [`map_array`] gave.
///
/// # Safety
/// Nobody uses it any more.
pub(super) unsafe fn unmap(start: NonNull<u8>, len: usize) {
    // SAFETY: the caller vouches that it is a mapping of this length, and unused.
    unsafe { libc::munmap(start.as_ptr().cast(), len) };
}
