//! Notices that the files of a configuration may have changed.
//!
//! Directories are watched, never files: editors write a new file and rename it over the old one, Kubernetes swaps a
//! symlink beside the file, and a watch on the file itself would stay with what was replaced. Which directories those
//! are, and which of their entries are of interest, is decided by [`directories`] alone; when a burst of events is over, by
//! [`Burst`] alone. What is watched says only "look again": whether anything is different is for the one who loads.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::clock::{self, Instant};

/// How long it must be quiet before a burst is over: longer than an editor takes from its first write to its rename.
const QUIET: Duration = Duration::from_millis(200);

/// How long a burst may last: a directory that never rests must not keep a change from being seen.
const LONGEST: Duration = Duration::from_secs(2);

/// As many symlinks as Linux follows before it gives up (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// What stands at a path, as far as following it needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A symlink with this target.
    Link(PathBuf),
    /// A directory.
    Directory,
    /// A file of any other kind.
    File,
    /// Nothing, or nothing we may look at.
    Missing,
}

/// What of a directory is of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Every entry: a new one may be wanted.
    All,
    /// The entries of these names. Others may change as often as they like, a log for example.
    Named(BTreeSet<OsString>),
}

/// The directories in which a change may mean that one of `paths` changed, and what of them is of interest.
///
/// These are, for each path, the directory it stands in, itself if it is one (a new file in it may be wanted), and every
/// directory in which a symlink on the way to it stands. In place of a directory that is missing comes the nearest one
/// above it that is there, so that its coming is seen. The paths are absolute; `look` says what stands at a path without
/// following its last component.
pub fn directories(paths: &[PathBuf], look: impl Fn(&Path) -> Entry) -> BTreeMap<PathBuf, Interest> {
    let mut watched = BTreeMap::new();
    for path in paths {
        walk(path, &look, &mut watched);
    }
    watched
}

fn walk(path: &Path, look: &impl Fn(&Path) -> Entry, watched: &mut BTreeMap<PathBuf, Interest>) {
    let mut links = 0;
    let mut place = PathBuf::from("/");
    let mut ahead = components(path);
    while let Some(next) = ahead.pop() {
        if next == ".." {
            place.pop();
            continue;
        }
        let here = place.join(&next);
        match look(&here) {
            Entry::Link(target) if links < MOST_LINKS => {
                links += 1;
                name(watched, place.clone(), next);
                if target.is_absolute() {
                    place = PathBuf::from("/");
                }
                ahead.extend(components(&target));
            }
            Entry::Directory => {
                if ahead.is_empty() {
                    name(watched, place, next);
                }
                place = here;
            }
            Entry::File | Entry::Missing | Entry::Link(_) => return name(watched, place, next),
        }
    }
    watched.insert(place, Interest::All);
}

/// Adds the entry `named` of `directory` to what is of interest.
fn name(watched: &mut BTreeMap<PathBuf, Interest>, directory: PathBuf, named: OsString) {
    match watched.entry(directory).or_insert_with(|| Interest::Named(BTreeSet::new())) {
        Interest::All => {}
        Interest::Named(names) => _ = names.insert(named),
    }
}

/// What is left to walk, the next component last.
fn components(path: &Path) -> Vec<OsString> {
    let named = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    named.rev().map(|part| part.as_os_str().to_owned()).collect()
}

/// A burst of events that belong together: one save of a file is several of them.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    first: Instant,
    last: Instant,
}

impl Burst {
    /// One that begins with an event at `now`.
    #[must_use]
    pub fn begin(now: Instant) -> Burst {
        Burst { first: now, last: now }
    }

    /// The same with one more event at `now`.
    #[must_use]
    pub fn and(self, now: Instant) -> Burst {
        Burst { last: now, ..self }
    }

    /// When it is over unless something more happens.
    #[must_use]
    pub fn over(self) -> Instant {
        (self.last + QUIET).min(self.first + LONGEST)
    }
}

/// Which directory a watch is on: a path can come to mean another one.
type Identity = (u64, u64);

