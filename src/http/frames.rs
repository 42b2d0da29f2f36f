//! The meter of HTTP/2 frames that cost their sender less than us (security.md R19, R24).
//!
//! It stands under the `h2` crate, sees the bytes of both directions in any pieces, and looks at the nine bytes that each
//! frame begins with; payloads are passed over, never copied. Every kind of frame that a peer can send without end has a
//! budget. It fills up with time, and with what we send: somebody whom we serve much may say much about it. Who uses one
//! up is to be told ENHANCE_YOUR_CALM, and closed.
//!
//! It also tells since when a block of fields, or the head of a frame, is under way: nothing else can come before its end, so
//! a peer that stops in the middle has to have a deadline.

use std::fmt;
use std::time::Duration;

use crate::clock::Instant;

/// What every frame begins with (RFC 9113 §4.1).
const HEAD: usize = 9;
/// What a client sends before its first frame (RFC 9113 §3.4).
const PREFACE: u32 = 24;
/// The most that is saved up of what is earned. A peer answers what we send a round trip later, so that much of it may be
/// under way at once: a full socket buffer of small frames.
const MOST_SAVED: u32 = 100_000;
/// How often budgets are filled up.
const PERIOD: Duration = Duration::from_secs(1);

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The peer is a client: a preface comes before its frames.
    Server,
    /// The peer is a backend: we send the preface.
    Client,
}

/// What a peer sent too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flood {
    /// HEADERS: streams that were opened and not answered.
    Headers,
    /// RST_STREAM.
    Reset,
    /// SETTINGS and their acknowledgements.
    Settings,
    /// PING and their answers.
    Ping,
    /// WINDOW_UPDATE.
    WindowUpdate,
    /// CONTINUATION.
    Continuation,
    /// DATA without a byte of data that do not end their stream.
    EmptyData,
    /// PRIORITY, and frames of kinds that nobody here knows.
    Priority,
}

/// All of them, in the order of their numbers.
const KINDS: usize = 8;

/// What a kind of frame may cost.
struct Budget {
    /// What a connection begins with, and time fills up to.
    burst: u32,
    /// What comes with each second.
    a_second: u32,
    /// What comes with each stream that the peer opens or, towards a backend, answers.
    a_head: u32,
    /// What comes with each stream that we have said all on: answered, or asked.
    a_stream: u32,
    /// What comes with each DATA frame that we send.
    a_data: u32,
    /// What comes with each KiB of data that we send.
    a_kib: u32,
}

impl Flood {
    /// The kind of frame, and what is wrong with so many.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Flood::Headers => "More HEADERS frames came than streams are served.",
            Flood::Reset => "Too many streams were reset.",
            Flood::Settings => "Too many SETTINGS frames came.",
            Flood::Ping => "Too many PING frames came.",
            Flood::WindowUpdate => "More WINDOW_UPDATE frames came than there was data to take.",
            Flood::Continuation => "Too many CONTINUATION frames came.",
            Flood::EmptyData => "Too many empty DATA frames came.",
            Flood::Priority => "Too many PRIORITY or unknown frames came.",
        }
    }

    /// Bursts are some ten times what browsers, curl, nghttp2 and gRPC do when they are at their worst, and seconds bring
    /// what an attack could not live on.
    const fn budget(self) -> Budget {
        const NONE: Budget = Budget { burst: 0, a_second: 0, a_head: 0, a_stream: 0, a_data: 0, a_kib: 0 };
        match self {
            // An answer of a backend may have interim heads before and trailer fields behind it.
            Flood::Headers => Budget { burst: 1000, a_second: 100, a_stream: 4, ..NONE },
            // A closed tab resets up to a hundred streams at once, a gRPC client all whose deadline is over. One that
            // hedges its requests resets about as many as are answered.
            Flood::Reset => Budget { burst: 500, a_second: 100, a_stream: 1, ..NONE },
            // gRPC changes its window as it learns about the path.
            Flood::Settings => Budget { burst: 100, a_second: 10, ..NONE },
            // gRPC measures the path with one for what it reads, but never with two at once.
            Flood::Ping => Budget { burst: 200, a_second: 10, a_data: 1, ..NONE },
            // Firefox widens each stream when it opens it; h2load answers each DATA for the stream and for the connection, and
            // Go each piece that its program reads.
            Flood::WindowUpdate => Budget { burst: 1000, a_second: 100, a_head: 2, a_data: 2, a_kib: 2, ..NONE },
            // Heads of 32 KiB need one or two.
            Flood::Continuation => Budget { burst: 100, a_second: 10, a_stream: 2, ..NONE },
            // Nobody needs them.
            Flood::EmptyData => Budget { burst: 100, a_second: 10, ..NONE },
            // Older browsers and nghttp2 arrange streams in a tree, newer ones send PRIORITY_UPDATE and frames of kinds that
            // do not exist, so that nobody forgets to pass over them.
            Flood::Priority => Budget { burst: 500, a_second: 50, a_head: 4, ..NONE },
        }
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why())
    }
}

