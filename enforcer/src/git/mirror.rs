//! The bare mirror of a repository, and the `git` program that keeps and reads it.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::{
    confinement::limit_files,
    listing::{self, ListingError},
    program::{self, Bounds, FetchCause, Finished, RunError},
    remote::{Scheme, is_object_id},
    settings::GitSettings,
};
use crate::state::atomic_file;

/// The oldest git that has all that is used here (`GIT_CONFIG_GLOBAL`).
const OLDEST_GIT: (u32, u32) = (2, 32);
/// What was fetched last.
const TIP: &str = "refs/enforcer/tip";
/// What is in force: it must not be collected as garbage.
const IN_FORCE: &str = "refs/enforcer/in-force";
/// What reading the mirror may take.
const LOCAL: Bounds = Bounds {
    time: Duration::from_mins(1),
    output: 64 << 20,
};
/// Largest commit, in bytes.
const COMMIT_BYTES: usize = 1 << 20;
/// Largest tree, in bytes, and most files of it, as for directories.
const TREE_BYTES: u64 = 256 << 20;
const TREE_FILES: usize = 100_000;
/// Packs above which the mirror is packed anew.
const MOST_PACKS: usize = 50;
/// Between two looks at how large the mirror becomes.
const SIZE_INTERVAL: Duration = Duration::from_millis(200);
/// What git says of a process of its own that wrote a larger file than it may (SIGXFSZ).
const DIED_OF_SIZE: &str = "died of signal 25";
/// What packing anew may take.
const PACKING: Duration = Duration::from_mins(10);

/// Why there is nothing new from the remote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FetchError {
    /// What kind.
    pub cause: FetchCause,
    /// What happened and what to do.
    pub message: String,
}

impl FetchError {
    pub(super) fn new(cause: FetchCause, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { cause, message }
    }

    pub(super) fn io(action: &str, path: &Path, error: &io::Error) -> Self {
        let message = format!("cannot {action} {}: {error}", path.display());
        Self::new(FetchCause::Other, message)
    }
}

impl From<RunError> for FetchError {
    fn from(error: RunError) -> Self {
        let cause = match &error {
            RunError::Start { .. } => FetchCause::Program,
            RunError::Timeout { .. } => FetchCause::Timeout,
            RunError::Output { .. } => FetchCause::TooLarge,
            RunError::Talk { .. } => FetchCause::Other,
        };
        Self::new(cause, crate::cause::chain(&error))
    }
}

