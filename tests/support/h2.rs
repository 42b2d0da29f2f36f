//! A client of HTTP/2, and what an origin of it does with a request, on the `h2` crate. Both are blocking outside: the
//! connection is driven by a thread of its own, and its streams are waited for where they are used.

use std::future::{Future, poll_fn};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::tls::{Hands, Tls};
use super::{DEADLINE, End, Head, Response, eventually};

/// Fields by name and value.
pub type Fields<'a> = &'a [(&'a str, &'a str)];

/// Waits for a future here; fails the test with `what` when it does not come before the deadline.
#[track_caller]
pub fn wait<T>(what: &str, future: impl Future<Output = T>) -> T {
    wait_within(DEADLINE, what, future)
}

#[track_caller]
fn wait_within<T>(deadline: Duration, what: &str, future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a timer needs no descriptor");
    let got = runtime.block_on(async { tokio::time::timeout(deadline, future).await });
    got.unwrap_or_else(|_| panic!("not within {deadline:?}: {what}"))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("descriptors are not used up")
}

/// A client's connection; it is closed when the client and its streams are dropped.
#[derive(Clone)]
pub struct H2Client {
    send: SendRequest<Bytes>,
    end: Arc<Mutex<Option<Result<(), h2::Error>>>>,
    gone: Arc<Notify>,
    /// What was agreed upon by ALPN.
    pub alpn: Option<String>,
}

/// The request's direction of a stream.
pub struct Up(SendStream<Bytes>);

/// The response's direction of a stream.
pub struct Down {
    future: ResponseFuture,
    body: Option<RecvStream>,
}

/// What a client asks of its connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wants {
    /// The window of each stream, in bytes.
    pub window: Option<u32>,
}

impl H2Client {
    /// Connects in the clear, by prior knowledge.
    #[track_caller]
    pub fn connect(address: &str) -> H2Client {
        H2Client::wanting(address, Wants::default())
    }

    /// The same with these wishes.
    #[track_caller]
    pub fn wanting(address: &str, wants: Wants) -> H2Client {
        let address = address.to_owned();
        let stream = async move { (reach(&address).await, None) };
        H2Client::over(stream, wants)
    }

    /// Connects over TLS; what is spoken is up to ALPN, and is HTTP/2 here.
    #[track_caller]
    pub fn secured(tls: &Tls, address: &str, name: &str) -> H2Client {
        let (config, address) = (tls.offering(&["h2", "http/1.1"]).config(), address.to_owned());
        let name = ServerName::try_from(name.to_owned()).expect("a good name");
        let stream = async move {
            let stream = reach(&address).await;
            let stream = TlsConnector::from(config).connect(name, stream).await.expect("it shakes hands");
            let alpn = stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
            (stream, alpn)
        };
        H2Client::over(stream, Wants::default())
    }

    #[track_caller]
    fn over<S>(connecting: impl Future<Output = (S, Option<String>)> + Send + 'static, wants: Wants) -> H2Client
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (end, gone) = (Arc::new(Mutex::new(None)), Arc::new(Notify::new()));
        let (ending, going) = (Arc::clone(&end), Arc::clone(&gone));
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            runtime().block_on(async move {
                let (stream, alpn) = connecting.await;
                let mut builder = h2::client::Builder::new();
                builder.enable_push(false).initial_connection_window_size(4 << 20);
                if let Some(window) = wants.window {
                    builder.initial_window_size(window);
                }
                let (send, mut connection) = builder.handshake(stream).await.expect("only our own bytes are written");
                let leaving = async {
                    let ended = (&mut connection).await;
                    *ending.lock().expect("no holder panics") = Some(ended);
                };
                drop(tell.send((send, alpn)));
                tokio::select! {
                    () = leaving => {}
                    () = going.notified() => {}
                }
            });
        });
        let (send, alpn) = told.recv_timeout(DEADLINE).expect("the connection is made");
        H2Client { send, end, gone, alpn }
    }

    /// Begins a request; `ends` says whether the head is all of it.
    #[track_caller]
    pub fn begin(&self, request: Request<()>, ends: bool) -> (Up, Down) {
        self.try_begin(request, ends).expect("the connection takes requests")
    }

    /// The same, where the connection may be over.
    #[track_caller]
    pub fn try_begin(&self, request: Request<()>, ends: bool) -> Result<(Up, Down), h2::Error> {
        let mut ready = wait("a place for one more stream", self.send.clone().ready())?;
        let (future, stream) = ready.send_request(request, ends)?;
        Ok((Up(stream), Down { future, body: None }))
    }

    /// Begins an extended CONNECT, once the other side has said that it knows it.
    #[track_caller]
    pub fn connect_to(&self, protocol: &'static str, path: &str, fields: Fields<'_>) -> (Up, Down) {
        eventually("extended CONNECT is offered", || self.send.is_extended_connect_protocol_enabled());
        let mut request = request("CONNECT", path, fields);
        request.extensions_mut().insert(Protocol::from_static(protocol));
        self.begin(request, false)
    }

    /// Asks for this path and takes the answer.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.begin(request("GET", path, &[]), true).1.response()
    }

    /// How many streams the other side lets it have at once, as far as that was said.
    pub fn streams(&self) -> usize {
        self.send.current_max_send_streams()
    }

    /// Whether the connection has ended.
    pub fn has_ended(&self) -> bool {
        self.end.lock().expect("no holder panics").is_some()
    }

    /// Waits until the other side has ended the connection; gives the reason.
    #[track_caller]
    pub fn ending(&self) -> Result<(), h2::Error> {
        eventually("the connection ends", || self.has_ended());
        self.end.lock().expect("no holder panics").take().expect("it has ended")
    }

    /// Hangs up, in the middle of whatever is under way.
    pub fn hang_up(&self) {
        self.gone.notify_one();
    }
}

