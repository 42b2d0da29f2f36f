//! A fault or a warning about the configuration: what is wrong, where, and what to write instead.
//!
//! Everything that looks at the file pushes [`Diagnostic`]s into one [`Faults`]; nothing here decides what a fault is. A
//! [`Report`] renders them with the source lines and carets. Rendering never fails: places outside of a text are moved
//! into it.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str};

use super::words::counted;

/// How many are drawn; a file with more faults is not mended in one go, and drawing each takes time.
const MOST_DRAWN: usize = 200;

/// From how many bytes in all they are drawn, but for the last: a line can be a whole file, and is looked at for each.
const MOST_LOOKED_AT: usize = 1024 * 1024;

/// How many errors, and how many warnings, are kept; more are counted. A file of another language has one a line.
const MOST_KEPT: usize = 1000;

/// One file of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// How it is called in reports: its path as given.
    pub name: String,
    /// What stands in it.
    pub text: String,
    /// The directory it stands in: what its relative paths are relative to.
    pub folder: PathBuf,
}

/// A stretch of one file's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The index of the file in [`Report::sources`].
    pub file: usize,
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

impl Place {
    /// The bytes `span` of the file with this index.
    #[must_use]
    pub fn new(file: usize, span: Range<usize>) -> Place {
        Place { file, start: span.start, end: span.end }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration can not be used.
    Error,
    /// It can, but it hardly does what its writer wanted.
    Warning,
}

/// A place and what is to be said about it (may be nothing).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub place: Place,
    /// What stands beside the caret.
    pub text: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// The first is where it is wrong, the others belong to the story. Empty when there is no place (a missing file).
    pub labels: Vec<Label>,
    /// What to write instead.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Something that makes the configuration unusable.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Error, message: message.into(), labels: Vec::new(), help: None }
    }

    /// Something that is probably not meant.
    #[must_use]
    pub fn warning(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(message) }
    }

    /// Adds a place, with nothing said beside it.
    #[must_use]
    pub fn at(self, place: Place) -> Diagnostic {
        self.label(place, "")
    }

    /// Adds a place and what is said beside it.
    #[must_use]
    pub fn label(mut self, place: Place, text: impl Into<String>) -> Diagnostic {
        self.labels.push(Label { place, text: text.into() });
        self
    }

    /// Says what to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}

/// Where the faults of one reading are collected.
#[derive(Debug, Default)]
pub struct Faults {
    list: Vec<Diagnostic>,
    found: Found,
    is_torn: bool,
    is_part_lost: bool,
}

impl Faults {
    /// Remembers it.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.push_with(diagnostic.severity, || diagnostic);
    }

    /// Remembers what `say` says, and asks for it only if so much is not known already.
    pub fn push_with(&mut self, severity: Severity, say: impl FnOnce() -> Diagnostic) {
        let found = self.found.of(severity);
        *found += 1;
        if *found <= MOST_KEPT {
            self.list.push(say());
        }
    }

    /// Remembers that a table lacks a key, unless a part of the text could not be read: it may stand in that part.
    pub fn push_absence(&mut self, diagnostic: Diagnostic) {
        if !self.is_torn {
            self.push(diagnostic);
        }
    }

    /// Remembers that a name is nowhere defined, unless a part of the text or a whole file could not be read.
    pub fn push_undefined(&mut self, diagnostic: Diagnostic) {
        if !self.is_part_lost {
            self.push_absence(diagnostic);
        }
    }

    /// Says that a part of a file could not be read.
    pub fn tear(&mut self) {
        self.is_torn = true;
    }

    /// Says that a whole file could not be read.
    pub fn lose_file(&mut self) {
        self.is_part_lost = true;
    }

    /// Whether there is any error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.found.errors > 0
    }

    /// All of them, in the order of the files and within a file from top to bottom.
    #[must_use]
    pub fn into_report(mut self, sources: Vec<Source>, files: Vec<PathBuf>) -> Report {
        self.list.sort_by_key(|diagnostic| diagnostic.labels.first().map(|label| label.place));
        Report { sources, diagnostics: self.list, found: self.found, files }
    }
}

/// How many there are, kept or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    errors: usize,
    warnings: usize,
}

impl Found {
    fn of(&mut self, severity: Severity) -> &mut usize {
        match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        }
    }
}

