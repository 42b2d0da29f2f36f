//! openssl s_client: what is agreed on in the handshake.

use crate::edge::Edge;
use crate::guest::{Guest, Said, guest};
use crate::support::sides::Speaks;

/// Shakes hands and asks for a page; it ends when we close.
#[track_caller]
fn connect(openssl: &Guest, edge: &Edge, arguments: &[&str]) -> Said {
    let (address, authority) = (edge.daemon.address("tls"), edge.file("ca.pem"));
    let usual = ["s_client", "-connect", &address, "-CAfile", &authority, "-ign_eof"];
    openssl.run(&[&usual, arguments].concat(), b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
}

#[test]
fn versions_from_1_2_on_are_spoken_and_older_ones_refused() {
    let Some(openssl) = guest("openssl") else { return };
    let edge = Edge::before(Speaks::H1);
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = connect(&openssl, &edge, &[version, "-servername", "a.example"]);
        assert!(said.out.contains("Verify return code: 0 (ok)"), "{said:?}");
        assert!(said.out.contains(&format!("New, {name}, Cipher is")), "{said:?}");
        assert!(said.out.contains("HTTP/1.1 200 ") && said.out.contains("hello"), "{said:?}");
    }
    for old in ["-tls1", "-tls1_1"] {
        // Without this level it would not even ask.
        let said = connect(&openssl, &edge, &[old, "-cipher", "DEFAULT@SECLEVEL=0"]);
        // Which of the two depends on what of newer versions it says.
        let alerts = ["alert protocol version", "alert handshake failure"];
        assert!(alerts.iter().any(|alert| said.err.contains(alert)), "{said:?}");
        assert!(said.code != Some(0) && !said.out.contains("HTTP/1.1"), "{said:?}");
    }
}

#[test]
fn the_key_exchange_is_one_that_both_have() {
    let Some(openssl) = guest("openssl") else { return };
    let edge = Edge::before(Speaks::H1);
    // Of which the first is taken; in TLS 1.2 the curve of the certificate, P-256, has to be among them.
    let groups = [("X25519:P-256", "X25519"), ("P-256", "prime256v1"), ("P-384:P-256", "secp384r1")];
    for (groups, name) in groups {
        for version in ["-tls1_2", "-tls1_3"] {
            let said = connect(&openssl, &edge, &[version, "-groups", groups]);
            let agreed = said.out.lines().find(|line| line.starts_with("Server Temp Key")).unwrap_or_default();
            assert!(said.out.contains("HTTP/1.1 200 ") && agreed.contains(name), "{groups} {version} {said:?}");
        }
    }
    // Known from OpenSSL 3.5 on.
    let said = connect(&openssl, &edge, &["-groups", "X25519MLKEM768:X25519"]);
    let knows = !said.err.contains("SSL_CONF_cmd");
    assert!(!knows || said.out.contains("Negotiated TLS1.3 group: X25519MLKEM768"), "{said:?}");
    let said = connect(&openssl, &edge, &["-tls1_3", "-groups", "P-521"]);
    assert!(said.err.contains("alert handshake failure"), "{said:?}");
}

#[test]
fn ciphers_without_forward_secrecy_or_authentication_are_refused() {
    let Some(openssl) = guest("openssl") else { return };
    let edge = Edge::before(Speaks::H1);
    for cipher in ["ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA", "AES256-GCM-SHA384", "ALL:!ECDHE"] {
        let said = connect(&openssl, &edge, &["-tls1_2", "-cipher", &format!("{cipher}:@SECLEVEL=0")]);
        assert!(said.err.contains("alert handshake failure"), "{cipher} {said:?}");
    }
    for cipher in ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"] {
        let said = connect(&openssl, &edge, &["-tls1_2", "-cipher", cipher]);
        assert!(said.out.contains(&format!("Cipher is {cipher}")), "{said:?}");
    }
}

#[test]
fn sessions_are_taken_up_again() {
    let Some(openssl) = guest("openssl") else { return };
    let edge = Edge::before(Speaks::H1);
    for version in ["-tls1_2", "-tls1_3"] {
        let file = edge.file(&format!("session{version}"));
        let first = connect(&openssl, &edge, &[version, "-servername", "a.example", "-sess_out", &file]);
        assert!(first.out.contains("New, TLS"), "{first:?}");
        let again = connect(&openssl, &edge, &[version, "-servername", "a.example", "-sess_in", &file]);
        assert!(again.out.contains("Reused, TLS") && again.out.contains("HTTP/1.1 200 "), "{again:?}");
    }
}

#[test]
fn the_certificate_and_the_protocol_are_those_that_were_asked_for() {
    let Some(openssl) = guest("openssl") else { return };
    let edge = Edge::before(Speaks::H1);
    for (name, subject) in [("a.example", "a.example"), ("b.example", "b.example"), ("c.example", "a.example")] {
        let said = connect(&openssl, &edge, &["-servername", name]);
        assert!(said.out.replace(" = ", "=").contains(&format!("subject=CN={subject}")), "{said:?}");
    }
    for (offered, agreed) in [("h2,http/1.1", "h2"), ("http/1.1,h2", "h2"), ("http/1.1", "http/1.1")] {
        // Ended by itself where the page is not asked for in HTTP/2.
        let said = connect(&openssl, &edge, &["-alpn", offered]);
        assert!(said.out.contains(&format!("ALPN protocol: {agreed}")), "{said:?}");
    }
    let said = connect(&openssl, &edge, &["-alpn", "spdy/3"]);
    assert!(said.err.contains("no application protocol"), "{said:?}");
}

#[test]
fn an_ocsp_response_is_stapled() {
    let Some(openssl) = guest("openssl") else { return };
    let edge = Edge::with(Speaks::H1, "", |authority, folder| {
        let stapled = authority.sign(&["stapled.example"]);
        stapled.write(folder, "stapled");
        authority.write_key(&folder.join("ca.key"));
        std::fs::write(folder.join("ca.pem"), &authority.pem).unwrap();
        // One line of an authority's list: valid, until when, serial number 1, its name.
        std::fs::write(folder.join("index.txt"), "V\t21000101000000Z\t\t01\tunknown\t/CN=stapled.example\n").unwrap();
    });
    let file = |name: &str| edge.file(name);
    openssl.succeed(&["ocsp", "-issuer", &file("ca.pem"), "-cert", &file("stapled.crt"), "-reqout", &file("request")]);
    let answering = ["ocsp", "-index", &file("index.txt"), "-CA", &file("ca.pem"), "-rsigner", &file("ca.pem")];
    let signing = ["-rkey", &file("ca.key"), "-reqin", &file("request"), "-respout", &file("own.ocsp"), "-ndays", "1"];
    openssl.succeed(&[&answering[..], &signing].concat());
    let text = std::fs::read_to_string(edge.daemon.file()).unwrap();
    let staple = "{ cert = \"stapled.crt\", key = \"stapled.key\", ocsp = \"own.ocsp\" }, { cert = \"own.crt\"";
    edge.daemon.reload(&text.replace("{ cert = \"own.crt\"", staple));
    for version in ["-tls1_2", "-tls1_3"] {
        let said = connect(&openssl, &edge, &[version, "-status", "-servername", "stapled.example"]);
        assert!(said.out.contains("OCSP Response Status: successful"), "{said:?}");
        assert!(said.out.contains("Cert Status: good"), "{said:?}");
        let other = connect(&openssl, &edge, &[version, "-status", "-servername", "b.example"]);
        assert!(other.out.contains("OCSP response: no response sent"), "{other:?}");
    }
}
