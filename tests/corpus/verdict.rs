//! What is said of a case that was run: whether it was safe, and whether it went as Evenkeel promises.

use crate::file::{Case, Check, Last, Verb, What};
use crate::lane::Traffic;
use crate::letter::{Framing, Message, named};
use crate::support::Ending;
use crate::talk::Heard;

type Verdict = Result<(), String>;

/// Who is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Safety and everything that is promised.
    Evenkeel,
    /// Safety alone.
    Peer,
}

/// What became of the connections to the origin after an answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Later {
    /// The case's connection was ended by the proxy.
    pub ended: bool,
    /// A later request came on it.
    pub used_again: bool,
}

/// Judges a case of the requests by what reached the origin and what the client heard.
pub fn of_request(who: Who, case: &Case, traffic: &Traffic, heard: &Heard) -> Verdict {
    if let Some((why, bytes)) = traffic.broken.first() {
        return Err(format!("forwarded what is no clean message: {why}, in {:?}", shown(bytes)));
    }
    let (messages, probes): (Vec<&Message>, Vec<&Message>) =
        traffic.whole.iter().map(|(_, message)| message).partition(|message| message.target() != "/next");
    let allowed = match case.want.verb {
        Verb::Refuse | Verb::Cut => 0,
        Verb::Decline | Verb::Stop | Verb::Pass => case.want.messages.len(),
    };
    ensure(messages.len() <= allowed, || format!("forwarded as {}", starts(&messages)))?;
    ensure(allowed > 0 || probes.is_empty(), || {
        "went on reading the connection and took what followed for a request".into()
    })?;
    ensure(probes.len() < 2, || "forwarded what followed twice".into())?;
    for (message, checks) in messages.iter().zip(&case.want.messages) {
        checks
            .iter()
            .filter(|check| who == Who::Evenkeel || !check.ours)
            .try_for_each(|check| holds(who, check, message))?;
    }
    if who == Who::Peer { Ok(()) } else { promised_request(case, traffic, &messages, heard) }
}

fn promised_request(case: &Case, traffic: &Traffic, messages: &[&Message], heard: &Heard) -> Verdict {
    messages.iter().try_for_each(|message| built_anew(case, message))?;
    match case.want.verb {
        Verb::Refuse | Verb::Decline => {
            ensure(messages.is_empty(), || format!("forwarded as {}", starts(messages)))?;
            ensure(traffic.partial.is_empty(), || {
                format!("a part reached the origin: {:?}", shown(&traffic.partial[0].0))
            })?;
            refused(case, heard)
        }
        Verb::Cut | Verb::Stop => {
            ensure(messages.is_empty(), || format!("forwarded as {}", starts(messages)))?;
            let ended = traffic.partial.iter().all(|(_, ending)| ending.is_some());
            ensure(ended, || "the origin waits for the rest of a request that will never come".into())?;
            refused(case, heard)
        }
        Verb::Pass => {
            ensure(messages.len() == case.want.messages.len(), || {
                format!("{} messages arrived; {}", messages.len(), told(heard))
            })?;
            ensure(traffic.partial.is_empty(), || {
                format!("more than the messages came: {:?}", shown(&traffic.partial[0].0))
            })?;
            answered(case, heard)
        }
    }
}

/// The client has one answer with a status of those expected, and its connection is closed.
fn refused(case: &Case, heard: &Heard) -> Verdict {
    let status = heard.answers.first().map(|answer| answer.last.status());
    ensure(case.want.statuses.contains(&status), || told(heard))?;
    if case.last == Last::Reset {
        return Ok(());
    }
    let closing = heard.answers.iter().all(|answer| answer.last.lists("connection", "close") && answer.last.is_whole());
    ensure(heard.answers.len() < 2 && closing, || format!("not one answer that closes: {}", told(heard)))?;
    let silent = heard.rest.is_empty() || heard.rest == b"HTTP/1.1 100 Continue\r\n\r\n";
    ensure(silent && heard.broken.is_none(), || format!("more than an answer: {}", told(heard)))?;
    ensure(heard.ending == Some(Ending::Closed), || format!("not an orderly end: {}", told(heard)))
}

