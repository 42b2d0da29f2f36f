//! What the fields of a head say together: how the body is framed, what becomes of the connection, which host is meant.
//!
//! Whatever could be understood in two ways is refused (RFC 9112 §6.3, security.md R4, R6, R9).

use crate::http::bytes::{is_token, members};
use crate::http::head::{ConnectionOptions, Framing, Known, Method, RequestHead, ResponseHead, Version};
use crate::http::refusal::Refusal;
use crate::http::target::Target;

/// A bound for the work of comparing nominated names with all fields.
const MOST_OPTIONS: usize = 32;

/// Whether a stream goes on behind a head in HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The head is all (END_STREAM).
    Ended,
    /// Data, trailer fields, or the end of the stream alone, are to come.
    Follows,
}

/// Where the authority of a request comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Authority {
    FromHost,
    FromTarget,
}

/// What `Upgrade` asks for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Upgrade {
    #[default]
    Nothing,
    Websocket,
    SomethingElse,
}

/// What the fields that decide about framing and connection said.
#[derive(Default)]
pub(super) struct Notes<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    expects_continue: bool,
    upgrade: Upgrade,
    asks_upgrade: bool,
    options: usize,
    connection: ConnectionOptions,
}

impl<'a> Notes<'a> {
    /// Hears a field of a request.
    pub(super) fn take_request(&mut self, known: Known, value: &'a [u8]) -> Result<(), Refusal> {
        match known {
            Known::Host if self.host.is_some() => return Err(Refusal::HostRepeated),
            Known::Host => self.host = Some(value),
            Known::Expect if value.eq_ignore_ascii_case(b"100-continue") => self.expects_continue = true,
            Known::Expect => return Err(Refusal::ExpectUnknown),
            _ => return self.take(known, value),
        }
        Ok(())
    }

    /// Hears a field of any message.
    pub(super) fn take(&mut self, known: Known, value: &[u8]) -> Result<(), Refusal> {
        match known {
            Known::ContentLength if self.length.is_some() => return Err(Refusal::LengthRepeated),
            Known::ContentLength => self.length = Some(read_length(value).ok_or(Refusal::LengthInvalid)?),
            Known::TransferEncoding => self.take_coding(value)?,
            Known::Connection => self.take_options(value)?,
            Known::Upgrade => self.take_upgrade(value),
            _ => {}
        }
        Ok(())
    }

