//! The first message of a TLS connection, where that decides where the connection goes: read, and left as it came.
//!
//! Only as much is read as it takes to know the message, and what follows it in the same read. A refused connection costs one
//! debug line.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{fmt, io};

use tokio::io::{AsyncRead, ReadBuf};

use crate::client_hello::{Alert, ClientHello, Fault, LONGEST, Parsed, Reading};
use crate::stream::Stream;

/// How much is read at once: most hellos whole.
const PIECE: usize = 2048;

/// Why a connection is refused.
pub(super) enum Refused {
    /// What it says is no hello.
    Fault(Fault),
    /// It ended before its hello did.
    Ended,
    /// It broke.
    Broken(io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Fault(fault) => fault.fmt(f),
            Refused::Ended => f.write_str("it ended before its ClientHello was whole"),
            Refused::Broken(error) => error.fmt(f),
        }
    }
}

impl Refused {
    /// Closes the connection; a client that speaks TLS is told.
    pub(super) fn close(&self, stream: Stream) {
        match self {
            Refused::Fault(Fault::NotTls) | Refused::Ended | Refused::Broken(_) => stream.reset(),
            Refused::Fault(_) => stream.say_and_close(&Alert::DecodeError.record()),
        }
    }
}

/// The hello of a connection, of which `read` has been read already; in the end, so has all of the hello. Cancelling loses
/// nothing of it.
pub(super) async fn hear(stream: &mut Stream, read: &mut Vec<u8>) -> Result<ClientHello, Refused> {
    let mut reading = Reading::default();
    poll_fn(|cx| poll_hello(stream, read, &mut reading, cx)).await
}

fn poll_hello(
    stream: &mut Stream,
    read: &mut Vec<u8>,
    reading: &mut Reading,
    cx: &mut Context<'_>,
) -> Poll<Result<ClientHello, Refused>> {
    loop {
        match reading.advance(read) {
            Ok(Parsed::Complete(hello)) => return Poll::Ready(Ok(hello)),
            Ok(Parsed::Partial) => {}
            Err(fault) => return Poll::Ready(Err(Refused::Fault(fault))),
        }
        let mut piece = [0; PIECE];
        // What is read becomes a prefix, which may not grow beyond this; a hello of so many bytes has been refused.
        let most = PIECE.min(LONGEST - read.len());
        let mut space = ReadBuf::new(&mut piece[..most]);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut space)).map_err(Refused::Broken)?;
        if space.filled().is_empty() {
            return Poll::Ready(Err(Refused::Ended));
        }
        read.extend_from_slice(space.filled());
    }
}