/// Follows a set of files. Dropping it ends the watching.
pub struct Watch {
    watcher: RecommendedWatcher,
    events: mpsc::Receiver<()>,
    /// Shared with the watcher's thread, which asks it about every event.
    interest: Arc<Mutex<BTreeMap<PathBuf, Interest>>>,
    watched: BTreeMap<PathBuf, Identity>,
    burst: Option<Burst>,
}

impl Watch {
    /// A watch on nothing yet.
    ///
    /// # Errors
    /// When the system has no more watchers to give (`fs.inotify.max_user_instances`).
    pub fn new() -> notify::Result<Watch> {
        // One place is enough: an event that finds it taken says nothing that the waiting one does not.
        let (sender, events) = mpsc::channel(1);
        let interest = Arc::new(Mutex::new(BTreeMap::new()));
        let asked = Arc::clone(&interest);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, |event| matters(event, &locked(&asked))) {
                let _ = sender.try_send(());
            }
        })?;
        Ok(Watch { watcher, events, interest, watched: BTreeMap::new(), burst: None })
    }

    /// Watches for changes of `paths` from here on, and no longer for those of others.
    ///
    /// A directory that was not watched before may have changed between the reading of its files and this call, so it
    /// counts as changed once.
    ///
    /// # Errors
    /// The directories that can not be watched, with the reason; the others are.
    pub fn follow(&mut self, paths: &[PathBuf]) -> Result<(), Vec<notify::Error>> {
        let paths: Vec<PathBuf> = paths.iter().filter_map(|path| std::path::absolute(path).ok()).collect();
        let interest = directories(&paths, look);
        let wanted: BTreeMap<PathBuf, Identity> =
            interest.keys().filter_map(|at| identity(at).map(|id| (at.clone(), id))).collect();
        *locked(&self.interest) = interest;
        let watcher = &mut self.watcher;
        self.watched.retain(|directory, id| {
            let keep = wanted.get(directory) == Some(id);
            if !keep {
                // An error says that the directory is gone, and its watch with it.
                let _ = watcher.unwatch(directory);
            }
            keep
        });
        let mut faults = Vec::new();
        for (directory, id) in wanted {
            match self.watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    if self.watched.insert(directory, id).is_none() {
                        self.burst.get_or_insert(Burst::begin(clock::now()));
                    }
                }
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// Resolves when something has changed and it has been quiet since. Cancelling loses nothing: the burst stays here.
    pub async fn changed(&mut self) {
        loop {
            let Some(burst) = self.burst else {
                self.next_event().await;
                self.burst = Some(Burst::begin(clock::now()));
                continue;
            };
            let over = clock::timer(burst.over());
            if tokio::time::timeout_at(over, self.next_event()).await.is_err() {
                self.burst = None;
                return;
            }
            self.burst = Some(burst.and(clock::now()));
        }
    }

    async fn next_event(&mut self) {
        if self.events.recv().await.is_none() {
            // The watcher's thread is gone; SIGHUP still works.
            std::future::pending::<()>().await;
        }
    }
}

/// Nobody panics while holding it, and what it holds is whole at any time.
fn locked(interest: &Mutex<BTreeMap<PathBuf, Interest>>) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, Interest>> {
    interest.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an event can mean a change. Opening and reading do not: our own loading would wake us for ever. An overflow
/// of the queue arrives as an event without a path and matters like any other.
fn matters(event: &Event, interest: &BTreeMap<PathBuf, Interest>) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return false,
        _ => {}
    }
    event.paths.is_empty() || event.paths.iter().any(|path| is_of_interest(path, interest))
}

/// Whether `path` is a watched directory itself, or an entry of one that is of interest.
fn is_of_interest(path: &Path, interest: &BTreeMap<PathBuf, Interest>) -> bool {
    let entry = path.parent().and_then(|directory| interest.get(directory)).zip(path.file_name());
    interest.contains_key(path)
        || entry.is_some_and(|(interest, entry)| match interest {
            Interest::All => true,
            Interest::Named(names) => names.contains(entry),
        })
}

