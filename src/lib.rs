//! Evenkeel
#![warn(missing_docs)]

pub mod balance;
pub mod buffer;
pub mod clock;
pub mod config;
pub mod deadline;
pub mod http;
pub mod l4;
pub mod l7;
pub mod local;
pub mod outcome;
pub mod record;
pub mod server;
pub mod state;
pub mod stream;
pub mod sync;
pub mod upstream;