/// The client has a whole answer for each of its messages, and where the connection stays, for the probe too.
fn answered(case: &Case, heard: &Heard) -> Verdict {
    let then = case.want.then();
    let wanted = case.want.messages.len() + usize::from(heard.asked_more) + usize::from(then.is_some());
    ensure(heard.answers.len() == wanted && heard.broken.is_none(), || told(heard))?;
    let last = heard.answers.last().map(|answer| answer.last.status());
    ensure(then.is_none() || (then == last && !heard.asked_more && heard.ending == Some(Ending::Closed)), || {
        told(heard)
    })?;
    let fit = |status| case.want.statuses.contains(&Some(status)) || then == Some(status);
    ensure(heard.answers.iter().all(|answer| answer.last.is_whole() && fit(answer.last.status())), || told(heard))?;
    for check in case.want.messages.iter().flatten() {
        match check.what {
            What::Keeps => ensure(heard.asked_more, || format!("the connection does not stay: {}", told(heard)))?,
            What::Closes => ensure(!heard.asked_more, || format!("the connection stays: {}", told(heard)))?,
            _ => {}
        }
    }
    Ok(())
}

/// What Evenkeel forwards is free of all that belongs to the client's hop, whatever the case is about (checklist 4).
fn built_anew(case: &Case, message: &Message) -> Verdict {
    ensure(message.start.ends_with(" HTTP/1.1"), || format!("not HTTP/1.1: {}", message.start))?;
    ensure(!message.extended, || "chunk extensions were forwarded".into())?;
    const STAYS: [&str; 4] = ["keep-alive", "proxy-connection", "http2-settings", "proxy-authorization"];
    let left = message
        .fields
        .iter()
        .find(|(name, _)| name.contains('_') || STAYS.iter().any(|stays| name.eq_ignore_ascii_case(stays)));
    ensure(left.is_none(), || format!("{left:?} was forwarded"))?;
    let options = message.values("connection");
    let te = message.values("te");
    // RFC 9110 §10.1.4: `TE` is said of one hop, so `Connection` names it
    let fit = match options[..] {
        [] | ["Upgrade"] => te.is_empty(),
        ["TE"] => te == ["trailers"],
        _ => false,
    };
    ensure(fit, || format!("Connection is {options:?}, TE is {te:?}"))?;
    let from = message.values("x-forwarded-for");
    let peer_alone = from == ["127.0.0.1"];
    let continued = case.listener.contains("trusted_proxies") && from.len() == 1 && from[0].ends_with(", 127.0.0.1");
    ensure(peer_alone || continued, || format!("X-Forwarded-For is {from:?}"))
}

/// Judges a case of the answers by what the client heard.
pub fn of_answer(who: Who, case: &Case, heard: &Heard, later: Later) -> Verdict {
    ensure(heard.broken.is_none(), || format!("the client was sent what is no clean answer: {}", told(heard)))?;
    let first = heard.answers.first();
    let foreign = first.filter(|answer| answer.last.status() < 500 || case.want.verb == Verb::Pass);
    let expected = |status| case.want.statuses.contains(&Some(status));
    match (case.want.verb, foreign) {
        (_, None) => {}
        (Verb::Refuse, Some(_)) => return Err(format!("let through: {}", told(heard))),
        (Verb::Cut, Some(answer)) => ensure(!answer.last.is_whole(), || format!("looks whole: {}", told(heard)))?,
        (_, Some(answer)) if expected(answer.last.status()) || case.want.verb != Verb::Pass => {
            let asked = |check: &&Check| who == Who::Evenkeel || !check.ours;
            if answer.last.is_whole() {
                let checks = case.want.messages.iter().flatten().filter(asked);
                checks.clone().try_for_each(|check| holds(who, check, &answer.last))?;
                checks.clone().try_for_each(|check| interim_holds(check, &answer.interim))?;
            }
        }
        (_, Some(_)) => {}
    }
    if let Some(second) = heard.answers.get(1) {
        let own = second.last.status() >= 400 || (second.last.status() == 200 && second.last.body == b"ok");
        ensure(own, || format!("the next request got an answer that was not meant for it: {}", told(heard)))?;
    }
    if who == Who::Peer { Ok(()) } else { promised_answer(case, heard, later) }
}

