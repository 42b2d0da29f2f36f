//! The cases as they stand in the files; README.md beside this says how they are written.

use std::fs;
use std::path::{Path, PathBuf};

/// One case with one expectation.
#[derive(Clone, Debug)]
pub struct Case {
    /// `file/case[value]`.
    pub name: String,
    pub rules: String,
    /// What is sent, write by write.
    pub writes: Vec<Vec<u8>>,
    pub last: Last,
    /// An answer that does not wait for the request's body.
    pub early: bool,
    /// It counts in the scores of other programs.
    pub scored: bool,
    /// What the listener has in its table besides an address and a pool.
    pub listener: String,
    /// The request that is answered, empty for the usual one.
    pub asking: Vec<u8>,
    pub want: Want,
}

/// What a sender does after its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    Stay,
    Fin,
    Reset,
}

/// What has to become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Refuse,
    Decline,
    Cut,
    Stop,
    Pass,
}

/// An expectation.
#[derive(Clone, Debug)]
pub struct Want {
    pub verb: Verb,
    /// What the client may see; `None` stands for no answer.
    pub statuses: Vec<Option<u16>>,
    /// What is said of each message.
    pub messages: Vec<Vec<Check>>,
}

/// One thing that is said of a message.
#[derive(Clone, Debug)]
pub struct Check {
    /// It is asked of Evenkeel only.
    pub ours: bool,
    pub what: What,
}

/// See README.md.
#[derive(Clone, Debug)]
pub enum What {
    Line(String),
    Field(String, String),
    No(String),
    Body(Vec<u8>),
    Size(usize),
    Framing(String),
    Trailer(String, String),
    NoTrailer(String),
    Interim(Vec<u16>),
    Keeps,
    Closes,
    /// One more answer, to what follows the messages, which ends the connection.
    Then(u16),
}

impl Case {
    /// Whether the connection may not be used again although all went well.
    pub fn has_bytes_behind(&self) -> bool {
        let closes = |check: &Check| matches!(check.what, What::Closes);
        self.want.verb == Verb::Pass && self.want.messages.iter().flatten().any(closes)
    }

    /// The same case with each of its writes in pieces, the last byte alone: what is decided must not hang on who reads how much.
    pub fn in_pieces(&self) -> Case {
        let writes = self.writes.iter().flat_map(|write| pieces(write)).collect();
        Case { name: format!("{} in pieces", self.name), writes, ..self.clone() }
    }
}

fn pieces(write: &[u8]) -> Vec<Vec<u8>> {
    let length = write.len();
    let mut cuts = vec![0, length / 4, length / 2, length * 3 / 4, length.saturating_sub(1), length];
    cuts.dedup();
    cuts.windows(2).map(|cut| write[cut[0]..cut[1]].to_vec()).collect()
}

/// All cases of a folder beside this file.
pub fn cases(folder: &str) -> Vec<Case> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the corpus is there")
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    files.sort();
    files.iter().filter(|file| file.extension().is_some_and(|end| end == "txt")).flat_map(|file| read(file)).collect()
}

fn read(file: &Path) -> Vec<Case> {
    let text = fs::read_to_string(file).expect("the corpus can be read");
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut drafts: Vec<Draft> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{}:{}", file.display(), number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(rest) = line.strip_prefix("case ") {
            let (name, rules) = rest.split_once(' ').unwrap_or_else(|| panic!("{place}: a case without a rule"));
            drafts.push(Draft::new(format!("{stem}/{name}"), rules.trim().to_owned()));
            continue;
        }
        let draft = drafts.last_mut().unwrap_or_else(|| panic!("{place}: before the first case"));
        draft.take(line).unwrap_or_else(|why| panic!("{place}: {why}: {line:?}"));
    }
    drafts.iter().flat_map(Draft::cases).collect()
}

/// A case while it is read: texts are still escaped, because a value may stand in them.
struct Draft {
    name: String,
    rules: String,
    writes: Vec<String>,
    last: Last,
    early: bool,
    scored: bool,
    listener: String,
    asking: String,
    wants: Vec<DraftWant>,
    /// The first of the expectations that the next check is about.
    group: usize,
}

struct DraftWant {
    verb: Verb,
    statuses: Vec<Option<u16>>,
    value: Option<String>,
    checks: Vec<String>,
}

