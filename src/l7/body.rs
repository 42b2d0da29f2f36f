//! Bodies on the way: a source that yields pieces, a sink that takes them, and the pump between the two.
//!
//! The pump knows only [`Source`] and [`Sink`], whatever protocol is behind them. Pieces are lent from the source's buffer
//! and written from there; of large bodies that need no change, they come in a kernel pipe where both sides know how.

use std::io;
use std::task::{Context, Poll, ready};

use super::pace::Pace;
use crate::http::{Fields, Kept};
use crate::pipe::Pipe;

/// A body that comes in.
pub trait Source {
    /// What there is next; `Data` until all of it is consumed. It may lie in a pipe only with `piped`.
    fn poll_ready(&mut self, cx: &mut Context<'_>, piped: bool) -> Poll<Result<Piece, SourceFault>>;
    /// The data that is ready, unless it lies in a pipe.
    fn data(&self) -> &[u8];
    /// The pipe in which the data that is ready lies.
    fn pipe(&mut self) -> Option<&mut Pipe> {
        None
    }
    /// Takes the first bytes of the data away.
    fn consume(&mut self, count: usize);
    /// Gives the trailer fields away, complete at the end.
    fn take_trailers(&mut self) -> Fields;
}

/// What a source has ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the body.
    Data,
    /// Nothing more: the body is complete.
    End,
}

/// Why a body did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceFault {
    /// The sender closed or reset.
    Cut,
    /// The sender broke the rules of its framing.
    Malformed,
    /// Its trailer fields are too many, or too large.
    TooLarge,
}

/// Where a body goes.
pub trait Sink {
    /// Takes some of `data`; says how many bytes.
    fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>>;
    /// Whether it can take data from a pipe now.
    fn takes_pipes(&self) -> bool {
        false
    }
    /// Takes some of what waits in `pipe`; says how many bytes.
    fn poll_pipe(&mut self, _cx: &mut Context<'_>, _pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
    /// Ends the body.
    fn end(&mut self, trailers: &Fields);
    /// Ready when everything taken is with the kernel.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Bytes written so far, to see whether anything moves.
    fn written(&self) -> u64;
}

/// A request's body for a second time as well: what is kept of it, and then the rest from where it comes from, which is kept
/// in turn.
pub struct Repeating<'a, S> {
    /// What is kept.
    pub kept: &'a mut Kept,
    /// Where it comes from.
    pub source: &'a mut S,
}

impl<S: Source> Source for Repeating<'_, S> {
    fn poll_ready(&mut self, cx: &mut Context<'_>, piped: bool) -> Poll<Result<Piece, SourceFault>> {
        match self.kept.unsent() {
            // What lies in a pipe can not be kept.
            [] => self.source.poll_ready(cx, piped && !self.kept.keeps()),
            _ => Poll::Ready(Ok(Piece::Data)),
        }
    }

    fn pipe(&mut self) -> Option<&mut Pipe> {
        if self.kept.unsent().is_empty() { self.source.pipe() } else { None }
    }

    fn data(&self) -> &[u8] {
        match self.kept.unsent() {
            [] => self.source.data(),
            unsent => unsent,
        }
    }

    fn consume(&mut self, count: usize) {
        if !self.kept.unsent().is_empty() {
            return self.kept.consume(count);
        }
        match self.kept.keeps() && self.source.pipe().is_none() {
            true => self.kept.take(&self.source.data()[..count]),
            false => self.kept.lose(),
        }
        self.source.consume(count);
    }

    fn take_trailers(&mut self) -> Fields {
        let given = self.source.take_trailers();
        self.kept.trailers(given)
    }
}

/// Which side of a pump failed.
#[derive(Debug)]
pub enum PumpFault {
    /// The source.
    Source(SourceFault),
    /// The sink.
    Sink,
}

/// What a pump waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// More from the source.
    ForSource,
    /// Room in the sink.
    ForSink,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Running,
    Flushing,
    Done,
    Abandoned,
}

/// Moves one body from its source to its sink.
#[derive(Debug)]
pub struct Pump {
    course: Course,
    /// What it waited for when it was last polled.
    pub waits: Waits,
    /// Body bytes taken from the source.
    pub taken: u64,
    /// How quick the client has to be that is at one end.
    pub pace: Pace,
    /// How far it was when it was last asked whether anything moves.
    seen: (u64, Waits),
}

impl Default for Pump {
    fn default() -> Self {
        Pump::paced(Pace::default())
    }
}

impl Pump {
    /// One whose client has to keep this pace.
    pub fn paced(pace: Pace) -> Pump {
        Pump { course: Course::Running, waits: Waits::ForSource, taken: 0, pace, seen: (0, Waits::ForSource) }
    }

    /// Whether there is something left to do.
    pub fn is_running(&self) -> bool {
        matches!(self.course, Course::Running | Course::Flushing)
    }

