//! HTTP/2 messages, as the `h2` crate gives and takes them, from and into our heads (RFC 9113 §8).
//!
//! The crate has looked at most of what is looked at here. It is looked at again, because what it lets through today is
//! its business and what becomes a line of HTTP/1.1 behind us is ours (security.md R11).

mod read;
mod write;

pub use super::framing::Body;
pub use read::{read_request, read_response, read_trailers};
pub use write::{write_interim, write_own_answer, write_request, write_response, write_trailers};

#[cfg(test)]
mod tests {

    use bytes::Bytes;
    use tokio::runtime::Builder;

    use super::*;
    use crate::http::fields::{HOW, Scheme};
    use crate::http::h1::parse::{self, HeadLimits};
    use crate::http::h1::write::{Connection, Reply, reply_framing};
    use crate::http::head::{Fields, Framing, Known, Method, RequestHead, ResponseHead, Version};

    fn read(input: &str) -> RequestHead {
        let mut head = RequestHead::default();
        parse::request(input.as_bytes(), 0, &HeadLimits::default(), &mut head).unwrap();
        head
    }

    fn reply(head: &ResponseHead) -> Reply<'static> {
        let framing = reply_framing(head, Version::Http2);
        Reply { client: Version::Http2, framing, connection: Connection::KeepAlive, edits: &[], via: false }
    }

    /// Answers each request with an interim head, its own path as a field, data and trailer fields.
    async fn serve(io: tokio::io::DuplexStream, heads: &mut Vec<RequestHead>) {
        let mut connection =
            ::h2::server::Builder::new().enable_connect_protocol().handshake::<_, Bytes>(io).await.unwrap();
        while let Some(accepted) = connection.accept().await {
            let (request, mut respond) = accepted.unwrap();
            let (parts, stream) = request.into_parts();
            let body = if stream.is_end_stream() { Body::Ended } else { Body::Follows };
            let protocol = parts.extensions.get::<::h2::ext::Protocol>().map(|protocol| protocol.as_str().to_owned());
            let mut head = RequestHead::default();
            read_request(&parts, protocol.as_deref(), body, &HeadLimits::default(), &mut head).unwrap();

            let early = ResponseHead { status: 103, ..ResponseHead::default() };
            respond.send_informational(write_interim(&early)).unwrap();
            let mut answer = ResponseHead { status: 200, framing: Framing::Chunked, ..ResponseHead::default() };
            answer.fields.push(Known::Other, b"X-Path", head.target.path().as_bytes());
            let mut send = respond.send_response(write_response(&answer, &reply(&answer)), false).unwrap();
            send.send_data(Bytes::from_static(b"data"), false).unwrap();
            let mut trailers = Fields::new();
            trailers.push(Known::Other, b"Grpc-Status", b"0");
            send.send_trailers(write_trailers(&trailers)).unwrap();
            heads.push(head);
        }
    }

    async fn ask(io: tokio::io::DuplexStream, asked: &[RequestHead]) {
        let (mut send, mut connection) = ::h2::client::handshake(io).await.unwrap();
        let conversation = async {
            for head in asked {
                send = send.ready().await.unwrap();
                while head.connection.websocket && !send.is_extended_connect_protocol_enabled() {
                    tokio::task::yield_now().await;
                }
                let mut request = write_request(head, &HOW, Scheme::Https).unwrap();
                if head.connection.websocket {
                    request.extensions_mut().insert(::h2::ext::Protocol::from_static("websocket"));
                }
                let (mut response, _) = send.send_request(request, !head.connection.websocket).unwrap();
                let early = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
                assert_eq!(early.status(), 103);
                let (parts, mut body) = response.await.unwrap().into_parts();
                let mut answer = ResponseHead::default();
                read_response(&parts, Body::Follows, head.method, &HeadLimits::default(), &mut answer).unwrap();
                assert_eq!((answer.status, answer.framing), (200, Framing::Chunked));
                assert_eq!(answer.fields.values("x-path").next(), Some(head.target.path().as_bytes()));
                assert_eq!(body.data().await.unwrap().unwrap(), "data");
                let trailers = body.trailers().await.unwrap().unwrap();
                let trailers = read_trailers(&trailers, &HeadLimits::default()).unwrap();
                assert_eq!(trailers.values("grpc-status").next(), Some(&b"0"[..]));
            }
            drop(send);
        };
        tokio::select! {
            () = conversation => {}
            // it goes on for as long as somebody may still ask
            ended = &mut connection => panic!("{ended:?}"),
        }
    }

    #[test]
    fn the_crate_takes_what_is_written_and_gives_what_is_read() {
        let asked = [
            read("GET /a/%2E./b?c=<d> HTTP/1.1\r\nHost: A:80\r\nCookie: a=b\r\nCookie: c=d\r\nTE: trailers\r\n\r\n"),
            read("OPTIONS * HTTP/1.1\r\nHost: [::1]:8443\r\n\r\n"),
            read("PURGE / HTTP/1.0\r\n\r\n"),
            read(
                "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n",
            ),
        ];
        let (client, server) = tokio::io::duplex(64 * 1024);
        let mut heads = Vec::new();
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { tokio::join!(ask(client, &asked), serve(server, &mut heads)) });

        let summary = |head: &RequestHead| {
            let target = &head.target;
            (head.method_text().to_vec(), target.path().to_owned(), head.framing, head.connection.websocket)
        };
        assert_eq!(heads.iter().map(summary).collect::<Vec<_>>(), asked.iter().map(summary).collect::<Vec<_>>());
        let hosts: Vec<_> = heads.iter().map(|head| head.target.authority()).collect();
        assert_eq!(hosts, ["a:80", "[::1]:8443", "fallback", "a"]);
        assert_eq!(heads[0].fields.find(Known::Cookie), Some(&b"a=b; c=d"[..]));
        assert_eq!(heads[0].target.query(), Some("c=%3Cd%3E"));
        assert_eq!((heads[3].method, heads[3].fields.values("sec-websocket-key").count()), (Method::Get, 0));
    }
}
