//! How the demonstration's numbers look: text from samples, no terminal and no clock.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::time::Duration;

/// How many samples back a recent share looks; at two a second these are five seconds.
const WINDOW: usize = 10;

/// The longest bar, in characters; one stands for 2.5 %.
const BAR: usize = 40;

/// What all other columns take, and those of them that come last and are left out where there is no room.
const COLUMNS: usize = 92;
const TIMES: usize = 18;

/// A backend at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its pool's name.
    pub pool: String,
    /// Its name.
    pub backend: String,
    /// Its weight.
    pub weight: u32,
    /// How it stands, in words.
    pub standing: String,
    /// Requests or sessions that it has now.
    pub in_flight: u64,
    /// Those that have ended, since the start.
    pub requests: u64,
    /// Of these, those that failed by its fault.
    pub failures: u64,
    /// Half of the response times since the start were no longer.
    pub p50: Option<Duration>,
    /// 99 % of them were no longer.
    pub p99: Option<Duration>,
}

/// The samples of a moment with what led to them.
#[derive(Debug, Default)]
pub struct History {
    now: Vec<Sample>,
    counts: VecDeque<HashMap<(String, String), u64>>,
}

/// Over which time a share is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// The last five seconds.
    Recent,
    /// All since the start.
    Whole,
}

impl History {
    /// Takes the next samples, in the order in which they shall appear.
    pub fn push(&mut self, now: Vec<Sample>) {
        let before = std::mem::replace(&mut self.now, now);
        if self.counts.len() == WINDOW {
            self.counts.pop_front();
        }
        self.counts.push_back(before.into_iter().map(|s| ((s.pool, s.backend), s.requests)).collect());
    }

    /// The pools, in order.
    pub fn pools(&self) -> Vec<&str> {
        let mut pools: Vec<&str> = self.now.iter().map(|sample| sample.pool.as_str()).collect();
        pools.dedup();
        pools
    }

    /// The backends of a pool, each with its part of the pool's requests in `span`; `None` when there were none.
    pub fn shares(&self, pool: &str, span: Span) -> Vec<(&Sample, Option<f64>)> {
        let of_pool: Vec<&Sample> = self.now.iter().filter(|sample| sample.pool == pool).collect();
        let done: Vec<u64> = of_pool.iter().map(|sample| self.done(sample, span)).collect();
        let sum: u64 = done.iter().sum();
        let share = |done: u64| (sum > 0).then(|| 100.0 * done as f64 / sum as f64);
        of_pool.into_iter().zip(done).map(|(sample, done)| (sample, share(done))).collect()
    }

    fn done(&self, sample: &Sample, span: Span) -> u64 {
        let then = match span {
            Span::Whole => None,
            Span::Recent => self.counts.front(),
        };
        let before = then.and_then(|counts| counts.get(&(sample.pool.clone(), sample.backend.clone())));
        sample.requests.saturating_sub(before.copied().unwrap_or(0))
    }
}

/// The table of all pools, one line an element; `note` is what is to be said of a pool as a whole.
pub fn table(history: &History, span: Span, note: impl Fn(&str) -> String, width: usize) -> Vec<String> {
    let has_times = width >= COLUMNS;
    let others = if has_times { COLUMNS } else { COLUMNS - TIMES };
    let bar = BAR.min(width.saturating_sub(others));
    let heading = match span {
        Span::Recent if bar < 8 => "5 s",
        Span::Recent => "share, last 5 s",
        Span::Whole => "share",
    };
    let columns = bar + 8;
    let times = if has_times { format!(" {:>8} {:>8}", "p50", "p99") } else { String::new() };
    let head = format!(
        "  {:<12} {:<26} {heading:<columns$} {:>6} {:>8} {:>6}{times}",
        "backend", "standing", "active", "requests", "failed"
    );
    let mut lines = Vec::new();
    for pool in history.pools() {
        lines.push(format!("{pool}  {}", note(pool)));
        lines.push(head.clone());
        let row = |(sample, share)| row(sample, share, bar, has_times);
        lines.extend(history.shares(pool, span).into_iter().map(row));
        lines.push(String::new());
    }
    lines.iter().map(|line| cut(line, width)).collect()
}

fn row(sample: &Sample, share: Option<f64>, bar: usize, has_times: bool) -> String {
    let Sample { backend, weight, standing, in_flight, requests, failures, .. } = sample;
    let (name, drawn, share) = (format!("{backend} ×{weight}"), blocks(share.unwrap_or(0.0), bar), percent(share));
    let (p50, p99) = (millis(sample.p50), millis(sample.p99));
    let times = if has_times { format!(" {p50:>8} {p99:>8}") } else { String::new() };
    format!("  {name:<12} {standing:<26} {share:>7} {drawn:<bar$} {in_flight:>6} {requests:>8} {failures:>6}{times}")
}

