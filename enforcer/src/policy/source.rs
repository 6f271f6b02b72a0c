//! From a path to the files of a tree, read as one consistent state.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use sha2::{Digest, Sha256};

use super::{
    diagnostic::{Code, Collector, Position},
    kept::{Kept, KeptFile, Stamp},
};

/// Largest file, in bytes: a hundred thousand rules take about ten million.
const FILE_BYTES: u64 = 64 << 20;
/// Largest tree, in bytes.
const TREE_BYTES: u64 = 256 << 20;
/// Most files of a tree.
const TREE_FILES: usize = 100_000;
/// Deepest directory below the root.
const TREE_DEPTH: usize = 32;
/// How often a tree that changes while it is read is read again. A swapped symlink is stable at
/// the second attempt.
const ATTEMPTS: usize = 5;

/// A file of the tree.
#[derive(Debug)]
pub struct SourceFile {
    /// As in [`super::model::Origin::file`].
    pub name: Arc<str>,
    /// Contents, without a byte order mark.
    pub text: String,
    /// Offset of every line's first byte.
    lines: Vec<usize>,
}

impl SourceFile {
    /// A file with this name and text.
    pub fn new(name: &str, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0)
            .chain(starts.map(|(offset, _)| offset + 1))
            .collect();
        Self {
            name: name.into(),
            text,
            lines,
        }
    }

    /// A line by its number, without its end; empty where there is none.
    pub fn line(&self, number: u32) -> &str {
        let index = (number as usize).saturating_sub(1);
        let Some(&start) = self.lines.get(index) else {
            return "";
        };
        let end = self.lines.get(index + 1).copied();
        self.text[start..end.unwrap_or(self.text.len())].trim_end_matches(['\n', '\r'])
    }
}

/// The files of a tree.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// In the order of their names.
    pub(super) files: Vec<Arc<SourceFile>>,
    /// As [`super::model::ResolvedPolicy::digest`].
    pub(super) digest: String,
}

impl Tree {
    /// A tree of one file.
    pub(super) fn of_text(file: SourceFile) -> Self {
        Self {
            digest: hex(&Sha256::digest(&file.text)),
            files: vec![Arc::new(file)],
        }
    }

    /// A tree of these files, by name and text.
    pub(super) fn of_files(mut files: Vec<(String, String)>) -> Self {
        files.sort();
        let mut digest = Sha256::new();
        for (name, text) in &files {
            absorb(&mut digest, name, &Sha256::digest(text).into());
        }
        let files = files.into_iter();
        Self {
            digest: hex(&digest.finalize()),
            files: files
                .map(|(name, text)| Arc::new(SourceFile::new(&name, text)))
                .collect(),
        }
    }
}

/// A file that was found, before it is read.
struct Found {
    /// For messages.
    name: String,
    path: PathBuf,
    /// Where it really is: a swap of a symlink on the way shows as another place.
    real: Option<PathBuf>,
    /// As it was when it was found.
    stamp: Stamp,
}

/// Where paths really are. Directories are asked once.
#[derive(Default)]
struct Real(HashMap<PathBuf, Option<PathBuf>>);

impl Real {
    fn of(&mut self, path: &Path) -> Option<PathBuf> {
        let link = fs::symlink_metadata(path).ok()?.is_symlink();
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        match (parent, path.file_name()) {
            (Some(parent), Some(name)) if !link => {
                let parent = (self.0)
                    .entry(parent.to_owned())
                    .or_insert_with(|| fs::canonicalize(parent).ok());
                Some(parent.as_ref()?.join(name))
            }
            _ => fs::canonicalize(path).ok(),
        }
    }
}

