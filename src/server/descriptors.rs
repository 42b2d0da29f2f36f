//! Raises the limit of open files: every connection is one, and a session to a backend two.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, and says where it stands then. The soft one is 1024 on most systems for the sake of
/// `select(2)`, which nothing here calls. When it can not be raised, the program runs with what it has.
pub(super) fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            Ok(()) => tracing::debug!(from = current, to = maximum, "raised the limit of open files"),
            Err(error) => tracing::debug!(current, maximum, %error, "cannot raise the limit of open files"),
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The most health probes that are useful at once: that many that hang for a second still let 10,000 backends be asked in
/// ten.
const MOST_PROBES: u64 = 1024;

/// How many health probes may be under way at once. They take their descriptors from the traffic's, so a small part of them.
pub(super) fn probes() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from((files / 16).clamp(1, MOST_PROBES)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let raised = raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(limit.current.unwrap_or(u64::MAX), raised);
    }
}
