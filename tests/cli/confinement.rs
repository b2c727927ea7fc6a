//! What a running server has given up, as the kernel tells it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::unistd::{Uid, User, setfsuid};

use super::harness::{Place, Server};
use super::serve::QUIET;
use super::turn_client::TurnClient;

const USER: &str = "[[auth.users]]\nname = \"alice\"\npassword = \"wonder\"\n[shutdown]\ndrain = \"0s\"\n";

/// The lines `NAME:` of the status of each of the server's threads, without repetition.
fn status(server: &Server, name: &str) -> BTreeSet<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", server.id())).unwrap();
    let of_thread = |entry: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(entry.unwrap().path().join("status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")))?.to_owned();
        Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    threads.filter_map(of_thread).collect()
}

fn only(value: &str) -> BTreeSet<String> {
    [value.to_owned()].into()
}

/// That each thread is behind it, also those of shards that were started before.
#[test]
fn system_calls_are_filtered_in_all_threads() {
    let place = Place::new();
    place.file("turn.toml", &format!("threads = 3\n{QUIET}{USER}"));
    let mut server = Server::start(&place, &["--config", "turn.toml"]);
    let (udp, _) = server.wait_until_listening();
    server.wait_for_log("\"confined\"");
    assert_eq!(status(&server, "NoNewPrivs"), only("1"));
    if server.log().contains("\"filter_system_calls\":\"unavailable\"") {
        println!("SKIP: this kernel filters no system calls");
        return;
    }
    assert_eq!(status(&server, "Seccomp"), only("2"), "filter mode");
    TurnClient::new(udp).allocate("alice", "wonder").unwrap();
    assert_eq!(server.terminate_and_wait(), Some(0));
}

#[test]
fn the_filter_can_be_left_out() {
    let place = Place::new();
    place.file("turn.toml", &format!("{QUIET}{USER}[process]\nfilter_system_calls = false\n"));
    let mut server = Server::start(&place, &["--config", "turn.toml"]);
    server.wait_until_listening();
    server.wait_for_log("\"filter_system_calls\":\"off\"");
    // A filter that the tests themselves run under stays.
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("Seccomp:")).unwrap().trim().to_owned();
    assert_eq!(status(&server, "Seccomp"), only(&own));
    assert_eq!(server.terminate_and_wait(), Some(0));
}

/// Root's rights are gone for good, while allocations, reloads and restarts of listeners' clients go on.
#[test]
fn root_becomes_somebody_without_rights() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: only root can become somebody else");
        return;
    }
    let place = Place::new();
    let text = format!("{QUIET}{USER}[process]\nuser = \"nobody\"\ngroup = \"nogroup\"\n");
    place.file("turn.toml", &text);
    let mut server = Server::start(&place, &["--config", "turn.toml"]);
    let (udp, _) = server.wait_until_listening();
    server.wait_for_log("\"confined\"");
    let id = |kind: &str, name: &str| {
        let asked = Command::new("id").args([kind, name]).output().unwrap();
        let id = String::from_utf8(asked.stdout).unwrap().trim().to_owned();
        only(&[id.as_str(); 4].join(" "))
    };
    assert_eq!(status(&server, "Uid"), id("-u", "nobody"));
    assert_eq!(status(&server, "Gid"), id("-g", "nobody"));
    assert_eq!(status(&server, "Groups"), only(""));
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(&server, set), only("0000000000000000"), "{set}");
    }
    TurnClient::new(udp).allocate("alice", "wonder").unwrap();
    assert_eq!(server.terminate_and_wait(), Some(0));
}

