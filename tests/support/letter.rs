//! HTTP/1.1 messages by the letter of RFC 9112: what every careful reader takes for the same one message, and nothing else.
//!
//! A reader that shares no line with the program, and the judge of everything that is said to be read or written strictly. It
//! forgives nothing that two readers could understand differently: line ends are CRLF, a length is told once and in one way, no
//! line is folded, a request has one `Host`. What comes in has to keep to that ([`Rules::Letter`]); what goes out has to be
//! clean besides ([`Rules::Clean`]): a target and a `Host` that are such, no length where none may be, extensions and trailers
//! as they should be. In two places it is milder than RFC 3986, because browsers are: characters such as `|` may stand in a
//! target, and a query may hold any `%`.

/// How much is asked of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// That it can be read in one way only. RFC 9112 lets a reader pass over empty lines before a request (§2.2), and many a
    /// backend leaves the space away where it gives no reason (§4).
    Letter,
    /// That it is as it should be written.
    Clean,
}

/// How the connection that a message came on ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Closed,
    Reset,
}

/// Why there is no message (yet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It goes on beyond the bytes that are there.
    More,
    /// It breaks this rule.
    Broken(String),
}

/// How the length of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    ToClose,
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where its framing says.
    Framed,
    /// By the FIN that is its framing.
    Closed,
    /// By a FIN before its framing was fulfilled.
    Cut,
    /// By a RST before its end.
    Reset,
}

/// One message; its texts hold one character a byte.
#[derive(Clone, Debug)]
pub struct Message {
    pub start: String,
    pub fields: Vec<(String, String)>,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Any chunk had an extension.
    pub extended: bool,
    pub end: End,
}

/// A final answer and what stood before it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub interim: Vec<Message>,
    pub last: Message,
}

/// What of a request decides how its answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub head: bool,
    pub old: bool,
}

impl Message {
    fn new(start: String, fields: Vec<(String, String)>, framing: Framing) -> Message {
        Message { start, fields, framing, body: Vec::new(), trailers: Vec::new(), extended: false, end: End::Framed }
    }

    /// The values of all fields of this name.
    pub fn values(&self, name: &str) -> Vec<&str> {
        named(&self.fields, name)
    }

    /// Whether a list field of this name has this member.
    pub fn lists(&self, name: &str, member: &str) -> bool {
        let mut members = self.values(name).into_iter().flat_map(|value| value.split(','));
        members.any(|other| other.trim().eq_ignore_ascii_case(member))
    }

    /// Whether its field lines stand in the text it was read from in their one usual form, `name: value`.
    pub fn is_canonical(&self, head: &[u8]) -> bool {
        let lines: String = self.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        text(head) == format!("{}\r\n{lines}\r\n", self.start)
    }

    /// The reason of an answer.
    pub fn reason(&self) -> &str {
        self.start.get(13..).unwrap_or_default()
    }