async fn reach(address: &str) -> tokio::net::TcpStream {
    let stream = tokio::net::TcpStream::connect(address).await.expect("it accepts");
    stream.set_nodelay(true).expect("a connected stream");
    stream
}

/// A request for a path of `test` with these fields.
#[track_caller]
pub fn request(method: &str, path: &str, fields: Fields<'_>) -> Request<()> {
    request_to("test", method, path, fields)
}

/// The same to this host.
#[track_caller]
pub fn request_to(host: &str, method: &str, path: &str, fields: Fields<'_>) -> Request<()> {
    let target = if path == "*" { path.to_owned() } else { format!("http://{host}{path}") };
    let mut request = Request::builder().method(method).uri(target).body(()).expect("a good request");
    *request.headers_mut() = map(fields);
    request
}

#[track_caller]
fn map(fields: Fields<'_>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).expect("a field's name");
        map.append(name, HeaderValue::from_str(value).expect("a field's value"));
    }
    map
}

fn list(map: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    map.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

impl Up {
    /// Sends some of the body, as far as the windows go; false when the other side wants no more.
    #[track_caller]
    pub fn say(&mut self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            self.0.reserve_capacity(data.len().min(64 * 1024));
            let room = match self.0.capacity() {
                0 => wait("room for more of a body", poll_fn(|cx| self.0.poll_capacity(cx))),
                room => Some(Ok(room)),
            };
            let Some(Ok(room)) = room else { return false };
            let (now, later) = data.split_at(room.min(data.len()));
            if self.0.send_data(Bytes::copy_from_slice(now), false).is_err() {
                return false;
            }
            data = later;
        }
        true
    }

    /// Sends as much of so many bytes as is taken; stops when for a while nothing is.
    #[track_caller]
    pub fn say_what_fits(&mut self, length: usize) {
        self.0.reserve_capacity(length);
        let mut quiet = Instant::now();
        while quiet.elapsed() < Duration::from_millis(300) {
            match self.0.capacity() {
                0 => std::thread::sleep(Duration::from_millis(5)),
                room => {
                    self.0.send_data(Bytes::from(vec![b'x'; room]), false).expect("the stream goes on");
                    quiet = Instant::now();
                }
            }
        }
    }

    /// Ends the body.
    pub fn end(&mut self, trailers: Fields<'_>) {
        // Who has gone shows in what is read.
        drop(match trailers {
            [] => self.0.send_data(Bytes::new(), true),
            trailers => self.0.send_trailers(map(trailers)),
        });
    }

    /// Sends something without regard for windows, and ends the body with it.
    pub fn end_with(&mut self, data: &[u8]) {
        drop(self.0.send_data(Bytes::copy_from_slice(data), true));
    }

    /// Resets the stream.
    pub fn reset(&mut self, reason: Reason) {
        self.0.send_reset(reason);
    }

    /// Waits until the other side resets the stream.
    #[track_caller]
    pub fn is_reset(&mut self) -> Option<Reason> {
        wait("a reset", poll_fn(|cx| self.0.poll_reset(cx))).ok()
    }
}

