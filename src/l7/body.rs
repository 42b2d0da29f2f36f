//! Bodies on the way: a source that yields pieces, a sink that takes them, and the pump between the two.
//!
//! The pump knows only [`Source`] and [`Sink`], whatever protocol is behind them. Pieces are lent from the source's buffer
//! and written from there.

use std::io;
use std::task::{Context, Poll, ready};

use crate::http::Fields;

/// A body that comes in.
pub trait Source {
    /// What there is next; `Data` until all of it is consumed.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, SourceFault>>;
    /// The data that is ready.
    fn data(&self) -> &[u8];
    /// Takes the first bytes of the data away.
    fn consume(&mut self, count: usize);
    /// The trailer fields, complete at the end.
    fn trailers(&self) -> &Fields;
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
}

/// Where a body goes.
pub trait Sink {
    /// Takes some of `data`; says how many bytes.
    fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>>;
    /// Ends the body.
    fn end(&mut self, trailers: &Fields);
    /// Ready when everything taken is with the kernel.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Bytes written so far, to see whether anything moves.
    fn written(&self) -> u64;
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
    /// How far it was when it was last asked whether anything moves.
    seen: (u64, Waits),
}

impl Default for Pump {
    fn default() -> Self {
        Pump { course: Course::Running, waits: Waits::ForSource, taken: 0, seen: (0, Waits::ForSource) }
    }
}

impl Pump {
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
        match source.poll_ready(cx) {
            Poll::Ready(Ok(Piece::Data)) => {
                self.waits = Waits::ForSink;
                let count = ready!(sink.poll_data(cx, source.data())).map_err(|_| PumpFault::Sink)?;
                source.consume(count);
                self.taken += count as u64;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(Piece::End)) => {
                sink.end(source.trailers());
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