    /// The status of an answer.
    pub fn status(&self) -> u16 {
        self.start.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// The target of a request.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// Whether a reader would take it for whole.
    pub fn is_whole(&self) -> bool {
        matches!(self.end, End::Framed | End::Closed)
    }
}

/// The values of all fields of this name in a list of fields.
pub fn named<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

/// Reads the request at the beginning of `bytes`; tells how many bytes it took.
pub fn request(bytes: &[u8]) -> Result<(Message, usize), Stop> {
    let mut reader = Reader::new(bytes, Rules::Clean);
    let mut message = reader.request_head()?;
    reader.body(&mut message)?;
    Ok((message, reader.at))
}

/// Reads the head of the request at the beginning of `bytes`; tells how many bytes it took.
pub fn request_head(bytes: &[u8], rules: Rules) -> Result<(Message, usize), Stop> {
    let mut reader = Reader::new(bytes, rules);
    Ok((reader.request_head()?, reader.at))
}

/// Reads the head of the answer, interim or not, at the beginning of `bytes`; tells how many bytes it took.
pub fn answer_head(bytes: &[u8], asked: Asked, rules: Rules) -> Result<(Message, usize), Stop> {
    let mut reader = Reader::new(bytes, rules);
    Ok((reader.answer_head(asked)?, reader.at))
}

/// Reads a body that has this framing and nothing else around it; one to the close takes all there is.
pub fn body(bytes: &[u8], framing: Framing, rules: Rules) -> Result<(Message, usize), Stop> {
    let mut reader = Reader::new(bytes, rules);
    let mut message = Message::new(String::new(), Vec::new(), framing);
    match reader.body(&mut message) {
        Err(Stop::More) if framing == Framing::ToClose => {}
        read => read?,
    }
    Ok((message, reader.at))
}

/// Reads the answer at the beginning of `bytes`, the interim ones before it included; tells how many bytes it took.
/// `ended` is how the connection ended, if it did: a message that is cut by that is one, with its [`End`].
pub fn answer(bytes: &[u8], asked: Asked, ended: Option<Ended>) -> Result<(Answer, usize), Stop> {
    let mut reader = Reader::new(bytes, Rules::Clean);
    let mut interim = Vec::new();
    loop {
        let mut message = reader.answer_head(asked)?;
        if matches!(message.status(), 100 | 102..200) {
            must(!asked.old, || "an interim answer to a request of HTTP/1.0".into())?;
            interim.push(message);
            continue;
        }
        match (reader.body(&mut message), ended) {
            (Ok(()), _) => {}
            (Err(Stop::More), Some(ending)) => message.end = end_of(message.framing, ending),
            (Err(stop), _) => return Err(stop),
        }
        return Ok((Answer { interim, last: message }, reader.at));
    }
}

fn end_of(framing: Framing, ended: Ended) -> End {
    match (ended, framing) {
        (Ended::Reset, _) => End::Reset,
        (Ended::Closed, Framing::ToClose) => End::Closed,
        (Ended::Closed, _) => End::Cut,
    }
}

fn must(holds: bool, why: impl FnOnce() -> String) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Broken(why())) }
}

/// One character a byte.
pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn is_token(text: &str) -> bool {
    let mark = |c: char| "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || mark(c))
}

