//! TOML text → a tree of values with their places, and the merging of the trees of several files into one.
//!
//! Every syntax fault is collected and what the parser could recover is kept, so that the rest of the text is looked at
//! too. What keys and values mean is not decided here.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Faults, Place};
use super::keys::{Bytes, Form, Shape};

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where.
    pub place: Place,
    /// What.
    pub value: Value,
}

/// What a key can be set to.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number.
    Number(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A date or time, which no key takes.
    Moment,
    /// An array, or an array of tables.
    List(Vec<Node>),
    /// A table, inline or with a heading.
    Table(Table),
    /// A duration, once a key's form says that its string is one.
    Duration(Duration),
    /// A number of bytes, once a key's form says that its string is one.
    Bytes(Bytes),
    /// Something that a fault was reported for. It is there, but has no meaning.
    Faulty,
}

/// The entries of a table in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Its keys and their values.
    pub entries: Vec<Entry>,
}

/// One key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_place: Place,
    /// The value.
    pub node: Node,
}

impl Value {
    /// What kind of value it is, for a person.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) | Value::Duration(_) | Value::Bytes(_) => "a string",
            Value::Integer(_) => "a whole number",
            Value::Number(_) => "a number",
            Value::Bool(_) => "true or false",
            Value::Moment => "a date or time",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Faulty => "nothing of use",
        }
    }
}

impl Node {
    /// The string, if it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<(&str, Place)> {
        match &self.value {
            Value::Text(text) => Some((text, self.place)),
            _ => None,
        }
    }

    /// The table, if it is one.
    #[must_use]
    pub fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The values of a list.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(nodes) => Some(nodes),
            _ => None,
        }
    }
}

impl Table {
    /// The entry of this key.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of this key.
    #[must_use]
    pub fn node(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The string under this key and its place.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<(&str, Place)> {
        self.node(key)?.as_text()
    }

    /// The whole number under this key.
    #[must_use]
    pub fn integer(&self, key: &str) -> Option<i64> {
        match self.node(key)?.value {
            Value::Integer(number) => Some(number),
            _ => None,
        }
    }

    /// The number under this key.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.node(key)?.value {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    /// `true` or `false` under this key.
    #[must_use]
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.node(key)?.value {
            Value::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    /// The duration under this key.
    #[must_use]
    pub fn duration(&self, key: &str) -> Option<Duration> {
        match self.node(key)?.value {
            Value::Duration(duration) => Some(duration),
            _ => None,
        }
    }

    /// The number of bytes under this key.
    #[must_use]
    pub fn bytes(&self, key: &str) -> Option<Bytes> {
        match self.node(key)?.value {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The table under this key.
    #[must_use]
    pub fn table(&self, key: &str) -> Option<&Table> {
        self.node(key)?.as_table()
    }

    /// The list under this key.
    #[must_use]
    pub fn list(&self, key: &str) -> Option<&[Node]> {
        self.node(key)?.as_list()
    }
}

/// Of how many syntax faults of one file it is found out what they mean: a file of another language has one a line.
const MOST_EXPLAINED: usize = 1000;

/// Reads the text of the file with this index.
pub fn parse(file: usize, text: &str, faults: &mut Faults) -> Table {
    let (table, errors) = DeTable::parse_recoverable(text);
    let line_ends: Vec<usize> = memchr::memchr_iter(b'\n', text.as_bytes()).collect();
    let mut torn_lines = BTreeSet::new();
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        let line = line_of(&line_ends, span.start);
        // One slip makes the parser stumble several times; the first time says most.
        if !torn_lines.insert(line) || torn_lines.len() > MOST_EXPLAINED {
            continue;
        }
        // What stands under a heading that is there twice is mended with it.
        let is_echo = error.message() == "duplicate key"
            && heading_above(text, span.start)
                .is_some_and(|heading| torn_lines.contains(&line_of(&line_ends, heading)));
        if !is_echo {
            faults.push(syntax_fault(file, text, error.message(), span));
        }
    }
    if !torn_lines.is_empty() {
        faults.tear();
    }
    let mut reading = Reading { file, line_ends, torn_lines, faults };
    reading.table(table.get_ref())
}

struct Reading<'a> {
    file: usize,
    line_ends: Vec<usize>,
    torn_lines: BTreeSet<usize>,
    faults: &'a mut Faults,
}

impl Reading<'_> {
    fn table(&mut self, table: &DeTable<'_>) -> Table {
        let mut entries: Vec<Entry> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().to_string(),
                key_place: Place::new(self.file, key.span()),
                node: self.node(value),
            })
            .collect();
        // The parser sorts by name; what is written first should be judged first.
        entries.sort_by_key(|entry| entry.key_place);
        Table { entries }
    }

    fn node(&mut self, value: &Spanned<DeValue<'_>>) -> Node {
        let place = Place::new(self.file, value.span());
        Node { place, value: self.value(value.get_ref(), place) }
    }

    fn value(&mut self, value: &DeValue<'_>, place: Place) -> Value {
        // A heading stays good, and so does what stands under it.
        let is_table = matches!(value, DeValue::Table(_));
        if !is_table && self.torn_lines.contains(&line_of(&self.line_ends, place.start)) {
            return Value::Faulty;
        }
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => self.unreadable_number(place),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => Value::Number(number),
                Err(_) => self.unreadable_number(place),
            },
            DeValue::Boolean(flag) => Value::Bool(*flag),
            DeValue::Datetime(_) => Value::Moment,
            DeValue::Array(items) => Value::List(items.iter().map(|item| self.node(item)).collect()),
            DeValue::Table(table) => Value::Table(self.table(table)),
        }
    }

    fn unreadable_number(&mut self, place: Place) -> Value {
        self.faults.push(Diagnostic::error("this number is too large to be meant").at(place));
        Value::Faulty
    }
}