/// All that is to be said about a configuration. Its `Display` is plain text; see [`Report::render`] for colours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The files, the main one first.
    pub sources: Vec<Source>,
    /// What was found, as far as it was kept.
    pub diagnostics: Vec<Diagnostic>,
    found: Found,
    /// Every file and directory whose change may mend it, for a watcher.
    pub files: Vec<PathBuf>,
}

/// Whether a report is drawn with terminal colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Plain text.
    Plain,
    /// With escape sequences.
    Ansi,
}

impl Report {
    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// How many there are of this severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        let mut found = self.found;
        *found.of(severity)
    }

    /// The file name, line and column (both from 1) where a place begins.
    #[must_use]
    pub fn position(&self, place: Place) -> Option<(&str, usize, usize)> {
        let source = self.sources.get(place.file)?;
        let before = &source.text[..floor(&source.text, place.start)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Some((&source.name, line_number(&source.text, line_start), before[line_start..].chars().count() + 1))
    }

    /// The whole report as text, with a closing line that counts; empty when there is nothing to say.
    #[must_use]
    pub fn render(&self, colour: Colour) -> String {
        if self.is_empty() {
            return String::new();
        }
        let renderer = match colour {
            Colour::Plain => Renderer::plain(),
            Colour::Ansi => Renderer::styled(),
        };
        let (mut text, mut drawn, mut looked_at) = (String::new(), 0, 0);
        for diagnostic in self.diagnostics.iter().take(MOST_DRAWN) {
            text.push_str(&renderer.render(&[self.group(diagnostic)]));
            text.push_str("\n\n");
            drawn += 1;
            looked_at += self.drawn_from(diagnostic);
            if looked_at > MOST_LOOKED_AT {
                break;
            }
        }
        if drawn < self.found.errors + self.found.warnings {
            text.push_str(&format!("shown: {drawn}; "));
        }
        text.push_str(&self.closing_line());
        text
    }

    fn group<'a>(&'a self, diagnostic: &'a Diagnostic) -> Group<'a> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group =
            level.primary_title(normalize_untrusted_str(&diagnostic.message)).elements(self.snippets(diagnostic));
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
        }
        group
    }

    /// One snippet a file, in the order in which the labels name them.
    fn snippets<'a>(&'a self, diagnostic: &'a Diagnostic) -> Vec<Snippet<'a, annotate_snippets::Annotation<'a>>> {
        let mut files: Vec<usize> = Vec::new();
        for label in &diagnostic.labels {
            if !files.contains(&label.place.file) {
                files.push(label.place.file);
            }
        }
        files.into_iter().filter_map(|file| self.snippet(diagnostic, file)).collect()
    }

    /// How many bytes of the sources have to be looked at to draw it.
    fn drawn_from(&self, diagnostic: &Diagnostic) -> usize {
        let lines = diagnostic.labels.iter().filter_map(|label| {
            let source = self.sources.get(label.place.file)?;
            Some(lines_around(&source.text, span_within(&source.text, label.place)).len())
        });
        lines.sum()
    }

    fn snippet<'a>(
        &'a self,
        diagnostic: &'a Diagnostic,
        file: usize,
    ) -> Option<Snippet<'a, annotate_snippets::Annotation<'a>>> {
        let source = self.sources.get(file)?;
        let labels = diagnostic.labels.iter().enumerate().filter(|(_, label)| label.place.file == file);
        // Drawing takes as long as the text that is given is: no more than the lines that are shown.
        let spans = labels.clone().map(|(_, label)| span_within(&source.text, label.place));
        let (first, last) =
            spans.fold((usize::MAX, 0), |(first, last), span| (first.min(span.start), last.max(span.end)));
        let lines = lines_around(&source.text, first.min(last)..last);
        let annotations = labels.map(|(index, label)| {
            let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let span = span_within(&source.text, label.place);
            let annotation = kind.span(span.start - lines.start..span.end - lines.start);
            if label.text.is_empty() { annotation } else { annotation.label(normalize_untrusted_str(&label.text)) }
        });
        let line_number = line_number(&source.text, lines.start);
        let snippet = Snippet::source(&source.text[lines.clone()]).line_start(line_number);
        Some(snippet.path(normalize_untrusted_str(&source.name)).annotations(annotations))
    }

    fn closing_line(&self) -> String {
        let counts = [(Severity::Error, "error"), (Severity::Warning, "warning")];
        let counts = counts.map(|(severity, word)| (self.count(severity), word));
        let counts: Vec<String> =
            counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, word)| counted(count, word)).collect();
        let name =
            self.sources.first().map_or("the configuration".into(), |source| normalize_untrusted_str(&source.name));
        format!("{} in {name}", counts.join(", "))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Colour::Plain))
    }
}

