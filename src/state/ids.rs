//! Numbers for names: what a request looks pools and listeners up by.
//!
//! A name keeps its number over all generations, and no other name ever gets it, so a number taken from one snapshot means
//! the same pool in the next one or none. The numbers are dense: they index tables. A name that is gone leaves a hole of
//! one pointer.

use std::collections::BTreeMap;

use crate::config::Name;

/// A pool, over all generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(u32);

/// A listener, over all generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(u32);

impl PoolId {
    pub(super) fn new(number: u32) -> PoolId {
        PoolId(number)
    }

    /// Its place in a table over all pools.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl ListenerId {
    pub(super) fn new(number: u32) -> ListenerId {
        ListenerId(number)
    }

    /// Its place in a table over all listeners.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which name has which number, the names that are gone included.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    numbers: BTreeMap<Name, u32>,
}

impl Roster {
    /// The number of `name`, the next free one when it has none yet.
    pub(super) fn enrol(&mut self, name: &Name) -> u32 {
        if let Some(number) = self.find(name) {
            return number;
        }
        let next = u32::try_from(self.numbers.len()).expect("a process sees fewer than 2^32 names");
        self.numbers.insert(name.clone(), next);
        next
    }

    /// The number of `name`, if it ever had one.
    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }
}
