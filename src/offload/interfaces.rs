//! Which interfaces packets of ours come in at.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

use super::settings::Settings;

/// Frames begin with an Ethernet header (ARPHRD_ETHER); lo's do as well, with zeros in it (ARPHRD_LOOPBACK).
const ETHERNET: [u16; 2] = [libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK];

/// A network interface of this namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
    /// Whether its frames begin as the program expects.
    pub(super) is_ethernet: bool,
    /// Its link-layer address; zeros where it has none.
    pub(super) card: [u8; 6],
    /// Whether there is anything to look at: it is named, or carries an address of ours.
    is_wanted: bool,
    is_loopback: bool,
}

/// Those that the settings name, in that order; or else those that carry one of the addresses.
///
/// # Errors
/// A sentence: an interface that is named and does not exist, or a system that does not tell.
pub(super) fn wanted(settings: &Settings) -> Result<Vec<Interface>, String> {
    let all = all(&settings.addresses)?;
    if settings.interfaces.is_empty() {
        return Ok(all.into_iter().filter(|interface| interface.is_wanted && !interface.is_loopback).collect());
    }
    let find = |name: &String| {
        let found = all.iter().find(|interface| interface.name == *name);
        found.cloned().ok_or_else(|| format!("there is no interface \"{name}\"; `ip link` lists those that there are"))
    };
    settings.interfaces.iter().map(find).collect()
}

fn all(addresses: &[IpAddr]) -> Result<Vec<Interface>, String> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for part in getifaddrs().map_err(|error| format!("the interfaces cannot be listed: {error}"))? {
        let position = interfaces.iter().position(|interface| interface.name == part.interface_name);
        let position = position.unwrap_or_else(|| {
            interfaces.push(Interface {
                name: part.interface_name.clone(),
                index: 0,
                is_ethernet: false,
                card: [0; 6],
                is_wanted: false,
                is_loopback: part.flags.contains(InterfaceFlags::IFF_LOOPBACK),
            });
            interfaces.len() - 1
        });
        let interface = &mut interfaces[position];
        if let Some(link) = part.address.as_ref().and_then(SockaddrStorage::as_link_addr) {
            interface.index = link.ifindex() as u32;
            interface.is_ethernet = ETHERNET.contains(&link.hatype());
            interface.card = link.addr().unwrap_or_default();
        }
        if let Some(carried) = part.address.as_ref().and_then(ip_of) {
            interface.is_wanted |= addresses.iter().any(|address| is_meant(*address, carried));
        }
    }
    interfaces.retain(|interface| interface.index != 0);
    Ok(interfaces)
}

/// Whether a configured address is this one of an interface.
fn is_meant(address: IpAddr, carried: IpAddr) -> bool {
    address == carried || address.is_unspecified() && address.is_ipv4() == carried.is_ipv4()
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let four = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    four.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lo_is_wanted_only_by_name() {
        let unnamed = Settings { addresses: vec!["127.0.0.1".parse().unwrap()], ..Settings::default() };
        assert_eq!(wanted(&unnamed).unwrap(), []);
        let named = Settings { interfaces: vec!["lo".to_owned()], ..Settings::default() };
        let found = wanted(&named).unwrap();
        assert_eq!(found.iter().map(|lo| (lo.index, lo.is_ethernet)).collect::<Vec<_>>(), [(1, true)]);
    }

    #[test]
    fn an_interface_that_is_not_there_is_said_by_name() {
        let wrong = Settings { interfaces: vec!["nosuch0".to_owned()], ..Settings::default() };
        assert!(wanted(&wrong).unwrap_err().contains("\"nosuch0\""));
    }

    #[test]
    fn an_unspecified_address_stands_for_its_family() {
        let [four, six]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert!(is_meant("0.0.0.0".parse().unwrap(), four) && !is_meant("0.0.0.0".parse().unwrap(), six));
        assert!(is_meant("::".parse().unwrap(), six) && is_meant(six, six) && !is_meant(four, six));
    }
}
