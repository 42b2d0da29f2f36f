//! Coming back and being few: slow starts, panic, and what a pool says when it is not served by its primaries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Client, Daemon, Origin, backends, eventually, origin, web};

const CHECK: &str = "health_check = { path = '/healthz', interval = '1s', timeout = '1s', fast_interval = '50ms', \
                     down_interval = '50ms', fall = 1, rise = 1 }\n";

/// So slow that nothing of it is seen: what comes back has a hundredth of its weight for as long as a test lasts.
const HOUR: &str = "slow_start = '1h'\n";

const RAMPING: [&str; 4] = ["weighted_round_robin", "least_connections", "least_response_time", "random_two_choices"];

const AWAY: &str = "pool is not served by its primaries alone pool=app";
const AGAIN: &str = "pool is served by its primaries again pool=app";

/// An origin that answers with its name, to everything if it is well.
struct Patient {
    origin: Origin,
    is_well: Arc<AtomicBool>,
}

impl Patient {
    fn new(name: &'static str) -> Patient {
        let is_well = Arc::new(AtomicBool::new(true));
        let told = Arc::clone(&is_well);
        let origin = Origin::scripted(move |mut connection| {
            while let Some(request) = connection.request() {
                let fails = request.head.start.contains(" /healthz ") && !told.load(Ordering::SeqCst);
                match fails {
                    true => connection.send("HTTP/1.1 503 Sick\r\nContent-Length: 0\r\n\r\n"),
                    false => connection.send(origin::ok(name)),
                }
            }
        });
        Patient { origin, is_well }
    }

    fn address(&self) -> &str {
        self.origin.address()
    }

    /// Makes it well or not, and waits until the daemon has found out.
    fn turns(&self, daemon: &Daemon, well: bool) {
        let said = format!("backend is {} pool=app backend={} ", if well { "up" } else { "down" }, self.address());
        let before = daemon.times_logged(&said);
        self.is_well.store(well, Ordering::SeqCst);
        eventually(&said, || daemon.times_logged(&said) > before);
    }
}

fn client_of(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("web"))
}

/// How many of a thousand requests `name` answers.
fn of_a_thousand(daemon: &Daemon, name: &str) -> usize {
    let mut client = client_of(daemon);
    let mut answered_by = |_: &usize| {
        let response = client.get("/");
        assert_eq!(response.status(), 200);
        response.text() == name
    };
    (0..1000).filter(&mut answered_by).count()
}

/// A hundredth of the weight is ten of a thousand requests; a machine that stood still for minutes makes it some more.
#[track_caller]
fn assert_small(daemon: &Daemon, name: &str, least: usize) {
    let its = of_a_thousand(daemon, name);
    assert!((least..150).contains(&its), "{its} of 1000 for {name}");
}

#[test]
fn a_backend_that_was_down_gets_a_small_share_at_first_whatever_the_algorithm() {
    for algorithm in RAMPING {
        let (steady, patient) = (Origin::answering("steady"), Patient::new("patient"));
        let pool = |slow_start: &str| {
            let lines = format!(
                "{}{CHECK}balance = '{algorithm}'\n{slow_start}",
                backends(&[steady.address(), patient.address()])
            );
            web("", &lines)
        };
        let daemon = Daemon::start(&pool(HOUR));
        patient.turns(&daemon, false);
        assert_eq!(of_a_thousand(&daemon, "patient"), 0);
        patient.turns(&daemon, true);
        // Who goes by response times gives nothing to a backend that happens to be slower.
        assert_small(&daemon, "patient", usize::from(algorithm != "least_response_time"));
        daemon.reload(&pool(&format!("{HOUR}queue = {{ max = 5 }}\n")));
        assert_small(&daemon, "patient", 0);
        if algorithm == "weighted_round_robin" {
            daemon.reload(&pool(""));
            let its = of_a_thousand(&daemon, "patient");
            assert!((499..=501).contains(&its), "without a slow start it has its half: {its}");
        }
    }
}

#[test]
fn at_the_start_of_the_process_all_have_their_shares_and_what_a_reload_brings_or_puts_back_begins_small() {
    let [old, held, new] = ["old", "held", "new"].map(Origin::answering);
    let pool =
        |backends: String| web("", &format!("balance = 'weighted_round_robin'\n{HOUR}backends = [{backends}]\n"));
    let table = |origin: &Origin, how: &str| format!("{{ address = '{}'{how} }}, ", origin.address());
    let both = pool(table(&old, "") + &table(&held, ""));
    let daemon = Daemon::start(&both);
    assert_eq!(of_a_thousand(&daemon, "held"), 500);
    for how in [", drain = true", ", maintenance = true"] {
        daemon.reload(&pool(table(&old, "") + &table(&held, how)));
        assert_eq!(of_a_thousand(&daemon, "held"), 0);
        daemon.reload(&both);
        assert_small(&daemon, "held", 1);
    }
    daemon.reload(&pool(table(&old, "") + &table(&new, "")));
    assert_small(&daemon, "new", 1);
    daemon.reload(&pool(table(&held, "") + &table(&new, "")));
    let its = of_a_thousand(&daemon, "held");
    assert!(its > 250, "where all have just come back they serve all: {its}");
}