fn promised_answer(case: &Case, heard: &Heard, later: Later) -> Verdict {
    let first = heard.answers.first();
    let status = first.map(|answer| answer.last.status());
    ensure(case.want.statuses.contains(&status), || told(heard))?;
    let whole = first.is_some_and(|answer| answer.last.is_whole());
    let looks_whole = whole || matches!(case.want.verb, Verb::Cut | Verb::Stop);
    ensure(looks_whole, || format!("not whole: {}", told(heard)))?;
    if heard.asked_more {
        let second = heard.answers.get(1).map(|answer| answer.last.status());
        ensure(second == Some(200), || format!("the next request on the connection failed: {}", told(heard)))?;
    }
    let checks = || case.want.messages.iter().flatten();
    let closes = case.want.verb != Verb::Pass || checks().any(|check| matches!(check.what, What::Closes));
    ensure(!closes || !later.used_again, || "the backend's connection was used again".into())?;
    ensure(!closes || later.ended, || "the backend's connection was not closed".into())?;
    let keeps = checks().any(|check| matches!(check.what, What::Keeps));
    ensure(!keeps || later.used_again, || "the backend's connection was not used again".into())
}

fn interim_holds(check: &Check, interim: &[Message]) -> Verdict {
    let What::Interim(wanted) = &check.what else { return Ok(()) };
    let seen: Vec<u16> = interim.iter().map(Message::status).collect();
    ensure(seen == *wanted, || format!("the interim answers are {seen:?}"))
}

/// Whether what is said of a message is so.
fn holds(who: Who, check: &Check, message: &Message) -> Verdict {
    let fine = match &check.what {
        What::Line(line) => {
            message.start.strip_suffix(" HTTP/1.1").or(message.start.strip_suffix(" HTTP/1.0")) == Some(line)
        }
        What::Field(name, value) => {
            // To drop a field, as nginx does with names that it finds odd, harms nobody.
            let values = message.values(name);
            values == [value] || (values.is_empty() && who == Who::Peer)
        }
        What::No(name) => message.values(name).is_empty(),
        What::Body(body) => message.body == *body,
        What::Size(size) => message.body.len() == *size,
        What::Framing(framing) => framing_name(message.framing) == framing,
        What::Trailer(name, value) => named(&message.trailers, name) == [value],
        What::NoTrailer(name) => named(&message.trailers, name).is_empty(),
        What::Interim(_) | What::Keeps | What::Closes | What::Then(_) => true,
    };
    let body: String = shown(&message.body).chars().take(200).collect();
    ensure(fine, || {
        format!(
            "{:?} does not hold: {} {:?} {:?} {body:?} {:?}",
            check.what, message.start, message.fields, message.framing, message.trailers
        )
    })
}

fn framing_name(framing: Framing) -> &'static str {
    match framing {
        Framing::None => "none",
        Framing::Length(_) => "length",
        Framing::Chunked => "chunked",
        Framing::ToClose => "to-close",
    }
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(why()) }
}

fn starts(messages: &[&Message]) -> String {
    messages.iter().map(|message| format!("{:?}", message.start)).collect::<Vec<_>>().join(" and ")
}

/// What the client heard, in short.
fn told(heard: &Heard) -> String {
    let answers: Vec<_> =
        heard.answers.iter().map(|answer| format!("{} ({:?})", answer.last.start, answer.last.end)).collect();
    let rest = if heard.rest.is_empty() { String::new() } else { format!(", then {:?}", shown(&heard.rest)) };
    let broken = heard.broken.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    format!("the client heard [{}]{rest}{broken}, ending {:?}", answers.join(", "), heard.ending)
}

fn shown(bytes: &[u8]) -> String {
    bytes.iter().take(240).flat_map(|byte| byte.escape_ascii()).map(char::from).collect()
}
