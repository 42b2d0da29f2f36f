//! Runs cases through a proxy: several lanes at a time, on each lane one case after the other.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::file::Case;
use crate::lane::{Lane, Script};
use crate::talk::{ask_case, canary, hear_case};
use crate::verdict::{Later, Who, of_answer, of_request};

/// How many cases run at a time.
pub const LANES: usize = 12;

/// Which half of the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Requests,
    Answers,
}

impl Kind {
    /// The folder with its cases.
    pub fn folder(self) -> &'static str {
        match self {
            Kind::Requests => "requests",
            Kind::Answers => "answers",
        }
    }
}

/// A running proxy with one address for each lane.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: &'static str,
    pub addresses: Vec<String>,
    pub who: Who,
    /// How long a conversation may take.
    pub patience: Duration,
    /// How long a message may stay unfinished at the origin.
    pub unfinished: Duration,
}

impl Program {
    /// Everything that is promised of it is judged, and it has the time that a busy machine needs.
    pub fn evenkeel(addresses: Vec<String>) -> Program {
        let patience = Duration::from_secs(10);
        Program { name: "evenkeel", addresses, who: Who::Evenkeel, patience, unfinished: patience }
    }

    /// Its safety is judged. Who waits for more bytes harms nobody: it is left to wait.
    pub fn peer(name: &'static str, addresses: Vec<String>) -> Program {
        let (patience, unfinished) = (Duration::from_millis(1500), Duration::from_millis(200));
        Program { name, addresses, who: Who::Peer, patience, unfinished }
    }
}

/// The origins.
pub fn lanes() -> Vec<Lane> {
    (0..LANES).map(|_| Lane::open()).collect()
}

/// Runs all cases; returns the faults, each with its case's name, rules, and what was seen.
pub fn run_all(kind: Kind, program: &Program, lanes: &[Lane], cases: &[Case]) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (lane, address) in lanes.iter().zip(&program.addresses) {
            scope.spawn(|| {
                // Relaxed: the numbers only have to differ.
                while let Some((number, case)) = numbered(cases, next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = run_one(kind, program, lane, address, number, case) {
                        let mut faults = faults.lock().expect("no holder panics");
                        faults.push((number, format!("{} ({}): {why}", case.name, case.rules)));
                    }
                }
            });
        }
    });
    let mut faults = faults.into_inner().expect("no holder panics");
    faults.sort();
    faults.into_iter().map(|(_, fault)| fault).collect()
}

fn numbered(cases: &[Case], number: usize) -> Option<(usize, &Case)> {
    cases.get(number).map(|case| (number, case))
}

fn run_one(
    kind: Kind,
    program: &Program,
    lane: &Lane,
    address: &str,
    number: usize,
    case: &Case,
) -> Result<(), String> {
    match kind {
        Kind::Requests => {
            let heard = ask_case(address, case, program.patience);
            let canary = canary(address, number, program.patience);
            let traffic = lane.traffic(program.unfinished);
            of_request(program.who, case, &traffic, &heard)?;
            canary_lives(program.who, canary)
        }
        Kind::Answers => {
            let script = Script { writes: case.writes.clone(), last: case.last, early: case.early };
            lane.script(Some(script));
            let heard = hear_case(address, case, program.patience);
            let canary = canary(address, number, program.patience);
            lane.script(None);
            let traffic = lane.traffic(program.unfinished);
            let later = traffic.played.map(|connection| Later {
                ended: lane.is_ended(connection),
                used_again: traffic.canaries.contains(&connection),
            });
            of_answer(program.who, case, &heard, later.unwrap_or_default())?;
            canary_lives(program.who, canary)
        }
    }
}

/// A client that comes afterwards gets its own answer. A peer may fail it, but never mix it up.
fn canary_lives(who: Who, canary: Result<(), String>) -> Result<(), String> {
    match canary {
        Err(why) if who == Who::Evenkeel || why.contains("200 OK") => Err(format!("a later client was harmed: {why}")),
        _ => Ok(()),
    }
}
