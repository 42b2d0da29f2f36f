//! Futures in memory that is used again.
//!
//! What a task may come to hold while it waits is part of the task, for as long as the task lives: a connection that idles
//! would keep room for the whole exchange it is not in. So an exchange is housed in a block that is borrowed from the
//! worker for its length, and an idle connection keeps only what it needs. Blocks are of one size and bounded in number;
//! a warm worker allocates none.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

/// How many empty blocks are kept.
const MOST: usize = 256;

/// The empty blocks of one worker.
#[derive(Debug, Default)]
pub struct Housing {
    empty: RefCell<Vec<NonNull<u8>>>,
    /// Of all blocks in `empty`: that of the kind of future that was housed last.
    layout: Cell<Option<Layout>>,
}

/// A future in a borrowed block, which is given back when this is dropped.
#[derive(Debug)]
pub struct Housed<'a, F> {
    place: NonNull<F>,
    housing: &'a Housing,
}

impl Housing {
    /// Puts the future that `make` makes into a block: it is made there, as it may be large.
    #[inline(always)]
    pub fn house<F: Future>(&self, make: impl FnOnce() -> F) -> Housed<'_, F> {
        const { assert!(size_of::<F>() > 0, "a future without a size needs no block") };
        let place = self.take(Layout::new::<F>()).cast::<F>();
        // SAFETY: the block has the layout of `F` and nobody else has it.
        unsafe { place.write(make()) };
        Housed { place, housing: self }
    }

    fn take(&self, layout: Layout) -> NonNull<u8> {
        if self.layout.get() != Some(layout) {
            self.clear();
            self.layout.set(Some(layout));
        }
        let empty = self.empty.borrow_mut().pop();
        empty.unwrap_or_else(|| {
            // SAFETY: its size is not 0, see `house`.
            let block = unsafe { alloc(layout) };
            NonNull::new(block).unwrap_or_else(|| handle_alloc_error(layout))
        })
    }

    /// # Safety
    /// The block came from [`take`](Housing::take) with this layout, and nothing in it is used any more.
    unsafe fn give(&self, block: NonNull<u8>, layout: Layout) {
        let mut empty = self.empty.borrow_mut();
        if self.layout.get() == Some(layout) && empty.len() < MOST {
            empty.push(block);
        } else {
            // SAFETY: the caller says that it was allocated with this layout, and it is given back once.
            unsafe { dealloc(block.as_ptr(), layout) };
        }
    }

    fn clear(&self) {
        let Some(layout) = self.layout.take() else { return };
        for block in self.empty.borrow_mut().drain(..) {
            // SAFETY: every empty block was allocated with this layout, see `give`.
            unsafe { dealloc(block.as_ptr(), layout) };
        }
    }
}

impl Drop for Housing {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<F: Future> Future for Housed<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the future was written into the block by `house`, is dropped only with this, and never moves out of it.
        unsafe { Pin::new_unchecked(self.place.as_mut()) }.poll(cx)
    }
}

impl<F> Drop for Housed<'_, F> {
    fn drop(&mut self) {
        // SAFETY: the future is there since `house`, and this is the only place that ends it; then the block is empty.
        unsafe {
            self.place.drop_in_place();
            self.housing.give(self.place.cast(), Layout::new::<F>());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[tokio::test]
    async fn a_block_is_used_again_and_what_was_in_it_is_dropped() {
        let housing = Housing::default();
        let held = Rc::new(());
        let mut places = Vec::new();
        for round in 0..3 {
            let kept = held.clone();
            let housed = housing.house(|| async move {
                tokio::task::yield_now().await;
                Rc::strong_count(&kept) + round
            });
            places.push(housed.place.as_ptr().addr());
            assert_eq!(housed.await, 2 + round);
            assert_eq!(Rc::strong_count(&held), 1);
        }
        assert!(places.iter().all(|&place| place == places[0]), "{places:?}");
    }

    #[tokio::test]
    async fn a_future_that_is_given_up_is_dropped_where_it_stands() {
        let housing = Housing::default();
        let held = Rc::new(());
        let kept = held.clone();
        let mut housed = Box::pin(housing.house(|| async move {
            std::future::pending::<()>().await;
            drop(kept);
        }));
        assert!(std::future::poll_fn(|cx| Poll::Ready(housed.as_mut().poll(cx).is_pending())).await);
        drop(housed);
        assert_eq!(Rc::strong_count(&held), 1);
        assert_eq!(housing.empty.borrow().len(), 1);
    }

    #[tokio::test]
    async fn several_and_of_different_kinds_do_not_disturb_each_other() {
        let housing = Housing::default();
        let small = housing.house(|| async { 1_u8 });
        let bytes = [7_u8; 5000];
        let large = housing.house(|| async move {
            tokio::task::yield_now().await;
            bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>()
        });
        let other = housing.house(|| async { 2_u8 });
        assert_eq!((small.await, large.await, other.await), (1, 35_000, 2));
    }
}
