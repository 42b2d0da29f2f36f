//! Clients that nobody here wrote, against the real binary on loopback, with certificates made for the test.
//!
//! Each is looked for when its test runs; one that is not installed is skipped, and that is said on stderr. With
//! `EVENKEEL_INTEROP=all` it is a failure, which is how `.ci/run` runs them. `EVENKEEL_INTEROP_PYTHON` names a Python that
//! has what `requirements.txt` lists, such as that of a virtual environment.

#[allow(dead_code, unused_imports, reason = "the end-to-end tests use the rest of it")]
#[path = "../support/mod.rs"]
mod support;

mod chromium;
mod curl;
mod edge;
mod guest;
mod nghttp2;
mod openssl;
mod python;
mod testssl;
