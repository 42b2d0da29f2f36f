//! `slow_start` and `panic_threshold` of a pool: which algorithms and keys they go with.

use std::time::Duration;

use super::super::diagnostic::Diagnostic;
use super::super::read::Table;
use super::Checking;

/// The algorithms that go by weights at each pick.
const RAMPING: &[&str] = &["weighted_round_robin", "least_connections", "least_response_time", "random_two_choices"];

impl Checking<'_> {
    /// How long a backend that comes back takes to have all of its weight.
    pub(super) fn slow_start(&mut self, pool: &Table) -> Option<Duration> {
        let entry = pool.entry("slow_start")?;
        let chosen = pool.node("balance").and_then(|node| node.as_text()).map_or("round_robin", |(text, _)| text);
        if !RAMPING.contains(&chosen) {
            let fault = Diagnostic::error(format!("`slow_start` has no effect with `{chosen}`")).at(entry.key_place);
            let fault = match pool.node("balance") {
                Some(node) => fault.label(node.place, "the algorithm"),
                None => fault,
            };
            let nearest = if chosen == "round_robin" { "weighted_round_robin" } else { "least_connections" };
            self.faults.push(fault.help(format!(
                "write `balance = \"{nearest}\"`, or another that goes by weights at each request, or remove `slow_start`"
            )));
        }
        pool.duration("slow_start")
    }

    /// With how many of its backends well a pool believes in no verdict any more.
    pub(super) fn panic_threshold(&mut self, pool: &Table, fail_open: bool, has_breakers: bool) -> f64 {
        let threshold = pool.number("panic_threshold").unwrap_or(0.0);
        let Some(entry) = pool.entry("panic_threshold").filter(|_| threshold > 0.0) else { return threshold };
        if !fail_open {
            let fault =
                Diagnostic::error("`panic_threshold` uses backends that are down, and `fail_open` forbids that");
            let fault = fault.label(entry.key_place, "uses them");
            let fault = match pool.entry("fail_open") {
                Some(entry) => fault.label(entry.key_place, "forbids it"),
                None => fault,
            };
            self.faults.push(fault.help("write `panic_threshold = 0`, or remove `fail_open = false`"));
        } else if pool.entry("health_check").is_none() && !has_breakers {
            let warning = Diagnostic::warning("`panic_threshold` has no effect without `health_check` or breakers");
            let warning = warning.at(entry.key_place);
            self.faults.push(warning.help("nothing takes a backend down: write a `health_check`, or remove it"));
        }
        threshold
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_said, meant};
    use super::*;
    use crate::config::Pool;

    fn with(pool: &str) -> String {
        format!(
            "listeners.w = {{ bind = '127.0.0.1:0', pool = 'p' }}\n[pools.p]\nbackends = ['10.0.0.1:80', '10.0.0.2:80']\n{pool}\n"
        )
    }

    fn pool(lines: &str) -> Pool {
        meant(&with(lines)).pools.remove(0)
    }

    #[test]
    fn both_are_off_when_nothing_is_said() {
        let pool = pool("");
        assert_eq!((pool.slow_start, pool.panic_threshold), (None, 0.0));
    }

    #[test]
    fn every_algorithm_that_goes_by_weights_has_a_slow_start() {
        for algorithm in RAMPING {
            let pool = pool(&format!("balance = '{algorithm}'\nslow_start = '30s'"));
            assert_eq!(pool.slow_start, Some(Duration::from_secs(30)));
        }
    }

    #[test]
    fn a_slow_start_without_effect_is_refused_where_it_stands() {
        let refused = |lines: &str, algorithm: &str, advice: &str| {
            let message = format!("`slow_start` has no effect with `{algorithm}`");
            assert_said(&with(lines), &[&message, "test.toml:", "^", advice, "or remove `slow_start`"]);
        };
        refused("slow_start = '30s'", "round_robin", "write `balance = \"weighted_round_robin\"`");
        refused("balance = 'round_robin'\nslow_start = '30s'", "round_robin", "the algorithm");
        refused("balance = 'ip_hash'\nslow_start = '30s'", "ip_hash", "write `balance = \"least_connections\"`");
        refused("balance = 'consistent_hash'\nslow_start = '30s'", "consistent_hash", "goes by weights");
    }

    #[test]
    fn a_slow_start_is_a_duration_from_a_millisecond_to_a_day() {
        for (wrong, part) in [
            ("30", "\"30s\""),
            ("'30'", "\"30s\""),
            ("'0s'", "from \"1ms\" to \"24h\""),
            ("'-1s'", "\"500ms\""),
            ("'25h'", "from \"1ms\" to \"24h\""),
            ("true", "a duration"),
        ] {
            assert_said(&with(&format!("balance = 'least_connections'\nslow_start = {wrong}")), &[part, "^"]);
        }
    }

    #[test]
    fn a_panic_threshold_is_a_share() {
        let threshold = |value: &str| pool(&format!("health_check = 'tcp'\npanic_threshold = {value}")).panic_threshold;
        assert_eq!(["0", "0.0", "0.25", "1", "1.0"].map(threshold), [0.0, 0.0, 0.25, 1.0, 1.0]);
        for wrong in ["1.1", "-0.1", "50", "nan", "-1"] {
            assert_said(
                &with(&format!("panic_threshold = {wrong}")),
                &["out of range", "panic_threshold", "up to 1", "^"],
            );
        }
        assert_said(&with("panic_threshold = '50%'"), &["`panic_threshold` can not be", "^"]);
    }

    #[test]
    fn a_panic_threshold_and_fail_open_do_not_contradict_each_other() {
        let said = ["uses backends that are down", "forbids it", "^", "write `panic_threshold = 0`"];
        assert_said(&with("health_check = 'tcp'\nfail_open = false\npanic_threshold = 0.5"), &said);
        assert_eq!(pool("health_check = 'tcp'\nfail_open = false\npanic_threshold = 0").panic_threshold, 0.0);
        assert_eq!(pool("health_check = 'tcp'\nfail_open = true\npanic_threshold = 0.5").panic_threshold, 0.5);
    }

    #[test]
    fn a_panic_threshold_where_nothing_is_ever_down_is_pointed_out() {
        let said = ["warning: `panic_threshold` has no effect without `health_check` or breakers"];
        assert_said(&with("panic_threshold = 0.5\nbreaker = { mode = 'off' }"), &said);
        assert_eq!(pool("panic_threshold = 0.5").panic_threshold, 0.5, "breakers are on");
    }

    #[test]
    fn other_programs_words_are_understood() {
        for (word, part) in [
            ("slowstart = '30s'", "write `slow_start = \"30s\"`"),
            ("healthy_panic_threshold = 50", "write `panic_threshold = 0.5`"),
        ] {
            assert_said(&with(word), &[part]);
        }
    }
}
