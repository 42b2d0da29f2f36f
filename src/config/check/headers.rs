//! Header names and values, and which headers rules may not touch.

use super::super::diagnostic::Place;
use super::super::read::{Entry, Table};
use super::super::{HeaderEdits, HeaderRules};
use super::{Checking, entries};
use crate::http::fields::{Reserved, reserved};
use crate::http::is_token;

/// Whether rules are for what goes to a backend or for what goes to a client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Request,
    Response,
}

/// What is done to a header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edit {
    Set,
    Add,
    Remove,
}

impl Checking<'_> {
    /// The `headers` of a listener or route.
    pub(super) fn header_rules(&mut self, table: &Table) -> HeaderRules {
        let Some(table) = table.table("headers") else { return HeaderRules::default() };
        HeaderRules {
            request: self.header_edits(table.table("request"), Message::Request),
            response: self.header_edits(table.table("response"), Message::Response),
        }
    }

    fn header_edits(&mut self, table: Option<&Table>, message: Message) -> HeaderEdits {
        let Some(table) = table else { return HeaderEdits::default() };
        let mut remove = Vec::new();
        for node in table.list("remove").unwrap_or_default() {
            let Some((name, place)) = node.as_text() else { continue };
            if self.is_editable(name, place, message, Edit::Remove) {
                remove.push(name.to_owned());
            }
        }
        HeaderEdits {
            set: self.header_fields(entries(table, "set"), message, Edit::Set),
            add: self.header_fields(entries(table, "add"), message, Edit::Add),
            remove,
        }
    }

    fn header_fields(&mut self, fields: &[Entry], message: Message, edit: Edit) -> Vec<(String, String)> {
        let mut sound = Vec::new();
        for entry in fields {
            let is_editable = self.is_editable(&entry.key, entry.key_place, message, edit);
            let Some((value, place)) = entry.node.as_text() else { continue };
            if self.is_header_value(value, place) && is_editable {
                sound.push((entry.key.clone(), value.to_owned()));
            }
        }
        let names = fields.iter().map(|entry| (entry.key.to_ascii_lowercase(), entry.key_place));
        self.each_once("the header is named", "names are the same in upper and lower case; keep one", names);
        sound
    }

    /// The headers of a request that we make ourselves.
    pub(super) fn request_fields(&mut self, fields: &[Entry]) -> Vec<(String, String)> {
        self.header_fields(fields, Message::Request, Edit::Set)
    }

    fn is_editable(&mut self, name: &str, place: Place, message: Message, edit: Edit) -> bool {
        if !self.is_header_name(name, place) {
            return false;
        }
        let Some(why) = untouchable(name, message, edit) else { return true };
        self.error(place, format!("rules can not touch `{name}`"), why);
        false
    }

    /// Whether it can be the name of a header; reported if not.
    pub(super) fn is_header_name(&mut self, name: &str, place: Place) -> bool {
        if is_token(name.as_bytes()) {
            return true;
        }
        let help = "a name has letters, digits and `-`, no spaces and no `:`, such as \"X-Env\"";
        self.error(place, format!("`{}` is not a header name", name.escape_debug()), help);
        false
    }

    /// Whether it can be the value of a header; reported if not.
    pub(super) fn is_header_value(&mut self, value: &str, place: Place) -> bool {
        if value.chars().any(|c| c.is_control() && c != '\t') {
            self.error(place, "a header value can not have control characters", "remove line ends and the like");
            return false;
        }
        if value != value.trim_matches([' ', '\t']) {
            let help =
                format!("spaces around a value are lost on the way: write \"{}\"", value.trim_matches([' ', '\t']));
            self.error(place, "a header value can not begin or end with a space", help);
            return false;
        }
        true
    }
}

/// Why a header is not for rules to touch.
fn untouchable(name: &str, message: Message, edit: Edit) -> Option<&'static str> {
    let is_host = name.eq_ignore_ascii_case("host");
    match reserved(name) {
        Some(Reserved::Framing) => Some(
            "how a message is framed is between Evenkeel and its peer; a wrong word here would let requests be smuggled",
        ),
        Some(Reserved::Connection) => Some("it belongs to one connection, and each side of Evenkeel has its own"),
        None if is_host && message == Message::Response => Some("`Host` belongs to requests"),
        None if is_host && edit != Edit::Set => Some("a request has exactly one `Host`: use `set`"),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fields::is_editable;

    #[test]
    fn a_rule_that_is_taken_is_followed() {
        for name in ["X-Env", "Server", "Via", "X-Forwarded-For", "Proxy-Authorization", "Keep-Alive", "TE", "expect"] {
            let refused = untouchable(name, Message::Request, Edit::Set).is_some();
            assert_ne!(refused, is_editable(name), "{name}");
        }
    }

    #[test]
    fn credentials_for_the_next_proxy_are_of_one_connection() {
        for name in ["proxy-authorization", "Proxy-Authenticate"] {
            assert!(untouchable(name, Message::Request, Edit::Add).is_some(), "{name}");
        }
    }

    #[test]
    fn a_request_has_one_host_and_a_response_none() {
        assert_eq!(untouchable("Host", Message::Request, Edit::Set), None);
        assert!(untouchable("Host", Message::Request, Edit::Add).is_some());
        assert!(untouchable("host", Message::Request, Edit::Remove).is_some());
        assert!(untouchable("HOST", Message::Response, Edit::Set).is_some());
    }
}
