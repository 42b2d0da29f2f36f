//! The commands that do not serve, and what their exit codes say.

use std::net::TcpListener;

use rustix::process::Signal;

use crate::examples;
use crate::support::tls::Authority;
use crate::support::{Finished, Launch, backends, run, web};

/// `evenkeel check` on this file.
#[track_caller]
fn check(toml: &str) -> Finished {
    let place = Launch::new().write("evenkeel.toml", toml);
    let file = place.directory().join("evenkeel.toml");
    run(&["check", "--config", file.to_str().expect("temporary paths are plain")])
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = run(&["--version"]);
    assert_eq!((version.status.code(), version.out.trim()), (Some(0), concat!("evenkeel ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn help_names_the_commands_and_shows_a_file() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for part in ["run", "check", "certs", "demo", "schema", "[listeners.", "backends", "78"] {
        assert!(help.out.contains(part), "no {part:?} in {}", help.out);
    }
}

#[test]
fn a_command_line_without_sense_is_a_usage_fault() {
    for arguments in [&["rnu"][..], &["run", "--confg", "x"], &["check", "--log-level", "loud"], &[]] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_good_file_checks_even_while_its_address_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = taken.local_addr().expect("a bound socket has an address").to_string();
    let checked = check(&web("", &backends(&["127.0.0.1:9"])).replace("127.0.0.1:0", &address));
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    assert!(!checked.err.contains("error") && !checked.out.contains("listening"), "{checked:?}");
}

#[test]
fn all_faults_of_a_file_are_told_at_once_with_their_places() {
    let checked = check(
        "[listeners.web]\n\
         bind = \"127.0.0.1:99999\"\n\
         pool = \"ap\"\n\
         \n\
         [pools.app]\n\
         balance = \"least_conections\"\n\
         servers = [\"127.0.0.1:1\"]\n\
         backends = [\"127.0.0.1:1\", \"127.0.0.1:1\"]\n\
         \n\
         [runtime]\n\
         shutdown_grace = \"3 parsecs\"\n",
    );
    assert_eq!(checked.status.code(), Some(78), "{checked:?}");
    for place in ["2:8", "3:8", "6:11", "7:1", "8:28", "11:18"] {
        assert!(checked.err.contains(&format!("evenkeel.toml:{place}")), "nothing at {place} in\n{}", checked.err);
    }
    for advice in ["least_connections", "backends", "`app`", "^^^"] {
        assert!(checked.err.contains(advice), "no {advice:?} in\n{}", checked.err);
    }
}

#[test]
fn a_file_that_is_not_toml_or_not_there_is_bad_configuration() {
    let broken = check("[listeners.web\nbind = \n");
    assert_eq!(broken.status.code(), Some(78), "{broken:?}");
    assert!(broken.err.contains("evenkeel.toml:1:"), "{broken:?}");
    let missing = run(&["check", "--config", "/nonexistent/evenkeel.toml"]);
    assert_eq!(missing.status.code(), Some(78), "{missing:?}");
    assert!(missing.err.contains("/nonexistent/evenkeel.toml") && missing.err.contains("--config"), "{missing:?}");
    let directory = run(&["run", "--config", "/"]);
    assert_eq!(directory.status.code(), Some(78), "{directory:?}");
}

#[test]
fn faults_of_included_files_are_told_with_their_own_names() {
    let place = Launch::new()
        .write(
            "evenkeel.toml",
            "include = [\"pools.toml\"]\n[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\nbnd = 1\n",
        )
        .write("pools.toml", "[pools.app]\nbackends = 3\n");
    let file = place.directory().join("evenkeel.toml");
    let checked = run(&["check", "--config", file.to_str().expect("temporary paths are plain")]);
    assert_eq!(checked.status.code(), Some(78), "{checked:?}");
    assert!(checked.err.contains("evenkeel.toml:5:1") && checked.err.contains("pools.toml:2:12"), "{}", checked.err);
}

#[test]
fn run_refuses_a_file_with_faults_and_names_them() {
    let failed = Launch::new().write("evenkeel.toml", "[listeners.web]\nbind = \"127.0.0.1:0\"\nport = 80\n").fail();
    assert_eq!(failed.status.code(), Some(78), "{failed:?}");
    assert!(failed.err.contains("evenkeel.toml:3:1") && !failed.out.contains("listening"), "{failed:?}");
}

#[test]
fn the_schema_is_json_for_the_whole_file() {
    let schema = run(&["schema"]);
    assert_eq!(schema.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_str(&schema.out).expect("it is JSON");
    for key in ["listeners", "pools", "runtime", "reload", "include"] {
        assert!(schema["properties"][key].is_object(), "no {key}");
    }
}

#[test]
fn the_log_is_as_long_as_asked_and_never_on_stdout() {
    let file = web("", &backends(&["127.0.0.1:9"]));
    for (level, tells) in [("error", false), ("info", true)] {
        let mut daemon = Launch::new().write("evenkeel.toml", &file).level(level).begin();
        let address = daemon.address("web");
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait_exit().code(), Some(0));
        assert_eq!(daemon.has_logged("INFO"), tells, "{level}");
        assert_eq!(daemon.printed(), [format!("listening web {address}")]);
    }
}

#[test]
fn every_example_file_checks() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/conf");
    let entries = std::fs::read_dir(folder).expect("the examples are part of the package");
    let files: Vec<_> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    // What they name under /etc stands here for the test.
    let etc = tempfile::tempdir().expect("a temporary directory");
    let ca = Authority::new("ca");
    for name in ["example", "shop", "admin", "edge"] {
        ca.sign(&[&format!("{name}.example")]).write(etc.path(), name);
    }
    let more = [
        ("partners.pem", &ca.pem),
        ("partners.crl", &ca.revoke(&[7])),
        ("admins.pem", &ca.pem),
        ("admins.crl", &ca.revoke(&[8])),
    ];
    more.iter().for_each(|(name, text)| std::fs::write(etc.path().join(name), text).expect("it can be written"));
    std::fs::write(etc.path().join("example.ocsp"), examples::OCSP).expect("it can be written");
    examples::files(&ca, etc.path());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("it can be read");
        let here = etc.path().to_str().expect("a plain path");
        let text = text.replace("/etc/evenkeel/tls", here).replace("credential:", &format!("{here}/"));
        let copy = etc.path().join(file.file_name().expect("it is a file"));
        std::fs::write(&copy, text).expect("it can be written");
        let checked = run(&["check", "--config", copy.to_str().expect("a plain path")]);
        assert_eq!(checked.status.code(), Some(0), "{}: {checked:?}", file.display());
        assert!(!checked.err.contains("warning"), "{}: {checked:?}", file.display());
    }
}

#[test]
fn the_reference_in_the_docs_is_the_one_the_program_prints() {
    let printed = run(&["schema", "--reference"]);
    let kept = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md"));
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    assert!(kept.expect("the reference is part of the package").trim() == printed.out.trim(), "print it anew");
}
