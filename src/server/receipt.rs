//! Receipts: control tells several workers something and learns when all of them have done it.
//!
//! A receipt is given back by dropping it, so a worker that dies with a message unread gives its receipts back too, and
//! nobody waits for it for ever.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

/// Held by whoever has not done it yet.
#[derive(Clone, Debug)]
pub(super) struct Receipt {
    _held: mpsc::Sender<Infallible>,
}

/// Waits for all copies of one receipt.
#[derive(Debug)]
pub(super) struct Receipts(mpsc::Receiver<Infallible>);

/// A receipt to copy, and the one who waits for all copies.
pub(super) fn receipts() -> (Receipt, Receipts) {
    let (held, all) = mpsc::channel(1);
    (Receipt { _held: held }, Receipts(all))
}

impl Receipts {
    /// Waits until all have been given back.
    pub(super) async fn all(mut self) {
        // Nothing is ever sent; it ends when the last sender is gone.
        while self.0.recv().await.is_some() {}
    }

    /// Waits until all have been given back, at most so long; says whether they were.
    pub(super) async fn all_within(self, limit: Duration) -> bool {
        timeout(limit, self.all()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_copy_ends_the_wait() {
        let (receipt, all) = receipts();
        let copy = receipt.clone();
        drop(receipt);
        let waiting = tokio::spawn(all.all_within(Duration::from_secs(5)));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(copy);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_is_kept_is_waited_for_only_so_long() {
        let (_receipt, all) = receipts();
        assert!(!all.all_within(Duration::from_secs(5)).await);
    }
}
