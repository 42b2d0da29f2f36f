//! One probe over HTTP/2, for backends that are spoken to in it: the request and the judgement are those of HTTP/1.1.
//!
//! As there, a body that goes on beyond the bound is cut and judged by what came.

use std::cell::Cell;

use ::h2::client::SendRequest;
use ::h2::{Reason, RecvStream};
use ::http::{HeaderName, HeaderValue, Request, header};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::{Fault, Stage};
use super::h2::{self, fault};
use super::http::{MOST_BODY, judge_body, judge_head};
use crate::config::HttpProbe;
use crate::http::h1::parse::HeadLimits;
use crate::http::h2::{Body, read_response};
use crate::http::{Method, ResponseHead};

/// Asks over this connection, which is of no further use then. The `origin` is scheme and host.
pub(super) async fn ask(
    connection: impl AsyncRead + AsyncWrite + Unpin,
    probe: &HttpProbe,
    origin: &str,
    stage: &Cell<Stage>,
) -> Result<(), Fault> {
    let request = request(probe, origin)?;
    h2::over(connection, |sender| converse(sender, request, probe, stage)).await
}

/// The request, whole. Whatever stands in it was checked when the file was read.
fn request(probe: &HttpProbe, origin: &str) -> Result<Request<()>, Fault> {
    // A host or a path that HTTP/2 does not take.
    let malformed = || Fault::Http2(Reason::PROTOCOL_ERROR.into());
    let uri = format!("{origin}{}", probe.path);
    let mut request = Request::builder().method(probe.method.as_str()).uri(uri).body(()).map_err(|_| malformed())?;
    let fields = request.headers_mut();
    fields.insert(header::USER_AGENT, HeaderValue::from_static("evenkeel"));
    for (name, value) in &probe.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| malformed())?;
        let value = HeaderValue::from_str(value).map_err(|_| malformed())?;
        if name == header::USER_AGENT {
            fields.insert(name, value);
        } else {
            fields.append(name, value);
        }
    }
    Ok(request)
}

async fn converse(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    probe: &HttpProbe,
    stage: &Cell<Stage>,
) -> Result<(), Fault> {
    let mut sender = sender.ready().await.map_err(fault)?;
    let (response, _) = sender.send_request(request, true).map_err(fault)?;
    let (parts, body) = response.await.map_err(fault)?.into_parts();
    stage.set(Stage::Reading);
    let told = if body.is_end_stream() { Body::Ended } else { Body::Follows };
    let mut head = ResponseHead::default();
    let method = Method::of(probe.method.as_bytes());
    read_response(&parts, told, method, &HeadLimits::default(), &mut head).map_err(Fault::Head)?;
    judge_head(&probe.expect, &head)?;
    let body = read_body(body).await?;
    judge_body(&probe.expect, &body)
}

/// The body, or the beginning of one that is too long.
async fn read_body(mut body: RecvStream) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(fault)?;
        let left = MOST_BODY - bytes.len();
        bytes.extend_from_slice(&data[..data.len().min(left)]);
        if bytes.len() == MOST_BODY {
            break;
        }
        // Only what was released can come again, so this error means that there is nothing left to take it back.
        let _ = body.flow_control().release_capacity(data.len());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use ::http::Response;
    use tokio::io::duplex;

    use super::*;
    use crate::config::Expect;

    fn probe(expect: Expect) -> HttpProbe {
        let headers = vec![("X-Who".to_owned(), "lb".to_owned())];
        HttpProbe { method: "GET".into(), path: "/up?x=1".into(), host: None, headers, expect }
    }

    /// What is said of a server that answers so.
    async fn asked(expect: Expect, status: u16, body: &'static [u8]) -> Result<(), Fault> {
        let (ours, theirs) = duplex(256 * 1024);
        let serving = async {
            let mut connection = ::h2::server::handshake(theirs).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.uri(), "https://app:80/up?x=1");
                assert_eq!(
                    (&request.headers()["x-who"], &request.headers()["user-agent"]),
                    (&HeaderValue::from_static("lb"), &HeaderValue::from_static("evenkeel"))
                );
                let head = Response::builder().status(status).body(()).unwrap();
                let mut stream = respond.send_response(head, false).unwrap();
                stream.send_data(Bytes::from_static(body), true).unwrap();
            }
        };
        let stage = Cell::new(Stage::Waiting);
        let probe = probe(expect);
        // The server ends when the probe lets go of its connection.
        let (answer, ()) = tokio::join!(ask(ours, &probe, "https://app:80", &stage), serving);
        answer
    }

    #[tokio::test]
    async fn it_is_judged_as_over_http1() {
        let contains = |text: &str| Expect { body_contains: Some(text.into()), ..Expect::default() };
        assert!(asked(Expect::default(), 200, b"").await.is_ok());
        assert!(matches!(asked(Expect::default(), 503, b"").await, Err(Fault::Status(503))));
        assert!(asked(contains("ok"), 200, b"all ok").await.is_ok());
        assert!(matches!(asked(contains("ok"), 200, b"all bad").await, Err(Fault::NoText(_))));
    }

    #[tokio::test]
    async fn a_long_body_is_judged_by_its_beginning() {
        static LONG: [u8; 3 * MOST_BODY] = [b'x'; 3 * MOST_BODY];
        let contains = |text: &str| Expect { body_contains: Some(text.into()), ..Expect::default() };
        assert!(asked(contains("xxx"), 200, &LONG).await.is_ok());
        assert!(asked(contains("ok"), 200, &LONG).await.is_err());
    }
}
