//! What is kept for the next process, and what comes of it. A process that dies is one here that forgets.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TcAttachType};
use hairpin::offload::{Kernel, Mode, Outcome, PassedUp, Settings, Status, Way};
use hairpin::turn::Direction;
use nix::sched::{CloneFlags, unshare};

use crate::flows::frame;
use crate::lab::{self, INTERFACES};
use crate::scene::{PEERS, Scene, settings};

/// In a namespace that has a BPF file system of its own; `test` gets a directory there.
fn with_pins(name: &'static str, test: impl FnOnce(&Path) + Send + 'static) {
    lab::in_namespace(move || {
        let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("pins-{name}-{}", std::process::id()));
        fs::create_dir_all(&place).expect("the build directory can be written to");
        unshare(CloneFlags::CLONE_NEWNS).expect("as root");
        for words in [&["--make-rprivate", "/"][..], &["-t", "bpf", "bpf", place.to_str().expect("text")]] {
            let output = Command::new("mount").args(words).output().expect("util-linux is installed");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        test(&place.join("kept"));
        // The mount goes with the namespace, which only this thread was in.
        let umount = Command::new("umount").args(["-l", place.to_str().expect("text")]).status();
        assert!(umount.expect("as before").success());
        fs::remove_dir(&place).expect("it is empty");
    });
}

fn kept(directory: &Path, mode: Mode) -> Settings {
    Settings { pin: Some(directory.to_owned()), mode, ..settings(64) }
}

fn load(settings: &Settings) -> Kernel {
    Kernel::load(settings).expect("the program can be loaded by root")
}

/// Two flows, and nobody left to look after them.
fn die(kernel: Kernel) -> Scene {
    let mut scene = Scene::with(kernel);
    for (number, peer) in PEERS.iter().enumerate() {
        scene.bind(number, peer.parse().unwrap());
    }
    let nobody = scene.kernel.mirror(0, 1);
    std::mem::forget(std::mem::replace(&mut scene.mirror, nobody));
    scene
}

/// The ids of the programs at an interface: at tcx, and in the driver.
fn programs(name: &str) -> Vec<u32> {
    let (_, at_tcx) = SchedClassifier::query_tcx(name, TcAttachType::Ingress).expect("the kernel has tcx");
    let shown = lab::show(&format!("link show dev {name}"));
    let words: Vec<_> = shown.split_whitespace().collect();
    let in_driver = words.windows(3).find(|words| words[0] == "prog/xdp").map(|words| words[2].parse().expect("an id"));
    at_tcx.iter().map(aya::programs::ProgramInfo::id).chain(in_driver).collect()
}