impl Draft {
    fn new(name: String, rules: String) -> Draft {
        let writes = vec![String::new()];
        Draft {
            name,
            rules,
            writes,
            last: Last::Stay,
            early: false,
            scored: true,
            listener: String::new(),
            asking: String::new(),
            wants: Vec::new(),
            group: 0,
        }
    }

    fn take(&mut self, line: &str) -> Result<(), String> {
        if let Some(keys) = line.strip_prefix("listener ") {
            self.listener = keys.to_owned();
            return Ok(());
        }
        match (line, line.split_at(1)) {
            ("~", _) => self.writes.push(String::new()),
            ("fin", _) => self.last = Last::Fin,
            ("rst", _) => self.last = Last::Reset,
            ("early", _) => self.early = true,
            ("unscored", _) => self.scored = false,
            (_, ("|", rest)) => {
                self.writes.last_mut().expect("there is one from the start").push_str(&bytes_line(rest))
            }
            (_, (">", rest)) => self.asking.push_str(&bytes_line(rest)),
            (_, (" ", rest)) => return self.check(rest.trim_start()),
            _ => self.want(DraftWant::read(line)?),
        }
        Ok(())
    }

    /// Expectations of the same kind that stand together are a group.
    fn want(&mut self, want: DraftWant) {
        if self.wants.last().is_some_and(|last| last.verb != want.verb || !last.checks.is_empty()) {
            self.group = self.wants.len();
        }
        self.wants.push(want);
    }

    /// A check belongs to the group above it.
    fn check(&mut self, check: &str) -> Result<(), String> {
        if self.wants.is_empty() {
            return Err("a check before an expectation".into());
        }
        self.wants[self.group..].iter_mut().for_each(|want| want.checks.push(check.to_owned()));
        Ok(())
    }

    fn cases(&self) -> Vec<Case> {
        assert!(!self.wants.is_empty(), "{} expects nothing", self.name);
        self.wants.iter().map(|want| self.case(want)).collect()
    }

    fn case(&self, want: &DraftWant) -> Case {
        let value = want.value.as_deref().unwrap_or("{}");
        let plain =
            |text: &str| unescaped(&text.replace("{}", value)).unwrap_or_else(|why| panic!("{}: {why}", self.name));
        let name = match &want.value {
            Some(value) => format!("{}[{}]", self.name, value.chars().take(60).collect::<String>()),
            None => self.name.clone(),
        };
        let mut messages = vec![Vec::new()];
        for check in &want.checks {
            match &check[..] {
                "next" => messages.push(Vec::new()),
                check => messages.last_mut().expect("never empty").push(Check::read(check, &plain)),
            }
        }
        Case {
            name,
            rules: self.rules.clone(),
            writes: self.writes.iter().map(|write| plain(write)).collect(),
            last: self.last,
            early: self.early,
            // The others have plain listeners.
            scored: self.scored && self.listener.is_empty(),
            listener: self.listener.clone(),
            asking: plain(&self.asking),
            want: Want { verb: want.verb, statuses: want.statuses.clone(), messages },
        }
    }
}

impl DraftWant {
    fn read(line: &str) -> Result<DraftWant, String> {
        let (before, value) = match line.split_once(" with") {
            Some((before, value)) => (before, Some(value.strip_prefix(' ').unwrap_or(value).to_owned())),
            None => (line, None),
        };
        let mut words = before.split_whitespace();
        let verb = match words.next() {
            Some("refuse") => Verb::Refuse,
            Some("decline") => Verb::Decline,
            Some("cut") => Verb::Cut,
            Some("stop") => Verb::Stop,
            Some("pass") => Verb::Pass,
            _ => return Err("neither bytes nor an expectation".into()),
        };
        let status =
            |word: &str| if word == "none" { Ok(None) } else { word.parse().map(Some).map_err(|_| "not a status") };
        let mut statuses = words.map(status).collect::<Result<Vec<_>, _>>()?;
        if statuses.is_empty() && verb == Verb::Pass {
            statuses.push(Some(200));
        }
        if statuses.is_empty() {
            return Err("an expectation without a status".into());
        }
        Ok(DraftWant { verb, statuses, value, checks: Vec::new() })
    }
}

