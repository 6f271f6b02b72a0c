//! What is remembered of the remote across restarts.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{remote::Remote, signature::Signer};
use crate::state::atomic_file;

/// A commit that was accepted: it follows the one before it, is signed as it was demanded then,
/// and its tree can be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedCommit {
    /// Its id.
    pub id: String,
    /// The branch or tag by which it came.
    pub reference: String,
    /// Name and address of its author, by its own account.
    pub author: String,
    /// When it was committed, by its own account: RFC 3339, UTC.
    pub time: String,
    /// When it was accepted: RFC 3339, UTC.
    pub accepted: String,
    /// Who signed it; `None` where no signature was demanded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
}

/// Content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Repository, by its URL.
    pub url: String,
    /// What is followed there.
    pub reference: String,
    /// Where policy is in it.
    pub path: String,
    /// The latest that were accepted, newest last.
    #[serde(default)]
    pub accepted: Vec<AcceptedCommit>,
    /// The one that is in force, or was when the daemon ran last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<String>,
    /// When the remote was last seen: RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
}

/// How many are remembered.
const MOST: usize = 32;
/// Name of the file.
const FILE: &str = "known.json";

impl Known {
    /// Reads what is known of a remote from the directory. What is known of another repository
    /// or branch says nothing about this one: that another is followed is the operator's word.
    pub fn load(directory: &Path, remote: &Remote) -> io::Result<Self> {
        let fresh = Self {
            url: remote.url.clone(),
            reference: remote.reference.to_string(),
            path: remote.path.clone(),
            ..Self::default()
        };
        let bytes = match fs::read(directory.join(FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(fresh),
            Err(error) => return Err(error),
        };
        let known: Self = serde_json::from_slice(&bytes)?;
        let same = (&known.url, &known.reference) == (&fresh.url, &fresh.reference);
        Ok(if same { known } else { fresh })
    }

    /// Writes it.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        atomic_file::replace(&directory.join(FILE), &serde_json::to_vec(self)?)
    }

    /// Remembers a commit as the newest.
    pub fn accept(&mut self, commit: AcceptedCommit) {
        self.accepted.retain(|known| known.id != commit.id);
        if self.accepted.len() == MOST {
            self.accepted.remove(0);
        }
        self.accepted.push(commit);
    }

    /// An accepted commit.
    pub fn find(&self, id: &str) -> Option<&AcceptedCommit> {
        self.accepted.iter().find(|commit| commit.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(id: &str) -> AcceptedCommit {
        AcceptedCommit {
            id: id.into(),
            reference: "main".into(),
            author: "a".into(),
            time: String::new(),
            accepted: String::new(),
            signer: None,
        }
    }

    #[test]
    fn what_is_known_survives_and_is_about_one_branch() {
        let root = tempfile::tempdir().unwrap();
        let remote: Remote = "git+https://h/r#main:a".parse().unwrap();
        let mut known = Known::load(root.path(), &remote).unwrap();
        known.accept(commit("x"));
        known.in_force = Some("x".into());
        known.save(root.path()).unwrap();
        assert_eq!(Known::load(root.path(), &remote).unwrap(), known);
        // Another path of the same branch is still the same history.
        let path: Remote = "git+https://h/r#main:b".parse().unwrap();
        assert_eq!(
            Known::load(root.path(), &path).unwrap().in_force,
            Some("x".into())
        );
        let branch: Remote = "git+https://h/r#prod:a".parse().unwrap();
        assert_eq!(Known::load(root.path(), &branch).unwrap().in_force, None);
        fs::write(root.path().join(FILE), "{").unwrap();
        assert!(Known::load(root.path(), &remote).is_err());
    }

    #[test]
    fn not_all_are_kept_and_the_newest_is_last() {
        let mut known = Known::default();
        for number in 0..40 {
            known.accept(commit(&number.to_string()));
        }
        known.accept(commit("10"));
        assert_eq!(known.accepted.len(), MOST);
        assert_eq!(known.accepted.last().unwrap().id, "10");
        assert!(known.find("0").is_none());
    }
}
