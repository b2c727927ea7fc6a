//! `netlab list` and `netlab show TOPOLOGY`

use std::process::ExitCode;

use anyhow::Result;
use netlab::nat::Nat;
use netlab::suite;
use netlab::topology::{Role, Service, Tcp, Topology, Udp};

use super::control::running_labs;

/// Prints what there is: topologies, scenarios, and labs that run now.
pub fn list() -> Result<ExitCode> {
    println!("Topologies:");
    for name in Topology::shipped() {
        println!("  {name:22} {}", Topology::load(name)?.description);
    }
    println!("Scenarios:");
    for scenario in suite::all() {
        println!("  {:22} {}", scenario.name(), scenario.sentence());
    }
    for pair in netlab::matrix::representative() {
        println!(
            "  {:22}\n  {:22} {} and {}, the first of many in `netlab matrix`",
            pair.name(),
            "",
            pair.nats[0],
            pair.nats[1]
        );
    }
    println!("NATs:");
    for nat in Nat::PRESETS {
        println!(
            "  {nat:26} {}",
            nat.behaviour().map_or("no translation".to_owned(), |behaviour| behaviour.to_string())
        );
    }
    println!("Running labs:");
    let labs = running_labs();
    for lab in &labs {
        println!("  {:<22} {}", lab.process, lab.topology);
    }
    if labs.is_empty() {
        println!("  none (`netlab up internet` starts one)");
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a topology as a tree.
pub fn show(name: &str) -> Result<ExitCode> {
    let topology = Topology::load(name)?;
    println!("{}", topology.description);
    print!("{}", draw(&topology, |_| None));
    Ok(ExitCode::SUCCESS)
}

/// Draws a topology; `address` may know where a node is.
pub fn draw(topology: &Topology, address: impl Fn(&str) -> Option<String> + Copy) -> String {
    let mut drawing = "Internet\n".to_owned();
    draw_behind(topology, None, "", address, &mut drawing);
    drawing
}

fn draw_behind(
    topology: &Topology,
    parent: Option<&str>,
    indent: &str,
    address: impl Fn(&str) -> Option<String> + Copy,
    drawing: &mut String,
) {
    let routers = topology.routers.iter().filter(|router| router.behind.as_deref() == parent);
    let routers = routers.map(|router| {
        let udp = if router.udp == Udp::Blocked { ", UDP blocked" } else { "" };
        let tcp = if router.tcp == Tcp::HttpsOnly { ", TCP to port 443 only" } else { "" };
        (&router.name, format!("router, NAT {}{udp}{tcp}", router.nat), true)
    });
    let hosts = topology.hosts.iter().filter(|host| Some(&*host.behind) == parent);
    let hosts = hosts.map(|host| {
        let role = match host.role {
            Role::Server(Service::Web) => "web server",
            Role::Server(Service::Turn) => "TURN server",
            Role::Server(Service::Sip) => "SIP server",
            Role::Server(Service::Media) => "media proxy",
            Role::Server(Service::Gateway) => "gateway to telephones",
            Role::Browser => "browser",
            Role::SipClient => "SIP client",
            Role::Telephone => "telephone",
        };
        let number = host.number.as_ref().map(|number| format!(", number {number}")).unwrap_or_default();
        (&host.name, format!("{role}{number}"), false)
    });
    let children: Vec<_> = hosts.chain(routers).collect();
    for (number, (name, what, is_router)) in children.iter().enumerate() {
        let last = number + 1 == children.len();
        let place = address(name).map(|address| format!("  {address}")).unwrap_or_default();
        *drawing += &format!("{indent}{} {name} ({what}){place}\n", if last { "└──" } else { "├──" });
        if *is_router {
            let deeper = format!("{indent}{}", if last { "    " } else { "│   " });
            draw_behind(topology, Some(name), &deeper, address, drawing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_is_drawn_once() {
        for topology in Topology::shipped().map(|name| Topology::load(name).unwrap()) {
            let drawing = draw(&topology, |name| (name == "web").then(|| "198.18.1.2".to_owned()));
            let names = topology.routers.iter().map(|router| &router.name);
            for name in names.chain(topology.hosts.iter().map(|host| &host.name)) {
                assert_eq!(drawing.matches(&format!(" {name} (")).count(), 1, "{name} in\n{drawing}");
            }
            assert!(drawing.contains("web (web server)  198.18.1.2"), "{drawing}");
        }
    }

    #[test]
    fn a_telephone_is_drawn_with_its_number() {
        let drawing = draw(&Topology::load("pstn").unwrap(), |_| None);
        assert!(drawing.contains("phone-p (telephone, number 0301234567)"), "{drawing}");
    }
}