impl Down {
    /// The next head, interim or not; `None` when the stream is reset instead.
    #[track_caller]
    pub fn try_head(&mut self) -> Option<Head> {
        let interim = poll_fn(|cx| match self.future.poll_informational(cx) {
            Poll::Ready(Some(Ok(head))) => Poll::Ready(Some(head)),
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        if let Some(interim) = wait("a head", interim) {
            return Some(head_of(interim.status(), interim.headers()));
        }
        let (head, body) = wait("a final head", &mut self.future).ok()?.into_parts();
        self.body = Some(body);
        Some(head_of(head.status, &head.headers))
    }

    /// The next head, interim or not.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        self.try_head().expect("a head comes before the stream ends")
    }

    /// The final response, and the interim ones that were not taken before.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response().expect("a head comes before the stream ends")
    }

    /// The same; `None` where the stream is reset before a head.
    #[track_caller]
    pub fn try_response(&mut self) -> Option<Response> {
        let mut interim = Vec::new();
        loop {
            let head = self.try_head()?;
            if self.body.is_some() {
                return Some(self.rest(interim, head));
            }
            interim.push(head);
        }
    }

    /// The body behind a head that was taken.
    #[track_caller]
    pub fn rest(&mut self, interim: Vec<Head>, head: Head) -> Response {
        let mut bytes = Vec::new();
        let end = loop {
            match self.some() {
                Some(Ok(some)) => bytes.extend_from_slice(&some),
                Some(Err(_)) => break End::Reset,
                None => break End::Complete,
            }
        };
        let trailers = if end == End::Complete { self.trailers() } else { Vec::new() };
        Response { interim, head, body: bytes, trailers, end }
    }

    /// Some of the body, whose place in the windows is given back; `None` at its end.
    #[track_caller]
    pub fn some(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let body = self.body.as_mut().expect("its head was taken");
        next_of(body)
    }

    /// Lets data come and leaves it in the windows.
    #[track_caller]
    pub fn hoard(&mut self, length: usize) {
        let body = self.body.as_mut().expect("its head was taken");
        let mut came = 0;
        while came < length {
            let some = wait("more data", poll_fn(|cx| body.poll_data(cx)));
            came += some.expect("there is more").expect("it is not reset").len();
        }
    }

    fn trailers(&mut self) -> Vec<(String, String)> {
        let body = self.body.as_mut().expect("its head was taken");
        trailers_of(body).unwrap_or_default()
    }
}

fn next_of(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let some = wait("more of a body", poll_fn(|cx| body.poll_data(cx)))?;
    if let Ok(some) = &some {
        drop(body.flow_control().release_capacity(some.len()));
    }
    Some(some)
}

fn trailers_of(body: &mut RecvStream) -> Result<Vec<(String, String)>, h2::Error> {
    let trailers = wait("the end of a body", poll_fn(|cx| body.poll_trailers(cx)))?;
    Ok(trailers.map(|trailers| list(&trailers)).unwrap_or_default())
}

fn head_of(status: http::StatusCode, fields: &HeaderMap) -> Head {
    Head { start: format!("HTTP/2 {}", status.as_u16()), fields: list(fields) }
}

/// What an origin's connection is told from outside.
#[derive(Clone, Default)]
pub struct Orders {
    leave: Arc<Notify>,
    cut: Arc<Notify>,
}

impl Orders {
    /// Says GOAWAY, and goes when all streams are done.
    pub fn take_leave(&self) {
        self.leave.notify_one();
    }

    /// Closes the connection in the middle of whatever is under way.
    pub fn cut(&self) {
        self.cut.notify_one();
    }
}

/// One request at an origin of HTTP/2, in the hands of a script; the stream is reset when it is dropped unfinished.
pub struct Served {
    pub head: Head,
    /// What an extended CONNECT asks for.
    pub protocol: Option<String>,
    pub orders: Orders,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    answer: Option<SendStream<Bytes>>,
}

/// How an origin listens.
#[derive(Clone, Default)]
pub struct Offers {
    /// Over TLS, with these.
    pub hands: Option<Hands>,
    /// It knows extended CONNECT.
    pub tunnels: bool,
}

/// Accepts connections for as long as the process lives, and hands every request to the script on a thread of its own.
/// Says where; counts connections.
pub fn serve(script: impl Fn(Served) + Send + Sync + 'static, accepted: Arc<AtomicUsize>) -> SocketAddr {
    serve_as(Offers::default(), script, accepted)
}

