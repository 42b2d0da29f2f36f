//! Breakers at work: who fails is left alone, probed, and back when it is well; and what never counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::support::{Client, Daemon, Deaf, Gate, Origin, Unlistened, backends, eventually, raw, web};

const OPENED: &str = "from=\"closed\" to=\"open\"";
const PROBING: &str = "from=\"open\" to=\"half_open\"";
const REOPENED: &str = "from=\"half_open\" to=\"open\"";
const CLOSED: &str = "from=\"half_open\" to=\"closed\"";

/// An origin that answers with a status which the test can change.
struct Patient {
    origin: Origin,
    status: Arc<AtomicU16>,
}

impl Patient {
    fn answering(status: u16) -> Patient {
        let status = Arc::new(AtomicU16::new(status));
        let told = Arc::clone(&status);
        let origin = Origin::scripted(move |mut connection| {
            while connection.request().is_some() {
                let status = told.load(Ordering::SeqCst);
                connection.send(format!("HTTP/1.1 {status} Told\r\nContent-Length: 4\r\n\r\nsick"));
            }
        });
        Patient { origin, status }
    }

    fn now_answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn asked(&self) -> usize {
        self.origin.requests().len()
    }
}

fn before(patient: &Patient, other: &Origin, breaker: &str) -> String {
    web("", &format!("{}[pools.app.breaker]\n{breaker}", backends(&[patient.origin.address(), other.address()])))
}

fn client_of(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("web"))
}

/// How many of so many requests were failures.
fn failures(client: &mut Client, requests: usize) -> usize {
    (0..requests).filter(|_| client.get("/").status() >= 500).count()
}

#[test]
fn a_backend_that_answers_500_is_left_alone_and_back_when_its_probes_succeed() {
    let (patient, well) = (Patient::answering(500), Origin::answering("well"));
    let daemon = Daemon::start(&before(&patient, &well, "open_for = \"300ms\"\nopen_for_max = \"400ms\""));
    let mut client = client_of(&daemon);
    assert_eq!(failures(&mut client, 10), 5);
    daemon.wait_log(OPENED);
    daemon.wait_log("reason=5 failures in a row");
    let mut failed = 0;
    eventually("a probe fails", || {
        failed += failures(&mut client, 1);
        daemon.has_logged(REOPENED)
    });
    assert_eq!(patient.asked(), 5 + failed, "only probes reach it");
    patient.now_answers(200);
    eventually("its probes succeed", || {
        client.get("/");
        daemon.has_logged(CLOSED)
    });
    assert!(daemon.has_logged(PROBING) && daemon.has_logged("reason=3 probes succeeded"));
    let asked = patient.asked();
    assert_eq!(failures(&mut client, 20), 0);
    assert_eq!(patient.asked(), asked + 10, "it has its share again");
}

#[test]
fn a_share_of_failures_opens_too() {
    let (patient, well) = (Patient::answering(200), Origin::answering("well"));
    let daemon = Daemon::start(&before(&patient, &well, "open_for = \"1h\"\nopen_for_max = \"1h\""));
    let mut client = client_of(&daemon);
    eventually("half of its answers are enough", || {
        for status in [200, 500] {
            patient.now_answers(status);
            let asked = patient.asked();
            // Whoever's turn it is: until the patient has had one more.
            (0..2).any(|_| client.get("/").status() >= 200 && patient.asked() > asked);
        }
        daemon.has_logged(OPENED)
    });
    daemon.wait_log("requests failed within 10s");
}

#[test]
fn an_observed_breaker_tells_and_lets_all_through() {
    let (patient, well) = (Patient::answering(500), Origin::answering("well"));
    let daemon = Daemon::start(&before(&patient, &well, "mode = \"observe\""));
    assert_eq!(failures(&mut client_of(&daemon), 60), 30);
    daemon.wait_log(OPENED);
    daemon.wait_log("mode=\"observe\"");
}

#[test]
fn without_breakers_nothing_opens() {
    let (patient, well) = (Patient::answering(500), Origin::answering("well"));
    let daemon = Daemon::start(&before(&patient, &well, "mode = \"off\""));
    assert_eq!(failures(&mut client_of(&daemon), 60), 30);
    assert!(!daemon.has_logged("to=\"open\""));
}

#[test]
fn what_tells_of_the_request_is_no_failure_of_the_backend() {
    for status in [404, 429, 501, 505] {
        let (patient, well) = (Patient::answering(status), Origin::answering("well"));
        let daemon = Daemon::start(&before(&patient, &well, ""));
        let mut client = client_of(&daemon);
        (0..60).for_each(|_| drop(client.get("/")));
        assert_eq!(patient.asked(), 30, "{status}");
        assert!(!daemon.has_logged("to=\"open\""), "{status}");
    }
}

