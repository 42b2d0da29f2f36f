//! Which requests are tried again, where, how often, and which never are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Client, Daemon, Deaf, Gate, Origin, Unlistened, backends, eventually};

/// One listener whose only route has these retries, one worker, before these backends.
fn file(retry: &str, addresses: &[&str], pool: &str) -> String {
    format!(
        "[runtime]\nworkers = 1\n[listeners.web]\nbind = \"127.0.0.1:0\"\n[[listeners.web.routes]]\npool = \"app\"\n{retry}\n\
         [pools.app]\n{}{pool}\n",
        backends(addresses)
    )
}

fn daemon_before(retry: &str, origins: &[&Origin]) -> Daemon {
    let addresses: Vec<&str> = origins.iter().map(|origin| origin.address()).collect();
    Daemon::start(&file(retry, &addresses, ""))
}

fn client_of(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("web"))
}

/// Two backends alike, of which the first that gets a request fails so and the other answers.
struct Pair {
    origins: [Origin; 2],
}

impl Pair {
    fn failing_once(fails: impl Fn(&mut crate::support::origin::Connection) + Send + Sync + 'static) -> Pair {
        let (failed, fails) = (Arc::new(AtomicBool::new(false)), Arc::new(fails));
        let origin = || {
            let (failed, fails) = (failed.clone(), fails.clone());
            Origin::scripted(move |mut connection| {
                while connection.request().is_some() {
                    if !failed.swap(true, Ordering::SeqCst) {
                        return fails(&mut connection);
                    }
                    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother");
                }
            })
        };
        Pair { origins: [origin(), origin()] }
    }

    /// Reads the request and dies.
    fn dying() -> Pair {
        Pair::failing_once(|_| {})
    }

    fn daemon(&self, retry: &str) -> Daemon {
        daemon_before(retry, &self.origins.each_ref())
    }

    /// How many requests each got.
    fn seen(&self) -> [usize; 2] {
        self.origins.each_ref().map(|origin| origin.requests().len())
    }
}

#[test]
fn a_get_whose_backend_dies_before_it_answers_is_tried_on_another() {
    let pair = Pair::dying();
    let daemon = pair.daemon("");
    client_of(&daemon).get("/").assert(200, "other");
    assert_eq!(pair.seen(), [1, 1]);
}

#[test]
fn a_backend_that_is_reset_in_the_middle_of_its_head_has_not_answered() {
    let pair = Pair::failing_once(|connection| connection.send("HTTP/1.1 200 OK\r\nContent-"));
    client_of(&pair.daemon("")).get("/").assert(200, "other");
}

#[test]
fn a_post_is_not_repeated_unless_the_route_says_so() {
    let pair = Pair::dying();
    let daemon = pair.daemon("");
    assert_eq!(client_of(&daemon).post("/", "pay 100").status(), 502);
    assert_eq!(pair.seen().iter().sum::<usize>(), 1);

    let pair = Pair::dying();
    let daemon = pair.daemon("retry = { non_idempotent = true }");
    client_of(&daemon).post("/", "count me").assert(200, "other");
    for origin in &pair.origins {
        assert_eq!(origin.request().body, b"count me");
    }
}

