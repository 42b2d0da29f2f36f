//! Both sides of an exchange, whichever protocol each of them speaks: one test for all pairs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use h2::Reason;

use super::h2::{self as two, Fields, H2Client, Served};
use super::message::Framing;
use super::origin::Connection;
use super::{Client, End, Head, Origin, Response, Wire};

/// What a side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    H1,
    H2,
}

/// What is known beforehand of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// There is none.
    None,
    Told(usize),
    Untold,
}

/// A client, on one connection with HTTP/2, on as many as it needs with HTTP/1.1.
pub enum Caller {
    H1 { address: String, kept: Option<Client> },
    H2(H2Client),
}

/// The request's direction.
pub enum Up {
    H1 { wire: Wire, length: Length },
    H2(two::Up),
}

/// The response's direction.
pub enum Down {
    H1 { client: Client, to_head: bool },
    H2(two::Down),
}

impl Caller {
    #[track_caller]
    pub fn connect(speaks: Speaks, address: &str) -> Caller {
        match speaks {
            Speaks::H1 => Caller::H1 { address: address.to_owned(), kept: None },
            Speaks::H2 => Caller::H2(H2Client::connect(address)),
        }
    }

    /// Begins a request with this head; what is told of its body is added.
    #[track_caller]
    pub fn begin(&mut self, method: &str, path: &str, fields: Fields<'_>, length: Length) -> (Up, Down) {
        let told = if let Length::Told(told) = length { told.to_string() } else { String::new() };
        match self {
            Caller::H1 { address, kept } => {
                let mut client = kept.take().unwrap_or_else(|| Client::connect(address));
                let framing = match length {
                    Length::None => String::new(),
                    Length::Told(_) => format!("Content-Length: {told}\r\n"),
                    Length::Untold => "Transfer-Encoding: chunked\r\n".to_owned(),
                };
                let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                client.send(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{framing}{fields}\r\n"));
                (Up::H1 { wire: client.sender(), length }, Down::H1 { client, to_head: method == "HEAD" })
            }
            Caller::H2(client) => {
                let told = [("content-length", told.as_str())];
                let told = if matches!(length, Length::Told(_)) { &told[..] } else { &[] };
                let request = two::request(method, path, &[fields, told].concat());
                let (up, down) = client.begin(request, length == Length::None);
                (Up::H2(up), Down::H2(down))
            }
        }
    }

    /// Sends a request with this body and takes the answer to it; what comes next goes over the same connection if that can be.
    #[track_caller]
    pub fn ask(&mut self, method: &str, path: &str, fields: Fields<'_>, body: &[u8]) -> Response {
        let length = if body.is_empty() { Length::None } else { Length::Told(body.len()) };
        let (mut up, mut down) = self.begin(method, path, fields, length);
        if !body.is_empty() {
            up.say(body);
            up.end(&[]);
        }
        let response = down.response();
        self.keep(down, &response);
        response
    }

    /// Asks for this path.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.ask("GET", path, &[], b"")
    }

    /// Keeps the connection for the next request, where it can be used again.
    pub fn keep(&mut self, down: Down, response: &Response) {
        if let (Caller::H1 { kept, .. }, Down::H1 { client, .. }) = (self, down)
            && response.end == End::Complete
            && !response.head.lists("connection", "close")
        {
            *kept = Some(client);
        }
    }
}

impl Up {
    /// Sends some of the body; what is not wanted shows in what comes back.
    #[track_caller]
    pub fn say(&mut self, data: &[u8]) {
        match self {
            Up::H1 { wire, length: Length::Untold } => {
                for piece in data.chunks(16 * 1024) {
                    write(wire, format!("{:x}\r\n", piece.len()).as_bytes());
                    write(wire, piece);
                    write(wire, b"\r\n");
                }
            }
            Up::H1 { wire, .. } => write(wire, data),
            Up::H2(up) => drop(up.say(data)),
        }
    }

    /// Ends the body; trailer fields only where its length was not told.
    pub fn end(&mut self, trailers: Fields<'_>) {
        match self {
            Up::H1 { wire, length: Length::Untold } => write(wire, last_chunk(trailers).as_bytes()),
            Up::H1 { .. } => {}
            Up::H2(up) => up.end(trailers),
        }
    }
}

fn write(wire: &mut Wire, bytes: &[u8]) {
    // Who has gone shows in what is read.
    drop(std::io::Write::write_all(wire, bytes));
}

