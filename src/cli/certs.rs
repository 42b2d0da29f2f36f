//! `evenkeel certs`: which certificates there are, until when, and for which hosts there is none.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::{Exit, check};
use crate::clock::{self, Date};
use crate::config::{self, Config, HostPattern, Listener, Protocol, counted};
use crate::tls::{Book, Entry, Holder, Materials, Standing};

/// What fits on a line.
const WIDTH: usize = 100;

/// Where the values begin.
const INDENT: usize = 15;

/// Who shows certificates, and which.
struct Shown {
    holder: Holder,
    certificates: Vec<Certificate>,
    /// Hosts of its routes that no certificate is for.
    uncovered: Vec<String>,
}

struct Certificate {
    entry: Entry,
    /// What is demanded of clients; `None` where it is shown to backends.
    clients: Option<&'static str>,
    standing: Standing,
    days_left: i64,
}

/// Lists the certificates that the file names. The exit code says whether somebody has to look after one.
#[must_use]
pub fn run(path: &Path, as_json: bool) -> Exit {
    let loaded = match config::load(path) {
        Ok(loaded) => loaded,
        Err(report) => {
            check::print_report(&report);
            return Exit::BadConfig;
        }
    };
    let materials = match Materials::read(&loaded.config, None) {
        Ok(materials) => materials,
        Err(faults) => {
            check::print_report(&loaded.report(faults));
            return Exit::BadConfig;
        }
    };
    let all = show(&loaded.config, &materials, clock::today());
    let text = if as_json { format!("{:#}\n", json(&all)) } else { text(&all) };
    // Who closed stdout does not want the text; the exit code says the same.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if troubles(&all) == 0 { Exit::Done } else { Exit::Failed }
}

fn show(config: &Config, materials: &Materials, now: Date) -> Vec<Shown> {
    let listeners = config.listeners.iter().filter_map(|listener| of_listener(listener, materials, now));
    let pools = materials.pools().filter_map(|(name, tls)| {
        let certificates = vec![Certificate::new(tls.identity()?, None, now)];
        Some(Shown { holder: Holder::Pool(name.clone()), certificates, uncovered: Vec::new() })
    });
    listeners.chain(pools).collect()
}

fn of_listener(listener: &Listener, materials: &Materials, now: Date) -> Option<Shown> {
    let (tls, current) = (listener.tls.as_ref()?, materials.listener(&listener.name)?.current());
    let demands = tls.certificates.iter().map(|offered| match &offered.client_auth {
        None => "off",
        Some(auth) if auth.required => "required",
        Some(_) => "optional",
    });
    let entries = current.book.entries().iter().cloned().zip(demands);
    let certificates = entries.map(|(entry, clients)| Certificate::new(entry, Some(clients), now)).collect();
    let holder = Holder::Listener(listener.name.clone());
    Some(Shown { holder, certificates, uncovered: uncovered(listener, &current.book) })
}