/// Why the files of a commit are no policy tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// It is not there.
    #[error("there is no `{0}` in it")]
    Missing(String),
    /// It is too large.
    #[error("its policy is larger than {} MiB or {TREE_FILES} files: name a directory in the repository", TREE_BYTES >> 20)]
    TooLarge,
    /// It has something that cannot be read as policy.
    #[error(transparent)]
    Listing(#[from] ListingError),
    /// Git failed.
    #[error(transparent)]
    Git(#[from] FetchError),
}

/// A mirror in the state directory.
#[derive(Debug)]
pub struct Mirror {
    settings: Arc<GitSettings>,
    /// Directory of all that is git's.
    root: PathBuf,
    /// The bare repository.
    repository: PathBuf,
}

impl Mirror {
    /// Of the repository in the settings; everything is kept below `root`.
    pub fn new(root: &Path, settings: Arc<GitSettings>) -> Self {
        let digest = Sha256::digest(&settings.remote.url);
        let name = digest[..8].iter().fold("mirror-".to_owned(), |name, byte| {
            format!("{name}{byte:02x}")
        });
        Self {
            settings,
            root: root.to_owned(),
            repository: root.join(name),
        }
    }

    /// Makes sure of git, of the mirror, and of the configuration.
    pub async fn prepare(&self) -> Result<(), FetchError> {
        for directory in [&self.root, &self.home()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|e| FetchError::io("create", directory, &e))?;
        }
        let path = self.root.join("config");
        let config = self.configuration()?;
        atomic_file::replace(&path, config.as_bytes())
            .map_err(|e| FetchError::io("write", &path, &e))?;
        self.demand_version().await?;
        // Of another repository that was followed before.
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let is_mirror = entry.file_name().as_encoded_bytes().starts_with(b"mirror-");
            if is_mirror && entry.path() != self.repository {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        if !self.repository.join("HEAD").exists() {
            self.begin("sha1").await?;
        }
        Ok(())
    }

    /// An empty mirror, in place of what there is.
    async fn begin(&self, object_format: &str) -> Result<(), FetchError> {
        match fs::remove_dir_all(&self.repository) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FetchError::io("remove", &self.repository, &error));
            }
            _ => {}
        }
        let mut init = self.git_anywhere();
        init.args(["init", "--quiet", "--bare", "--template="]);
        init.arg(format!("--object-format={object_format}"));
        init.arg("--").arg(&self.repository);
        self.succeed(init, Vec::new(), LOCAL).await?;
        Ok(())
    }

    async fn demand_version(&self) -> Result<(), FetchError> {
        let mut version = self.git_anywhere();
        version.arg("--version");
        let said = self.succeed(version, Vec::new(), LOCAL).await?.stdout;
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        if parse_version(&said).is_some_and(|found| found >= OLDEST_GIT) {
            return Ok(());
        }
        let (major, minor) = OLDEST_GIT;
        Err(FetchError::new(
            FetchCause::Program,
            format!("`{said}` is too old: install git {major}.{minor} or later"),
        ))
    }

    /// Fetches what is followed, and says which commit that is.
    pub async fn fetch(&self) -> Result<String, FetchError> {
        self.prepare().await?;
        self.clean_up();
        let mut fetched = self.fetch_once().await?;
        // A mirror has the object format of its repository, which only the remote can tell.
        if let Some(format) = object_format_of_remote(&fetched.stderr) {
            self.begin(format).await?;
            fetched = self.fetch_once().await?;
        }
        if !fetched.status.success() {
            return Err(self.failed(&fetched));
        }
        self.resolve(TIP).await
    }

    async fn fetch_once(&self) -> Result<Finished, FetchError> {
        let remote = &self.settings.remote;
        let mut fetch = self.git();
        fetch
            .args([
                "fetch",
                "--quiet",
                "--force",
                "--no-tags",
                "--no-recurse-submodules",
            ])
            .args(["--no-write-fetch-head", "--no-auto-maintenance", "--"])
            .arg(&remote.url)
            .arg(format!("+{}:{TIP}", remote.reference.wanted()));
        // What comes faster than one looks.
        limit_files(&mut fetch, self.settings.max_bytes);
        let bounds = Bounds {
            time: self.settings.timeout,
            output: 1 << 20,
        };
        let fetched = tokio::select! {
            fetched = program::run(fetch, Vec::new(), bounds) => Some(fetched?),
            () = self.grows_too_large() => None,
        };
        if let Some(fetched) = fetched
            && !fetched.stderr.contains(DIED_OF_SIZE)
            && !self.is_too_large().await
        {
            return Ok(fetched);
        }
        self.shrink().await;
        Err(FetchError::new(
            FetchCause::TooLarge,
            format!(
                "the repository takes more than {} MiB: raise --git-max-size if that is meant",
                self.settings.max_bytes >> 20
            ),
        ))
    }

    fn failed(&self, finished: &Finished) -> FetchError {
        let cause = program::classify(&finished.stderr);
        let mut message = format!("git says: {}", program::short_complaint(&finished.stderr));
        if finished.stderr.contains("Host key verification failed") {
            message.push_str(
                ": put the host's key into the file of --git-known-hosts (`ssh-keyscan HOST`, \
                 and compare its fingerprint)",
            );
        } else if cause == FetchCause::Denied && self.settings.remote.scheme == Scheme::Ssh {
            message.push_str(": is the key of --git-ssh-key a deploy key of the repository?");
        }
        FetchError::new(cause, message)
    }

    async fn resolve(&self, name: &str) -> Result<String, FetchError> {
        let mut parse = self.git();
        parse.args(["rev-parse", "--verify", "--end-of-options"]);
        parse.arg(format!("{name}^{{commit}}"));
        let answer = self.succeed(parse, Vec::new(), LOCAL).await?;
        let id = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        if is_object_id(&id) {
            Ok(id)
        } else {
            let message = format!("git's answer is no commit: {id:?}");
            Err(FetchError::new(FetchCause::Other, message))
        }
    }

    /// Whether a commit is there.
    pub async fn has(&self, id: &str) -> Result<bool, FetchError> {
        let mut cat = self.git();
        cat.args(["cat-file", "-e", &format!("{id}^{{commit}}")]);
        Ok(program::run(cat, Vec::new(), LOCAL).await?.status.success())
    }

    /// Whether `older` is `newer` or was before it. Both must be there.
    pub async fn is_ancestor(&self, older: &str, newer: &str) -> Result<bool, FetchError> {
        let mut base = self.git();
        base.args(["merge-base", "--is-ancestor", older, newer]);
        let finished = program::run(base, Vec::new(), LOCAL).await?;
        match finished.status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(self.failed(&finished)),
        }
    }

    /// The commits that `tip` has and `base` has not, oldest first; at most `most` and one more.
    pub async fn between(
        &self,
        base: &str,
        tip: &str,
        most: usize,
    ) -> Result<Vec<String>, FetchError> {
        let mut list = self.git();
        list.args(["rev-list", "--topo-order"])
            .arg(format!("--max-count={}", most + 1))
            .args([tip, &format!("^{base}"), "--"]);
        let answer = self.succeed(list, Vec::new(), LOCAL).await?.stdout;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let ids = answer.lines().filter(|id| is_object_id(id));
        let mut ids: Vec<_> = ids.map(str::to_owned).collect();
        ids.reverse();
        Ok(ids)
    }

    /// A commit as it is stored.
    pub async fn commit(&self, id: &str) -> Result<Vec<u8>, FetchError> {
        let mut cat = self.git();
        cat.args(["cat-file", "commit", id]);
        let bounds = Bounds {
            output: COMMIT_BYTES,
            ..LOCAL
        };
        Ok(self.succeed(cat, Vec::new(), bounds).await?.stdout)
    }

    /// The policy files of a commit, by their path below the one that is followed.
    pub async fn files(&self, id: &str) -> Result<Vec<(String, String)>, TreeError> {
        let path = &self.settings.remote.path;
        let object = format!("{id}:{path}");
        let mut cat = self.git();
        cat.args(["cat-file", "-t", &object]);
        let kind = program::run(cat, Vec::new(), LOCAL).await;
        let kind = kind.map_err(FetchError::from)?;
        if !kind.status.success() {
            return Err(TreeError::Missing(path.clone()));
        }
        let mut list = self.git();
        list.args(["ls-tree", "-r", "-z", "-l", "--full-tree"]);
        let is_file = kind.stdout.trim_ascii() == b"blob";
        if is_file {
            // The entry itself, with its mode: it may be a link.
            list.args([id, "--", path]);
        } else {
            list.arg(&object);
        }
        let listed = self.succeed(list, Vec::new(), LOCAL).await?;
        let mut entries = listing::policy_files(&listed.stdout)?;
        if is_file {
            for entry in &mut entries {
                let name = entry.path.rsplit('/').next().unwrap_or(&entry.path);
                entry.path = name.to_owned();
            }
        }
        let bytes: u64 = entries.iter().map(|entry| entry.size).sum();
        if entries.len() > TREE_FILES || bytes > TREE_BYTES {
            return Err(TreeError::TooLarge);
        }
        let mut asked = String::new();
        for entry in &entries {
            asked.push_str(&entry.object);
            asked.push('\n');
        }
        let mut batch = self.git();
        batch.args(["cat-file", "--batch"]);
        let bounds = Bounds {
            // Each with its head of less than a hundred bytes.
            output: usize::try_from(bytes).unwrap_or(usize::MAX) + entries.len() * 100,
            ..LOCAL
        };
        let answer = self.succeed(batch, asked.into_bytes(), bounds).await?;
        let texts = listing::contents(&answer.stdout, &entries)?;
        let paths = entries.into_iter().map(|entry| entry.path);
        Ok(paths.zip(texts).collect())
    }

    /// Remembers what is in force, and packs the mirror anew now and then.
    pub async fn keep(&self, id: &str) -> Result<(), FetchError> {
        let mut update = self.git();
        update.args(["update-ref", IN_FORCE, id]);
        self.succeed(update, Vec::new(), LOCAL).await?;
        let packs = fs::read_dir(self.repository.join("objects/pack"));
        if packs.map_or(0, |packs| packs.count() / 2) > MOST_PACKS {
            self.pack().await?;
        }
        Ok(())
    }

    async fn pack(&self) -> Result<(), FetchError> {
        let mut gc = self.git();
        gc.args(["gc", "--quiet", "--prune=now"]);
        let bounds = Bounds {
            time: PACKING,
            output: 1 << 20,
        };
        self.succeed(gc, Vec::new(), bounds).await.map(drop)
    }

    /// Gives back what a remote sent that is too large. What is in force stays.
    async fn shrink(&self) {
        self.clean_up();
        let mut delete = self.git();
        delete.args(["update-ref", "-d", TIP]);
        let deleted = self.succeed(delete, Vec::new(), LOCAL).await;
        if let Err(error) = deleted.and(self.pack().await) {
            tracing::warn!(%error, "cannot make the mirror of the policy repository smaller");
        }
    }

    /// Removes what fetches that were ended left behind.
    fn clean_up(&self) {
        let _ = fs::remove_file(self.repository.join(format!("{TIP}.lock")));
        let _ = fs::remove_file(self.repository.join("shallow.lock"));
        for directory in ["objects/pack", "objects"] {
            let entries = fs::read_dir(self.repository.join(directory));
            for entry in entries.into_iter().flatten().flatten() {
                let name = entry.file_name();
                if name.as_encoded_bytes().starts_with(b"tmp_") {
                    let _ = fs::remove_file(entry.path());
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
    }

    async fn grows_too_large(&self) {
        loop {
            tokio::time::sleep(SIZE_INTERVAL).await;
            if self.is_too_large().await {
                return;
            }
        }
    }

    async fn is_too_large(&self) -> bool {
        let objects = self.repository.join("objects");
        let size = tokio::task::spawn_blocking(move || size_of(&objects)).await;
        size.is_ok_and(|size| size > self.settings.max_bytes)
    }

    fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// Git, on the mirror.
    fn git(&self) -> tokio::process::Command {
        let mut git = self.git_anywhere();
        git.arg("--git-dir").arg(&self.repository);
        git
    }

    fn git_anywhere(&self) -> tokio::process::Command {
        let mut git = program::command("git", &self.home());
        git.env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", self.root.join("config"))
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_ALLOW_PROTOCOL", self.settings.remote.scheme.protocol())
            .env("GIT_SSH_COMMAND", self.ssh_command())
            .env("GIT_SSH_VARIANT", "ssh")
            .args(["--no-pager", "--literal-pathspecs"]);
        git
    }

    /// The whole configuration of git: nobody else's is read.
    fn configuration(&self) -> Result<String, FetchError> {
        let mut text = "\
            # Written by the enforcer at every fetch; changes are lost.\n\
            [core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n\
            \tbigFileThreshold = 16m\n\tdeltaBaseCacheLimit = 32m\n\
            [pack]\n\twindowMemory = 64m\n\tthreads = 1\n\
            [gc]\n\tauto = 0\n\
            [maintenance]\n\tauto = false\n\
            [fetch]\n\tfsckObjects = true\n\trecurseSubmodules = false\n\
            [transfer]\n\tfsckObjects = true\n\tbundleURI = false\n\
            [protocol]\n\tversion = 2\n\
            [credential]\n\tinteractive = false\n"
            .to_owned();
        if let Some(path) = &self.settings.credentials {
            let value = quoted(&format!("store --file={}", shell_word(path)?));
            let _ = writeln!(text, "\thelper = {value}");
        }
        if let Some(path) = &self.settings.ca {
            let value = quoted(&path.display().to_string());
            let _ = writeln!(text, "[http]\n\tsslCAInfo = {value}");
        }
        if self.settings.remote.scheme == Scheme::File {
            // It may belong to the user who keeps it.
            let path = self.settings.remote.url.trim_start_matches("file://");
            let value = quoted(path);
            let _ = writeln!(text, "[safe]\n\tdirectory = {value}");
        }
        Ok(text)
    }

    /// For a shell, as git runs it.
    fn ssh_command(&self) -> String {
        let mut command = "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes \
            -o UpdateHostKeys=no -o IdentityAgent=none -o IdentitiesOnly=yes -o ForwardAgent=no \
            -o ConnectTimeout=15 -o ServerAliveInterval=15 -o PermitLocalCommand=no"
            .to_owned();
        let option = |name: &str, path: &Path| match shell_word(path) {
            // Refused before, when the configuration was written.
            Err(_) => String::new(),
            Ok(word) => format!(" -o {name}={word}"),
        };
        let nowhere = Path::new("/dev/null");
        let known = self.settings.known_hosts.as_deref();
        command.push_str(&option("UserKnownHostsFile", known.unwrap_or(nowhere)));
        let key = self.settings.ssh_key.as_deref();
        command.push_str(&option("IdentityFile", key.unwrap_or(Path::new("none"))));
        command
    }

    /// Runs git; it must succeed.
    async fn succeed(
        &self,
        command: tokio::process::Command,
        input: Vec<u8>,
        bounds: Bounds,
    ) -> Result<Finished, FetchError> {
        let finished = program::run(command, input, bounds).await?;
        if finished.status.success() {
            Ok(finished)
        } else {
            Err(self.failed(&finished))
        }
    }
}

/// A path that means the same to a shell, to ssh's configuration and to git's: without what any
/// of them would read as something else.
pub fn shell_word(path: &Path) -> Result<String, FetchError> {
    let text = path.to_str().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=@,:".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(FetchError::new(
        FetchCause::Program,
        format!(
            "the path {} cannot be given to ssh and git: use letters, digits and /._-+=@,: only",
            path.display()
        ),
    ))
}

