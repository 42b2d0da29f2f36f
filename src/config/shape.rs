//! What the table of [`keys`](super::keys) is made of: tables, keys, and the forms of values.

use std::fmt;
use std::time::Duration;

/// A table of the file and the keys it may have.
#[derive(Debug)]
pub struct Shape {
    /// What one such table is called in messages, with its article.
    pub what: &'static str,
    /// Its heading in the reference; `None` for one that is written inline, as a value.
    pub heading: Option<&'static str>,
    /// What it is for, under that heading.
    pub doc: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value may be: one of these.
    pub forms: &'static [Form],
    /// What it is when it is not written.
    pub absent: Absent,
    /// What it means.
    pub doc: &'static str,
}

/// What it means that a key is not written.
#[derive(Debug)]
pub enum Absent {
    /// A fault.
    Required,
    /// The same as this value (as TOML).
    Default(&'static str),
    /// This, in words.
    Means(&'static str),
}

/// What a value may be.
#[derive(Debug)]
pub enum Form {
    /// A string; the word says of what kind.
    Text(&'static str),
    /// A string in which `${` means nothing.
    Prose,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// A duration with its unit, from 1 ms up to this.
    Duration(Duration),
    /// A number of bytes with its unit, from … to.
    Bytes(Bytes, Bytes),
    /// A whole number from … to.
    Integer(i64, i64),
    /// 0, which says that there is none of it; before another number.
    Zero,
    /// A number above … and up to.
    Number(f64, f64),
    /// `true` or `false`.
    Bool,
    /// A list of values, each in one of these forms.
    List(&'static [Form]),
    /// A table of this shape.
    Table(&'static Shape),
    /// A table whose keys the writer chooses (the word says what they are), each with a value in one of these forms.
    Map(&'static str, &'static [Form]),
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// The units of sizes, the largest first.
const BYTE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Bytes {
    /// As an index; more than fits is as much as fits.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Bytes {
    /// As it is written in the file, in the largest unit that needs no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, size): &&(&str, u64)| self.0 >= *size && self.0.is_multiple_of(*size);
        let (unit, size) = BYTE_UNITS.iter().find(fits).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl Shape {
    /// The key of this name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

impl Key {
    /// The duration this key has when it is not written.
    #[must_use]
    pub fn default_duration(&self) -> Duration {
        let Absent::Default(text) = self.absent else { return Duration::ZERO };
        parse_duration(text.trim_matches('"')).unwrap_or_default()
    }

    /// The number of bytes this key has when it is not written.
    #[must_use]
    pub fn default_bytes(&self) -> Bytes {
        let Absent::Default(text) = self.absent else { return Bytes::default() };
        parse_bytes(text.trim_matches('"')).unwrap_or_default()
    }

    /// The string this key has when it is not written.
    #[must_use]
    pub fn default_text(&self) -> &'static str {
        let Absent::Default(text) = self.absent else { return "" };
        text.trim_matches('"')
    }

    /// The number this key has when it is not written.
    #[must_use]
    pub fn default_number(&self) -> f64 {
        let Absent::Default(text) = self.absent else { return 0.0 };
        text.parse().unwrap_or_default()
    }

    /// The whole number this key has when it is not written.
    #[must_use]
    pub fn default_integer(&self) -> i64 {
        let Absent::Default(text) = self.absent else { return 0 };
        text.parse().unwrap_or_default()
    }
}

/// One whole number and its unit, without anything between or around them.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let millis = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// One whole number and its unit (B, KiB, MiB, GiB), without anything between or around them.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<Bytes> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let (_, size) = BYTE_UNITS.iter().find(|(unit, _)| *unit == &text[digits..])?;
    number.checked_mul(*size).map(Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_one_number_and_its_unit_and_is_shown_as_it_is_written() {
        for (text, bytes) in [("240B", 240), ("32KiB", 32 << 10), ("64MiB", 64 << 20), ("1GiB", 1 << 30), ("0B", 0)] {
            assert_eq!(parse_bytes(text), Some(Bytes(bytes)), "{text}");
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(Bytes(1500).to_string(), "1500B");
        for wrong in ["", "5", "KiB", "-1B", "1.5KiB", "1 KiB", "1K", "1KB", "1kib", "1TiB", "17179869184GiB"] {
            assert_eq!(parse_bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_duration_is_one_number_and_its_unit() {
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("2s"), Some(Duration::from_secs(2)));
        assert_eq!(parse_duration("1h"), Some(Duration::from_secs(3600)));
        for wrong in
            ["", "5", "s", "-1s", "1.5s", "1 s", "1h30m", "1S", "99999999999999999999s", "18446744073709551615d"]
        {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
