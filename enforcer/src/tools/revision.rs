//! Policy as a git commit has it, without a checkout: the repository of the current directory
//! is asked by the `git` program.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    process::{Command, Stdio},
};

use thiserror::Error;

use crate::{
    git::listing::{self, ListingError},
    policy::{self, PolicyErrors, model::ResolvedPolicy},
};

/// A path in a commit, as in `main:policies` or `HEAD~1:policies/db.yaml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Any name that git has for a commit.
    pub commit: String,
    /// Path from the top of the repository (or from the current directory, with `./`); empty
    /// for everything.
    pub path: String,
}

/// Why policy cannot be read from a commit.
#[derive(Debug, Error)]
pub enum RevisionError {
    /// The program did not start.
    #[error("cannot run `git`: is it installed?")]
    Start(#[source] io::Error),
    /// The program was not content.
    #[error("git says: {0}")]
    Git(String),
    /// An answer that does not come to its end.
    #[error("cannot read what git answers")]
    Read(#[source] io::Error),
    /// Something that cannot be read as policy.
    #[error(transparent)]
    Listing(#[from] ListingError),
    /// Not text.
    #[error("{0} is not UTF-8")]
    NotUtf8(String),
    /// The policy has errors.
    #[error("the policy has errors")]
    Policy(PolicyErrors),
}

impl Revision {
    /// Reads `COMMIT:PATH`; `None` if there is no colon.
    pub fn parse(text: &str) -> Option<Self> {
        let (commit, path) = text.split_once(':')?;
        (!commit.is_empty()).then(|| Self {
            commit: commit.to_owned(),
            path: path.to_owned(),
        })
    }

    /// Reads the policy there, of the repository that a directory is in.
    pub fn load(&self, directory: &Path) -> Result<ResolvedPolicy, RevisionError> {
        let commit = git(
            directory,
            &[
                "rev-parse",
                "--verify",
                "--end-of-options",
                &format!("{}^{{commit}}", self.commit),
            ],
        )?;
        let commit = String::from_utf8_lossy(&commit).trim().to_owned();
        let root = self.path.trim_end_matches('/');
        let object = format!("{commit}:{root}");
        let kind = git(directory, &["cat-file", "-t", "--end-of-options", &object])?;
        let named = if kind.trim_ascii() == b"blob" {
            vec![(root.to_owned(), object)]
        } else {
            let prefix = if root.is_empty() {
                String::new()
            } else {
                format!("{root}/")
            };
            let listed = ["ls-tree", "-r", "-z", "-l", "--full-tree", &object];
            let entries = listing::policy_files(&git(directory, &listed)?)?;
            let entries = entries.into_iter();
            entries
                .map(|entry| (format!("{prefix}{}", entry.path), entry.object))
                .collect()
        };
        let texts = contents(directory, named.iter().map(|(_, object)| object.as_str()))?;
        let mut files = Vec::new();
        for ((name, _), bytes) in named.into_iter().zip(texts) {
            match String::from_utf8(bytes) {
                Ok(text) => files.push((name, text)),
                Err(_) => return Err(RevisionError::NotUtf8(name)),
            }
        }
        let shown = format!("{}:{}", self.commit, self.path);
        policy::load_files(&shown, files, Some(&commit)).map_err(RevisionError::Policy)
    }
}

/// Runs git to its end.
fn git(directory: &Path, arguments: &[&str]) -> Result<Vec<u8>, RevisionError> {
    let output = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(RevisionError::Start)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(RevisionError::Git(
        said.trim().trim_start_matches("fatal: ").to_owned(),
    ))
}

/// The contents of objects, in their order.
fn contents<'a>(
    directory: &Path,
    objects: impl Iterator<Item = &'a str>,
) -> Result<Vec<Vec<u8>>, RevisionError> {
    let mut child = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(["cat-file", "--batch"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(RevisionError::Start)?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(RevisionError::Start(io::ErrorKind::BrokenPipe.into()));
    };
    let mut answers = BufReader::new(stdout);
    let mut texts = Vec::new();
    let mut one = |object: &str| -> io::Result<Vec<u8>> {
        writeln!(stdin, "{object}")?;
        stdin.flush()?;
        let mut header = String::new();
        answers.read_line(&mut header)?;
        // OBJECT SP TYPE SP SIZE LF CONTENT LF
        let size = header
            .trim()
            .rsplit(' ')
            .next()
            .and_then(|size| size.parse::<usize>().ok());
        let size = size.ok_or_else(|| io::Error::other(header.trim().to_owned()))?;
        let mut text = vec![0; size + 1];
        answers.read_exact(&mut text)?;
        text.truncate(size);
        Ok(text)
    };
    for object in objects {
        texts.push(one(object).map_err(RevisionError::Read)?);
    }
    drop(stdin);
    child.wait().map_err(RevisionError::Read)?;
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::model::Mode;

    #[test]
    fn a_commit_and_a_path() {
        let parsed = Revision::parse("main~1:policies/prod").unwrap();
        assert_eq!(
            (&*parsed.commit, &*parsed.path),
            ("main~1", "policies/prod")
        );
        assert_eq!(Revision::parse("HEAD:").unwrap().path, "");
        assert_eq!(Revision::parse("policies"), None);
        assert_eq!(Revision::parse(":policies"), None);
    }

    #[test]
    fn policy_is_read_from_a_commit_that_is_not_checked_out() {
        let root = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"];
            let arguments = [&identity[..], arguments].concat();
            String::from_utf8(super::git(root.path(), &arguments).unwrap()).unwrap()
        };
        git(&["init", "--quiet"]);
        let write = |mode: &str| {
            let text = format!(
                "apiVersion: enforcer.dev/v1alpha1\nkind: Node\nmetadata: {{name: n}}\n\
                 spec: {{mode: {mode}}}\n"
            );
            std::fs::create_dir_all(root.path().join("policies/sub")).unwrap();
            std::fs::write(root.path().join("policies/sub/node.yaml"), text).unwrap();
            git(&["add", "."]);
            git(&["commit", "--quiet", "--message", mode]);
        };
        write("audit");
        write("enforce");
        write("nonsense");
        let load = |text: &str| Revision::parse(text).unwrap().load(root.path());
        let mode = |text: &str| load(text).unwrap().node.mode;
        assert_eq!(mode("HEAD~1:policies"), Some(Mode::Enforce));
        assert_eq!(mode("HEAD~2:policies/sub/node.yaml"), Some(Mode::Audit));
        assert_eq!(mode("HEAD~2:"), Some(Mode::Audit));
        let policy = load("HEAD~1:policies").unwrap();
        let origin = policy.node.origin.unwrap();
        assert_eq!(&*origin.file, "policies/sub/node.yaml");
        assert_eq!(
            &*policy.commit.unwrap(),
            git(&["rev-parse", "HEAD~1"]).trim()
        );
        assert!(matches!(
            load("HEAD:policies"),
            Err(RevisionError::Policy(_))
        ));
        assert!(matches!(load("HEAD:nowhere"), Err(RevisionError::Git(_))));
        assert!(matches!(
            load("nowhere:policies"),
            Err(RevisionError::Git(_))
        ));
    }
}
