//! The tree of values against the table of keys: unknown keys, wrong kinds of values, values out of range.
//!
//! What does not conform is reported and becomes [`Value::Faulty`], so that whoever reads the tree afterwards finds only
//! values of the kinds that the table allows. `${VAR}` is replaced here, where it is known which strings are values.

use std::time::Duration;

use super::diagnostic::{Diagnostic, Faults, Place, Severity};
use super::keys::{self, Bytes, Form, Key, Shape};
use super::read::{Entry, Node, Table, Value};
use super::words;

/// What the environment says about a variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Checks the whole tree and turns the strings of durations and sizes into these.
pub fn conform(root: &mut Table, environment: Environment<'_>, faults: &mut Faults) {
    Conforming { environment, faults }.table(root, &keys::FILE);
}

/// The value of a string that may be `${VAR}`; `None` when it is one whose variable is not set.
pub fn expand(text: &str, environment: Environment<'_>) -> Option<String> {
    match variable(text) {
        Some(name) => environment(name),
        None => Some(text.to_owned()),
    }
}

/// The `VAR` of a string that is `${VAR}` from its beginning to its end.
fn variable(text: &str) -> Option<&str> {
    let name = text.strip_prefix("${")?.strip_suffix('}')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some(name)
}

struct Conforming<'a> {
    environment: Environment<'a>,
    faults: &'a mut Faults,
}

