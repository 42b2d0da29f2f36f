//! HTTP/2 as far as one probe needs it: a connection for one request.
//!
//! What the peer may make us hold is what `h2` is told below; what it may make us read at all is bounded under it, bytes
//! of frames that never reach the request included.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::Fault;
use super::http::MOST_READ;

/// Makes one request over this connection, which is of no further use then.
pub(super) async fn over<F: Future<Output = Result<(), Fault>>>(
    connection: impl AsyncRead + AsyncWrite + Unpin,
    request: impl FnOnce(SendRequest<Bytes>) -> F,
) -> Result<(), Fault> {
    let bounded = Bounded { connection, left: MOST_READ };
    let (sender, connection) = builder().handshake::<_, Bytes>(bounded).await.map_err(fault)?;
    let mut request = pin!(request(sender));
    // Cancelling loses nothing: the request is the one that is waited for in the end.
    tokio::select! {
        biased;
        done = &mut request => return done,
        // Its error reaches the request as well; and a connection that is over may have brought the whole answer.
        _ended = connection => {}
    }
    request.await
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.enable_push(false).max_header_list_size(16 * 1024).max_concurrent_reset_streams(1);
    builder
}

/// What an error of the protocol says of the backend.
pub(super) fn fault(error: h2::Error) -> Fault {
    match error.get_io() {
        Some(io) if io.kind() == io::ErrorKind::FileTooLarge => Fault::TooMuch,
        Some(io) if io.kind() == io::ErrorKind::UnexpectedEof => Fault::Closed,
        _ => Fault::Http2(error),
    }
}

/// A connection from which so much is read and no more.
struct Bounded<C> {
    connection: C,
    left: usize,
}

impl<C: AsyncRead + Unpin> AsyncRead for Bounded<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.connection).poll_read(cx, into);
        match self.left.checked_sub(into.filled().len() - before) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into())),
        }
        read
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Bounded<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}
