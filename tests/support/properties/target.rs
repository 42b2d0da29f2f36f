//! Targets: what is routed by and forwarded is in the one canonical form, and means what was asked for.

use evenkeel::http::Target;
use evenkeel::http::target::canonical_path;

/// The input as a path with a query, and as a host with a port.
pub fn target(input: &[u8]) -> bool {
    path(input) | authority(input)
}

fn path(input: &[u8]) -> bool {
    let mut target = Target::default();
    if target.set_path_and_query(input).is_err() {
        return false;
    }
    let (path, query) = (target.path().to_owned(), target.query().map(str::to_owned));
    assert_canonical(&path);
    let mut parts = input.splitn(2, |&byte| byte == b'?');
    let (raw_path, raw_query) = (parts.next().unwrap_or_default(), parts.next());
    assert_eq!(meaning(path.as_bytes()), meaning(raw_path), "{path} means something else");
    assert_eq!(query.as_deref().map(str::as_bytes), raw_query, "a query is left alone");
    assert_eq!(canonical_path(raw_path).as_deref(), Ok(&*path));
    let text = target.path_and_query().to_owned();
    target.set_path_and_query(text.as_bytes()).expect("what is canonical is accepted");
    assert_eq!((target.path(), target.query()), (&*path, query.as_deref()), "canonical is canonical");
    true
}

fn assert_canonical(path: &str) {
    assert!(path.starts_with('/') && !path.contains("//"), "{path}");
    assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{path}");
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && !b"#?\\".contains(&byte)), "{path}");
    for encoded in path.split('%').skip(1) {
        let digits = encoded.get(..2).expect("two digits follow");
        let byte = u8::from_str_radix(digits, 16).expect("they are hexadecimal");
        assert_eq!(digits, format!("{byte:02X}"), "{path}");
        assert!(byte != 0 && !byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte), "{path}");
    }
}

/// The names that lead to what a path means, and whether it means a directory: everything decoded, dots followed.
fn meaning(path: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut directory = true;
    for segment in path.split(|&byte| byte == b'/') {
        let name = decoded(segment);
        directory = matches!(&name[..], b"" | b"." | b"..");
        match &name[..] {
            b"" | b"." => {}
            b".." => drop(names.pop().expect("it does not lead above the root")),
            _ => names.push(name),
        }
    }
    (names, directory)
}

fn decoded(segment: &[u8]) -> Vec<u8> {
    let mut parts = segment.split(|&byte| byte == b'%');
    let mut name = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let digits = part.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).expect("two digits follow");
        name.push(u8::from_str_radix(digits, 16).expect("they are hexadecimal"));
        name.extend_from_slice(&part[2..]);
    }
    name
}

fn authority(input: &[u8]) -> bool {
    let mut target = Target::default();
    if target.set_authority(input).is_err() {
        return false;
    }
    let (host, authority) = (target.host().to_owned(), target.authority().to_owned());
    assert!(!host.is_empty() && !host.ends_with('.') && !host.contains(".."), "{host}");
    assert!(host.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()), "{host}");
    assert!(!host.contains(['/', '?', '#', '@', '\\', '%', ',', '"', '\'']), "{host}");
    match authority.strip_prefix(&*host).expect("the host comes first").strip_prefix(':') {
        Some(port) => assert_eq!(port.parse::<u16>().expect("a port").to_string(), port),
        None => assert_eq!(host, authority),
    }
    target.set_authority(authority.as_bytes()).expect("what is canonical is accepted");
    assert_eq!((target.host(), target.authority()), (&*host, &*authority), "canonical is canonical");
    true
}
