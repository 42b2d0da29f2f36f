//! How a change comes to be noticed: the ways in which people and their tools replace files.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use crate::support::daemon::BINARY;
use crate::support::{Client, Daemon, Launch, Origin, backends, eventually, web};

fn file_for(origin: &Origin) -> String {
    web("", &backends(&[origin.address()]))
}

#[track_caller]
fn assert_follows(daemon: &Daemon, text: &str) {
    eventually(&format!("{text} serves"), || Client::connect(&daemon.address("web")).get("/").text() == text);
}

#[test]
fn a_file_written_in_place_is_followed() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let daemon = Daemon::start(&file_for(&old));
    fs::write(daemon.file(), file_for(&new)).expect("the directory can be written");
    assert_follows(&daemon, "new");
}

#[test]
fn an_editor_that_keeps_a_backup_is_followed() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let daemon = Daemon::start(&file_for(&old));
    for (origin, text) in [(&new, "new"), (&old, "old")] {
        let backup = daemon.directory().join("evenkeel.toml~");
        fs::rename(daemon.file(), &backup).expect("the directory can be written");
        fs::write(daemon.file(), file_for(origin)).expect("the directory can be written");
        fs::remove_file(&backup).expect("the directory can be written");
        assert_follows(&daemon, text);
    }
}

#[test]
fn an_edit_of_an_included_file_is_followed() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let pool = |origin: &Origin| format!("[pools.app]\n{}", backends(&[origin.address()]));
    let launch = Launch::new();
    fs::create_dir(launch.directory().join("conf.d")).expect("the directory can be written");
    let daemon = launch
        .write(
            "evenkeel.toml",
            "include = [\"conf.d/*.toml\"]\n[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n",
        )
        .write("conf.d/app.toml", &pool(&old))
        .start();
    assert_follows(&daemon, "old");
    let included = daemon.directory().join("conf.d/app.toml");
    fs::write(&included, pool(&new)).expect("the directory can be written");
    assert_follows(&daemon, "new");
    fs::write(daemon.directory().join("conf.d/more.toml"), "[pools.app]\nbackends = []\n").expect("it can be written");
    daemon.wait_log("reload refused");
    daemon.wait_log("more.toml:1:");
    assert_follows(&daemon, "new");
}

#[test]
fn a_swapped_symlink_is_followed_again_and_again() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let launch = Launch::new();
    // As Kubernetes mounts a ConfigMap: the file is a link into ..data, which is a link to a directory per version.
    let place = launch.directory().to_owned();
    let put = |version: &str, origin: &Origin| {
        fs::create_dir(place.join(version)).expect("the directory can be written");
        fs::write(place.join(version).join("evenkeel.toml"), file_for(origin)).expect("it can be written");
        symlink(version, place.join("..data_new")).expect("the directory can be written");
        fs::rename(place.join("..data_new"), place.join("..data")).expect("the directory can be written");
    };
    put("..version_1", &old);
    symlink("..data/evenkeel.toml", place.join("evenkeel.toml")).expect("the directory can be written");
    let daemon = launch.start();
    assert_follows(&daemon, "old");
    put("..version_2", &new);
    assert_follows(&daemon, "new");
    fs::remove_dir_all(place.join("..version_1")).expect("it was there");
    put("..version_3", &old);
    assert_follows(&daemon, "old");
}

#[test]
fn a_file_that_is_not_watched_stays_unread() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let by_hand = "\n[reload]\nwatch = false\n";
    let daemon = Daemon::start(&(file_for(&old) + by_hand));
    let witness = Daemon::start(&file_for(&old));
    daemon.rewrite(&(file_for(&new) + by_hand));
    // One that watches has noticed a later change: this one would have noticed the earlier.
    witness.reload(&file_for(&new));
    Client::connect(&daemon.address("web")).get("/").assert(200, "old");
    assert!(!daemon.has_logged("reload applied"));
}

#[test]
fn a_log_that_nobody_reads_any_more_stops_nothing() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let place = Launch::new().write("evenkeel.toml", &file_for(&old));
    let file = place.directory().join("evenkeel.toml");
    let mut command = Command::new(BINARY);
    command.args(["run", "--config"]).arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut daemon = command.spawn().expect("the binary was built");
    let mut said = String::new();
    BufReader::new(daemon.stdout.take().expect("it is piped")).read_line(&mut said).expect("it says where it listens");
    let address = said.trim().strip_prefix("listening web ").expect("it says so first").to_owned();
    Client::connect(&address).get("/").assert(200, "old");
    // Both of its pipes are broken from here on.
    drop(daemon.stderr.take());
    fs::write(&file, file_for(&new)).expect("the directory can be written");
    let is_followed =
        || daemon.try_wait().is_ok_and(|end| end.is_none()) && Client::connect(&address).get("/").text() == "new";
    eventually("the file is followed without a log", is_followed);
    daemon.kill().and_then(|()| daemon.wait()).expect("it still ran");
}

#[test]
fn other_files_of_the_directory_cause_no_reload() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let daemon = Daemon::start(&file_for(&old));
    fs::write(daemon.directory().join("notes.txt"), "not mine").expect("the directory can be written");
    daemon.reload(&file_for(&new));
    assert_eq!(daemon.times_logged("reload applied"), 1);
    assert_eq!(daemon.times_logged("reload refused"), 0);
}