fn last_chunk(trailers: Fields<'_>) -> String {
    let fields: String = trailers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("0\r\n{fields}\r\n")
}

impl Down {
    /// The next head, interim or not.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        match self {
            Down::H1 { client, .. } => client.head(),
            Down::H2(down) => down.head(),
        }
    }

    /// The final response, with the interim ones that were not taken before.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        match self {
            Down::H1 { client, to_head: true } => client.response_to_head(),
            Down::H1 { client, .. } => client.response(),
            Down::H2(down) => down.response(),
        }
    }

    /// The body behind a final head that was taken.
    #[track_caller]
    pub fn rest(&mut self, head: Head) -> Response {
        match self {
            Down::H1 { client, .. } => client.body_behind(head),
            Down::H2(down) => down.rest(Vec::new(), head),
        }
    }
}

/// Leaves in the middle: a reset, of the connection or of the stream.
pub fn leave(up: Up, down: Down) {
    match (up, down) {
        (Up::H2(mut up), _) => up.reset(Reason::CANCEL),
        (_, Down::H1 { client, .. }) => client.reset(),
        _ => unreachable!("both directions speak the same"),
    }
}

/// A backend; every request is handed to a script, on a thread of its own or of its connection.
pub struct Backend {
    address: String,
    seen: Arc<Seen>,
    _origin: Option<Origin>,
}

/// What came, for the test to look at.
#[derive(Default)]
struct Seen {
    heads: Mutex<Vec<Head>>,
    accepted: Arc<AtomicUsize>,
    under_way: AtomicUsize,
}

/// A request at a backend.
pub struct Exchange<'a> {
    pub head: Head,
    side: Side<'a>,
    length: Length,
    seen: Arc<Seen>,
    finished: bool,
}

enum Side<'a> {
    H1(&'a mut Connection),
    H2(Box<Served>),
}

impl Backend {
    pub fn scripted(speaks: Speaks, script: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static) -> Backend {
        let seen = Arc::new(Seen::default());
        let seeing = Arc::clone(&seen);
        if speaks == Speaks::H2 {
            let serve = move |served: Served| {
                let (head, side) = (served.head.clone(), Side::H2(Box::new(served)));
                script(&mut Exchange::new(head, side, &seeing));
            };
            let address = two::serve(serve, Arc::clone(&seen.accepted)).to_string();
            return Backend { address, seen, _origin: None };
        }
        let origin = Origin::scripted(move |mut connection| {
            seeing.accepted.fetch_add(1, Ordering::SeqCst);
            while let Some(request) = connection.head() {
                let mut exchange = Exchange::new(request.head, Side::H1(&mut connection), &seeing);
                script(&mut exchange);
                if !exchange.finished {
                    return;
                }
            }
        });
        Backend { address: origin.address().to_owned(), seen, _origin: Some(origin) }
    }

    /// Takes the whole request and answers with this text.
    pub fn answering(speaks: Speaks, text: &'static str) -> Backend {
        Backend::scripted(speaks, move |exchange| {
            exchange.body();
            exchange.answer(200, text);
        })
    }

    /// Takes the whole request and says nothing until it is left.
    pub fn hanging(speaks: Speaks) -> Backend {
        Backend::scripted(speaks, |exchange| {
            exchange.body();
            exchange.wait_left();
        })
    }

    /// As a configuration writes it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The heads of all requests so far.
    pub fn heads(&self) -> Vec<Head> {
        self.seen.heads.lock().expect("no holder panics").clone()
    }

    /// The only head so far.
    #[track_caller]
    pub fn head(&self) -> Head {
        let mut heads = self.heads();
        assert_eq!(heads.len(), 1, "{heads:?}");
        heads.remove(0)
    }

    /// How many connections were accepted.
    pub fn accepted(&self) -> usize {
        self.seen.accepted.load(Ordering::SeqCst)
    }

    /// How many requests its scripts are at.
    pub fn under_way(&self) -> usize {
        self.seen.under_way.load(Ordering::SeqCst)
    }
}

