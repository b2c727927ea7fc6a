//! Guests: allocations without credentials, for clients in configured prefixes (TURN-8656-7.2-01, DISC-8155-9-01).
//!
//! Nothing protects what they send and get. What keeps one from the allocation of another is the 5-tuple alone, and who
//! can forge a client's address can end its allocation: it is for networks where nobody can.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::turn::Credentials;
use crate::turn::allocation::Owner;

/// Begins like no user name can.
const USERNAME: &str = "\u{1}guest";

impl Credentials {
    /// Whether this client may allocate without credentials.
    pub(super) fn admits_guest(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.guests.iter().any(|prefix| prefix.contains(&client))
    }
}

impl Owner {
    /// Whether nobody but the 5-tuple says whose it is.
    pub(in crate::turn) fn is_guest(&self) -> bool {
        &*self.username == USERNAME
    }
}

/// A guest. Quotas count by address, IPv6 by /64, of which one client has all addresses.
pub(super) fn owner(client: IpAddr, live_owner: Option<&Owner>) -> Owner {
    if let Some(owner) = live_owner.filter(|owner| owner.is_guest()) {
        return owner.clone();
    }
    let (client, length) = match client.to_canonical() {
        client @ IpAddr::V4(_) => (client, 32),
        client @ IpAddr::V6(_) => (client, 64),
    };
    let network = IpNet::new_assert(client, length).trunc();
    Owner { username: USERNAME.into(), realm: None, account: format!("guest {network}").into(), grant: None }
}
