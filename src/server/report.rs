//! What the server says of itself: where it listens, what a reload changed, how its backends do, what went wrong.

use std::fmt;
use std::io;
use std::time::Duration;

use super::sockets::BindFault;
use crate::balance::Rung;
use crate::config::{Address, Name};
use crate::record::{BackendRecord, PoolRecord};
use crate::state::BackendStatus;

/// One address that is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The listener's name.
    pub name: Name,
    /// Where it really listens: port 0 is resolved.
    pub address: Address,
}

/// What a reload has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Of the snapshot that is in force now.
    pub generation: u64,
    /// Addresses that are listened on now and were not before.
    pub addresses_added: usize,
    /// Addresses that are not listened on any more.
    pub addresses_removed: usize,
    /// Backends that are new.
    pub backends_added: usize,
    /// Backends that are gone; they finish what they have.
    pub backends_removed: usize,
    /// What of the configuration can not be followed while the process runs, as sentences.
    pub warnings: Vec<String>,
}

/// One backend as it does now.
#[derive(Clone, Debug)]
pub struct BackendReport {
    /// The pool's name.
    pub pool: Name,
    /// How it stands.
    pub status: BackendStatus,
    /// What all workers saw of it since the process started.
    pub record: BackendRecord,
}

/// One pool as it does now.
#[derive(Clone, Debug)]
pub struct PoolReport {
    /// Its name.
    pub pool: Name,
    /// On which rung of the ladder its latest requests stood.
    pub rung: Rung,
    /// How many wait for a place at one of its backends.
    pub waiting: usize,
    /// What all workers saw happen there since the process started.
    pub record: PoolRecord,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that did not end in time and were cut.
    pub cut: u64,
    /// How long it took.
    pub took: Duration,
}

/// Why a configuration could not be put in force.
#[derive(Debug)]
pub enum StartError {
    /// These addresses can not be listened on.
    Listen(Vec<BindFault>),
    /// A worker could not be started.
    Worker(io::Error),
}

impl fmt::Display for StartError {
    /// One line a fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen(faults) => {
                let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
            StartError::Worker(error) => write!(f, "cannot start a worker: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
