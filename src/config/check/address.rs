//! Addresses to listen on, addresses to connect to, networks to believe.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::super::diagnostic::{Diagnostic, Place};
use super::super::{Address, Name};
use super::Checking;

/// An address that a listener takes.
pub(super) struct Bound {
    address: Address,
    place: Place,
    listener: Name,
}

impl Checking<'_> {
    /// An address to listen on, which no listener before has taken.
    pub(super) fn bind_address(&mut self, text: &str, place: Place, listener: &Name) -> Option<Address> {
        let address = match self.unix_path(text, place) {
            Some(path) => Address::Unix(path?),
            None => Address::Ip(self.bind_socket(text, place)?),
        };
        if let Some(other) = self.bound.iter().find(|other| collide(&other.address, &address)) {
            let message = if other.address == address {
                format!("`{address}` is bound twice")
            } else {
                format!("`{address}` and `{}` can not both be bound", other.address)
            };
            let fault = Diagnostic::error(message)
                .label(place, format!("by the listener `{listener}`"))
                .label(other.place, format!("and by the listener `{}`", other.listener))
                .help(
                    "an address and port belong to one listener; `0.0.0.0` and `[::]` take every address of their kind",
                );
            self.faults.push(fault);
            return None;
        }
        self.bound.push(Bound { address: address.clone(), place, listener: listener.clone() });
        Some(address)
    }

    fn bind_socket(&mut self, text: &str, place: Place) -> Option<SocketAddr> {
        let Ok(address) = text.parse::<SocketAddr>() else {
            self.error(place, format!("`{text}` is not an address to listen on"), bind_help(text));
            return None;
        };
        if let Some(plain) = mapped(address) {
            self.error(place, format!("`{text}` is an IPv4 address in IPv6 form"), format!("write \"{plain}\""));
            return None;
        }
        Some(address)
    }

    /// An address to connect to.
    pub(super) fn backend_address(&mut self, text: &str, place: Place) -> Option<Address> {
        if let Some(path) = self.unix_path(text, place) {
            return path.map(Address::Unix);
        }
        let Ok(address) = text.parse::<SocketAddr>() else {
            let (message, help) = backend_advice(text);
            self.error(place, message, help);
            return None;
        };
        if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
            let message = format!("`{text}` is not an address to connect to");
            let local = if address.is_ipv4() { "127.0.0.1" } else { "[::1]" };
            self.error(place, message, format!("write the backend's own address and port; this machine is {local}"));
            return None;
        }
        Some(Address::Ip(mapped(address).unwrap_or(address)))
    }

    /// `None` when the text is no `unix:` address; the path is relative to the file it stands in.
    fn unix_path(&mut self, text: &str, place: Place) -> Option<Option<PathBuf>> {
        let path = text.strip_prefix("unix:")?;
        // A socket's address has room for 108 bytes, the last of them NUL (unix(7)).
        let path = self.sources.get(place.file).map_or_else(PathBuf::new, |source| source.folder.join(path));
        let length = path.as_os_str().len();
        if text.ends_with('/') || text == "unix:" || text.contains('\0') || length > 107 {
            self.error(
                place,
                format!("`{text}` is not the path of a socket"),
                "write \"unix:/run/app/app.sock\", at most 107 bytes",
            );
            return Some(None);
        }
        Some(Some(path))
    }

    /// A network, or an address as a network of one.
    pub(super) fn network(&mut self, text: &str, place: Place) -> Option<IpNet> {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let Ok(network) = network else {
            let help = "write an address or a network: \"10.0.0.1\", \"10.0.0.0/8\", \"2001:db8::/32\"";
            self.error(place, format!("`{text}` is not a network"), help);
            return None;
        };
        if network.addr() != network.network() {
            let help =
                format!("write \"{}\" for the network, or \"{}\" for the address", network.trunc(), network.addr());
            self.error(place, format!("`{text}` has bits set beyond its prefix"), help);
            return None;
        }
        if matches!(network, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some()) {
            self.error(place, format!("`{text}` is an IPv4 network in IPv6 form"), "write it as an IPv4 network");
            return None;
        }
        Some(network)
    }
}

/// The IPv4 address that an IPv6 address carries.
fn mapped(address: SocketAddr) -> Option<SocketAddr> {
    let plain = address.ip().to_canonical();
    (plain != address.ip()).then(|| SocketAddr::new(plain, address.port()))
}

/// Whether the system would refuse to bind both. IPv4 and IPv6 never collide: IPv6 sockets are bound V6ONLY.
fn collide(a: &Address, b: &Address) -> bool {
    let (Address::Ip(a), Address::Ip(b)) = (a, b) else { return a == b };
    let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && a.is_ipv4() == b.is_ipv4() && overlap
}

