//! How the program is attached to an interface: tcx, or clsact where there is none; and its part for drivers in front.

use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};

use aya::Ebpf;
use aya::programs::TcError;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{self, NlOptions, SchedClassifier, SchedClassifierLink, TcAttachOptions, TcAttachType};

use super::interfaces;
use super::pins::{self, Pins};
use super::settings::{Interface, Mode, Settings, Unavailable, Way};
use super::xdp::Drivers;

/// The program's name, by which filters of an earlier process are recognised.
const TC_PROGRAM: &str = "hairpin_tc";
/// Where a clsact filter stands among others: early, but not in front of what is there on purpose.
const PRIORITY: u16 = 100;

/// Keeps the program attached.
#[derive(Debug)]
#[expect(dead_code, reason = "held for what happens when they go")]
pub(super) enum Link {
    Tc(SchedClassifierLink),
    Xdp(FdLink),
    /// It stays when this goes.
    Kept(PinnedLink),
    /// An earlier process has left it; likewise.
    Adopted(OwnedFd),
}

/// Attaches the program to all of these, each in the best way that it has.
pub(super) fn attach(
    program: &mut Ebpf,
    settings: &Settings,
    tcx: bool,
    wanted: &[interfaces::Interface],
    pins: Option<&Pins>,
) -> (Vec<Link>, Vec<Interface>) {
    let mut links = Vec::new();
    let tc = load_tc(program);
    let mut drivers = (settings.mode == Mode::Xdp).then(|| Drivers::load(program));
    let (mut chosen, mut kept) = (Vec::new(), Vec::new());
    for interface in wanted {
        let name = interface.name.clone();
        let result = match &tc {
            _ if !interface.is_ethernet => Err("its frames have no Ethernet header".to_owned()),
            Err(why) => Err(why.clone()),
            Ok(()) => attach_tc(program, tcx, interface, pins),
        };
        let (link, mut way, mut why) = match result {
            Ok(attached) => attached,
            Err(why) => {
                chosen.push(Interface { name, way: Way::UserSpace, why });
                continue;
            }
        };
        let driver = drivers.as_mut().map(|drivers| match drivers {
            Ok(drivers) => drivers.attach(program, interface, pins),
            Err(why) => Err(why.clone()),
        });
        match driver {
            Some(Ok(in_driver)) => {
                why = format!("its driver has XDP, and what that leaves goes to {}", way.label());
                way = Way::Xdp;
                kept.push((pins::XDP, interface.index));
                links.push(in_driver);
            }
            Some(Err(no_driver)) => why = format!("no XDP: {no_driver}"),
            None => {}
        }
        links.push(link);
        kept.push((pins::TCX, interface.index));
        chosen.push(Interface { name, way, why });
    }
    if let Some(pins) = pins {
        pins.release_others(&kept);
    }
    (links, chosen)
}

fn tc_program(program: &mut Ebpf) -> &mut SchedClassifier {
    let program = program.program_mut(TC_PROGRAM).expect("the program has this part");
    program.try_into().expect("it is for tc")
}

/// The program for tc.
pub(super) fn descriptor(program: &mut Ebpf) -> Result<OwnedFd, Unavailable> {
    let explain = |error: &(dyn Error + 'static)| Unavailable(explain("the program's descriptor", error));
    let descriptor = tc_program(program).fd().map_err(|error| explain(&error))?;
    descriptor.as_fd().try_clone_to_owned().map_err(|error| explain(&error))
}

fn load_tc(program: &mut Ebpf) -> Result<(), String> {
    tc_program(program).load().map_err(|error| explain("loading the program", &error))
}

fn attach_tc(
    program: &mut Ebpf,
    tcx: bool,
    interface: &interfaces::Interface,
    pins: Option<&Pins>,
) -> Result<(Link, Way, String), String> {
    let program = tc_program(program);
    let name = &interface.name;
    // A filter that outlived its process would relay from maps that nobody looks after.
    let _ = tc::qdisc_detach_program(name, TcAttachType::Ingress, TC_PROGRAM);
    if let Some(link) = pins.and_then(|pins| pins.adopt(pins::TCX, interface.index)) {
        return Ok((Link::Adopted(link), Way::Tcx, "the process before has left it attached".to_owned()));
    }
    let no_tcx = match tcx {
        true => {
            let options = TcAttachOptions::TcxOrder(LinkOrder::default());
            match program.attach_with_options(name, TcAttachType::Ingress, options) {
                Ok(link) => {
                    let link = program.take_link(link).expect("it was made just now");
                    let why = "the kernel has tcx".to_owned();
                    let Some(pins) = pins else { return Ok((Link::Tc(link), Way::Tcx, why)) };
                    let link = FdLink::try_from(link).map_err(|error| explain("attaching to tcx", &error))?;
                    let link = pins.keep(pins::TCX, interface.index, link)?;
                    return Ok((Link::Kept(link), Way::Tcx, why));
                }
                Err(error) => innermost(&error),
            }
        }
        false => "it is not to be used".to_owned(),
    };
    match tc::qdisc_add_clsact(name) {
        Ok(()) => {}
        // It is there already.
        Err(TcError::NetlinkError(_)) => {}
        Err(error) => return Err(explain("adding the clsact qdisc", &error)),
    }
    let options = TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, ..NlOptions::default() });
    let link = program.attach_with_options(name, TcAttachType::Ingress, options);
    let link = link.and_then(|link| program.take_link(link)).map_err(|error| explain("attaching to clsact", &error))?;
    Ok((Link::Tc(link), Way::Clsact, format!("no tcx: {no_tcx}")))
}

/// What went wrong with what, and what to do about it.
pub(super) fn explain(what: &str, error: &(dyn Error + 'static)) -> String {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            let fix = match io.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    "; it needs the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and a filter for system calls that \
                     lets bpf(2) pass"
                }
                Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => "; it needs Linux 5.10 or later",
                Some(libc::ENOMEM | libc::E2BIG) => "; fewer flows take less memory",
                _ => "",
            };
            return format!("{what}: {io}{fix}");
        }
        cause = error.source();
    }
    format!("{what}: {}", innermost(error))
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
