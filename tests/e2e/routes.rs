//! Which request goes where: the conditions of routes, which of several wins, and the answers that need no backend.

use crate::support::{Client, Daemon, Origin, backends, web};

/// One HTTP listener with these routes, without a pool of its own.
fn daemon_with(routes: &str) -> Daemon {
    Daemon::start(&format!("[listeners.web]\nbind = \"127.0.0.1:0\"\n{routes}"))
}

/// A route with these conditions that answers its own name.
fn says(name: &str, conditions: &str) -> String {
    format!(
        "[[listeners.web.routes]]\nname = \"{name}\"\n{conditions}\nrespond = {{ status = 200, body = \"{name}\" }}\n"
    )
}

/// Which route answers this request line and host with these further fields.
#[track_caller]
fn asked(daemon: &Daemon, method: &str, target: &str, host: &str, fields: &str) -> String {
    let mut client = Client::connect(&daemon.address("web"));
    client.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
    let response = client.response();
    match response.status() {
        200 => response.text(),
        other => other.to_string(),
    }
}

#[test]
fn an_exact_host_comes_before_the_longest_wildcard_before_any() {
    let daemon = daemon_with(
        &[
            says("any", ""),
            says("wide", "hosts = [\"*.example.com\"]"),
            says("narrow", "hosts = [\"*.api.example.com\"]"),
            says("exact", "hosts = [\"v1.api.example.com\"]"),
        ]
        .concat(),
    );
    let of = |host| asked(&daemon, "GET", "/", host, "");
    assert_eq!(of("v1.api.example.com"), "exact");
    assert_eq!(of("V1.Api.Example.COM.:8080"), "exact", "without case, port and trailing dot");
    assert_eq!(of("v2.api.example.com"), "narrow");
    assert_eq!(of("www.example.com"), "wide");
    assert_eq!(of("a.b.example.com"), "wide");
    assert_eq!(of("example.com"), "any", "a wildcard stands for at least one label");
    assert_eq!(of("badexample.com"), "any");
}

#[test]
fn an_exact_path_comes_before_the_longest_prefix_before_expressions() {
    let daemon = daemon_with(
        &[
            says("regex-1", "path = { regex = '^/images/.*[.]png$' }"),
            says("regex-2", "path = { regex = '[.]png$' }"),
            says("prefix", "path = { prefix = \"/v1\" }"),
            says("longer", "path = { prefix = \"/v1/users\" }"),
            says("exact", "path = { exact = \"/v1/users/me\" }"),
        ]
        .concat(),
    );
    let of = |path| asked(&daemon, "GET", path, "test", "");
    assert_eq!(of("/v1/users/me"), "exact");
    assert_eq!(of("/v1/users/me/too"), "longer");
    assert_eq!(of("/v1/users"), "longer");
    assert_eq!(of("/v1/usersandmore"), "prefix", "a prefix ends with a segment");
    assert_eq!(of("/v1?x=/v1/users"), "prefix", "the query is no path");
    assert_eq!(of("/v10"), "404");
    assert_eq!(of("/v1/a.png"), "prefix", "any prefix comes before an expression");
    assert_eq!(of("/images/a.png"), "regex-1");
    assert_eq!(of("/other/a.png"), "regex-2");
}

#[test]
fn a_path_in_disguise_is_routed_as_what_it_is() {
    let daemon = daemon_with(&[says("admin", "path = { prefix = \"/admin\" }"), says("rest", "")].concat());
    for disguise in ["/%61dmin", "/public/../admin/x", "/./admin", "//admin", "/public/%2e%2e/admin"] {
        assert_eq!(asked(&daemon, "GET", disguise, "test", ""), "admin", "{disguise}");
    }
}

#[test]
fn more_conditions_come_before_fewer_and_then_the_order_of_the_file() {
    let daemon = daemon_with(
        &[
            says("first", ""),
            says("second", ""),
            says("posted", "methods = [\"POST\", \"PUT\"]"),
            says("canary", "match_headers = { X-Canary = \"yes\" }"),
            says("both", "methods = [\"POST\"]\nmatch_headers = { X-Canary = { present = true } }"),
            says("version", "match_headers = { Accept = { regex = 'v[0-9]+' }, X-Canary = \"yes\" }"),
        ]
        .concat(),
    );
    assert_eq!(asked(&daemon, "GET", "/", "test", ""), "first");
    assert_eq!(asked(&daemon, "PUT", "/", "test", "Content-Length: 0\r\n"), "posted");
    assert_eq!(asked(&daemon, "GET", "/", "test", "x-canary: yes\r\n"), "canary");
    assert_eq!(asked(&daemon, "GET", "/", "test", "X-Canary: no\r\n"), "first");
    assert_eq!(asked(&daemon, "POST", "/", "test", "X-Canary: no\r\nContent-Length: 0\r\n"), "both");
    assert_eq!(asked(&daemon, "GET", "/", "test", "X-Canary: yes\r\nAccept: app/v2\r\n"), "version");
}

#[test]
fn a_request_that_no_route_wants_is_answered_404() {
    let daemon = daemon_with(&says("only", "hosts = [\"here.example\"]"));
    assert_eq!(asked(&daemon, "GET", "/", "there.example", ""), "404");
}

