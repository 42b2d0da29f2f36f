//! One probe over HTTP/1.1: a request made of the configuration alone, and an answer that is read whole, up to a bound.
//!
//! The answer passes the same strict parser as every answer of a backend. A body that goes on beyond the bound is cut
//! there and judged by what came: who sends more can not make us hold it, nor wait for it.

use std::cell::Cell;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::answer::{Fault, Stage};
use crate::config::{Expect, HttpProbe};
use crate::http::h1::body::{Decoder, Step};
use crate::http::h1::parse::{self, HeadLimits, Parsed};
use crate::http::{Method, ResponseHead};
use crate::state::header_matches;

/// How much of a body is looked at, in bytes.
pub const MOST_BODY: usize = 64 * 1024;

/// How much is read in all, in bytes: heads and what frames a body come on top of it.
pub const MOST_READ: usize = 2 * MOST_BODY;

/// How much is read at a time, in bytes: most answers as a whole.
const BLOCK: usize = 4 * 1024;

/// How many interim answers (1xx) may come before the answer (security.md checklist 7).
const MOST_INTERIM: usize = 10;

/// Asks over this connection, which is of no further use then.
pub(super) async fn ask(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    probe: &HttpProbe,
    host: &str,
    stage: &Cell<Stage>,
) -> Result<(), Fault> {
    connection.write_all(&request(probe, host)).await.map_err(Fault::Broken)?;
    let mut reading = Reading { connection, bytes: Vec::with_capacity(BLOCK), taken: 0, left: MOST_READ };
    let head = reading.head(Method::of(probe.method.as_bytes()), stage).await?;
    judge_head(&probe.expect, &head)?;
    let body = reading.body(&head, probe.expect.asks_for_body()).await?;
    judge_body(&probe.expect, &body)
}

/// The request, whole. Whatever stands in it was checked when the file was read.
fn request(probe: &HttpProbe, host: &str) -> Vec<u8> {
    let mut text = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", probe.method, probe.path);
    if !probe.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
        text.push_str("User-Agent: evenkeel\r\n");
    }
    for (name, value) in &probe.headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    if probe.method == "POST" {
        text.push_str("Content-Length: 0\r\n");
    }
    text.push_str("Connection: close\r\n\r\n");
    text.into_bytes()
}

pub(super) fn judge_head(expect: &Expect, head: &ResponseHead) -> Result<(), Fault> {
    if !expect.status.iter().any(|range| range.contains(&head.status)) {
        return Err(Fault::Status(head.status));
    }
    match expect.headers.iter().find(|wanted| !header_matches(wanted, &head.fields)) {
        Some(missing) => Err(Fault::Header(missing.name.clone())),
        None => Ok(()),
    }
}

pub(super) fn judge_body(expect: &Expect, body: &[u8]) -> Result<(), Fault> {
    if let Some(text) = &expect.body_contains
        && memchr::memmem::find(body, text.as_bytes()).is_none()
    {
        return Err(Fault::NoText(text.clone()));
    }
    match &expect.body_regex {
        Some(pattern) if !pattern.0.is_match(&String::from_utf8_lossy(body)) => {
            Err(Fault::NoMatch(pattern.to_string()))
        }
        _ => Ok(()),
    }
}

/// An answer on its way.
struct Reading<C> {
    connection: C,
    bytes: Vec<u8>,
    /// How many of them are dealt with.
    taken: usize,
    /// How many more may come.
    left: usize,
}

/// What came of reading on.
#[derive(PartialEq, Eq)]
enum More {
    Some,
    End,
    /// It was enough.
    Bound,
}

impl<C: AsyncRead + Unpin> Reading<C> {
    async fn more(&mut self) -> Result<More, Fault> {
        if self.left == 0 {
            return Ok(More::Bound);
        }
        let mut limited = (&mut self.connection).take(self.left as u64);
        let count = limited.read_buf(&mut self.bytes).await.map_err(Fault::Broken)?;
        self.left -= count;
        Ok(if count == 0 { More::End } else { More::Some })
    }

