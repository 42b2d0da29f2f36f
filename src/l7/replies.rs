//! Our own answers: refusals, failures, redirections and fixed responses.
//!
//! Short, with the request's id and nothing about us or the backends in them.

use std::borrow::Cow;
use std::sync::Arc;

use super::h1::{After, Connection};
use crate::config::HeaderEdits;
use crate::http::h1::write::{self, Connection as Persistence, OwnAnswer};
use crate::http::{Method, Refusal, Target};
use crate::local::{Desk, Phase};
use crate::state::Action;

const PLAIN: &str = "text/plain; charset=utf-8";

/// An answer of ours.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    content_type: Arc<str>,
    body: Cow<'static, str>,
    location: Option<String>,
    edits: Vec<Arc<HeaderEdits>>,
    close: bool,
}

impl Answer {
    fn new(status: u16, body: Cow<'static, str>) -> Answer {
        Answer { status, content_type: PLAIN.into(), body, location: None, edits: Vec::new(), close: false }
    }

    /// The usual text of this status.
    pub(super) fn plain(status: u16) -> Answer {
        Answer::new(status, text(status).into())
    }

    /// What is wrong with a request that could not be read.
    pub(super) fn refusal(refusal: Refusal) -> Answer {
        Answer::new(refusal.status(), format!("{}\n", refusal.why()).into())
    }

    /// The connection is closed after it.
    pub(super) fn closing(self) -> Answer {
        Answer { close: true, ..self }
    }

    /// With a route's changes to its responses.
    pub(super) fn edited(self, edits: &[Arc<HeaderEdits>]) -> Answer {
        Answer { edits: edits.to_vec(), ..self }
    }

    /// Sends it. A request body that was not read ends the connection: what is left of it is not the next request.
    pub(super) async fn send(self, connection: &mut Connection, desk: &mut Desk, id: &str) -> After {
        let unread = self.close || !connection.wire.inbound.is_done();
        let draining = connection.session.local().phase() != Phase::Serving;
        let keep = !unread && !draining && desk.request.keeps_alive();
        let location = self.location.as_deref().map(|to| ("Location", to));
        let answer = OwnAnswer {
            status: self.status,
            content_type: &self.content_type,
            body: self.body.as_bytes(),
            request_id: id,
            connection: if keep { Persistence::KeepAlive } else { Persistence::Close },
            extra: location.as_slice(),
            edits: &self.edits,
            head_request: desk.request.method == Method::Head,
        };
        write::own_answer(&mut connection.wire.outbound.pending, &answer);
        let sent = connection.flush().await;
        match (sent, keep, unread) {
            (false, ..) => After::Reset,
            (true, true, _) => After::KeepAlive,
            (true, false, true) => After::Linger,
            (true, false, false) => After::Close,
        }
    }
}

/// What a route that does not forward answers.
pub(super) fn of_route(action: &Action, target: &Target) -> Answer {
    match action {
        Action::Respond { status, body, content_type } => {
            Answer { content_type: content_type.clone(), ..Answer::new(*status, body.to_string().into()) }
        }
        Action::Redirect { status, to } => redirect(*status, fill(to, target)),
        Action::RedirectToHttps => redirect(308, format!("https://{}{}", target.host(), target.path_and_query())),
        // A route that forwards is not answered by us; 503 is what a client should see if it ever were.
        Action::Forward(_) => Answer::plain(503),
    }
}

fn redirect(status: u16, to: String) -> Answer {
    Answer { location: Some(to), ..Answer::plain(status) }
}

/// Puts the request's host, path and query into a redirection's template.
fn fill(template: &str, target: &Target) -> String {
    let query = target.query().map(|query| format!("?{query}")).unwrap_or_default();
    template.replace("{host}", target.host()).replace("{path}", target.path()).replace("{query}", &query)
}

fn text(status: u16) -> &'static str {
    match status {
        400 => "The request could not be understood.\n",
        404 => "There is nothing here.\n",
        408 => "The request did not come in time.\n",
        502 => "The server behind this one failed.\n",
        503 => "No server is available for this request.\n",
        504 => "The server behind this one did not answer in time.\n",
        _ => "",
    }
}
