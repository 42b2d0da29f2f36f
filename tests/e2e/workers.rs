//! Threads and sockets: any number of workers serve, and an address is either all ours or not at all.

use std::net::TcpListener;

use rustix::process::Signal;

use crate::support::{Client, Daemon, Launch, Origin, backends, eventually};

/// One listener before one pool on so many workers, at this address.
fn file(workers: &str, bind: &str, origin: &Origin) -> String {
    format!(
        "[runtime]\nworkers = {workers}\n[listeners.web]\nbind = \"{bind}\"\npool = \"app\"\n[pools.app]\n{}",
        backends(&[origin.address()])
    )
}

/// The same in a process that may have 64 files open, and takes more connections than that.
fn short_of_descriptors(origin: &Origin) -> (Launch, String) {
    let file = file("1", "127.0.0.1:0", origin).replace("[runtime]", "[runtime]\nconnections = 1000");
    (Launch::new().limit("-n 64"), file)
}

#[test]
fn any_number_of_workers_serves() {
    for workers in ["1", "2", "\"auto\""] {
        let origin = Origin::answering("served");
        let daemon = Daemon::start(&file(workers, "127.0.0.1:0", &origin));
        for _ in 0..20 {
            Client::connect(&daemon.address("web")).get("/").assert(200, "served");
        }
    }
}

#[test]
fn two_hundred_connections_at_once_are_all_served() {
    let origin = Origin::answering("served");
    let daemon = Daemon::start(&file("2", "127.0.0.1:0", &origin));
    let address = daemon.address("web");
    let mut clients: Vec<_> = (0..200).map(|_| Client::connect(&address)).collect();
    for _ in 0..3 {
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        }
        for client in &mut clients {
            client.response().assert(200, "served");
        }
    }
    assert_eq!(origin.requests().len(), 600);
}

#[test]
fn every_worker_follows_a_reload() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let daemon = Daemon::start(&file("2", "127.0.0.1:0", &old));
    let address = daemon.address("web");
    let mut clients: Vec<_> = (0..16).map(|_| Client::connect(&address)).collect();
    clients.iter_mut().for_each(|client| client.get("/").assert(200, "old"));
    daemon.reload(&file("2", "127.0.0.1:0", &new));
    clients.iter_mut().for_each(|client| client.get("/").assert(200, "new"));
    eventually("no worker keeps a connection to the old backend", || old.open() == 0);
}

#[test]
fn limits_hold_over_all_workers() {
    let origin = Origin::hanging();
    let pool = format!("backends = [{{ address = \"{}\", max_connections = 3 }}]", origin.address());
    let daemon = Daemon::start(&format!(
        "[runtime]\nworkers = 2\n[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n[pools.app]\n{pool}"
    ));
    let address = daemon.address("web");
    let mut clients: Vec<_> = (0..12).map(|_| Client::connect(&address)).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    eventually("three wait at the backend", || origin.requests().len() == 3);
    eventually("all others have their answer", || clients.iter().filter(|client| !client.is_open()).count() == 9);
    assert_eq!(origin.requests().len(), 3);
}

#[test]
fn long_connections_are_spread_over_the_workers() {
    let origin = Origin::answering("served");
    let place = tempfile::tempdir().expect("a temporary directory");
    // Only one worker can accept on a Unix socket: whatever the other has was handed over.
    let bind = format!("unix:{}", place.path().join("web.sock").display());
    let _daemon = Daemon::start(&file("2", &bind, &origin));
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(&bind)).collect();
    clients.iter_mut().for_each(|client| client.get("/").assert(200, "served"));
    assert_eq!(origin.accepted(), 2, "one request at a time needs one backend connection of each worker that serves");
}

#[test]
fn the_limit_of_descriptors_is_raised_as_far_as_it_goes() {
    let origin = Origin::answering("served");
    let daemon = Launch::new().limit("-S -n 64").write("evenkeel.toml", &file("1", "127.0.0.1:0", &origin)).start();
    let address = daemon.address("web");
    let mut clients: Vec<_> = (0..100).map(|_| Client::connect(&address)).collect();
    clients.iter_mut().for_each(|client| client.get("/").assert(200, "served"));
}

#[test]
fn running_out_of_descriptors_is_survived() {
    let origin = Origin::answering("served");
    let (launch, file) = short_of_descriptors(&origin);
    let mut daemon = launch.write("evenkeel.toml", &file).start();
    let address = daemon.address("web");
    let crowd: Vec<_> = (0..100).map(|_| Client::connect(&address)).collect();
    daemon.wait_log("cannot accept");
    assert!(daemon.is_running());
    drop(crowd);
    eventually("it serves again", || {
        let mut client = Client::connect(&address);
        client.get("/").status() == 200
    });
}

