//! Which protocol a client's HTTP connection speaks, where its listener offers more than one.
//!
//! Over TLS both sides have agreed on it. In the clear, a client of HTTP/2 begins with a preface that is no request of
//! HTTP/1.1, and was made for this (RFC 9113 §3.4).

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::clock;
use crate::config::HttpVersions;
use crate::local::{Local, Phase};
use crate::stream::{Incoming, Stream};
use crate::tls::H2;

/// What a client of HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.0 or HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
    /// What its first bytes tell, see [`listen`].
    Unsaid,
}

impl Spoken {
    /// What a connection of a listener with these versions speaks, as far as that is known before its first byte.
    #[must_use]
    pub fn on(stream: &Stream, versions: HttpVersions) -> Spoken {
        match versions {
            HttpVersions::H1 => Spoken::H1,
            HttpVersions::H2 => Spoken::H2,
            HttpVersions::Both if !stream.is_secure() => Spoken::Unsaid,
            HttpVersions::Both if stream.speaks(H2) => Spoken::H2,
            // Who agrees on nothing knows nothing newer.
            HttpVersions::Both => Spoken::H1,
        }
    }
}

/// Reads a connection's first bytes, which stay with it, until they tell what it speaks; `None` when they do not come.
pub async fn listen(local: &Rc<Local>, mut incoming: Incoming) -> Option<(Incoming, Spoken)> {
    let terms = local.view().terms(incoming.listener).cloned().unwrap_or_default();
    let (session, mut deadline) = (local.session(), local.deadline());
    deadline.set(clock::now() + terms.header);
    let spoken = poll_fn(|cx| {
        session.watch(cx);
        if let Poll::Ready(spoken) = poll_first(cx, &mut incoming) {
            return Poll::Ready(spoken);
        }
        if local.phase() != Phase::Serving {
            return Poll::Ready(None);
        }
        deadline.poll(cx).map(|()| None)
    })
    .await?;
    Some((incoming, spoken))
}

fn poll_first(cx: &mut Context<'_>, incoming: &mut Incoming) -> Poll<Option<Spoken>> {
    loop {
        match of_first_bytes(&incoming.prefix) {
            Spoken::Unsaid => {}
            spoken => return Poll::Ready(Some(spoken)),
        }
        let mut bytes = [0; PREFACE.len()];
        let mut space = ReadBuf::new(&mut bytes);
        match ready!(Pin::new(&mut incoming.stream).poll_read(cx, &mut space)) {
            Ok(()) if !space.filled().is_empty() => incoming.prefix.extend_from_slice(space.filled()),
            _ => return Poll::Ready(None),
        }
    }
}

/// What a connection speaks that begins so.
fn of_first_bytes(bytes: &[u8]) -> Spoken {
    let common = bytes.iter().zip(PREFACE).take_while(|(one, other)| one == other).count();
    match common {
        _ if common == PREFACE.len() => Spoken::H2,
        _ if common == bytes.len() => Spoken::Unsaid,
        _ => Spoken::H1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_preface_is_http2() {
        for length in 0..PREFACE.len() {
            assert_eq!(of_first_bytes(&PREFACE[..length]), Spoken::Unsaid, "{length} bytes");
        }
        assert_eq!(of_first_bytes(PREFACE), Spoken::H2);
        assert_eq!(of_first_bytes(&[PREFACE, b"more"].concat()), Spoken::H2);
    }

    #[test]
    fn one_other_byte_is_http1() {
        for bytes in [&b"GET / HTTP/1.1"[..], b"P", b"PR", b"POST", b"PRI * HTTP/2.0\r\n\r\nSN", b"\r\n"] {
            let expected = if PREFACE.starts_with(bytes) { Spoken::Unsaid } else { Spoken::H1 };
            assert_eq!(of_first_bytes(bytes), expected, "{bytes:?}");
        }
    }
}
