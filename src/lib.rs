//! Evenkeel
#![warn(missing_docs)]

pub mod cli;
pub mod clock;
pub mod config;
pub mod outcome;
pub mod sync;
