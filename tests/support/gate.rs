//! A gate between a test and the threads of its origins: closed until the test opens it.

use std::sync::{Arc, Condvar, Mutex};

use super::DEADLINE;

/// Closed at first; once opened it stays open.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everyone through, now and later.
    pub fn open(&self) {
        *self.0.0.lock().expect("no holder panics") = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open; gives up at the deadline, when the test has failed anyway.
    pub fn pass(&self) {
        let closed = self.0.0.lock().expect("no holder panics");
        drop(self.0.1.wait_timeout_while(closed, DEADLINE, |open| !*open));
    }
}
