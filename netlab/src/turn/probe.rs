//! A STUN Binding request, to see whether a server is up (RFC 8489; nothing shared with the server under test).

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

const TRANSACTION: [u8; 12] = *b"netlab-probe";

/// Whether a Binding request sent from this namespace is answered with a success response within 300 ms.
pub async fn answers_binding(server: SocketAddr) -> bool {
    let attempt = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(server).await?;
        let mut request = vec![0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xa4, 0x42];
        request.extend(TRANSACTION);
        socket.send(&request).await?;
        let mut response = [0; 1500];
        let length = socket.recv(&mut response).await?;
        std::io::Result::Ok(is_success(&response[..length]))
    };
    matches!(timeout(Duration::from_millis(300), attempt).await, Ok(Ok(true)))
}

fn is_success(response: &[u8]) -> bool {
    response.len() >= 20 && response[..2] == [0x01, 0x01] && response[8..20] == TRANSACTION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_success_response_to_our_request_counts() {
        let mut response = vec![0x01, 0x01, 0x00, 0x00, 0x21, 0x12, 0xa4, 0x42];
        response.extend(TRANSACTION);
        assert!(is_success(&response));
        assert!(!is_success(&response[..19]));
        response[19] ^= 1;
        assert!(!is_success(&response));
    }
}
