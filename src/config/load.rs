//! Reads the file and what it includes, and carries it through reading, conforming and checking.
//!
//! The only part of the room that touches files and the environment. What can not be read is a diagnostic like any other.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::Config;
use super::check::check;
use super::conform::{Environment, conform, expand};
use super::diagnostic::{Diagnostic, Faults, Place, Report, Source};
use super::keys;
use super::read::{Node, Table, merge, parse};

/// No configuration is as large as this; `/dev/zero` is.
const LARGEST_FILE: u64 = 16 << 20;
/// Nor is it in as many files as this.
const MOST_FILES: usize = 1000;

/// A configuration and how it was come by.
#[derive(Debug)]
pub struct Loaded {
    /// What is meant.
    pub config: Config,
    /// What is probably not meant, but can be used.
    pub warnings: Report,
    /// Every file that was read, the main one first, and the directories of include patterns: what a watcher watches.
    pub files: Vec<PathBuf>,
    /// Of the names and contents of all files: the same digest is the same configuration.
    pub digest: u64,
}

impl Loaded {
    /// What is to be said beside this, of what the configuration names.
    #[must_use]
    pub fn report(&self, diagnostics: Vec<Diagnostic>) -> Report {
        let mut faults = Faults::default();
        diagnostics.into_iter().for_each(|diagnostic| faults.push(diagnostic));
        faults.into_report(self.warnings.sources.clone(), self.files.clone())
    }
}

/// Reads the configuration in this file and in what it includes.
///
/// # Errors
/// Everything that is wrong with it, and the warnings with it. [`Report::files`] says what to watch for it to be mended.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    load_in(path, &|name| std::env::var(name).ok())
}

fn load_in(path: &Path, environment: Environment<'_>) -> Result<Loaded, Report> {
    let mut loading = Loading::default();
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    match read(path) {
        Ok(bytes) => {
            let table = loading.file(path, folder, bytes);
            loading.include(table, environment);
        }
        Err(fault) => {
            loading.nothing_at(path, folder);
            let help = match fault.kind() {
                io::ErrorKind::NotFound => {
                    "write it (`evenkeel --help` shows the shortest file that works), or name \
                                            another with `--config FILE`"
                }
                _ => "name a file that may be read with `--config FILE`",
            };
            let fault = Diagnostic::error(format!("can not read {}: {fault}", path.display()));
            loading.faults.push(fault.help(help));
        }
    }
    loading.finish(environment)
}

/// Checks a configuration that is not in a file. It has no files to include and no environment.
///
/// # Errors
/// Everything that is wrong with it, and the warnings with it.
pub fn from_text(name: &str, text: &str) -> Result<Loaded, Report> {
    let mut loading = Loading::default();
    let mut table = loading.file(Path::new(name), PathBuf::new(), text.as_bytes().to_vec());
    loading.refuse_includes(&mut table, "this configuration is not in a file, so it can not include others");
    loading.tables.push(table);
    loading.files.clear();
    loading.finish(&|_| None)
}

/// What has been read so far.
#[derive(Default)]
struct Loading {
    faults: Faults,
    sources: Vec<Source>,
    tables: Vec<Table>,
    files: Vec<PathBuf>,
    digest: Xxh3,
}

impl Loading {
    /// Takes in the contents of a file.
    fn file(&mut self, path: &Path, folder: PathBuf, bytes: Vec<u8>) -> Table {
        let name = path.display().to_string();
        self.digest.update(&(name.len() as u64).to_le_bytes());
        self.digest.update(name.as_bytes());
        self.digest.update(&(bytes.len() as u64).to_le_bytes());
        self.digest.update(&bytes);
        self.files.push(path.to_owned());
        let index = self.sources.len();
        let (text, wrong_at) = match String::from_utf8(bytes) {
            Ok(text) => (text, None),
            Err(fault) => {
                let at = fault.utf8_error().valid_up_to();
                (String::from_utf8_lossy(fault.as_bytes()).into_owned(), Some(at))
            }
        };
        self.sources.push(Source { name, text, folder });
        if let Some(at) = wrong_at {
            self.faults.lose_file();
            let fault =
                Diagnostic::error("this file is not UTF-8 text").label(Place::new(index, at..at + 1), "from here");
            self.faults.push(fault.help("save it as UTF-8"));
            return Table::default();
        }
        parse(index, &self.sources[index].text, &mut self.faults)
    }

    /// Notes the name of a file that is not there, so that reports can name it.
    fn nothing_at(&mut self, path: &Path, folder: PathBuf) {
        self.files.push(path.to_owned());
        self.sources.push(Source { name: path.display().to_string(), text: String::new(), folder });
        self.faults.lose_file();
    }

