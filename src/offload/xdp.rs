//! The program's part for drivers (XDP in native mode): attached where the driver has it and frames are seen to leave.
//!
//! Whether an interface takes frames from another one's driver is nowhere written, and the kernel drops without a word what
//! it does not take: so it is tried, with a few frames that no one is to receive.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{Array, DevMapHash, HashMap, MapData};
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};

use super::attach::{Link, explain};
use super::interfaces::Interface;
use super::pins::{self, Pins};
use super::trial;

const PROGRAM: &str = "hairpin_xdp";
const TRYING: &str = "hairpin_try";
const DOOR: &str = "hairpin_door";
/// Frames of a trial.
const TRIED: u32 = 32;
/// How long statistics of a card may take to show them.
const PATIENCE: Duration = Duration::from_secs(2);
/// IEEE 802: for local experiments.
const EXPERIMENT: [u8; 2] = [0x88, 0xB5];

/// The programs for drivers, and the maps that only they have.
pub(super) struct Drivers {
    cards: HashMap<MapData, u32, [u8; 8]>,
    exits: DevMapHash<MapData>,
    tried: Array<MapData, u64>,
}

impl Drivers {
    /// # Errors
    /// A sentence: why they are not to be had.
    pub(super) fn load(program: &mut Ebpf) -> Result<Self, String> {
        for name in [PROGRAM, TRYING, DOOR] {
            part(program, name).load().map_err(|error| explain("loading the program for drivers", &error))?;
        }
        let mut map = |name| program.take_map(name).expect("the program has these maps");
        let (cards, exits, tried) = (map("cards"), map("exits"), map("tried"));
        let wrong = "they are of these kinds";
        Ok(Self {
            cards: HashMap::try_from(cards).expect(wrong),
            exits: DevMapHash::try_from(exits).map_err(|error| explain("the map of the ways out", &error))?,
            tried: Array::try_from(tried).expect(wrong),
        })
    }

    /// Attaches the program, if the driver has it and frames leave by this interface.
    ///
    /// # Errors
    /// A sentence: why not.
    pub(super) fn attach(
        &mut self,
        program: &mut Ebpf,
        interface: &Interface,
        pins: Option<&Pins>,
    ) -> Result<Link, String> {
        if has_vlans(&interface.name) {
            return Err("its cards may take off the tags of its VLANs before a program sees them".to_owned());
        }
        let mut card = [0; 8];
        card[..6].copy_from_slice(&interface.card);
        self.cards.insert(interface.index, card, 0).map_err(|error| explain("the map of addresses", &error))?;
        let link = match pins.and_then(|pins| pins.adopt(pins::XDP, interface.index)) {
            Some(link) => Link::Adopted(link),
            None => {
                let link = attach_anew(program, interface)?;
                match pins {
                    Some(pins) => Link::Kept(pins.keep(pins::XDP, interface.index, link)?),
                    None => Link::Xdp(link),
                }
            }
        };
        if let Err(why) = self.prove(program, interface) {
            let _ = self.exits.remove(interface.index);
            if let Some(pins) = pins {
                pins.release(pins::XDP, interface.index);
            }
            return Err(why);
        }
        Ok(link)
    }

    /// Sees whether frames leave by an interface, and lets them if so.
    fn prove(&mut self, program: &mut Ebpf, interface: &Interface) -> Result<(), String> {
        let index = interface.index;
        let failed = |what: &str, error: &(dyn std::error::Error + 'static)| explain(what, error);
        let door = part(program, DOOR).fd().map_err(|error| failed("the program at the door", &error))?;
        let inserted = self.exits.insert(index, index, Some(door), 0);
        inserted.map_err(|error| failed("the map of the ways out", &error))?;
        self.tried.set(0, 0, 0).map_err(|error| failed("the map of trials", &error))?;
        let before = sent_by(&interface.name)?;
        let trying = part(program, TRYING).fd().map_err(|error| failed("the program for trials", &error))?;
        let mut frame = [interface.card, interface.card].concat();
        frame.extend(EXPERIMENT);
        frame.resize(60, 0);
        trial::send_by_xdp(trying.as_fd(), index, &frame, TRIED)
            .map_err(|error| format!("frames cannot be tried: {error}; that takes Linux 5.18"))?;
        let no_way = "frames from another driver do not leave by it";
        if self.tried.get(&0, 0).unwrap_or(0) < u64::from(TRIED) {
            return Err(format!("{no_way} (a veth takes them if its other end has `ethtool -K DEVICE gro on`)"));
        }
        let deadline = Instant::now() + PATIENCE;
        while sent_by(&interface.name)?.wrapping_sub(before) < u64::from(TRIED) {
            if Instant::now() > deadline {
                return Err(format!("{no_way}, as far as it counts them"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.exits.insert(index, index, None, 0).map_err(|error| failed("the map of the ways out", &error))
    }
}

fn attach_anew(program: &mut Ebpf, interface: &Interface) -> Result<FdLink, String> {
    let part = part(program, PROGRAM);
    let attached = part.attach_to_if_index(interface.index, XdpMode::Driver);
    let attached = attached.and_then(|link| part.take_link(link));
    let attached = attached.map_err(|error| explain("attaching in native mode", &error))?;
    FdLink::try_from(attached).map_err(|_| "the kernel has no links for it".to_owned())
}

fn part<'a>(program: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    let program = program.program_mut(name).expect("the program has this part");
    program.try_into().expect("it is for drivers")
}

/// The program, if it was loaded.
pub(super) fn descriptor(program: &mut Ebpf) -> Option<OwnedFd> {
    part(program, PROGRAM).fd().ok()?.as_fd().try_clone_to_owned().ok()
}

/// How many packets an interface has sent.
fn sent_by(name: &str) -> Result<u64, String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").map_err(|error| format!("/proc/net/dev: {error}"))?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'));
    // After eight numbers of what was received, bytes and packets.
    let sent = line.and_then(|line| line.split_whitespace().nth(9)?.parse().ok());
    sent.ok_or_else(|| format!("/proc/net/dev does not say what {name} has sent"))
}

fn has_vlans(name: &str) -> bool {
    let text = fs::read_to_string("/proc/thread-self/net/vlan/config").unwrap_or_default();
    text.lines().any(|line| line.rsplit('|').next().is_some_and(|below| below.trim() == name))
}
