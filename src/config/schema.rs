//! The JSON Schema (draft 2020-12) of the file, written from the table of keys, for editors that complete TOML by it.

use serde_json::{Map, Value, json};

use super::keys::{Absent, FILE, Form, Key, Shape};

/// A string that is replaced by an environment variable.
const VARIABLE: &str = r"^\$\{[A-Za-z0-9_]+\}$";
const BYTES: &str = r"^([0-9]+(B|KiB|MiB|GiB)|\$\{[A-Za-z0-9_]+\})$";
const DURATION: &str = r"^([0-9]+(ms|s|m|h|d)|\$\{[A-Za-z0-9_]+\})$";

/// The schema.
#[must_use]
pub fn schema() -> Value {
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Evenkeel's configuration file",
    });
    if let (Value::Object(root), Value::Object(table)) = (&mut root, table(&FILE)) {
        root.extend(table);
    }
    root
}

fn table(shape: &Shape) -> Value {
    let properties: Map<String, Value> = shape.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let mut table = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    // The main file may leave to an include what is required of the whole.
    let is_required = |key: &&Key| matches!(key.absent, Absent::Required) && !std::ptr::eq(shape, &FILE);
    let required: Vec<&str> = shape.keys.iter().filter(is_required).map(|key| key.name).collect();
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

fn property(key: &Key) -> Value {
    let mut property = any_of(key.forms);
    property["description"] = json!(key.doc);
    if let Absent::Default(text) = key.absent {
        // Strings, whole numbers and booleans are written the same in TOML and JSON.
        property["default"] = serde_json::from_str(text).unwrap_or_default();
    }
    property
}

fn any_of(forms: &[Form]) -> Value {
    match forms {
        [form] => one(form),
        forms => json!({ "anyOf": forms.iter().map(one).collect::<Vec<_>>() }),
    }
}

fn one(form: &Form) -> Value {
    match form {
        Form::Text(_) | Form::Prose => json!({ "type": "string" }),
        Form::Choice(choices) => or_variable(json!({ "enum": choices })),
        Form::Bytes(..) => json!({ "type": "string", "pattern": BYTES }),
        Form::Duration(_) => json!({ "type": "string", "pattern": DURATION }),
        Form::Integer(least, most) => or_variable(json!({ "type": "integer", "minimum": least, "maximum": most })),
        Form::Zero => json!({ "const": 0 }),
        Form::Number(above, most) => {
            or_variable(json!({ "type": "number", "exclusiveMinimum": above, "maximum": most }))
        }
        Form::Bool => or_variable(json!({ "type": "boolean" })),
        Form::List(element) => json!({ "type": "array", "items": any_of(element) }),
        Form::Table(shape) => table(shape),
        Form::Map(_, value) => json!({ "type": "object", "additionalProperties": any_of(value) }),
    }
}

/// A variable is written in quotes, whatever it holds.
fn or_variable(value: Value) -> Value {
    json!({ "anyOf": [value, { "type": "string", "pattern": VARIABLE }] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_knows_keys_defaults_and_choices() {
        let schema = schema();
        let pool = &schema["properties"]["pools"]["additionalProperties"];
        assert_eq!(pool["required"], json!(["backends"]));
        assert_eq!(pool["properties"]["balance"]["default"], json!("round_robin"));
        assert_eq!(pool["properties"]["balance"]["anyOf"][0]["enum"][3], json!("ip_hash"));
        assert_eq!(pool["additionalProperties"], json!(false));
        let route = &schema["properties"]["listeners"]["additionalProperties"]["properties"]["routes"]["items"];
        assert_eq!(route["properties"]["path"]["properties"]["prefix"]["type"], json!("string"));
    }

    #[test]
    fn every_default_can_be_written_in_json() {
        crate::config::keys::every(&mut |path, _, key| {
            if let Absent::Default(text) = key.absent {
                assert!(serde_json::from_str::<Value>(text).is_ok(), "{path}");
            }
        });
    }
}
