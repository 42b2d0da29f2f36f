//! Guards of the program's shape: imports point one way, and the rooms that decide name no socket, clock, file or dice.
//!
//! The sources are read as text: strings, comments and test modules are blanked, then every path (`a::b::{c, d}`) is looked
//! at wherever it stands. That sees less than a compiler, and enough to notice when somebody strays.

#[path = "support/source_text.rs"]
mod source_text;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use source_text::{blanked, paths, without_tests};

/// The order in which a request meets the rooms: one may use what stands before it, never what stands behind it.
const ROOMS: [&str; 28] = [
    "clock",
    "sync",
    "deadline",
    "buffer",
    "serial",
    "housing",
    "outcome",
    "balance",
    "breaker",
    "http",
    "proxy_protocol",
    "client_hello",
    "config",
    "tls",
    "state",
    "pipe",
    "stream",
    "upstream",
    "health",
    "record",
    "filter",
    "local",
    "l4",
    "l7",
    "server",
    "admin",
    "simulation",
    "cli",
];

/// What decides and does nothing else; a folder ends with `/`.
const PURE: [&str; 22] = [
    "buffer.rs",
    "serial.rs",
    "outcome.rs",
    "balance/",
    "breaker/",
    "http/",
    "proxy_protocol.rs",
    "client_hello.rs",
    "config/",
    "tls/identity.rs",
    "tls/expiry.rs",
    "tls/facts.rs",
    "tls/names.rs",
    "state/",
    "upstream/idle.rs",
    "health/streak.rs",
    "health/schedule.rs",
    "health/grpc_message.rs",
    "record/",
    "l7/pace.rs",
    "l7/retry.rs",
    "simulation/",
];

/// The parts of pure rooms that reach outside.
const SHELLS: [&str; 2] = ["config/load.rs", "config/watch.rs"];

/// What a pure room never names: paths that hold these segments one after the other.
const OUTSIDE: [&[&str]; 21] = [
    &["tokio"],
    &["socket2"],
    &["rustix"],
    &["notify"],
    &["std", "fs"],
    &["std", "env"],
    &["std", "thread"],
    &["std", "process"],
    &["TcpStream"],
    &["TcpListener"],
    &["UdpSocket"],
    &["UnixStream"],
    &["UnixListener"],
    &["UnixDatagram"],
    &["SystemTime"],
    &["Instant", "now"],
    &["clock", "now"],
    &["clock", "today"],
    &["thread_rng"],
    &["Rng", "new"],
    &["Rng", "default"],
];

/// A source file.
struct Source {
    /// Below `src/`, with `/`.
    place: String,
    text: String,
}

/// A path that is named where it should not be.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    place: String,
    line: usize,
    path: String,
    why: String,
}

#[test]
fn imports_point_one_way() {
    assert_none(sources().iter().flat_map(backward_imports).collect());
}

#[test]
fn pure_rooms_stay_pure() {
    assert_none(sources().iter().filter(|source| is_pure(&source.place)).flat_map(impurities).collect());
}

#[test]
fn only_the_clock_reads_time() {
    let others = sources().into_iter().filter(|source| source.place != "clock.rs");
    assert_none(others.flat_map(|source| own_clocks(&source)).collect());
    for text in ["fn f() { std::time::Instant::now(); }", "use tokio::time::Instant;\nfn f() { Instant::now(); }"] {
        assert_eq!(own_clocks(&made_up("server/control.rs", text)).len(), 1, "{text}");
    }
    assert_eq!(own_clocks(&made_up("server/control.rs", "fn f() { clock::now(); }")), []);
}

#[test]
fn every_room_has_its_place_in_the_order() {
    let unknown: BTreeSet<_> = sources().iter().map(|source| room_of(&source.place).to_owned()).collect();
    let unknown: Vec<_> = unknown.iter().filter(|room| order(room).is_none()).collect();
    assert!(unknown.is_empty(), "rooms that this guard does not know: {unknown:?}");
}

