//! What is changed on the way: hop-by-hop fields, who the client is said to be, the host, and what a file's rules do.

use crate::support::{Client, Daemon, Origin, Request, backends, web};

/// Sends these bytes through a listener with these extra lines; gives what the origin saw.
#[track_caller]
fn forwarded(listener: &str, request: &str) -> Request {
    let origin = Origin::answering("ok");
    let daemon = Daemon::start(&web(listener, &backends(&[origin.address()])));
    let mut client = Client::connect(&daemon.address("web"));
    client.send(request);
    client.response().assert(200, "ok");
    origin.request()
}

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.0/8\"]";

#[test]
fn hop_by_hop_fields_of_a_request_stay_here() {
    let request = forwarded(
        "",
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, X-Private\r\nKeep-Alive: timeout=5\r\nX-Private: 1\r\n\
         Proxy-Connection: keep-alive\r\nTE: trailers, deflate\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\
         Proxy-Authorization: Basic x\r\nX-Kept: yes\r\n\r\n",
    );
    for name in ["keep-alive", "x-private", "proxy-connection", "upgrade", "http2-settings"] {
        assert_eq!(request.head.values(name), [""; 0], "{name} in {request:?}");
    }
    assert!(!request.head.lists("te", "deflate"), "{request:?}");
    assert_eq!(request.head.field("x-kept"), Some("yes"));
}

#[test]
fn hop_by_hop_fields_of_a_response_stay_here() {
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nConnection: X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n\
         Content-Length: 2\r\nX-Kept: yes\r\n\r\nok",
    );
    let daemon = Daemon::start(&web("", &backends(&[origin.address()])));
    let response = Client::connect(&daemon.address("web")).get("/");
    response.assert(200, "ok");
    for name in ["x-private", "keep-alive", "proxy-connection"] {
        assert_eq!(response.head.field(name), None, "{response:?}");
    }
    assert_eq!(response.head.field("x-kept"), Some("yes"));
}

#[test]
fn a_client_can_not_nominate_away_what_matters() {
    let request = forwarded(
        "",
        "POST / HTTP/1.1\r\nHost: test\r\nConnection: Host, Content-Length, Authorization, X-Forwarded-For, Cookie\r\n\
         Authorization: Basic abc\r\nCookie: a=b\r\nContent-Length: 2\r\n\r\nhi",
    );
    assert_eq!(request.head.field("host"), Some("test"));
    assert_eq!(request.head.field("authorization"), Some("Basic abc"));
    assert_eq!(request.head.field("cookie"), Some("a=b"));
    assert_eq!(request.head.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.body, b"hi");
}

const CLAIMS: &str = "GET / HTTP/1.1\r\nHost: test.example:8080\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: evil\r\nX-Forwarded-Port: 443\r\nForwarded: for=6.6.6.6\r\nX-Request-Id: from-outside\r\n\r\n";

#[test]
fn what_a_stranger_says_of_the_client_is_replaced() {
    let request = forwarded("", CLAIMS);
    assert_eq!(request.head.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.head.field("x-forwarded-proto"), Some("http"));
    assert_eq!(request.head.field("x-forwarded-host"), Some("test.example:8080"));
    assert_ne!(request.head.field("x-forwarded-port"), Some("443"));
    assert!(request.head.values("forwarded").iter().all(|value| !value.contains("6.6.6.6")), "{request:?}");
}

#[test]
fn what_a_trusted_proxy_says_of_the_client_is_kept_and_appended_to() {
    let request = forwarded(TRUSTED, CLAIMS);
    assert_eq!(request.head.values("x-forwarded-for").join(", "), "6.6.6.6, 127.0.0.1");
    assert_eq!(request.head.field("x-forwarded-proto"), Some("https"));
    assert_eq!(request.head.field("x-request-id"), Some("from-outside"));
}

#[test]
fn a_request_id_of_a_stranger_is_replaced_by_ours() {
    let request = forwarded("", CLAIMS);
    let id = request.head.field("x-request-id").expect("every request has one");
    assert!(id != "from-outside" && id.len() >= 8, "{id}");
}

#[test]
fn a_request_id_of_a_trusted_proxy_that_is_none_is_replaced() {
    let endless = "x".repeat(300);
    for id in ["two words", "semi;colon\"", endless.as_str()] {
        let request = forwarded(TRUSTED, &format!("GET / HTTP/1.1\r\nHost: test\r\nX-Request-Id: {id}\r\n\r\n"));
        assert_ne!(request.head.field("x-request-id"), Some(id));
    }
}

#[test]
fn forwarded_and_via_are_sent_when_asked_for() {
    let request = forwarded("forwarded = true\nvia = true", "GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let forwarded = request.head.field("forwarded").expect("it was asked for").to_lowercase();
    assert!(forwarded.contains("for=127.0.0.1") && forwarded.contains("proto=http"), "{forwarded}");
    assert!(request.head.field("via").is_some_and(|via| via.starts_with("1.1 ")), "{request:?}");
}

#[test]
fn an_absolute_target_becomes_a_path_and_its_authority_the_host() {
    let request = forwarded("", "GET http://real.example/path?q=1 HTTP/1.1\r\nHost: other.example\r\n\r\n");
    assert_eq!(request.head.start, "GET /path?q=1 HTTP/1.1");
    assert_eq!(request.head.field("host"), Some("real.example"));
}

#[test]
fn the_path_is_forwarded_in_the_form_it_is_routed_by() {
    let request = forwarded("", "GET /a/./b/../c/%7Euser?x=%2e%2e HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(request.head.start, "GET /a/c/~user?x=%2e%2e HTTP/1.1");
}

#[test]
fn other_fields_keep_their_case_and_order() {
    let request = forwarded("", "GET / HTTP/1.1\r\nHost: test\r\nX-b: 2\r\nx-A: 1\r\nX-b: 3\r\n\r\n");
    let ours = ["X-b", "x-A"];
    let kept: Vec<_> = request.head.fields.iter().filter(|(name, _)| ours.contains(&name.as_str())).collect();
    let kept: Vec<_> = kept.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(kept, ["X-b=2", "x-A=1", "X-b=3"]);
}

#[test]
fn header_rules_change_requests_and_responses() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nServer: secret/1.0\r\nX-Keep: 1\r\nContent-Length: 2\r\n\r\nok");
    let rules = "headers = { request = { set = { X-Env = \"prod\" }, add = { X-Tag = \"two\" }, remove = [\"X-Debug\"] }, \
                 response = { set = { X-Frame-Options = \"DENY\" }, remove = [\"Server\"] } }";
    let daemon = Daemon::start(&web(rules, &backends(&[origin.address()])));
    let mut client = Client::connect(&daemon.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: test\r\nX-Env: dev\r\nX-Tag: one\r\nX-Debug: 1\r\n\r\n");
    let response = client.response();
    let request = origin.request();
    assert_eq!(request.head.values("x-env"), ["prod"]);
    assert_eq!(request.head.values("x-tag"), ["one", "two"]);
    assert_eq!(request.head.field("x-debug"), None);
    assert_eq!(response.head.field("x-frame-options"), Some("DENY"));
    assert_eq!(response.head.field("server"), None);
    assert_eq!(response.head.field("x-keep"), Some("1"));
}
