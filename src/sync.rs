//! Atomics and the one mutex: std's, or loom's when the crate is built with `--cfg evenkeel_loom`.
//!
//! The cfg has a name of its own because plain `loom` changes tokio too. Only the words that workers share use these.

#[cfg(not(evenkeel_loom))]
pub use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

#[cfg(evenkeel_loom)]
pub use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};