fn line_of(line_ends: &[usize], index: usize) -> usize {
    line_ends.partition_point(|&end| end < index)
}

/// Where the heading that the line of `index` stands under begins.
fn heading_above(text: &str, index: usize) -> Option<usize> {
    let line_start = text.get(..index)?.rfind('\n')?;
    let above = &text[..line_start];
    if above.starts_with('[') && !above.contains("\n[") { Some(0) } else { above.rfind("\n[").map(|at| at + 1) }
}

fn syntax_fault(file: usize, text: &str, message: &str, span: Range<usize>) -> Diagnostic {
    let place = Place::new(file, span.clone());
    if message == "duplicate key" {
        return defined_again(file, text, span);
    }
    if ["string values must be quoted", "invalid float", "invalid integer", "invalid boolean", "invalid datetime"]
        .iter()
        .any(|start| message.contains(start))
    {
        let word = word_around(text, &span);
        if let Some((message, help)) = bare_word(text[word.clone()].trim()) {
            return Diagnostic::error(message).at(Place::new(file, word)).help(help);
        }
    }
    let fault = Diagnostic::error(format!("this is not TOML: {message}")).at(place);
    match SYNTAX_HELP.iter().find(|(part, _)| message.contains(part)) {
        Some((_, help)) => fault.help(*help),
        None => fault,
    }
}

/// What to write, by a part of what the parser says.
const SYNTAX_HELP: &[(&str, &str)] = &[
    ("escape", "in double quotes `\\` begins an escape; write it twice, or write the string in 'single quotes'"),
    ("missing comma between array elements", "separate the elements of a list by `,`, and end the list with `]`"),
    ("key with no value", "a line is `key = value`, a `[heading]` or a `# comment`"),
    ("invalid key-value pair", "a line is `key = value`, a `[heading]` or a `# comment`"),
    ("unclosed table", "end the heading with `]`, and begin a new line after it"),
    ("unclosed array", "end the list with `]`"),
    ("unclosed inline table", "end the table with `}`"),
    ("invalid basic string", "end the string with `\"` on its line"),
    ("invalid literal string", "end the string with `'` on its line"),
    ("unexpected key or value", "nothing but a `# comment` follows a value or heading on its line"),
    ("invalid unquoted key", "write the key in quotes"),
];

