//! testssl.sh: what it finds in a listener with default settings.

use std::time::Duration;

use serde_json::Value;

use crate::edge::Edge;
use crate::guest::guest;
use crate::support::sides::Speaks;

/// What it says of a certificate that is valid for longer than anybody's, by an authority that nobody can ask.
const OF_THE_CERTIFICATE: [&str; 2] = ["cert_validityPeriod", "cert_revocation"];

#[test]
fn testssl_finds_nothing_of_medium_severity() {
    // Debian has it without its suffix.
    let Some(testssl) = guest("testssl") else { return };
    // What browsers are told is the site's to say.
    let headers = "headers.response.set = { \"Strict-Transport-Security\" = \"max-age=31536000\", \
                   \"X-Content-Type-Options\" = \"nosniff\" }";
    let edge = Edge::with(Speaks::H1, headers, |_, _| {});
    let (found, authority, port) = (edge.file("found.json"), edge.file("ca.pem"), edge.port("tls"));
    let usual = ["--quiet", "--warnings", "off", "--color", "0", "--ip", "127.0.0.1", "--nodns", "min"];
    let said = testssl.run_within(
        Duration::from_secs(600),
        &[&usual[..], &["--add-ca", &authority, "--jsonfile", &found, &format!("a.example:{port}")]].concat(),
        b"",
    );
    let findings: Value = serde_json::from_str(&std::fs::read_to_string(&found).expect("it writes one")).unwrap();
    let findings = findings.as_array().expect("a list of findings");
    assert!(findings.len() > 100, "it has looked: {said:?}");
    let grave: Vec<_> = findings
        .iter()
        .filter(|finding| matches!(finding["severity"].as_str(), Some("MEDIUM" | "HIGH" | "CRITICAL" | "FATAL")))
        .filter(|finding| !OF_THE_CERTIFICATE.iter().any(|id| finding["id"] == *id))
        .collect();
    assert!(grave.is_empty(), "{grave:#?}");
}