    /// Whether the whole body is with the sink.
    pub fn is_done(&self) -> bool {
        self.course == Course::Done
    }

    /// Gives up: its sink takes nothing more.
    pub fn abandon(&mut self) {
        self.course = Course::Abandoned;
    }

    /// Moves what can be moved; ready at the end of the body or at a fault.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        sink: &mut impl Sink,
    ) -> Poll<Result<(), PumpFault>> {
        loop {
            match self.course {
                Course::Running => ready!(self.poll_piece(cx, source, sink))?,
                Course::Flushing => {
                    self.waits = Waits::ForSink;
                    ready!(sink.poll_flush(cx)).map_err(|_| PumpFault::Sink)?;
                    self.course = Course::Done;
                }
                Course::Done | Course::Abandoned => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        sink: &mut impl Sink,
    ) -> Poll<Result<(), PumpFault>> {
        match source.poll_ready(cx, sink.takes_pipes()) {
            Poll::Ready(Ok(Piece::Data)) => {
                self.waits = Waits::ForSink;
                let taken = match source.pipe() {
                    Some(pipe) => sink.poll_pipe(cx, pipe),
                    None => sink.poll_data(cx, source.data()),
                };
                let count = ready!(taken).map_err(|_| PumpFault::Sink)?;
                source.consume(count);
                self.taken += count as u64;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(Piece::End)) => {
                sink.end(&source.take_trailers());
                self.course = Course::Flushing;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(fault)) => Poll::Ready(Err(PumpFault::Source(fault))),
            Poll::Pending => {
                self.waits = Waits::ForSink;
                ready!(sink.poll_flush(cx)).map_err(|_| PumpFault::Sink)?;
                self.waits = Waits::ForSource;
                Poll::Pending
            }
        }
    }

    /// Whether anything moved since this was last asked, or the other side is waited for now: a new wait begins.
    pub fn has_moved(&mut self, sink: &impl Sink) -> bool {
        let now = (self.taken + sink.written(), self.waits);
        std::mem::replace(&mut self.seen, now) != now
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use super::*;

    /// What a scripted source does at the next asking.
    enum Turn {
        Data(&'static [u8]),
        NothingYet,
        Fault(SourceFault),
    }

    /// Does its turns and then ends.
    struct Scripted {
        turns: VecDeque<Turn>,
        trailers: Fields,
    }

    fn scripted(turns: impl Into<VecDeque<Turn>>) -> Scripted {
        Scripted { turns: turns.into(), trailers: Fields::default() }
    }

    impl Source for Scripted {
        fn poll_ready(&mut self, _: &mut Context<'_>, _: bool) -> Poll<Result<Piece, SourceFault>> {
            match self.turns.front() {
                None => Poll::Ready(Ok(Piece::End)),
                Some(Turn::Data(_)) => Poll::Ready(Ok(Piece::Data)),
                Some(Turn::Fault(fault)) => Poll::Ready(Err(*fault)),
                Some(Turn::NothingYet) => {
                    self.turns.pop_front();
                    Poll::Pending
                }
            }
        }

        fn data(&self) -> &[u8] {
            match self.turns.front() {
                Some(Turn::Data(data)) => data,
                _ => &[],
            }
        }

        fn consume(&mut self, count: usize) {
            let Some(Turn::Data(data)) = self.turns.pop_front() else { panic!("only data is consumed") };
            if count < data.len() {
                self.turns.push_front(Turn::Data(&data[count..]));
            }
        }

        fn take_trailers(&mut self) -> Fields {
            std::mem::take(&mut self.trailers)
        }
    }

    /// Holds what it takes until it is flushed, and takes no more than it has room for.
    #[derive(Default)]
    struct Holding {
        held: Vec<u8>,
        flushed: Vec<u8>,
        room: usize,
        stuck: bool,
        broken: bool,
        ended: bool,
    }

    impl Sink for Holding {
        fn poll_data(&mut self, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let count = data.len().min(self.room);
            if count == 0 {
                return Poll::Pending;
            }
            self.room -= count;
            self.held.extend_from_slice(&data[..count]);
            Poll::Ready(Ok(count))
        }

        fn end(&mut self, _: &Fields) {
            self.ended = true;
        }

        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.stuck {
                return Poll::Pending;
            }
            self.flushed.append(&mut self.held);
            Poll::Ready(Ok(()))
        }

        fn written(&self) -> u64 {
            self.flushed.len() as u64
        }
    }

    fn with_room(room: usize) -> Holding {
        Holding { room, ..Holding::default() }
    }

    fn poll(pump: &mut Pump, source: &mut Scripted, sink: &mut Holding) -> Poll<Result<(), PumpFault>> {
        pump.poll(&mut Context::from_waker(Waker::noop()), source, sink)
    }

    #[test]
    fn it_is_done_when_everything_is_flushed() {
        let (mut source, mut sink) = (scripted([Turn::Data(b"one"), Turn::Data(b"two")]), with_room(100));
        let mut pump = Pump::default();
        sink.stuck = true;
        assert!(poll(&mut pump, &mut source, &mut sink).is_pending());
        assert!(sink.ended && pump.is_running() && !pump.is_done() && pump.waits == Waits::ForSink);
        sink.stuck = false;
        assert!(matches!(poll(&mut pump, &mut source, &mut sink), Poll::Ready(Ok(()))));
        assert!(pump.is_done() && pump.taken == 6 && sink.flushed == b"onetwo");
    }

    #[test]
    fn what_there_is_does_not_wait_for_what_comes() {
        let (mut source, mut sink) = (scripted([Turn::Data(b"now"), Turn::NothingYet]), with_room(100));
        let mut pump = Pump::default();
        assert!(poll(&mut pump, &mut source, &mut sink).is_pending());
        assert_eq!((&*sink.flushed, sink.ended, pump.waits), (&b"now"[..], false, Waits::ForSource));
    }

    #[test]
    fn what_is_not_taken_stays_with_the_source() {
        let (mut source, mut sink) = (scripted([Turn::Data(b"12345")]), with_room(2));
        let mut pump = Pump::default();
        assert!(poll(&mut pump, &mut source, &mut sink).is_pending());
        assert_eq!((pump.taken, source.data(), pump.waits), (2, &b"345"[..], Waits::ForSink));
        sink.room = 100;
        assert!(matches!(poll(&mut pump, &mut source, &mut sink), Poll::Ready(Ok(()))));
        assert_eq!(sink.flushed, b"12345");
    }

    #[test]
    fn a_new_wait_begins_with_each_byte_and_with_a_change_of_sides_only() {
        let mut source = scripted([Turn::NothingYet, Turn::NothingYet, Turn::Data(b"ab"), Turn::NothingYet]);
        let (mut sink, mut pump) = (with_room(0), Pump::default());
        let mut moves = |room| {
            sink.room = room;
            assert!(poll(&mut pump, &mut source, &mut sink).is_pending());
            pump.has_moved(&sink)
        };
        assert_eq!([moves(0), moves(0)], [false, false], "the source says nothing");
        assert!(moves(0), "the sink is waited for now");
        assert!(!moves(0), "and it goes on");
        assert!(moves(1), "one byte went");
        assert!(moves(1), "the other went, and the source is waited for");
    }

    #[test]
    fn a_fault_says_whose_it_is() {
        for fault in [SourceFault::Cut, SourceFault::Malformed, SourceFault::TooLarge] {
            let (mut source, mut sink) = (scripted([Turn::Data(b"a"), Turn::Fault(fault)]), with_room(100));
            let faulty = poll(&mut Pump::default(), &mut source, &mut sink);
            assert!(matches!(faulty, Poll::Ready(Err(PumpFault::Source(found))) if found == fault), "{faulty:?}");
            assert!(!sink.ended, "a body that is cut is never ended");
        }
        let mut sink = Holding { broken: true, ..Holding::default() };
        let faulty = poll(&mut Pump::default(), &mut scripted([Turn::Data(b"a")]), &mut sink);
        assert!(matches!(faulty, Poll::Ready(Err(PumpFault::Sink))), "{faulty:?}");
    }

    #[test]
    fn a_body_is_sent_again_from_its_beginning_and_then_goes_on() {
        let mut source = scripted([Turn::Data(b"one "), Turn::Data(b"two "), Turn::NothingYet, Turn::Data(b"three")]);
        let (mut kept, mut first, mut second) = (Kept::default(), with_room(100), with_room(6));
        kept.keep();
        let mut attempt = |kept: &mut Kept, pump: &mut Pump, sink: &mut Holding| {
            let mut source = Repeating { kept, source: &mut source };
            pump.poll(&mut Context::from_waker(Waker::noop()), &mut source, sink).is_ready()
        };
        assert!(!attempt(&mut kept, &mut Pump::default(), &mut first));
        assert_eq!(first.flushed, b"one two ");
        kept.rewind();
        let mut pump = Pump::default();
        assert!(!attempt(&mut kept, &mut pump, &mut second));
        second.room = 100;
        assert!(attempt(&mut kept, &mut pump, &mut second));
        assert_eq!((&*second.flushed, pump.taken), (&b"one two three"[..], 13));
    }

    #[test]
    fn an_abandoned_pump_touches_neither_side() {
        let (mut source, mut sink) = (scripted([Turn::Data(b"rest")]), with_room(100));
        let mut pump = Pump::default();
        pump.abandon();
        assert!(matches!(poll(&mut pump, &mut source, &mut sink), Poll::Ready(Ok(()))));
        assert!(!pump.is_done() && !pump.is_running() && sink.flushed.is_empty() && !sink.ended);
    }
}
