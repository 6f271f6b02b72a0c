//! What `git ls-tree -r -z -l` and `git cat-file --batch` answer: the policy files of a commit.

use thiserror::Error;

/// A policy file in a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path from where the listing begins.
    pub path: String,
    /// Id of its content.
    pub object: String,
    /// Bytes.
    pub size: u64,
}

/// Why files of a commit cannot be read as policy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ListingError {
    /// A link.
    #[error(
        "{0} is a symbolic link, which is not followed inside a commit: put the file itself there, \
         or name the directory that it leads to"
    )]
    Link(String),
    /// Another repository.
    #[error("{0} is a submodule: put the policy into the repository itself")]
    Submodule(String),
    /// Not text.
    #[error("{0} is not UTF-8")]
    NotUtf8(String),
    /// Git said what it never says.
    #[error("git's answer makes no sense: {0}")]
    Malformed(&'static str),
}

/// The policy files of a listing: YAML, and not hidden, as in a directory.
///
/// # Errors
/// A link or a submodule where policy could be, and bytes that are no listing.
pub fn policy_files(listing: &[u8]) -> Result<Vec<Entry>, ListingError> {
    let mut found = Vec::new();
    for entry in listing.split(|byte| *byte == 0).filter(|e| !e.is_empty()) {
        let tab = entry.iter().position(|byte| *byte == b'\t');
        let tab = tab.ok_or(ListingError::Malformed("an entry has no name"))?;
        let (facts, path) = (&entry[..tab], &entry[tab + 1..]);
        let Ok(path) = std::str::from_utf8(path) else {
            let lossy = String::from_utf8_lossy(path);
            if is_yaml(&lossy) {
                return Err(ListingError::NotUtf8(format!("the name {lossy}")));
            }
            continue;
        };
        let parts = || path.split('/');
        if parts().any(|part| matches!(part, "" | "." | "..")) {
            return Err(ListingError::Malformed("a path leads outside"));
        }
        if parts().any(|part| part.starts_with('.')) {
            continue;
        }
        let facts = String::from_utf8_lossy(facts);
        let mut facts = facts.split_ascii_whitespace();
        let (mode, _, object, size) = (facts.next(), facts.next(), facts.next(), facts.next());
        let (Some(mode), Some(object)) = (mode, object) else {
            return Err(ListingError::Malformed("an entry has no mode or no object"));
        };
        // Without an extension, a link may lead to a directory.
        let has_extension = path
            .rsplit('/')
            .next()
            .is_some_and(|name| name.contains('.'));
        match mode {
            "120000" if is_yaml(path) || !has_extension => {
                return Err(ListingError::Link(path.to_owned()));
            }
            "160000" => return Err(ListingError::Submodule(path.to_owned())),
            "100644" | "100755" | "100664" if is_yaml(path) => {
                if !super::remote::is_object_id(object) {
                    return Err(ListingError::Malformed("an object has no id"));
                }
                let size = size.and_then(|size| size.parse().ok());
                found.push(Entry {
                    path: path.to_owned(),
                    object: object.to_owned(),
                    size: size.ok_or(ListingError::Malformed("a file has no size"))?,
                });
            }
            _ => {}
        }
    }
    Ok(found)
}

fn is_yaml(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    matches!(extension, Some("yaml" | "yml"))
}

