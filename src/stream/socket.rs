//! A socket that the runtime watches, and the system calls on it.
//!
//! They are made without libc, whose `recv` and `send` are points where a POSIX thread can be cancelled: in a process of several
//! threads, Debian 12's does some work more before and after each of them, and nobody here cancels a thread.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll, ready};

use rustix::io::{Errno, writev};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::io::{Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::buffer::Buffer;
use crate::pipe::Pipe;

/// A connected socket of this worker's runtime.
#[derive(Clone, Copy, Debug)]
pub enum Socket<'a> {
    /// Over TCP.
    Tcp(&'a TcpStream),
    /// Over a Unix socket.
    Unix(&'a UnixStream),
}

/// What a system call has moved, in bytes.
enum Moved {
    /// Perhaps not all that it could have.
    Some(usize),
    /// All that the kernel had, or had room for.
    All(usize),
}

impl Socket<'_> {
    /// What a call has moved that was to move `wanted` bytes. Over TCP fewer mean all; but for reading up to urgent data, behind
    /// which nothing is seen before more comes (TCP's urgent mechanism is not to be used any more, RFC 6093).
    /// A read of a Unix socket ends at what comes with a descriptor as well.
    fn moved(self, count: usize, wanted: usize) -> Moved {
        match self {
            Socket::Tcp(_) if 0 < count && count < wanted => Moved::All(count),
            _ => Moved::Some(count),
        }
    }

    /// Reads into the buffer in `slot`, which is not full, or into one that is taken once there is something to read; 0 is
    /// the end.
    pub(super) fn poll_read(
        self,
        cx: &mut Context<'_>,
        slot: &mut Option<Buffer>,
        take: impl Fn() -> Buffer,
    ) -> Poll<io::Result<usize>> {
        self.poll_move(cx, Interest::READABLE, || {
            let buffer = slot.get_or_insert_with(&take);
            let wanted = buffer.space().len();
            let (_, count) = recv(self, buffer.space(), RecvFlags::empty())?;
            buffer.filled(count);
            Ok(self.moved(count, wanted))
        })
    }

    /// Reads into what is free of `space`, which is filled with noughts first where it has never been.
    pub(super) fn poll_read_into(self, cx: &mut Context<'_>, space: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_move(cx, Interest::READABLE, || {
            let (_, count) = recv(self, space.initialize_unfilled(), RecvFlags::empty())?;
            let wanted = space.remaining();
            space.advance(count);
            Ok(self.moved(count, wanted))
        })
        .map_ok(drop)
    }

    /// Writes some of `bytes`.
    pub(super) fn poll_write(self, cx: &mut Context<'_>, bytes: &[u8], flags: SendFlags) -> Poll<io::Result<usize>> {
        self.poll_move(cx, Interest::WRITABLE, || {
            Ok(self.moved(send(self, bytes, flags | SendFlags::NOSIGNAL)?, bytes.len()))
        })
    }

    /// Writes some of `parts`, in their order. One call takes so many parts at most, and ends behind them though there is room.
    pub(super) fn poll_write_parts(self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_move(cx, Interest::WRITABLE, || Ok(Moved::Some(writev(self, parts)?)))
    }

    /// Moves at most `most` bytes into `pipe` ([`Pipe::fill`]).
    pub(super) fn poll_fill(self, cx: &mut Context<'_>, pipe: &mut Pipe, most: usize) -> Poll<io::Result<usize>> {
        self.poll_move(cx, Interest::READABLE, || Ok(Moved::Some(pipe.fill(self, most)?)))
    }

    /// Writes some of what waits in `pipe`.
    pub(super) fn poll_drain(self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        self.poll_move(cx, Interest::WRITABLE, || Ok(Moved::Some(pipe.drain(self)?)))
    }

    /// Ends the writing direction.
    pub(super) fn shut_down(self) -> io::Result<()> {
        match shutdown(self, Shutdown::Write) {
            // It has ended already, with the connection.
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves bytes as soon as the runtime believes that some can be. When that were all, the next call waits for the kernel's
    /// word, and makes no system call only to be told so.
    #[inline]
    fn poll_move(
        self,
        cx: &mut Context<'_>,
        interest: Interest,
        mut operation: impl FnMut() -> io::Result<Moved>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_ready(cx, interest))?;
            let mut all = None;
            let moved = self.try_io(interest, || match operation()? {
                Moved::Some(count) => Ok(count),
                Moved::All(count) => {
                    all = Some(count);
                    // The runtime's word for "wait for news".
                    Err(io::ErrorKind::WouldBlock.into())
                }
            });
            match (all, moved) {
                (Some(count), _) => return Poll::Ready(Ok(count)),
                (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                (None, moved) => return Poll::Ready(moved),
            }
        }
    }

    #[inline]
    fn poll_ready(self, cx: &mut Context<'_>, interest: Interest) -> Poll<io::Result<()>> {
        match (self, interest.is_readable()) {
            (Socket::Tcp(stream), true) => stream.poll_read_ready(cx),
            (Socket::Tcp(stream), false) => stream.poll_write_ready(cx),
            (Socket::Unix(stream), true) => stream.poll_read_ready(cx),
            (Socket::Unix(stream), false) => stream.poll_write_ready(cx),
        }
    }

    #[inline]
    fn try_io<R>(self, interest: Interest, operation: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match self {
            Socket::Tcp(stream) => stream.try_io(interest, operation),
            Socket::Unix(stream) => stream.try_io(interest, operation),
        }
    }
}

