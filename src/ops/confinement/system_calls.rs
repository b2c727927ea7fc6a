//! The system calls that a running server makes; the kernel refuses all others (seccomp).
//!
//! A refused call fails with ENOSYS, as on a kernel that does not know it, so that libraries fall back on an older one
//! instead of failing. It is not a sandbox for files: that is the service manager's work (packaging/hairpin.service).

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

type Error = Box<dyn std::error::Error>;

/// Allowed whatever their arguments are.
const ALLOWED: &[c_long] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munmap,
    // Threads and time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_membarrier,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    // Signals, those to itself (abort) included; to whom is checked below.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    // Events.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    // Sockets; which kinds may be made is checked below.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
    // Files: configuration, certificates, secrets, data bases, records.
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_ioctl,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
    // About itself and the machine.
    libc::SYS_capget,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Older forms, which newer architectures never had.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getdents,
    libc::SYS_getrlimit,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLD: &[c_long] = &[];

/// Domains of sockets: the Internet, this machine, and what lists its interfaces.
const SOCKET_DOMAINS: [i32; 4] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK];

/// What the relay in the kernel is told with while it runs: places in its maps. Nothing can be loaded, attached or looked for
/// (`enum bpf_cmd` of linux/bpf.h, whose numbers libc does not have).
const BPF_COMMANDS: [u64; 6] = [
    1,  // BPF_MAP_LOOKUP_ELEM
    2,  // BPF_MAP_UPDATE_ELEM
    3,  // BPF_MAP_DELETE_ELEM
    24, // BPF_MAP_LOOKUP_BATCH
    26, // BPF_MAP_UPDATE_BATCH
    27, // BPF_MAP_DELETE_BATCH
];

/// For all threads of this process, and for those they start. `has_offload` if packets are relayed in the kernel.
pub(super) fn refuse_all_others(has_offload: bool) -> Result<(), Error> {
    Ok(apply_filter_all_threads(&program(has_offload)?)?)
}

fn program(has_offload: bool) -> Result<BpfProgram, Error> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let refusal = SeccompAction::Errno(libc::ENOSYS as u32);
    Ok(SeccompFilter::new(rules(has_offload)?, refusal, SeccompAction::Allow, architecture)?.try_into()?)
}

/// By system call; one without rules is allowed as it is, otherwise one of them must hold.
fn rules(has_offload: bool) -> Result<BTreeMap<c_long, Vec<SeccompRule>>, Error> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_OLD).map(|call| (*call, Vec::new())).collect();
    // Threads, but no processes. With clone3 the flags lie in memory, out of a filter's sight; libc falls back on clone.
    let thread = u64::try_from(libc::CLONE_THREAD)?;
    rules.insert(libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    let domains = SOCKET_DOMAINS.map(|domain| rule(0, SeccompCmpOp::Eq, domain as u64));
    rules.insert(libc::SYS_socket, domains.into_iter().collect::<Result<_, _>>()?);
    // Names of threads and of memory, and how exactly a thread's sleeps end.
    let operations = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_TIMERSLACK, PR_SET_VMA]
        .map(|call| rule(0, SeccompCmpOp::Eq, call as u64));
    rules.insert(libc::SYS_prctl, operations.into_iter().collect::<Result<_, _>>()?);
    // Itself, and asking whether others exist (signal 0 is what SQLite and runtimes ask with).
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![rule(0, SeccompCmpOp::Eq, own)?]);
    rules.insert(libc::SYS_kill, vec![rule(0, SeccompCmpOp::Eq, own)?, rule(1, SeccompCmpOp::Eq, 0)?]);
    if has_offload {
        let commands = BPF_COMMANDS.map(|command| rule(0, SeccompCmpOp::Eq, command));
        rules.insert(libc::SYS_bpf, commands.into_iter().collect::<Result<_, _>>()?);
    }
    // Its own limits, and nobody else's.
    rules.insert(libc::SYS_prlimit64, vec![rule(0, SeccompCmpOp::Eq, 0)?, rule(0, SeccompCmpOp::Eq, own)?]);
    Ok(rules)
}