    fn take_coding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
        if is_chunked(value) && !self.chunked {
            self.chunked = true;
            return Ok(());
        }
        let unknown = members(value).any(|coding| is_token(coding) && !is_chunked(coding));
        Err(if unknown { Refusal::CodingUnknown } else { Refusal::CodingMalformed })
    }

    fn take_options(&mut self, value: &[u8]) -> Result<(), Refusal> {
        for option in members(value) {
            self.options += 1;
            if self.options > MOST_OPTIONS {
                return Err(Refusal::TooManyOptions);
            }
            if option.eq_ignore_ascii_case(b"keep-alive") {
                self.connection.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                self.connection.close = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.asks_upgrade = true;
            } else if !option.eq_ignore_ascii_case(b"te") {
                // which `TE` is with every sender that keeps to RFC 9110 §10.1.4; it never passes anyway
                self.connection.nominates = true;
            }
        }
        Ok(())
    }

    fn take_upgrade(&mut self, value: &[u8]) {
        let first = self.upgrade == Upgrade::Nothing;
        let websocket = first && value.eq_ignore_ascii_case(b"websocket");
        self.upgrade = if websocket { Upgrade::Websocket } else { Upgrade::SomethingElse };
    }

    /// The options, with the switch to WebSocket only where all that it takes is there.
    fn options(&self, version: Version) -> ConnectionOptions {
        let websocket = self.asks_upgrade && self.upgrade == Upgrade::Websocket && version == Version::Http11;
        ConnectionOptions { websocket, ..self.connection }
    }

    /// RFC 9112 §6.3, with nothing forgiven.
    fn framing(&self, version: Version, unframed: Framing) -> Result<Framing, Refusal> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Refusal::LengthAndCoding),
            (true, None) if version == Version::Http10 => Err(Refusal::CodingInOldVersion),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (false, None) => Ok(unframed),
        }
    }

    /// Decides what a request's fields mean together.
    pub(super) fn settle_request(self, authority: Authority, into: &mut RequestHead) -> Result<(), Refusal> {
        into.framing = self.framing(into.version, Framing::None)?;
        let has_body = !matches!(into.framing, Framing::None | Framing::Length(0));
        into.expects_continue = self.expects_continue && has_body && into.version != Version::Http10;
        into.connection = self.options(into.version);
        // an upgrade with a body is how one message becomes two (security.md R3), and WebSocket has GET alone (RFC 6455 §4.1)
        into.connection.websocket &= !has_body && into.method == Method::Get;
        match self.host {
            Some(host) if authority == Authority::FromTarget => Target::default().set_authority(host),
            Some(host) => into.target.set_authority(host),
            None if into.version == Version::Http10 => Ok(()),
            None => Err(Refusal::HostMissing),
        }
    }

    /// Decides what the fields of a request in HTTP/2 mean together; its target has the `:authority`, where there is one.
    pub(super) fn settle_stream_request(self, body: Body, into: &mut RequestHead) -> Result<(), Refusal> {
        into.framing = match (body, self.length) {
            (Body::Ended, Some(1..)) => return Err(Refusal::LengthWithoutBody),
            // what follows is the tunnel: a request that also has a body would be two messages in one (security.md R3)
            (Body::Follows, Some(1..)) if into.connection.websocket => return Err(Refusal::LengthWithoutBody),
            _ if into.connection.websocket => Framing::None,
            (_, Some(length)) => Framing::Length(length),
            (Body::Ended, None) => Framing::None,
            (Body::Follows, None) => Framing::Chunked,
        };
        let has_body = !matches!(into.framing, Framing::None | Framing::Length(0));
        into.expects_continue = self.expects_continue && has_body;
        match (self.host, into.target.authority()) {
            (None, "") => Err(Refusal::HostMissing),
            (None, _) => Ok(()),
            (Some(host), "") => into.target.set_authority(host),
            (Some(host), authority) => {
                let mut told = Target::default();
                told.set_authority(host)?;
                if told.authority() == authority { Ok(()) } else { Err(Refusal::HostDiffers) }
            }
        }
    }

    /// Decides what the fields of a response in HTTP/2 mean together.
    pub(super) fn settle_stream_response(self, to: Method, body: Body, into: &mut ResponseHead) -> Result<(), Refusal> {
        if has_no_body(to, into.status) {
            into.framing = Framing::None;
            into.told_length = self.told_length(to, into.status);
            return Ok(());
        }
        into.framing = match (body, self.length) {
            (Body::Ended, Some(1..)) => return Err(Refusal::LengthWithoutBody),
            (Body::Ended, _) => Framing::Length(0),
            (Body::Follows, Some(length)) => Framing::Length(length),
            (Body::Follows, None) => Framing::Chunked,
        };
        Ok(())
    }

    /// The length that a response without a body may tell of one.
    fn told_length(&self, to: Method, status: u16) -> Option<u64> {
        let tells = to == Method::Head && !matches!(status, 100..200 | 204) || status == 304;
        self.length.filter(|_| tells)
    }

    /// Decides what a response's fields mean together, for a request of method `to`.
    pub(super) fn settle_response(self, to: Method, into: &mut ResponseHead) -> Result<(), Refusal> {
        let framing = self.framing(into.version, Framing::ToClose)?;
        into.connection = self.options(into.version);
        into.framing = if has_no_body(to, into.status) { Framing::None } else { framing };
        into.told_length = self.told_length(to, into.status);
        Ok(())
    }
}

/// Whether a response has no body, whatever else it says.
fn has_no_body(to: Method, status: u16) -> bool {
    to == Method::Head || matches!(status, 100..200 | 204 | 304)
}

/// Digits alone, and not more than a signed number holds: some programs read lengths as one.
fn read_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let length = digits.iter().try_fold(0u64, |length, digit| {
        let digit = digit.checked_sub(b'0').filter(|&digit| digit < 10)?;
        length.checked_mul(10)?.checked_add(u64::from(digit))
    });
    length.filter(|&length| length <= i64::MAX as u64)
}