/// All pools on one line, for where nothing can be redrawn; `note` is what is to be said of a pool as a whole.
pub fn line(history: &History, note: impl Fn(&str) -> String) -> String {
    let mut line = String::new();
    for pool in history.pools() {
        let _ = write!(line, " | {pool} {}:", note(pool));
        for (sample, share) in history.shares(pool, Span::Recent) {
            let _ = write!(line, " {} {}", sample.backend, percent(share));
            if sample.standing != "up" {
                let _ = write!(line, " ({})", sample.standing);
            }
        }
    }
    line
}

/// As much of a line as fits.
pub fn cut(line: &str, width: usize) -> String {
    line.chars().take(width).collect::<String>().trim_end().to_owned()
}

fn percent(share: Option<f64>) -> String {
    share.map_or("–".to_owned(), |share| format!("{share:.1} %"))
}

fn millis(time: Option<Duration>) -> String {
    let Some(time) = time else { return "–".to_owned() };
    let millis = time.as_secs_f64() * 1000.0;
    if millis < 1.0 { format!("{millis:.2} ms") } else { format!("{millis:.1} ms") }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share is between 0 and 100")]
fn blocks(share: f64, most: usize) -> String {
    "█".repeat((share / 100.0 * most as f64).round() as usize)
}

/// A backend that has been asked so often, for the tests of this room.
#[cfg(test)]
pub(super) fn sample(pool: &str, backend: &str, requests: u64) -> Sample {
    Sample {
        pool: pool.into(),
        backend: backend.into(),
        weight: 1,
        standing: "up".into(),
        in_flight: 0,
        requests,
        failures: 0,
        p50: Some(Duration::from_micros(2_500)),
        p99: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recent_share_forgets_what_was_long_ago() {
        let mut history = History::default();
        history.push(vec![sample("web", "a", 900), sample("web", "b", 100)]);
        for _ in 0..WINDOW - 1 {
            history.push(vec![sample("web", "a", 900), sample("web", "b", 100)]);
        }
        history.push(vec![sample("web", "a", 901), sample("web", "b", 103)]);
        let recent: Vec<_> = history.shares("web", Span::Recent).into_iter().map(|(_, share)| share).collect();
        assert_eq!(recent, [Some(25.0), Some(75.0)]);
        let whole = history.shares("web", Span::Whole)[0].1.unwrap();
        assert!((whole - 100.0 * 901.0 / 1004.0).abs() < 1e-9);
    }

    #[test]
    fn without_requests_there_is_no_share() {
        let mut history = History::default();
        history.push(vec![sample("web", "a", 0)]);
        assert_eq!(history.shares("web", Span::Whole)[0].1, None);
        assert_eq!(line(&history, |_| "2 requests".into()), " | web 2 requests: a –");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut history = History::default();
        history.push(vec![sample("web", "a-backend-with-a-long-name", 10), sample("web", "b", 10)]);
        for width in [20, 80, 200] {
            let lines = table(&history, Span::Whole, |_| "http://127.0.0.1:8080".into(), width);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:#?}");
        }
        let wide = table(&history, Span::Whole, |_| String::new(), 200).join("\n");
        assert!(wide.contains("50.0 %") && wide.contains("2.5 ms"), "{wide}");
        let narrow = table(&history, Span::Whole, |_| String::new(), 80).join("\n");
        assert!(narrow.contains("50.0 %") && !narrow.contains("p50"), "times go first: {narrow}");
    }

    #[test]
    fn who_is_not_simply_up_stands_out() {
        let mut history = History::default();
        let down = Sample { standing: "going down 1/2, open 1.4 s".into(), failures: 3, ..sample("web", "b", 10) };
        history.push(vec![sample("web", "a", 30), down]);
        assert_eq!(
            line(&history, |_| "40 served".into()),
            " | web 40 served: a 75.0 % b 25.0 % (going down 1/2, open 1.4 s)"
        );
        let lines = table(&history, Span::Whole, |_| "12 retried".into(), 100);
        let wanted = [
            "web  12 retried",
            "  backend      standing                   share            active requests failed      p50      p99",
            "  a ×1         up                          75.0 % ██████        0       30      0   2.5 ms        –",
            "  b ×1         going down 1/2, open 1.4 s  25.0 % ██            0       10      3   2.5 ms        –",
            "",
        ];
        assert_eq!(lines, wanted);
    }
}