/// The place as a span that lies within the text, on character boundaries and on one line.
fn span_within(text: &str, place: Place) -> Range<usize> {
    let start = floor(text, place.start);
    let line_end = text[start..].find(['\n', '\r']).map_or(text.len(), |length| start + length);
    let end = floor(text, place.end).clamp(start, line_end);
    start..end
}

/// The whole lines that hold this span.
fn lines_around(text: &str, span: Range<usize>) -> Range<usize> {
    let start = text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[span.end..].find('\n').map_or(text.len(), |length| span.end + length + 1);
    start..end
}

/// The number, from 1, of the line in which the byte at `index` stands.
fn line_number(text: &str, index: usize) -> usize {
    memchr::memchr_iter(b'\n', &text.as_bytes()[..index]).count() + 1
}

/// The nearest character boundary at or before `index`.
fn floor(text: &str, index: usize) -> usize {
    text.floor_char_boundary(index.min(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(diagnostic: Diagnostic) -> Report {
        let source = |name: &str, text: &str| Source { name: name.into(), text: text.into(), folder: PathBuf::new() };
        let mut faults = Faults::default();
        faults.push(diagnostic);
        faults.into_report(vec![source("app.toml", "a = 1\nb = 2\n"), source("more.toml", "b = 3")], Vec::new())
    }

    #[test]
    fn a_fault_shows_file_line_column_caret_and_help() {
        let text = report(Diagnostic::error("no").label(Place::new(0, 10..11), "this one").help("write 3")).to_string();
        for part in ["error: no", "app.toml:2:5", "2 | b = 2", "^ this one", "= help: write 3", "1 error in app.toml"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn both_files_of_a_story_are_shown() {
        let text = report(Diagnostic::error("twice").at(Place::new(1, 0..1)).label(Place::new(0, 6..7), "first here"));
        let text = text.to_string();
        assert!(
            text.contains("more.toml:1:1") && text.contains("app.toml:2:1") && text.contains("first here"),
            "{text}"
        );
    }

    #[test]
    fn beyond_so_many_faults_the_rest_is_only_counted() {
        let mut faults = Faults::default();
        (0..MOST_KEPT + 1).for_each(|_| faults.push(Diagnostic::warning("odd")));
        faults.push(Diagnostic::error("wrong"));
        assert!(faults.has_errors(), "warnings take no error's place");
        for _ in 0..MOST_KEPT {
            faults.push(Diagnostic::error("wrong"));
        }
        faults.push_with(Severity::Error, || unreachable!("nobody would see it"));
        let report = faults.into_report(Vec::new(), Vec::new());
        assert_eq!(report.diagnostics.len(), 2 * MOST_KEPT);
        assert_eq!((report.count(Severity::Error), report.count(Severity::Warning)), (MOST_KEPT + 2, MOST_KEPT + 1));
        assert!(report.to_string().ends_with("shown: 200; 1002 errors, 1001 warnings in the configuration"));
    }

    #[test]
    fn of_faults_in_one_huge_line_few_are_drawn() {
        let text = "x".repeat(MOST_LOOKED_AT / 2);
        let mut faults = Faults::default();
        (0..100).for_each(|at| faults.push(Diagnostic::error("wrong").at(Place::new(0, at..at + 1))));
        let report = faults.into_report(vec![Source { name: "a".into(), text, folder: PathBuf::new() }], Vec::new());
        assert!(report.to_string().ends_with("shown: 3; 100 errors in a"));
    }

    #[test]
    fn a_place_beyond_the_text_is_drawn_at_its_end() {
        for span in [900..1000, 11..900, 12..12, 5..12] {
            assert!(report(Diagnostic::warning("odd").at(Place::new(0, span))).to_string().contains("1 warning"));
        }
    }
}
