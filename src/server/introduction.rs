//! The PROXY header at the beginning of a connection, where its listener demands one: who may say it, and how long it may take.
//!
//! Nothing else is looked at before it is whole, and what a stranger says is not even read. A refused connection is reset and
//! costs one debug line: whoever can connect here without being a trusted proxy may do so as often as it likes.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, io};

use ipnet::IpNet;
use tokio::io::{AsyncRead, ReadBuf};

use crate::clock;
use crate::config::is_within;
use crate::local::{Local, Phase};
use crate::proxy_protocol::{Addresses, Decoded, Fault, decode};
use crate::stream::{Incoming, Stream};

/// How long the header may take (security.md R18): the proxy says it at once, whatever its client does.
const LIMIT: Duration = Duration::from_secs(3);

/// How much is read at once, and so the most that is read of what follows the header.
const PIECE: usize = 512;

/// Why a connection is refused.
enum Refused {
    /// It comes from none of the networks.
    Stranger,
    /// What it says is no header.
    Fault(Fault),
    /// It ended before the header did.
    Ended,
    /// It broke.
    Broken(io::Error),
    /// The header was not whole in time.
    Late,
    /// The worker stops.
    Cut,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Stranger => f.write_str("it is not from a trusted proxy"),
            Refused::Fault(fault) => fault.fmt(f),
            Refused::Ended => f.write_str("it ended before its PROXY header was whole"),
            Refused::Broken(error) => error.fmt(f),
            Refused::Late => f.write_str("its PROXY header was not whole in time"),
            Refused::Cut => f.write_str("the worker stops"),
        }
    }
}

/// Who the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// The header said so.
    Told(SocketAddr),
    /// The proxy speaks for itself, or does not know.
    Proxy,
}

/// The connection behind its header, with the addresses that this tells; `None` when it was refused, and reset.
pub(super) async fn listen(local: &Rc<Local>, mut incoming: Incoming, trusted: &[IpNet]) -> Option<(Incoming, Client)> {
    match header(local, &mut incoming, trusted).await {
        Ok(None) => Some((incoming, Client::Proxy)),
        Ok(Some(Addresses { source, destination })) => {
            (incoming.peer, incoming.local) = (Some(source), Some(destination));
            Some((incoming, Client::Told(source)))
        }
        Err(why) => {
            tracing::debug!(peer = ?incoming.peer, %why, "connection refused");
            incoming.stream.reset();
            None
        }
    }
}

/// What the header says; what was read behind it becomes the connection's prefix.
async fn header(local: &Rc<Local>, incoming: &mut Incoming, trusted: &[IpNet]) -> Result<Option<Addresses>, Refused> {
    // Who may open a Unix socket is for the file's permissions to say.
    if incoming.peer.is_some_and(|peer| !is_within(trusted, peer.ip())) {
        return Err(Refused::Stranger);
    }
    let session = local.session();
    let mut deadline = local.deadline();
    deadline.set(clock::now() + LIMIT);
    let Incoming { stream, prefix, .. } = incoming;
    let (length, addresses) = poll_fn(|cx| {
        session.watch(cx);
        if let Poll::Ready(read) = poll_header(stream, prefix, cx) {
            return Poll::Ready(read);
        }
        if session.local().phase() == Phase::Cut {
            return Poll::Ready(Err(Refused::Cut));
        }
        deadline.poll(cx).map(|()| Err(Refused::Late))
    })
    .await?;
    // Not the memory of a long header for as long as the connection lasts.
    *prefix = prefix.split_off(length);
    Ok(addresses)
}

/// Reads until the header is whole; its length, and what it says.
fn poll_header(
    stream: &mut Stream,
    read: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<Result<(usize, Option<Addresses>), Refused>> {
    loop {
        match decode(read) {
            Ok(Decoded::Complete { length, addresses }) => return Poll::Ready(Ok((length, addresses))),
            Ok(Decoded::Partial) => {}
            Err(fault) => return Poll::Ready(Err(Refused::Fault(fault))),
        }
        let mut piece = [0; PIECE];
        let mut space = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut space)).map_err(Refused::Broken)?;
        if space.filled().is_empty() {
            return Poll::Ready(Err(Refused::Ended));
        }
        read.extend_from_slice(space.filled());
    }
}