fn look(path: &Path) -> Entry {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => fs::read_link(path).map_or(Entry::Missing, Entry::Link),
        Ok(metadata) if metadata.is_dir() => Entry::Directory,
        Ok(_) => Entry::File,
        Err(_) => Entry::Missing,
    }
}

fn identity(directory: &Path) -> Option<Identity> {
    fs::metadata(directory).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const ALL: &[&str] = &[];

    /// Directories with the names that are of interest in them.
    fn of_interest(directories: &[(&str, &[&str])]) -> BTreeMap<PathBuf, Interest> {
        let interest = |names: &[&str]| match names {
            [] => Interest::All,
            names => Interest::Named(names.iter().map(OsString::from).collect()),
        };
        directories.iter().map(|&(directory, names)| (directory.into(), interest(names))).collect()
    }

    /// A file system of files and links; what is above them is a directory, and nothing else is there.
    fn tree<'a>(files: &'a [&'a str], links: &'a [(&'a str, &'a str)]) -> impl Fn(&Path) -> Entry + 'a {
        move |path| {
            if let Some((_, target)) = links.iter().find(|(link, _)| Path::new(link) == path) {
                return Entry::Link(PathBuf::from(target));
            }
            let mut all = files.iter().chain(links.iter().map(|(link, _)| link)).map(Path::new);
            match all.find(|at| at.starts_with(path)) {
                Some(at) if at == path => Entry::File,
                Some(_) => Entry::Directory,
                None => Entry::Missing,
            }
        }
    }

    #[test]
    fn a_plain_file_is_watched_by_its_directory() {
        let look = tree(&["/etc/evenkeel/evenkeel.toml"], &[]);
        assert_eq!(
            directories(&[PathBuf::from("/etc/evenkeel/evenkeel.toml")], look),
            of_interest(&[("/etc/evenkeel", &["evenkeel.toml"])])
        );
    }

    #[test]
    fn a_directory_is_watched_inside_and_out() {
        let look = tree(&["/etc/ek/conf.d/a.toml"], &[]);
        let watched = directories(&[PathBuf::from("/etc/ek/conf.d"), PathBuf::from("/etc/ek/conf.d/a.toml")], look);
        assert_eq!(watched, of_interest(&[("/etc/ek", &["conf.d"]), ("/etc/ek/conf.d", ALL)]));
    }

    #[test]
    fn every_link_on_the_way_is_watched_where_it_stands() {
        let plain = ["/etc/ek/..2026/ek.toml"];
        let links = [("/etc/ek/ek.toml", "..data/ek.toml"), ("/etc/ek/..data", "..2026")];
        let watched = directories(&[PathBuf::from("/etc/ek/ek.toml")], tree(&plain, &links));
        assert_eq!(watched, of_interest(&[("/etc/ek", &["ek.toml", "..data"]), ("/etc/ek/..2026", &["ek.toml"])]));
    }

    #[test]
    fn an_absolute_link_and_a_linked_directory_are_followed() {
        let plain = ["/srv/live/ek.toml"];
        let links = [("/etc/ek", "/srv/current"), ("/srv/current", "live")];
        let watched = directories(&[PathBuf::from("/etc/ek/ek.toml")], tree(&plain, &links));
        assert_eq!(watched, of_interest(&[("/etc", &["ek"]), ("/srv", &["current"]), ("/srv/live", &["ek.toml"])]));
    }

    #[test]
    fn a_missing_directory_is_watched_from_above() {
        let look = tree(&["/etc/passwd"], &[]);
        assert_eq!(directories(&[PathBuf::from("/etc/ek/conf.d/a.toml")], look), of_interest(&[("/etc", &["ek"])]));
    }

    #[test]
    fn links_in_a_circle_end() {
        let links = [("/a", "/b"), ("/b", "/a")];
        assert_eq!(directories(&[PathBuf::from("/a")], tree(&[], &links)), of_interest(&[("/", &["a", "b"])]));
    }

    #[test]
    fn a_burst_is_over_when_it_is_quiet_and_never_lasts_for_ever() {
        let t0 = Instant::ORIGIN + Duration::from_secs(1);
        let mut burst = Burst::begin(t0);
        assert_eq!(burst.over(), t0 + QUIET);
        burst = burst.and(t0 + Duration::from_millis(150));
        assert_eq!(burst.over(), t0 + Duration::from_millis(350));
        burst = burst.and(t0 + Duration::from_millis(1_950));
        assert_eq!(burst.over(), t0 + LONGEST);
    }

    /// Waits for the change that adding directories announces, so that what follows is the test's own.
    async fn settled(file: &Path) -> Watch {
        let mut watch = Watch::new().unwrap();
        watch.follow(&[file.to_owned()]).unwrap();
        seen(&mut watch).await;
        watch
    }

    async fn seen(watch: &mut Watch) {
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.expect("the change is seen");
    }

    async fn unseen(watch: &mut Watch) {
        assert!(tokio::time::timeout(3 * QUIET, watch.changed()).await.is_err(), "nothing changed");
    }

    #[tokio::test]
    async fn editing_in_place_and_renaming_over_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ek.toml");
        fs::write(&file, "a").unwrap();
        let mut watch = settled(&file).await;
        fs::write(&file, "b").unwrap();
        seen(&mut watch).await;
        fs::write(dir.path().join("ek.toml.new"), "c").unwrap();
        fs::rename(dir.path().join("ek.toml.new"), &file).unwrap();
        seen(&mut watch).await;
    }

    #[tokio::test]
    async fn reading_the_files_is_not_seen() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ek.toml");
        fs::write(&file, "a").unwrap();
        let mut watch = settled(&file).await;
        fs::read(&file).unwrap();
        let _ = fs::read_dir(dir.path()).unwrap().count();
        watch.follow(&[file]).unwrap();
        unseen(&mut watch).await;
    }

    #[tokio::test]
    async fn other_files_beside_it_are_not_seen() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ek.toml");
        fs::write(&file, "a").unwrap();
        let mut watch = settled(&file).await;
        fs::write(dir.path().join("access.log"), "a line").unwrap();
        fs::remove_file(dir.path().join("access.log")).unwrap();
        unseen(&mut watch).await;
        fs::write(&file, "b").unwrap();
        seen(&mut watch).await;
    }

    #[tokio::test]
    async fn a_swapped_symlink_is_seen_and_its_new_target_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("ek.toml"), version).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/ek.toml", at("ek.toml")).unwrap();
        let mut watch = settled(&at("ek.toml")).await;

        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        seen(&mut watch).await;
        watch.follow(&[at("ek.toml")]).unwrap();
        seen(&mut watch).await;

        fs::write(at("..1/ek.toml"), "nobody reads this any more").unwrap();
        unseen(&mut watch).await;
        fs::write(at("..2/ek.toml"), "changed").unwrap();
        seen(&mut watch).await;
    }

    #[tokio::test]
    async fn a_new_include_is_followed_from_the_next_load_on() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ek.toml");
        fs::write(&file, "a").unwrap();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        let include = dir.path().join("conf.d/app.toml");
        let mut watch = settled(&file).await;
        fs::write(&include, "x").unwrap();
        unseen(&mut watch).await;
        watch.follow(&[file, include.clone()]).unwrap();
        seen(&mut watch).await;
        fs::write(&include, "y").unwrap();
        seen(&mut watch).await;
    }

    #[tokio::test]
    async fn a_directory_that_is_taken_away_and_comes_back_is_followed_again() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("ek");
        let file = home.join("ek.toml");
        fs::create_dir(&home).unwrap();
        fs::write(&file, "a").unwrap();
        let mut watch = settled(&file).await;
        fs::remove_dir_all(&home).unwrap();
        seen(&mut watch).await;
        watch.follow(std::slice::from_ref(&file)).unwrap();
        seen(&mut watch).await;
        fs::create_dir(&home).unwrap();
        seen(&mut watch).await;
        watch.follow(std::slice::from_ref(&file)).unwrap();
        seen(&mut watch).await;
        fs::write(&file, "b").unwrap();
        seen(&mut watch).await;
    }
}
