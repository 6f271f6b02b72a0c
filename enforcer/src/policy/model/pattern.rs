//! Patterns of SPIFFE IDs and unit names.

use std::fmt;

/// A SPIFFE ID, or a pattern of its path: `*` stands for any text inside one segment, `**` as a
/// whole segment for any number of segments, none included. The trust domain has no pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffePattern(String);

impl SpiffePattern {
    /// A pattern that was checked.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one ID that is meant, if it is one.
    pub fn exact(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(&self.0)
    }

    /// Whether an ID is meant.
    pub fn matches(&self, id: &str) -> bool {
        let pattern: Vec<_> = self.0.split('/').collect();
        let id: Vec<_> = id.split('/').collect();
        wildcard(
            &pattern,
            &id,
            |segment| *segment == "**",
            |segment, found| glob(segment, found),
        )
    }
}

impl fmt::Display for SpiffePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a systemd unit as a workload's document has it, or a pattern of it: `*` stands
/// for any text, `?` for any one character.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitPattern(String);

impl UnitPattern {
    /// A pattern that was checked.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a unit is meant.
    pub fn matches(&self, unit: &str) -> bool {
        glob(&self.0, unit)
    }
}

impl fmt::Display for UnitPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `*` and `?` in a text.
fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<_> = pattern.chars().collect();
    let text: Vec<_> = text.chars().collect();
    wildcard(
        &pattern,
        &text,
        |c| *c == '*',
        |c, found| *c == '?' || c == found,
    )
}

/// Whether a sequence is one that a pattern means, in which some items stand for any number of
/// items. In time of the product of the two lengths at most: after a mismatch only the last such
/// item can take more.
fn wildcard<T>(
    pattern: &[T],
    items: &[T],
    is_any: impl Fn(&T) -> bool,
    same: impl Fn(&T, &T) -> bool,
) -> bool {
    let (mut at, mut item) = (0, 0);
    let mut last_any: Option<(usize, usize)> = None;
    while item < items.len() {
        match pattern.get(at) {
            Some(any) if is_any(any) => {
                last_any = Some((at, item));
                at += 1;
            }
            Some(one) if same(one, &items[item]) => {
                at += 1;
                item += 1;
            }
            _ => {
                let Some((any, taken)) = last_any else {
                    return false;
                };
                last_any = Some((any, taken + 1));
                at = any + 1;
                item = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(is_any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_ids_stay_inside_segments_but_for_two_stars() {
        let cases = [
            (
                "spiffe://a/ns/shop/sa/web",
                "spiffe://a/ns/shop/sa/web",
                true,
            ),
            (
                "spiffe://a/ns/shop/sa/web",
                "spiffe://a/ns/shop/sa/web2",
                false,
            ),
            ("spiffe://a/ns/*/sa/web", "spiffe://a/ns/shop/sa/web", true),
            (
                "spiffe://a/ns/*/sa/web",
                "spiffe://a/ns/shop/x/sa/web",
                false,
            ),
            ("spiffe://a/ns/**/web", "spiffe://a/ns/shop/x/sa/web", true),
            ("spiffe://a/ns/**/web", "spiffe://a/ns/web", true),
            ("spiffe://a/**", "spiffe://a/x/y", true),
            ("spiffe://a/**", "spiffe://b/x/y", false),
            ("spiffe://a/w*b", "spiffe://a/web", true),
            ("spiffe://a/w*b", "spiffe://a/w/b", false),
            ("spiffe://a/**/x/**/y", "spiffe://a/x/x/y/y", true),
        ];
        for (pattern, id, expected) in cases {
            assert_eq!(
                SpiffePattern::new(pattern).matches(id),
                expected,
                "{pattern} {id}"
            );
        }
    }

    #[test]
    fn patterns_of_units_are_globs_of_text() {
        let matches = |pattern: &str, unit: &str| UnitPattern::new(pattern).matches(unit);
        assert!(matches("web@*.service", "web@1.service"));
        assert!(matches("web@*.service", "web@*.service"));
        assert!(matches("web@?.service", "web@1.service"));
        assert!(!matches("web@?.service", "web@12.service"));
        assert!(!matches("web.service", "web.service2"));
        assert!(matches("*a*b", "xaxbab"));
        assert!(!matches("*a*b", "xaxba"));
    }
}
