//! What the endless demonstration does to one of its servers, and when.

use std::time::Duration;

use super::origins::Mood;

/// Whom it happens to.
pub const WHO: &str = "flaky";

/// One after the other, again and again: for so many seconds so.
const CYCLE: [(u64, Mood); 6] =
    [(6, Mood::Well), (6, Mood::Refuses), (12, Mood::Well), (6, Mood::Fails), (12, Mood::Well), (6, Mood::Hangs)];

/// How it behaves after this time, and for how long still.
#[must_use]
pub fn at(elapsed: Duration) -> (Mood, Duration) {
    let whole: u64 = CYCLE.iter().map(|(seconds, _)| seconds).sum();
    let into = Duration::from_secs(elapsed.as_secs() % whole) + Duration::from_nanos(elapsed.subsec_nanos().into());
    let mut end = Duration::ZERO;
    for (seconds, mood) in CYCLE {
        end += Duration::from_secs(seconds);
        if into < end {
            return (mood, end - into);
        }
    }
    (Mood::Well, Duration::ZERO)
}

/// What is done to it, as a sentence.
#[must_use]
pub fn sentence(elapsed: Duration) -> String {
    let (mood, left) = at(elapsed);
    let does = match mood {
        Mood::Well => "is well",
        Mood::Refuses => "refuses connections",
        Mood::Hangs => "takes requests and answers none",
        Mood::Fails => "answers 500",
        Mood::FailsHalf => "answers 500 every second time",
        Mood::SaysUnwell => "says that it is not well",
    };
    format!("By schedule, {WHO} {does} for {} s more.", left.as_secs() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ill_comes_in_its_turn_and_the_round_begins_anew() {
        let mood = |seconds| at(Duration::from_secs(seconds)).0;
        assert_eq!([0, 6, 12, 24, 30, 42, 47].map(mood), {
            use Mood::*;
            [Well, Refuses, Well, Fails, Well, Hangs, Hangs]
        });
        assert_eq!((mood(48), mood(54)), (Mood::Well, Mood::Refuses));
        assert_eq!(at(Duration::from_millis(6_500)), (Mood::Refuses, Duration::from_millis(5_500)));
        assert_eq!(sentence(Duration::from_millis(6_500)), "By schedule, flaky refuses connections for 6 s more.");
    }
}