/// Reads files and trees. `names` says how a file is called: below its root (one tree that a
/// daemon watches), or as the path was given (several, on a command line). What is `kept` is not
/// read again.
pub(super) fn read(
    paths: &[PathBuf],
    names: Names,
    kept: &mut Kept,
    errors: &mut Collector,
) -> Tree {
    for attempt in 1.. {
        let mut attempt_errors = Collector::default();
        let found = find(paths, names, &mut attempt_errors);
        let tree = load(&found, kept, SystemTime::now(), &mut attempt_errors);
        let mut real = Real::default();
        let moved = found.iter().any(|file| real.of(&file.path) != file.real);
        if !moved || attempt == ATTEMPTS {
            kept.only(tree.files.iter());
            errors.append(attempt_errors);
            return tree;
        }
    }
    unreachable!("the last attempt returns")
}

/// How files are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// By their path below the root.
    BelowRoot,
    /// By the path given, with the path below it.
    AsGiven,
}

fn find(paths: &[PathBuf], names: Names, errors: &mut Collector) -> Vec<Found> {
    let mut walk = Walk {
        seen: HashSet::new(),
        found: Vec::new(),
        real: Real::default(),
        errors,
    };
    for path in paths {
        let as_given = path.to_string_lossy().into_owned();
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                let prefix = match names {
                    Names::BelowRoot => String::new(),
                    Names::AsGiven => format!("{}/", as_given.trim_end_matches('/')),
                };
                // A root that is itself a symlink (git-sync) is resolved once, so that a swap
                // meanwhile does not mix two states.
                match fs::canonicalize(path) {
                    Ok(root) => walk.directory(&root, &prefix, 0),
                    Err(error) => walk.unreadable(&as_given, &error),
                }
            }
            Ok(metadata) => {
                let name = match (names, path.file_name()) {
                    (Names::BelowRoot, Some(name)) => name.to_string_lossy().into_owned(),
                    _ => as_given,
                };
                walk.file(path.clone(), name, &metadata);
            }
            Err(error) => walk.unreadable(&as_given, &error),
        }
    }
    let mut found = walk.found;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

struct Walk<'e> {
    /// Device and inode of what was met: a file that two links lead to counts once, and links
    /// that go round in a circle end.
    seen: HashSet<(u64, u64)>,
    found: Vec<Found>,
    real: Real,
    errors: &'e mut Collector,
}

impl Walk<'_> {
    fn unreadable(&mut self, name: &str, error: &io::Error) {
        self.errors.add(
            Code::Unreadable,
            &SourceFile::new(name, ""),
            Position::START,
            format!("cannot be read: {error}"),
            "check that the path is right and that the enforcer may read it",
        );
    }

    fn limit(&mut self, name: &str, message: String) {
        self.errors.add(
            Code::TreeLimit,
            &SourceFile::new(name, ""),
            Position::START,
            message,
            "check that the path is the policy tree, and split what is too large",
        );
    }

    fn directory(&mut self, path: &Path, prefix: &str, depth: usize) {
        let shown = match prefix {
            "" => path.to_string_lossy().into_owned(),
            prefix => prefix.to_owned(),
        };
        let shown = shown.as_str();
        let entries = fs::metadata(path).and_then(|metadata| {
            if self.seen.insert((metadata.dev(), metadata.ino())) {
                fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()
            } else {
                Ok(Vec::new())
            }
        });
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return self.unreadable(shown, &error),
        };
        if depth > TREE_DEPTH {
            return self.limit(shown, format!("more than {TREE_DEPTH} directories deep"));
        }
        // Links come last, so that a file that is reached twice is called by its own name.
        entries.sort_by_key(|entry| {
            let link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            (link, entry.file_name())
        });
        for entry in entries {
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                let lossy = format!("{prefix}{}", name.to_string_lossy());
                if is_yaml(&lossy) {
                    let error = io::Error::other("its name is not UTF-8");
                    self.unreadable(&lossy, &error);
                }
                continue;
            };
            // Hidden: .git, and the directories behind a ConfigMap's links.
            if name.starts_with('.') {
                continue;
            }
            let path = entry.path();
            let below = format!("{prefix}{name}");
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {
                    self.directory(&path, &format!("{below}/"), depth + 1);
                }
                Ok(metadata) if is_yaml(name) => self.file(path, below, &metadata),
                Err(error) if is_yaml(name) => self.unreadable(&below, &error),
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn file(&mut self, path: PathBuf, name: String, metadata: &fs::Metadata) {
        if !self.seen.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        if self.found.len() == TREE_FILES {
            return self.limit(&name, format!("more than {TREE_FILES} files"));
        }
        if self.found.len() < TREE_FILES {
            let real = self.real.of(&path);
            self.found.push(Found {
                name,
                path,
                real,
                stamp: Stamp::of(metadata),
            });
        }
    }
}

