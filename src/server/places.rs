//! Which listening addresses a configuration wants, and what has to change when others are bound now.
//!
//! A bound address is known by its [`Place`], not by the listener it belongs to: when everything else about a listener
//! changes, even its name, its sockets are not touched. Only a port that the kernel chose belongs to one listener and the
//! address as written, since nothing else tells two of them apart.

use std::net::SocketAddr;

use crate::config::{Address, Config, Name};

/// What a bound address is known by over reloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The address that the file names.
    Fixed(Address),
    /// A port that the kernel chose: for the `nth` time that this listener names `written`, whose port is 0.
    Chosen { listener: Name, written: SocketAddr, nth: usize },
}

/// One address that a configuration wants to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) place: Place,
    pub(super) listener: Name,
    /// As written, so its port may be 0.
    pub(super) address: Address,
}

/// All that a configuration wants, in its order.
pub(super) fn wanted(config: &Config) -> Vec<Wanted> {
    let mut all = Vec::new();
    for listener in &config.listeners {
        for (at, address) in listener.bind.iter().enumerate() {
            let place = match address {
                Address::Ip(written) if written.port() == 0 => Place::Chosen {
                    listener: listener.name.clone(),
                    written: *written,
                    nth: listener.bind[..at].iter().filter(|before| *before == address).count(),
                },
                fixed => Place::Fixed(fixed.clone()),
            };
            all.push(Wanted { place, listener: listener.name.clone(), address: address.clone() });
        }
    }
    all
}

/// What is wanted and not bound.
pub(super) fn missing<'a>(bound: &[&Place], wanted: &'a [Wanted]) -> Vec<&'a Wanted> {
    wanted.iter().filter(|want| !bound.contains(&&want.place)).collect()
}

/// The listener that wants `place`, or `None` when nobody does and it has to go.
pub(super) fn owner<'a>(place: &Place, wanted: &'a [Wanted]) -> Option<&'a Name> {
    wanted.iter().find(|want| want.place == *place).map(|want| &want.listener)
}

/// Whether two sockets would compete for the same connections: same family (IPv6 sockets of ours never take IPv4), same
/// port, and the same address or one of them every address.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
        && one.port() == other.port()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(listener: &str, address: &str) -> Wanted {
        let address = Address::Ip(address.parse().unwrap());
        Wanted { place: Place::Fixed(address.clone()), listener: listener.into(), address }
    }

    #[test]
    fn only_what_is_new_is_missing() {
        let (old, new) = (want("web", "127.0.0.1:80"), want("web", "127.0.0.1:81"));
        let wanted = [old.clone(), new.clone()];
        assert_eq!(missing(&[&old.place], &wanted), [&new]);
        assert_eq!(missing(&[&old.place, &new.place], &wanted), [] as [&Wanted; 0]);
    }

    #[test]
    fn an_address_that_moves_to_another_listener_stays_bound() {
        let (before, after) = (want("web", "127.0.0.1:80"), want("shop", "127.0.0.1:80"));
        let wanted = [after];
        assert!(missing(&[&before.place], &wanted).is_empty());
        assert_eq!(owner(&before.place, &wanted).map(|name| &**name), Some("shop"));
        assert_eq!(owner(&before.place, &[]), None);
    }

    /// The places that a listener of this name wants.
    fn places(listener: &str, bind: &str) -> Vec<Place> {
        let pool = "[pools.app]\nbackends = [\"127.0.0.1:3000\"]";
        let text = format!("[listeners.{listener}]\nbind = {bind}\npool = \"app\"\n{pool}");
        let loaded = crate::config::from_text("test.toml", &text).unwrap();
        wanted(&loaded.config).into_iter().map(|want| want.place).collect()
    }

    #[test]
    fn a_chosen_port_is_kept_for_as_long_as_the_listener_names_the_address() {
        let chosen = places("web", r#"["127.0.0.1:0"]"#);
        let more = places("web", r#"["127.0.0.1:8080", "127.0.0.1:0"]"#);
        assert_eq!(more[1], chosen[0], "what stands beside it does not matter");
        assert_ne!(places("raw", r#"["127.0.0.1:0"]"#), chosen);
    }

    #[test]
    fn a_chosen_port_is_given_up_with_its_address() {
        assert_ne!(places("web", r#"["127.0.0.2:0"]"#), places("web", r#"["127.0.0.1:0"]"#));
    }

    #[test]
    fn sockets_compete_within_a_family_and_port_when_one_covers_the_other() {
        let pairs = [
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.2:80", "127.0.0.1:80", false),
            ("0.0.0.0:80", "127.0.0.1:81", false),
            ("[::]:80", "127.0.0.1:80", false),
            ("[::]:80", "[::1]:80", true),
        ];
        for (one, other, expected) in pairs {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((overlap(one, other), overlap(other, one)), (expected, expected), "{one} {other}");
        }
    }
}
