//! Names, namespaces, labels and SPIFFE IDs.

use super::{
    diagnostic::{Code, Position},
    document::Node,
    model::Labels,
    reader::{Fields, Reader, quoted},
};
use crate::identity::spiffe_id::check as check_spiffe_id;

/// Longest name of a document (Kubernetes: DNS subdomain, RFC 1123).
const NAME_CHARS: usize = 253;
/// Longest namespace, rule name, label name and label value (Kubernetes).
const WORD_CHARS: usize = 63;
/// All annotations together, in bytes (Kubernetes).
const ANNOTATION_BYTES: usize = 256 << 10;

/// What `metadata` says.
pub(super) struct Metadata {
    /// `None` where the document gives none.
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) labels: Labels,
    /// Where the name is written.
    pub(super) at: Position,
}

pub(super) const DNS_LABEL: &str =
    "use a to z, 0 to 9 and `-` inside, at most 63 characters, as in `shop`";

pub(crate) fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty()
        && text.len() <= WORD_CHARS
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= NAME_CHARS && text.split('.').all(is_dns_label)
}

/// A label's name or value: letters, digits, and `-`, `_`, `.` inside.
fn is_word(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= WORD_CHARS
        && edge(text.bytes().next())
        && edge(text.bytes().next_back())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_word(name),
        None => is_word(text),
    }
}

impl Reader<'_> {
    /// `metadata` of any kind.
    pub(super) fn metadata(&mut self, document: &Fields<'_>, namespaced: bool) -> Option<Metadata> {
        let help = "write `metadata:` and below it `name: some-name`";
        let node = self.required(document, "metadata", "a document", help)?;
        let known: &[_] = if namespaced {
            &["name", "namespace", "labels", "annotations"]
        } else {
            &["name", "labels", "annotations"]
        };
        let fields = self.fields(node, "`metadata`", known)?;
        let name = self.required(&fields, "name", "`metadata`", "write `name: some-name`");
        let name = name.and_then(|node| Some((self.name(node)?, node.at)));
        let namespace = match fields.find("namespace") {
            Some(node) => self.namespace(node).map(Some),
            None => Some(None),
        };
        let labels = match fields.find("labels") {
            Some(node) => self.labels(node),
            None => Some(Labels::new()),
        };
        if let Some(node) = fields.find("annotations") {
            self.annotations(node);
        }
        let (name, at) = name?;
        Some(Metadata {
            namespace: namespace?,
            name,
            labels: labels?,
            at,
        })
    }

    /// A name of a document.
    pub(super) fn name(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "a name")?;
        if is_dns_subdomain(text) {
            return Some(text.to_owned());
        }
        self.error(
            Code::BadName,
            node.at,
            format!("{} cannot be a name", quoted(text)),
            "use a to z, 0 to 9, and `-` or `.` between them, at most 253 characters, \
             as in `web-frontend`",
        );
        None
    }

    /// A namespace.
    pub(super) fn namespace(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "`namespace`")?;
        if is_dns_label(text) {
            return Some(text.to_owned());
        }
        let message = format!("{} cannot be a namespace", quoted(text));
        self.error(Code::BadName, node.at, message, DNS_LABEL);
        None
    }

    /// A rule's name.
    pub(super) fn rule_name(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "`name`")?;
        // What reports call the decision of no rule.
        if matches!(text, "isolation" | "default") {
            self.error(
                Code::BadName,
                node.at,
                format!("`{text}` is what reports call a decision that no rule made"),
                "choose another name",
            );
            return None;
        }
        if is_word(text) {
            return Some(text.to_owned());
        }
        self.error(
            Code::BadName,
            node.at,
            format!("{} cannot be the name of a rule", quoted(text)),
            "use letters, digits, and `-`, `_` or `.` between them, at most 63 characters, \
             as in `web-to-api`",
        );
        None
    }

    /// Labels of a workload, or demanded by a selector.
    pub(super) fn labels(&mut self, node: &Node) -> Option<Labels> {
        let mut labels = Labels::new();
        let mut good = true;
        for (key, at, value) in self.pairs(node, "`labels`")? {
            good &= self.label_key(key, at);
            let Some(text) = self.label_value(value) else {
                good = false;
                continue;
            };
            labels.insert(key.to_owned(), text.to_owned());
        }
        good.then_some(labels)
    }

    /// A label's value.
    pub(super) fn label_value<'n>(&mut self, node: &'n Node) -> Option<&'n str> {
        let text = self.text(node, "a label's value")?;
        self.label_text(text, node.at).then_some(text)
    }

    /// Whether a text can be the value of a label.
    pub(super) fn label_text(&mut self, text: &str, at: Position) -> bool {
        if text.is_empty() || is_word(text) {
            return true;
        }
        self.error(
            Code::BadLabel,
            at,
            format!("{} cannot be the value of a label", quoted(text)),
            "use letters, digits, and `-`, `_` or `.` between them, at most 63 characters, or \
             `\"\"`",
        );
        false
    }

    /// The name of a service account.
    pub(super) fn service_account(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "`serviceAccount`")?;
        if is_dns_subdomain(text) {
            return Some(text.to_owned());
        }
        let message = format!("{} cannot be a service account", quoted(text));
        let help = "use a to z, 0 to 9, and `-` or `.` between them, at most 253 characters";
        self.error(Code::BadName, node.at, message, help);
        None
    }

    /// Whether a text can be the key of a label.
    pub(super) fn label_key(&mut self, key: &str, at: Position) -> bool {
        let good = is_label_key(key);
        if !good {
            self.error(
                Code::BadLabel,
                at,
                format!("{} cannot be the key of a label or annotation", quoted(key)),
                "use letters, digits, and `-`, `_` or `.` between them, at most 63 characters, \
                 after a DNS name and `/` where it has a prefix: `app`, `example.org/team`",
            );
        }
        good
    }

    fn annotations(&mut self, node: &Node) {
        let mut bytes = 0;
        for (key, at, value) in self.pairs(node, "`annotations`").unwrap_or_default() {
            self.label_key(key, at);
            let text = self
                .text(value, "an annotation's value")
                .unwrap_or_default();
            bytes += key.len() + text.len();
        }
        if bytes > ANNOTATION_BYTES {
            let message = format!("annotations of {bytes} bytes");
            let help = format!("at most {ANNOTATION_BYTES} bytes are allowed together");
            self.error(Code::BadLabel, node.at, message, help);
        }
    }

    /// A SPIFFE ID of a workload: `spiffe://trust-domain/path` (SPIFFE-ID, 2).
    pub(super) fn spiffe_id(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "`spiffeId`")?;
        let Err(why) = check_spiffe_id(text) else {
            return Some(text.to_owned());
        };
        self.error(
            Code::BadSpiffeId,
            node.at,
            format!("{} is not the SPIFFE ID of a workload: {why}", quoted(text)),
            "write `spiffe://`, a trust domain of a to z, 0 to 9, `.`, `-`, `_`, and a path, \
             as in `spiffe://example.org/ns/shop/sa/web`",
        );
        None
    }
}