#[test]
fn a_backward_import_is_found_in_every_spelling() {
    for text in [
        "use crate::server::control;",
        "use crate::{clock, server::control};",
        "use crate::server::*;",
        "fn f() -> crate::server::Control { todo() }",
        "use super::super::server::Control;",
        "use super::super::{outcome, server};",
    ] {
        let faults = backward_imports(&made_up("l4/relay.rs", text));
        assert_eq!(faults.len(), 1, "{text}: {faults:?}");
        assert_eq!(faults[0].line, 1);
    }
}

#[test]
fn a_forward_import_and_what_only_looks_like_a_backward_one_pass() {
    let text = "//! See crate::server.\nuse crate::{clock, l4};\nuse super::exchange;\nuse std::fs;\n\
                const A: &str = \"crate::server {\"; const B: char = '\"';\npub(crate) fn f<'a>(_: &'a str) {}\n\
                #[cfg(test)]\nmod tests {\n    use crate::server;\n    fn f() { if true { g() } }\n}\n";
    assert_eq!(backward_imports(&made_up("l7/h1.rs", text)), []);
}

#[test]
fn code_behind_a_test_module_is_looked_at() {
    let text =
        "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::cli;\n#[cfg(test)]\nmod suite;\nuse crate::cli::run;\n";
    let lines: Vec<_> = backward_imports(&made_up("balance/mod.rs", text)).iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [3, 6]);
}

#[test]
fn an_impurity_is_found_in_every_spelling() {
    for text in [
        "use std::net::TcpStream;",
        "use std::net::{IpAddr, TcpListener};",
        "use std::{fs, io};",
        "use std::fs::*;",
        "fn f() { let t = clock::now(); }",
        "fn f() { let t = std::time::Instant::now(); }",
        "fn f() { std::time::SystemTime::now(); }",
        "fn f() { fastrand::u32(..); }",
        "use fastrand::shuffle;",
        "fn f() { fastrand::Rng::new(); }",
        "use tokio::net;",
    ] {
        assert_eq!(impurities(&made_up("balance/random.rs", text)).len(), 1, "{text}");
    }
}

#[test]
fn values_times_and_dice_that_are_handed_in_are_pure() {
    let text = "use std::net::{IpAddr, SocketAddr};\nuse crate::clock::{self, Instant};\nuse std::path::PathBuf;\n\
                fn f(now: Instant, dice: &mut fastrand::Rng) { dice.u32(..); fastrand::Rng::with_seed(7); }\n\
                #[cfg(test)]\nmod tests { fn f() { fastrand::u32(..); } }\n";
    assert_eq!(impurities(&made_up("balance/random.rs", text)), []);
}

#[test]
fn pure_is_what_the_design_marks_so() {
    assert!(is_pure("balance/round_robin.rs") && is_pure("config/check.rs") && is_pure("upstream/idle.rs"));
    assert!(is_pure("record/mod.rs") && is_pure("buffer.rs"));
    assert!(!is_pure("config/load.rs") && !is_pure("upstream/mod.rs") && !is_pure("server/mod.rs"));
}

fn made_up(place: &str, text: &str) -> Source {
    Source { place: place.to_owned(), text: text.to_owned() }
}

fn assert_none(faults: Vec<Fault>) {
    let listed: String = faults.iter().map(|fault| format!("\n{fault}")).collect();
    assert!(faults.is_empty(), "{listed}");
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: `{}` {}", self.place, self.line, self.path, self.why)
    }
}

/// All files of the library that are not test modules; `lib.rs` and `main.rs` may name every room.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let all: Vec<_> = files.iter().map(|file| read(&root, file)).collect();
    let test_modules: BTreeSet<_> = all.iter().flat_map(test_modules).collect();
    let is_kept = |source: &Source| {
        let is_test = test_modules.iter().any(|module| is_of_module(&source.place, module));
        !is_test && !matches!(source.place.as_str(), "lib.rs" | "main.rs")
    };
    let kept: Vec<_> = all.into_iter().filter(is_kept).collect();
    assert!(!kept.is_empty(), "there are sources below {}", root.display());
    kept
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the sources can be read") {
        let path = entry.expect("the sources can be read").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn read(root: &Path, file: &Path) -> Source {
    let place = file.strip_prefix(root).expect("it was found below the root");
    let text = fs::read_to_string(file).expect("the sources can be read");
    Source { place: place.to_string_lossy().into_owned(), text }
}