fn defined_again(file: usize, text: &str, span: Range<usize>) -> Diagnostic {
    let name = text.get(span.clone()).unwrap_or("this key");
    let fault = Diagnostic::error(format!("`{name}` is defined twice"));
    let fault = fault.label(Place::new(file, span.clone()), "defined again");
    let fault = match earlier_definition(text, span) {
        Some(earlier) => fault.label(Place::new(file, earlier), "first defined here"),
        None => fault,
    };
    fault.help("give one of them another name, or merge the two")
}

/// The whole of a value that is not in quotes, of which the parser points at a part.
fn word_around(text: &str, span: &Range<usize>) -> Range<usize> {
    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']' | '{' | '}' | '=' | '#' | '"' | '\'');
    let (before, after) = (text.get(..span.start).unwrap_or_default(), text.get(span.end..).unwrap_or_default());
    let start = before.rfind(ends).map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
    let end = span.end + after.find(ends).unwrap_or(after.len());
    if text.get(span.clone()).is_some_and(|part| part.contains(ends)) { span.clone() } else { start..end }
}

/// What is wrong with a value that is not in quotes, and what to write; `None` for a number.
fn bare_word(word: &str) -> Option<(&'static str, String)> {
    let lower = word.to_ascii_lowercase();
    Some(match lower.as_str() {
        "" => ("there is no value here", "write a value, or remove the key".to_owned()),
        "true" | "false" => ("this is not TOML: `true` and `false` are in lower case", format!("write {lower}")),
        "yes" | "on" => ("this value is not in quotes", format!("write true, or \"{word}\" if it is a text")),
        "no" | "off" => ("this value is not in quotes", format!("write false, or \"{word}\" if it is a text")),
        _ if word.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'+')) => return None,
        _ => {
            ("this value is not in quotes", format!("write \"{}\"", word.trim_matches(['“', '”', '„', '‘', '’', ';'])))
        }
    })
}

/// Where the key that is defined again at `span` was defined before: the parser does not tell, so the lines above are
/// compared. A heading is the same anywhere above, a key only up to the heading it stands under.
fn earlier_definition(text: &str, span: Range<usize>) -> Option<Range<usize>> {
    let line_start = text.get(..span.start)?.rfind('\n').map_or(0, |newline| newline + 1);
    let wanted = definition(text.get(line_start..)?.lines().next()?);
    let mut end = line_start;
    while end > 0 {
        let start = text[..end - 1].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[start..end].trim_end();
        if definition(line) == wanted {
            let indent = line.len() - line.trim_start().len();
            return Some(start + indent..start + indent + wanted.len());
        }
        if !wanted.starts_with('[') && line.trim_start().starts_with('[') {
            return None;
        }
        end = start;
    }
    None
}

/// What a line defines: its heading, or the key before its `=`.
fn definition(line: &str) -> &str {
    let line = line.trim();
    let end = if line.starts_with('[') { line.find(']').map(|end| end + 1) } else { line.find('=') };
    end.map_or(line, |end| line[..end].trim_end())
}

/// Adds the tables of another file to those of `into`. Tables with fixed keys are merged; anything else that is in both
/// is a fault that shows both places.
pub fn merge(into: &mut Table, from: Table, shape: &'static Shape, faults: &mut Faults) {
    for entry in from.entries {
        let Some(index) = into.entries.iter().position(|existing| existing.key == entry.key) else {
            into.entries.push(entry);
            continue;
        };
        let existing = &mut into.entries[index];
        let forms = shape.key(&entry.key).map_or(&[] as &[Form], |key| key.forms);
        match (&mut existing.node.value, entry.node.value, forms) {
            (Value::Table(ours), Value::Table(theirs), [Form::Table(inner)]) => merge(ours, theirs, inner, faults),
            (Value::Table(ours), Value::Table(theirs), [Form::Map(what, _)]) => merge_names(ours, theirs, what, faults),
            _ => faults.push(defined_twice(&format!("`{}`", entry.key), existing, entry.key_place)),
        }
    }
}

