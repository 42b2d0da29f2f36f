//! The client's side of a case: sends its bytes, reads what comes back by the letter, and asks for more afterwards.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::file::{Case, Last, Verb};
use crate::lane::{PAUSE, reset, send};
use crate::letter::{self, Answer, Asked, Ended, Stop};
use crate::support::Ending;
use crate::support::wire::is_reset;

/// What a client sends behind a case on the same connection: after a message in doubt it must not be read as a request.
const PROBE: &[u8] = b"GET /next HTTP/1.1\r\nHost: probe\r\n\r\n";

const GET: Asked = Asked { head: false, old: false };

/// No case needs more answers: who sends more is cut short.
const MOST_ANSWERS: usize = 8;

/// What a client has heard.
#[derive(Debug, Default)]
pub struct Heard {
    pub answers: Vec<Answer>,
    /// The rule that the bytes behind the last answer break.
    pub broken: Option<String>,
    /// The bytes behind the last answer.
    pub rest: Vec<u8>,
    /// How the connection was ended; `None` when it was still open.
    pub ending: Option<Ending>,
    /// Whether the probe was sent after the case had been answered.
    pub asked_more: bool,
}

impl Heard {
    fn ended(&self) -> Option<Ended> {
        self.ending.map(|ending| match ending {
            Ending::Closed => Ended::Closed,
            Ending::Reset => Ended::Reset,
        })
    }
}

struct Client {
    stream: TcpStream,
    end: Instant,
    heard: Heard,
}

/// Sends a case of the requests and listens.
pub fn ask_case(address: &str, case: &Case, patience: Duration) -> Heard {
    let mut client = Client::connect(address, patience);
    send(&mut client.stream, &case.writes);
    match case.last {
        Last::Reset => {
            std::thread::sleep(PAUSE);
            reset(&client.stream);
            return client.heard;
        }
        Last::Fin => drop(client.stream.shutdown(Shutdown::Write)),
        Last::Stay => {}
    }
    let asked = asked_by(&case.writes[0]);
    if case.want.verb == Verb::Pass {
        let answered = case.want.messages.iter().all(|_| client.answer(asked));
        // What could not be read as a request asked for nothing: its answer has a body, whatever came before.
        if answered && case.want.then().is_some() {
            client.answer(GET);
        }
        client.ask_more(case.last);
    } else {
        if case.last == Last::Stay {
            send(&mut client.stream, &[Vec::new(), PROBE.to_vec()]);
        }
        client.answer(asked);
    }
    client.read_to_end(case);
    client.heard
}

/// Sends the request of a case of the answers and listens.
pub fn hear_case(address: &str, case: &Case, patience: Duration) -> Heard {
    let usual = b"GET /case HTTP/1.1\r\nHost: test\r\n\r\n".to_vec();
    let asking = if case.asking.is_empty() { usual } else { case.asking.clone() };
    let mut client = Client::connect(address, patience);
    send(&mut client.stream, std::slice::from_ref(&asking));
    if client.answer(asked_by(&asking)) {
        client.ask_more(Last::Stay);
    }
    client.heard
}

/// A request on a connection of its own whose answer nobody else gets; `Err` tells what came instead.
pub fn canary(address: &str, number: usize, patience: Duration) -> Result<(), String> {
    let mut client = Client::connect(address, patience);
    let request = format!("GET /canary-{number} HTTP/1.1\r\nHost: canary\r\nConnection: close\r\n\r\n");
    send(&mut client.stream, &[request.into_bytes()]);
    client.answer(GET);
    let body = format!("-{number}").into_bytes();
    match &client.heard.answers[..] {
        [answer] if answer.last.status() == 200 && answer.last.body == body => Ok(()),
        _ => Err(format!("{:?}", client.heard)),
    }
}

fn asked_by(request: &[u8]) -> Asked {
    let line = request.split(|&byte| byte == b'\n').next().unwrap_or_default();
    Asked { head: line.starts_with(b"HEAD "), old: line.ends_with(b" HTTP/1.0\r") }
}

impl Client {
    fn connect(address: &str, patience: Duration) -> Client {
        let stream =
            TcpStream::connect(address).unwrap_or_else(|fault| panic!("nothing accepts at {address}: {fault}"));
        stream.set_nodelay(true).expect("a connected stream takes options");
        Client { stream, end: Instant::now() + patience, heard: Heard::default() }
    }

    /// Reads the next answer; false when none comes.
    fn answer(&mut self, asked: Asked) -> bool {
        loop {
            match letter::answer(&self.heard.rest, asked, self.heard.ended()) {
                Ok((answer, length)) => {
                    self.heard.rest.drain(..length);
                    self.heard.answers.push(answer);
                    return true;
                }
                Err(Stop::Broken(why)) => {
                    self.heard.broken = Some(why);
                    return false;
                }
                Err(Stop::More) if !self.read() => {
                    let ended = self.heard.ending.is_some() && !self.heard.rest.is_empty();
                    let cut = ended && letter::answer(&self.heard.rest, asked, self.heard.ended()).is_ok();
                    if !cut {
                        return false;
                    }
                }
                Err(Stop::More) => {}
            }
        }
    }

    /// Reads more bytes; false at the end, and when patience is over.
    fn read(&mut self) -> bool {
        let left = self.end.saturating_duration_since(Instant::now());
        if self.heard.ending.is_some() || left.is_zero() {
            return false;
        }
        self.stream.set_read_timeout(Some(left)).expect("more than nothing");
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.heard.ending = Some(Ending::Closed),
            Ok(length) => self.heard.rest.extend_from_slice(&bytes[..length]),
            Err(fault) if is_reset(&fault) => self.heard.ending = Some(Ending::Reset),
            Err(_) => return false,
        }
        self.heard.ending.is_none()
    }

    /// Sends the probe on a connection that is said to stay open, and reads its answer.
    fn ask_more(&mut self, last: Last) {
        let Some(answer) = self.heard.answers.last() else { return };
        let stays = answer.last.is_whole() && answer.last.status() != 101 && !answer.last.lists("connection", "close");
        let keeps = !answer.last.start.starts_with("HTTP/1.0") || answer.last.lists("connection", "keep-alive");
        if last != Last::Stay || !stays || !keeps || self.heard.ending.is_some() {
            return;
        }
        self.heard.asked_more = self.stream.write_all(PROBE).is_ok();
        self.answer(GET);
    }

    /// Reads on where the connection has to end, and everything else that may be said on it.
    fn read_to_end(&mut self, case: &Case) {
        let closing = self.heard.answers.last().is_some_and(|answer| answer.last.lists("connection", "close"));
        if case.want.verb == Verb::Pass && !closing && case.last == Last::Stay {
            return;
        }
        while self.heard.answers.len() < MOST_ANSWERS && self.heard.broken.is_none() && self.answer(GET) {}
    }
}
