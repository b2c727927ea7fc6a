//! coturn's `turnutils_uclient`. Its exit code says nothing; its text does.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::processes::{Guarded, is_installed, run, wait_until};
use crate::server::{PASSWORD, Server, USERNAME, free_port};

pub const UCLIENT: &str = "turnutils_uclient";
pub const PEER: &str = "turnutils_peer";
const STUNCLIENT: &str = "turnutils_stunclient";

/// Messages that each client sends.
const MESSAGES: u32 = 60;

/// uclient 4.6 draws its channels from all of RFC 5766's range, which the server allows here (CLASSIC-5766-01), and
/// from one number beyond, 0x7FFF: who draws that, once in sixteen thousand times, draws again.
const DRAWS_MAX: u32 = 4;
const UNLUCKY: &str = "channel bind: error 400 (Bad Request)";

/// With `-J` uclient seals access tokens for itself, under one of three keys that are built into it.
const TOKEN_KEYS: &str = r#"
[[auth.token_keys]]
kid = "north"
key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
[[auth.token_keys]]
kid = "union"
key = "MTIzNDU2Nzg5MDEyMzQ1Ng=="
[[auth.token_keys]]
kid = "oldempire"
key = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI="
"#;

/// An echo peer on a loopback address.
pub fn start_peer(host: IpAddr) -> (Guarded, u16) {
    let port = free_port();
    let mut command = Command::new(PEER);
    command.args(["-L", &host.to_string(), "-p", &port.to_string()]).stdin(Stdio::null());
    let child = Guarded(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is installed"));
    let socket = UdpSocket::bind((host, 0)).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("not zero");
    wait_until("the echo peer", || {
        let mut bytes = [0; 16];
        socket.send_to(b"are you there?", (host, port)).is_ok() && socket.recv(&mut bytes).is_ok()
    });
    (child, port)
}

/// The last number behind `name=` or `name ` in the text.
pub fn number(text: &str, name: &str) -> Option<u32> {
    let behind = text.rsplit_once(name)?.1.trim_start_matches(['=', ' ', ':']);
    let digits: String = behind.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Runs it with these flags, and wants every message back.
fn every_message_comes_back(flags: &[&str]) {
    if !is_installed(UCLIENT) || !is_installed(PEER) {
        return;
    }
    let server = if flags.contains(&"-J") { Server::start_with(|_| TOKEN_KEYS.to_owned()) } else { Server::start() };
    let (_peer, peer_port) = start_peer(Ipv4Addr::LOCALHOST.into());
    // With `-y` clients come in pairs.
    let clients = if flags.contains(&"-s") { 4 } else { 1 + u32::from(flags.contains(&"-y")) };
    let mut arguments: Vec<String> = flags.iter().map(|flag| flag.to_string()).collect();
    let (count, each) = (clients.to_string(), MESSAGES.to_string());
    let (port, peer_port) =
        (if flags.contains(&"-S") { server.tls_port } else { server.address.port() }, peer_port.to_string());
    let port = port.to_string();
    let common = ["-c", "-u", USERNAME, "-w", PASSWORD, "-n", &each, "-m", &count, "-l", "171", "-z", "5"];
    arguments.extend(common.map(String::from));
    if !flags.contains(&"-y") {
        arguments.extend(["-e", "127.0.0.1", "-r", &peer_port].map(String::from));
    }
    arguments.extend(["-p", &port, "127.0.0.1"].map(String::from));
    let text = (0..DRAWS_MAX)
        .map(|_| run(UCLIENT, &arguments))
        .find(|text| text.contains("tot_send_msgs") || !text.contains(UNLUCKY))
        .expect("nobody draws it so often");

    let sent = number(&text, "tot_send_msgs").unwrap_or_else(|| panic!("no count of messages sent:\n{text}"));
    let received = number(&text, "tot_recv_msgs").expect("received comes with sent");
    let lost = number(&text, "Total lost packets").expect("lost comes with sent");
    assert_eq!(sent, MESSAGES * clients, "sent");
    let is_by_password = server.log().contains("account=\"us~");
    assert_eq!(is_by_password, !flags.contains(&"-J"), "whose allocations they are");
    if flags.contains(&"-S") && flags.contains(&"-t") {
        // Over TLS uclient takes a whole record for one message, and loses count when two come in one: ask the server,
        // which says so when the allocation has ended.
        assert!(received > 0, "received");
        wait_until("as many messages back as there", || server.packets_to_clients() == sent);
        return;
    }
    assert_eq!(received, sent, "received");
    assert_eq!(lost, 0, "lost");
}

/// RFC 7635, OAUTH-7635-6.2-01: tokens that somebody else made, under AES-128-GCM and AES-256-GCM.
#[test]
fn oauth_7635_6_2_01_access_tokens_over_udp() {
    every_message_comes_back(&["-J"]);
}

#[test]
fn oauth_7635_6_2_01_access_tokens_over_tcp() {
    every_message_comes_back(&["-J", "-t", "-s"]);
}

#[test]
fn udp_channels() {
    every_message_comes_back(&[]);
}

#[test]
fn udp_send_indications() {
    every_message_comes_back(&["-s"]);
}

#[test]
fn tcp_channels() {
    every_message_comes_back(&["-t"]);
}

#[test]
fn tcp_send_indications() {
    every_message_comes_back(&["-t", "-s"]);
}

/// It draws one of the TLS versions from 1.0 on for each connection, and again when that is refused.
#[test]
fn tls_channels() {
    every_message_comes_back(&["-t", "-S"]);
}

#[test]
fn tls_send_indications() {
    every_message_comes_back(&["-t", "-S", "-s"]);
}

#[test]
fn udp_client_to_client_channels() {
    every_message_comes_back(&["-y"]);
}

#[test]
fn udp_client_to_client_send_indications() {
    every_message_comes_back(&["-y", "-s"]);
}

#[test]
fn tcp_client_to_client_channels() {
    every_message_comes_back(&["-y", "-t"]);
}

#[test]
fn tcp_client_to_client_send_indications() {
    every_message_comes_back(&["-y", "-t", "-s"]);
}

#[test]
fn tls_client_to_client_channels() {
    every_message_comes_back(&["-y", "-t", "-S"]);
}

/// ChannelData padded to four bytes in a UDP datagram, too, as pjnath does: allowed, and not part of the data.
#[test]
fn udp_padded_channels() {
    every_message_comes_back(&["-D"]);
}

#[test]
fn tcp_padded_channels() {
    every_message_comes_back(&["-t", "-D"]);
}

/// MOB-8016-3.2.2-01, -06, -09: with `-M` it comes from another socket with its ticket, sends the Refresh twice, wants the
/// same answer twice, and goes on with the new ticket. Whether it closes the old socket before is a throw of its dice.
///
/// Not over TLS: there it waits for a second record when both answers come in one, and frees the old session twice when
/// it has closed it before.
#[test]
fn mob_8016_3_2_2_01_udp_mobility() {
    every_message_comes_back(&["-M"]);
    every_message_comes_back(&["-M", "-s"]);
}

#[test]
fn mob_8016_3_2_2_01_tcp_mobility() {
    every_message_comes_back(&["-M", "-t"]);
    every_message_comes_back(&["-M", "-t", "-s"]);
}

/// TURN-8656-3.1-01: without `-t`, `-S` is DTLS.
#[cfg(feature = "dtls")]
#[test]
fn dtls_channels() {
    every_message_comes_back(&["-S"]);
}

#[cfg(feature = "dtls")]
#[test]
fn dtls_send_indications() {
    every_message_comes_back(&["-S", "-s"]);
}

#[cfg(feature = "dtls")]
#[test]
fn dtls_client_to_client_channels() {
    every_message_comes_back(&["-y", "-S"]);
}

/// DTLS-7350-3-02, -03: `openssl s_client` as a scanner.
#[cfg(feature = "dtls")]
#[test]
fn dtls_7350_3_02_openssl_s_client_gets_1_2_after_a_cookie() {
    if !is_installed("openssl") {
        return;
    }
    let server = Server::start();
    let connect = |version: &str| {
        let to = format!("127.0.0.1:{}", server.tls_port);
        let arguments = ["s_client", version, "-cipher", "DEFAULT@SECLEVEL=0", "-connect", &to, "-state", "-timeout"];
        run("openssl", &arguments.map(String::from))
    };
    let text = connect("-dtls1_2");
    assert!(text.contains("read hello verify request") && text.contains("read finished"), "{text}");
    assert!(!connect("-dtls1").contains("read server hello"), "version 1.0 is off");
}

#[test]
fn stunclient_learns_its_address() {
    if !is_installed(STUNCLIENT) {
        return;
    }
    let server = Server::start();
    let port = server.address.port().to_string();
    let text = run(STUNCLIENT, &["-p", &port, "127.0.0.1"].map(String::from));
    assert!(text.contains("UDP reflexive addr: 127.0.0.1:"), "{text}");
}