fn bind_help(text: &str) -> String {
    let port = text.trim_start_matches('*').trim_start_matches(':');
    if port.parse::<u16>().is_ok() && !text.starts_with("::") {
        return format!("write \"0.0.0.0:{port}\", \"[::]:{port}\", or both: [\"0.0.0.0:{port}\", \"[::]:{port}\"]");
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        return format!("write \"127.0.0.1:{port}\", \"[::1]:{port}\", or both in a list");
    }
    if text.starts_with('/') {
        return format!("write \"unix:{text}\"");
    }
    match text.parse::<IpAddr>() {
        Ok(address) => format!("add the port: \"{}\"", SocketAddr::new(address, 8080)),
        Err(_) => "write \"0.0.0.0:8080\", \"[::]:8080\" or \"unix:/run/app.sock\"".into(),
    }
}

/// What is wrong with a backend's address, and what to write.
fn backend_advice(text: &str) -> (String, String) {
    let wrong = format!("`{text}` is not an address to connect to");
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.trim_end_matches('/');
        return match (scheme, rest.parse::<SocketAddr>(), rest.parse::<IpAddr>()) {
            ("unix", ..) => (wrong, format!("write \"unix:{rest}\"")),
            ("https", ..) => (wrong, "this version has no TLS to backends: write the IP address and plain port".into()),
            ("http", Err(_), Ok(address)) => (wrong, format!("write \"{}\"", SocketAddr::new(address, 80))),
            (_, Ok(address), _) => (wrong, format!("write \"{address}\"")),
            _ => (wrong, format!("write only the IP address and port, without `{scheme}://`")),
        };
    }
    if text.starts_with('/') {
        return (wrong, format!("write \"unix:{text}\""));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return (format!("`{text}` has no port"), format!("write \"{}\"", SocketAddr::new(address, 3000)));
    }
    if text.parse::<u16>().is_ok() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()) {
        return (wrong, format!("write \"127.0.0.1:{}\" for this machine", text.trim_start_matches(':')));
    }
    match text.rsplit_once(':') {
        Some(("localhost", port)) => (no_names(text), format!("write \"127.0.0.1:{port}\"")),
        Some((host, port)) if is_host_name(host) && port.parse::<u16>().is_ok() => {
            (no_names(text), format!("write its IP address, such as \"10.0.0.1:{port}\""))
        }
        None if is_host_name(text) => {
            (no_names(text), "write its IP address and port, such as \"10.0.0.1:3000\"".into())
        }
        _ => (wrong, "write \"10.0.0.1:3000\", \"[2001:db8::1]:3000\" or \"unix:/run/app.sock\"".into()),
    }
}

fn no_names(text: &str) -> String {
    format!("`{text}` is a host name, and this version does not resolve names")
}

fn is_host_name(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Address {
        Address::Ip(text.parse().unwrap())
    }

    #[test]
    fn an_address_collides_with_the_wildcard_of_its_family_only() {
        assert!(collide(&ip("0.0.0.0:80"), &ip("127.0.0.1:80")));
        assert!(collide(&ip("[::1]:80"), &ip("[::]:80")));
        assert!(!collide(&ip("0.0.0.0:80"), &ip("[::]:80")));
        assert!(!collide(&ip("127.0.0.1:80"), &ip("127.0.0.2:80")));
        assert!(!collide(&ip("127.0.0.1:0"), &ip("127.0.0.1:0")));
    }

    #[test]
    fn advice_names_what_to_write() {
        for (text, part) in [
            (":8080", "\"0.0.0.0:8080\""),
            ("8080", "\"[::]:8080\""),
            ("*:80", "\"0.0.0.0:80\""),
            ("localhost:80", "\"127.0.0.1:80\""),
            ("/run/x.sock", "\"unix:/run/x.sock\""),
            ("10.0.0.1", "\"10.0.0.1:8080\""),
            ("::1", "\"[::1]:8080\""),
        ] {
            assert!(bind_help(text).contains(part), "{text}: {}", bind_help(text));
        }
        for (text, part) in [
            ("localhost:3000", "\"127.0.0.1:3000\""),
            ("app.internal:3000", "IP address"),
            ("http://10.0.0.1:3000/", "\"10.0.0.1:3000\""),
            ("http://10.0.0.1", "\"10.0.0.1:80\""),
            ("http://app:3000", "without `http://`"),
            ("https://10.0.0.1:3000", "no TLS"),
            ("10.0.0.1", "\"10.0.0.1:3000\""),
            ("2001:db8::1", "\"[2001:db8::1]:3000\""),
            ("3000", "\"127.0.0.1:3000\""),
        ] {
            let (message, help) = backend_advice(text);
            assert!(help.contains(part), "{text}: {message} {help}");
        }
    }
}