impl Want {
    /// The status of the answer that follows those to the messages, where one is expected.
    pub fn then(&self) -> Option<u16> {
        self.messages.iter().flatten().find_map(|check| match check.what {
            What::Then(status) => Some(status),
            _ => None,
        })
    }
}

impl Check {
    fn read(text: &str, plain: &dyn Fn(&str) -> Vec<u8>) -> Check {
        let (ours, text) = text.strip_prefix("ours ").map_or((false, text), |rest| (true, rest));
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let string = |text: &str| plain(text).iter().map(|&byte| char::from(byte)).collect::<String>();
        let pair = || {
            let (name, value) = rest.split_once(':').unwrap_or_else(|| panic!("neither name nor value: {text:?}"));
            (string(name), string(value.trim_start_matches(' ')))
        };
        let number = || rest.parse::<usize>().unwrap_or_else(|_| panic!("not a number: {text:?}"));
        let what = match word {
            "line" => What::Line(string(rest)),
            "field" => What::Field(pair().0, pair().1),
            "no" => What::No(string(rest)),
            "body" => What::Body(plain(rest)),
            "size" => What::Size(number()),
            "framing" => What::Framing(rest.to_owned()),
            "trailer" => What::Trailer(pair().0, pair().1),
            "no-trailer" => What::NoTrailer(rest.to_owned()),
            "interim" => {
                What::Interim(rest.split_whitespace().map(|status| status.parse().expect("a status")).collect())
            }
            "keeps" => What::Keeps,
            "closes" => What::Closes,
            "then" => What::Then(number() as u16),
            _ => panic!("not a check: {text:?}"),
        };
        // How a body is framed is a program's own choice, as is whether a connection is kept.
        let own = matches!(what, What::Framing(_) | What::Keeps | What::Closes | What::Then(_));
        Check { ours: ours || own, what }
    }
}

/// What follows the mark of a line, with its line end.
fn bytes_line(rest: &str) -> String {
    let rest = rest.strip_prefix(' ').unwrap_or(rest);
    match rest.strip_suffix('\\') {
        Some(open) if !open.ends_with('\\') => open.to_owned(),
        _ => format!("{rest}\\r\\n"),
    }
}

/// Escapes and repetitions to bytes.
fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        rest = match first {
            '\\' => take_escape(after, &mut out)?,
            '{' => take_repeated(after, &mut out)?,
            _ => {
                out.extend_from_slice(&rest.as_bytes()[..first.len_utf8()]);
                after
            }
        };
    }
    Ok(out)
}

fn take_escape<'a>(after: &'a str, out: &mut Vec<u8>) -> Result<&'a str, String> {
    let byte = match after.as_bytes().first() {
        Some(b'r') => b'\r',
        Some(b'n') => b'\n',
        Some(b't') => b'\t',
        Some(b'0') => 0,
        Some(b's') => b' ',
        Some(&same @ (b'\\' | b'{')) => same,
        Some(b'x') => {
            let digits = after.get(1..3).ok_or("\\x without two digits")?;
            out.push(u8::from_str_radix(digits, 16).map_err(|fault| fault.to_string())?);
            return Ok(&after[3..]);
        }
        _ => return Err(format!("an unknown escape: \\{after}")),
    };
    out.push(byte);
    Ok(&after[1..])
}

fn take_repeated<'a>(after: &'a str, out: &mut Vec<u8>) -> Result<&'a str, String> {
    let (inside, rest) = after.split_once('}').ok_or("a { without }")?;
    let (text, count) = inside.rsplit_once('*').ok_or("a repetition without *")?;
    let count = count.parse().map_err(|_| format!("not a count: {count:?}"))?;
    out.extend(unescaped(text)?.repeat(count));
    Ok(rest)
}

#[test]
fn escapes_and_repetitions_are_read_as_the_readme_says() {
    assert_eq!(unescaped(r"a\r\n\t\0\\\s\{\xff{xy*3}").unwrap(), b"a\r\n\t\0\\ {\xffxyxyxy");
    assert!(unescaped(r"\q").is_err() && unescaped("{x").is_err());
    assert_eq!((bytes_line(" a"), bytes_line(r" a\"), bytes_line("")), ("a\\r\\n".into(), "a".into(), "\\r\\n".into()));
}