/// A value of git's configuration.
fn quoted(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped.replace('\n', "\\n"))
}

/// The object format of a remote that refuses that of the mirror.
fn object_format_of_remote(complaint: &str) -> Option<&'static str> {
    let (_, formats) = complaint.split_once("mismatched algorithms:")?;
    let (_, server) = formats.split_once("server ")?;
    ["sha1", "sha256"]
        .into_iter()
        .find(|format| server.lines().next() == Some(*format))
}

/// Bytes of all files below a directory.
fn size_of(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// `git version 2.47.3`.
fn parse_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.strip_prefix("git version ")?.split('.');
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_git() {
        assert_eq!(parse_version("git version 2.47.3"), Some((2, 47)));
        assert_eq!(
            parse_version("git version 2.39.5 (Apple Git-154)"),
            Some((2, 39))
        );
        assert_eq!(parse_version("hub 1"), None);
        assert!(parse_version("git version 2.9.1").unwrap() < OLDEST_GIT);
    }

    #[test]
    fn paths_that_mean_something_else_are_refused() {
        assert_eq!(
            shell_word(Path::new("/etc/enforcer/id_ed25519")).unwrap(),
            "/etc/enforcer/id_ed25519"
        );
        for bad in [
            "", "-x", "/a b", "/a;b", "/%h", "/$x", "/a'b", "/a\"b", "/~", "/a\nb",
        ] {
            assert!(shell_word(Path::new(bad)).is_err(), "{bad}");
        }
        assert_eq!(quoted("a\"b\\c"), "\"a\\\"b\\\\c\"");
    }

    #[test]
    fn a_directory_is_as_large_as_its_files() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("d")).unwrap();
        fs::write(root.path().join("a"), [0; 10]).unwrap();
        fs::write(root.path().join("d/b"), [0; 32]).unwrap();
        assert_eq!(size_of(root.path()), 42);
    }
}
