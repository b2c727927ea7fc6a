//! What stands in for `dtls` in a build without that feature: nobody speaks it.

use std::ops::Range;
use std::sync::Arc;

use super::handshakes::Home;
use super::reactor::Shard;
use super::routes::Route;
use crate::turn::{FiveTuple, IpFields, Now};

#[derive(Debug)]
pub(super) enum News {}

#[derive(Debug)]
pub(super) enum Arrival {}

pub(super) struct Associations;

impl Associations {
    pub(super) fn new(_: ahash::RandomState, _: Option<[u8; 32]>) -> Self {
        Self
    }

    pub(super) const fn is_empty(&self) -> bool {
        true
    }

    pub(super) const fn realm_of(&self, _: &FiveTuple) -> Option<Arc<str>> {
        None
    }

    pub(super) const fn open(&self) -> usize {
        0
    }

    pub(super) const fn count_allocation(&mut self, _: &FiveTuple, _: bool, _: Now) {}
}

impl Shard<'_> {
    pub(super) fn serve_record(&mut self, _: FiveTuple, _: usize, _: Route) {}

    pub(super) fn serve_late(&mut self) {}

    pub(super) fn relay_to_association(&mut self, _: &FiveTuple, _: usize, _: Range<usize>, _: IpFields) {}

    pub(super) fn send_to_association(&mut self, _: &FiveTuple, _: &[u8]) {}

    pub(super) fn hear(&mut self, news: News) {
        match news {}
    }

    pub(super) fn sweep_associations(&mut self, _: Now) {}

    pub(super) fn finish_associations(&mut self) {}
}

pub(super) struct Handshakes;

impl Handshakes {
    pub(super) const fn new() -> Self {
        Self
    }

    pub(super) const fn next_due(&self) -> Option<Now> {
        None
    }

    pub(super) fn serve(&mut self, home: &Home) -> bool {
        if let Some(arrival) = home.shared.next_arrival() {
            match arrival {}
        }
        false
    }
}
