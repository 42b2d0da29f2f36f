//! Whether a certificate is valid on a day, and from when on somebody has to be told that it ends.
//!
//! What is not valid is used all the same: whether to go on is for clients to decide, and to serve nobody would be worse.

use std::fmt;

use super::book::Entry;
use super::facts::Facts;
use crate::clock::Date;
use crate::config::{Diagnostic, Material, Name};

/// From how many days before its end on that is told: what renews itself has done so by then.
pub const SOON: i64 = 21;

/// How a certificate stands on a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is valid for a good while.
    Good,
    /// It ends within [`SOON`] days.
    EndsSoon,
    /// It has ended.
    Expired,
    /// It has not begun.
    NotYetValid,
}

impl Standing {
    /// Of a certificate with these facts, now.
    #[must_use]
    pub fn of(facts: &Facts, now: Date) -> Standing {
        if now > facts.not_after {
            Standing::Expired
        } else if now < facts.not_before {
            Standing::NotYetValid
        } else if facts.not_after.days_since(now) < SOON {
            Standing::EndsSoon
        } else {
            Standing::Good
        }
    }

    /// In two or three words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Standing::Good => "good",
            Standing::EndsSoon => "ends soon",
            Standing::Expired => "expired",
            Standing::NotYetValid => "not yet valid",
        }
    }
}

/// Who shows a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A listener, to its clients.
    Listener(Name),
    /// A pool, to its backends.
    Pool(Name),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Listener(name) => write!(f, "listener {name}"),
            Holder::Pool(name) => write!(f, "pool {name}"),
        }
    }
}

/// A certificate that somebody has to look after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Who shows it.
    pub holder: Holder,
    /// The file it stands in.
    pub file: Material,
    /// Its first name.
    pub name: String,
    /// Why it is told of; never [`Standing::Good`].
    pub standing: Standing,
    /// When it ends, or begins where it has not yet.
    pub date: Date,
    /// How many whole days that is from now; negative when it is over.
    pub days: i64,
}

impl Notice {
    /// What there is to be said of a certificate now.
    pub(super) fn of(holder: &Holder, Entry { file, facts }: &Entry, now: Date) -> Option<Notice> {
        let standing = Standing::of(facts, now);
        let date = match standing {
            Standing::Good => return None,
            Standing::EndsSoon | Standing::Expired => facts.not_after,
            Standing::NotYetValid => facts.not_before,
        };
        let (holder, file, name) = (holder.clone(), file.clone(), facts.name().to_owned());
        Some(Notice { holder, file, name, standing, date, days: date.days_since(now) })
    }

    /// As something about the configuration.
    #[must_use]
    pub fn diagnostic(&self) -> Diagnostic {
        let help = match self.standing {
            Standing::NotYetValid => {
                "until then the other side refuses it; look at this machine's clock if that surprises you"
            }
            Standing::Expired => "renew it: the other side refuses it",
            Standing::Good | Standing::EndsSoon => "renew it, and see why that has not been done by itself",
        };
        Diagnostic::warning(self.to_string()).at(self.file.place).help(help)
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, name, date) = (&self.file.from, &self.name, self.date);
        write!(f, "{file}: the certificate for {name} ")?;
        match self.standing {
            Standing::Expired => write!(f, "has expired on {date}"),
            Standing::NotYetValid => write!(f, "is not valid before {date}"),
            Standing::Good | Standing::EndsSoon if self.days == 0 => write!(f, "ends today, {date}"),
            Standing::Good | Standing::EndsSoon if self.days == 1 => write!(f, "ends tomorrow, {date}"),
            Standing::Good | Standing::EndsSoon => write!(f, "ends in {} days, on {date}", self.days),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Whence;
    use crate::config::diagnostic::Place;

    const DAY: i64 = 86_400;

    /// Of a certificate that is valid from day 100 to day 190.
    fn notice(now: i64) -> Option<Notice> {
        let facts = Facts {
            subject: "CN=a".into(),
            issuer: "CN=ca".into(),
            names: vec!["a.example".into()],
            not_before: Date(100 * DAY),
            not_after: Date(190 * DAY),
            key: "Ed25519".into(),
            chain: 1,
        };
        let file = Material { from: Whence::File("a.crt".into()), place: Place::new(0, 0..1) };
        Notice::of(&Holder::Listener("web".into()), &Entry { file, facts }, Date(now))
    }

    #[test]
    fn it_is_told_of_from_three_weeks_before_its_end_on() {
        for (now, standing) in [
            (100 * DAY - 1, Some(Standing::NotYetValid)),
            (100 * DAY, None),
            (169 * DAY, None),
            (169 * DAY + 1, Some(Standing::EndsSoon)),
            (190 * DAY, Some(Standing::EndsSoon)),
            (190 * DAY + 1, Some(Standing::Expired)),
        ] {
            assert_eq!(notice(now).map(|notice| notice.standing), standing, "{now}");
        }
    }

    #[test]
    fn a_notice_names_the_file_the_name_and_the_day() {
        let told = |now: i64| notice(now).unwrap().to_string();
        assert_eq!(told(200 * DAY), "a.crt: the certificate for a.example has expired on 1970-07-10");
        assert_eq!(told(0), "a.crt: the certificate for a.example is not valid before 1970-04-11");
        assert_eq!(told(178 * DAY), "a.crt: the certificate for a.example ends in 12 days, on 1970-07-10");
        assert!(told(189 * DAY).contains("ends tomorrow") && told(190 * DAY - 5).contains("ends today"));
    }
}