fn put(client: &mut Client, length: usize) -> u16 {
    client.send(format!("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length)));
    client.response().status()
}

#[test]
fn a_body_is_repeated_up_to_its_bound_and_not_beyond() {
    for (length, status) in [(1, 200), (16 * 1024, 200), (16 * 1024 + 1, 502)] {
        let pair = Pair::dying();
        let daemon = pair.daemon("");
        assert_eq!(put(&mut client_of(&daemon), length), status, "{length}");
        let whole =
            pair.origins.iter().flat_map(Origin::requests).all(|request| request.body == "x".repeat(length).as_bytes());
        assert!(whole, "both get all of it");
    }
}

#[test]
fn a_chunked_body_with_trailers_is_repeated_as_it_was() {
    let pair = Pair::dying();
    let daemon = pair.daemon("");
    let mut client = client_of(&daemon);
    client.send("PUT / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    client.send("4\r\n two\r\n0\r\nX-Sum: 7\r\n\r\n");
    client.response().assert(200, "other");
    for origin in &pair.origins {
        let request = origin.request();
        assert_eq!(request.body, b"one two");
        assert_eq!(request.trailers, [("X-Sum".to_owned(), "7".to_owned())]);
    }
    client.get("/next").assert(200, "other");
}

#[test]
fn a_body_whose_first_part_was_sent_to_the_first_is_finished_with_the_second() {
    // The first dies when it has the head; the second reads the whole.
    let died = Arc::new(AtomicBool::new(false));
    let origin = || {
        let died = died.clone();
        Origin::scripted(move |mut connection| {
            if !died.swap(true, Ordering::SeqCst) {
                connection.head();
                connection.take(5);
                return;
            }
            connection.request();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            connection.ending();
        })
    };
    let origins = [origin(), origin()];
    let daemon = daemon_before("", &origins.each_ref());
    let mut client = client_of(&daemon);
    client.send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n01234");
    eventually("both have been asked", || origins.iter().all(|origin| origin.accepted() == 1));
    client.send("56789");
    client.response().assert(200, "ok");
    let bodies: Vec<_> = origins.iter().flat_map(Origin::requests).map(|request| request.body).collect();
    assert!(bodies.contains(&b"0123456789".to_vec()), "{bodies:?}");
}

#[test]
fn a_listed_status_is_tried_elsewhere_and_any_other_is_passed_on() {
    let saying = |status: &'static str| {
        Pair::failing_once(move |connection| {
            connection.send(format!("HTTP/1.1 {status} No\r\nContent-Length: 6\r\n\r\nfailed"));
            connection.request();
        })
    };
    let pair = saying("503");
    let daemon = pair.daemon("retry = { on = [\"503\"] }");
    client_of(&daemon).get("/").assert(200, "other");
    assert_eq!(pair.seen(), [1, 1]);
    eventually("what was not wanted is hung up on", || pair.origins.iter().map(Origin::open).sum::<usize>() == 1);
    client_of(&saying("502").daemon("retry = { on = [\"503\"] }")).get("/").assert(502, "failed");
    client_of(&saying("503").daemon("")).get("/").assert(503, "failed");
    client_of(&saying("503").daemon("retry = { on = [\"503\"] }")).post("/", "x").assert(503, "failed");
}

#[test]
fn the_last_answer_is_passed_on_as_it_is() {
    let busy = || Origin::saying("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nX-From: backend\r\n\r\nbusy");
    let origins = [busy(), busy(), busy()];
    let daemon = daemon_before("retry = { attempts = 2, on = [\"503\"] }", &origins.each_ref());
    let response = client_of(&daemon).get("/");
    response.assert(503, "busy");
    assert_eq!(response.head.field("x-from"), Some("backend"));
    assert_eq!(origins.iter().map(|origin| origin.requests().len()).sum::<usize>(), 2, "and no third");

    let alone = busy();
    let daemon = daemon_before("retry = { attempts = 9, on = [\"503\"] }", &[&alone]);
    client_of(&daemon).get("/").assert(503, "busy");
    assert_eq!(alone.requests().len(), 1, "there is no other one");
}

#[test]
fn attempts_are_counted_in_all() {
    for (attempts, tried) in [(1, 1), (3, 3), (10, 4)] {
        let dying = || Origin::scripted(|mut connection| drop(connection.request()));
        let origins = [dying(), dying(), dying(), dying()];
        let daemon = daemon_before(&format!("retry = {{ attempts = {attempts} }}"), &origins.each_ref());
        assert_eq!(client_of(&daemon).get("/").status(), 502);
        assert_eq!(origins.iter().map(|origin| origin.requests().len()).sum::<usize>(), tried, "of {attempts}");
    }
    let (nowhere, origin) = (Unlistened::new(), Origin::answering("here"));
    let daemon = Daemon::start(&file("retry = { on = [] }", &[nowhere.address(), origin.address()], ""));
    let mut statuses: Vec<u16> = (0..2).map(|_| client_of(&daemon).get("/").status()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502], "whoever lists nothing wants nothing tried again");
}

#[test]
fn a_late_backend_is_given_up_for_another_where_the_route_says_so() {
    for (retry, status) in [("retry = { on = [\"timeout\"] }", 200), ("", 504)] {
        let pair = Pair::failing_once(|connection| {
            connection.ending();
        });
        let addresses = pair.origins.each_ref().map(Origin::address);
        let pool = "timeouts = { response_header = \"300ms\" }";
        let daemon = Daemon::start(&file(retry, &addresses, pool));
        assert_eq!(client_of(&daemon).get("/").status(), status);
    }
}

#[test]
fn nothing_is_tried_again_once_the_client_has_heard_of_the_answer() {
    let pair = Pair::failing_once(|connection| {
        connection.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
    });
    let daemon = pair.daemon("retry = { on = [\"reset\", \"503\"] }");
    let response = client_of(&daemon).get("/");
    assert_eq!((response.status(), response.interim.len()), (502, 1));
    assert_eq!(pair.seen().iter().sum::<usize>(), 1);

    let pair = Pair::failing_once(|connection| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    });
    let response = client_of(&pair.daemon("")).get("/");
    assert!(!response.looks_complete(), "{response:?}");
    assert_eq!(pair.seen().iter().sum::<usize>(), 1);
}