#[test]
fn clients_that_go_away_do_not_count() {
    let (hanging, well) = (Origin::hanging(), Origin::answering("well"));
    let pool =
        format!("{}[pools.app.breaker]\nconsecutive_failures = 1", backends(&[hanging.address(), well.address()]));
    let daemon = Daemon::start(&web("", &pool));
    for gone in 1..=3 {
        while hanging.requests().len() < gone {
            let (mut client, answered) = (client_of(&daemon), well.requests().len());
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
            eventually("somebody has it", || hanging.requests().len() == gone || well.requests().len() > answered);
            client.reset();
        }
        eventually("it is hung up on", || hanging.open() == 0);
    }
    assert!(!daemon.has_logged("to=\"open\""));
}

#[test]
fn the_only_backend_never_opens() {
    let nowhere = Unlistened::new();
    let daemon = Daemon::start(&web("", &backends(&[nowhere.address()])));
    let mut client = client_of(&daemon);
    for _ in 0..40 {
        assert_eq!(client.get("/").status(), 502);
    }
    assert!(!daemon.has_logged("to=\"open\""));
    daemon.wait_log("reason=it is the last usable backend");
    assert_eq!(daemon.times_logged("breaker stays closed"), 1, "told once");
}

#[test]
fn a_reload_keeps_an_open_breaker_and_another_address_is_another_backend() {
    let (patient, well) = (Patient::answering(500), Origin::answering("well"));
    let file = before(&patient, &well, "open_for = \"1h\"\nopen_for_max = \"1h\"");
    let daemon = Daemon::start(&file);
    let mut client = client_of(&daemon);
    assert_eq!(failures(&mut client, 20), 5);
    daemon.reload(&file.replace("[pools.app.breaker]", "balance = \"least_connections\"\n[pools.app.breaker]"));
    assert_eq!(failures(&mut client, 20), 0);
    daemon.reload(&file.replace("\"1h\"", "\"2h\""));
    assert_eq!(failures(&mut client, 20), 0);
    let other = Patient::answering(500);
    daemon.reload(&before(&other, &well, ""));
    assert_eq!(failures(&mut client, 20), 5);
    assert_eq!(patient.asked(), 5);
}

#[test]
fn refused_tcp_connections_open_and_cost_no_session() {
    let (nowhere, echo) = (Unlistened::new(), Origin::echoing());
    let daemon = Daemon::start(&raw("", &backends(&[nowhere.address(), echo.address()])));
    for _ in 0..30 {
        Client::connect(&daemon.address("raw")).expect_echo("hello");
    }
    daemon.wait_log(OPENED);
    assert_eq!(daemon.times_logged("cannot connect"), 5);
}

#[test]
fn sessions_that_are_reset_before_any_byte_open_and_later_ones_do_not() {
    let breaker = "[pools.app.breaker]\nmin_requests = 6\nopen_for = \"1h\"\nopen_for_max = \"1h\"";
    for (greets, opens) in [(false, true), (true, false)] {
        let bad = Origin::scripted(move |mut connection| {
            if greets {
                connection.send("hello");
            }
            connection.some();
            connection.reset();
        });
        let echo = Origin::greeting("hello");
        let daemon = Daemon::start(&raw("", &format!("{}{breaker}", backends(&[bad.address(), echo.address()]))));
        let mut resets = 0;
        for _ in 0..40 {
            let mut client = Client::connect(&daemon.address("raw"));
            client.send("?");
            if client.take(6).is_none() {
                resets += 1;
                let noted = || daemon.times_logged("backend_closed") + daemon.times_logged("session_cut");
                eventually("its end is noted", || noted() >= resets);
            }
        }
        assert_eq!(daemon.has_logged(OPENED), opens);
        assert_eq!(resets, if opens { 6 } else { 20 });
    }
}

/// Never answers `/hang`, and hangs up on everything else.
fn tearing() -> Origin {
    Origin::scripted(|mut connection| {
        while let Some(request) = connection.head() {
            if !request.head.start.contains(" /hang ") {
                return connection.reset();
            }
        }
    })
}

/// So many clients whose requests this origin has and does not answer.
fn hanging_at(hanging: &Origin, well: &Origin, daemon: &Daemon, clients: usize) -> Vec<Client> {
    let mut waiting = Vec::new();
    while waiting.len() < clients {
        let (before, answered) = (hanging.requests().len(), well.requests().len());
        let mut client = client_of(daemon);
        client.send("GET /hang HTTP/1.1\r\nHost: test\r\n\r\n");
        eventually("somebody has it", || hanging.requests().len() > before || well.requests().len() > answered);
        if hanging.requests().len() > before {
            waiting.push(client);
        }
    }
    waiting
}