impl Conforming<'_> {
    fn table(&mut self, table: &mut Table, shape: &'static Shape) {
        for entry in &mut table.entries {
            match shape.key(&entry.key) {
                Some(key) => self.entry(entry, key),
                None => {
                    self.faults.push_with(Severity::Error, || words::unknown_key(entry, shape));
                    entry.node.value = Value::Faulty;
                }
            }
        }
    }

    fn entry(&mut self, entry: &mut Entry, key: &'static Key) {
        // A value under a heading (`[listeners]`) is best shown by the heading's key.
        self.node(&mut entry.node, key.forms, key.name);
    }

    fn node(&mut self, node: &mut Node, forms: &'static [Form], name: &str) {
        let value = std::mem::replace(&mut node.value, Value::Faulty);
        node.value = self.value(value, node.place, forms, name);
    }

    fn value(&mut self, value: Value, place: Place, forms: &'static [Form], name: &str) -> Value {
        match value {
            Value::Faulty => Value::Faulty,
            Value::Text(text) => self.text(text, place, forms, name),
            Value::Integer(number) => self.integer(number, place, forms, name),
            Value::Number(number) => self.number(number, place, forms, name),
            Value::Bool(flag) if forms.iter().any(|form| matches!(form, Form::Bool)) => Value::Bool(flag),
            Value::List(items) => self.list(items, place, forms, name),
            Value::Table(table) => self.inner_table(table, place, forms, name),
            other => self.wrong_kind(&other, place, forms, name),
        }
    }

    fn text(&mut self, text: String, place: Place, forms: &'static [Form], name: &str) -> Value {
        let is_of_text = |form: &&Form| {
            matches!(form, Form::Text(_) | Form::Prose | Form::Choice(_) | Form::Duration(_) | Form::Bytes(..))
        };
        let mut form = forms.iter().find(is_of_text);
        let is_variable = variable(&text).is_some();
        let Some(text) = self.expanded(text, place, form) else { return Value::Faulty };
        // A variable can only be written in quotes, whatever it holds.
        if let Some(bare) = bare(&text, forms).filter(|_| is_variable) {
            return self.value(bare, place, forms, name);
        }
        // What is none of the words may still be a duration.
        let is_word = matches!(form, Some(Form::Choice(choices)) if choices.contains(&text.as_str()));
        if let Some(duration) = forms.iter().find(|form| matches!(form, Form::Duration(_))).filter(|_| !is_word) {
            form = Some(duration);
        }
        match form {
            None => self.wrong_kind(&Value::Text(text), place, forms, name),
            Some(Form::Choice(choices)) if !choices.contains(&text.as_str()) => {
                let write = match bare(&text, forms) {
                    Some(_) => format!("{text} without quotes"),
                    None => expectation(forms),
                };
                self.fault(words::unknown_choice(name, &text, place, choices, &write))
            }
            Some(Form::Duration(most)) => self.duration(&text, place, *most, forms),
            Some(Form::Bytes(least, most)) => self.bytes(&text, place, *least, *most),
            Some(_) => Value::Text(text),
        }
    }

    fn expanded(&mut self, text: String, place: Place, form: Option<&Form>) -> Option<String> {
        if let Some(name) = variable(&text) {
            let value = (self.environment)(name);
            if value.is_none() {
                let fault = Diagnostic::error(format!("the environment variable `{name}` is not set")).at(place);
                self.faults.push(fault.help(format!("set `{name}` for the process, or write the value here")));
            }
            return value;
        }
        if text.contains("${") && form.is_some_and(|form| !matches!(form, Form::Prose)) {
            let fault = Diagnostic::error("`${…}` stands for a whole value only, not for a part of one").at(place);
            self.faults
                .push(fault.help("put the whole value into the variable, and write \"${NAME}\" and nothing else"));
            return None;
        }
        Some(text)
    }

    fn duration(&mut self, text: &str, place: Place, most: Duration, forms: &'static [Form]) -> Value {
        match keys::parse_duration(text) {
            Some(value) if value > Duration::ZERO && value <= most => Value::Duration(value),
            Some(_) => {
                let fault = Diagnostic::error(format!("`{text}` is out of range")).at(place);
                self.fault(fault.help(format!("write a duration from \"1ms\" to \"{}h\"", most.as_secs() / 3600)))
            }
            None => {
                let fault = Diagnostic::error(format!("`{text}` is not a duration")).at(place);
                let words = forms.iter().find(|form| matches!(form, Form::Choice(_))).map(one_expectation);
                let words = words.map(|words| format!(", or {words}")).unwrap_or_default();
                self.fault(fault.help(duration_help(text) + &words))
            }
        }
    }

    fn bytes(&mut self, text: &str, place: Place, least: Bytes, most: Bytes) -> Value {
        match keys::parse_bytes(text) {
            Some(value) if value >= least && value <= most => Value::Bytes(value),
            Some(_) => {
                let fault = Diagnostic::error(format!("`{text}` is out of range")).at(place);
                self.fault(fault.help(format!("write a size from \"{least}\" to \"{most}\"")))
            }
            None => {
                let fault = Diagnostic::error(format!("`{text}` is not a size")).at(place);
                self.fault(fault.help(bytes_help(text)))
            }
        }
    }

    fn integer(&mut self, number: i64, place: Place, forms: &'static [Form], name: &str) -> Value {
        for form in forms {
            match form {
                Form::Integer(least, most) if (*least..=*most).contains(&number) => return Value::Integer(number),
                Form::Integer(..) => return self.out_of_range(&number.to_string(), place, forms, name),
                Form::Zero if number == 0 => return Value::Integer(0),
                #[expect(clippy::cast_precision_loss, reason = "what is in range is far below 2^52")]
                Form::Number(..) => return self.number(number as f64, place, forms, name),
                _ => {}
            }
        }
        self.wrong_kind(&Value::Integer(number), place, forms, name)
    }

    fn number(&mut self, number: f64, place: Place, forms: &'static [Form], name: &str) -> Value {
        for form in forms {
            if matches!(form, Form::Zero) && number == 0.0 {
                return Value::Number(number);
            }
            let Form::Number(above, most) = form else { continue };
            if number > *above && number <= *most {
                return Value::Number(number);
            }
            return self.out_of_range(&number.to_string(), place, forms, name);
        }
        self.wrong_kind(&Value::Number(number), place, forms, name)
    }

    fn list(&mut self, mut items: Vec<Node>, place: Place, forms: &'static [Form], name: &str) -> Value {
        for form in forms {
            let Form::List(element) = form else { continue };
            for item in &mut items {
                self.node(item, element, name);
            }
            return Value::List(items);
        }
        self.wrong_kind(&Value::List(items), place, forms, name)
    }

    fn inner_table(&mut self, mut table: Table, place: Place, forms: &'static [Form], name: &str) -> Value {
        for form in forms {
            match form {
                Form::Table(shape) => self.table(&mut table, shape),
                Form::Map(_, values) => {
                    for entry in &mut table.entries {
                        self.node(&mut entry.node, values, &entry.key);
                    }
                }
                _ => continue,
            }
            return Value::Table(table);
        }
        self.wrong_kind(&Value::Table(table), place, forms, name)
    }

    fn wrong_kind(&mut self, found: &Value, place: Place, forms: &'static [Form], name: &str) -> Value {
        let fault = Diagnostic::error(format!("`{name}` can not be {}", found.kind())).at(place);
        self.fault(fault.help(kind_help(found, forms)))
    }

    fn out_of_range(&mut self, found: &str, place: Place, forms: &'static [Form], name: &str) -> Value {
        let fault = Diagnostic::error(format!("{found} is out of range for `{name}`")).at(place);
        self.fault(fault.help(format!("write {}", expectation(forms))))
    }

    fn fault(&mut self, fault: Diagnostic) -> Value {
        self.faults.push(fault);
        Value::Faulty
    }
}