impl std::error::Error for Flood {}

const ALL: [Flood; KINDS] = [
    Flood::Headers,
    Flood::Reset,
    Flood::Settings,
    Flood::Ping,
    Flood::WindowUpdate,
    Flood::Continuation,
    Flood::EmptyData,
    Flood::Priority,
];

/// The budgets, each with its kind's number for its place.
static BUDGETS: [Budget; KINDS] = {
    let mut budgets = [const { Flood::Headers.budget() }; KINDS];
    let mut at = 0;
    while at < KINDS {
        budgets[at] = ALL[at].budget();
        at += 1;
    }
    budgets
};

/// The meter of one connection.
#[derive(Clone, Debug)]
pub struct Meter {
    received: Walk,
    sent: Walk,
    /// What is left of each budget.
    left: [u32; KINDS],
    /// When they were last filled up.
    filled: Instant,
    /// Since when the peer is in the middle of what it has to end before anything else.
    unfinished: Option<Instant>,
}

impl Meter {
    /// One for a connection on which nothing was said yet.
    #[must_use]
    pub fn new(side: Side, now: Instant) -> Meter {
        let (received, sent) = match side {
            Side::Server => (PREFACE, 0),
            Side::Client => (0, PREFACE),
        };
        let left = std::array::from_fn(|at| BUDGETS[at].burst);
        Meter { received: Walk::behind(received), sent: Walk::behind(sent), left, filled: now, unfinished: None }
    }

    /// Since when a block of fields or the head of a frame is under way from the peer, all CONTINUATION frames included.
    #[must_use]
    pub fn unfinished(&self) -> Option<Instant> {
        self.unfinished
    }

    /// Hears what the peer sent, after TLS, in any pieces.
    ///
    /// # Errors
    /// The peer has sent too many frames of this kind; the connection is to be closed.
    pub fn feed(&mut self, bytes: &[u8], now: Instant) -> Result<(), Flood> {
        self.fill(now);
        let mut rest = bytes;
        let mut before = self.received.middle();
        while let Some(frame) = self.received.next(&mut rest) {
            if frame != Frame::Other(Flood::Continuation) {
                self.unfinished = None;
            }
            before = Middle::Nothing;
            self.take(frame)?;
        }
        self.unfinished = match self.received.middle() {
            Middle::Nothing => None,
            // What came before it was ended by these bytes.
            Middle::Head if before != Middle::Head => Some(now),
            Middle::Head | Middle::Block => self.unfinished.or(Some(now)),
        };
        Ok(())
    }

    /// Hears what we sent, before TLS, in any pieces.
    pub fn sent(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(frame) = self.sent.next(&mut rest) {
            match frame {
                Frame::Data { ends, data } => {
                    if data > 0 {
                        self.earn(|budget| budget.a_data + budget.a_kib * (data / 1024));
                    }
                    if ends {
                        self.earn(|budget| budget.a_stream);
                    }
                }
                Frame::Headers { ends: true } => self.earn(|budget| budget.a_stream),
                Frame::Headers { ends: false } | Frame::Other(_) => {}
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), Flood> {
        match frame {
            Frame::Data { ends: false, data: 0 } => self.spend(Flood::EmptyData),
            Frame::Data { .. } => Ok(()),
            Frame::Headers { .. } => {
                self.spend(Flood::Headers)?;
                self.earn(|budget| budget.a_head);
                Ok(())
            }
            Frame::Other(kind) => self.spend(kind),
        }
    }

    fn spend(&mut self, kind: Flood) -> Result<(), Flood> {
        let left = &mut self.left[kind as usize];
        *left = left.checked_sub(1).ok_or(kind)?;
        Ok(())
    }

    fn earn(&mut self, how_much: impl Fn(&Budget) -> u32) {
        for (left, budget) in self.left.iter_mut().zip(&BUDGETS) {
            *left = (*left).max(MOST_SAVED.min(*left + how_much(budget)));
        }
    }

    fn fill(&mut self, now: Instant) {
        let seconds = now.since(self.filled).as_secs();
        if seconds == 0 {
            return;
        }
        self.filled = self.filled + PERIOD * u32::try_from(seconds).unwrap_or(u32::MAX);
        for (left, budget) in self.left.iter_mut().zip(&BUDGETS) {
            let more = u64::from(budget.a_second).saturating_mul(seconds);
            let full = u64::from(*left).saturating_add(more).min(u64::from(budget.burst));
            *left = (*left).max(u32::try_from(full).unwrap_or(budget.burst));
        }
    }
}

/// What of a frame is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    Data { ends: bool, data: u32 },
    Headers { ends: bool },
    Other(Flood),
}

/// What has begun in one direction and has to end before anything else can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Middle {
    Nothing,
    /// A frame's nine first bytes.
    Head,
    /// A block of fields.
    Block,
}

