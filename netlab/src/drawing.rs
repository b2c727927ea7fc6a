//! Topologies drawn: as a tree in text, and the same tree as SVG.

use std::fmt::Write as _;

use crate::topology::{Host, Ipv6, Nat, Role, Router, Service, Tcp, Topology, Udp};

/// A place in the tree.
struct Node {
    name: String,
    kind: &'static str,
    /// What there is to say about it, a line each in the picture.
    details: Vec<String>,
    children: Vec<Node>,
}

/// Draws a topology as text; `address` may know where a node is.
pub fn text(topology: &Topology, address: impl Fn(&str) -> Option<String>) -> String {
    let mut drawing = "Internet\n".to_owned();
    draw(&behind(topology, None), "", &address, &mut drawing);
    drawing
}

fn draw(nodes: &[Node], indent: &str, address: &dyn Fn(&str) -> Option<String>, drawing: &mut String) {
    for (number, node) in nodes.iter().enumerate() {
        let last = number + 1 == nodes.len();
        let place = address(&node.name).map(|address| format!("  {address}")).unwrap_or_default();
        let details: String = node.details.iter().map(|detail| format!(", {detail}")).collect();
        let branch = if last { "└──" } else { "├──" };
        drawing.push_str(&format!("{indent}{branch} {} ({}{details}){place}\n", node.name, node.kind));
        let deeper = format!("{indent}{}", if last { "    " } else { "│   " });
        draw(&node.children, &deeper, address, drawing);
    }
}

/// What is behind a router, or on the Internet itself: hosts, then routers.
fn behind(topology: &Topology, parent: Option<&str>) -> Vec<Node> {
    let hosts = topology.hosts.iter().filter(|host| Some(&*host.behind) == parent);
    let hosts = hosts.map(|host| Node {
        name: host.name.clone(),
        kind: match host.role {
            Role::Server(Service::Web) => "web server",
            Role::Server(Service::Turn) => "TURN server",
            Role::Server(Service::Proxy) => "HTTP proxy",
            Role::Server(Service::Sip) => "SIP server",
            Role::Server(Service::Media) => "media proxy",
            Role::Server(Service::Gateway) => "gateway to telephones",
            Role::Browser => "browser",
            Role::SipClient => "SIP client",
            Role::Telephone => "telephone",
        },
        details: host_details(host),
        children: Vec::new(),
    });
    let routers = topology.routers.iter().filter(|router| router.behind.as_deref() == parent);
    let routers = routers.map(|router| Node {
        name: router.name.clone(),
        kind: "router",
        details: router_details(router),
        children: behind(topology, Some(&router.name)),
    });
    hosts.chain(routers).collect()
}

fn host_details(host: &Host) -> Vec<String> {
    let turn = host.turn.as_ref().map(|server| format!("TURN from {server}"));
    let proxy = host.proxy.as_ref().map(|proxy| format!("through {proxy}"));
    let number = host.number.as_ref().map(|number| format!("number {number}"));
    turn.into_iter().chain(proxy).chain(number).collect()
}

fn router_details(router: &Router) -> Vec<String> {
    let mut details = vec![format!("NAT {}", router.nat)];
    let mut add = |detail: &str| details.push(detail.to_owned());
    if router.udp == Udp::Blocked {
        add("UDP blocked");
    }
    match router.tcp {
        Tcp::Open => {}
        Tcp::HttpsOnly => add("TCP to port 443 only"),
        Tcp::ProxyOnly => add("TCP to proxies only"),
    }
    match router.ipv6 {
        Ipv6::None => {}
        Ipv6::Open => add("IPv6"),
        Ipv6::Stateful => add("IPv6 firewall"),
        Ipv6::Nat64 => add("IPv6 only, NAT64"),
    }
    if let Some(mtu) = router.mtu {
        add(&format!("MTU {mtu}"));
    }
    if !router.impairment.is_none() {
        add(&router.impairment.to_string());
    }
    details
}

/// All lengths are pixels.
const BOX_WIDTH: u32 = 168;
const GAP: u32 = 20;
const LEVEL_GAP: u32 = 44;
const LINE: u32 = 17;
const PADDING: u32 = 10;
const MARGIN: u32 = 24;
const TITLE: u32 = 34;
const INTERNET: &str = "Internet";

/// Draws a topology as an SVG document that needs nothing but itself: the Internet on top, what is behind a router below.
pub fn svg(topology: &Topology) -> String {
    let root = Node { name: INTERNET.into(), kind: "", details: Vec::new(), children: behind(topology, None) };
    let mut levels = Vec::new();
    measure(&root, 0, &mut levels);
    let mut tops = vec![MARGIN + TITLE];
    for height in &levels {
        tops.push(tops[tops.len() - 1] + height + LEVEL_GAP);
    }
    let tree_width = width(&root);
    let title_width = topology.description.chars().count() as u32 * 8;
    let inner = tree_width.max(title_width);
    let (page_width, page_height) = (inner + 2 * MARGIN, tops[levels.len()] - LEVEL_GAP + MARGIN);
    let mut picture = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{page_width}" height="{page_height}" viewBox="0 0 {page_width} {page_height}" font-family="system-ui, sans-serif" font-size="13" text-anchor="middle">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="{}" y="{}" font-size="15" fill="#333333">{}</text>
"##,
        page_width / 2,
        MARGIN + 4,
        escaped(&topology.description),
    );
    paint(&root, MARGIN + (inner - tree_width) / 2, 0, &tops, &mut picture);
    picture.push_str("</svg>\n");
    picture
}