#[test]
fn who_waits_for_an_answer_of_a_backend_whose_breaker_opens_gets_it_from_another_on_every_worker() {
    // Also when there are more of them than the budget allows at once.
    for budget in ["retry_budget = 1.0", "retry_budget = 0.01"] {
        let (torn, well) = (tearing(), Origin::answering("well"));
        let breaker = "[pools.app.breaker]\nopen_for = \"1h\"\nopen_for_max = \"1h\"";
        let pool = format!("{}{budget}\n{breaker}", backends(&[torn.address(), well.address()]));
        let daemon = Daemon::start(&web("", &pool).replace("workers = 1", "workers = 2"));
        let mut waiting = hanging_at(&torn, &well, &daemon, 8);
        let mut other = client_of(&daemon);
        eventually("the breaker opens", || {
            other.get("/torn").assert(200, "well");
            daemon.has_logged(OPENED)
        });
        waiting.iter_mut().for_each(|client| client.response().assert(200, "well"));
        eventually("nobody waits there any more", || torn.open() == 0);
    }
}

#[test]
fn an_observed_breaker_takes_no_request_away_from_its_backend() {
    let (gate, well) = (Gate::default(), Origin::answering("well"));
    let passing = gate.clone();
    let slow = Origin::scripted(move |mut connection| {
        while let Some(request) = connection.request() {
            if !request.head.start.contains(" /hang ") {
                return connection.reset();
            }
            passing.pass();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
        }
    });
    let pool = format!("{}[pools.app.breaker]\nmode = \"observe\"", backends(&[slow.address(), well.address()]));
    let daemon = Daemon::start(&web("", &pool));
    let mut waiting = hanging_at(&slow, &well, &daemon, 1);
    let mut other = client_of(&daemon);
    eventually("the breaker opens", || {
        other.get("/torn").assert(200, "well");
        daemon.has_logged(OPENED)
    });
    gate.open();
    waiting[0].response().assert(200, "slow");
}

/// Before a backend that never accepts, and another: clients that wait for the first to be connected, while it is found out
/// by others. The first wait for as long as they like; a reload gives those who come later less time.
fn file_before(deaf: &Deaf, other: &Origin, connect: &str, file: fn(&str, &str) -> String) -> String {
    let breaker = "[pools.app.breaker]\nconsecutive_failures = 1\nopen_for = \"1h\"\nopen_for_max = \"1h\"";
    let backends = backends(&[deaf.address(), other.address()]);
    file("", &format!("timeouts = {{ connect = \"{connect}\" }}\n{backends}{breaker}"))
}

#[test]
fn who_waits_for_a_connection_to_a_backend_whose_breaker_opens_is_connected_to_another() {
    let (deaf, well) = (Deaf::new(), Origin::answering("well"));
    let daemon = Daemon::start(&file_before(&deaf, &well, "60s", web));
    let send = |daemon: &Daemon| {
        let mut client = client_of(daemon);
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n");
        client
    };
    let mut clients: Vec<_> = (0..4).map(|_| send(&daemon)).collect();
    eventually("each backend has had its turns", || daemon.times_logged("routed") == 4);
    eventually("the other has answered", || well.requests().len() == 2);
    daemon.reload(&file_before(&deaf, &well, "100ms", web));
    clients.extend((0..2).map(|_| send(&daemon)));
    // Nothing was sent to the first, so even what must not be repeated may go.
    clients.iter_mut().for_each(|client| client.response().assert(200, "well"));
    daemon.wait_log(OPENED);
    assert_eq!(daemon.times_logged("cause=\"connect_timeout\""), 1, "the others had a minute");
    assert_eq!(daemon.times_logged("cause=\"withdrawn\""), 2);
}

#[test]
fn a_tcp_client_whose_backend_is_found_out_while_it_is_connected_gets_another() {
    let (deaf, other) = (Deaf::new(), Origin::greeting("hello"));
    let daemon = Daemon::start(&file_before(&deaf, &other, "60s", raw));
    let connect = || Client::connect(&daemon.address("raw"));
    let mut clients: Vec<_> = (0..4).map(|_| connect()).collect();
    eventually("each backend has had its turn", || other.accepted() == 2);
    daemon.reload(&file_before(&deaf, &other, "100ms", raw));
    clients.extend((0..2).map(|_| connect()));
    clients.iter_mut().for_each(|client| assert_eq!(client.bytes(5), b"hello"));
    daemon.wait_log(OPENED);
}

#[test]
fn an_open_breaker_is_half_open_when_its_time_is_over_though_nobody_asks() {
    let (patient, well) = (Patient::answering(500), Origin::answering("well"));
    let daemon = Daemon::start(&before(&patient, &well, "open_for = \"200ms\""));
    failures(&mut client_of(&daemon), 10);
    daemon.wait_log(OPENED);
    daemon.wait_log(PROBING);
    daemon.wait_log("reason=its time is over");
    assert_eq!(patient.asked(), 5);
}