    /// Takes in the main file and all that it includes.
    fn include(&mut self, main: Table, environment: Environment<'_>) {
        let wanted: Vec<(String, Place)> = main
            .list("include")
            .unwrap_or_default()
            .iter()
            .filter_map(Node::as_text)
            .filter_map(|(text, place)| Some((expand(text, environment)?, place)))
            .collect();
        let folder = self.sources[0].folder.clone();
        self.tables.push(main);
        let mut seen: Vec<PathBuf> = self.files.iter().filter_map(|path| path.canonicalize().ok()).collect();
        for (pattern, place) in wanted {
            for path in self.matches(&folder, &pattern, place) {
                if self.sources.len() >= MOST_FILES {
                    self.faults.lose_file();
                    let fault = Diagnostic::error(format!("these are more than {MOST_FILES} files")).at(place);
                    self.faults.push(fault.help("put what belongs together into one file"));
                    return;
                }
                // A file that two patterns match is included once.
                if let Ok(real) = path.canonicalize() {
                    if seen.contains(&real) {
                        continue;
                    }
                    seen.push(real);
                }
                self.included(&path, place);
            }
        }
    }

    fn included(&mut self, path: &Path, place: Place) {
        match read_regular(path) {
            Ok(bytes) => {
                let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                let mut table = self.file(path, folder, bytes);
                self.refuse_includes(&mut table, "an included file can not include others");
                self.tables.push(table);
            }
            Err(fault) => {
                self.files.push(path.to_owned());
                self.faults.lose_file();
                let fault = Diagnostic::error(format!("can not read {}: {fault}", path.display())).at(place);
                self.faults.push(fault.help("a path is relative to the file it stands in; a pattern such as \"conf.d/*.toml\" may match nothing"));
            }
        }
    }

    fn refuse_includes(&mut self, table: &mut Table, why: &str) {
        let Some(index) = table.entries.iter().position(|entry| entry.key == "include") else { return };
        let entry = table.entries.remove(index);
        let fault = Diagnostic::error(why).at(entry.key_place);
        self.faults.push(fault.help("list all files in the `include` of the main file"));
    }

    /// The files that an include names, in order of their names.
    fn matches(&mut self, folder: &Path, pattern: &str, place: Place) -> Vec<PathBuf> {
        let path = folder.join(pattern);
        if !pattern.contains('*') {
            return vec![path];
        }
        let (Some(parent), Some(last)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Vec::new();
        };
        if parent.as_os_str().as_encoded_bytes().contains(&b'*') {
            let fault = Diagnostic::error("`*` can only stand in the last part of a path").at(place);
            self.faults.push(fault.help("name each directory: \"a/*.toml\", \"b/*.toml\""));
            return Vec::new();
        }
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        self.files.push(parent.to_owned());
        match list(parent, last) {
            Ok(paths) => paths,
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(fault) => {
                let fault = format!("can not list {}: {fault}", parent.display());
                self.faults.lose_file();
                let fault = Diagnostic::error(fault).at(place);
                self.faults.push(fault.help("the part before the last `/` names a directory that may be read"));
                Vec::new()
            }
        }
    }

    /// Merges, conforms and checks what was read.
    fn finish(mut self, environment: Environment<'_>) -> Result<Loaded, Report> {
        let mut tables = self.tables.into_iter();
        let mut root = tables.next().unwrap_or_default();
        for table in tables {
            merge(&mut root, table, &keys::FILE, &mut self.faults);
        }
        conform(&mut root, environment, &mut self.faults);
        let config = check(&root, &self.sources, &mut self.faults);
        let report = self.faults.into_report(self.sources, self.files.clone());
        match config {
            Some(config) => Ok(Loaded { config, warnings: report, files: self.files, digest: self.digest.digest() }),
            None => Err(report),
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 16 MiB"));
    }
    Ok(bytes)
}

/// The same of a file that an include names: waiting for the writer of a pipe would stop all reloads.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() {
        return Err(io::Error::other(if kind.is_dir() { "it is a directory" } else { "it is not a file" }));
    }
    read(path)
}

/// The entries of a directory whose names match, sorted; not its directories, but links that lead nowhere: what they
/// stood for would be lost without a word. Names that begin with a dot are left alone, as a shell would: editors keep
/// their copies under such names.
fn list(folder: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if fits(pattern, &name.to_string_lossy()) && !folder.join(&name).is_dir() {
            names.push(name);
        }
    }
    names.sort();
    let folder = if folder == Path::new(".") { Path::new("") } else { folder };
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Whether a name is what the pattern says, `*` standing for any characters.
fn fits(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let mut pieces = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let mut pieces = pieces.peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name) in
            [("*.toml", "a.toml"), ("*", "a"), ("a*c*e", "abcde"), ("a.toml", "a.toml"), ("*a", "aa")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("*.toml", "a.toml~"), ("*.toml", ".a.toml"), ("a*b", "ab_"), ("a", "ab"), ("ab*b", "ab"), ("*a*a", "a")]
        {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }
}