/// The height of each level is that of its highest box.
fn measure(node: &Node, level: usize, levels: &mut Vec<u32>) {
    if levels.len() == level {
        levels.push(0);
    }
    levels[level] = levels[level].max(height(node));
    for child in &node.children {
        measure(child, level + 1, levels);
    }
}

fn height(node: &Node) -> u32 {
    let lines = 1 + u32::from(!node.kind.is_empty()) + node.details.len() as u32;
    lines * LINE + 2 * PADDING
}

/// Of a node with all that is below it.
fn width(node: &Node) -> u32 {
    let below: u32 = node.children.iter().map(width).sum();
    let gaps = (node.children.len() as u32).saturating_sub(1) * GAP;
    BOX_WIDTH.max(below + gaps)
}

fn paint(node: &Node, left: u32, level: usize, tops: &[u32], picture: &mut String) {
    let (middle, top) = (left + width(node) / 2, tops[level]);
    let below: u32 = node.children.iter().map(|child| width(child) + GAP).sum::<u32>().saturating_sub(GAP);
    let mut child_left = left + (width(node) - below) / 2;
    for child in &node.children {
        let (x, bottom, y) = (child_left + width(child) / 2, top + height(node), tops[level + 1]);
        let bend = y - LEVEL_GAP / 2;
        // Writing to a string cannot fail.
        let _ = writeln!(
            picture,
            r##"<path d="M {middle} {bottom} V {bend} H {x} V {y}" fill="none" stroke="#888888" stroke-width="1.5"/>"##
        );
        paint(child, child_left, level + 1, tops, picture);
        child_left += width(child) + GAP;
    }
    let (fill, stroke, round) = match node.kind {
        "router" => ("#e8f0fe", "#3367d6", 6),
        "browser" | "SIP client" | "telephone" => ("#fff3e0", "#e8710a", 6),
        "" => ("#f1f3f4", "#5f6368", 18),
        _ => ("#e6f4ea", "#188038", 6),
    };
    let _ = writeln!(
        picture,
        r##"<rect x="{}" y="{top}" width="{BOX_WIDTH}" height="{}" rx="{round}" fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>"##,
        middle - BOX_WIDTH / 2,
        height(node)
    );
    let mut baseline = top + PADDING + LINE - 4;
    let mut line = |text: &str, style: &str| {
        let _ = writeln!(picture, r##"<text x="{middle}" y="{baseline}" {style}>{}</text>"##, escaped(text));
        baseline += LINE;
    };
    line(&node.name, r#"font-weight="bold""#);
    if !node.kind.is_empty() {
        line(node.kind, r##"fill="#5f6368""##);
    }
    for detail in &node.details {
        let harmless = *detail == format!("NAT {}", Nat::None);
        line(detail, if harmless { r##"fill="#5f6368""## } else { r##"fill="#b3261e""## });
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_is_drawn_once() {
        for topology in Topology::shipped().map(|name| Topology::load(name).unwrap()) {
            let drawing = text(&topology, |name| (name == "web").then(|| "198.18.1.2".to_owned()));
            let picture = svg(&topology);
            let names = topology.routers.iter().map(|router| &router.name);
            for name in names.chain(topology.hosts.iter().map(|host| &host.name)) {
                assert_eq!(drawing.matches(&format!(" {name} (")).count(), 1, "{name} in\n{drawing}");
                assert_eq!(picture.matches(&format!(">{name}</text>")).count(), 1, "{name} in\n{picture}");
            }
            assert!(drawing.contains("web (web server)  198.18.1.2"), "{drawing}");
        }
    }

    #[test]
    fn whatever_a_router_does_is_said() {
        let drawing = text(&Topology::load("office").unwrap(), |_| None);
        assert!(drawing.contains("floor (router, NAT none, UDP blocked, TCP to proxies only)"), "{drawing}");
        assert!(drawing.contains("browser-l (browser, through proxy)"), "{drawing}");
        let drawing = text(&Topology::load("lossy").unwrap(), |_| None);
        assert!(drawing.contains("2 % loss, 4000 kbit/s"), "{drawing}");
    }

    #[test]
    fn a_telephone_is_drawn_with_its_number() {
        let drawing = text(&Topology::load("pstn").unwrap(), |_| None);
        assert!(drawing.contains("phone-p (telephone, number 0301234567)"), "{drawing}");
    }

    #[test]
    fn markup_in_a_description_is_text() {
        assert_eq!(escaped("L < M & T"), "L &lt; M &amp; T");
    }
}