#[test]
fn who_waits_in_the_queue_gets_a_backend_whose_open_time_is_over() {
    let gate = Gate::default();
    let (patient, passing) = (Patient::answering(500), gate.clone());
    let busy = Origin::scripted(move |mut connection| {
        while connection.request().is_some() {
            passing.pass();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbusy");
        }
    });
    let backends = format!(
        "queue = {{ timeout = \"60s\" }}\nbackends = [\"{}\", {{ address = \"{}\", max_connections = 1 }}]\n",
        patient.origin.address(),
        busy.address()
    );
    let breaker = "[pools.app.breaker]\nconsecutive_failures = 1\nopen_for = \"1s\"";
    let daemon = Daemon::start(&web("", &format!("{backends}{breaker}")).replace("workers = 1", "workers = 2"));
    let send = || {
        let mut client = client_of(&daemon);
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        client
    };
    // One of them to each, or both to the first, and then one more.
    let (mut first, mut sick) = (None, 0);
    while first.is_none() || sick == 0 {
        let (asked, had) = (patient.asked(), busy.requests().len());
        let client = send();
        eventually("somebody has it", || patient.asked() > asked || busy.requests().len() > had);
        match patient.asked() > asked {
            true => sick += 1,
            false => first = Some(client),
        }
    }
    daemon.wait_log(OPENED);
    patient.now_answers(200);
    let mut clients: Vec<_> = (0..8).map(|_| send()).collect();
    clients.iter_mut().for_each(|client| client.response().assert(200, "sick"));
    daemon.wait_log(PROBING);
    daemon.wait_log(CLOSED);
    gate.open();
    first.expect("it is there").response().assert(200, "busy");
}

#[test]
fn failures_of_every_kind_count_also_one_in_the_middle_of_a_body() {
    let kinds = [
        ("a time-out", Origin::hanging()),
        ("a reset", tearing()),
        ("an end before an answer", Origin::saying_once("")),
        ("no answer in HTTP", Origin::saying_once("SSH-2.0-OpenSSH_9.2\r\n\r\n")),
        ("half a body", Origin::saying_once("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")),
    ];
    for (kind, bad) in kinds {
        let well = Origin::answering("well");
        let breaker = "[pools.app.breaker]\nmin_requests = 4\nconsecutive_failures = 100\nopen_for = \"1h\"\nopen_for_max = \"1h\"";
        let timeouts = "timeouts = { response_header = \"50ms\" }";
        let pool = format!("{}{timeouts}\n{breaker}", backends(&[bad.address(), well.address()]));
        let daemon = Daemon::start(&web("", &pool));
        eventually(&format!("{kind} counts"), || {
            let mut client = client_of(&daemon);
            client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
            client.rest();
            daemon.has_logged(OPENED)
        });
        assert!(daemon.has_logged("reason=4 of 4 requests failed"), "{kind}");
    }
}

#[test]
fn answers_that_take_too_long_open_where_the_file_says_so() {
    let slow = Origin::scripted(|mut connection| {
        while connection.request().is_some() {
            std::thread::sleep(Duration::from_millis(60));
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
        }
    });
    for (latency, opens) in [("latency = { quantile = 0.5, above = \"50ms\" }", true), ("", false)] {
        let well = Origin::answering("well");
        let breaker = format!("[pools.app.breaker]\nmin_requests = 4\n{latency}");
        let daemon = Daemon::start(&web("", &format!("{}{breaker}", backends(&[slow.address(), well.address()]))));
        let mut client = client_of(&daemon);
        assert_eq!(failures(&mut client, 16), 0);
        assert_eq!(daemon.has_logged(OPENED), opens);
        assert_eq!(daemon.has_logged("reason=4 of 4 answers took longer than 50ms"), opens);
    }
}

#[test]
fn what_the_queue_sends_away_is_nobodys_failure() {
    let hanging = [Origin::hanging(), Origin::hanging()];
    let backend = |origin: &Origin| format!("{{ address = \"{}\", max_connections = 1 }}", origin.address());
    let backends = format!("backends = [{}, {}]\n", backend(&hanging[0]), backend(&hanging[1]));
    let rest = "queue = { max = 2, timeout = \"50ms\" }\n[pools.app.breaker]\nconsecutive_failures = 1\n";
    let daemon = Daemon::start(&web("", &format!("{backends}{rest}")));
    let mut held = [client_of(&daemon), client_of(&daemon)];
    for (nth, client) in held.iter_mut().enumerate() {
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        eventually("it is at a backend", || hanging.iter().map(Origin::accepted).sum::<usize>() == nth + 1);
    }
    let mut client = client_of(&daemon);
    assert_eq!(failures(&mut client, 10), 10);
    assert!(!daemon.has_logged("to=\"open\""));
}