fn merge_names(into: &mut Table, from: Table, what: &str, faults: &mut Faults) {
    for entry in from.entries {
        match into.entry(&entry.key) {
            None => into.entries.push(entry),
            Some(existing) => {
                let subject = format!("the {what} `{}`", entry.key);
                faults.push(defined_twice(&subject, existing, entry.key_place));
            }
        }
    }
}

fn defined_twice(subject: &str, existing: &Entry, again: Place) -> Diagnostic {
    Diagnostic::error(format!("{subject} is defined in two files"))
        .label(again, "defined again")
        .label(existing.key_place, "first defined here")
        .help("give one of them another name, or remove one")
}

#[cfg(test)]
mod tests {
    use super::super::diagnostic::Report;
    use super::super::diagnostic::Source;
    use super::*;

    fn read(text: &str) -> (Table, Report) {
        let mut faults = Faults::default();
        let table = parse(0, text, &mut faults);
        let source = Source { name: "t".into(), text: text.into(), folder: "".into() };
        (table, faults.into_report(vec![source], Vec::new()))
    }

    #[test]
    fn every_syntax_fault_is_reported_and_the_rest_is_read() {
        let (table, report) = read("a = \nb = 1\nc = x\nd = \"e\"\n");
        assert_eq!(report.diagnostics.len(), 2, "{report}");
        assert_eq!(table.integer("b"), Some(1));
        assert_eq!(table.text("d").map(|(text, _)| text), Some("e"));
        assert_eq!(table.text("c"), None);
    }

    #[test]
    fn a_value_without_quotes_is_shown_whole() {
        for (text, help) in [
            ("a = 127.0.0.1:80", "write \"127.0.0.1:80\""),
            ("a = [10.0.0.1:80, \"x\"]", "write \"10.0.0.1:80\""),
            ("a = app", "write \"app\""),
            ("a = “app”", "write \"app\""),
            ("a = 2s", "write \"2s\""),
            ("a = True", "write true"),
            ("a = off", "write false, or \"off\""),
            ("a = ", "write a value"),
            ("a: b", "`key = value`"),
            ("[a", "end the heading"),
            ("a = \"b", "on its line"),
            ("a = \"b\";", "`# comment`"),
        ] {
            let report = read(text).1;
            assert_eq!(report.diagnostics.len(), 1, "{report}");
            let found = report.diagnostics[0].help.clone().unwrap_or_default();
            assert!(found.contains(help), "{text}: {help} in {report}");
        }
    }

    #[test]
    fn a_table_that_is_written_twice_shows_both_places() {
        let (_, report) = read("[pools.a]\nx = 1\n\n[pools.a]\nx = 1\ny = 2\n");
        assert_eq!(report.diagnostics.len(), 1, "{report}");
        let places: Vec<_> =
            report.diagnostics[0].labels.iter().filter_map(|label| report.position(label.place)).collect();
        assert_eq!(places, [("t", 4, 8), ("t", 1, 1)], "{report}");
    }

    #[test]
    fn a_key_that_is_written_twice_shows_both_places() {
        let (_, report) = read("[a]\nkey = 1\n[b]\nkey = 1\nother = 2\nkey = 3\n");
        let places: Vec<_> =
            report.diagnostics[0].labels.iter().filter_map(|label| report.position(label.place)).collect();
        assert_eq!(places, [("t", 6, 1), ("t", 4, 1)], "{report}");
    }

    #[test]
    fn a_number_beyond_64_bits_is_a_fault() {
        assert_eq!(read("a = 99999999999999999999\n").1.diagnostics.len(), 1);
    }
}