/// The socket for operators is that user's as well, and nobody else's.
#[test]
fn the_admin_socket_is_handed_to_the_user_that_root_becomes() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: only root can become somebody else");
        return;
    }
    let place = Place::new();
    // Where everybody may go, which the directory of a build need not be.
    let folder = std::env::temp_dir().join(format!("hairpin-handed-over-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.join("admin.sock");
    let quiet = QUIET.replace("[admin]\n", &format!("[admin]\nsocket = \"{}\"\n", socket.display()));
    assert_ne!(quiet, QUIET);
    place.file("turn.toml", &format!("{quiet}{USER}[process]\nuser = \"nobody\"\n"));
    let mut server = Server::start(&place, &["--config", "turn.toml"]);
    server.wait_until_listening();
    server.wait_for_log("\"confined\"");
    let nobody = User::from_name("nobody").unwrap().expect("every system has it").uid;
    let about = fs::metadata(&socket).unwrap();
    assert_eq!((about.uid(), about.mode() & 0o777), (nobody.as_raw(), 0o600));
    // What a thread may open depends on its own user for files, and root's rights go with that.
    let connect_as = |user: Uid| {
        let socket = socket.clone();
        let connect = move || {
            setfsuid(user);
            UnixStream::connect(socket).map(drop).map_err(|error| error.kind())
        };
        std::thread::spawn(connect).join().unwrap()
    };
    assert_eq!(connect_as(nobody), Ok(()));
    let another = User::from_name("daemon").unwrap().expect("as before").uid;
    assert_eq!(connect_as(another), Err(std::io::ErrorKind::PermissionDenied));
    assert_eq!(server.terminate_and_wait(), Some(0));
    // It may have been left there: the folder is root's.
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_user_who_does_not_exist_is_refused_at_start() {
    let place = Place::new();
    place.file("turn.toml", &format!("{QUIET}{USER}[process]\nuser = \"no-such-user-of-hairpin\"\n"));
    let run = place.run(&["--config", "turn.toml"]);
    assert_eq!(run.code, Some(1));
    for words in ["process.user", "no-such-user-of-hairpin", "fix: "] {
        assert!(run.stderr.contains(words), "{words} is missing in {}", run.stderr);
    }
    place.file("turn.toml", "[process]\ngroup = \"nogroup\"\n");
    let run = place.run(&["check-config", "turn.toml"]);
    assert!(
        run.stderr.contains("process.group") && run.stderr.contains("write process.user as well"),
        "{}",
        run.stderr
    );
}

/// The unit that is shipped: well-formed, and judged safe by systemd itself.
#[test]
fn the_systemd_unit_is_hardened() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/hairpin.service");
    let analyze = |arguments: &[&str]| Command::new("systemd-analyze").args(arguments).arg(unit).output();
    let Ok(verdict) = analyze(&["security", "--offline=true", "--threshold=20", "--no-pager"]) else {
        println!("SKIP: systemd-analyze is not installed");
        return;
    };
    let text = String::from_utf8_lossy(&verdict.stdout);
    assert!(verdict.status.success(), "exposure above 2.0:\n{text}");
    assert!(text.contains("Overall exposure level"), "{text}");
    let place = Place::new();
    // The unit with the program where it is here, so that nothing but the unit itself can be wrong.
    let here = fs::read_to_string(unit).unwrap().replace("/usr/bin/hairpin", env!("CARGO_BIN_EXE_hairpin"));
    place.file("hairpin.service", &here);
    let copy = place.path().join("hairpin.service");
    let verified = Command::new("systemd-analyze").arg("verify").arg(copy).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !said.contains("hairpin.service:"), "{said}");
}

/// A service manager that waits for READY=1 hears it when clients are served, and of the end.
#[test]
fn the_service_manager_is_told() {
    let place = Place::new();
    place.file("turn.toml", &format!("{QUIET}{USER}"));
    let socket = place.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let mut command = place.command(&["--config", "turn.toml"]);
    command.env("NOTIFY_SOCKET", &socket);
    let mut server = Server::start_command(command);
    let heard = || {
        let mut bytes = [0; 256];
        let len = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    assert_eq!(heard().trim(), "READY=1");
    assert_eq!(server.terminate_and_wait(), Some(0));
    assert_eq!(heard().trim(), "STOPPING=1");
}
