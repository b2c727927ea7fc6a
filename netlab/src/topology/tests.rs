use super::*;

const SERVERS: &str = r#"
description = "test"
[[router]]
name = "isp"
nat = "none"
[[server]]
name = "web"
runs = "web"
behind = "isp"
[[server]]
name = "turn"
runs = "turn"
behind = "isp"
"#;

fn problem(addition: &str) -> String {
    Topology::parse("test.toml", &format!("{SERVERS}{addition}")).unwrap_err().to_string()
}

#[test]
fn every_shipped_topology_is_valid() {
    for name in Topology::shipped() {
        Topology::load(name).unwrap();
    }
}

#[test]
fn the_internet_is_as_in_the_picture() {
    let topology = Topology::load("internet").unwrap();
    let behind = |name: &str| topology.hosts.iter().find(|host| host.name == name).unwrap().behind.clone();
    assert_eq!(behind("browser-d"), "router-d");
    assert_eq!(behind("browser-l"), "coffee-shop");
    assert_eq!(behind("browser-m"), "home");
    assert_eq!(behind("browser-t"), "home");
    assert_eq!(topology.server(Service::Turn).name, "turn");
}

#[test]
fn a_mistake_is_answered_with_the_file_the_key_and_the_fix() {
    for (addition, expected) in [
        (
            "[[browser]]\nname = \"b\"\nbehind = \"hom\"",
            "[[browser]] \"b\": behind = \"hom\" names no router; use one of \"isp\"",
        ),
        (
            "[[router]]\nname = \"home\"\nnat = \"conical\"",
            "unknown NAT `conical`, expected one of `none`, `full-cone`",
        ),
        ("[[router]]\nname = \"home\"\nnat = \"cone\"\nupd = \"blocked\"", "unknown field `upd`"),
        ("[[browser]]\nname = \"isp\"\nbehind = \"isp\"", "two nodes are called \"isp\""),
        ("[[browser]]\nname = \"B L\"\nbehind = \"isp\"", "lower-case letters, digits and hyphens"),
        ("[[server]]\nname = \"more\"\nruns = \"web\"\nbehind = \"isp\"", "2 [[server]] entries have runs = \"web\""),
        (
            "[[browser]]\nname = \"b\"\nbehind = \"isp\"\nturn = \"web\"",
            "[[browser]] \"b\": turn = \"web\" names no [[server]] with runs = \"turn\"",
        ),
        ("[[router]]\nname = \"c\"\nnat = \"one-to-one\"", "is for one host; 0 nodes are behind it"),
        ("[[router]]\nname = \"c\"\nnat = \"cone\"\nmtu = 576", "mtu must be 1280"),
        ("[[router]]\nname = \"c\"\nnat = \"cone\"\nloss = \"5\"", "loss = \"5\": write a percentage"),
        ("[[router]]\nname = \"c\"\nnat = \"cone\"\nrate = \"2 MB\"", "rate = \"2 MB\": write for example"),
        ("[[router]]\nname = \"c\"\nnat = \"cone\"\ndelay = \"1s\"", "for example \"40ms\""),
        (
            "[[router]]\nname = \"x\"\nnat = \"cone\"\nbehind = \"y\"\n[[router]]\nname = \"y\"\nnat = \"cone\"\nbehind = \"x\"",
            "in a circle",
        ),
    ] {
        let problem = problem(addition);
        assert!(problem.starts_with("topology test.toml: "), "{problem}");
        assert!(problem.contains(expected), "{problem}\ndoes not contain\n{expected}");
    }
}

#[test]
fn routers_are_sorted_upstream_first() {
    let nested = "[[router]]\nname = \"inner\"\nnat = \"cone\"\nbehind = \"outer\"\n\
                  [[router]]\nname = \"outer\"\nnat = \"symmetric\"\n";
    let topology = Topology::parse("test.toml", &format!("{SERVERS}{nested}")).unwrap();
    let names: Vec<_> = topology.routers.iter().map(|router| &*router.name).collect();
    assert_eq!(names, ["isp", "outer", "inner"]);
}

#[test]
fn overriding_an_unknown_router_names_the_known_ones() {
    let topology = Topology::load("internet").unwrap();
    let error = topology.with_nat("coffee", Nat::Symmetric).unwrap_err().to_string();
    assert!(error.contains("\"coffee-shop\""), "{error}");
}

#[test]
fn overriding_with_one_to_one_nat_is_for_routers_with_one_host() {
    let topology = || Topology::load("internet").unwrap();
    assert!(topology().with_nat("coffee-shop", Nat::OneToOne).is_ok());
    let error = topology().with_nat("home", Nat::OneToOne).unwrap_err().to_string();
    assert!(error.contains("is for one host; 2 nodes are behind it"), "{error}");
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let error = Topology::load("intranet").unwrap_err().to_string();
    assert!(error.contains("\"internet\"") && error.contains(".toml"), "{error}");
}

const TELEPHONY: &str = "[[server]]\nname = \"sip\"\nruns = \"sip\"\nbehind = \"isp\"\n\
                         [[server]]\nname = \"media\"\nruns = \"media\"\nbehind = \"isp\"\n";
const GATEWAY: &str = "[[server]]\nname = \"gateway\"\nruns = \"gateway\"\nbehind = \"isp\"\n";
const CLIENT: &str = "[[phone]]\nname = \"client\"\nbehind = \"isp\"\n";
const TELEPHONE: &str = "[[phone]]\nname = \"telephone\"\nbehind = \"isp\"\nnumber = \"0301234\"\n";

#[test]
fn phones_are_sip_clients_or_have_a_number() {
    let text = [SERVERS, TELEPHONY, GATEWAY, CLIENT, TELEPHONE].concat();
    let topology = Topology::parse("test.toml", &text).unwrap();
    assert_eq!(topology.phone("client").unwrap().role, Role::SipClient);
    assert_eq!(topology.phone("telephone").unwrap().number.as_deref(), Some("0301234"));
    let error = topology.phone("web").unwrap_err().to_string();
    assert!(error.contains("\"client\", \"telephone\""), "{error}");
}

#[test]
fn telephony_is_complete_or_absent() {
    let second = GATEWAY.replace("\"gateway\"\nruns", "\"another\"\nruns");
    let letters = TELEPHONE.replace("0301234", "030-1234");
    for (addition, expected) in [
        (CLIENT.to_owned(), "[[phone]] \"client\" needs a [[server]] with runs = \"sip\""),
        (TELEPHONE.to_owned(), "[[phone]] \"telephone\" has a number and needs a [[server]] with runs = \"gateway\""),
        (TELEPHONY[..TELEPHONY.rfind("[[").unwrap()].to_owned(), "need each other"),
        ([TELEPHONY, GATEWAY].concat(), "exactly one [[phone]] with a number"),
        ([GATEWAY, TELEPHONE].concat(), "needs one with runs = \"sip\""),
        ([TELEPHONY, GATEWAY, &second, TELEPHONE].concat(), "several [[server]] entries have runs = \"gateway\""),
        ([TELEPHONY, GATEWAY, &letters].concat(), "use 3 to 15 digits"),
    ] {
        let problem = problem(&addition);
        assert!(problem.contains(expected), "{problem}\ndoes not contain\n{expected}");
    }
}