/// The same with `*` and `**` in the path.
pub(super) fn check_spiffe_pattern(text: &str) -> Result<(), &'static str> {
    let Some((domain, path)) = text
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.split_once('/'))
    else {
        return check_spiffe_id(text);
    };
    let mut example = format!("spiffe://{domain}");
    for segment in path.split('/') {
        if segment != "**" && segment.contains("**") {
            return Err("`**` is not a segment of its own");
        }
        example.push('/');
        example.push_str(&segment.replace("**", "x").replace('*', "x"));
    }
    check_spiffe_id(&example)
}

/// As Kubernetes has it for ports of containers (IANA service names, RFC 6335), but beginning
/// with a letter: `0x50` and `8000-x` are numbers that went wrong.
pub(crate) fn is_port_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= 15
        && text.bytes().all(inner)
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && !text.ends_with('-')
        && !text.contains("--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kubernetes() {
        for good in ["a", "web-1", "0"] {
            assert!(is_dns_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", &"a".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad}");
        }
        assert!(is_dns_subdomain("a.b-c.d"));
        assert!(!is_dns_subdomain("a..b") && !is_dns_subdomain(".a") && !is_dns_subdomain("a."));
    }

    #[test]
    fn label_keys_follow_kubernetes() {
        for good in ["app", "App_1.x", "example.org/team", "a/b"] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "A.org/x", "-a", "a b", "ä"] {
            assert!(!is_label_key(bad), "{bad}");
        }
    }
}
