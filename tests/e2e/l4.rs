//! TCP sessions: every byte, every end of either side, and who gets the next one.

use std::io::Write;

use crate::support::{Client, Daemon, Ending, Origin, Unlistened, backends, eventually, pattern, raw};

fn daemon_before(addresses: &[&str]) -> Daemon {
    Daemon::start(&raw("", &backends(addresses)))
}

fn client_of(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("raw"))
}

#[test]
fn bytes_are_relayed_both_ways() {
    let origin = Origin::echoing();
    let daemon = daemon_before(&[origin.address()]);
    let mut client = client_of(&daemon);
    client.expect_echo("one");
    client.expect_echo("two\r\n\0three");
}

#[test]
fn a_backend_may_speak_first() {
    let origin = Origin::greeting("220 ready\r\n");
    let daemon = daemon_before(&[origin.address()]);
    assert_eq!(client_of(&daemon).bytes(11), b"220 ready\r\n");
}

#[test]
fn a_client_that_has_said_everything_still_hears_the_answer() {
    let origin = Origin::scripted(|mut connection| {
        let mut heard = Vec::new();
        loop {
            let some = connection.some();
            if some.is_empty() {
                break;
            }
            heard.extend(some);
        }
        connection.send(format!("heard {} bytes", heard.len()));
    });
    let daemon = daemon_before(&[origin.address()]);
    let mut client = client_of(&daemon);
    client.send("12345");
    client.finish_writing();
    let (rest, ending) = client.rest();
    assert_eq!((String::from_utf8_lossy(&rest).as_ref(), ending), ("heard 5 bytes", Ending::Closed));
}

#[test]
fn a_backend_that_has_said_everything_still_hears_the_client() {
    let origin = Origin::scripted(|mut connection| {
        connection.send("that is all");
        connection.finish_writing();
        // What the test looks at: a remembered request.
        connection.request();
        connection.ending();
    });
    let daemon = daemon_before(&[origin.address()]);
    let mut client = client_of(&daemon);
    let (rest, ending) = client.rest();
    assert_eq!((rest.as_slice(), ending), (&b"that is all"[..], Ending::Closed));
    client.send("STILL HERE\r\n\r\n");
    eventually("the backend hears it", || origin.requests().len() == 1);
    assert_eq!(origin.open(), 1);
    client.finish_writing();
    eventually("and then the end", || origin.open() == 0);
}

#[test]
fn a_reset_of_the_backend_is_a_reset_for_the_client() {
    let origin = Origin::scripted(|mut connection| {
        connection.take(4);
        connection.reset();
    });
    let daemon = daemon_before(&[origin.address()]);
    let mut client = client_of(&daemon);
    client.send("ping");
    assert_eq!(client.ending(), Ending::Reset);
}

#[test]
fn a_reset_of_the_client_is_a_reset_for_the_backend() {
    let (tell, told) = std::sync::mpsc::channel();
    let origin = Origin::scripted(move |mut connection| {
        connection.send("hello");
        tell.send(connection.ending()).expect("the test waits for it");
    });
    let daemon = daemon_before(&[origin.address()]);
    let mut client = client_of(&daemon);
    client.bytes(5);
    client.reset();
    let ending = told.recv_timeout(crate::support::DEADLINE).expect("the backend sees an end");
    assert_eq!(ending, Some(Ending::Reset));
}

#[test]
fn a_refusing_backend_is_passed_over() {
    let nowhere = Unlistened::new();
    let origin = Origin::echoing();
    let daemon = daemon_before(&[nowhere.address(), origin.address()]);
    for _ in 0..6 {
        client_of(&daemon).expect_echo("hello");
    }
    assert_eq!(origin.accepted(), 6);
}

#[test]
fn a_client_of_a_dead_pool_is_hung_up_on() {
    let nowhere = Unlistened::new();
    let daemon = daemon_before(&[nowhere.address()]);
    let (rest, ending) = client_of(&daemon).rest();
    assert_eq!((rest.len(), ending), (0, Ending::Reset), "an orderly end would look like an empty answer");
}

#[test]
fn a_session_in_which_nothing_moves_is_ended() {
    let origin = Origin::echoing();
    let daemon = Daemon::start(&raw("timeouts = { tunnel_idle = \"200ms\" }", &backends(&[origin.address()])));
    let mut client = client_of(&daemon);
    client.expect_echo("hello");
    client.rest();
    eventually("the backend is let go", || origin.open() == 0);
}