#[test]
fn when_the_budget_is_used_up_the_first_answer_is_passed_on() {
    let gate = Gate::default();
    let passing = gate.clone();
    let busy = Origin::saying("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
    let slow = Origin::scripted(move |mut connection| {
        while connection.request().is_some() {
            passing.pass();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
        }
    });
    let backends = format!("[\"{}\", {{ address = \"{}\", backup = true }}]", busy.address(), slow.address());
    let daemon = Daemon::start(&format!(
        "[runtime]\nworkers = 1\n[listeners.web]\nbind = \"127.0.0.1:0\"\n\
         routes = [{{ pool = \"app\", retry = {{ on = [\"503\"] }} }}]\n\
         [pools.app]\nretry_budget = 0.01\nbreaker = {{ mode = \"off\" }}\nbackends = {backends}\n"
    ));
    let mut waiting: Vec<_> = (0..5).map(|_| client_of(&daemon)).collect();
    for (before, client) in waiting.iter_mut().enumerate() {
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        eventually("it is tried again", || slow.requests().len() == before + 1);
    }
    client_of(&daemon).get("/").assert(503, "busy");
    daemon.wait_log("the retry budget is used up");
    gate.open();
    waiting.iter_mut().for_each(|client| client.response().assert(200, "slow"));
    client_of(&daemon).get("/").assert(200, "slow");
}

#[test]
fn a_cut_backend_leaves_what_waits_for_it_to_another() {
    let hanging = Origin::hanging();
    let other = Origin::answering("other");
    let with = |state: &str| {
        let drained = format!(
            "[reload]\ndrain_timeout = \"1ms\"\n[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n[runtime]\nworkers = 1\n\
             [pools.app]\nbackends = [{{ address = \"{}\", {state} }}, {{ address = \"{}\", backup = true }}]\n",
            hanging.address(),
            other.address()
        );
        drained
    };
    let daemon = Daemon::start(&with("weight = 1"));
    let (mut get, mut post) = (client_of(&daemon), client_of(&daemon));
    get.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    post.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n");
    eventually("both wait for the head", || hanging.requests().len() == 2);
    daemon.reload(&with("maintenance = true"));
    get.response().assert(200, "other");
    assert_eq!(post.response().status(), 503, "it may have been acted on");
    assert_eq!(other.requests().len(), 1);
}

#[test]
fn who_is_being_connected_to_a_cut_backend_is_connected_to_another() {
    let (deaf, other) = (Deaf::new(), Origin::answering("other"));
    let with = |state: &str| {
        format!(
            "[reload]\ndrain_timeout = \"1ms\"\n[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n[runtime]\nworkers = 1\n\
             [pools.app]\ntimeouts = {{ connect = \"60s\" }}\n\
             backends = [{{ address = \"{}\", {state} }}, {{ address = \"{}\", backup = true }}]\n",
            deaf.address(),
            other.address()
        )
    };
    let daemon = Daemon::start(&with("weight = 1"));
    let mut post = client_of(&daemon);
    post.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n");
    eventually("it is on its way", || daemon.times_logged("routed") == 1);
    daemon.reload(&with("maintenance = true"));
    post.response().assert(200, "other");
}

#[test]
fn a_backend_that_goes_down_leaves_what_waits_for_it_to_another() {
    // It takes requests and never answers; probes are refused from the moment on at which it is to go down.
    let (well, other) = (Arc::new(AtomicBool::new(true)), Origin::answering("other"));
    let is_well = well.clone();
    let hanging = Origin::scripted(move |mut connection| {
        let Some(request) = connection.head() else { return };
        if !request.head.start.contains("/healthz") {
            connection.ending();
        } else if is_well.load(Ordering::SeqCst) {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let daemon = Daemon::start(&format!(
        "[runtime]\nworkers = 2\n[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
         [pools.app]\nbackends = [\"{}\", {{ address = \"{}\", backup = true }}]\n\
         health_check = {{ type = \"http\", path = \"/healthz\", interval = \"50ms\", timeout = \"50ms\", fall = 1 }}\n",
        hanging.address(),
        other.address()
    ));
    let asked = || hanging.requests().iter().filter(|request| !request.head.start.contains("/healthz")).count();
    let mut clients: Vec<_> = (0..3).map(|_| client_of(&daemon)).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    eventually("all wait for the head", || asked() == 3);
    well.store(false, Ordering::SeqCst);
    clients.iter_mut().for_each(|client| client.response().assert(200, "other"));
}

#[test]
fn a_body_that_was_sent_once_is_whole_when_its_second_attempt_waits_through_a_reload() {
    let gate = Gate::default();
    let passing = gate.clone();
    let dying = Origin::scripted(|mut connection| drop(connection.request()));
    let full = Origin::scripted(move |mut connection| {
        while connection.request().is_some() {
            passing.pass();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfull");
        }
    });
    let with = |comment: &str, first: &str| {
        format!(
            "# {comment}\n[runtime]\nworkers = 1\n[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n[pools.app]\n\
             queue = {{ timeout = \"60s\" }}\nbackends = [{first} {{ address = \"{}\", max_connections = 1 }}]\n",
            full.address()
        )
    };
    let both = format!("\"{}\",", dying.address());
    let daemon = Daemon::start(&with("one is full", ""));
    let mut first = client_of(&daemon);
    first.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("it is at its backend", || full.requests().len() == 1);
    daemon.reload(&with("the other dies", &both));
    let mut client = client_of(&daemon);
    client.send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nwhole");
    daemon.wait_log("all backends are full: it waits");
    daemon.reload(&with("only the full one is left", ""));
    gate.open();
    first.response().assert(200, "full");
    client.response().assert(200, "full");
    assert_eq!(full.requests()[1].body, b"whole");
    assert_eq!(dying.requests().len(), 1);
}
