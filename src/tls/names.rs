//! Which certificate a client gets, by the name it asks for.

use std::collections::HashMap;

/// Names of certificates, which are called by their place in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    exact: HashMap<String, Vec<usize>>,
    /// `*.example.com` as `example.com`.
    wildcard: HashMap<String, Vec<usize>>,
}

impl Names {
    /// Notes that the certificate at `place` has this name. Case does not matter; a `*` stands for one whole first label and
    /// nothing else (RFC 6125 §6.4.3).
    pub fn add(&mut self, name: &str, place: usize) {
        let name = canonical(name);
        let (map, name) = match name.strip_prefix("*.") {
            Some(parent) => (&mut self.wildcard, parent.to_owned()),
            None => (&mut self.exact, name),
        };
        let places = map.entry(name).or_default();
        if !places.contains(&place) {
            places.push(place);
        }
    }

    /// The certificates for who asks for `name`, best first: those that have it, else those that have the wildcard above it.
    /// Empty when there are none.
    #[must_use]
    pub fn find(&self, name: &str) -> &[usize] {
        let name = canonical(name);
        let exact = self.exact.get(&name);
        let found = exact.or_else(|| self.wildcard.get(name.split_once('.')?.1));
        found.map_or(&[], Vec::as_slice)
    }
}

impl Names {
    /// Every name as it is written in a certificate, in lower case, with the places of its certificates; in no order.
    pub fn all(&self) -> impl Iterator<Item = (String, &[usize])> {
        let exact = self.exact.iter().map(|(name, places)| (name.clone(), &places[..]));
        exact.chain(self.wildcard.iter().map(|(name, places)| (format!("*.{name}"), &places[..])))
    }
}

/// Lower case, without the dot of the root.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[(&str, usize)]) -> Names {
        let mut names = Names::default();
        all.iter().for_each(|(name, place)| names.add(name, *place));
        names
    }

    #[test]
    fn a_name_goes_before_the_wildcard_above_it() {
        let names = names(&[("*.example.com", 0), ("WWW.example.com", 1), ("example.com", 2)]);
        for (asked, found) in
            [("www.example.com", 1), ("www.EXAMPLE.com.", 1), ("api.example.com", 0), ("example.com", 2)]
        {
            assert_eq!(names.find(asked), [found], "{asked}");
        }
    }

    #[test]
    fn a_star_is_one_label() {
        let names = names(&[("*.example.com", 0)]);
        for nobody in ["a.b.example.com", "example.com", "example.org", "", ".", "com", "*"] {
            assert!(names.find(nobody).is_empty(), "{nobody}");
        }
    }

    #[test]
    fn all_of_them_are_told_as_they_are_written() {
        let names = names(&[("*.Example.com", 0), ("example.com", 1), ("example.com", 0)]);
        let mut all: Vec<_> = names.all().collect();
        all.sort();
        assert_eq!(all, [("*.example.com".to_owned(), &[0][..]), ("example.com".to_owned(), &[1, 0])]);
        assert_eq!(names.find("*.example.com"), [0], "a wildcard is asked for as it is written");
    }

    #[test]
    fn several_of_one_name_stand_in_the_order_of_the_list() {
        let names = names(&[("a.b", 2), ("a.b", 0), ("a.b", 2)]);
        assert_eq!(names.find("a.b"), [2, 0]);
    }
}
