//! The file from outside: what is in the repository checks, the documents say what the table of keys says, includes and
//! faults on disk behave, and no bytes make it panic.

use std::fs;
use std::path::{Path, PathBuf};

use evenkeel::config::{self, Report, Severity, from_text, keys, load};
use proptest::prelude::*;
use toml::de::{DeTable, DeValue};

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(in_repository(path)).expect("it is in the repository")
}

/// A directory with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("it is in the directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    folder
}

fn faults(folder: &tempfile::TempDir) -> Report {
    load(&folder.path().join("main.toml")).expect_err("the configuration has a fault")
}

const LISTENER: &str = "[listeners.w]\nbind = '127.0.0.1:0'\npool = 'a'\n";
const POOL: &str = "[pools.a]\nbackends = ['10.0.0.1:80']\n";

#[test]
fn every_example_is_without_fault_or_warning() {
    let examples: Vec<_> = fs::read_dir(in_repository("conf")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(examples.len() >= 2);
    for path in examples {
        match load(&path) {
            Ok(loaded) => assert!(loaded.warnings.is_empty(), "{}", loaded.warnings),
            Err(report) => panic!("{report}"),
        }
    }
}

#[test]
fn the_full_example_uses_every_key() {
    let text = read("conf/full.toml");
    let root = DeTable::parse(&text).unwrap();
    let root = DeValue::Table(root.into_inner());
    keys::every(&mut |path, _, _| {
        assert!(is_used(&root, path), "conf/full.toml does not use `{path}`");
    });
}

/// Whether a key is written anywhere where its path pattern says.
fn is_used(value: &DeValue<'_>, path: &str) -> bool {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let name = first.trim_end_matches("[]");
    let Some(table) = value.as_table() else { return false };
    table.iter().filter(|(key, _)| name == "*" || key.get_ref() == name).any(|(_, value)| match value.get_ref() {
        _ if rest.is_empty() => true,
        DeValue::Array(items) => items.iter().any(|item| is_used(item.get_ref(), rest)),
        value => is_used(value, rest),
    })
}

#[test]
fn the_reference_is_what_the_table_of_keys_says() {
    assert!(
        read("docs/configuration.md") == config::reference::reference(),
        "docs/configuration.md is out of date: run `cargo run -- schema --reference > docs/configuration.md`"
    );
}

#[test]
fn every_key_stands_in_the_reference() {
    let reference = read("docs/configuration.md");
    // Each section by the path of its table, as `listeners.*.routes[].`.
    let sections: Vec<(String, &str)> = reference
        .split("\n## ")
        .skip(1)
        .map(|section| {
            let heading = section.lines().next().unwrap().trim_matches('`');
            let table = heading.trim_matches(['[', ']']).replace("NAME", "*");
            let suffix = if heading.starts_with("[[") { "[]." } else { "." };
            (if heading.starts_with('[') { table + suffix } else { String::new() }, section)
        })
        .collect();
    keys::every(&mut |path, _, _| {
        let own = sections.iter().filter(|(table, _)| path.starts_with(table)).max_by_key(|(table, _)| table.len());
        let (table, section) = own.unwrap();
        let row = format!("\n| `{}` |", path[table.len()..].replace('*', "NAME"));
        assert!(section.contains(&row), "`{path}` is not in the reference");
    });
}

#[test]
fn includes_are_read_in_order_and_watched_with_their_directory() {
    let folder = folder(&[
        ("main.toml", &format!("include = ['conf.d/*.toml', 'conf.d/b.toml', 'none/*.toml']\n{LISTENER}")),
        ("conf.d/b.toml", POOL),
        ("conf.d/a.toml", "[runtime]\nworkers = 2\n"),
        ("conf.d/.hidden.toml", "nonsense"),
        ("conf.d/b.toml~", "nonsense"),
    ]);
    let loaded = load(&folder.path().join("main.toml")).unwrap();
    assert_eq!(loaded.config.runtime.workers.map(u32::from), Some(2));
    let names: Vec<_> = loaded.files.iter().map(|path| path.strip_prefix(folder.path()).unwrap()).collect();
    let expected = ["main.toml", "conf.d", "conf.d/a.toml", "conf.d/b.toml", "none"].map(Path::new);
    assert_eq!(names, expected);
}

#[test]
fn a_name_in_two_files_shows_both() {
    let folder = folder(&[("main.toml", &format!("include = ['b.toml']\n{LISTENER}{POOL}")), ("b.toml", POOL)]);
    let report = faults(&folder);
    assert_eq!(report.diagnostics.len(), 1, "{report}");
    let text = report.to_string();
    for part in ["the pool `a` is defined in two files", "b.toml:1:8", "main.toml:5:8", "1 error in "] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn faults_of_all_files_are_told_in_one_go() {
    let folder = folder(&[
        ("main.toml", &format!("include = ['gone.toml', 'bytes.toml', 'syntax.toml', 'more.toml']\nx = 1\n{LISTENER}")),
        ("syntax.toml", "[runtime]\nworkers = \n"),
        ("more.toml", "include = []\n[reload]\nwatch = 'yes'\n"),
    ]);
    fs::write(folder.path().join("bytes.toml"), b"a = '\xff'").unwrap();
    let text = faults(&folder).to_string();
    for part in [
        "can not read",
        "gone.toml",
        "not UTF-8",
        "bytes.toml:1:6",
        "there is no key `x`",
        "there is no value here",
        "syntax.toml:2:",
        "an included file can not include others",
        "more.toml:3:9",
        "6 errors in",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains("no pool"), "it may be in the file that is not there:\n{text}");
}

#[test]
fn what_an_include_matches_and_can_not_read_is_a_fault_and_a_directory_is_not() {
    let folder = folder(&[
        ("main.toml", &format!("include = ['conf.d/*.toml', 'sub']\n{LISTENER}{POOL}")),
        ("conf.d/dir.toml/x", ""),
        ("sub/x", ""),
    ]);
    let at = |name: &str| folder.path().join("conf.d").join(name);
    std::os::unix::fs::symlink("nowhere", at("link.toml")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(at("pipe.toml")).status().unwrap();
    assert!(pipe.success());
    let report = faults(&folder);
    assert_eq!(report.diagnostics.len(), 3, "{report}");
    let text = report.to_string();
    for part in ["link.toml: No such file", "pipe.toml: it is not a file", "sub: it is a directory", "main.toml:1:12"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn faults_far_down_a_long_file_have_their_lines() {
    let padding = "# nothing\r\n".repeat(100_000);
    let folder = folder(&[("main.toml", &format!("{LISTENER}{POOL}x = 1\r\n{padding}[pools.a]\r\n# end"))]);
    let text = faults(&folder).to_string();
    for part in ["main.toml:6:1", "6 | x = 1", "main.toml:100007:8", "100007 | [pools.a]", "first defined here"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn a_main_file_that_is_not_there_is_a_fault_to_watch() {
    let folder = folder(&[]);
    let report = faults(&folder);
    assert!(report.to_string().contains("can not read"), "{report}");
    assert_eq!((report.count(Severity::Error), report.files.len()), (1, 1));
}

#[test]
fn the_digest_changes_with_the_content_of_any_file() {
    let folder = folder(&[("main.toml", &format!("include = ['a.toml']\n{LISTENER}")), ("a.toml", POOL)]);
    let digest = || load(&folder.path().join("main.toml")).unwrap().digest;
    let first = digest();
    assert_eq!(first, digest());
    fs::write(folder.path().join("a.toml"), format!("{POOL}# changed\n")).unwrap();
    assert_ne!(first, digest());
}

#[test]
fn a_relative_socket_is_relative_to_the_file_it_stands_in() {
    let folder = folder(&[
        ("main.toml", &format!("include = ['sub/a.toml']\n{LISTENER}")),
        ("sub/a.toml", "[pools.a]\nbackends = ['unix:app.sock']\n"),
    ]);
    let loaded = load(&folder.path().join("main.toml")).unwrap();
    let backend = &loaded.config.pools[0].backends[0];
    assert_eq!(backend.address, config::Address::Unix(folder.path().join("sub/app.sock")));
    assert_eq!(&*backend.name, "unix:app.sock");
}

/// Pieces that take an arbitrary text deep into the checks.
const PIECES: &[&str] = &[
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    "=",
    ",",
    "\n",
    "\\",
    "${X}",
    "[[pools.web.backends]]\n",
    "[listeners.site]\n",
    "-1",
    "1e400",
    "0x",
    "2020-01-01",
    "\u{feff}",
    "\r",
    "ä",
    "\u{202e}",
    "\0",
    "'unix:'",
    "\"\"",
    "{}",
    "[]",
    "%",
    "*",
    "..",
];

fn mutated() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0..40_usize, prop::sample::select(PIECES));
    prop::collection::vec(edit, 1..8).prop_map(|edits| {
        let mut text: Vec<char> = read("conf/full.toml").chars().collect();
        for (index, length, piece) in edits {
            let start = index.index(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, piece.chars());
        }
        text.into_iter().collect()
    })
}

fn never_panics(text: &str) {
    match from_text("fuzz.toml", text) {
        Ok(loaded) => drop(loaded.warnings.render(config::Colour::Ansi)),
        Err(report) => {
            assert!(report.count(Severity::Error) > 0, "refused without a reason:\n{text}");
            assert!(!report.to_string().is_empty());
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        never_panics(&text);
    }

    #[test]
    fn no_broken_example_makes_it_panic(text in mutated()) {
        never_panics(&text);
    }
}

#[test]
fn no_bytes_make_it_panic() {
    proptest!(|(bytes in prop::collection::vec(any::<u8>(), 0..200))| {
        let folder = folder(&[]);
        let path = folder.path().join("main.toml");
        fs::write(&path, bytes).unwrap();
        drop(load(&path));
    });
}
