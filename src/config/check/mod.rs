//! Values → [`Config`]: what the table of keys can not say. Names that have to exist, addresses, hosts, paths and headers
//! that have to be well formed, keys that exclude each other. All faults at once.
//!
//! The tree has been through [`conform`](super::conform): a value has the kind its key asks for, or is
//! [`Value::Faulty`] and was reported. Whatever is at fault here is reported and left out of what is built; a
//! [`Config`] comes out only when nothing was.

mod address;
mod headers;
mod listeners;
mod patterns;
mod pools;
mod routes;
mod shadow;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::diagnostic::{Diagnostic, Faults, Place, Source};
use super::keys::{self, Key};
use super::read::{Entry, Node, Table, Value};
use super::{Config, Name, Reload, Runtime, Timeouts, words};

/// The longest name that logs and metrics have to carry.
const LONGEST_NAME: usize = 128;

/// The configuration that the tree means, unless there is any error.
pub fn check(root: &Table, sources: &[Source], faults: &mut Faults) -> Option<Config> {
    let mut checking = Checking::new(root, sources, faults);
    let defaults = default_timeouts(root);
    let mut pools: Vec<_> = entries(root, "pools").iter().filter_map(|entry| checking.pool(entry, &defaults)).collect();
    let mut listeners: Vec<_> =
        entries(root, "listeners").iter().filter_map(|entry| checking.listener(entry, &defaults)).collect();
    checking.need_a_listener(root);
    if checking.faults.has_errors() {
        return None;
    }
    checking.warn_of_unused_pools();
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    Some(Config { runtime: runtime(root), reload: reload(root), listeners, pools })
}

/// What is known while the tree is walked.
struct Checking<'a> {
    faults: &'a mut Faults,
    sources: &'a [Source],
    /// Every pool that is defined, even if badly, and where.
    pools: BTreeMap<Name, Place>,
    /// Whether pools may be defined in a part of the file that could not be understood.
    pools_are_hidden: bool,
    used_pools: BTreeSet<Name>,
    bound: Vec<address::Bound>,
}

impl<'a> Checking<'a> {
    fn new(root: &Table, sources: &'a [Source], faults: &'a mut Faults) -> Checking<'a> {
        let pools = entries(root, "pools").iter().map(|entry| (entry.key.as_str().into(), entry.key_place)).collect();
        let pools_are_hidden =
            root.table("pools").is_none() && root.entries.iter().any(|entry| entry.node.value == Value::Faulty);
        Checking { faults, sources, pools, pools_are_hidden, used_pools: BTreeSet::new(), bound: Vec::new() }
    }

    fn error(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.faults.push(Diagnostic::error(message).at(place).help(help));
    }

    fn need_a_listener(&mut self, root: &Table) {
        let is_hidden = root.entries.iter().any(|entry| entry.node.value == Value::Faulty);
        if entries(root, "listeners").is_empty() && !is_hidden {
            let fault = Diagnostic::error("there is no listener, so nothing would be served");
            self.faults.push_absence(
                fault.help("write `[listeners.NAME]` with `bind = \"0.0.0.0:8080\"` and `pool = \"NAME\"`"),
            );
        }
    }

    /// Reports that none of `keys` is in the table, unless the writer tried and hit a key that does not exist.
    fn missing(&mut self, table: &Table, shape: &'static keys::Shape, wanted: &[&str], fault: Diagnostic) {
        let was_tried = |entry: &Entry| {
            shape.key(&entry.key).is_none() && wanted.iter().any(|name| words::may_mean(&entry.key, shape, name))
        };
        if !table.entries.iter().any(was_tried) {
            self.faults.push_absence(fault);
        }
    }

    /// The name, if it can be one.
    fn name(&mut self, what: &str, text: &str, place: Place) -> Option<Name> {
        let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if !text.is_empty() && text.len() <= LONGEST_NAME && text.bytes().all(is_sound) {
            return Some(text.into());
        }
        let help = format!("use 1 to {LONGEST_NAME} ASCII letters, digits, `_`, `-` and `.`");
        self.error(place, format!("this can not be the name of a {what}"), help);
        None
    }

    /// The pool of this name, which is then in use.
    fn pool_reference(&mut self, node: Option<&Node>) -> Option<Name> {
        let (text, place) = node?.as_text()?;
        if let Some((name, _)) = self.pools.get_key_value(text) {
            let name = Arc::clone(name);
            self.used_pools.insert(Arc::clone(&name));
            return Some(name);
        }
        let names: Vec<&str> = self.pools.keys().map(|name| &**name).collect();
        let help = match words::nearest(text, &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write `[pools.{text}]` with `backends = [\"10.0.0.1:3000\"]`, or name a pool that exists"),
        };
        let fault = Diagnostic::error(format!("there is no pool `{text}`")).label(place, "not defined").help(help);
        if !self.pools_are_hidden {
            self.faults.push_absence(fault);
        }
        None
    }

    fn warn_of_unused_pools(&mut self) {
        for (name, place) in &self.pools {
            if !self.used_pools.contains(name) {
                let warning = Diagnostic::warning(format!("nothing uses the pool `{name}`")).at(*place);
                self.faults
                    .push(warning.help(format!("name it in a listener or route: `pool = \"{name}\"`, or remove it")));
            }
        }
    }

    /// Reports each that is the same as an earlier one, with both places.
    fn each_once<T: Ord>(&mut self, what: &str, help: &str, items: impl IntoIterator<Item = (T, Place)>) {
        let mut seen: BTreeMap<T, Place> = BTreeMap::new();
        for (item, place) in items {
            if let Some(first) = seen.get(&item) {
                let fault =
                    Diagnostic::error(format!("{what} twice")).label(place, "again").label(*first, "first here");
                self.faults.push(fault.help(help));
            } else {
                seen.insert(item, place);
            }
        }
    }

    /// The one entry of a table that must have exactly one.
    fn only_entry<'t>(&mut self, node: &'t Node, shape: &'static keys::Shape) -> Option<&'t Entry> {
        let table = node.as_table()?;
        if let [entry] = &table.entries[..] {
            return Some(entry);
        }
        let names: Vec<&str> = shape.keys.iter().map(|key| key.name).collect();
        let message = format!("{} needs exactly one of {}", shape.what, words::quoted(&names));
        let message = message.replace(" and ", " or ");
        let fault = Diagnostic::error(message).at(node.place).help(format!("this one has {}", table.entries.len()));
        match table.entries.is_empty() {
            true => self.faults.push_absence(fault),
            false => self.faults.push(fault),
        }
        None
    }
}