/// How far a block of fields is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// The latest frame is of none.
    None,
    /// More of it comes in another frame.
    Open,
    /// It ends with the latest frame.
    Last,
}

/// Walks over the frames of one direction.
#[derive(Clone, Debug)]
struct Walk {
    /// How much of the payload is still to be passed over.
    skip: u32,
    /// What is there of the next head.
    head: [u8; HEAD],
    has: u8,
    /// The data and padding of a padded DATA frame, the length of whose padding comes next.
    padded: Option<u32>,
    block: Block,
}

impl Walk {
    /// One that begins behind so many bytes.
    fn behind(skip: u32) -> Walk {
        Walk { skip, head: [0; HEAD], has: 0, padded: None, block: Block::None }
    }

    fn middle(&self) -> Middle {
        match self.block {
            Block::Open => Middle::Block,
            Block::Last if self.skip > 0 => Middle::Block,
            Block::None | Block::Last if self.has > 0 => Middle::Head,
            Block::None | Block::Last => Middle::Nothing,
        }
    }

    /// The next frame that begins in `rest`, which is shortened by what was looked at; `None` at its end.
    fn next(&mut self, rest: &mut &[u8]) -> Option<Frame> {
        loop {
            if let Some(length) = self.padded
                && let Some((&padding, behind)) = rest.split_first()
            {
                *rest = behind;
                self.padded = None;
                self.skip = length;
                return Some(Frame::Data {
                    ends: self.head[4] & END_STREAM != 0,
                    data: length.saturating_sub(padding.into()),
                });
            }
            let passed = rest.len().min(self.skip as usize);
            *rest = &rest[passed..];
            self.skip -= passed as u32;
            if rest.is_empty() {
                return None;
            }
            self.gather(rest)?;
            if let Some(frame) = self.begin() {
                return Some(frame);
            }
        }
    }

    /// Puts the head together; `None` where it goes on beyond the input.
    fn gather(&mut self, rest: &mut &[u8]) -> Option<()> {
        let has = self.has as usize;
        let taken = rest.len().min(HEAD - has);
        let (head, behind) = rest.split_at(taken);
        self.head[has..has + taken].copy_from_slice(head);
        *rest = behind;
        self.has = ((has + taken) % HEAD) as u8;
        (self.has == 0).then_some(())
    }

