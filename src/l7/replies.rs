//! Our own answers: refusals, failures, redirections and fixed responses.
//!
//! Short, with the request's id and nothing about us or the backends in them.

use std::sync::Arc;
use std::time::Duration;

use super::client::{After, Client, Front};
use super::request_id::RequestId;
use crate::config::HeaderEdits;
use crate::http::forward::{Connection as Persistence, OwnAnswer};
use crate::http::h1::write;
use crate::http::{Method, Refusal, Target, grpc};
use crate::local::{Desk, Local};
use crate::state::{Action, ListenerPlan};
use crate::stream::Stream;
use crate::tls::{Direction, Identity};

const PLAIN: &str = "text/plain; charset=utf-8";

/// A text of an answer, not copied where it need not be.
#[derive(Debug)]
enum Text {
    Fixed(&'static str),
    Configured(Arc<str>),
}

impl Text {
    fn as_str(&self) -> &str {
        match self {
            Text::Fixed(text) => text,
            Text::Configured(text) => text,
        }
    }
}

/// An answer of ours.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    content_type: Text,
    body: Text,
    location: Option<String>,
    /// In how many seconds to come again.
    retry_after: Option<String>,
    edits: Vec<Arc<HeaderEdits>>,
    close: bool,
}

impl Answer {
    fn new(status: u16, content_type: Text, body: Text) -> Answer {
        Answer { status, content_type, body, location: None, retry_after: None, edits: Vec::new(), close: false }
    }

    /// The usual text of this status.
    pub(super) fn plain(status: u16) -> Answer {
        Answer::new(status, Text::Fixed(PLAIN), Text::Fixed(text(status)))
    }

    /// What is wrong with a request that could not be read.
    pub(super) fn refusal(refusal: Refusal) -> Answer {
        Answer::new(refusal.status(), Text::Fixed(PLAIN), Text::Configured(format!("{}\n", refusal.why()).into()))
    }

    /// All backends are busy: a client should come again when those who wait now have had their turn, or have given up.
    pub(super) fn busy(status: u16, wait: Duration) -> Answer {
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        Answer { retry_after: Some(seconds.to_string()), ..Answer::plain(status) }
    }

    /// The connection is closed after it.
    pub(super) fn closing(self) -> Answer {
        Answer { close: true, ..self }
    }

    /// With a route's changes to its responses.
    pub(super) fn edited(self, edits: &[Arc<HeaderEdits>]) -> Answer {
        Answer { edits: edits.to_vec(), ..self }
    }

