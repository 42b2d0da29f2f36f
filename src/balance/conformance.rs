//! The suite that every policy passes, and the candidate that tests are made of.

use super::*;

/// The time at which tests pick.
pub(super) const NOW: Instant = Instant::ORIGIN;

/// A candidate that says what it is told to say.
#[derive(Clone, Debug)]
pub(super) struct Fake {
    identity: u64,
    weight: u32,
    /// How much of it there is, in hundredths.
    ramp: u32,
    standing: Standing,
    in_flight: u32,
    pub latency: Estimate,
    backup: bool,
}

impl Fake {
    pub fn new(identity: u64) -> Fake {
        let (standing, latency) = (Standing::Usable, Estimate::UNKNOWN);
        let identity = hash_key(&identity.to_le_bytes());
        Fake { identity, weight: 1, ramp: UNIT, standing, in_flight: 0, latency, backup: false }
    }

    pub fn weight(self, weight: u32) -> Fake {
        Fake { weight, ..self }
    }

    /// With this many hundredths of its weight.
    pub fn ramp(self, ramp: u32) -> Fake {
        Fake { ramp, ..self }
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

    fn weight_at(&self, _: Instant) -> u32 {
        self.weight * self.ramp
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

mod suite {
    use std::collections::VecDeque;
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const STANDINGS: [Standing; 6] =
        [Standing::Usable, Standing::Down, Standing::Open, Standing::Full, Standing::Draining, Standing::Maintenance];

    fn all_policies(among: &[Fake]) -> Vec<Policy> {
        let mut policies = hashing_policies(among);
        policies.extend([
            Policy::RoundRobin,
            Policy::WeightedRoundRobin,
            Policy::LeastConnections,
            Policy::IpHash { bounded_load: Some(1.25) },
            Policy::LeastResponseTime,
            Policy::RandomTwoChoices,
        ]);
        policies
    }

    fn hashing_policies(among: &[Fake]) -> Vec<Policy> {
        vec![Policy::IpHash { bounded_load: None }, Policy::ConsistentHash { table: ConsistentHash::table(among) }]
    }

    fn cases(cases: u32) -> ProptestConfig {
        ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
    }

    prop_compose! {
        fn any_fake()(
            weight in prop_oneof![Just(1), 1..9u32, Just(1000)],
            ramp in prop_oneof![2 => Just(UNIT), 1 => 1..=UNIT],
            standing in prop_oneof![2 => Just(Standing::Usable), 3 => proptest::sample::select(&STANDINGS[..])],
            in_flight in prop_oneof![Just(0), 0..40u32],
            micros in proptest::option::of(0..2_000_000u64),
            backup in proptest::bool::weighted(0.3),
        ) -> Fake {
            let sample = |micros| Estimate::UNKNOWN.observe(Duration::from_micros(micros), NOW);
            let latency = micros.map_or(Estimate::UNKNOWN, sample);
            Fake { identity: 0, weight, ramp, standing, in_flight, latency, backup }
        }
    }

    prop_compose! {
        fn any_pool()(mut pool in vec(any_fake(), 0..40)) -> Vec<Fake> {
            pool.iter_mut().zip(0u64..).for_each(|(fake, id)| fake.identity = hash_key(&id.to_le_bytes()));
            pool
        }
    }

    prop_compose! {
        /// Usable backends of these weights, told apart by numbers from `salt` on.
        fn idle_pool(most: usize)(weights in vec(1..6u32, 2..=most), salt: u32) -> Vec<Fake> {
            weights.iter().zip(u64::from(salt)..).map(|(&weight, id)| Fake::new(id).weight(weight)).collect()
        }
    }

    fn first_rung(among: &[Fake], tried: &Tried, reach: Reach) -> Option<Rung> {
        let last = if reach.fail_open { Rung::FailOpen } else { Rung::BreakerOpen };
        let ladder = if reach.panics(among, NOW) { &Rung::IN_PANIC[..] } else { &Rung::LADDER };
        let full = |(index, fake): (usize, &Fake)| fake.standing == Standing::Full && !tried.contains(index);
        let is_upper = |rung| rung <= LOWEST_WHILE_FULL || rung == Rung::Panic;
        let waits = among.iter().enumerate().any(full);
        let stands =
            |rung: Rung| (0..among.len()).any(|i| rung.holds(among[i].standing, among[i].backup) && !tried.contains(i));
        ladder.iter().copied().find(|&rung| rung <= last && (is_upper(rung) || !waits) && stands(rung))
    }

    proptest! {
        #![proptest_config(cases(96))]

        #[test]
        fn the_answer_stands_on_the_asked_rung_untried_and_is_missing_only_when_none_does(
            among in any_pool(), tried_already in vec(0..40usize, 0..8), seed: u64,
            rung in proptest::sample::select([&Rung::LADDER[..], &Rung::IN_PANIC].concat()),
        ) {
            let mut among = among;
            let mut tried = Tried::default();
            tried_already.into_iter().for_each(|index| assert!(tried.add(index)));
            let dice = &mut Dice::seeded(seed);
            for policy in all_policies(&among) {
                let mut picker = AnyPicker::new(&policy, &among, seed);
                for key in 0..6 {
                    among.iter_mut().for_each(|fake| fake.ramp = UNIT.min(fake.ramp + 7));
                    let key = hash_key(&[key]);
                    let mut ask = Ask { now: NOW, key, tried: &tried, dice, rung };
                    let found = picker.pick(&among, &mut ask);
                    let admitted: Vec<usize> = (0..among.len()).filter(|&i| ask.admits(i, &among[i])).collect();
                    match found {
                        Some(index) => prop_assert!(admitted.contains(&index), "{policy:?} picked {index}"),
                        None => prop_assert!(admitted.is_empty(), "{policy:?} found none"),
                    }
                }
            }
        }

        #[test]
        fn the_ladder_is_climbed_in_order_whatever_the_policy(
            among in any_pool(), seed: u64, fail_open: bool, panic_threshold in prop_oneof![Just(0.0), 0.0..=1.0],
        ) {
            let reach = Reach { fail_open, panic_threshold };
            let dice = &mut Dice::seeded(seed);
            for policy in all_policies(&among) {
                let mut picker = AnyPicker::new(&policy, &among, seed);
                let mut tried = Tried::default();
                for _ in 0..Tried::MOST {
                    let expected = first_rung(&among, &tried, reach);
                    let mut ask = Ask { now: NOW, key: seed, tried: &tried, dice, rung: Rung::FailOpen };
                    let found = climb(&mut picker, &among, &mut ask, reach);
                    prop_assert_eq!(found.map(|(_, rung)| rung), expected);
                    let Some((index, rung)) = found else { break };
                    prop_assert!(rung.holds(among[index].standing, among[index].backup) && !tried.contains(index));
                    prop_assert!(tried.add(index));
                }
            }
        }
    }

    /// The share of each of `count` requests, of which the last `held` are in flight at a time.
    fn shares_in_flight(picker: &mut AnyPicker, among: &[Fake], count: u64, held: usize) -> Vec<f64> {
        let mut among = among.to_vec();
        let (mut flying, mut counts) = (VecDeque::new(), vec![0.0; among.len()]);
        for number in 0..count {
            let index = pick_for(picker, &among, hash_key(&number.to_le_bytes())).expect("an answer");
            among[index].in_flight += 1;
            counts[index] += 1.0 / count as f64;
            flying.push_back(index);
            if flying.len() > held {
                among[flying.pop_front().expect("held ones")].in_flight -= 1;
            }
        }
        counts
    }

    proptest! {
        #![proptest_config(cases(12))]

        #[test]
        fn shares_follow_the_weights(among in idle_pool(6), seed: u64) {
            let total: u32 = among.iter().map(|fake| fake.weight).sum();
            for policy in all_policies(&among) {
                let mut picker = AnyPicker::new(&policy, &among, seed);
                let shares = shares_in_flight(&mut picker, &among, 2000, 3 * total as usize);
                for (share, fake) in shares.iter().zip(&among) {
                    let by_weight = f64::from(fake.weight) / f64::from(total);
                    let (least, most) = match policy {
                        Policy::RoundRobin => (1.0 / among.len() as f64, 1.0 / among.len() as f64),
                        // what is over the bound goes to the others, for a few in flight more often to the heavier ones
                        Policy::IpHash { bounded_load: Some(multiple) } => (by_weight / multiple, by_weight * multiple),
                        _ => (by_weight, by_weight),
                    };
                    prop_assert!(*share > least - 0.05 && *share < most + 0.05, "{shares:?} of {policy:?}");
                }
            }
        }

        #[test]
        fn a_key_has_one_backend_in_every_worker_and_after_every_restart(among in idle_pool(9), seeds: (u64, u64)) {
            let again = hashing_policies(&among);
            for (policy, again) in hashing_policies(&among).iter().zip(again) {
                let mut one = AnyPicker::new(policy, &among, seeds.0);
                let mut other = AnyPicker::new(&again, &among, seeds.1);
                let second_pass = picks(&mut one, &among, 300);
                prop_assert_eq!(&second_pass, &picks(&mut other, &among, 300));
                prop_assert_eq!(second_pass, picks(&mut one, &among, 300));
            }
        }

        #[test]
        fn one_backend_more_takes_no_more_than_its_share(among in idle_pool(9)) {
            let without = &among[1..];
            let total: u32 = among.iter().map(|fake| fake.weight).sum();
            let share = f64::from(among[0].weight) / f64::from(total);
            for (policy, before) in hashing_policies(&among).iter().zip(hashing_policies(without)) {
                let after = picks(&mut AnyPicker::new(policy, &among, 1), &among, 2000);
                let before = picks(&mut AnyPicker::new(&before, without, 1), without, 2000);
                let moved = after.iter().zip(&before).filter(|&(&after, &before)| after != before + 1);
                let (to_the_new, among_the_old): (Vec<_>, Vec<_>) = moved.partition(|&(&after, _)| after == 0);
                prop_assert!((to_the_new.len() as f64 / 2000.0 - share).abs() < 0.05);
                let error = if matches!(policy, Policy::ConsistentHash { .. }) { 0.08 } else { 0.0 };
                prop_assert!(among_the_old.len() as f64 / 2000.0 <= error, "{} moved", among_the_old.len());
            }
        }

        #[test]
        fn a_backend_that_goes_down_moves_only_its_own_clients_and_to_all_others(among in idle_pool(9)) {
            let mut after = among.clone();
            after[0].standing = Standing::Down;
            for policy in hashing_policies(&among) {
                let before = picks(&mut AnyPicker::new(&policy, &among, 1), &among, 3000);
                let now = picks(&mut AnyPicker::new(&policy, &after, 1), &after, 3000);
                let mut heirs = vec![0; among.len()];
                for (before, now) in before.iter().zip(&now) {
                    prop_assert!(*before == 0 || before == now);
                    heirs[*now] += usize::from(*before == 0);
                }
                prop_assert!(heirs[1..].iter().all(|&inherited| inherited > 0), "{heirs:?}");
            }
        }
    }

    const UNSHAKEN: Reach = Reach { fail_open: true, panic_threshold: 0.0 };

    /// How many of 6000 requests each gets that go one after the other by `policy`.
    fn shares_of(policy: &Policy, among: &[Fake]) -> Vec<usize> {
        shares(&mut AnyPicker::new(policy, among, 1), among, 6000)
    }

    const RAMPING: [Policy; 4] =
        [Policy::WeightedRoundRobin, Policy::LeastConnections, Policy::LeastResponseTime, Policy::RandomTwoChoices];

    #[test]
    fn a_ramping_backend_has_the_share_of_what_it_has_of_its_weight() {
        for policy in RAMPING {
            for percent in [1, 10, 50, 100] {
                let among = [Fake::new(1), Fake::new(2), Fake::new(3).ramp(percent)];
                let (its, fair) = (shares_of(&policy, &among)[2], 6000 * percent as usize / (200 + percent as usize));
                let slack = if matches!(policy, Policy::WeightedRoundRobin) { 1 } else { 20 + fair / 20 };
                assert!(its > 0 && its.abs_diff(fair) <= slack, "{its} for {fair} by {policy:?}");
            }
        }
    }

    #[test]
    fn where_all_ramp_all_is_served_by_what_they_have_of_their_weights() {
        for policy in RAMPING {
            let only = shares_of(&policy, &[Fake::new(1).ramp(1)]);
            assert_eq!(only, [6000]);
            let among = [1, 1, 4].map(|percent| Fake::new(u64::from(percent)).ramp(percent));
            let shares = shares_of(&policy, &among);
            assert!(shares[0].abs_diff(1000) < 150 && shares[2].abs_diff(4000) < 250, "{shares:?} by {policy:?}");
        }
    }

    #[test]
    fn a_ramping_backend_has_no_more_than_its_share_however_idle_and_fast_it_is() {
        let fast = Estimate::UNKNOWN.observe(Duration::from_micros(1), NOW);
        let slow = Estimate::UNKNOWN.observe(Duration::from_secs(1), NOW);
        let others = |id| Fake::new(id).in_flight(9).latency(slow);
        for policy in &RAMPING[1..] {
            for count in [2, 30] {
                let ramping = Fake::new(99).ramp(10).latency(fast);
                let among: Vec<Fake> = (0..count).map(others).chain([ramping.clone()]).collect();
                let (its, fair) = (shares_of(policy, &among)[count as usize], 6000 / (10 * count + 1));
                assert!(its.abs_diff(fair as usize) < 20 + fair as usize / 5, "{its} for {fair} by {policy:?}");
                let busy = [&among[..count as usize], &[ramping.in_flight(50).latency(slow)]].concat();
                assert_eq!(shares_of(policy, &busy)[count as usize], 0, "busier than the others, by {policy:?}");
            }
        }
    }

    #[test]
    fn in_panic_all_primaries_but_the_full_ones_are_used_alike() {
        let among = [
            Fake::new(0),
            Fake::new(1).standing(Standing::Down),
            Fake::new(2).standing(Standing::Open),
            Fake::new(3).standing(Standing::Down),
            Fake::new(4).standing(Standing::Full),
            Fake::new(5).standing(Standing::Draining),
            Fake::new(6).standing(Standing::Maintenance),
            Fake::new(7).standing(Standing::Down).backup(),
        ];
        let policies = [RAMPING.to_vec(), vec![Policy::RoundRobin, Policy::IpHash { bounded_load: None }]].concat();
        for policy in policies {
            let (mut picker, dice) = (AnyPicker::new(&policy, &among, 1), &mut Dice::seeded(1));
            let mut shares = [0; 8];
            for number in 0u64..4000 {
                let (key, tried) = (hash_key(&number.to_le_bytes()), &Tried::default());
                let mut ask = Ask { now: NOW, key, tried, dice, rung: Rung::Primaries };
                let reach = Reach { fail_open: true, panic_threshold: 0.5 };
                let (index, rung) = climb(&mut picker, &among, &mut ask, reach).expect("there are some");
                assert_eq!(rung, Rung::Panic);
                shares[index] += 1;
            }
            assert!(shares[..4].iter().all(|share| (800..1200).contains(share)), "{shares:?} by {policy:?}");
            assert_eq!(shares[4..], [0; 4], "{policy:?}");
        }
    }

    #[test]
    fn what_is_down_or_open_takes_nothing_while_one_that_works_is_merely_full() {
        let among = |full| [Fake::new(0).standing(Standing::Down), Fake::new(1).standing(Standing::Open), full];
        let found = |full, tried: &Tried| {
            let (mut picker, dice) = (RoundRobin::new(3, &mut Dice::seeded(1)), &mut Dice::seeded(1));
            let mut ask = Ask { now: NOW, key: 0, tried, dice, rung: Rung::Primaries };
            climb(&mut picker, &among(full), &mut ask, UNSHAKEN).map(|(index, _)| index)
        };
        let (mut tried, full) = (Tried::default(), Fake::new(2).standing(Standing::Full));
        assert_eq!(found(full.clone(), &tried), None);
        assert_eq!(found(Fake::new(2).standing(Standing::Draining), &tried), Some(1));
        assert!(tried.add(2));
        assert_eq!(found(full, &tried), Some(1), "this request can not have the full one anyway");
    }

    #[test]
    fn more_tries_than_can_be_remembered_end_the_tries() {
        let mut tried = Tried::default();
        assert!((0..Tried::MOST).all(|index| tried.add(index)));
        assert!(!tried.add(99) && !tried.contains(99));
        assert!(!Tried::default().add(70_000));
    }
}