/// The contents in an answer of `git cat-file --batch`, in the order in which these entries were
/// asked for.
///
/// # Errors
/// An answer about something else, and text that is none.
pub fn contents(answer: &[u8], entries: &[Entry]) -> Result<Vec<String>, ListingError> {
    let mut rest = answer;
    let mut texts = Vec::new();
    for entry in entries {
        let broken = ListingError::Malformed("a file is missing or another was sent");
        // OBJECT SP TYPE SP SIZE LF CONTENT LF
        let head = format!("{} blob {}\n", entry.object, entry.size);
        let body = rest.strip_prefix(head.as_bytes()).ok_or(broken.clone())?;
        let size = usize::try_from(entry.size).map_err(|_| broken.clone())?;
        let (content, end) = body.split_at_checked(size).ok_or(broken.clone())?;
        rest = end.strip_prefix(b"\n").ok_or(broken)?;
        let text = String::from_utf8(content.to_vec());
        texts.push(text.map_err(|_| ListingError::NotUtf8(entry.path.clone()))?);
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(mode: &str, digit: &str, size: &str, path: &str) -> String {
        format!("{mode} blob {} {size:>7}\t{path}\0", digit.repeat(40))
    }

    #[test]
    fn only_policy_files_count() {
        let listing = [
            line("100644", "a", "12", "a.yaml"),
            line("100644", "b", "1", "README.md"),
            line("100644", "c", "1", ".github/x.yaml"),
            line("100755", "d", "0", "sub/b.yml"),
            line("120000", "e", "4", "logo.png"),
        ];
        let found = policy_files(listing.concat().as_bytes()).unwrap();
        let found: Vec<_> = found.iter().map(|e| (e.path.as_str(), e.size)).collect();
        assert_eq!(found, [("a.yaml", 12), ("sub/b.yml", 0)]);
    }

    #[test]
    fn what_would_be_read_otherwise_than_meant_is_refused() {
        let refused = |listing: &str| policy_files(listing.as_bytes()).unwrap_err();
        let link = refused(&line("120000", "a", "4", "prod"));
        assert_eq!(link, ListingError::Link("prod".into()));
        let link = refused(&line("120000", "a", "4", "x/a.yaml"));
        assert_eq!(link, ListingError::Link("x/a.yaml".into()));
        let module = refused(&format!("160000 commit {} -\tlib\0", "a".repeat(40)));
        assert_eq!(module, ListingError::Submodule("lib".into()));
        for path in ["../a.yaml", "/a.yaml", "a//b.yaml", "a/../../b.yaml"] {
            let error = refused(&line("100644", "a", "1", path));
            assert!(matches!(error, ListingError::Malformed(_)), "{path}");
        }
        for text in ["x\0", "100644 blob\ta.yaml\0", "100644 blob -x 1\ta.yaml\0"] {
            assert!(
                matches!(refused(text), ListingError::Malformed(_)),
                "{text}"
            );
        }
    }

    #[test]
    fn contents_are_those_that_were_asked_for() {
        let entry = |digit: &str, size| Entry {
            path: "a.yaml".into(),
            object: digit.repeat(40),
            size,
        };
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let answer = format!("{a} blob 3\none\n{b} blob 0\n\n");
        let texts = contents(answer.as_bytes(), &[entry("a", 3), entry("b", 0)]);
        assert_eq!(texts.unwrap(), ["one", ""]);
        for bad in [
            format!("{a} missing\n"),
            format!("{a} blob 4\none\n"),
            format!("{a} blob 3\non"),
            format!("{b} blob 3\none\n"),
        ] {
            assert!(contents(bad.as_bytes(), &[entry("a", 3)]).is_err(), "{bad}");
        }
        let latin = format!("{a} blob 1\n").into_bytes();
        let latin = [latin, b"\xe9\n".to_vec()].concat();
        let error = contents(&latin, &[entry("a", 1)]).unwrap_err();
        assert_eq!(error, ListingError::NotUtf8("a.yaml".into()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let entry = Entry { path: "a".into(), object: "a".repeat(40), size: 3 };
            let _ = contents(&bytes, &[entry]);
            if let Ok(entries) = policy_files(&bytes) {
                for entry in entries {
                    prop_assert!(!entry.path.split('/').any(|part| part == ".."));
                }
            }
        }

        #[test]
        fn nearly_good_listings_too(
            text in "([0-7]{6} (blob|commit|tree) [0-9a-f]{39,41} +[-0-9]{1,20}\t[./a-z]{0,12}\\.yaml\0){0,4}",
        ) {
            if let Ok(entries) = policy_files(text.as_bytes()) {
                for entry in entries {
                    prop_assert!(!entry.path.starts_with('/'));
                    prop_assert!(super::super::remote::is_object_id(&entry.object));
                }
            }
        }
    }
}
