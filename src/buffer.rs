//! Byte buffers of a worker: taken when bytes move, given back when nothing waits in them.
//!
//! A [`Buffer`] is a window of unread bytes in a block of memory. Blocks come in sizes that double from 16 KiB to
//! 256 KiB; [`Blocks`] keeps a bounded number of free ones of each size, so a warm worker allocates none and an idle
//! connection holds none. How much may be out in blocks larger than the smallest is bounded too. Which size a sender's
//! bytes are read in is its [`Stride`]'s to say.

use std::cell::{Cell, RefCell};

/// The size of the smallest block, in bytes.
pub const SMALLEST: usize = 16 * 1024;
/// The size of the largest block, in bytes. Measured: past 256 KiB reads get no cheaper, the cache misses begin.
pub const LARGEST: usize = 256 * 1024;
/// From this stride on bytes had better go through a pipe, where both ends allow it.
const PIPED: usize = 64 * 1024;

const SIZES: usize = (LARGEST / SMALLEST).trailing_zeros() as usize + 1;

/// How many bytes a worker may have lent out at once in blocks that are larger than the smallest. Large blocks save system
/// calls where much moves; a connection whose client takes nothing holds its block without any use. Without a bound, 250 of
/// those held 100 MiB.
const LENT_BYTES: usize = 8 * 1024 * 1024;

/// How many bytes of free blocks are kept per size.
const KEPT_BYTES: usize = 2 * 1024 * 1024;

/// A window of unread bytes in a block of memory.
#[derive(Debug)]
pub struct Buffer {
    block: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn new(size: usize) -> Buffer {
        Buffer { block: vec![0; size].into_boxed_slice(), start: 0, end: 0 }
    }

    /// The unread bytes.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.block[self.start..self.end]
    }

    /// Whether nothing is unread.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether no byte more fits, even after moving.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.end - self.start == self.block.len()
    }

    /// The size of its block, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.block.len()
    }

    /// Takes the first `count` unread bytes away.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start, "only unread bytes are consumed");
        self.start += count;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Where further bytes go; moves the unread ones to the front when the block's end is reached.
    pub fn space(&mut self) -> &mut [u8] {
        if self.end == self.block.len() && self.start > 0 {
            self.block.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.block[self.end..]
    }

    /// Says that `count` bytes were put into [`Buffer::space`].
    pub fn filled(&mut self, count: usize) {
        debug_assert!(count <= self.block.len() - self.end, "bytes fit where they were put");
        self.end += count;
    }

    /// Copies as much of `bytes` in as fits; says how many.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let space = self.space();
        let count = space.len().min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        self.filled(count);
        count
    }
}

/// The free blocks of one worker.
#[derive(Debug, Default)]
pub struct Blocks {
    free: RefCell<[Vec<Buffer>; SIZES]>,
    /// Bytes in blocks larger than the smallest that are out. A block that a panic takes along stays counted: that costs
    /// speed and nothing else.
    lent: Cell<usize>,
}

impl Blocks {
    /// An empty buffer with a block of `size` bytes, one of the doubling sizes.
    #[must_use]
    pub fn take(&self, size: usize) -> Buffer {
        let free = self.free.borrow_mut()[class(size)].pop();
        let buffer = free.unwrap_or_else(|| Buffer::new(SMALLEST << class(size)));
        self.lent.set(self.lent.get() + large(buffer.size()));
        buffer
    }

    /// An empty buffer with a block of `size` bytes, or a smaller one where there are too many large ones out.
    #[must_use]
    pub fn take_at_most(&self, size: usize) -> Buffer {
        let left = LENT_BYTES.saturating_sub(self.lent.get());
        let mut size = size;
        while size > SMALLEST && size > left {
            size /= 2;
        }
        self.take(size)
    }

    /// Takes a buffer back; what was unread in it is forgotten.
    pub fn give(&self, mut buffer: Buffer) {
        buffer.start = 0;
        buffer.end = 0;
        self.lent.set(self.lent.get().saturating_sub(large(buffer.size())));
        let free = &mut self.free.borrow_mut()[class(buffer.size())];
        if free.len() * buffer.size() < KEPT_BYTES {
            free.push(buffer);
        }
    }
}

/// How much to read at once from a sender: twice as much each time that so much was passed on at once, half when the sender
/// stalls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stride {
    /// How often [`SMALLEST`] is doubled: small, because every idle connection has one.
    doublings: u8,
    /// What went through pipes since the size last changed.
    piped: u32,
    /// Nothing of what is expected has been waited for.
    fresh: bool,
}

impl Stride {
    /// The size of the next block.
    #[must_use]
    pub fn size(self) -> usize {
        SMALLEST << self.doublings
    }

    /// Whether a pipe is better than a block: two system calls more are less than copying so much.
    #[must_use]
    pub fn is_for_pipes(self) -> bool {
        self.size() >= PIPED
    }

