//! Payloads that can prove they are whole, and in calm runs a list of those still on their way.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::dice::Dice;

#[derive(Debug, Default)]
pub struct Ledger {
    count: u64,
    /// In calm runs: what the server sent to a client and the client has not handed up yet.
    owed: BTreeMap<(usize, SocketAddr, Vec<u8>), u32>,
}

impl Ledger {
    /// A number, and bytes that follow from it. The shortest prove nothing: they only have to arrive.
    pub fn payload(&mut self, dice: &mut Dice) -> Vec<u8> {
        self.count += 1;
        let len = match dice.below(10) {
            0 => dice.below(8),
            1 => 1200 + dice.below(260),
            _ => 8 + dice.below(90),
        };
        derive(self.count, len as usize)
    }

    /// Panics if a payload was modified on its way.
    pub fn check(&self, payload: &[u8]) {
        if let Some(head) = payload.first_chunk() {
            let number = u64::from_be_bytes(*head);
            assert!(number <= self.count, "a payload that nobody sent");
            assert_eq!(payload, derive(number, payload.len()), "a payload was modified");
        }
    }

    pub fn owe(&mut self, client: usize, peer: SocketAddr, data: &[u8]) {
        *self.owed.entry((client, peer, data.to_vec())).or_default() += 1;
    }

    pub fn received(&mut self, client: usize, peer: SocketAddr, data: &[u8]) {
        let key = (client, peer, data.to_vec());
        let count = self.owed.get_mut(&key).expect("a client got what the server did not send");
        *count -= 1;
        if *count == 0 {
            self.owed.remove(&key);
        }
    }

    pub fn assert_settled(&self) {
        let missing: Vec<_> = self.owed.keys().map(|(client, peer, data)| (client, peer, data.len())).collect();
        assert!(missing.is_empty(), "permitted packets did not arrive (client, peer, length): {missing:?}");
    }
}

fn derive(number: u64, len: usize) -> Vec<u8> {
    let tail = (8..len as u64).map(|place| (number.wrapping_mul(31).wrapping_add(place.wrapping_mul(7))) as u8);
    let mut bytes: Vec<u8> = number.to_be_bytes().into_iter().chain(tail).collect();
    bytes.truncate(len);
    bytes
}
