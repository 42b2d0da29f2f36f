//! What comes of one probe, and why it is not what was expected.

use std::fmt;
use std::io;
use std::time::Duration;

use super::grpc_message::Malformed;
use crate::http::Refusal;
use crate::http::h1::body::BodyFault;

/// What came of a probe.
#[derive(Debug)]
pub enum Answer {
    /// The backend is well.
    Good,
    /// It is not.
    Bad(Fault),
    /// The probe could not be made, by no fault of the backend: this machine lacks something.
    Unable(io::Error),
}

/// Why a backend is not well.
#[derive(Debug)]
pub enum Fault {
    /// No connection could be made.
    Connect(io::Error),
    /// TLS could not be agreed upon, or it is not who it should be.
    Handshake(io::Error),
    /// The connection broke.
    Broken(io::Error),
    /// It was closed before the answer was whole.
    Closed,
    /// The time was over.
    Timeout {
        /// What there was.
        after: Duration,
        /// What was under way then.
        stage: Stage,
    },
    /// The head of the answer breaks the rules.
    Head(Refusal),
    /// The body of the answer breaks the rules.
    Body(BodyFault),
    /// There is more before the answer than anybody needs.
    TooMuch,
    /// Another status than expected.
    Status(u16),
    /// A header is not there, or has another value.
    Header(String),
    /// The body does not contain the text.
    NoText(String),
    /// Nothing in the body matches the expression.
    NoMatch(String),
    /// HTTP/2 went wrong.
    Http2(h2::Error),
    /// The answer is not gRPC's.
    NotGrpc,
    /// gRPC says that the call failed.
    GrpcStatus(u32),
    /// gRPC's message can not be read.
    GrpcMessage(Malformed),
    /// The service says so itself: its `ServingStatus`.
    NotServing(u64),
}

/// How far a probe has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The connection is being made.
    Connecting,
    /// The request is sent, the answer awaited.
    Waiting,
    /// The answer has begun.
    Reading,
}

impl Answer {
    /// What an attempt to connect that ended so says. Descriptors, memory, local ports: what is lacking here is no fault of the
    /// backend, and must not take all backends down at once.
    pub(super) fn of_connect(error: io::Error) -> Answer {
        use rustix::io::Errno;
        let lacking = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
        let is_lacking = Errno::from_io_error(&error).is_some_and(|errno| lacking.contains(&errno));
        if is_lacking { Answer::Unable(error) } else { Answer::Bad(Fault::Connect(error)) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Connect(error) => write!(f, "cannot connect: {error}"),
            Fault::Handshake(error) => write!(f, "TLS handshake failed: {error}"),
            Fault::Broken(error) => write!(f, "the connection broke: {error}"),
            Fault::Closed => f.write_str("closed before the whole answer"),
            Fault::Timeout { after, stage } => write!(f, "not within {after:?}: {stage}"),
            Fault::Head(refusal) => write!(f, "not an answer in HTTP: {}", refusal.why()),
            Fault::Body(fault) => write!(f, "the body of the answer is broken: {fault}"),
            Fault::TooMuch => f.write_str("too much before the answer"),
            Fault::Status(status) => write!(f, "status {status}"),
            Fault::Header(name) => write!(f, "the header `{name}` is not as expected"),
            Fault::NoText(text) => write!(f, "the body does not contain {text:?}"),
            Fault::NoMatch(pattern) => write!(f, "nothing in the body matches {pattern:?}"),
            Fault::Http2(error) => write!(f, "HTTP/2: {error}"),
            Fault::NotGrpc => f.write_str("the answer is not gRPC's"),
            Fault::GrpcStatus(code) => write!(f, "grpc-status {code}{}", grpc_hint(*code)),
            Fault::GrpcMessage(_) => f.write_str("the gRPC message can not be read"),
            Fault::NotServing(status) => write!(f, "the service says {}", serving_status(*status)),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Connecting => "a connection",
            Stage::Waiting => "an answer",
            Stage::Reading => "the end of the answer",
        })
    }
}

/// The two that a wrong check brings about.
fn grpc_hint(code: u32) -> &'static str {
    match code {
        5 => " (the service is not known there)",
        12 => " (grpc.health.v1 is not served there)",
        _ => "",
    }
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`
fn serving_status(number: u64) -> &'static str {
    match number {
        0 => "UNKNOWN",
        1 => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "a status that does not exist",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_not_held_against_the_backend() {
        let of = |code| Answer::of_connect(io::Error::from_raw_os_error(code));
        for lacking in [libc_code("EMFILE"), libc_code("EADDRNOTAVAIL")] {
            assert!(matches!(of(lacking), Answer::Unable(_)), "{lacking}");
        }
        for refused in [libc_code("ECONNREFUSED"), libc_code("EHOSTUNREACH")] {
            assert!(matches!(of(refused), Answer::Bad(Fault::Connect(_))), "{refused}");
        }
    }

    fn libc_code(name: &str) -> i32 {
        use rustix::io::Errno;
        match name {
            "EMFILE" => Errno::MFILE,
            "EADDRNOTAVAIL" => Errno::ADDRNOTAVAIL,
            "ECONNREFUSED" => Errno::CONNREFUSED,
            _ => Errno::HOSTUNREACH,
        }
        .raw_os_error()
    }

    #[test]
    fn a_fault_says_what_was_and_what_was_wanted() {
        let timeout = Fault::Timeout { after: Duration::from_millis(500), stage: Stage::Waiting };
        assert_eq!(timeout.to_string(), "not within 500ms: an answer");
        assert_eq!(Fault::Status(503).to_string(), "status 503");
        assert_eq!(Fault::NoText("o\nk".into()).to_string(), "the body does not contain \"o\\nk\"");
        assert_eq!(Fault::NotServing(2).to_string(), "the service says NOT_SERVING");
        assert_eq!(Fault::GrpcStatus(12).to_string(), "grpc-status 12 (grpc.health.v1 is not served there)");
    }
}