fn duration_help(text: &str) -> String {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return format!("add the unit: \"{text}s\", \"{text}ms\", \"{text}m\" or \"{text}h\"");
    }
    "write one whole number and its unit (ms, s, m, h or d) without a space, such as \"500ms\", \"2s\" or \"1h\"".into()
}

fn bytes_help(text: &str) -> String {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        _ if number.is_empty() => None,
        "" => return format!("add the unit: \"{number}B\", \"{number}KiB\" or \"{number}MiB\""),
        "b" => Some("B"),
        "k" | "kb" | "kib" => Some("KiB"),
        "m" | "mb" | "mib" => Some("MiB"),
        "g" | "gb" | "gib" => Some("GiB"),
        _ => None,
    };
    match unit {
        Some(unit) => {
            format!("write \"{number}{unit}\": units are B, KiB, MiB and GiB, of which each is 1024 of the one before")
        }
        None => "write one whole number and its unit (B, KiB, MiB or GiB) without a space, such as \"32KiB\"".into(),
    }
}

/// What to write instead of a value of the wrong kind, with the value itself where it only lacks its dress.
fn kind_help(found: &Value, forms: &'static [Form]) -> String {
    for form in forms {
        match (form, found) {
            (Form::Duration(_), Value::Integer(number)) => return duration_help(&number.to_string()),
            (Form::Bytes(..), Value::Integer(number)) => return bytes_help(&number.to_string()),
            (_, Value::Text(text)) if bare(text, forms).is_some() => return format!("write {text} without quotes"),
            (Form::Text("address"), Value::Integer(port @ 0..=65535)) => {
                return format!("write an address and the port in quotes, such as \"127.0.0.1:{port}\"");
            }
            (Form::List(_), Value::Text(text)) => return format!("write a list: [\"{text}\"]"),
            (Form::List([.., Form::Table(Shape { heading: Some(heading), .. })]), Value::Table(_)) => {
                return format!("write `{heading}` in double brackets, or a list of tables");
            }
            (
                Form::Map(_, [Form::Table(Shape { heading: Some(heading), .. })])
                | Form::Table(Shape { heading: Some(heading), .. }),
                Value::List(_),
            ) => return format!("write `{heading}` in single brackets"),
            (Form::Table(shape), Value::Text(text)) if std::ptr::eq(*shape, &keys::PATH) => {
                return format!("write {{ prefix = \"{text}\" }}, {{ exact = \"{text}\" }} or {{ regex = '…' }}");
            }
            (Form::Table(shape), Value::Integer(status)) if shape.key("status").is_some() => {
                return format!("write a table: {{ status = {status} }}");
            }
            _ => {}
        }
    }
    format!("write {}", expectation(forms))
}

/// The number or truth value that a string holds, where one of the forms is of that kind.
fn bare(text: &str, forms: &[Form]) -> Option<Value> {
    forms.iter().find_map(|form| match form {
        Form::Integer(..) => text.parse().ok().map(Value::Integer),
        Form::Number(..) => text.parse().ok().map(Value::Number),
        Form::Bool => text.parse().ok().map(Value::Bool),
        _ => None,
    })
}

/// The forms in words: what is to be written.
#[must_use]
pub fn expectation(forms: &[Form]) -> String {
    forms.iter().map(one_expectation).collect::<Vec<_>>().join(", or ")
}

