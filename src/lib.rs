//! Evenkeel
#![warn(missing_docs)]

pub mod balance;
pub mod clock;
pub mod config;
pub mod http;
pub mod outcome;
pub mod simulation;
pub mod state;
pub mod sync;
