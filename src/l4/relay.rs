//! The relay of raw bytes between a client and a backend: TCP sessions, and HTTP connections after a 101.
//!
//! Two flows, one task. A flow holds a buffer only while it has bytes that the other side has not taken, so an idle
//! session holds none. The end of one direction is passed on as such and the other goes on (half-close); a reset is left
//! to the caller to pass on. The buffer doubles each time one was filled and drained whole, and falls back when the
//! source stalls. Where much moves, it goes through a kernel pipe instead, without being copied.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::buffer::{Buffer, Stride};
use crate::clock;
use crate::deadline::Deadline;
use crate::local::{Local, Phase, Session};
use crate::outcome::Outcome;
use crate::pipe::{Buffers, Pipe};
use crate::state::Lease;
use crate::stream::{Reader, Stream, Writer};

/// One side of a relay: its stream, and bytes that were read from it already.
pub struct Side<'a> {
    /// The connection.
    pub stream: &'a mut Stream,
    /// What was read from it and not passed on.
    pub held: Option<Buffer>,
}

/// Relays until both directions have ended, one side broke, nothing moved for `idle`, or the session was cut.
///
/// A backend that breaks has closed when it had sent nothing, and cut the session when it had. Cancelling it loses what the
/// buffers hold.
pub async fn relay(
    session: &Session,
    lease: &Lease,
    deadline: &mut Deadline,
    idle: Duration,
    client: Side<'_>,
    backend: Side<'_>,
) -> Outcome {
    let local: &Local = session.local();
    let (mut from_client, mut to_client) = client.stream.split();
    let (mut from_backend, mut to_backend) = backend.stream.split();
    let mut up = Flow::new(client.held);
    let mut down = Flow::new(backend.held);
    deadline.set(clock::now() + idle);
    let outcome = poll_fn(|cx| {
        session.watch(cx);
        let before = up.moved + down.moved;
        let sent = up.poll(cx, &local.buffers, &mut from_client, &mut to_backend, down.course);
        let answered = down.poll(cx, &local.buffers, &mut from_backend, &mut to_client, up.course);
        let lost = if down.has_begun() { Outcome::SessionCut } else { Outcome::BackendClosed };
        match (sent, answered) {
            (Poll::Ready(Err(broken)), _) => {
                return Poll::Ready(blame(broken, Outcome::ClientGone, lost));
            }
            (_, Poll::Ready(Err(broken))) => {
                return Poll::Ready(blame(broken, lost, Outcome::ClientGone));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Outcome::Completed { status: 0 }),
            _ => {}
        }
        if local.phase() == Phase::Cut || lease.session_is_cut() {
            return Poll::Ready(Outcome::Cut);
        }
        if up.moved + down.moved != before {
            deadline.set(clock::now() + idle);
        }
        deadline.poll(cx).map(|()| Outcome::TunnelIdle)
    })
    .await;
    up.release(&local.buffers);
    down.release(&local.buffers);
    outcome
}

/// Which end of a flow broke.
#[derive(Debug)]
enum Broken {
    Source,
    Sink,
}