#[test]
fn at_the_limit_of_descriptors_a_warning_is_not_repeated_for_each_that_still_gets_in() {
    let origin = Origin::answering("served");
    let (launch, file) = short_of_descriptors(&origin);
    let daemon = launch.write("evenkeel.toml", &file).start();
    let address = daemon.address("web");
    let mut crowd: Vec<_> = (0..100).map(|_| Client::connect(&address)).collect();
    daemon.wait_log("cannot accept");
    let most = daemon.descriptors();
    for _ in 0..20 {
        drop(crowd.remove(0));
        eventually("another one has its place", || daemon.descriptors() >= most);
    }
    assert_eq!(daemon.times_logged("cannot accept"), 1);
    assert!(!daemon.has_logged("accepting again"), "it never was enough");
}

#[test]
fn a_reload_that_runs_out_of_descriptors_changes_nothing() {
    let origin = Origin::answering("served");
    let (launch, file) = short_of_descriptors(&origin);
    let before = file + "[reload]\nwatch = false\n";
    let daemon = launch.write("evenkeel.toml", &before).start();
    let address = daemon.address("web");
    let mut crowd = Vec::new();
    while !daemon.has_logged("cannot accept") {
        let open = daemon.descriptors();
        crowd.push(Client::connect(&address));
        eventually("it is in or waits", || daemon.descriptors() > open || daemon.has_logged("cannot accept"));
    }
    // The one that waits would take the first place.
    crowd.pop();
    daemon.rewrite(&(before + "[listeners.more]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n"));
    for tries in 1.. {
        daemon.signal(Signal::HUP);
        let answers = || daemon.times_logged("reload refused") + daemon.times_logged("reload applied");
        eventually("the reload is answered", || answers() == tries);
        if daemon.has_logged("reload applied") {
            break;
        }
        assert!(!daemon.has_logged("listening more"), "no part of it is in force");
        let open = daemon.descriptors();
        drop(crowd.pop().expect("with all of them gone there is room"));
        eventually("there is room for one more", || daemon.descriptors() < open);
    }
    drop(crowd);
    Client::connect(&daemon.address("more")).get("/").assert(200, "served");
}

#[test]
fn a_second_daemon_on_the_same_address_gives_up_and_takes_nothing() {
    let (first, second) = (Origin::answering("first"), Origin::answering("second"));
    let daemon = Daemon::start(&file("2", "127.0.0.1:0", &first));
    let address = daemon.address("web");
    let failed = Launch::new().write("evenkeel.toml", &file("2", &address, &second)).fail();
    assert!(failed.err.contains(&address), "{failed:?}");
    assert!(!failed.out.contains("listening"), "{failed:?}");
    for _ in 0..40 {
        Client::connect(&address).get("/").assert(200, "first");
    }
    assert_eq!(second.accepted(), 0);
}

#[test]
fn nothing_listens_unless_everything_can() {
    let origin = Origin::answering("must not be seen");
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = taken.local_addr().expect("a bound socket has an address").to_string();
    for (first, last) in [("a", "z"), ("z", "a")] {
        let launch = Launch::new();
        let socket = launch.directory().join("free.sock");
        let more = format!(
            "{}[listeners.{first}]\nbind = [\"127.0.0.1:0\", \"unix:{}\"]\npool = \"app\"\n",
            file("1", &address, &origin).replace("listeners.web", &format!("listeners.{last}")),
            socket.display()
        );
        let failed = launch.write("evenkeel.toml", &more).fail();
        assert!(failed.err.contains(&address), "{failed:?}");
        assert!(!failed.out.contains("listening"), "{failed:?}");
        assert!(!socket.exists(), "what was bound before the fault is given back");
    }
}

#[test]
fn a_socket_file_that_a_dead_daemon_left_is_no_obstacle_but_a_living_one_is() {
    let origin = Origin::answering("unix");
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("web.sock");
    let bind = format!("unix:{}", path.display());
    drop(std::os::unix::net::UnixListener::bind(&path).expect("the path is free"));
    let daemon = Daemon::start(&file("1", &bind, &origin));
    Client::connect(&bind).get("/").assert(200, "unix");
    let failed = Launch::new().write("evenkeel.toml", &file("1", &bind, &origin)).fail();
    assert!(failed.err.contains(&bind) || failed.err.contains(&path.display().to_string()), "{failed:?}");
    Client::connect(&daemon.address("web")).get("/").assert(200, "unix");
}