fn is_yaml(name: &str) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// Reads what was found, at the moment `now`.
fn load(found: &[Found], kept: &mut Kept, now: SystemTime, errors: &mut Collector) -> Tree {
    let mut tree = Tree::default();
    let mut digest = Sha256::new();
    let mut left = TREE_BYTES;
    for file in found {
        let fail = |errors: &mut Collector, code, message: String, help: &str| {
            let shown = SourceFile::new(&file.name, "");
            errors.add(code, &shown, Position::START, message, help);
        };
        if let Some(known) = kept
            .find(&file.name, file.stamp)
            .filter(|k| k.bytes <= left)
        {
            left -= known.bytes;
            absorb(&mut digest, &file.name, &known.digest);
            tree.files.push(known.file.clone());
            continue;
        }
        let (bytes, stamp) = match read_file(&file.path, left.min(FILE_BYTES)) {
            Ok(Some(read)) => read,
            Ok(None) => {
                let message = format!(
                    "larger than a file ({} MiB) or a tree ({} MiB) may be",
                    FILE_BYTES >> 20,
                    TREE_BYTES >> 20
                );
                fail(errors, Code::TreeLimit, message, "split it");
                continue;
            }
            Err(error) => {
                let message = format!("cannot be read: {error}");
                let help = "check its kind and that the enforcer may read it";
                fail(errors, Code::Unreadable, message, help);
                continue;
            }
        };
        let size = bytes.len() as u64;
        left -= size;
        let content = Sha256::digest(&bytes).into();
        absorb(&mut digest, &file.name, &content);
        match String::from_utf8(bytes) {
            Ok(text) => {
                let file = Arc::new(SourceFile::new(&file.name, text));
                tree.files.push(file.clone());
                let read = KeptFile {
                    file,
                    digest: content,
                    bytes: size,
                };
                kept.keep(stamp, read, now);
            }
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let before = String::from_utf8_lossy(&error.as_bytes()[..valid]);
                let last = before.rsplit('\n').next().unwrap_or_default();
                let small = |number| u32::try_from(number).unwrap_or(u32::MAX);
                let at = Position {
                    line: small(before.split('\n').count()),
                    column: small(last.chars().count() + 1),
                    width: 1,
                };
                let lossy = String::from_utf8_lossy(error.as_bytes());
                errors.add(
                    Code::NotUtf8,
                    &SourceFile::new(&file.name, lossy),
                    at,
                    "not UTF-8 from here on",
                    "save the file in UTF-8; only files of policy may end in .yaml or .yml",
                );
            }
        }
    }
    tree.digest = hex(&digest.finalize());
    tree
}