impl AsFd for Socket<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::future::poll_fn;
    use std::io::{IoSlice, Read, Write};
    use std::mem::MaybeUninit;
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    use std::os::unix::net;
    use std::task::Waker;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::buffer::{Blocks, SMALLEST};
    use crate::stream::Stream;

    /// A Unix socket that the runtime watches, and its other end, which does not block.
    fn pair() -> (UnixStream, net::UnixStream) {
        let (ours, theirs) = net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (UnixStream::from_std(ours).unwrap(), theirs)
    }

    /// A stream of each kind, and its other end.
    fn streams() -> [(Stream, File); 2] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ours = listener.accept().unwrap().0;
        ours.set_nonblocking(true).unwrap();
        let tcp = (Stream::Tcp(TcpStream::from_std(ours).unwrap()), File::from(OwnedFd::from(theirs)));
        let (ours, theirs) = pair();
        [tcp, (Stream::Unix(ours), File::from(OwnedFd::from(theirs)))]
    }

    /// What there is to read, once there is something; nothing is the end.
    async fn read(stream: &mut Stream, blocks: &Blocks) -> Vec<u8> {
        let mut slot = None;
        poll_fn(|cx| stream.split().0.poll_read(cx, &mut slot, blocks, SMALLEST)).await.unwrap();
        slot.unwrap().data().to_vec()
    }

    /// A stream in which `one` came with a descriptor, and `two` behind it; and its other end.
    fn with_descriptor() -> (Stream, net::UnixStream) {
        let (ours, mut theirs) = pair();
        let (descriptor, mut space) = ([ours.as_fd()], [MaybeUninit::uninit(); 64]);
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptor)));
        sendmsg(&theirs, &[IoSlice::new(b"one")], &mut control, SendFlags::empty()).unwrap();
        theirs.write_all(b"two").unwrap();
        (Stream::Unix(ours), theirs)
    }

    /// Sends until the kernel takes no more; says how much that was.
    async fn fill(socket: Socket<'_>, mut send: impl FnMut(&mut Context<'_>) -> Poll<io::Result<usize>>) -> usize {
        poll_fn(|cx| socket.poll_ready(cx, Interest::WRITABLE)).await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut sent = 0;
        while let Poll::Ready(count) = send(&mut cx) {
            sent += count.unwrap();
        }
        sent
    }

    /// All that is there, which is something, and no end.
    fn drained(stream: &mut net::UnixStream) -> Vec<u8> {
        let mut received = Vec::new();
        let end = stream.read_to_end(&mut received).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::WouldBlock);
        assert!(!received.is_empty());
        received
    }

    #[tokio::test]
    async fn what_comes_after_a_short_read_is_told_of_and_so_is_the_end() {
        for (mut ours, mut theirs) in streams() {
            let (blocks, mut slot) = (Blocks::default(), None);
            for word in ["one", "another", "last"] {
                theirs.write_all(word.as_bytes()).unwrap();
                assert_eq!(read(&mut ours, &blocks).await, word.as_bytes());
                let mut cx = Context::from_waker(Waker::noop());
                assert!(ours.split().0.poll_read(&mut cx, &mut slot, &blocks, SMALLEST).is_pending());
                assert!(slot.is_none(), "who only waits holds no buffer");
            }
            drop(theirs);
            assert!(read(&mut ours, &blocks).await.is_empty());
            assert!(read(&mut ours, &blocks).await.is_empty(), "and again");
        }
    }

    #[tokio::test]
    async fn what_follows_bytes_that_came_with_a_descriptor_is_read_though_nothing_new_is_told() {
        let ((mut ours, _theirs), blocks) = (with_descriptor(), Blocks::default());
        assert_eq!(read(&mut ours, &blocks).await, b"one");
        let mut rest = [0; 3];
        ours.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"two");
    }

    #[tokio::test]
    async fn nor_is_it_lost_when_tokio_traits_read_what_came_with_the_descriptor() {
        let ((mut ours, _theirs), blocks) = (with_descriptor(), Blocks::default());
        let mut first = [0; 16];
        assert_eq!(ours.read(&mut first).await.unwrap(), 3);
        assert_eq!(&first[..3], b"one");
        assert_eq!(read(&mut ours, &blocks).await, b"two");
    }

    #[tokio::test]
    async fn a_full_socket_takes_more_as_soon_as_there_is_room() {
        let (ours, mut theirs) = pair();
        let socket = Socket::Unix(&ours);
        let (piece, parts) = (vec![1; 50_000], vec![2; 10]);
        // More parts than one system call takes: what it leaves behind says nothing of room.
        let parts: Vec<IoSlice<'_>> = (0..2000).map(|_| IoSlice::new(&parts)).collect();
        for _ in 0..3 {
            let sent = fill(socket, |cx| socket.poll_write(cx, &piece, SendFlags::empty())).await;
            assert_eq!(drained(&mut theirs), vec![1; sent]);
            let sent = fill(socket, |cx| socket.poll_write_parts(cx, &parts)).await;
            assert!(sent > 2 * parts.len() * 10, "{sent}");
            assert_eq!(drained(&mut theirs), vec![2; sent]);
        }
    }

    #[tokio::test]
    async fn ending_a_direction_twice_or_after_the_other_side_is_no_error() {
        let (ours, theirs) = pair();
        let socket = Socket::Unix(&ours);
        socket.shut_down().unwrap();
        socket.shut_down().unwrap();
        drop(theirs);
        socket.shut_down().unwrap();
        let sent = poll_fn(|cx| socket.poll_write(cx, b"x", SendFlags::empty())).await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::BrokenPipe, "and no signal");
    }
}
