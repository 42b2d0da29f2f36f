//! Health checks by gRPC, against a server on the `h2` crate that answers what it is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, server};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::tls::{Authority, Hands};
use crate::support::{Daemon, Launch, backends, eventually, web};

/// What a server answers: the status of the service, or that of the call.
#[derive(Clone, Copy)]
enum Says {
    Service(u8),
    Call(&'static str),
}

/// One call as it came.
#[derive(Clone, Debug)]
struct Call {
    authority: String,
    path: String,
    message: Vec<u8>,
}

type Calls = Arc<Mutex<Vec<Call>>>;

struct Server {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    calls: Calls,
}

impl Server {
    /// Runs until the test process ends.
    fn start(says: Says) -> Server {
        Server::start_over(says, None)
    }

    fn start_over(says: Says, hands: Option<Hands>) -> Server {
        let (tell, told) = std::sync::mpsc::channel();
        let (says, calls) = (Arc::new(Mutex::new(says)), Calls::default());
        let (saying, remembering) = (says.clone(), calls.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
                tell.send(listener.local_addr().expect("it is bound")).expect("the test waits");
                while let Ok((stream, _)) = listener.accept().await {
                    let (saying, remembering) = (saying.clone(), remembering.clone());
                    match &hands {
                        None => drop(tokio::spawn(serve(stream, saying, remembering))),
                        Some(hands) => {
                            let Ok(stream) = TlsAcceptor::from(hands.config()).accept(stream).await else { continue };
                            tokio::spawn(serve(stream, saying, remembering));
                        }
                    }
                }
            });
        });
        let address = told.recv().expect("the server starts");
        Server { address, says, calls }
    }

    fn say(&self, says: Says) {
        *self.says.lock().expect("no holder panics") = says;
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("no holder panics").clone()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, says: Arc<Mutex<Says>>, calls: Calls) {
    let Ok(mut connection) = server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let says = *says.lock().expect("no holder panics");
        tokio::spawn(answer(request, respond, says, calls.clone()));
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, says: Says, calls: Calls) {
    let (head, mut body) = request.into_parts();
    let mut message = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        message.extend_from_slice(&data);
    }
    let authority = head.uri.authority().map(ToString::to_string).unwrap_or_default();
    let call = Call { authority, path: head.uri.path().to_owned(), message };
    calls.lock().expect("no holder panics").push(call);
    let response = Response::builder().header("content-type", "application/grpc");
    match says {
        Says::Service(status) => {
            let response = response.body(()).expect("it is well formed");
            let mut stream = respond.send_response(response, false).expect("the probe listens");
            let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
            stream.send_data(message, false).expect("the probe listens");
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().expect("it is well formed"));
            stream.send_trailers(trailers).expect("the probe listens");
        }
        Says::Call(status) => {
            let response = response.header("grpc-status", status).body(()).expect("it is well formed");
            respond.send_response(response, true).expect("the probe listens");
        }
    }
}

fn daemon_before(server: &Server, service: &str) -> Daemon {
    let check = format!(
        "health_check = {{ type = 'grpc'{service}, fall = 2, rise = 2, interval = '500ms', fast_interval = '50ms', \
         down_interval = '50ms' }}\n"
    );
    Daemon::start(&web("", &(backends(&[&server.address.to_string()]) + &check)))
}

#[test]
fn a_service_that_serves_is_up_and_one_that_does_not_is_down() {
    let server = Server::start(Says::Service(1));
    let daemon = daemon_before(&server, ", service = 'shop.Cart', host = 'shop.example.com'");
    eventually("it is asked", || server.calls().len() > 1);
    let call = server.calls().remove(0);
    assert_eq!(call.authority, "shop.example.com");
    assert_eq!(call.path, "/grpc.health.v1.Health/Check");
    assert_eq!(call.message, b"\0\0\0\0\x0b\x0a\x09shop.Cart");
    assert!(!daemon.has_logged("backend is down"));
    server.say(Says::Service(2));
    daemon.wait_log("from=going down 1/2 to=down cause=the service says NOT_SERVING");
    server.say(Says::Service(1));
    daemon.wait_log("backend is up");
}

#[test]
fn a_server_that_does_not_know_the_call_or_the_service_is_down() {
    let server = Server::start(Says::Call("12"));
    let daemon = daemon_before(&server, "");
    daemon.wait_log("cause=grpc-status 12 (grpc.health.v1 is not served there)");
    daemon.wait_log("backend is down");
    server.say(Says::Call("5"));
    let call = server.calls().remove(0);
    assert_eq!((call.authority, call.message.as_slice()), (server.address.to_string(), &[0; 5][..]));
}

#[test]
fn a_pool_with_tls_is_asked_over_tls() {
    let authority = Authority::new("ca");
    let server = Server::start_over(Says::Service(1), Some(Hands::showing(&authority.sign(&["app.internal"]))));
    let check = "tls = { ca = 'ca.pem', sni = 'app.internal' }\n\
                 health_check = { type = 'grpc', initial = 'down', rise = 1, interval = '500ms' }\n";
    let launch = Launch::new().write("ca.pem", &authority.pem);
    let text = web("", &(backends(&[&server.address.to_string()]) + check));
    launch.write("evenkeel.toml", &text).start().wait_log("backend is up");
}