/// Adds a file to the digest of a tree. Lengths keep two trees apart whose names and contents
/// only join to the same bytes.
fn absorb(digest: &mut Sha256, name: &str, content: &[u8; 32]) {
    digest.update((name.len() as u64).to_le_bytes());
    digest.update(name.as_bytes());
    digest.update(content);
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The bytes, and the stamp from before they were read; nothing where there are more than
/// `limit`.
fn read_file(path: &Path, limit: u64) -> io::Result<Option<(Vec<u8>, Stamp)>> {
    // Without O_NONBLOCK, opening a named pipe would wait for its writer.
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then(|| (bytes, Stamp::of(&metadata))))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let mut errors = Collector::default();
        let tree = read(
            &[path.to_owned()],
            Names::BelowRoot,
            &mut Kept::default(),
            &mut errors,
        );
        assert!(errors.is_empty(), "{errors:?}");
        tree.files
            .iter()
            .map(|file| file.name.to_string())
            .collect()
    }

    #[test]
    fn hidden_entries_and_other_files_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(".git/x")).unwrap();
        fs::write(root.path().join(".git/x/a.yaml"), "a").unwrap();
        fs::write(root.path().join(".hidden.yaml"), "a").unwrap();
        fs::write(root.path().join("README.md"), "a").unwrap();
        fs::create_dir(root.path().join("sub")).unwrap();
        fs::write(root.path().join("sub/b.yml"), "a").unwrap();
        fs::write(root.path().join("a.yaml"), "a").unwrap();
        assert_eq!(names(root.path()), ["a.yaml", "sub/b.yml"]);
    }

    #[test]
    fn a_config_map_mount_is_read_through_its_links() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("..2026_11_21")).unwrap();
        fs::write(root.path().join("..2026_11_21/shop.yaml"), "a").unwrap();
        symlink("..2026_11_21", root.path().join("..data")).unwrap();
        symlink("..data/shop.yaml", root.path().join("shop.yaml")).unwrap();
        assert_eq!(names(root.path()), ["shop.yaml"]);
    }

    #[test]
    fn links_in_a_circle_end_and_what_two_lead_to_counts_once() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("v1")).unwrap();
        fs::write(root.path().join("v1/a.yaml"), "a").unwrap();
        symlink("v1", root.path().join("current")).unwrap();
        symlink("..", root.path().join("v1/up")).unwrap();
        symlink("v1/a.yaml", root.path().join("again.yaml")).unwrap();
        assert_eq!(names(root.path()), ["v1/a.yaml"]);
        let linked = tempfile::tempdir().unwrap();
        symlink(root.path(), linked.path().join("tree")).unwrap();
        assert_eq!(names(&linked.path().join("tree")), ["v1/a.yaml"]);
    }

    #[test]
    fn a_dangling_link_a_pipe_and_a_missing_path_are_errors() {
        let root = tempfile::tempdir().unwrap();
        symlink("nowhere", root.path().join("a.yaml")).unwrap();
        nix::unistd::mkfifo(&root.path().join("b.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut errors = Collector::default();
        let paths = [root.path().to_owned(), root.path().join("missing")];
        read(&paths, Names::BelowRoot, &mut Kept::default(), &mut errors);
        let errors = errors.finish().unwrap();
        assert_eq!(errors.count(), 3, "{errors:?}");
        assert!(
            errors
                .errors()
                .iter()
                .all(|error| error.code == Code::Unreadable)
        );
    }

    #[test]
    fn the_digest_depends_on_names_and_contents() {
        let digest = |files: &[(&str, &str)]| {
            let root = tempfile::tempdir().unwrap();
            for (name, text) in files {
                fs::write(root.path().join(name), text).unwrap();
            }
            let mut errors = Collector::default();
            read(
                &[root.path().to_owned()],
                Names::BelowRoot,
                &mut Kept::default(),
                &mut errors,
            )
            .digest
        };
        let first = digest(&[("a.yaml", "x"), ("b.yaml", "y")]);
        assert_eq!(first.len(), 64);
        assert_eq!(first, digest(&[("b.yaml", "y"), ("a.yaml", "x")]));
        assert_ne!(first, digest(&[("a.yaml", "x"), ("b.yaml", "z")]));
        assert_ne!(first, digest(&[("a.yaml", "x"), ("c.yaml", "y")]));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_found_by_line_and_column() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.yaml"), b"a: b\nc: \xc3\xa9\xff\n").unwrap();
        let mut errors = Collector::default();
        read(
            &[root.path().to_owned()],
            Names::BelowRoot,
            &mut Kept::default(),
            &mut errors,
        );
        let errors = errors.finish().unwrap();
        let error = &errors.errors()[0];
        assert_eq!(
            (error.code, error.line, error.column),
            (Code::NotUtf8, 2, 5)
        );
    }
}