fn is_value(text: &str) -> bool {
    text.chars().all(|c| c == '\t' || (c >= ' ' && c != '\u{7f}'))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    rules: Rules,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], rules: Rules) -> Reader<'a> {
        Reader { bytes, at: 0, rules }
    }

    /// Breaks off a message that is not clean, where it has to be.
    fn should(&self, holds: bool, why: impl FnOnce() -> String) -> Result<(), Stop> {
        must(holds || self.rules == Rules::Letter, why)
    }

    /// The next line without its CRLF, in which no control character but tabs stands.
    fn line(&mut self) -> Result<String, Stop> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\r' || byte == b'\n').ok_or(Stop::More)?;
        match &rest[end..] {
            [b'\r', b'\n', ..] => {}
            [b'\r'] => return Err(Stop::More),
            [b'\r', ..] => return Err(Stop::Broken("a CR without LF".into())),
            _ => return Err(Stop::Broken("a bare LF".into())),
        }
        self.at += end + 2;
        let line = text(&rest[..end]);
        must(is_value(&line), || format!("a control character: {line:?}"))?;
        Ok(line)
    }

    fn request_head(&mut self) -> Result<Message, Stop> {
        let mut start = self.line()?;
        while start.is_empty() && self.rules == Rules::Letter {
            start = self.line()?;
        }
        let parts: Vec<&str> = start.split(' ').collect();
        let [method, target, version] = parts[..] else {
            return Err(Stop::Broken(format!("not a request line: {start:?}")));
        };
        must(is_token(method), || format!("not a method: {method:?}"))?;
        let old = match version {
            "HTTP/1.1" => false,
            "HTTP/1.0" => true,
            _ => return Err(Stop::Broken(format!("not a version: {version:?}"))),
        };
        must(!target.is_empty() && target.chars().all(|c| c.is_ascii_graphic()), || {
            format!("not a target: {target:?}")
        })?;
        let fields = self.fields()?;
        let host = if old && named(&fields, "host").is_empty() { None } else { Some(only_host(&fields)?) };
        if self.rules == Rules::Clean {
            host.map_or(Ok(()), check_host)?;
            check_target(method, target, host)?;
        }
        let framing = told_framing(&fields, old)?.unwrap_or(Framing::None);
        Ok(Message::new(start, fields, framing))
    }

    fn answer_head(&mut self, asked: Asked) -> Result<Message, Stop> {
        let start = self.line()?;
        let old = start.starts_with("HTTP/1.0 ");
        must(old || start.starts_with("HTTP/1.1 "), || format!("not a status line: {start:?}"))?;
        let (status, reason) = start[9..].split_at_checked(3).unwrap_or((&start[9..], ""));
        let number = status.parse().unwrap_or(0);
        let digits = status.len() == 3 && status.bytes().all(|digit| digit.is_ascii_digit());
        must(digits && (100..600).contains(&number), || format!("not a status: {start:?}"))?;
        let bare = reason.is_empty() && self.rules == Rules::Letter;
        must(bare || reason.starts_with(' '), || format!("not a reason: {start:?}"))?;
        let fields = self.fields()?;
        let told = told_framing(&fields, old)?;
        let silent = number < 200 || number == 204;
        self.should(!silent || told.is_none(), || format!("a {number} that tells a length"))?;
        self.should(!asked.old || told != Some(Framing::Chunked), || "chunks for a client of HTTP/1.0".into())?;
        let bodiless = silent || number == 304 || asked.head;
        let framing = if bodiless { Framing::None } else { told.unwrap_or(Framing::ToClose) };
        Ok(Message::new(start, fields, framing))
    }

    fn fields(&mut self) -> Result<Vec<(String, String)>, Stop> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            must(!line.starts_with([' ', '\t']), || format!("a folded line: {line:?}"))?;
            let (name, value) = line.split_once(':').ok_or_else(|| Stop::Broken(format!("not a field: {line:?}")))?;
            must(is_token(name), || format!("not a field name: {name:?}"))?;
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
    }

    fn body(&mut self, message: &mut Message) -> Result<(), Stop> {
        match message.framing {
            Framing::None => Ok(()),
            Framing::Length(length) => self.data(length, &mut message.body),
            Framing::Chunked => self.chunks(message),
            Framing::ToClose => self.data(u64::MAX, &mut message.body),
        }
    }

    /// Takes so many bytes, or all there are.
    fn data(&mut self, length: u64, into: &mut Vec<u8>) -> Result<(), Stop> {
        let rest = &self.bytes[self.at..];
        let there = usize::try_from(length).map_or(rest.len(), |length| length.min(rest.len()));
        into.extend_from_slice(&rest[..there]);
        self.at += there;
        if there as u64 == length { Ok(()) } else { Err(Stop::More) }
    }

    fn chunks(&mut self, message: &mut Message) -> Result<(), Stop> {
        loop {
            let line = self.line()?;
            let (size, extension) = line.split_at(line.find([';', ' ', '\t']).unwrap_or(line.len()));
            let digits = !size.is_empty() && size.bytes().all(|digit| digit.is_ascii_hexdigit());
            must(digits && (is_extension(extension) || self.rules == Rules::Letter), || {
                format!("not the size of a chunk: {line:?}")
            })?;
            message.extended |= !extension.is_empty();
            // Zeros before it do not count; what needs more than 63 bits is read as negative, or as another number, by some.
            let size = i64::from_str_radix(size, 16).map_err(|fault| Stop::Broken(fault.to_string()))?;
            let size = size.unsigned_abs();
            if size == 0 {
                message.trailers = self.fields()?;
                return if self.rules == Rules::Clean { check_trailers(&message.trailers) } else { Ok(()) };
            }
            self.data(size, &mut message.body)?;
            let end = self.line()?;
            must(end.is_empty(), || format!("more data in a chunk than its size: {end:?}"))?;
        }
    }
}