#[test]
fn routes_come_before_the_pool_of_the_listener() {
    let (api, rest) = (Origin::answering("api"), Origin::answering("rest"));
    let daemon = Daemon::start(&web(
        "routes = [{ path = { prefix = \"/v1/\" }, pool = \"api\" }]",
        &format!("{}[pools.api]\n{}", backends(&[rest.address()]), backends(&[api.address()])),
    ));
    let mut client = Client::connect(&daemon.address("web"));
    client.get("/v1/x").assert(200, "api");
    client.get("/elsewhere").assert(200, "rest");
}

#[test]
fn a_split_divides_by_weight() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let daemon = Daemon::start(&format!(
        "[listeners.web]\nbind = \"127.0.0.1:0\"\n\
         routes = [{{ split = [{{ pool = \"old\", weight = 3 }}, {{ pool = \"new\", weight = 1 }}] }}]\n\
         [pools.old]\n{}[pools.new]\n{}",
        backends(&[old.address()]),
        backends(&[new.address()])
    ));
    let mut client = Client::connect(&daemon.address("web"));
    for _ in 0..400 {
        client.get("/");
    }
    let new = new.requests().len();
    assert_eq!(old.requests().len() + new, 400);
    // 100 are expected; by chance alone fewer than 50 or more than 150 come once in a hundred million runs.
    assert!((50..=150).contains(&new), "{new} of 400");
}

#[test]
fn a_redirect_says_where_to_in_the_words_of_the_request() {
    let daemon = daemon_with(
        "[[listeners.web.routes]]\npath = { prefix = \"/old\" }\n\
         redirect = { to = \"https://new.example/was/{host}{path}{query}\", status = 302 }\n\
         [[listeners.web.routes]]\nredirect = \"/here\"\n",
    );
    let mut client = Client::connect(&daemon.address("web"));
    let moved = client.get("/old/page?a=b");
    assert_eq!(moved.status(), 302);
    assert_eq!(moved.head.field("location"), Some("https://new.example/was/test/old/page?a=b"));
    let default = client.get("/");
    assert_eq!((default.status(), default.head.field("location")), (308, Some("/here")));
}

#[test]
fn what_a_request_brings_into_a_redirect_is_not_read_as_a_template() {
    let daemon = daemon_with("[[listeners.web.routes]]\nredirect = \"https://new.example{path}{query}\"\n");
    let response = Client::connect(&daemon.address("web")).get("/{query}/{host}?{path}");
    assert_eq!(response.head.field("location"), Some("https://new.example/{query}/{host}?{path}"));
}

#[test]
fn a_redirect_that_would_lead_nowhere_is_not_sent() {
    let daemon = daemon_with("redirect_to_https = true\n");
    let mut client = Client::connect(&daemon.address("web"));
    client.send("OPTIONS * HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert_eq!(client.response().head.field("location"), Some("https://shop.example/"));
    let mut old = Client::connect(&daemon.address("web"));
    old.send("GET /form HTTP/1.0\r\n\r\n");
    let response = old.response();
    assert_eq!((response.status(), response.head.field("location")), (400, None), "it names no host");
}

#[test]
fn redirect_to_https_keeps_the_place_and_the_method() {
    let daemon = daemon_with("redirect_to_https = true\n");
    let mut client = Client::connect(&daemon.address("web"));
    client.send("POST /form?a=1 HTTP/1.1\r\nHost: shop.example:8080\r\nContent-Length: 0\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status(), 308);
    assert_eq!(response.head.field("location"), Some("https://shop.example/form?a=1"));
}

#[test]
fn a_fixed_answer_is_what_the_file_says() {
    let daemon = daemon_with(
        "[[listeners.web.routes]]\n\
         respond = { status = 503, body = \"<h1>soon back</h1>\", content_type = \"text/html\" }\n\
         headers = { response = { set = { Retry-After = \"120\" } } }\n",
    );
    let mut client = Client::connect(&daemon.address("web"));
    let response = client.get("/");
    response.assert(503, "<h1>soon back</h1>");
    assert_eq!(response.head.field("content-type"), Some("text/html"));
    assert_eq!(response.head.field("retry-after"), Some("120"));
    client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.response_to_head().head.field("content-length"), Some("18"));
    client.post("/", "a body that is read and thrown away").assert(503, "<h1>soon back</h1>");
}

#[test]
fn rules_of_a_route_come_after_those_of_its_listener() {
    let origin = Origin::answering("ok");
    let daemon = Daemon::start(&format!(
        "[listeners.web]\nbind = \"127.0.0.1:0\"\nheaders = {{ request = {{ set = {{ X-A = \"listener\", X-B = \"listener\" }} }} }}\n\
         routes = [{{ pool = \"app\", headers = {{ request = {{ set = {{ X-B = \"route\" }} }} }} }}]\n[pools.app]\n{}",
        backends(&[origin.address()])
    ));
    Client::connect(&daemon.address("web")).get("/").assert(200, "ok");
    let request = origin.request();
    assert_eq!((request.head.field("x-a"), request.head.field("x-b")), (Some("listener"), Some("route")));
}
