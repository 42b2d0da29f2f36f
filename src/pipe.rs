//! Kernel pipes of a worker: through one, bytes go from a socket to another without being copied to us and back.
//!
//! What splice(2) moves are references to the pages that the bytes came in, so a large body costs less than half of what
//! copying it costs. A [`Pipe`] is held like a buffer, only while something waits in it. [`Pipes`] keeps a few free ones, and
//! bounds how many are out: each takes two descriptors and holds up to 64 KiB of the kernel's memory. One that is not empty
//! is closed and never lent again: what lies in it is one client's.

use std::cell::{Cell, RefCell};
use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::available_parallelism;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use rustix::process::{Resource, getrlimit};

use crate::buffer::Blocks;

/// How many bytes a pipe takes, at most: sixteen pages of references, the kernel's default. Measured: larger ones gain nothing.
const CAPACITY: usize = 64 * 1024;

/// How many pipes of a worker may be out at once, where enough files may be open; who gets none copies.
const MOST_LENT: usize = 256;

/// How many pipes all workers may have out. The kernel allows 1,024 to a user without privileges before it makes them
/// smaller (pipe(7), `pipe-user-pages-soft`); what is kept free counts too.
const MOST_OF_ALL: usize = 768;

/// The pipes of all workers may take one in so many of the files that may be open: connections need them more.
const SHARE: u64 = 16;

/// How many free pipes a worker keeps.
const MOST_FREE: usize = 16;

/// A pipe, and how much waits in it.
#[derive(Debug)]
pub struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
    held: usize,
}

impl Pipe {
    fn new() -> io::Result<Pipe> {
        let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Pipe { output, input, held: 0 })
    }

    /// How many bytes wait in it.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes at most `most` bytes from a socket. 0 says that there is nothing for a pipe, and a read has to tell why: the
    /// socket has nothing or has ended, urgent data is next, which splice never passes, or splice is not allowed.
    ///
    /// # Errors
    /// What the socket says.
    pub fn fill(&mut self, from: impl AsFd, most: usize) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "or a full pipe would look like a socket that has nothing");
        match splice(from, None, &self.input, None, most.min(CAPACITY), SpliceFlags::NONBLOCK) {
            Ok(count) => self.held = count,
            Err(Errno::WOULDBLOCK | Errno::INVAL | Errno::NOSYS | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.held)
    }

    /// Gives a socket what it takes of the bytes that wait.
    ///
    /// # Errors
    /// What the socket says; `WouldBlock` when it takes nothing.
    pub fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let count = splice(&self.output, None, to, None, self.held, SpliceFlags::NONBLOCK)?;
        self.held -= count;
        Ok(count)
    }
}

/// The pipes of one worker.
#[derive(Debug)]
pub struct Pipes {
    #[expect(clippy::vec_box, reason = "a pipe goes to its connection and back as a pointer")]
    free: RefCell<Vec<Box<Pipe>>>,
    /// How many are out. One that a panic takes along stays counted: that costs speed and nothing else.
    lent: Cell<usize>,
    most: usize,
}

impl Default for Pipes {
    fn default() -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        // As many workers as there are, unless the file says otherwise.
        let workers = available_parallelism().map_or(1, NonZero::get);
        Pipes { free: RefCell::default(), lent: Cell::new(0), most: most_lent(files, workers) }
    }
}

impl Pipes {
    /// An empty pipe; `None` when too many are out, or the system has none to give.
    #[must_use]
    pub fn take(&self) -> Option<Box<Pipe>> {
        if self.lent.get() >= self.most {
            return None;
        }
        let free = self.free.borrow_mut().pop();
        let pipe = free.or_else(|| Pipe::new().ok().map(Box::new))?;
        self.lent.set(self.lent.get() + 1);
        Some(pipe)
    }

    /// How many lie ready: some, where pipes were used.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.free.borrow().len()
    }

    /// Takes a pipe back; one that is not empty is closed.
    pub fn give(&self, pipe: Box<Pipe>) {
        self.lent.set(self.lent.get().saturating_sub(1));
        let mut free = self.free.borrow_mut();
        if pipe.held == 0 && free.len() < MOST_FREE {
            free.push(pipe);
        }
    }
}

fn most_lent(files: u64, workers: usize) -> usize {
    let of_all = usize::try_from(files / SHARE / 2).unwrap_or(usize::MAX).min(MOST_OF_ALL);
    (of_all / workers).min(MOST_LENT)
}

/// What the bytes on their way through a worker wait in.
#[derive(Debug, Default)]
pub struct Buffers {
    /// Blocks of memory, for what is read or changed.
    pub blocks: Blocks,
    /// Pipes, for what is only passed on.
    pub pipes: Pipes,
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    #[test]
    fn bytes_go_through_and_the_end_is_told() {
        let ((from, mut sender), (to, mut receiver)) = (pair(), pair());
        let mut pipe = Pipe::new().unwrap();
        assert_eq!(pipe.fill(&from, 9).unwrap(), 0);
        sender.write_all(b"through and after").unwrap();
        assert_eq!(pipe.fill(&from, 7).unwrap(), 7, "no more than was asked for");
        assert_eq!((pipe.drain(&to).unwrap(), pipe.held()), (7, 0));
        let mut received = [0; 7];
        receiver.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"through");
        assert_eq!(pipe.fill(&from, 100).unwrap(), 10);
        pipe.drain(&to).unwrap();
        drop(sender);
        assert_eq!(pipe.fill(&from, 100).unwrap(), 0);
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_never_lent_again() {
        let pipes = Pipes::default();
        let (from, mut sender) = pair();
        sender.write_all(b"secret").unwrap();
        let mut pipe = pipes.take().unwrap();
        pipe.fill(&from, 6).unwrap();
        pipes.give(pipe);
        assert!(pipes.free() == 0);
        let empty = pipes.take().unwrap();
        assert_eq!(empty.held(), 0);
        pipes.give(empty);
        assert_eq!((pipes.free(), pipes.lent.get()), (1, 0));
    }

    #[test]
    fn who_comes_when_too_many_are_out_gets_none() {
        let pipes = Pipes { most: MOST_FREE + 1, ..Pipes::default() };
        let mut held: Vec<_> = (0..=MOST_FREE).map(|_| pipes.take().unwrap()).collect();
        assert!(pipes.take().is_none());
        pipes.give(held.pop().unwrap());
        assert!(pipes.take().is_some());
        held.into_iter().for_each(|pipe| pipes.give(pipe));
        assert_eq!(pipes.free(), MOST_FREE);
    }

    #[test]
    fn where_few_files_may_be_open_few_of_them_are_pipes() {
        assert_eq!([1024, 4096, u64::MAX].map(|files| most_lent(files, 2)), [16, 64, MOST_LENT]);
        assert_eq!([1, 4, 64].map(|workers| most_lent(u64::MAX, workers)), [MOST_LENT, 192, 12]);
        assert_eq!(most_lent(30, 1), 0);
    }
}