#[test]
fn one_whose_breaker_closes_again_begins_small() {
    let is_well = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_well);
    let patient = Origin::scripted(move |mut connection| {
        while connection.request().is_some() {
            match told.load(Ordering::SeqCst) {
                true => connection.send(origin::ok("patient")),
                false => connection.send("HTTP/1.1 500 Sick\r\nContent-Length: 0\r\n\r\n"),
            }
        }
    });
    let steady = Origin::answering("steady");
    let breaker = "breaker = { open_for = '100ms', open_for_max = '100ms' }\n";
    let lines =
        backends(&[steady.address(), patient.address()]) + "balance = 'weighted_round_robin'\n" + HOUR + breaker;
    let daemon = Daemon::start(&web("", &lines));
    let mut client = client_of(&daemon);
    eventually("its breaker opens", || {
        client.get("/");
        daemon.has_logged("from=\"closed\" to=\"open\"")
    });
    is_well.store(true, Ordering::SeqCst);
    eventually("its breaker closes", || {
        client.get("/");
        daemon.has_logged("from=\"half_open\" to=\"closed\"")
    });
    assert_small(&daemon, "patient", 1);
}

#[test]
fn with_too_few_well_all_primaries_are_used_and_the_log_says_so_once() {
    let patients = ["a", "b", "c"].map(Patient::new);
    let standby = Origin::answering("standby");
    let addresses: Vec<String> = patients.iter().map(|patient| format!("'{}'", patient.address())).collect();
    let pool = |backup: &str| {
        web("", &format!("backends = [{}{backup}]\n{CHECK}panic_threshold = 0.5\n", addresses.join(", ")))
    };
    let daemon = Daemon::start(&pool(""));
    patients[0].turns(&daemon, false);
    assert_eq!(of_a_thousand(&daemon, "a"), 0, "two of three are enough");
    patients[1].turns(&daemon, false);
    for name in ["a", "b", "c"] {
        let its = of_a_thousand(&daemon, name);
        assert!((333..=334).contains(&its), "{its} for {name}");
    }
    daemon.wait_log(&format!("{AWAY} from=\"primaries\" to=\"panic\" backends=usable 1, down 2, open 0"));
    daemon.reload(&pool(&format!(", {{ address = '{}', backup = true }}", standby.address())));
    assert_eq!(of_a_thousand(&daemon, "c"), 1000, "a backup that is well keeps off panic");
    patients[1].turns(&daemon, true);
    let mut client = client_of(&daemon);
    eventually("all is well again", || {
        client.get("/");
        daemon.has_logged(&format!("{AGAIN} from=\"panic\" to=\"primaries\""))
    });
    assert_eq!((daemon.times_logged(AWAY), daemon.times_logged(AGAIN)), (1, 1));
}

#[test]
fn each_rung_is_said_when_a_pool_steps_down_to_it() {
    let (patient, standby) = (Patient::new("patient"), Patient::new("standby"));
    let lines = format!(
        "backends = ['{}', {{ address = '{}', backup = true }}]\n{CHECK}",
        patient.address(),
        standby.address()
    );
    let daemon = Daemon::start(&web("", &lines));
    client_of(&daemon).get("/").assert(200, "patient");
    patient.turns(&daemon, false);
    assert_eq!(of_a_thousand(&daemon, "standby"), 1000);
    daemon.wait_log(&format!("{AWAY} from=\"primaries\" to=\"backups\" backends=usable 1, down 1"));
    standby.turns(&daemon, false);
    of_a_thousand(&daemon, "patient");
    daemon.wait_log(&format!("{AWAY} from=\"backups\" to=\"fail_open\" backends=usable 0, down 2"));
    assert_eq!((daemon.times_logged(AWAY), daemon.times_logged(AGAIN)), (2, 0));
    patient.turns(&daemon, true);
    let mut client = client_of(&daemon);
    eventually("its primaries serve it again", || {
        client.get("/").assert(200, "patient");
        daemon.has_logged(&format!("{AGAIN} from=\"fail_open\" to=\"primaries\""))
    });
}
