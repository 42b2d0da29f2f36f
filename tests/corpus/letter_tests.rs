//! The judge is judged: what it takes for one clean message, and what it does not.

use crate::letter::{Asked, End, Ended, Framing, Rules, Stop, answer, answer_head, request, request_head};

const GET: Asked = Asked { head: false, old: false };

fn reads(text: &str) -> bool {
    request(text.as_bytes()).is_ok_and(|(_, length)| length == text.len())
}

fn breaks(text: &str) -> bool {
    matches!(request(text.as_bytes()), Err(Stop::Broken(_)))
}

fn with(lines: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a\r\n{lines}")
}

#[test]
fn the_judge_reads_clean_requests() {
    assert!(reads(&with("\r\n")));
    assert!(reads(&with("Content-Length: 3\r\n\r\nabc")));
    assert!(reads(&with("Transfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\nX: y\r\n\r\n")));
    assert!(reads("OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"));
    assert!(reads("GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n"));
    let (message, length) = request(with("Content-Length: 1\r\n\r\nabc").as_bytes()).unwrap();
    assert_eq!((message.body, message.framing), (b"a".to_vec(), Framing::Length(1)));
    assert_eq!(length, with("Content-Length: 1\r\n\r\na").len());
}

#[test]
fn the_judge_refuses_what_two_readers_could_read_differently() {
    for lines in [
        "X: a\n\r\n",
        "X: a\rb\r\n\r\n",
        "X : a\r\n\r\n",
        ": a\r\n\r\n",
        "X\r\n\r\n",
        "X: a\r\n b\r\n\r\n",
        "X: a\0\r\n\r\n",
        "Host: b\r\n\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
        "Content-Length: +1\r\n\r\na",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n8000000000000000\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 1\r\n\r\n",
    ] {
        assert!(breaks(&with(lines)), "{lines:?}");
    }
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.2",
        "GET /a#b HTTP/1.1",
        "GET a HTTP/1.1",
        "G\tT / HTTP/1.1",
        "GET /%g0 HTTP/1.1",
    ] {
        assert!(breaks(&format!("{line}\r\nHost: a\r\n\r\n")), "{line:?}");
    }
    assert!(breaks("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(breaks("GET / HTTP/1.1\r\n\r\n") && breaks("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"));
}

#[test]
fn the_judge_waits_for_what_is_missing() {
    for text in [
        "GET",
        "GET / HTTP/1.1\r",
        &with(""),
        &with("Content-Length: 2\r\n\r\na"),
        &with("Transfer-Encoding: chunked\r\n\r\n0\r\n"),
    ] {
        assert_eq!(request(text.as_bytes()).err(), Some(Stop::More), "{text:?}");
    }
}

#[test]
fn the_judge_tells_whole_answers_from_cut_ones() {
    let end = |text: &str, asked, ended| answer(text.as_bytes(), asked, ended).ok().map(|(answer, _)| answer.last.end);
    let (sized, open) = ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", "HTTP/1.1 200 OK\r\n\r\na");
    assert_eq!(end(sized, GET, None), None);
    assert_eq!(end(sized, GET, Some(Ended::Closed)), Some(End::Cut));
    assert_eq!(end(open, GET, Some(Ended::Closed)), Some(End::Closed));
    assert_eq!(end(open, GET, Some(Ended::Reset)), Some(End::Reset));
    assert_eq!(
        end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", Asked { head: true, ..GET }, None),
        Some(End::Framed)
    );
    assert_eq!(end("HTTP/1.1 103 x\r\n\r\nHTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n", GET, None), Some(End::Framed));
}

#[test]
fn the_judge_refuses_answers_that_are_none() {
    let old = Asked { old: true, ..GET };
    for (text, asked) in [
        ("HTTP/1.1 20 OK\r\n\r\n", GET),
        ("HTTP/1.1 200\r\n\r\n", GET),
        ("HTTP/2 200 OK\r\n\r\n", GET),
        ("HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n", GET),
        ("HTTP/1.1 100 x\r\nTransfer-Encoding: chunked\r\n\r\n", GET),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", old),
        ("HTTP/1.1 100 Continue\r\n\r\n", old),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", GET),
    ] {
        assert!(matches!(answer(text.as_bytes(), asked, None), Err(Stop::Broken(_))), "{text:?}");
    }
}

#[test]
fn what_is_read_in_one_way_need_not_be_clean() {
    for request in [
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /%g0\\ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a b\r\n\r\n",
    ] {
        let by = |rules| request_head(request.as_bytes(), rules).map(|(_, length)| length);
        assert_eq!(by(Rules::Letter), Ok(request.len()), "{request:?}");
        assert!(matches!(by(Rules::Clean), Err(Stop::Broken(_))), "{request:?}");
    }
    for answer in ["HTTP/1.1 200\r\n\r\n", "HTTP/1.1 204 x\r\nContent-Length: 4\r\n\r\n"] {
        let by = |rules| answer_head(answer.as_bytes(), GET, rules).map(|(_, length)| length);
        assert_eq!(by(Rules::Letter), Ok(answer.len()), "{answer:?}");
        assert!(matches!(by(Rules::Clean), Err(Stop::Broken(_))), "{answer:?}");
    }
    for either_way in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        "GET / a HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let read = request_head(either_way.as_bytes(), Rules::Letter);
        assert!(matches!(read, Err(Stop::Broken(_))), "{either_way:?}");
    }
}