    /// Begins the frame whose head is there; `None` where it takes one more byte to know what it is.
    fn begin(&mut self) -> Option<Frame> {
        let [long, middle, short, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, long, middle, short]);
        let ends = flags & END_STREAM != 0;
        self.block = match kind {
            0x1 | 0x9 if flags & END_HEADERS == 0 => Block::Open,
            0x1 | 0x9 => Block::Last,
            _ => Block::None,
        };
        if kind == 0x0 && flags & PADDED != 0 && length > 0 {
            self.padded = Some(length - 1);
            return None;
        }
        self.skip = length;
        Some(match kind {
            0x0 => Frame::Data { ends, data: length },
            0x1 => Frame::Headers { ends },
            0x3 => Frame::Other(Flood::Reset),
            0x4 => Frame::Other(Flood::Settings),
            0x6 => Frame::Other(Flood::Ping),
            0x8 => Frame::Other(Flood::WindowUpdate),
            0x9 => Frame::Other(Flood::Continuation),
            _ => Frame::Other(Flood::Priority),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Instant = Instant::ORIGIN;
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const PRIORITY: u8 = 2;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;
    const CONTINUATION: u8 = 9;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// A meter behind the preface.
    fn begun() -> Meter {
        let mut meter = Meter::new(Side::Server, NOW);
        meter.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", NOW).unwrap();
        meter
    }

    /// How many of these come before it is too much.
    fn endured(frame: &[u8]) -> (u32, Flood) {
        let mut meter = begun();
        for count in 0..10_000 {
            if let Err(flood) = meter.feed(frame, NOW) {
                return (count, flood);
            }
        }
        panic!("nobody stops {frame:?}");
    }

    #[test]
    fn each_kind_of_flood_is_told_by_its_name() {
        assert_eq!(endured(&frame(HEADERS, 4, b"x")), (1000, Flood::Headers));
        assert_eq!(endured(&frame(RST_STREAM, 0, b"1234")), (500, Flood::Reset));
        assert_eq!(endured(&frame(SETTINGS, 0, b"")), (100, Flood::Settings));
        assert_eq!(endured(&frame(SETTINGS, 1, b"")), (100, Flood::Settings));
        assert_eq!(endured(&frame(PING, 0, b"12345678")), (200, Flood::Ping));
        assert_eq!(endured(&frame(WINDOW_UPDATE, 0, b"1234")), (1000, Flood::WindowUpdate));
        assert_eq!(endured(&frame(CONTINUATION, 0, b"")), (100, Flood::Continuation));
        assert_eq!(endured(&frame(PRIORITY, 0, b"12345")), (500, Flood::Priority));
        assert_eq!(endured(&frame(0xbb, 0, b"?")), (500, Flood::Priority));
        for empty in [frame(DATA, 0, b""), frame(DATA, PADDED, b"\0"), frame(DATA, PADDED, b"\x03\0\0\0")] {
            assert_eq!(endured(&empty), (100, Flood::EmptyData));
        }
    }

    #[test]
    fn a_block_is_under_way_from_its_first_frame_to_its_end() {
        let at = |second| NOW + Duration::from_secs(second);
        let mut meter = begun();
        let mut hears = |bytes: &[u8], second| {
            meter.feed(bytes, at(second)).unwrap();
            meter.unfinished()
        };
        let whole = frame(HEADERS, END_HEADERS, b"12345");
        assert_eq!(hears(&whole, 0), None);
        assert_eq!(hears(&whole[..3], 1), Some(at(1)), "a part of a frame's head");
        assert_eq!(hears(&whole[3..11], 2), Some(at(2)), "a part of a block");
        assert_eq!(hears(&whole[11..], 3), None);
        assert_eq!(hears(&frame(HEADERS, 0, b"x"), 4), Some(at(4)), "it does not say that it ends");
        let more = frame(CONTINUATION, 0, b"x");
        assert_eq!(hears(&more, 5), Some(at(4)));
        assert_eq!(hears(&more[..4], 6), Some(at(4)));
        assert_eq!(hears(&more[4..], 7), Some(at(4)));
        let last = frame(CONTINUATION, END_HEADERS, b"xyz");
        assert_eq!(hears(&last[..10], 8), Some(at(4)));
        assert_eq!(hears(&[&last[10..], &whole[..1]].concat(), 9), Some(at(9)), "the next one");
        assert_eq!(hears(&[&whole[1..], &whole[..10]].concat(), 10), Some(at(10)), "one after the other");
        assert_eq!(hears(&whole[10..], 11), None);
        assert_eq!(hears(&frame(DATA, 0, b"12345")[..11], 12), None, "a body has its own deadline");
    }

    #[test]
    fn every_kind_stands_at_its_number() {
        for (at, kind) in ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
            assert!(!kind.to_string().is_empty());
        }
    }

    #[test]
    fn data_is_never_too_much() {
        let mut meter = begun();
        for _ in 0..10_000 {
            meter.feed(&frame(DATA, 0, b"x"), NOW).unwrap();
            meter.feed(&frame(DATA, PADDED, b"\x02x\0\0"), NOW).unwrap();
            meter.feed(&frame(DATA, END_STREAM, b""), NOW).unwrap();
            meter.feed(&frame(DATA, PADDED | END_STREAM, b"\0"), NOW).unwrap();
        }
    }

    #[test]
    fn rapid_reset_ends_soon_however_it_is_spread() {
        let reset = [frame(HEADERS, 5, b"x"), frame(RST_STREAM, 0, b"1234")].concat();
        let mut meter = begun();
        let survived = (0..100_000).find(|_| meter.feed(&reset, NOW).is_err());
        assert_eq!(survived, Some(500));
        // at a thousand a second
        let mut meter = begun();
        let survived = (0u64..100_000).find(|&at| meter.feed(&reset, NOW + Duration::from_millis(at)).is_err());
        assert!(survived.is_some_and(|survived| survived < 1000));
    }

    #[test]
    fn time_fills_budgets_up_and_not_over() {
        let ping = frame(PING, 0, b"12345678");
        let mut meter = begun();
        let second = |count: u64| NOW + Duration::from_secs(count);
        for at in 0..1000 {
            for _ in 0..10 {
                meter.feed(&ping, second(at)).unwrap();
            }
        }
        let later = second(1_000_000_000);
        let endured = (0..10_000).find(|_| meter.feed(&ping, later).is_err());
        assert_eq!(endured, Some(200));
    }

    #[test]
    fn a_client_that_answers_every_data_frame_is_served_for_ever() {
        let asks = [frame(HEADERS, 5, b"x"), frame(WINDOW_UPDATE, 0, b"1234")].concat();
        let answer = [frame(HEADERS, 4, b"x"), frame(DATA, END_STREAM, b"hello")].concat();
        let thanks = [
            frame(WINDOW_UPDATE, 0, b"1234"),
            frame(WINDOW_UPDATE, 0, b"1234"),
            frame(PING, 0, b"12345678"),
            frame(PRIORITY, 0, b"12345"),
            frame(PRIORITY, 0, b"12345"),
        ]
        .concat();
        let mut meter = begun();
        for _ in 0..10_000 {
            meter.feed(&asks.repeat(16), NOW).unwrap();
            meter.sent(&answer.repeat(16));
            meter.feed(&thanks.repeat(16), NOW).unwrap();
        }
    }

    #[test]
    fn a_long_stream_of_small_messages_may_be_measured_and_widened() {
        let mut meter = begun();
        meter.feed(&frame(HEADERS, 4, b"x"), NOW).unwrap();
        let thanks = [frame(WINDOW_UPDATE, 0, b"1234").repeat(2), frame(PING, 0, b"12345678")].concat();
        for _ in 0..100 {
            meter.sent(&frame(DATA, 0, b"12345").repeat(10_000));
            meter.feed(&thanks.repeat(10_000), NOW).unwrap();
        }
        assert_eq!(meter.feed(&thanks.repeat(1001), NOW), Err(Flood::Ping));
    }

    #[test]
    fn large_frames_may_be_taken_in_small_pieces() {
        let mut meter = begun();
        for _ in 0..1000 {
            meter.sent(&frame(DATA, 0, &[0; 16 * 1024]));
            meter.feed(&frame(WINDOW_UPDATE, 0, b"1234").repeat(32), NOW).unwrap();
        }
    }

    #[test]
    fn a_backend_may_answer_with_interim_heads_and_trailers() {
        let mut meter = Meter::new(Side::Client, NOW);
        meter.sent(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        for _ in 0..100_000 {
            meter.sent(&frame(HEADERS, 5, b"x"));
            let answer = [frame(HEADERS, 4, b"x").repeat(2), frame(DATA, 0, b"x"), frame(HEADERS, 5, b"x")].concat();
            meter.feed(&answer, NOW).unwrap();
        }
    }

    fn some_frame() -> impl Strategy<Value = Vec<u8>> {
        let payload = proptest::collection::vec(any::<u8>(), 0..40);
        (0..12u8, any::<u8>(), payload).prop_map(|(kind, flags, payload)| frame(kind, flags, &payload))
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_they_are_split(
            frames in proptest::collection::vec(some_frame(), 0..40), sizes in proptest::collection::vec(1..30usize, 1..20)
        ) {
            let bytes = frames.concat();
            let (mut whole, mut split) = (begun(), begun());
            whole.feed(&bytes, NOW).unwrap();
            whole.sent(&bytes);
            let (mut rest, mut sizes) = (&bytes[..], sizes.iter().cycle());
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(rest.len().min(*sizes.next().expect("a cycle has no end")));
                split.feed(piece, NOW).unwrap();
                rest = behind;
            }
            let mut bytewise = split.clone();
            split.sent(&bytes);
            bytes.chunks(1).for_each(|byte| bytewise.sent(byte));
            prop_assert_eq!(whole.left, split.left);
            prop_assert_eq!(bytewise.left, split.left);
            prop_assert_eq!((whole.received.skip, whole.received.has, whole.received.padded), (0, 0, None));
        }

        #[test]
        fn any_bytes_are_walked_over_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut meter = Meter::new(Side::Client, NOW);
            let _ = meter.feed(&bytes, NOW);
            meter.sent(&bytes);
        }
    }
}