    /// The final head.
    async fn head(&mut self, method: Method, stage: &Cell<Stage>) -> Result<ResponseHead, Fault> {
        let mut head = ResponseHead::default();
        let (mut seen, mut interim) = (0, 0);
        loop {
            let input = &self.bytes[self.taken..];
            let parsed = parse::response(input, seen, &HeadLimits::default(), method, &mut head);
            match parsed.map_err(Fault::Head)? {
                Parsed::Complete(length) => {
                    self.taken += length;
                    if !head.is_interim() {
                        return Ok(head);
                    }
                    (seen, interim) = (0, interim + 1);
                    if interim > MOST_INTERIM {
                        return Err(Fault::TooMuch);
                    }
                }
                Parsed::Partial => {
                    seen = input.len();
                    match self.more().await? {
                        More::Some => stage.set(Stage::Reading),
                        More::End => return Err(Fault::Closed),
                        More::Bound => return Err(Fault::TooMuch),
                    }
                }
            }
        }
    }

    /// The body, or the beginning of one that is too long; nothing, but read as well, where nobody wants to see it.
    async fn body(&mut self, head: &ResponseHead, is_wanted: bool) -> Result<Vec<u8>, Fault> {
        let (mut decoder, mut body, mut length) = (Decoder::new(head.framing), Vec::new(), 0);
        loop {
            match decoder.decode(&self.bytes[self.taken..]).map_err(Fault::Body)? {
                Step::Data { skip, length: more } => {
                    let data = &self.bytes[self.taken + skip..][..more.min(MOST_BODY - length)];
                    self.taken += skip + more;
                    length += data.len();
                    if is_wanted {
                        body.extend_from_slice(data);
                    }
                    if length == MOST_BODY {
                        return Ok(body);
                    }
                }
                Step::End { .. } => return Ok(body),
                Step::More { .. } => {
                    // All that came is dealt with, so its place can be used again.
                    self.bytes.clear();
                    self.taken = 0;
                    match self.more().await? {
                        More::Some => {}
                        More::Bound => return Ok(body),
                        More::End => return decoder.eof().map(|()| body).map_err(Fault::Body),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;
    use crate::config::{HeaderMatch, HeaderValueMatch, Pattern};

    fn probe(expect: Expect) -> HttpProbe {
        HttpProbe { method: "GET".into(), path: "/up?x=1".into(), host: None, headers: Vec::new(), expect }
    }

    /// What is said of this answer, which ends with a FIN.
    async fn asked(probe: &HttpProbe, answer: &[u8]) -> Result<(), Fault> {
        let (ours, mut theirs) = duplex(1024 * 1024);
        theirs.write_all(answer).await.unwrap();
        theirs.shutdown().await.unwrap();
        let stage = Cell::new(Stage::Waiting);
        ask(ours, probe, "10.0.0.1:80", &stage).await
    }

    async fn is_good(expect: Expect, answer: &str) -> bool {
        asked(&probe(expect), answer.as_bytes()).await.is_ok()
    }

    fn plain(status: u16, body: &str) -> String {
        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nX-Env: live\r\n\r\n{body}", body.len())
    }

    #[test]
    fn a_request_is_what_the_file_says_and_asks_for_the_connection_to_be_closed() {
        let text = String::from_utf8(request(&probe(Expect::default()), "app:80")).unwrap();
        let wanted = "GET /up?x=1 HTTP/1.1\r\nHost: app:80\r\nUser-Agent: evenkeel\r\nConnection: close\r\n\r\n";
        assert_eq!(text, wanted);
        let headers = vec![("user-agent".to_owned(), "me".to_owned())];
        let post = HttpProbe { method: "POST".into(), headers, ..probe(Expect::default()) };
        let text = String::from_utf8(request(&post, "a")).unwrap();
        assert!(text.contains("user-agent: me\r\nContent-Length: 0\r\n") && !text.contains("evenkeel"), "{text}");
    }

    #[tokio::test]
    async fn the_status_decides_where_nothing_else_is_said() {
        for (status, good) in [(200, true), (204, true), (302, true), (399, true), (404, false), (503, false)] {
            assert_eq!(is_good(Expect::default(), &plain(status, "")).await, good, "{status}");
        }
        let own = || Expect { status: vec![404..=404, 500..=599], ..Expect::default() };
        assert!(is_good(own(), &plain(404, "")).await && is_good(own(), &plain(503, "")).await);
        assert!(!is_good(own(), &plain(200, "")).await);
    }

    #[tokio::test]
    async fn text_expression_and_headers_have_to_be_there() {
        let contains = |text: &str| Expect { body_contains: Some(text.into()), ..Expect::default() };
        assert!(is_good(contains("ok"), &plain(200, "all ok")).await);
        assert!(!is_good(contains("ok"), &plain(200, "all bad")).await);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n";
        assert!(is_good(contains("ok"), chunked).await, "across chunks");
        assert!(is_good(contains("ok"), "HTTP/1.0 200 OK\r\n\r\nok").await, "up to the end");
        let regex = |text: &str| {
            let pattern = Some(Pattern(regex::Regex::new(text).unwrap()));
            Expect { body_regex: pattern, ..Expect::default() }
        };
        assert!(is_good(regex("^ok$"), &plain(200, "ok")).await);
        assert!(!is_good(regex("^ok$"), &plain(200, "ok\n")).await);
        let header = |value: &str| {
            let wanted = HeaderMatch { name: "x-env".into(), value: HeaderValueMatch::Exact(value.into()) };
            Expect { headers: vec![wanted], ..Expect::default() }
        };
        assert!(is_good(header("live"), &plain(200, "")).await);
        assert!(!is_good(header("test"), &plain(200, "")).await);
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_or_breaks_the_rules_is_bad() {
        let expect = probe(Expect::default());
        let said = async |answer: &str| asked(&expect, answer.as_bytes()).await.unwrap_err().to_string();
        assert_eq!(said("").await, "closed before the whole answer");
        assert_eq!(said("HTTP/1.1 200 OK\r\nContent-").await, "closed before the whole answer");
        assert!(said("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok").await.contains("ends too early"));
        assert!(said("HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n").await.contains("not an answer in HTTP"));
        assert!(said("SSH-2.0-OpenSSH_9.2\r\n").await.contains("not an answer in HTTP"));
    }

    #[tokio::test]
    async fn interim_answers_are_passed_over_but_not_without_end() {
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
        assert!(is_good(Expect::default(), &format!("{}{}", early.repeat(10), plain(200, "ok"))).await);
        assert!(!is_good(Expect::default(), &format!("{}{}", early.repeat(11), plain(200, "ok"))).await);
    }

    #[tokio::test]
    async fn a_body_without_end_is_cut_at_the_bound_and_judged_by_its_beginning() {
        let (ours, mut theirs) = duplex(16 * 1024);
        let endless = tokio::spawn(async move {
            let mut sent = theirs.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n  ok").await.unwrap();
            while let Ok(more) = theirs.write(&[b'x'; 4096]).await {
                sent += more;
            }
            sent
        });
        let expect = Expect { body_contains: Some("ok".into()), ..Expect::default() };
        ask(ours, &probe(expect), "a", &Cell::new(Stage::Waiting)).await.unwrap();
        let sent = endless.await.unwrap();
        assert!(sent <= MOST_READ + 16 * 1024, "{sent} bytes were taken");
    }

    #[tokio::test]
    async fn a_head_request_waits_for_no_body() {
        let head = HttpProbe { method: "HEAD".into(), ..probe(Expect::default()) };
        asked(&head, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await.unwrap();
    }
}
