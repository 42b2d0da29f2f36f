//! How far down the ladder the requests of a pool may go, and when nobody's verdict is believed any more.

use super::{Candidate, Standing};
use crate::clock::Instant;

/// By how much a product of a share and a count may miss the count it stands for.
const HAIR: f64 = 1e-9;

/// What a pool does when too few of its backends are well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reach {
    /// Whether those that are down are tried when nothing else is left.
    pub fail_open: bool,
    /// With less than this share of the primaries well, and no backup either, all primaries are tried alike; 0: never.
    pub panic_threshold: f64,
}

impl Reach {
    /// Whether so few are well that the verdicts are more likely wrong than right, or those few would be overrun.
    ///
    /// Who is merely full is well. Who is held back by an administrator is not counted at all: that is no verdict.
    #[inline]
    #[must_use]
    pub fn panics<C: Candidate>(&self, among: &[C], now: Instant) -> bool {
        self.panic_threshold > 0.0 && self.are_too_few(among, now)
    }

    #[cold]
    fn are_too_few<C: Candidate>(&self, among: &[C], now: Instant) -> bool {
        let (mut primaries, mut well) = (0u32, 0u32);
        for candidate in among {
            let is_well = match candidate.standing(now) {
                Standing::Draining | Standing::Maintenance => continue,
                Standing::Usable | Standing::Full => true,
                Standing::Down | Standing::Open => false,
            };
            if candidate.is_backup() {
                if is_well {
                    return false;
                }
                continue;
            }
            primaries += 1;
            well += u32::from(is_well);
        }
        f64::from(well) + HAIR < self.panic_threshold * f64::from(primaries)
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Fake, NOW};
    use super::Standing::{Down, Draining, Full, Maintenance, Open, Usable};
    use super::*;

    fn panics(panic_threshold: f64, primaries: &[Standing], backups: &[Standing]) -> bool {
        let fake = |standing: &Standing| Fake::new(1).standing(*standing);
        let among: Vec<Fake> =
            primaries.iter().map(fake).chain(backups.iter().map(|standing| fake(standing).backup())).collect();
        Reach { fail_open: true, panic_threshold }.panics(&among, NOW)
    }

    #[test]
    fn fewer_than_the_share_is_panic_and_just_the_share_is_none() {
        assert!(panics(0.5, &[Usable, Down, Down], &[]));
        assert!(!panics(0.5, &[Usable, Usable, Down, Down], &[]));
        assert!(panics(0.5, &[Usable, Open, Down, Down], &[]), "who is held back by a breaker is not well");
        assert!(panics(1.0, &[Usable, Down], &[]) && !panics(1.0, &[Usable, Usable], &[]));
        assert!(!panics(0.1, &[[Usable; 3].as_slice(), &[Down; 27]].concat(), &[]), "a tenth of 30 is 3");
        assert!(!panics(0.0, &[Down, Down], &[]), "off");
    }

    #[test]
    fn a_backup_that_is_well_keeps_off_panic_and_one_that_is_not_does_not() {
        assert!(!panics(0.5, &[Down, Down], &[Usable]));
        assert!(!panics(0.5, &[Down, Down], &[Down, Full]));
        assert!(panics(0.5, &[Down, Down], &[Down, Draining]));
        assert!(!panics(0.5, &[], &[Down]), "of no primaries none is missing");
    }

    #[test]
    fn who_is_busy_is_well_and_whom_an_administrator_holds_back_is_not_counted() {
        assert!(!panics(0.5, &[Full, Full, Down], &[]));
        assert!(!panics(0.5, &[Usable, Down, Draining, Maintenance, Maintenance], &[]));
        assert!(!panics(1.0, &[Draining, Maintenance], &[]));
    }
}