impl<'a> Exchange<'a> {
    fn new(head: Head, side: Side<'a>, seen: &Arc<Seen>) -> Exchange<'a> {
        seen.under_way.fetch_add(1, Ordering::SeqCst);
        seen.heads.lock().expect("no holder panics").push(head.clone());
        Exchange { head, side, length: Length::None, seen: Arc::clone(seen), finished: false }
    }

    pub fn method(&self) -> &str {
        self.head.start.split(' ').next().unwrap_or_default()
    }

    pub fn path(&self) -> &str {
        self.head.start.split(' ').nth(1).unwrap_or_default()
    }

    /// The whole body of the request, its trailers, and how it ended.
    pub fn body(&mut self) -> (Vec<u8>, Vec<(String, String)>, End) {
        match &mut self.side {
            Side::H1(connection) => {
                let body = connection.body(self.head.framing(Framing::None));
                (body.bytes, body.trailers, body.end)
            }
            Side::H2(served) => served.body(),
        }
    }

    /// Sends back the body as it comes, with its trailers; for one of which no length is told.
    pub fn echo(&mut self) {
        self.begin(200, &[], Length::Untold);
        match &mut self.side {
            Side::H1(connection) => while connection.pass_chunk_back() {},
            Side::H2(served) => {
                while let Some(some) = served.some() {
                    served.say(&some);
                }
                let (_, trailers, _) = served.body();
                let trailers: Vec<_> = trailers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                served.end(&trailers);
            }
        }
        self.finished = true;
    }

    pub fn interim(&mut self, status: u16, fields: Fields<'_>) {
        match &mut self.side {
            Side::H1(connection) => connection.send(head_of(status, fields, "")),
            Side::H2(served) => served.interim(status, fields),
        }
    }

    /// The head of the answer.
    pub fn begin(&mut self, status: u16, fields: Fields<'_>, length: Length) {
        self.length = length;
        let told = if let Length::Told(told) = length { told.to_string() } else { String::new() };
        match &mut self.side {
            Side::H1(connection) => {
                let framing = match length {
                    Length::None => String::new(),
                    Length::Told(_) => format!("Content-Length: {told}\r\n"),
                    Length::Untold => "Transfer-Encoding: chunked\r\n".to_owned(),
                };
                connection.send(head_of(status, fields, &framing));
            }
            Side::H2(served) => {
                let told = [("content-length", told.as_str())];
                let told = if matches!(length, Length::Told(_)) { &told[..] } else { &[] };
                served.respond(status, &[fields, told].concat(), length == Length::None);
            }
        }
        self.finished = length == Length::None;
    }

    /// Some of the answer's body.
    pub fn say(&mut self, data: &[u8]) {
        match (&mut self.side, self.length) {
            (Side::H1(connection), Length::Untold) => {
                for piece in data.chunks(16 * 1024) {
                    connection.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
                }
            }
            (Side::H1(connection), _) => connection.send(data),
            (Side::H2(served), _) => drop(served.say(data)),
        }
    }

    /// Ends the answer; trailer fields only where its length was not told.
    pub fn end(&mut self, trailers: Fields<'_>) {
        match (&mut self.side, self.length) {
            (Side::H1(connection), Length::Untold) => connection.send(last_chunk(trailers)),
            (Side::H1(_), _) => {}
            (Side::H2(served), _) => served.end(trailers),
        }
        self.finished = true;
    }

    /// A whole answer.
    pub fn answer(&mut self, status: u16, text: &str) {
        self.answer_with(status, &[], text.as_bytes());
    }

    /// The same with these fields.
    pub fn answer_with(&mut self, status: u16, fields: Fields<'_>, body: &[u8]) {
        if self.method() == "HEAD" {
            let told = body.len().to_string();
            self.begin(status, &[fields, &[("content-length", &told)]].concat(), Length::None);
            return;
        }
        self.begin(status, fields, Length::Told(body.len()));
        self.say(body);
        self.end(&[]);
    }

    /// Waits until the other side has ended the exchange: its connection, or the stream. It waits longer than the test does, which
    /// looks whether it still does.
    pub fn wait_left(&mut self) {
        match &mut self.side {
            Side::H1(connection) => drop(connection.ending().or_else(|| connection.ending())),
            Side::H2(served) => served.is_left(),
        }
    }

    /// Answers no other request on this connection of HTTP/1.1; what is left of the request is not wanted.
    pub fn hang_up(&mut self) {
        self.finished = false;
    }

    /// Goes away in the middle: a FIN, or a reset of the stream.
    pub fn break_off(&mut self) {
        if let Side::H2(served) = &mut self.side {
            served.reset(Reason::INTERNAL_ERROR);
        }
        self.finished = false;
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.seen.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

fn head_of(status: u16, fields: Fields<'_>, framing: &str) -> String {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status} Said\r\n{framing}{fields}\r\n")
}