/// Not among libc's constants on every platform.
const PR_SET_VMA: i32 = 0x5356_4d41;

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::process::Command;

    use super::*;

    /// The filter holds for the thread that asks, here one that ends with the test.
    fn in_a_filtered_thread<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
        let confined = move || {
            seccompiler::apply_filter(&program(true).unwrap()).unwrap();
            act()
        };
        std::thread::spawn(confined).join().unwrap()
    }

    #[test]
    fn a_server_can_work_behind_the_filter() {
        let file = std::env::temp_dir().join(format!("hairpin-filter-{}", std::process::id()));
        in_a_filtered_thread(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"to itself", socket.local_addr().unwrap()).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            listener.accept().unwrap();
            std::thread::Builder::new().name("another".into()).spawn(|| ()).unwrap().join().unwrap();
            std::fs::write(&file, "text").unwrap();
            assert_eq!(std::fs::read(&file).unwrap(), b"text");
            std::fs::remove_file(&file).unwrap();
            nix::ifaddrs::getifaddrs().unwrap();
        });
    }

    #[test]
    fn programs_raw_sockets_and_other_processes_are_out_of_reach() {
        in_a_filtered_thread(|| {
            assert!(Command::new("/bin/true").status().is_err(), "no program can be started");
            let raw = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None);
            assert_eq!(raw.unwrap_err().raw_os_error(), Some(libc::ENOSYS));
            assert_eq!(
                nix::sys::signal::kill(nix::unistd::getppid(), nix::sys::signal::SIGUSR1),
                Err(nix::Error::ENOSYS)
            );
            assert_eq!(nix::unistd::chroot("/"), Err(nix::Error::ENOSYS));
        });
    }

    /// Only with the relay in the kernel, and only what it is told with. (That this is enough for it is seen by every test that
    /// has a server with it.)
    #[test]
    fn bpf_is_for_maps_and_only_where_it_is_needed() {
        assert!(!rules(false).unwrap().contains_key(&libc::SYS_bpf));
        assert_eq!(rules(true).unwrap()[&libc::SYS_bpf].len(), BPF_COMMANDS.len());
        assert!(!BPF_COMMANDS.contains(&5), "BPF_PROG_LOAD");
    }

    /// The service manager's filter, in the unit that is shipped, must not be narrower than the one that all tests run
    /// under.
    #[test]
    fn the_unit_allows_what_is_allowed_here() {
        let unit = include_str!("../../../packaging/hairpin.service");
        let asked = Command::new("systemd-analyze").arg("syscall-filter").output();
        let Some(known) = asked.ok().filter(|output| output.status.success()) else {
            println!("SKIP: systemd-analyze is not installed");
            return;
        };
        let known = String::from_utf8(known.stdout).unwrap();
        let mut allowed: BTreeSet<&str> = BTreeSet::new();
        for words in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
            let (words, refused) = words.strip_prefix('~').map_or((words, false), |words| (words, true));
            for name in words.split_whitespace().flat_map(|word| expand(word, &known)) {
                if refused {
                    allowed.remove(name)
                } else {
                    allowed.insert(name)
                };
            }
        }
        assert!(allowed.contains("recvmmsg") && !allowed.contains("mount"), "{allowed:?}");
        let here = names();
        let missing: Vec<&&str> = here.iter().filter(|name| !allowed.contains(**name)).collect();
        assert!(missing.is_empty(), "the unit refuses {missing:?}");
    }

    /// The system calls of a group, of groups in it, or the one that is named itself.
    fn expand<'a>(word: &'a str, known: &'a str) -> Vec<&'a str> {
        if !word.starts_with('@') {
            return vec![word];
        }
        let members = known.lines().skip_while(|line| *line != word).skip(1).take_while(|line| line.starts_with(' '));
        let words = members.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        words.flat_map(|word| expand(word, known)).collect()
    }

    /// As this file writes them.
    fn names() -> BTreeSet<&'static str> {
        let source = include_str!("system_calls.rs").split("#[cfg(test)]").next().unwrap_or_default();
        let words = source.split(|letter: char| letter != ':' && letter != '_' && !letter.is_alphanumeric());
        let names: BTreeSet<&str> = words.filter_map(|word| word.strip_prefix("libc::SYS_")).collect();
        assert!(names.len() > 100, "{}", names.len());
        names
    }
}
