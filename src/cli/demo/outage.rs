//! The script of an outage: what befalls the servers, one act after the other, and what has to come of it.

use std::time::Duration;

use super::origins::Mood;
use super::script::Expect::{Calm, Capped, Closed, Down, FailOpen, Opened, Ramped, Reopened, Retried, Up};
use super::script::{Act, Loss, Step};

const ALL: &[&str] = &["swift", "steady", "slow", "flaky"];

const fn step(
    says: &'static str,
    who: &'static [&'static str],
    mood: Mood,
    seconds: u64,
    expects: &'static [super::script::Expect],
) -> Step {
    Step { says, who, mood, lasts: Duration::from_secs(seconds), expects }
}

/// The acts, in order.
#[must_use]
pub fn acts() -> [Act; 7] {
    [
        Act {
            title: "all is well",
            why: &["Each server gets its share by weight: 4, 2, 1 and 2."],
            loss: Loss::Nobody,
            steps: const { &[step("nothing is done", &[], Mood::Well, 6, &[Calm])] },
        },
        Act {
            title: "swift is killed",
            why: &[
                "A connection that is refused costs nothing: the request goes to another server at once. Three failures in",
                "a row open the breaker, long before two probes have failed; from then on swift is not even asked.",
            ],
            loss: Loss::Nobody,
            steps: const {
                &[step(
                    "swift is gone: its connections are cut, its port refuses",
                    &["swift"],
                    Mood::Refuses,
                    7,
                    &[Retried, Opened("swift"), Down("swift")],
                )]
            },
        },
        Act {
            title: "swift comes back",
            why: &[
                "Two good probes make it up again. Its breaker then lets three requests through, and closes when all three",
                "are answered. Its weight grows from 1 % to all of it in four seconds: it has to warm up first.",
            ],
            loss: Loss::Nobody,
            steps: const {
                &[step(
                    "swift listens again",
                    &["swift"],
                    Mood::Well,
                    9,
                    &[Up("swift"), Closed("swift"), Ramped("swift"), Calm],
                )]
            },
        },
        Act {
            title: "steady hangs",
            why: &[
                "It accepts and never answers, so nothing fails and only the probes can tell. When they have, those who wait",
                "for its answer are taken elsewhere: they are late, not failed.",
            ],
            loss: Loss::Nobody,
            steps: const {
                &[
                    step(
                        "steady takes requests and answers none",
                        &["steady"],
                        Mood::Hangs,
                        5,
                        &[Down("steady"), Retried],
                    ),
                    step("steady answers again", &["steady"], Mood::Well, 5, &[Up("steady"), Calm]),
                ]
            },
        },
        Act {
            title: "flaky answers 500 every second time",
            why: &[
                "Its health path is fine, so no probe notices: it is the answers that count. A 500 is tried elsewhere, and",
                "the share of them opens the breaker. A probe that fails keeps it open for twice as long.",
            ],
            loss: Loss::Nobody,
            steps: const {
                &[
                    step(
                        "flaky fails every second request",
                        &["flaky"],
                        Mood::FailsHalf,
                        6,
                        &[Retried, Opened("flaky"), Reopened("flaky")],
                    ),
                    step("flaky is well again", &["flaky"], Mood::Well, 4, &[Closed("flaky"), Calm]),
                ]
            },
        },
        Act {
            title: "every health check fails, no server does",
            why: &[
                "A wrong health path must not be an outage. Where all are down, all are tried rather than nobody: the last",
                "step of the ladder, fail_open.",
            ],
            loss: Loss::Nobody,
            steps: const {
                &[
                    step(
                        "all four say that they are not well, and answer",
                        ALL,
                        Mood::SaysUnwell,
                        5,
                        &[Down("swift"), Down("steady"), Down("slow"), Down("flaky"), FailOpen],
                    ),
                    step("they say that they are well again", ALL, Mood::Well, 4, &[Calm]),
                ]
            },
        },
        Act {
            title: "all four are killed",
            why: &[
                "Nothing can be done for the clients. But at most half of the breakers open, and who is down is tried for",
                "want of others: so the first request after their return is served, without waiting for a probe.",
            ],
            loss: Loss::Unavoidable,
            steps: const {
                &[
                    step(
                        "all four are gone",
                        ALL,
                        Mood::Refuses,
                        4,
                        &[
                            // Which two open is chance; that a third stays closed shows that two did.
                            Capped,
                            Down("swift"),
                            Down("steady"),
                            Down("slow"),
                            Down("flaky"),
                            FailOpen,
                        ],
                    ),
                    step("all four are back", ALL, Mood::Well, 6, &[Calm]),
                ]
            },
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::origins::WEB;
    use super::*;

    #[test]
    fn it_takes_about_a_minute_and_leaves_all_well() {
        let acts = acts();
        let lasts: Duration = acts.iter().flat_map(|act| act.steps).map(|step| step.lasts).sum();
        assert!(lasts >= Duration::from_secs(50) && lasts <= Duration::from_secs(65), "{lasts:?}");
        for name in WEB.map(|character| character.name) {
            let last = acts.iter().flat_map(|act| act.steps).rfind(|step| step.who.contains(&name));
            assert_eq!(last.map(|step| step.mood), Some(Mood::Well), "{name}");
        }
    }

    #[test]
    fn it_names_servers_that_there_are() {
        let known = WEB.map(|character| character.name);
        assert!(acts().iter().flat_map(|act| act.steps).flat_map(|step| step.who).all(|who| known.contains(who)));
        assert_eq!(ALL, known);
    }
}