fn entries<'t>(root: &'t Table, key: &str) -> &'t [Entry] {
    root.table(key).map_or(&[], |table| &table.entries)
}

fn runtime(root: &Table) -> Runtime {
    let table = root.table("runtime");
    Runtime {
        workers: table.and_then(|table| table.integer("workers")).and_then(to_count),
        shutdown_grace: duration(table, &keys::SHUTDOWN_GRACE),
    }
}

fn reload(root: &Table) -> Reload {
    let table = root.table("reload");
    Reload {
        watch: table.and_then(|table| table.flag("watch")).unwrap_or(true),
        drain_timeout: duration(table, &keys::DRAIN_TIMEOUT),
    }
}

fn duration(table: Option<&Table>, key: &Key) -> Duration {
    table.and_then(|table| table.duration(key.name)).unwrap_or_else(|| key.default_duration())
}

fn to_count(number: i64) -> Option<NonZeroU32> {
    u32::try_from(number).ok().and_then(NonZeroU32::new)
}

fn default_timeouts(root: &Table) -> Timeouts {
    let mut timeouts = Timeouts {
        client_header: Duration::ZERO,
        client_body: Duration::ZERO,
        client_idle: Duration::ZERO,
        connect: Duration::ZERO,
        response_header: Duration::ZERO,
        response_body: Duration::ZERO,
        upstream_idle: Duration::ZERO,
        tunnel_idle: Duration::ZERO,
    };
    let table = root.table("defaults").and_then(|table| table.table("timeouts"));
    for key in keys::DEFAULT_TIMEOUTS.keys {
        if let Some(slot) = slot(&mut timeouts, key.name) {
            *slot = duration(table, key);
        }
    }
    timeouts
}

/// The defaults, with what the table's own `timeouts` set.
fn own_timeouts(table: &Table, defaults: &Timeouts) -> Timeouts {
    let mut timeouts = defaults.clone();
    for entry in entries(table, "timeouts") {
        if let (Value::Duration(value), Some(slot)) = (&entry.node.value, slot(&mut timeouts, &entry.key)) {
            *slot = *value;
        }
    }
    timeouts
}

fn slot<'t>(timeouts: &'t mut Timeouts, name: &str) -> Option<&'t mut Duration> {
    Some(match name {
        "client_header" => &mut timeouts.client_header,
        "client_body" => &mut timeouts.client_body,
        "client_idle" => &mut timeouts.client_idle,
        "connect" => &mut timeouts.connect,
        "response_header" => &mut timeouts.response_header,
        "response_body" => &mut timeouts.response_body,
        "upstream_idle" => &mut timeouts.upstream_idle,
        "tunnel_idle" => &mut timeouts.tunnel_idle,
        _ => return None,
    })
}
