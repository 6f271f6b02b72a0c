//! Patterns of places: which workloads claim a cgroup path or a unit.

use std::{
    collections::{BTreeSet, HashMap},
    sync::OnceLock,
};

use globset::{Error, Glob, GlobBuilder, GlobMatcher};

/// Patterns and who they belong to. What a text costs depends on the patterns that begin as it
/// does, not on how many there are.
#[derive(Debug, Default)]
pub(super) struct Claims {
    exact: HashMap<String, Vec<usize>>,
    /// By the text before the first wildcard.
    globs: HashMap<String, Vec<GlobClaim>>,
    /// The different lengths of the keys of [`Self::globs`].
    lengths: BTreeSet<usize>,
}

#[derive(Debug)]
struct GlobClaim {
    glob: Glob,
    /// Made when it is first needed: it is most of the work, and many are of workloads that run
    /// on other hosts.
    matcher: OnceLock<GlobMatcher>,
    owner: usize,
}

impl Claims {
    /// Adds a name or path, or a glob.
    pub(super) fn add(&mut self, owner: usize, pattern: &str) -> Result<(), Error> {
        if !has_wildcard(pattern) {
            self.exact
                .entry(pattern.to_owned())
                .or_default()
                .push(owner);
            return Ok(());
        }
        let glob = glob(pattern)?;
        let start = &pattern[..pattern.find(WILDCARDS).unwrap_or_default()];
        self.lengths.insert(start.len());
        let claim = GlobClaim {
            glob,
            matcher: OnceLock::new(),
            owner,
        };
        self.globs.entry(start.to_owned()).or_default().push(claim);
        Ok(())
    }

    /// Who claims this.
    pub(super) fn of(&self, text: &str) -> BTreeSet<usize> {
        let mut owners = BTreeSet::new();
        if let Some(exact) = self.exact.get(text) {
            owners.extend(exact);
        }
        for length in &self.lengths {
            let claims = text.get(..*length).and_then(|start| self.globs.get(start));
            for claim in claims.into_iter().flatten() {
                let matcher = claim.matcher.get_or_init(|| claim.glob.compile_matcher());
                if matcher.is_match(text) {
                    owners.insert(claim.owner);
                }
            }
        }
        owners
    }

    /// Whether there is no claim at all.
    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.globs.is_empty()
    }
}

const WILDCARDS: [char; 4] = ['*', '?', '[', '{'];

/// Whether a pattern is a glob rather than one name or path.
pub(super) fn has_wildcard(pattern: &str) -> bool {
    pattern.contains(WILDCARDS)
}

/// A glob with the project's semantics: `*` and `?` stay within one component, `**` crosses, and
/// a backslash is a backslash, because systemd's escaped names are full of them (`\x2d`).
pub(super) fn glob(pattern: &str) -> Result<Glob, Error> {
    GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(false)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(pattern: &str, text: &str) -> bool {
        let mut claims = Claims::default();
        claims.add(7, pattern).unwrap();
        claims.of(text) == BTreeSet::from([7])
    }

    #[test]
    fn patterns() {
        assert!(claims("foo.service", "foo.service"));
        assert!(!claims("foo.service", "user@7.service/foo.service"));
        assert!(claims("foo@*.service", "foo@a.service"));
        assert!(!claims("foo@*.service", "foo.service"));
        assert!(!claims("*.service", "user@7.service/foo.service"));
        assert!(claims(
            "user@*.service/foo.service",
            "user@7.service/foo.service"
        ));
        assert!(claims("a\\x2d*.service", "a\\x2db.service"));
        assert!(!claims("a\\x2d*.service", "ax2db.service"));
        assert!(claims("/a/**", "/a/b/c"));
        assert!(!claims("/a/*", "/a/b/c"));
        assert!(claims("/\u{e9}/?", "/\u{e9}/x"));
        assert!(!claims("/ab?", "/\u{e9}"), "cut inside a character");
        assert!(Claims::default().add(0, "a[.service").is_err());
    }

    #[test]
    fn every_owner_of_a_text_is_named_once() {
        let mut claims = Claims::default();
        for (owner, pattern) in ["/a/b", "/a/*", "/*/b", "/a/{b,b*}", "/c", "/a/*"]
            .into_iter()
            .enumerate()
        {
            claims.add(owner, pattern).unwrap();
        }
        assert_eq!(claims.of("/a/b"), BTreeSet::from([0, 1, 2, 3, 5]));
        assert!(claims.of("/b/a").is_empty());
    }
}
