//! `[defaults.breaker]` and `[pools.NAME.breaker]`: each key of a pool falls back to the defaults', and some have to fit
//! others.

use std::time::Duration;

use super::super::diagnostic::Place;
use super::super::read::Table;
use super::super::words;
use super::{Checking, keys};
use crate::breaker::{Latency, Mode, Settings};

/// What a table of breakers says: `off` keeps its settings, because a pool may fall back to them and not be off.
#[derive(Clone, Debug, Default)]
pub(super) struct Breaker {
    is_off: bool,
    settings: Settings,
}

impl Breaker {
    /// The settings, unless there shall be no breakers.
    pub fn into_settings(self) -> Option<Settings> {
        (!self.is_off).then_some(self.settings)
    }
}

impl Checking<'_> {
    /// What pools fall back to.
    pub(super) fn default_breaker(&mut self, root: &Table) -> Breaker {
        let defaults = Breaker::default();
        root.table("defaults").map_or_else(Breaker::default, |table| self.breaker(table, &defaults))
    }

    /// What the `breaker` of this table says; what it does not say is as in `defaults`.
    pub(super) fn breaker(&mut self, table: &Table, defaults: &Breaker) -> Breaker {
        let mut breaker = defaults.clone();
        let Some(table) = table.table("breaker") else { return breaker };
        match table.text("mode") {
            Some(("off", _)) => breaker.is_off = true,
            Some((mode, _)) => {
                breaker.is_off = false;
                breaker.settings.mode = if mode == "observe" { Mode::Observe } else { Mode::Enforce };
            }
            None => {}
        }
        let settings = &mut breaker.settings;
        set_count(table, "consecutive_failures", &mut settings.consecutive_failures);
        set_count(table, "min_requests", &mut settings.min_requests);
        set_count(table, "half_open_probes", &mut settings.half_open_probes);
        set_ratio(table, "failure_ratio", &mut settings.failure_ratio);
        set_ratio(table, "max_open_ratio", &mut settings.max_open_ratio);
        set_time(table, "window", &mut settings.window);
        set_time(table, "open_for", &mut settings.open_for);
        set_time(table, "open_for_max", &mut settings.open_for_max);
        self.whole_seconds(table, settings.window);
        self.open_times_fit(table, settings);
        if let Some(latency) = self.latency(table) {
            settings.latency = Some(latency);
        }
        breaker
    }

    fn whole_seconds(&mut self, table: &Table, window: Duration) {
        let Some(node) = table.node("window").filter(|_| window.subsec_nanos() > 0) else { return };
        let seconds = window.as_secs().max(1);
        let message = "breakers count by whole seconds, and this window has a part of one";
        self.error(node.place, message, format!("write `window = \"{seconds}s\"`"));
    }

    /// Points at `open_for_max` where that is written, else at the `open_for` that is too long for its default.
    fn open_times_fit(&mut self, table: &Table, settings: &Settings) {
        let (first, most) = (settings.open_for, settings.open_for_max);
        let place = |key: &str| table.node(key).map(|node| node.place);
        let written: Option<Place> = place("open_for_max").or_else(|| place("open_for"));
        let Some(place) = written.filter(|_| most < first) else { return };
        let message = format!("`open_for_max` ({most:?}) is shorter than `open_for` ({first:?})");
        self.error(place, message, format!("write `open_for_max = \"{}\"` or longer", words::time(first)));
    }

    fn latency(&mut self, table: &Table) -> Option<Latency> {
        let node = table.node("latency")?;
        let latency = node.as_table()?;
        if latency.node("above").is_none() {
            let fault = super::Diagnostic::error("`latency` needs the bound").at(node.place);
            self.missing(latency, &keys::LATENCY, &["above"], fault.help("write `latency = { above = \"2s\" }`"));
        }
        let quantile = latency.number("quantile").unwrap_or(0.99);
        Some(Latency { quantile, above: latency.duration("above")? })
    }
}

fn set_count(table: &Table, key: &str, count: &mut u32) {
    if let Some(number) = table.integer(key).and_then(|number| u32::try_from(number).ok()) {
        *count = number;
    }
}

fn set_ratio(table: &Table, key: &str, ratio: &mut f64) {
    if let Some(number) = table.number(key) {
        *ratio = number;
    }
}