fn blame(broken: Broken, source: Outcome, sink: Outcome) -> Outcome {
    match broken {
        Broken::Source => source,
        Broken::Sink => sink,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Open,
    /// The source has ended; the sink is told when it has everything.
    Ending,
    /// The source broke; that is said when the sink has what came before.
    Breaking,
    Done,
}

/// One direction.
#[derive(Debug)]
struct Flow {
    buffer: Option<Buffer>,
    pipe: Option<Box<Pipe>>,
    stride: Stride,
    course: Course,
    /// Bytes written, and one for the end: changes exactly when something moved.
    moved: u64,
}

impl Flow {
    fn new(held: Option<Buffer>) -> Flow {
        Flow { buffer: held, pipe: None, stride: Stride::default(), course: Course::Open, moved: 0 }
    }

    /// Whether anything has come from the source.
    fn has_begun(&self) -> bool {
        let end = u64::from(self.course == Course::Done);
        self.moved > end || self.buffer.as_ref().is_some_and(|buffer| !buffer.is_empty())
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
        from: &mut Reader<'_>,
        to: &mut Writer<'_>,
        opposite: Course,
    ) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.poll_drain(cx, buffers, to)).map_err(|_| Broken::Sink)?;
            match self.course {
                Course::Open => {
                    let piped = !to.is_secure();
                    ready!(self.poll_fill(cx, buffers, from, piped)).map_err(|_| Broken::Source)?;
                }
                // Both directions have ended: the connections are closed next, which says the same in the clear.
                Course::Ending if opposite == Course::Done && !to.is_secure() => self.course = Course::Done,
                Course::Ending => {
                    // A sink that is gone already has seen its end.
                    let _ = ready!(to.poll_shutdown(cx));
                    self.course = Course::Done;
                    self.moved += 1;
                }
                Course::Breaking => return Poll::Ready(Err(Broken::Source)),
                Course::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
        to: &mut Writer<'_>,
    ) -> Poll<std::io::Result<()>> {
        while let Some(buffer) = self.buffer.as_mut().filter(|buffer| !buffer.is_empty()) {
            let whole = buffer.is_full();
            let written = ready!(match self.course {
                Course::Ending => to.poll_write_last(cx, buffer.data()),
                _ => to.poll_write(cx, buffer.data(), &[]),
            })?;
            self.moved += written as u64;
            buffer.consume(written);
            if whole && buffer.is_empty() {
                self.stride.passed(buffer.size());
                self.release(buffers);
            }
        }
        while let Some(pipe) = self.pipe.as_mut() {
            let written = ready!(to.poll_drain_pipe(cx, pipe))?;
            self.moved += written as u64;
            if pipe.held() == 0 {
                self.stride.piped(written);
                self.release(buffers);
            }
        }
        to.poll_flush(cx)
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
        from: &mut Reader<'_>,
        piped: bool,
    ) -> Poll<std::io::Result<()>> {
        if piped && self.stride.is_for_pipes() && ready!(self.poll_fill_pipe(cx, buffers, from))? {
            return Poll::Ready(Ok(()));
        }
        let size = self.stride.size();
        match from.poll_read(cx, &mut self.buffer, &buffers.blocks, size) {
            Poll::Ready(Ok(0)) => {
                self.course = Course::Ending;
                self.release(buffers);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(read) => {
                read?;
                self.look_for_end(cx, buffers, from);
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                self.stride.stalled();
                Poll::Pending
            }
        }
    }

    /// Moves bytes into a pipe; false when a read has to tell what there is, or there is no pipe.
    fn poll_fill_pipe(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
        from: &mut Reader<'_>,
    ) -> Poll<std::io::Result<bool>> {
        let Some(mut pipe) = self.buffer.is_none().then(|| buffers.pipes.take()).flatten() else {
            return Poll::Ready(Ok(false));
        };
        match from.poll_fill_pipe(cx, &mut pipe, usize::MAX) {
            Poll::Ready(Ok(1..)) => {
                self.pipe = Some(pipe);
                Poll::Ready(Ok(true))
            }
            nothing => {
                buffers.pipes.give(pipe);
                if nothing.is_pending() {
                    self.stride.stalled();
                }
                nothing.map_ok(|_| false)
            }
        }
    }

    /// Reads on after the first bytes, where that costs no system call for nothing: of a session of one answer, the end has
    /// often come as well, and can leave in the same segment.
    fn look_for_end(&mut self, cx: &mut Context<'_>, buffers: &Buffers, from: &mut Reader<'_>) {
        if self.moved > 0 || self.buffer.as_ref().is_none_or(Buffer::is_full) {
            return;
        }
        match from.poll_read(cx, &mut self.buffer, &buffers.blocks, self.stride.size()) {
            Poll::Ready(Ok(0)) => self.course = Course::Ending,
            Poll::Ready(Err(_)) => self.course = Course::Breaking,
            Poll::Ready(Ok(_)) | Poll::Pending => {}
        }
    }

    fn release(&mut self, buffers: &Buffers) {
        if let Some(buffer) = self.buffer.take() {
            buffers.blocks.give(buffer);
        }
        if let Some(pipe) = self.pipe.take() {
            buffers.pipes.give(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    use super::*;
    use crate::buffer::{LARGEST, SMALLEST};

    /// A flow between two streams, and the far ends of both.
    struct Bench {
        buffers: Buffers,
        flow: Flow,
        from: Stream,
        to: Stream,
        sender: UnixStream,
        receiver: UnixStream,
    }

    impl Bench {
        fn new(held: Option<Buffer>) -> Bench {
            let (sender, from) = UnixStream::pair().unwrap();
            let (receiver, to) = UnixStream::pair().unwrap();
            let (from, to) = (Stream::Unix(from), Stream::Unix(to));
            Bench { buffers: Buffers::default(), flow: Flow::new(held), from, to, sender, receiver }
        }

        async fn poll_once(&mut self) -> Poll<Result<(), Broken>> {
            let Bench { buffers, flow, from, to, .. } = self;
            let ((mut reader, _), (_, mut writer)) = (from.split(), to.split());
            poll_fn(|cx| Poll::Ready(flow.poll(cx, buffers, &mut reader, &mut writer, Course::Open))).await
        }

        /// Polls until the receiver has this much.
        async fn receive(&mut self, length: usize) -> Vec<u8> {
            let mut received = vec![0; length];
            let mut filled = 0;
            while filled < length {
                let _ = self.poll_once().await;
                match self.receiver.try_read(&mut received[filled..]) {
                    Ok(count) => filled += count,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
            received
        }
    }

    #[tokio::test]
    async fn an_idle_flow_holds_no_buffer_before_and_after_it_moved_something() {
        let mut bench = Bench::new(None);
        assert!(bench.poll_once().await.is_pending());
        assert!(bench.flow.buffer.is_none());
        bench.sender.write_all(b"hello").await.unwrap();
        assert_eq!(bench.receive(5).await, b"hello");
        assert!(bench.poll_once().await.is_pending());
        assert!(bench.flow.buffer.is_none());
        assert_eq!(bench.flow.stride.size(), SMALLEST);
    }

    #[tokio::test]
    async fn blocks_grow_while_they_are_filled_and_drained_whole_and_shrink_when_the_source_stalls() {
        let mut bench = Bench::new(None);
        let (mut largest, mut sent) = (0, 0);
        let piece = vec![7; 64 * 1024];
        for _ in 0..200 {
            while let Ok(count) = bench.sender.try_write(&piece) {
                sent += count;
            }
            let _ = bench.poll_once().await;
            largest = largest.max(bench.flow.stride.size());
            let mut sink = vec![0; LARGEST];
            while bench.receiver.try_read(&mut sink).is_ok() {}
            tokio::task::yield_now().await;
        }
        assert!(sent > LARGEST && largest > SMALLEST, "sent {sent}, largest {largest}");
        for _ in 0..20 {
            let _ = bench.poll_once().await;
            let mut sink = vec![0; LARGEST];
            while bench.receiver.try_read(&mut sink).is_ok() {}
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.flow.stride.size(), SMALLEST);
        assert!(bench.flow.buffer.is_none());
    }

    #[tokio::test]
    async fn an_end_that_came_with_the_bytes_is_seen_with_them() {
        let mut bench = Bench::new(None);
        bench.sender.write_all(b"all there is").await.unwrap();
        bench.sender.shutdown().await.unwrap();
        let Stream::Unix(from) = &bench.from else { unreachable!("made so") };
        from.ready(tokio::io::Interest::READABLE).await.unwrap();
        assert!(matches!(bench.poll_once().await, Poll::Ready(Ok(()))), "one turn does it all");
        let mut received = Vec::new();
        bench.receiver.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"all there is");
    }

    #[tokio::test]
    async fn where_much_moves_it_goes_through_a_pipe_and_comes_out_as_it_was() {
        let mut bench = Bench::new(None);
        let sent: Vec<u8> = (0..4 * 1024 * 1024).map(|at| (at % 251) as u8).collect();
        let (mut received, mut gone) = (Vec::new(), 0);
        let mut some = vec![0; LARGEST];
        for _ in 0..10_000 {
            while let Ok(count @ 1..) = bench.sender.try_write(&sent[gone..]) {
                gone += count;
            }
            assert!(bench.poll_once().await.is_pending());
            while let Ok(count) = bench.receiver.try_read(&mut some) {
                received.extend_from_slice(&some[..count]);
            }
            tokio::task::yield_now().await;
        }
        assert!(received == sent && bench.flow.moved == sent.len() as u64);
        assert_eq!(bench.buffers.pipes.free(), 1);
        assert!(bench.poll_once().await.is_pending());
        assert!(bench.flow.pipe.is_none() && bench.flow.buffer.is_none(), "an idle flow holds nothing");
    }

    /// Two ends of a TCP connection.
    async fn tcp() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (here, there) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (here.unwrap(), there.unwrap().0)
    }

    #[tokio::test]
    async fn urgent_data_in_the_way_of_a_pipe_neither_hangs_nor_cuts_what_follows() {
        let ((mut sender, from), (mut receiver, to)) = (tcp().await, tcp().await);
        let (mut from, mut to, buffers) = (Stream::Tcp(from), Stream::Tcp(to), Buffers::default());
        let mut flow = Flow::new(None);
        flow.stride.passed(LARGEST);
        sender.write_all(&[b'a'; 20_000]).await.unwrap();
        sender.writable().await.unwrap();
        socket2::SockRef::from(&sender).send_out_of_band(b"!").unwrap();
        sender.write_all(&[b'b'; 20_000]).await.unwrap();
        let mut received = vec![0; 40_000];
        {
            let ((mut reader, _), (_, mut writer)) = (from.split(), to.split());
            let relayed = poll_fn(|cx| flow.poll(cx, &buffers, &mut reader, &mut writer, Course::Open));
            let ending = async {
                // The rest comes although the sender waits; and then the end.
                receiver.read_exact(&mut received).await.unwrap();
                sender.shutdown().await.unwrap();
                receiver.read(&mut [0]).await.unwrap()
            };
            let (relayed, end) = tokio::join!(relayed, ending);
            assert!(relayed.is_ok() && end == 0);
        }
        let (first, second) = received.split_at(20_000);
        assert!(first.iter().all(|&byte| byte == b'a') && second.iter().all(|&byte| byte == b'b'));
        assert!(buffers.pipes.free() > 0, "a pipe was used");
    }

    #[tokio::test]
    async fn what_was_read_before_goes_first_and_the_end_is_passed_on() {
        let buffers = Buffers::default();
        let mut held = buffers.blocks.take(SMALLEST);
        held.put(b"first ");
        let mut bench = Bench::new(Some(held));
        bench.sender.write_all(b"then").await.unwrap();
        assert_eq!(bench.receive(10).await, b"first then");
        bench.sender.shutdown().await.unwrap();
        while !matches!(bench.poll_once().await, Poll::Ready(Ok(()))) {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.receiver.read(&mut [0]).await.unwrap(), 0);
    }
}
