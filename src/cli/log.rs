//! Logs go to stderr, in a form that suits who reads there: a terminal gets colours, the journal gets its own level
//! prefixes and no timestamps (it has both), a file or pipe gets plain lines. Where a table is redrawn on the terminal they
//! would tear it, so there the last lines are kept for whoever draws it, and what backends go through is given apart.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::turns::{Turns, is_turn};

/// How many lines are kept.
const KEPT: usize = 40;

/// How many letters of what a panic says are logged.
const MOST_SAID: usize = 200;

/// Where the lines go.
#[derive(Clone, Debug)]
pub enum Sink {
    /// To stderr.
    Stderr,
    /// Into memory.
    Kept(Kept),
}

/// Starts logging for the whole process: at `level`, else as `EVENKEEL_LOG` says (a level, or `target=level` parts), else
/// at info.
///
/// # Errors
/// When `EVENKEEL_LOG` can not be understood.
pub fn start(level: Option<&str>, sink: &Sink) -> Result<(), String> {
    let filter = filter(level, std::env::var("EVENKEEL_LOG").ok().as_deref())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_target(false);
    // It would tell of a stderr that nobody reads any more on that stderr, and panic: a dead `| tee` would end the daemon.
    let builder = builder.log_internal_errors(false);
    let begun = match sink {
        Sink::Kept(kept) => {
            let kept = kept.clone();
            builder.without_time().with_writer(move || kept.clone()).try_init()
        }
        Sink::Stderr if is_journal() => builder.with_writer(io::stderr).event_format(Journal(line())).try_init(),
        Sink::Stderr => builder.with_writer(io::stderr).with_ansi(is_coloured()).try_init(),
    };
    own(begun);
    Ok(())
}

/// Starts logging at the level as [`start`] does, into `sink`, but for changes at backends: all of those are heard by `turns`,
/// whatever the level, and have no lines.
///
/// # Errors
/// As [`start`].
pub fn start_apart(level: Option<&str>, sink: &Sink, turns: &Turns) -> Result<(), String> {
    let filter = filter(level, std::env::var("EVENKEEL_LOG").ok().as_deref())?;
    let lines = tracing_subscriber::fmt::layer().with_target(false).log_internal_errors(false);
    let lines = match sink.clone() {
        Sink::Kept(kept) => lines.with_ansi(false).without_time().with_writer(move || kept.clone()).boxed(),
        Sink::Stderr => lines.with_ansi(is_coloured()).with_writer(io::stderr).boxed(),
    };
    let lines = lines.with_filter(filter.and(filter_fn(|event| !is_turn(event))));
    let turns = turns.clone().with_filter(filter_fn(is_turn));
    own(tracing_subscriber::registry().with(lines).with(turns).try_init());
    Ok(())
}

/// Panics are logged where the logging is ours: a subscriber that is there already belongs to whoever called us as a library, and
/// so does what becomes of them.
fn own<E>(begun: Result<(), E>) {
    if begun.is_ok() {
        panic::set_hook(Box::new(tell_of_panic));
    }
}

/// Logs a panic. Rust would write it to stderr as it is, over several lines, and what it says may hold words of a client:
/// here it is a line like any other, escaped and no longer than one. Where `RUST_BACKTRACE` asks for a backtrace that comes first,
/// as the last lines are the ones that are kept and seen.
fn tell_of_panic(panic: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        backtrace.to_string().lines().for_each(|line| tracing::error!("{line}"));
    }
    let says: String = panic.payload_as_str().unwrap_or_default().chars().take(MOST_SAID).collect();
    let (thread, at) = (std::thread::current(), panic.location().map(ToString::to_string));
    let (thread, at) = (thread.name().unwrap_or_default(), at.unwrap_or_default());
    tracing::error!(thread, at, says, "a panic, which is a defect of Evenkeel: what was under way there has ended");
}

/// The last lines that were logged.
#[derive(Clone, Debug, Default)]
pub struct Kept(Arc<Mutex<VecDeque<String>>>);

impl Kept {
    /// All that are kept, the oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Write for Kept {
    /// Takes whole events: the subscriber writes each with one call.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(String::from_utf8_lossy(bytes).lines().map(str::to_owned));
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What libraries tell of their work is for those who ask for it by `EVENKEEL_LOG`: a level is about what we do.
const QUIET: &str = "h2=off";

fn filter(level: Option<&str>, environment: Option<&str>) -> Result<EnvFilter, String> {
    match (level, environment) {
        (Some(level), _) => Ok(EnvFilter::new(format!("{level},{QUIET}"))),
        (None, Some(wanted)) if !wanted.is_empty() => {
            EnvFilter::try_new(wanted).map_err(|error| format!("EVENKEEL_LOG = {wanted:?}: {error}"))
        }
        (None, _) => Ok(EnvFilter::new(format!("info,{QUIET}"))),
    }
}

/// Whether stderr takes colours. NO_COLOR counts when it is set to anything but nothing (no-color.org).
#[must_use]
pub fn is_coloured() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether stderr is the very stream that systemd connected to its journal: the variable alone is inherited by children
/// whose stderr goes elsewhere (systemd.exec(5)).
fn is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    rustix::fs::fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn line() -> Format<Full, ()> {
    tracing_subscriber::fmt::format().with_target(false).with_level(false).without_time()
}

/// Lines as the journal wants them: `<3>message` (sd-daemon(3)), so `journalctl -p err` finds the errors.
struct Journal(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// syslog's number for a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_beats_the_environment() {
        assert_eq!(filter(Some("warn"), Some("trace")).unwrap().to_string(), "h2=off,warn");
        assert_eq!(filter(None, Some("evenkeel=debug")).unwrap().to_string(), "evenkeel=debug");
        assert_eq!(filter(None, Some("")).unwrap().to_string(), "h2=off,info");
        assert_eq!(filter(None, None).unwrap().to_string(), "h2=off,info");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut kept = Kept::default();
        for n in 0..KEPT + 2 {
            kept.write_all(format!("line {n}\n").as_bytes()).unwrap();
        }
        let lines = kept.lines();
        assert_eq!((lines.len(), lines[0].as_str()), (KEPT, "line 2"));
    }

    #[test]
    fn an_environment_that_makes_no_sense_is_refused() {
        let fault = filter(None, Some("evenkeel=loud")).unwrap_err();
        assert!(fault.starts_with("EVENKEEL_LOG"), "{fault}");
    }
}
