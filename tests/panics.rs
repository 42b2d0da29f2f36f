//! A panic is told in the log, in one line that can be trusted. It has a process of its own, because what becomes of panics
//! is the business of a whole process.

use evenkeel::cli::log::{self, Kept, Sink};

#[test]
fn a_panic_is_one_escaped_line_of_the_log() {
    let kept = Kept::default();
    log::start(Some("info"), &Sink::Kept(kept.clone())).expect("a level that is known");
    let says = format!("on purpose\r\nERROR forged\x1b[2J \u{202e}\"{}", "x".repeat(5000));
    let panicking = std::thread::Builder::new().name("worker-7".to_owned()).spawn(move || panic!("{says}"));
    assert!(panicking.expect("a thread").join().is_err());
    // From here on panics are the test's own.
    drop(std::panic::take_hook());
    let told: Vec<_> = kept.lines().into_iter().filter(|line| line.contains("on purpose")).collect();
    let [line] = &told[..] else { panic!("{told:?}") };
    assert!(
        line.contains("ERROR") && line.contains("thread=\"worker-7\"") && line.contains("tests/panics.rs:"),
        "{line}"
    );
    assert!(line.contains(r#"says="on purpose\r\nERROR forged\u{1b}[2J \u{202e}\"xxx"#), "{line}");
    assert!(line.len() < 600, "{} bytes", line.len());
}