fn set_time(table: &Table, key: &str, time: &mut Duration) {
    if let Some(duration) = table.duration(key) {
        *time = duration;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_said, meant};
    use super::*;

    fn with(defaults: &str, pool: &str) -> String {
        format!(
            "listeners.w = {{ bind = '127.0.0.1:0', pool = 'p' }}\n[defaults.breaker]\n{defaults}\n\
             [pools.p]\nbackends = ['10.0.0.1:80', '10.0.0.2:80']\n[pools.p.breaker]\n{pool}\n"
        )
    }

    fn settings(defaults: &str, pool: &str) -> Option<Settings> {
        meant(&with(defaults, pool)).pools.remove(0).breaker
    }

    #[test]
    fn breakers_are_on_with_the_documented_defaults() {
        assert_eq!(settings("", ""), Some(Settings::default()));
        let written: String = keys::DEFAULT_BREAKER
            .keys
            .iter()
            .filter_map(|key| match key.absent {
                keys::Absent::Default(value) => Some(format!("{} = {value}\n", key.name)),
                _ => None,
            })
            .collect();
        assert_eq!(settings("", &written), Some(Settings::default()));
    }

    #[test]
    fn a_pool_falls_back_to_the_defaults_key_by_key() {
        let found = settings(
            "open_for = '1s'\nfailure_ratio = 0.2\nlatency = { above = '2s' }",
            "failure_ratio = 1\nmax_open_ratio = 0.9\nmode = 'observe'",
        );
        let (mode, open_for) = (Mode::Observe, Duration::from_secs(1));
        let latency = Some(Latency { quantile: 0.99, above: Duration::from_secs(2) });
        let wanted =
            Settings { mode, open_for, failure_ratio: 1.0, max_open_ratio: 0.9, latency, ..Settings::default() };
        assert_eq!(found, Some(wanted));
    }

    #[test]
    fn off_is_off_for_all_or_for_one() {
        assert_eq!(settings("mode = 'off'\nopen_for = '1s'", ""), None);
        assert_eq!(settings("", "mode = 'off'"), None);
        let back = settings("mode = 'off'\nopen_for = '1s'", "mode = 'enforce'").unwrap();
        assert_eq!(back.open_for, Duration::from_secs(1));
    }

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stands() {
        for (wrong, parts) in [
            ("consecutive_failures = 0", ["0 is out of range", "from 1 to"]),
            ("half_open_probes = 0", ["0 is out of range", "from 1 to 1000"]),
            ("min_requests = -1", ["-1 is out of range", "from 1 to"]),
            ("failure_ratio = 0", ["out of range", "above 0 and up to 1"]),
            ("failure_ratio = 1.5", ["1.5 is out of range", "above 0 and up to 1"]),
            ("failure_ratio = nan", ["out of range", "above 0 and up to 1"]),
            ("max_open_ratio = 50", ["50 is out of range", "above 0 and up to 1"]),
            ("window = '500ms'", ["whole seconds", "window = \"1s\""]),
            ("window = '2500ms'", ["whole seconds", "window = \"2s\""]),
            ("window = '2m'", ["out of range", "window"]),
            ("open_for = '0s'", ["out of range", "open_for"]),
            ("open_for_max = '2s'", ["`open_for_max` (2s) is shorter than `open_for` (5s)", "open_for_max = \"5s\""]),
            ("open_for = '90s'", ["(60s) is shorter than `open_for` (90s)", "open_for_max = \"90s\""]),
            ("mode = 'obsreve'", ["not a value of `mode`", "did you mean `observe`?"]),
            ("mode = true", ["`mode` can not be", "enforce"]),
            ("latency = { quantile = 0.9 }", ["needs the bound", "above = \"2s\""]),
            ("latency = { quantile = 99, above = '2s' }", ["99 is out of range", "above 0 and up to 1"]),
            ("latency = '2s'", ["`latency` can not be", "above"]),
            ("consecutive_5xx = 5", ["there is no key", "write `consecutive_failures = 5`"]),
            ("max_ejection_percent = 50", ["there is no key", "write `max_open_ratio = 0.5`"]),
        ] {
            for text in [with("", wrong), with(wrong, "")] {
                assert_said(&text, &[&parts[..], &["test.toml:", "^"]].concat());
            }
        }
    }
}
