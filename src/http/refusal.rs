//! Why a head is refused: one word a rule, with the status of the answer and a sentence for people.
//!
//! In HTTP/1.1 a refusal always ends the connection: after it nobody knows where the next message would begin. In HTTP/2 it
//! ends the stream.

use std::fmt;

/// The rule that a head breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// More than two empty lines before the request line.
    EmptyLines,
    /// The request line is not `METHOD SP target SP HTTP/1.x`.
    RequestLine,
    /// The request line is longer than allowed.
    RequestLineTooLong,
    /// The method is longer than any that exists.
    MethodTooLong,
    /// CONNECT or TRACE.
    MethodNotOffered,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    Version,
    /// The status line is not `HTTP/1.x SP 3DIGIT [SP reason]` with a status of 100 to 599.
    StatusLine,
    /// The target is of no known form or has a byte that may not stand in it.
    Target,
    /// A `%` in the path without two hexadecimal digits after it, or one that hides a NUL.
    PercentEncoding,
    /// The path's dot segments lead above the root.
    ClimbsAboveRoot,
    /// A line ends with LF alone.
    BareLineFeed,
    /// A CR that no LF follows.
    BareCarriageReturn,
    /// A field is continued on a second line.
    FoldedField,
    /// White space between a field's name and its colon.
    SpaceBeforeColon,
    /// A field's name is empty or not a token.
    FieldName,
    /// A field's name has an underscore, and the listener takes none.
    UnderscoreName,
    /// A field's value has a control character.
    FieldValue,
    /// More fields than allowed.
    TooManyFields,
    /// The head is longer than allowed.
    HeadTooLarge,
    /// `Connection` names more options than anybody needs.
    TooManyOptions,
    /// No `Host` in an HTTP/1.1 request.
    HostMissing,
    /// More than one `Host`.
    HostRepeated,
    /// `Host`, or the authority of the target, is not a host with an optional port.
    HostInvalid,
    /// `Content-Length` is not a number, or too large a one.
    LengthInvalid,
    /// More than one `Content-Length`.
    LengthRepeated,
    /// `Content-Length` next to `Transfer-Encoding`.
    LengthAndCoding,
    /// `Transfer-Encoding` in an HTTP/1.0 message.
    CodingInOldVersion,
    /// `Transfer-Encoding` is not well-formed, or is there twice.
    CodingMalformed,
    /// `Transfer-Encoding` names a coding other than `chunked`.
    CodingUnknown,
    /// `Expect` names something other than `100-continue`.
    ExpectUnknown,
    /// A field that is about an HTTP/1.1 connection, in HTTP/2.
    ConnectionField,
    /// A `:scheme` other than `http` and `https`.
    Scheme,
    /// `:authority` and `Host` name different hosts.
    HostDiffers,
    /// `Content-Length` tells of a body, and the stream ends with the head.
    LengthWithoutBody,
    /// An extended CONNECT for a protocol other than `websocket`.
    ProtocolNotOffered,
    /// A 101, which HTTP/2 does not have.
    SwitchedInHttp2,
}

impl Refusal {
    /// The status of the answer to a request that breaks the rule.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Refusal::RequestLineTooLong => 414,
            Refusal::ExpectUnknown => 417,
            Refusal::TooManyFields | Refusal::HeadTooLarge | Refusal::TooManyOptions => 431,
            Refusal::MethodTooLong
            | Refusal::MethodNotOffered
            | Refusal::CodingUnknown
            | Refusal::ProtocolNotOffered => 501,
            Refusal::Version => 505,
            _ => 400,
        }
    }

    /// One sentence for the log and the body of the answer.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Refusal::EmptyLines => "Too many empty lines stand before the request line.",
            Refusal::RequestLine => {
                "The request line is not a method, a target and a version with one space between them."
            }
            Refusal::RequestLineTooLong => "The request line is too long.",
            Refusal::MethodTooLong => "The method is too long.",
            Refusal::MethodNotOffered => "This method is not offered here.",
            Refusal::Version => "Only HTTP/1.0 and HTTP/1.1 are spoken here.",
            Refusal::StatusLine => "The status line is malformed.",
            Refusal::Target => "The target is malformed or has a character that may not stand in it.",
            Refusal::PercentEncoding => "The path has a malformed or forbidden percent-encoding.",
            Refusal::ClimbsAboveRoot => "The path leads above the root.",
            Refusal::BareLineFeed => "A line ends with LF instead of CRLF.",
            Refusal::BareCarriageReturn => "A CR is not followed by LF.",
            Refusal::FoldedField => "A field is folded over two lines.",
            Refusal::SpaceBeforeColon => "White space stands between a field name and its colon.",
            Refusal::FieldName => "A field name is empty or has a character that may not stand in it.",
            Refusal::UnderscoreName => "A field name has an underscore.",
            Refusal::FieldValue => "A field value has a control character.",
            Refusal::TooManyFields => "There are too many fields.",
            Refusal::HeadTooLarge => "The head is too large.",
            Refusal::TooManyOptions => "The Connection field names too many options.",
            Refusal::HostMissing => "The Host field is missing.",
            Refusal::HostRepeated => "There is more than one Host field.",
            Refusal::HostInvalid => "The host is not a name or address with an optional port.",
            Refusal::LengthInvalid => "Content-Length is not a number in range.",
            Refusal::LengthRepeated => "There is more than one Content-Length field.",
            Refusal::LengthAndCoding => "Content-Length and Transfer-Encoding exclude each other.",
            Refusal::CodingInOldVersion => "Transfer-Encoding does not exist in HTTP/1.0.",
            Refusal::CodingMalformed => "Transfer-Encoding is malformed or repeated.",
            Refusal::CodingUnknown => "The only transfer coding spoken here is chunked.",
            Refusal::ExpectUnknown => "The only expectation that can be met is 100-continue.",
            Refusal::ConnectionField => "A field that is about a connection stands in an HTTP/2 message.",
            Refusal::Scheme => "The scheme is neither http nor https.",
            Refusal::HostDiffers => "The Host field names another host than the request itself.",
            Refusal::LengthWithoutBody => "Content-Length tells of a body, and there is none.",
            Refusal::ProtocolNotOffered => "The only protocol that is switched to here is websocket.",
            Refusal::SwitchedInHttp2 => "HTTP/2 has no status 101.",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why())
    }
}

impl std::error::Error for Refusal {}