    /// The same for a call of gRPC: a head that is all there is, with the status in the place that calls have for it.
    fn into_grpc(self) -> (Answer, [(&'static str, String); 2]) {
        let fields = [
            (grpc::STATUS, grpc::of_http_status(self.status).to_string()),
            (grpc::MESSAGE, grpc::message(self.body.as_str())),
        ];
        let Answer { edits, close, .. } = self;
        (Answer { edits, close, ..Answer::new(200, Text::Fixed(grpc::CONTENT_TYPE), Text::Fixed("")) }, fields)
    }

    /// Sends it, as a call of gRPC is answered where the request is one.
    pub(super) async fn send(self, client: &mut Client<impl Front>, desk: &mut Desk, id: &str) -> After {
        if !desk.request.grpc {
            return self.tell(client, desk, id, &[]).await;
        }
        let (answer, fields) = self.into_grpc();
        answer.tell(client, desk, id, &fields.each_ref().map(|(name, value)| (*name, value.as_str()))).await
    }

    /// Sends it as it is. A request body that was not read ends the connection: what is left of it is not the next request.
    async fn tell(self, client: &mut Client<impl Front>, desk: &Desk, id: &str, more: &[(&str, &str)]) -> After {
        let unread = self.close || !client.wire.is_read();
        let keep = !unread && client.may_go_on(desk);
        // No answer has both.
        let location = self.location.as_deref().map(|to| ("Location", to));
        let extra = location.or(self.retry_after.as_deref().map(|seconds| ("Retry-After", seconds)));
        let answer = OwnAnswer {
            status: self.status,
            content_type: self.content_type.as_str(),
            body: self.body.as_str().as_bytes(),
            request_id: id,
            connection: if keep { Persistence::KeepAlive } else { Persistence::Close },
            extra: if more.is_empty() { extra.as_slice() } else { more },
            edits: &self.edits,
            head_request: desk.request.method == Method::Head,
        };
        client.wire.answer(&answer);
        match (client.flush().await, keep, unread) {
            (false, ..) => After::Reset,
            (true, true, _) => After::KeepAlive,
            (true, false, true) => After::Linger,
            (true, false, false) => client.farewell(desk),
        }
    }
}

/// Answers 503 to a client that has too many connections, without reading a request or waiting for anything: it must not cost
/// more than it takes to say no.
pub fn turn_away(local: &Local, stream: Stream) {
    let id = local.roll(RequestId::roll);
    let mut words = Vec::with_capacity(256);
    let answer = OwnAnswer {
        status: 503,
        content_type: PLAIN,
        body: b"There are too many connections from your address.\n",
        request_id: id.as_str(),
        connection: Persistence::Close,
        extra: &[],
        edits: &[],
        head_request: false,
    };
    write::own_answer(&mut words, &answer);
    stream.say_and_close(&words);
}

/// The answer to a request for a host that demands of clients what this one's connection was not made by (security.md R15). If
/// no host demands any more what was demanded then, the connection is of no further use.
pub(super) fn misdirected(plan: &ListenerPlan, client: Option<&Identity>, host: &str) -> Option<Answer> {
    let direction = plan.tls.as_ref()?.direct(client.map(|client| &client.demand), host);
    if direction != Direction::Right {
        tracing::debug!(listener = %plan.name, host, "its connection was made for other demands of clients");
    }
    match direction {
        Direction::Right => None,
        Direction::Elsewhere => Some(Answer::plain(421)),
        Direction::Outdated => Some(Answer::plain(421).closing()),
    }
}

/// What a route that does not forward answers.
pub(super) fn of_route(action: &Action, target: &Target) -> Answer {
    match action {
        Action::Respond { status, body, content_type } => {
            Answer::new(*status, Text::Configured(content_type.clone()), Text::Configured(body.clone()))
        }
        Action::Redirect { status, to } => redirect(*status, fill(to, target)),
        // It names no host (HTTP/1.0), so there is nowhere to lead it.
        Action::RedirectToHttps if target.host().is_empty() => Answer::plain(400),
        Action::RedirectToHttps => redirect(308, fill("https://{host}{path}{query}", target)),
        // A route that forwards is not answered by us; 503 is what a client should see if it ever were.
        Action::Forward(_) => Answer::plain(503),
    }
}

fn redirect(status: u16, to: String) -> Answer {
    Answer { location: Some(to), ..Answer::plain(status) }
}

/// Puts the request's host, path and query into a redirection's template. What they bring is not read as a template.
fn fill(template: &str, target: &Target) -> String {
    // `OPTIONS *` is about the server, which a URI names by its root.
    let path = if target.path() == "*" { "/" } else { target.path() };
    let mut filled = String::with_capacity(template.len() + target.host().len() + target.path_and_query().len());
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        filled.push_str(&rest[..open]);
        rest = &rest[open..];
        if let Some(after) = rest.strip_prefix("{host}") {
            filled.push_str(target.host());
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{path}") {
            filled.push_str(path);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{query}") {
            // What is left of the target behind its path: the query with its `?`.
            filled.push_str(&target.path_and_query()[target.path().len()..]);
            rest = after;
        } else {
            filled.push('{');
            rest = &rest[1..];
        }
    }
    filled + rest
}

fn text(status: u16) -> &'static str {
    match status {
        400 => "The request could not be understood.\n",
        404 => "There is nothing here.\n",
        408 => "The request did not come in time.\n",
        421 => "This connection is not for this host: ask on another one.\n",
        431 => "The trailer fields are too many or too large.\n",
        501 => "This is not offered here.\n",
        502 => "The server behind this one failed.\n",
        503 => "No server is available for this request.\n",
        504 => "The server behind this one did not answer in time.\n",
        _ => "",
    }
}
