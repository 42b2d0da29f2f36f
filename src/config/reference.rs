//! The reference of the file (`docs/configuration.md`), written from the table of keys.

use std::fmt::Write as _;

use super::conform::expectation;
use super::keys::{Absent, FILE, Form, Key, Shape};

const INTRODUCTION: &str = "\
# The configuration file

<!-- Written by `evenkeel schema --reference` from src/config/keys.rs; do not edit. -->

One TOML file says what Evenkeel does. `evenkeel check --config FILE` tells everything that is wrong with it and never
binds an address. A key that is not listed here is a fault, never ignored.

- A duration is one whole number and its unit, in quotes: `\"500ms\"`, `\"2s\"`, `\"5m\"`, `\"1h\"`, `\"1d\"`.
- A size is one whole number and its unit, in quotes: `\"240B\"`, `\"32KiB\"`, `\"64MiB\"`, `\"1GiB\"`. A KiB is 1024 bytes.
- `\"${NAME}\"` as a whole value, in quotes, is replaced by the environment variable of that name, which may hold a number or
  `true` where the key takes one.
- A path is relative to the file it stands in.
- Names of listeners, pools, routes and backends have ASCII letters, digits, `_`, `-` and `.`.

The shortest useful file:

```toml
[listeners.web]
bind = \"0.0.0.0:8080\"
pool = \"app\"

[pools.app]
backends = [\"10.0.0.11:3000\", \"10.0.0.12:3000\"]
balance = \"least_connections\"
```
";

/// The whole reference as Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    section(&FILE, &mut text);
    text
}

/// The section of a table with a heading, and those of the tables in it after it.
fn section(shape: &'static Shape, text: &mut String) {
    let heading = shape.heading.unwrap_or(shape.what);
    let heading = if heading.starts_with('[') { format!("`{heading}`") } else { heading.to_owned() };
    let _ = write!(text, "\n## {heading}\n\n{}\n\n| key | value | default | meaning |\n|---|---|---|---|\n", shape.doc);
    let mut later = Vec::new();
    rows(shape, "", text, &mut later);
    for shape in later {
        section(shape, text);
    }
}

/// The rows of a table and of the tables that are written inline in it.
fn rows(shape: &'static Shape, prefix: &str, text: &mut String, later: &mut Vec<&'static Shape>) {
    for key in shape.keys {
        let path = format!("{prefix}{}", key.name);
        let _ = writeln!(text, "| `{path}` | {} | {} | {} |", cell(&value(key)), cell(&absent(key)), cell(key.doc));
        inner_rows(key.forms, &path, text, later);
    }
}

fn inner_rows(forms: &'static [Form], path: &str, text: &mut String, later: &mut Vec<&'static Shape>) {
    for form in forms {
        match form {
            Form::Table(inner) if inner.heading.is_some() => later.push(inner),
            Form::Table(inner) => rows(inner, &format!("{path}."), text, later),
            Form::List(element) => inner_rows(element, &format!("{path}[]"), text, later),
            Form::Map(_, value) => inner_rows(value, &format!("{path}.NAME"), text, later),
            _ => {}
        }
    }
}

fn value(key: &Key) -> String {
    key.forms.iter().map(kind).collect::<Vec<_>>().join(" or ")
}

fn kind(form: &Form) -> String {
    match form {
        Form::Text(what) => (*what).into(),
        Form::Prose => "text".into(),
        Form::Choice(choices) => choices.iter().map(|choice| format!("`\"{choice}\"`")).collect::<Vec<_>>().join(", "),
        Form::Duration(most) => {
            format!("duration up to {}", if most.as_secs() > 86400 { "7 days" } else { "24 hours" })
        }
        Form::Bytes(least, most) => format!("size from `\"{least}\"` to `\"{most}\"`"),
        Form::Integer(..) | Form::Zero | Form::Number(..) => {
            expectation(std::slice::from_ref(form)).replacen("a ", "", 1)
        }
        Form::Bool => "`true`, `false`".into(),
        Form::List(element) => format!("list: {}", element.iter().map(kind).collect::<Vec<_>>().join(" or ")),
        Form::Table(_) => "table".into(),
        Form::Map(what, _) => format!("table by {what}"),
    }
}

fn absent(key: &Key) -> String {
    match key.absent {
        Absent::Required => "required".into(),
        Absent::Default(value) => format!("`{value}`"),
        Absent::Means(words) => words.into(),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