fn one_expectation(form: &Form) -> String {
    match form {
        Form::Text(what) => format!("a {what} in quotes").replace("a a", "an a"),
        Form::Prose => "a text in quotes".into(),
        Form::Choice(choices) => words::listed(choices),
        Form::Duration(_) => "a duration with its unit, such as \"2s\"".into(),
        Form::Bytes(least, most) => format!("a size from \"{least}\" to \"{most}\""),
        Form::Integer(least, most) if *most == i64::from(u32::MAX) => format!("a whole number from {least}"),
        Form::Integer(least, most) => format!("a whole number from {least} to {most}"),
        Form::Zero => "0".into(),
        Form::Number(above, most) => format!("a number above {above} and up to {most}"),
        Form::Bool => "true or false".into(),
        Form::List(element) => format!("a list of which each is {}", expectation(element)),
        Form::Table(shape) => {
            let keys: Vec<&str> = shape.keys.iter().map(|key| key.name).collect();
            format!("a table with {}", words::quoted(&keys))
        }
        Form::Map(what, [Form::Table(_)]) => format!("a table by {what}"),
        Form::Map(what, _) => format!("a table by {what}: {{ \"X-Env\" = \"canary\" }}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::diagnostic::{Report, Source};
    use super::super::read;
    use super::*;

    fn faults(text: &str) -> Report {
        let mut faults = Faults::default();
        let mut table = read::parse(0, text, &mut faults);
        let environment = |name: &str| match name {
            "GRACE" => Some("5s".to_owned()),
            "FOUR" => Some("4".to_owned()),
            "NO" => Some("false".to_owned()),
            _ => None,
        };
        conform(&mut table, &environment, &mut faults);
        faults.into_report(vec![Source { name: "t".into(), text: text.into(), folder: "".into() }], Vec::new())
    }

    #[test]
    fn values_of_the_wrong_kind_say_what_to_write() {
        for (text, help) in [
            ("runtime.workers = \"4\"", "write 4 without quotes"),
            ("runtime.workers = \"many\"", "write \"auto\", or a whole number from 1 to 256"),
            ("listeners.a.bind = 8080", "\"127.0.0.1:8080\""),
            ("[listeners.a.routes]\npool = \"a\"", "`[[listeners.NAME.routes]]` in double brackets"),
            ("[pools.a.backends]\naddress = \"a\"", "`[[pools.NAME.backends]]` in double brackets"),
            ("[[listeners]]\nbind = \"a\"", "`[listeners.NAME]` in single brackets"),
            ("[[pools.a]]\nbackends = []", "`[pools.NAME]` in single brackets"),
            ("[[runtime]]\nworkers = 1", "`[runtime]` in single brackets"),
            ("listeners.a.routes = [{ path = \"/x\" }]", "{ prefix = \"/x\" }"),
            ("listeners.a.routes = [{ respond = 503 }]", "{ status = 503 }"),
            ("listeners.a.headers.request.set = [\"X-A: 1\"]", "\"X-Env\" = \"canary\""),
            ("listeners.www.example.com.bind = \"a\"", "`[listeners.\"NAME.example\"]`"),
            ("[runtime]\nworkers = \"${NO}\"", "\"auto\""),
            ("runtime.workers = 0", "a whole number from 1 to 256"),
            ("runtime.shutdown_grace = 30", "\"30s\""),
            ("runtime.shutdown_grace = \"30\"", "\"30s\""),
            ("runtime.shutdown_grace = \"1.5h\"", "\"500ms\""),
            ("runtime.shutdown_grace = \"0s\"", "from \"1ms\" to \"24h\""),
            ("listeners.a.limits.header_bytes = 32768", "\"32768B\""),
            ("listeners.a.limits.header_bytes = \"32\"", "\"32KiB\""),
            ("listeners.a.limits.header_bytes = \"32k\"", "write \"32KiB\""),
            ("listeners.a.limits.header_bytes = \"big\"", "\"32KiB\""),
            ("listeners.a.limits.header_bytes = \"1B\"", "from \"1KiB\" to \"256KiB\""),
            ("listeners.a.limits.header_bytes = \"1GiB\"", "from \"1KiB\" to \"256KiB\""),
            ("listeners.a.limits.headers = \"100\"", "100 without quotes"),
            ("reload.watch = \"true\"", "write true without quotes"),
            ("include = \"a.toml\"", "[\"a.toml\"]"),
            ("pools.a.bounded_load = 1", "a number above 1"),
            ("pools.a = 3", "a table with `backends`"),
            ("pools.a.backends = [2020-01-01]", "an address in quotes"),
        ] {
            let report = faults(text);
            assert_eq!(report.diagnostics.len(), 1, "{report}");
            let found = report.diagnostics[0].help.clone().unwrap_or_default();
            assert!(found.contains(help), "{help} in {found}");
        }
    }

    #[test]
    fn a_variable_stands_for_a_whole_value_only() {
        assert!(faults("runtime.shutdown_grace = \"${GRACE}\"").is_empty());
        assert!(faults("runtime.workers = \"${FOUR}\"\nreload.watch = \"${NO}\"").is_empty());
        assert!(faults("pools.a.bounded_load = \"${FOUR}\"").is_empty());
        assert!(faults("pools.a.hash_ipv4_prefix = \"${NO}\"").to_string().contains("can not be a string"));
        assert!(faults("runtime.shutdown_grace = \"${UNSET}\"").to_string().contains("`UNSET` is not set"));
        assert!(faults("pools.a.backends = [\"${HOST}:80\"]").to_string().contains("whole value"));
        let body = "listeners.a.routes = [{ respond = { status = 200, body = \"`${x}`\" } }]";
        assert!(faults(body).is_empty());
    }

    #[test]
    fn a_file_of_another_language_is_not_explained_word_by_word() {
        let report = faults(&(0..5000).map(|n| format!("word_{n} = 1\n")).collect::<String>());
        assert!(report.count(Severity::Error) >= 5000 && report.diagnostics.len() < 2000);
    }
}