/// The module a file is, as path segments: `http/h1/mod.rs` is `["http", "h1"]`.
fn module_of(place: &str) -> Vec<&str> {
    let mut segments: Vec<_> = place.trim_end_matches(".rs").split('/').collect();
    if segments.last() == Some(&"mod") {
        segments.pop();
    }
    segments
}

/// Whether a file is this module (`http/suite`) or within it.
fn is_of_module(place: &str, module: &str) -> bool {
    let own = module_of(place).join("/");
    own == module || own.starts_with(&format!("{module}/"))
}

fn room_of(place: &str) -> &str {
    module_of(place).first().copied().unwrap_or_default()
}

fn order(room: &str) -> Option<usize> {
    ROOMS.iter().position(|other| *other == room)
}

fn is_pure(place: &str) -> bool {
    let named =
        |list: &[&str]| list.iter().any(|entry| place == *entry || entry.ends_with('/') && place.starts_with(entry));
    named(&PURE) && !named(&SHELLS)
}

fn backward_imports(source: &Source) -> Vec<Fault> {
    let own = room_of(&source.place);
    let is_backward = |path: &[String]| {
        let target = target_room(&source.place, path)?;
        (order(&target)? > order(own)?).then(|| format!("stands behind {own}"))
    };
    faults(source, is_backward)
}

/// The room that a path leads to from a file, when it begins at the crate's root.
fn target_room(place: &str, path: &[String]) -> Option<String> {
    if path.first()? == "crate" {
        return path.get(1).cloned();
    }
    let ups = path.iter().take_while(|segment| *segment == "super").count();
    (ups > 0 && ups == module_of(place).len()).then(|| path.get(ups).cloned()).flatten()
}

fn impurities(source: &Source) -> Vec<Fault> {
    faults(source, |path| {
        let outside = OUTSIDE.iter().any(|banned| path.windows(banned.len()).any(|part| part == *banned));
        // Functions of fastrand roll dice of the thread; its type `Rng` is one that is handed in.
        let function = |name: &String| name.starts_with(char::is_lowercase);
        let global_dice = path.first().is_some_and(|first| first == "fastrand") && path.get(1).is_some_and(function);
        (outside || global_dice).then(|| "reaches outside a room that only decides".to_owned())
    })
}

/// Where time is read past `clock.rs`, which hands out what paused tests can move.
fn own_clocks(source: &Source) -> Vec<Fault> {
    faults(source, |path| {
        let reads = [&["Instant", "now"][..], &["SystemTime"]];
        let own = reads.iter().any(|read| path.windows(read.len()).any(|part| part == *read));
        own.then(|| "reads time, which clock.rs alone does".to_owned())
    })
}

fn faults(source: &Source, judge: impl Fn(&[String]) -> Option<String>) -> Vec<Fault> {
    let code = without_tests(&blanked(&source.text)).0;
    let fault = |(line, path): (usize, Vec<String>)| {
        let why = judge(&path)?;
        Some(Fault { place: source.place.clone(), line, path: path.join("::"), why })
    };
    paths(&code).into_iter().filter_map(fault).collect()
}

/// Modules in files of their own that are declared for tests only, as `folder/name`.
fn test_modules(source: &Source) -> Vec<String> {
    let names = without_tests(&blanked(&source.text)).1;
    let module = if source.place == "lib.rs" { Vec::new() } else { module_of(&source.place) };
    names.into_iter().map(|name| [module.clone(), vec![name.as_str()]].concat().join("/")).collect()
}

/// A length that wraps around is how a parser comes to read one message as two.
#[test]
fn arithmetic_is_checked_in_release_builds_too() {
    let manifest = include_str!("../Cargo.toml");
    let profile = manifest.split("\n[").find(|table| table.starts_with("profile.release.package.evenkeel]"));
    assert!(profile.is_some_and(|table| table.lines().any(|line| line == "overflow-checks = true")));
}