/// The hosts of a listener's routes that are in no certificate, each once.
fn uncovered(listener: &Listener, book: &Book) -> Vec<String> {
    let Protocol::Http(http) = &listener.protocol else { return Vec::new() };
    let mut hosts = Vec::new();
    for host in http.routes.iter().flat_map(|route| &route.hosts) {
        let host = match host {
            HostPattern::Exact(host) => host.clone(),
            HostPattern::Wildcard(suffix) => format!("*{suffix}"),
        };
        if !book.knows(&host) && !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

/// How many things there are that somebody has to look after.
fn troubles(all: &[Shown]) -> usize {
    let of = |shown: &Shown| {
        let bad = shown.certificates.iter().filter(|certificate| certificate.standing != Standing::Good);
        bad.count() + shown.uncovered.len()
    };
    all.iter().map(of).sum()
}

fn text(all: &[Shown]) -> String {
    if all.is_empty() {
        return "there is no certificate\n".to_owned();
    }
    let mut text = String::new();
    for shown in all {
        text.push_str(&format!("{}\n", shown.holder));
        shown.certificates.iter().for_each(|certificate| certificate.text(&mut text));
        if !shown.uncovered.is_empty() {
            row(&mut text, "WARNING", ["no certificate for:".to_owned()]);
            row(&mut text, "", listed(&shown.uncovered));
        }
        text.push('\n');
    }
    text.push_str(&match troubles(all) {
        0 => "all is well\n".to_owned(),
        count => format!("{} to look after\n", counted(count, "thing")),
    });
    text
}

impl Certificate {
    fn new(entry: Entry, clients: Option<&'static str>, now: Date) -> Certificate {
        let (standing, days_left) = (Standing::of(&entry.facts, now), entry.facts.not_after.days_since(now));
        Certificate { entry, clients, standing, days_left }
    }

    fn text(&self, text: &mut String) {
        let Entry { file, facts } = &self.entry;
        row(text, "certificate", [file.from.to_string()]);
        let names = if facts.names.is_empty() { vec!["none".to_owned()] } else { listed(&facts.names) };
        row(text, "  names", names);
        row(text, "  issuer", [facts.issuer.clone()]);
        let left = match self.days_left {
            left @ 0.. => format!("{} left", counted(left.unsigned_abs() as usize, "day")),
            _ => "none left".to_owned(),
        };
        row(text, "  valid", [format!("{} to {}, {left}", facts.not_before, facts.not_after)]);
        row(text, "  key", [format!("{}, chain of {}", facts.key, counted(facts.chain, "certificate"))]);
        if let Some(clients) = self.clients.filter(|clients| *clients != "off") {
            row(text, "  clients", [format!("asked for a certificate ({clients})")]);
        }
        if self.standing != Standing::Good {
            row(text, "  WARNING", [self.standing.as_str().to_owned()]);
        }
    }
}

/// Words with commas behind all but the last.
fn listed(words: &[String]) -> Vec<String> {
    let last = words.len().saturating_sub(1);
    words.iter().enumerate().map(|(at, word)| if at < last { format!("{word},") } else { word.clone() }).collect()
}

/// Writes a label and behind it these words, on as many lines as they take.
fn row(text: &mut String, label: &str, words: impl IntoIterator<Item = String>) {
    let mut line = format!("  {label:<width$}", width = INDENT - 2);
    for word in words {
        let mut letters: Vec<char> = word.chars().collect();
        let used = line.chars().count();
        if used > INDENT && used + 1 + letters.len() > WIDTH {
            end(text, &mut line);
        } else if used > INDENT {
            line.push(' ');
        }
        // What is longer than a line is broken anywhere.
        while letters.len() > WIDTH - INDENT {
            line.extend(letters.drain(..WIDTH - INDENT));
            end(text, &mut line);
        }
        line.extend(letters);
    }
    end(text, &mut line);
}

fn end(text: &mut String, line: &mut String) {
    text.push_str(line.trim_end());
    text.push('\n');
    *line = " ".repeat(INDENT);
}

fn json(all: &[Shown]) -> Value {
    let (mut listeners, mut pools) = (Vec::new(), Vec::new());
    for shown in all {
        let certificates: Vec<_> = shown.certificates.iter().map(Certificate::json).collect();
        let missing = &shown.uncovered;
        match &shown.holder {
            Holder::Listener(name) => listeners.push(json!({
                "listener": &**name, "certificates": certificates, "hosts_without_certificate": missing
            })),
            Holder::Pool(name) => pools.push(json!({ "pool": &**name, "certificates": certificates })),
        }
    }
    json!({ "listeners": listeners, "pools": pools, "warnings": troubles(all) })
}

impl Certificate {
    fn json(&self) -> Value {
        let Entry { file, facts } = &self.entry;
        json!({
            "cert": file.from.to_string(),
            "subject": facts.subject,
            "names": facts.names,
            "issuer": facts.issuer,
            "not_before": format!("{:#}", facts.not_before),
            "not_after": format!("{:#}", facts.not_after),
            "days_left": self.days_left,
            "key": facts.key,
            "chain": facts.chain,
            "client_auth": self.clients,
            "standing": self.standing.as_str(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::diagnostic::Place;
    use crate::config::{Material, Whence};
    use crate::tls::Facts;

    fn shown(names: &[&str], standing: Standing, uncovered: &[&str]) -> Shown {
        let text = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let facts = Facts {
            subject: "CN=a".into(),
            issuer: "CN=ca".into(),
            names: text(names),
            not_before: Date(0),
            not_after: Date(86_400),
            key: "ECDSA P-256".into(),
            chain: 2,
        };
        let file = Material { from: Whence::File("/etc/a.crt".into()), place: Place::new(0, 0..1) };
        let entry = Entry { file, facts };
        let certificate = Certificate { entry, clients: Some("off"), standing, days_left: 1 };
        Shown { holder: Holder::Listener("web".into()), certificates: vec![certificate], uncovered: text(uncovered) }
    }

    #[test]
    fn a_listener_is_told_with_its_certificates_and_what_is_missing() {
        assert_eq!(
            text(&[shown(&["a.example", "*.b.example"], Standing::EndsSoon, &["c.example"])]),
            "listener web\n\
             \x20 certificate  /etc/a.crt\n\
             \x20   names      a.example, *.b.example\n\
             \x20   issuer     CN=ca\n\
             \x20   valid      1970-01-01 to 1970-01-02, 1 day left\n\
             \x20   key        ECDSA P-256, chain of 2 certificates\n\
             \x20   WARNING    ends soon\n\
             \x20 WARNING      no certificate for:\n\
             \x20              c.example\n\
             \n\
             2 things to look after\n"
        );
        assert!(text(&[shown(&[], Standing::Good, &[])]).ends_with("\n\nall is well\n"));
        assert_eq!(text(&[]), "there is no certificate\n");
    }

    #[test]
    fn what_backends_are_shown_is_told_of_too() {
        let mut shown = shown(&["us.example"], Standing::Good, &[]);
        shown.holder = Holder::Pool("api".into());
        shown.certificates[0].clients = None;
        assert!(text(std::slice::from_ref(&shown)).starts_with("pool api\n  certificate  /etc/a.crt\n"));
        let json = json(&[shown]);
        assert_eq!(json["pools"][0]["pool"], "api");
        assert_eq!(json["pools"][0]["certificates"][0]["client_auth"], Value::Null);
        assert_eq!((&json["listeners"], &json["warnings"]), (&json!([]), &json!(0)));
    }

    #[test]
    fn no_line_is_wider_than_it_may_be() {
        let long = format!("{}.example", "a".repeat(250));
        let names: Vec<String> = (0..40).map(|nth| format!("name-{nth}.example")).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.insert(20, &long);
        let text = text(&[shown(&names, Standing::Good, &names)]);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        let told: String = text.split_whitespace().collect();
        assert!(names.iter().all(|name| told.contains(name)), "{text}");
    }

    #[test]
    fn scripts_get_the_same() {
        let json = json(&[shown(&["a.example"], Standing::Expired, &["c.example"])]);
        assert_eq!(json["warnings"], 2);
        let listener = &json["listeners"][0];
        assert_eq!(listener["hosts_without_certificate"], json!(["c.example"]));
        let certificate = &listener["certificates"][0];
        assert_eq!(
            (&certificate["not_after"], &certificate["standing"]),
            (&json!("1970-01-02T00:00:00Z"), &json!("expired"))
        );
    }
}
