//! Any of the policies: what a pool says it wants, and the picker that does it.
//!
//! A pick through this costs one branch that the processor foretells, where a trait object could not be generic over
//! candidates.

use std::sync::Arc;

use super::consistent_hash::Table;
use super::{
    Ask, Candidate, ConsistentHash, Dice, IpHash, LeastConnections, LeastResponseTime, Picker, RoundRobin, TwoChoices,
    WeightedRoundRobin,
};

/// Which policy, with what belongs to it.
#[derive(Clone, Debug)]
pub enum Policy {
    /// Each in turn, weights ignored.
    RoundRobin,
    /// By weight, evenly spread.
    WeightedRoundRobin,
    /// The least in flight per weight.
    LeastConnections,
    /// Weighted rendezvous hashing.
    IpHash {
        /// No backend takes more than this multiple of the mean load; more than 1.
        bounded_load: Option<f64>,
    },
    /// The smallest expected wait.
    LeastResponseTime,
    /// The less loaded of two drawn by weight.
    RandomTwoChoices,
    /// A look into a Maglev table.
    ConsistentHash {
        /// The pool's table, from [`ConsistentHash::table`] over the same candidates in the same order.
        table: Arc<Table>,
    },
}

/// One worker's picker for one pool.
#[derive(Clone, Debug)]
pub enum AnyPicker {
    /// [`Policy::RoundRobin`]
    RoundRobin(RoundRobin),
    /// [`Policy::WeightedRoundRobin`]
    WeightedRoundRobin(WeightedRoundRobin),
    /// [`Policy::LeastConnections`]
    LeastConnections(LeastConnections),
    /// [`Policy::IpHash`]
    IpHash(IpHash),
    /// [`Policy::LeastResponseTime`]
    LeastResponseTime(LeastResponseTime),
    /// [`Policy::RandomTwoChoices`]
    RandomTwoChoices(TwoChoices),
    /// [`Policy::ConsistentHash`]
    ConsistentHash(ConsistentHash),
}

impl AnyPicker {
    /// A picker of `policy` over `among`, whose phase follows from `seed`: give each worker another.
    #[must_use]
    pub fn new(policy: &Policy, among: &[impl Candidate], seed: u64) -> AnyPicker {
        let dice = &mut Dice::seeded(seed);
        match policy {
            Policy::RoundRobin => AnyPicker::RoundRobin(RoundRobin::new(among.len(), dice)),
            Policy::WeightedRoundRobin => AnyPicker::WeightedRoundRobin(WeightedRoundRobin::new(among, dice)),
            Policy::LeastConnections => AnyPicker::LeastConnections(LeastConnections::new(among, dice)),
            Policy::IpHash { bounded_load } => AnyPicker::IpHash(IpHash::new(among.len(), *bounded_load)),
            Policy::LeastResponseTime => AnyPicker::LeastResponseTime(LeastResponseTime::new(among, dice)),
            Policy::RandomTwoChoices => AnyPicker::RandomTwoChoices(TwoChoices::new(among.len())),
            Policy::ConsistentHash { table } => AnyPicker::ConsistentHash(ConsistentHash::new(Arc::clone(table))),
        }
    }
}

impl Picker for AnyPicker {
    fn pick<C: Candidate>(&mut self, among: &[C], ask: &mut Ask<'_>) -> Option<usize> {
        match self {
            AnyPicker::RoundRobin(picker) => picker.pick(among, ask),
            AnyPicker::WeightedRoundRobin(picker) => picker.pick(among, ask),
            AnyPicker::LeastConnections(picker) => picker.pick(among, ask),
            AnyPicker::IpHash(picker) => picker.pick(among, ask),
            AnyPicker::LeastResponseTime(picker) => picker.pick(among, ask),
            AnyPicker::RandomTwoChoices(picker) => picker.pick(among, ask),
            AnyPicker::ConsistentHash(picker) => picker.pick(among, ask),
        }
    }
}