/// The kernel takes a program off a moment after its last link has gone.
fn are_left(name: &str, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while programs(name).len() != count {
        assert!(Instant::now() < deadline, "{:?} are at {name}, not {count}", programs(name));
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn notes(status: &Status) -> String {
    status.notes.join("\n")
}

fn goes_on(directory: &Path, mode: Mode, ways: &[Way]) {
    let first = load(&kept(directory, mode));
    assert!(!first.status().adopted && first.status().notes.is_empty(), "{:?}", first.status());
    let attached = programs(INTERFACES[0]);
    assert_eq!(attached.len(), if mode == Mode::Xdp { 2 } else { 1 });
    let Scene { kernel, mirror, flows, .. } = die(first);
    drop((mirror, kernel));
    assert_eq!(programs(INTERFACES[0]), attached, "it stays");
    let next = load(&kept(directory, mode));
    let status = next.status();
    assert!(status.adopted && notes(status).contains("2 flows"), "{status:?}");
    assert!(status.interfaces.iter().all(|on| ways.contains(&on.way)), "{status:?}");
    assert_eq!(programs(INTERFACES[0]), attached, "it is the same");
    // Nothing lives there any more, and what the dead have counted is not ours.
    for direction in [Direction::ToPeer, Direction::ToClient] {
        let bytes = frame(&flows[0].0, direction, &[0x80; 20]).bytes();
        let trial = next.try_at_tc(lab::index(INTERFACES[direction as usize]), 0, &bytes, 1).unwrap();
        assert_eq!(trial.outcome, Outcome::PassedUp);
        assert_eq!(next.counters().relayed(direction), 0);
    }
    // The same flows find room again.
    let scene = die(next);
    assert_eq!(scene.kernel.counters().relayed(Direction::ToPeer), 0);
    scene.kernel.keep_nothing().expect("it has the right");
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
    drop(scene);
    are_left(INTERFACES[0], 0);
}

#[test]
fn the_next_process_goes_on_at_tc() {
    with_pins("tc", |directory| goes_on(directory, Mode::Tc, &[Way::Tcx]));
}

#[test]
fn the_next_process_goes_on_in_drivers() {
    with_pins("xdp", |directory| {
        if lab::receive_from_drivers() {
            goes_on(directory, Mode::Xdp, &[Way::Xdp]);
        }
    });
}

#[test]
fn what_does_not_fit_is_replaced() {
    with_pins("other", |directory| {
        drop(load(&kept(directory, Mode::Tc)));
        // Of another size.
        let other = Settings { flows: 128, ..kept(directory, Mode::Tc) };
        let kernel = load(&other);
        assert!(!kernel.status().adopted && notes(kernel.status()).contains("another number"), "{:?}", kernel.status());
        are_left(INTERFACES[0], 1);
        drop(kernel);
        // Not a map where one should be.
        let folder = fs::read_dir(directory).unwrap().next().unwrap().unwrap().path();
        fs::remove_file(folder.join("places")).unwrap();
        let link = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tcx-")));
        fs::rename(link.expect("a link was kept"), folder.join("places")).unwrap();
        let kernel = load(&other);
        assert!(!kernel.status().adopted && notes(kernel.status()).contains("is replaced"), "{:?}", kernel.status());
        drop(kernel);
        // Another way: what was in drivers is not to stay there.
        if lab::receive_from_drivers() {
            drop(load(&Settings { mode: Mode::Xdp, ..other.clone() }));
            assert_eq!(programs(INTERFACES[0]).len(), 2);
            let kernel = load(&other);
            assert!(kernel.status().adopted, "{:?}", kernel.status());
            are_left(INTERFACES[0], 1);
            drop(kernel);
        }
        // An interface that has gone, and one that is not asked for any more.
        lab::ip("link del peers");
        let kernel = load(&Settings { interfaces: vec!["clients".to_owned()], ..other.clone() });
        assert!(kernel.status().adopted, "{:?}", kernel.status());
        drop(kernel);
        Kernel::forget(directory).expect("nobody uses it");
        are_left(INTERFACES[0], 0);
        Kernel::forget(&directory.join("nowhere")).expect("nothing is there");
    });
}

#[test]
fn a_directory_has_one_owner_and_no_other_writers() {
    with_pins("owner", |directory| {
        let first = load(&kept(directory, Mode::Tc));
        let second = load(&kept(directory, Mode::Tc));
        assert!(notes(second.status()).contains("in use by another process"), "{:?}", second.status());
        assert!(Kernel::forget(directory).is_err());
        first.keep_nothing().unwrap();
        drop((first, second));
        fs::set_permissions(directory, fs::Permissions::from_mode(0o770)).unwrap();
        let open = load(&kept(directory, Mode::Tc));
        assert!(notes(open.status()).contains("chmod 0700"), "{:?}", open.status());
        drop(open);
        let elsewhere = load(&kept(Path::new(env!("CARGO_TARGET_TMPDIR")), Mode::Tc));
        assert!(notes(elsewhere.status()).contains("mount -t bpf"), "{:?}", elsewhere.status());
        drop(elsewhere);
        are_left(INTERFACES[0], 0);
    });
}

/// There is nobody to end them.
#[test]
fn flows_of_the_dead_end_by_themselves() {
    with_pins("alone", |directory| {
        let mut scene = Scene::with(load(&kept(directory, Mode::Tc)));
        let number = scene.bind(0, PEERS[0].parse().unwrap());
        let (flow, id, _) = scene.flows[number];
        let until = hairpin::turn::Now(scene.world.clock.now.0 + 500_000_000);
        scene.mirror.extend(id, until);
        let nobody = scene.kernel.mirror(0, 1);
        std::mem::forget(std::mem::replace(&mut scene.mirror, nobody));
        let bytes = frame(&flow, Direction::ToPeer, &[0x80; 20]).bytes();
        let deadline = Instant::now() + Duration::from_secs(60);
        while scene.kernel.try_at_tc(lab::index(INTERFACES[0]), 0, &bytes, 1).unwrap().outcome == Outcome::Relayed {
            assert!(Instant::now() < deadline, "it never ends");
        }
        assert!(hairpin::net::clock::monotonic() >= until, "too early");
        assert!(scene.kernel.counters().passed_up(PassedUp::Expired) > 0);
    });
}