    /// So many bytes are known to come. That they may not have come yet is no stall.
    pub fn expect(&mut self, count: u64) {
        self.fresh = count >= PIPED as u64;
        if self.fresh {
            self.widen(PIPED);
        }
    }

    /// A block of this size was filled and passed on whole, at once.
    pub fn passed(&mut self, block: usize) {
        self.widen(block * 2);
    }

    /// So many bytes went through a pipe at once. A pipe has places for sixteen pieces: of small ones, a block takes more.
    pub fn piped(&mut self, count: usize) {
        if count < SMALLEST {
            return self.stalled();
        }
        self.piped = self.piped.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        if self.piped as usize >= self.size() {
            self.widen(self.size() * 2);
            self.piped = 0;
        }
    }

    /// At least to this size, as far as there are such blocks.
    fn widen(&mut self, size: usize) {
        while self.size() < size.min(LARGEST) {
            self.doublings += 1;
        }
    }

    /// The sender has nothing more for now.
    pub fn stalled(&mut self) {
        let doublings = if self.fresh { self.doublings } else { self.doublings.saturating_sub(1) };
        *self = Stride { doublings, ..Stride::default() };
    }
}

/// What a block of this size counts as a large one.
fn large(size: usize) -> usize {
    if size > SMALLEST { size } else { 0 }
}

fn class(size: usize) -> usize {
    (size.clamp(SMALLEST, LARGEST) / SMALLEST).next_power_of_two().trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_bytes_move_to_the_front_when_the_end_is_reached() {
        let blocks = Blocks::default();
        let mut buffer = blocks.take(SMALLEST);
        assert_eq!(buffer.put(&[7; SMALLEST]), SMALLEST);
        assert!(buffer.is_full());
        buffer.consume(SMALLEST - 3);
        assert_eq!(buffer.put(b"abc"), 3);
        assert_eq!(buffer.data(), [7, 7, 7, b'a', b'b', b'c']);
    }

    #[test]
    fn a_given_block_is_taken_again_without_its_bytes() {
        let blocks = Blocks::default();
        let mut buffer = blocks.take(SMALLEST * 4);
        buffer.put(b"secret");
        let block = buffer.block.as_ptr();
        blocks.give(buffer);
        let again = blocks.take(SMALLEST * 4);
        assert_eq!(again.block.as_ptr(), block);
        assert!(again.is_empty());
        assert_eq!(again.size(), SMALLEST * 4);
    }

    #[test]
    fn only_so_much_is_lent_in_large_blocks_and_the_rest_gets_small_ones() {
        let blocks = Blocks::default();
        let held: Vec<_> = (0..250).map(|_| blocks.take_at_most(LARGEST)).collect();
        let large = held.iter().filter(|buffer| buffer.size() == LARGEST).count();
        let small = held.iter().filter(|buffer| buffer.size() == SMALLEST).count();
        assert_eq!((large, small), (LENT_BYTES / LARGEST, 250 - LENT_BYTES / LARGEST));
        assert_eq!(blocks.take(2 * SMALLEST).size(), 2 * SMALLEST, "who needs one gets it");
        held.into_iter().for_each(|buffer| blocks.give(buffer));
        assert_eq!(blocks.take_at_most(LARGEST).size(), LARGEST);
    }

    #[test]
    fn a_stride_doubles_by_what_is_passed_on_whole_and_halves_when_the_sender_stalls() {
        let mut stride = Stride::default();
        for _ in 0..2 {
            assert!(!stride.is_for_pipes());
            stride.passed(stride.size());
        }
        assert!(stride.is_for_pipes());
        stride.piped(PIPED - SMALLEST);
        assert_eq!(stride.size(), PIPED);
        stride.piped(SMALLEST);
        assert_eq!(stride.size(), 2 * PIPED);
        for _ in 0..9 {
            stride.piped(LARGEST);
        }
        assert_eq!(stride.size(), LARGEST);
        stride.passed(SMALLEST);
        assert_eq!(stride.size(), LARGEST, "a smaller block than wanted was all there was");
        stride.piped(SMALLEST - 1);
        assert_eq!(stride.size(), LARGEST / 2, "a block would have taken more");
        for _ in 0..9 {
            stride.stalled();
        }
        assert_eq!(stride, Stride::default());
        stride.expect(PIPED as u64 - 1);
        assert_eq!(stride.size(), SMALLEST);
        stride.expect(PIPED as u64);
        stride.stalled();
        assert!(stride.is_for_pipes(), "the first bytes may be on their way");
        stride.stalled();
        assert!(!stride.is_for_pipes());
    }

    #[test]
    fn free_blocks_are_bounded() {
        let blocks = Blocks::default();
        for _ in 0..200 {
            blocks.give(Buffer::new(SMALLEST));
        }
        assert_eq!(blocks.free.borrow()[0].len(), KEPT_BYTES / SMALLEST);
    }
}