/// The same with this.
pub fn serve_as(
    offers: Offers,
    script: impl Fn(Served) + Send + Sync + 'static,
    accepted: Arc<AtomicUsize>,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("a bound socket has an address");
    let script = Arc::new(script);
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            accepted.fetch_add(1, Ordering::SeqCst);
            let (script, offers) = (Arc::clone(&script), offers.clone());
            std::thread::spawn(move || serve_connection(stream, offers, script));
        }
    });
    address
}

fn serve_connection(stream: std::net::TcpStream, offers: Offers, script: Arc<impl Fn(Served) + Send + Sync + 'static>) {
    stream.set_nonblocking(true).expect("a connected stream");
    stream.set_nodelay(true).expect("a connected stream");
    runtime().block_on(async move {
        let stream = tokio::net::TcpStream::from_std(stream).expect("the runtime has a driver");
        match offers.hands {
            None => serve_stream(stream, offers.tunnels, script).await,
            Some(hands) => {
                let Ok(stream) = TlsAcceptor::from(hands.config()).accept(stream).await else { return };
                serve_stream(stream, offers.tunnels, script).await;
            }
        }
    });
}

async fn serve_stream(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    tunnels: bool,
    script: Arc<impl Fn(Served) + Send + Sync + 'static>,
) {
    let mut builder = h2::server::Builder::new();
    builder.max_header_list_size(1 << 20);
    if tunnels {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let orders = Orders::default();
    loop {
        tokio::select! {
            next = connection.accept() => {
                let Some(Ok((request, respond))) = next else { return };
                let (script, orders) = (Arc::clone(&script), orders.clone());
                let served = Served::new(request, respond, orders);
                std::thread::spawn(move || script(served));
            }
            () = orders.leave.notified() => connection.graceful_shutdown(),
            () = orders.cut.notified() => return,
        }
    }
}

impl Served {
    fn new(request: Request<RecvStream>, respond: SendResponse<Bytes>, orders: Orders) -> Served {
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("", |path| path.as_str());
        let start = format!("{} {path} HTTP/2", head.method);
        let host = head.uri.authority().map(|host| ("host".to_owned(), host.to_string()));
        let fields = host.into_iter().chain(list(&head.headers)).collect();
        let protocol = head.extensions.get::<Protocol>().map(|protocol| protocol.as_str().to_owned());
        Served { head: Head { start, fields }, protocol, orders, body, respond, answer: None }
    }

    /// Some of the request's body; `None` at its end or when it does not come to that.
    pub fn some(&mut self) -> Option<Bytes> {
        next_of(&mut self.body)?.ok()
    }

    /// The whole of it, its trailers, and how it ended.
    pub fn body(&mut self) -> (Vec<u8>, Vec<(String, String)>, End) {
        let mut bytes = Vec::new();
        loop {
            match next_of(&mut self.body) {
                Some(Ok(some)) => bytes.extend_from_slice(&some),
                Some(Err(_)) => return (bytes, Vec::new(), End::Reset),
                None => break,
            }
        }
        match trailers_of(&mut self.body) {
            Ok(trailers) => (bytes, trailers, End::Complete),
            Err(_) => (bytes, Vec::new(), End::Reset),
        }
    }

    pub fn interim(&mut self, status: u16, fields: Fields<'_>) {
        let mut head = http::Response::builder().status(status).body(()).expect("a status");
        *head.headers_mut() = map(fields);
        drop(self.respond.send_informational(head));
    }

    /// Begins the answer; `ends` says whether that is all.
    pub fn respond(&mut self, status: u16, fields: Fields<'_>, ends: bool) {
        let mut head = http::Response::builder().status(status).body(()).expect("a status");
        *head.headers_mut() = map(fields);
        self.answer = self.respond.send_response(head, ends).ok();
    }

    /// Some of the answer's body; false when it is not wanted any more.
    pub fn say(&mut self, data: &[u8]) -> bool {
        match self.answer.take() {
            Some(answer) => {
                let mut up = Up(answer);
                let said = up.say(data);
                self.answer = Some(up.0);
                said
            }
            None => false,
        }
    }

    pub fn end(&mut self, trailers: Fields<'_>) {
        if let Some(answer) = self.answer.take() {
            Up(answer).end(trailers);
        }
    }

    /// Resets the stream.
    pub fn reset(&mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Waits until the other side resets the stream, or has closed the connection; longer than the test does.
    pub fn is_left(&mut self) {
        match &mut self.answer {
            Some(answer) => drop(wait_within(2 * DEADLINE, "a reset", poll_fn(|cx| answer.poll_reset(cx)))),
            None => drop(wait_within(2 * DEADLINE, "a reset", poll_fn(|cx| self.respond.poll_reset(cx)))),
        }
    }
}