#[test]
fn a_large_transfer_arrives_unchanged_in_both_directions() {
    let origin = Origin::echoing();
    let daemon = daemon_before(&[origin.address()]);
    let mut client = client_of(&daemon);
    let data = pattern(16 * 1024 * 1024);
    let (mut sender, sent) = (client.sender(), data.clone());
    let sending = std::thread::spawn(move || {
        sender.write_all(&sent)?;
        sender.finish_writing();
        std::io::Result::Ok(())
    });
    let (echo, ending) = client.rest();
    sending.join().expect("the sender does not panic").expect("everything is taken");
    assert_eq!(ending, Ending::Closed);
    assert!(echo == data, "{} bytes that differ from what was sent", echo.len());
}

#[test]
fn round_robin_is_exact_within_one_worker() {
    let origins = [Origin::echoing(), Origin::echoing(), Origin::echoing()];
    let daemon = daemon_before(&origins.each_ref().map(Origin::address));
    for _ in 0..12 {
        client_of(&daemon).expect_echo("x");
    }
    assert_eq!(origins.each_ref().map(Origin::accepted), [4, 4, 4]);
}

#[test]
fn weighted_round_robin_follows_the_weights() {
    let (heavy, light) = (Origin::echoing(), Origin::echoing());
    let daemon = Daemon::start(&raw(
        "",
        &format!(
            "balance = \"weighted_round_robin\"\nbackends = [{{ address = \"{}\", weight = 3 }}, \"{}\"]",
            heavy.address(),
            light.address()
        ),
    ));
    for _ in 0..12 {
        client_of(&daemon).expect_echo("x");
    }
    assert_eq!((heavy.accepted(), light.accepted()), (9, 3));
}

#[test]
fn least_connections_evens_out_open_sessions() {
    let (old, new) = (Origin::greeting("o"), Origin::greeting("n"));
    let file = |addresses: &[&str]| raw("", &(backends(addresses) + "balance = \"least_connections\""));
    let daemon = Daemon::start(&file(&[old.address()]));
    let open = |count| -> Vec<Client> {
        let mut clients: Vec<_> = (0..count).map(|_| client_of(&daemon)).collect();
        clients.iter_mut().for_each(|client| drop(client.bytes(1)));
        clients
    };
    let _before = open(4);
    daemon.reload(&file(&[old.address(), new.address()]));
    let _catching_up = open(4);
    assert_eq!((old.open(), new.open()), (4, 4), "sessions from before the reload still count");
    let _evenly = open(4);
    assert_eq!((old.open(), new.open()), (6, 6));
}

#[test]
fn ip_hash_keeps_a_client_with_its_backend() {
    let origins = [Origin::greeting("a"), Origin::greeting("b"), Origin::greeting("c")];
    let pool = backends(&origins.each_ref().map(Origin::address)) + "balance = \"ip_hash\"";
    let daemon = Daemon::start(&raw("", &pool));
    let address = daemon.address("raw");
    let mut used = std::collections::BTreeSet::new();
    for client in 1..=40 {
        let source = format!("127.0.1.{client}");
        let first = Client::connect_from(&source, &address).bytes(1);
        assert_eq!(Client::connect_from(&source, &address).bytes(1), first);
        used.insert(first);
    }
    assert_eq!(used.len(), 3, "forty clients are not all the same backend's");
}

#[test]
fn a_backend_at_its_limit_takes_no_further_session() {
    let (small, large) = (Origin::greeting("s"), Origin::greeting("l"));
    let pool =
        format!("backends = [{{ address = \"{}\", max_connections = 1 }}, \"{}\"]", small.address(), large.address());
    let daemon = Daemon::start(&raw("", &pool));
    let mut open: Vec<_> = (0..6).map(|_| client_of(&daemon)).collect();
    for client in &mut open {
        client.bytes(1);
    }
    assert_eq!((small.open(), large.open()), (1, 5));
}

#[test]
fn tcp_sessions_work_over_unix_sockets() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let origin = Origin::scripted_at(&place.path().join("db.sock"), |mut connection| connection.echo());
    let daemon = Daemon::start(&format!(
        "[listeners.raw]\nprotocol = \"tcp\"\nbind = \"unix:{}\"\npool = \"app\"\n[pools.app]\n{}",
        place.path().join("front.sock").display(),
        backends(&[origin.address()])
    ));
    client_of(&daemon).expect_echo("over a file");
}
