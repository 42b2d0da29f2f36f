//! The suite that every policy passes, and the candidate that tests are made of.

use super::*;

/// The time at which tests pick.
pub(super) const NOW: Instant = Instant::ORIGIN;

/// A candidate that says what it is told to say.
#[derive(Clone, Debug)]
pub(super) struct Fake {
    identity: u64,
    weight: u32,
    standing: Standing,
    in_flight: u32,
    latency: Estimate,
    backup: bool,
}

impl Fake {
    pub fn new(identity: u64) -> Fake {
        let (standing, latency) = (Standing::Usable, Estimate::UNKNOWN);
        Fake { identity: hash_key(&identity.to_le_bytes()), weight: 1, standing, in_flight: 0, latency, backup: false }
    }

    pub fn weight(self, weight: u32) -> Fake {
        Fake { weight, ..self }
    }

    pub fn standing(self, standing: Standing) -> Fake {
        Fake { standing, ..self }
    }

    pub fn in_flight(self, in_flight: u32) -> Fake {
        Fake { in_flight, ..self }
    }

    pub fn latency(self, latency: Estimate) -> Fake {
        Fake { latency, ..self }
    }

    pub fn backup(self) -> Fake {
        Fake { backup: true, ..self }
    }
}

impl Candidate for Fake {
    fn weight(&self) -> u32 {
        self.weight
    }

    fn standing(&self, _: Instant) -> Standing {
        self.standing
    }

    fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn latency(&self) -> Estimate {
        self.latency
    }

    fn is_backup(&self) -> bool {
        self.backup
    }

    fn identity(&self) -> u64 {
        self.identity
    }
}

/// The pick for `key` among the usable primaries, nothing being tried yet.
pub(super) fn pick_for(picker: &mut impl Picker, among: &[Fake], key: u64) -> Option<usize> {
    let dice = &mut Dice::seeded(key);
    picker.pick(among, &mut Ask { now: NOW, key, tried: &Tried::default(), dice, rung: Rung::Primaries })
}

/// `count` picks in a row, each of another key; there must be an answer.
pub(super) fn picks(picker: &mut impl Picker, among: &[Fake], count: u64) -> Vec<usize> {
    let key = |number: u64| hash_key(&number.to_le_bytes());
    (0..count).map(|number| pick_for(picker, among, key(number)).expect("an answer")).collect()
}

/// How many of `count` picks each gets.
pub(super) fn shares(picker: &mut impl Picker, among: &[Fake], count: u64) -> Vec<usize> {
    let mut shares = vec![0; among.len()];
    picks(picker, among, count).into_iter().for_each(|index| shares[index] += 1);
    shares
}