/// `*( BWS ";" BWS name [ BWS "=" BWS value ] )`, its values tokens or quoted without an escape.
fn is_extension(text: &str) -> bool {
    let Some(rest) = text.trim_start_matches([' ', '\t']).strip_prefix(';') else { return text.is_empty() };
    rest.split(';').all(|one| {
        let (name, value) = one.split_once('=').map_or((one, None), |(name, value)| (name, Some(value.trim())));
        let quoted = |value: &str| value.len() > 1 && value.starts_with('"') && value.ends_with('"') && is_value(value);
        is_token(name.trim()) && value.is_none_or(|value| is_token(value) || quoted(value))
    })
}

/// The framing that the fields tell, if they do (RFC 9112 §6.3).
fn told_framing(fields: &[(String, String)], old: bool) -> Result<Option<Framing>, Stop> {
    match (named(fields, "transfer-encoding")[..].as_ref(), named(fields, "content-length")[..].as_ref()) {
        ([], []) => Ok(None),
        ([coding], []) => {
            must(coding.eq_ignore_ascii_case("chunked"), || format!("an unknown coding: {coding:?}"))?;
            must(!old, || "a Transfer-Encoding in HTTP/1.0".into())?;
            Ok(Some(Framing::Chunked))
        }
        ([], [length]) => {
            let digits = !length.is_empty() && length.bytes().all(|digit| digit.is_ascii_digit());
            let number = length.parse().ok().filter(|&number| digits && number <= i64::MAX as u64);
            number.map(|number| Some(Framing::Length(number))).ok_or(Stop::Broken(format!("not a length: {length:?}")))
        }
        (codings, lengths) => Err(Stop::Broken(format!("a length told twice: {codings:?} {lengths:?}"))),
    }
}

fn only_host(fields: &[(String, String)]) -> Result<&str, Stop> {
    let [host] = named(fields, "host")[..] else { return Err(Stop::Broken("not exactly one Host".into())) };
    Ok(host)
}

/// A host with an optional port.
fn check_host(host: &str) -> Result<(), Stop> {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            must(address.parse::<std::net::Ipv6Addr>().is_ok(), || format!("not an address in Host: {host:?}"))?;
            ("x", if rest.is_empty() { None } else { Some(rest.strip_prefix(':').unwrap_or("?")) })
        }
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let named = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=%".contains(c));
    let ported = port.is_none_or(|port| port.bytes().all(|digit| digit.is_ascii_digit()));
    must(named && ported, || format!("not a host: {host:?}"))
}

fn check_target(method: &str, target: &str, host: Option<&str>) -> Result<(), Stop> {
    let fit = target.chars().all(|c| c.is_ascii_graphic() && c != '#');
    must(fit, || format!("a target with characters that may not stand in it: {target:?}"))?;
    if method == "CONNECT" || (method == "OPTIONS" && target == "*") {
        return Ok(());
    }
    let path = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => {
            let (authority, _) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            let same = host.is_some_and(|host| authority.eq_ignore_ascii_case(host));
            must(same, || format!("a target for {authority:?}, a Host of {host:?}"))?;
            &rest[authority.len()..]
        }
        _ => target,
    };
    let path = path.split('?').next().unwrap_or_default();
    must(path.starts_with('/') || path.len() < target.len(), || format!("not a target: {target:?}"))?;
    must(!path.contains('\\'), || format!("a backslash in a path: {target:?}"))?;
    let encoded = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|digit| digit.is_ascii_hexdigit());
    must(path.split('%').skip(1).all(encoded), || format!("a broken percent-encoding: {target:?}"))
}

/// Fields that decide about framing, routing or who is asking never follow a body (RFC 9110 §6.5.1).
fn check_trailers(trailers: &[(String, String)]) -> Result<(), Stop> {
    const NEVER: [&str; 6] =
        ["content-length", "transfer-encoding", "host", "connection", "authorization", "x-forwarded-for"];
    let found = NEVER.iter().find(|name| !named(trailers, name).is_empty());
    must(found.is_none(), || format!("a trailer field that may not be one: {found:?}"))
}
