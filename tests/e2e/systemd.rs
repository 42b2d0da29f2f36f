//! What the service manager is told, and the unit that asks for it.

use std::process::Command;

use rustix::process::Signal;

use crate::support::daemon::BINARY;
use crate::support::{Client, Launch, NotifySocket, Origin, backends, web};

const BY_HAND: &str = "[reload]\nwatch = false\n";

#[test]
fn the_service_manager_is_told_every_turn() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let file = |origin: &Origin| web("", &backends(&[origin.address()])) + BY_HAND;
    let mut manager = NotifySocket::new();
    let socket = manager.path();
    let launch = Launch::new().environment("NOTIFY_SOCKET", socket.to_str().expect("temporary paths are plain"));
    let mut daemon = launch.write("evenkeel.toml", &file(&old)).start();
    manager.message_with("READY=1");
    Client::connect(&daemon.address("web")).get("/").assert(200, "old");

    daemon.rewrite(&file(&new));
    daemon.signal(Signal::HUP);
    let reloading = manager.message_with("RELOADING=1");
    let stamp = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(stamp.and_then(|stamp| stamp.parse::<u64>().ok()).is_some_and(|stamp| stamp > 0), "{reloading:?}");
    manager.message_with("READY=1");
    Client::connect(&daemon.address("web")).get("/").assert(200, "new");

    daemon.signal(Signal::TERM);
    manager.message_with("STOPPING=1");
    assert_eq!(daemon.wait_exit().code(), Some(0));
    let told = manager.told().join("\n");
    assert!(told.contains("STATUS=Serving: 1 listener, 1 pool, 1 backend, generation 1"), "{told}");
    assert!(told.contains("generation 2"), "{told}");
}

#[test]
fn a_refused_reload_is_over_too_and_says_so() {
    let origin = Origin::answering("unmoved");
    let mut manager = NotifySocket::new();
    let socket = manager.path();
    let launch = Launch::new().environment("NOTIFY_SOCKET", socket.to_str().expect("temporary paths are plain"));
    let daemon = launch.write("evenkeel.toml", &(web("", &backends(&[origin.address()])) + BY_HAND)).start();
    manager.message_with("READY=1");
    daemon.rewrite("[listeners.web]\n");
    daemon.signal(Signal::HUP);
    manager.message_with("RELOADING=1");
    manager.message_with("READY=1");
    daemon.wait_log("reload refused");
    let told = manager.told().join("\n");
    let status = told.lines().rfind(|line| line.starts_with("STATUS="));
    assert!(status.is_some_and(|status| status.contains("refused") && status.contains("generation 1")), "{told}");
    Client::connect(&daemon.address("web")).get("/").assert(200, "unmoved");
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: systemd-analyze is not here");
        return;
    }
    let unit = std::fs::read_to_string("systemd/evenkeel.service").expect("the unit is part of the package");
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("evenkeel.service");
    std::fs::write(&path, unit.replace("/usr/bin/evenkeel", BINARY)).expect("the directory can be written");
    let verified =
        Command::new("systemd-analyze").arg("verify").arg(&path).output().expect("it was there a moment ago");
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !said.contains("evenkeel.service:"), "{said}");
}
