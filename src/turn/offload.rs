//! Somebody else who relays without asking: a mirror of what is bound, in the kernel where there is one.
//!
//! The machine says what may pass ([`Offload::mirror`]), until when ([`Offload::extend`]), and when that ends early
//! ([`Offload::unmirror`]); it asks what has passed. What the mirror does not know, or does not do exactly as
//! `relay.rs` would, comes to the machine like any other packet, so that a mirror may forget a flow, and none may
//! be there at all, without anybody seeing a difference.

use std::fmt;
use std::net::SocketAddr;

use super::{FiveTuple, Now};
use crate::stun::ChannelNumber;

/// What passes between one client over UDP and one of its peers, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Client and server as in the headers of the client's datagrams; its transport is UDP.
    pub path: FiveTuple,
    /// What the relay's socket is bound to: what peers' datagrams have as their destination, and data to them as its
    /// source. (Behind 1:1 NAT peers see another address.)
    pub relay: SocketAddr,
    /// The relayed transport address as clients are told it. It is the sender where the peer is another relay of this
    /// server.
    pub relayed: SocketAddr,
    /// The peer's transport address; nobody else's data belongs to this flow.
    pub peer: SocketAddr,
    /// Where the peer is another relay of this server: what that one is bound to. Data for it goes to its client, if
    /// that one's flow with `relayed` as its peer is mirrored too, and never onto the network.
    pub peer_relay: Option<SocketAddr>,
    /// How the data is framed between client and server: as ChannelData of this channel, or, without one, in Send and
    /// Data indications.
    pub channel: Option<ChannelNumber>,
}

/// Names a mirrored flow to whoever mirrors it, until it is unmirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId(pub u32);

/// What has passed in one direction since it was last asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Datagrams.
    pub packets: u64,
    /// Bytes of application data in them.
    pub bytes: u64,
    /// Those of the datagrams whose first bytes were looked at, as `hints.rs` looks at them.
    pub seen: u32,
    /// Those of them that look like no call.
    pub foreign: u32,
}

/// A mirror. Every call returns at once; none waits for a lock that a packet may hold. Dropped, it ends all its flows: the
/// machine that told them is gone.
pub trait Offload: fmt::Debug + Send {
    /// From now on relays this flow by itself, until then. `None` if it cannot: no room, no way, framing that it does not
    /// know, another flow with the same packets (of another shard: a machine has none). Asking again later is welcome, with each request of the client at most.
    fn mirror(&mut self, flow: &Flow, until: Now) -> Option<FlowId>;

    /// The flow may go on until then, which may also be earlier than it was. Holds for the next packet.
    fn extend(&mut self, flow: FlowId, until: Now);

    /// What has passed since this was last asked: to the peer, to the client.
    fn passed(&mut self, flow: FlowId) -> [Passed; 2];

    /// Ends the flow: it relays no further packet once this returns. What has passed since that was last asked.
    fn unmirror(&mut self, flow: FlowId) -> [Passed; 2];
}
