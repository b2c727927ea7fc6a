//! The client of the `turn` crate (webrtc-rs), another implementation with another reading of the RFCs.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;
use turn::client::{Client, ClientConfig};
use webrtc_util::Conn;

use crate::processes::PATIENCE;
use crate::server::{PASSWORD, REALM, Server, USERNAME};

const MESSAGES: usize = 50;

#[test]
fn turn_crate_allocates_permits_and_talks_both_ways() {
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let talk = async { timeout(PATIENCE, talk(&server)).await.expect("not within the deadline") };
    runtime.block_on(talk);
    runtime.shutdown_timeout(Duration::from_secs(1));
}

async fn talk(server: &Server) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let local = socket.local_addr().expect("bound");
    let client = Client::new(ClientConfig {
        stun_serv_addr: server.address.to_string(),
        turn_serv_addr: server.address.to_string(),
        username: USERNAME.into(),
        password: PASSWORD.into(),
        realm: REALM.into(),
        software: String::new(),
        rto_in_ms: 0,
        conn: Arc::new(socket),
        vnet: None,
    });
    let client = client.await.expect("a client");
    client.listen().await.expect("listening");
    assert_eq!(client.send_binding_request().await.expect("Binding"), local);

    let relay = client.allocate().await.expect("Allocate");
    let relayed = relay.local_addr().expect("a relayed address");
    assert!(relayed.ip().is_loopback() && (61_000..65_000).contains(&relayed.port()), "{relayed}");

    let peer = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let peer_address = peer.local_addr().expect("bound");
    let mut bytes = [0; 2000];
    for number in 0..MESSAGES {
        // Sizes that need padding and sizes that do not; the first ones as Send, then the client binds a channel.
        let message = vec![number as u8; 1 + number * 23];
        relay.send_to(&message, peer_address).await.expect("sent");
        let (len, from) = peer.recv_from(&mut bytes).await.expect("received by the peer");
        assert_eq!((from, &bytes[..len]), (relayed, &message[..]));
        peer.send_to(&message, relayed).await.expect("sent back");
        let (len, from) = relay.recv_from(&mut bytes).await.expect("received by the client");
        assert_eq!((from, &bytes[..len]), (peer_address, &message[..]));
    }
    relay.close().await.expect("Refresh with a lifetime of zero");
    client.close().await.expect("closed");
}
