//! The order of keys: that of the reference, docs/policy.md.

use super::tree::{Document, Entry, Item, Shape, Value};

/// Keys of a mapping, by where it stands. What is not listed comes after, as written.
const ORDER: &[(&str, &[&str])] = &[
    ("document", &["apiVersion", "kind", "metadata", "spec"]),
    ("metadata", &["name", "namespace", "labels", "annotations"]),
    (
        "SegmentPolicy",
        &[
            "tier",
            "priority",
            "mode",
            "validFrom",
            "validUntil",
            "owner",
            "ticket",
            "controls",
            "selector",
            "ingress",
            "egress",
        ],
    ),
    (
        "Workload",
        &[
            "spiffeId",
            "serviceAccount",
            "cgroup",
            "unit",
            "interface",
            "addresses",
            "assurance",
            "ports",
        ],
    ),
    (
        "Node",
        &[
            "mode",
            "default",
            "failsafe",
            "flowTableFull",
            "unknownWorkload",
            "blockedSources",
        ],
    ),
    ("PolicyTest", &["at", "flows"]),
    ("default", &["ingress", "egress"]),
    ("failsafe", &["direction", "protocol", "port"]),
    (
        "flows",
        &["name", "from", "to", "ports", "expect", "policy", "rule"],
    ),
    (
        "rule",
        &[
            "name",
            "action",
            "log",
            "validFrom",
            "validUntil",
            "owner",
            "ticket",
            "controls",
            "from",
            "to",
            "ports",
        ],
    ),
    (
        "peer",
        &[
            "group",
            "labels",
            "matchExpressions",
            "spiffeId",
            "serviceAccount",
            "unit",
            "namespace",
            "namespaceSelector",
            "cidr",
            "except",
            "entity",
            "assurance",
        ],
    ),
    (
        "ports",
        &["name", "protocol", "port", "endPort", "type", "code"],
    ),
];

/// What a mapping is: below which key it stands, in what.
fn below(outer: &str, key: &str, kind: Option<&str>) -> &'static str {
    match (outer, key) {
        ("document", "metadata") => "metadata",
        ("document", "spec") => match kind {
            Some("SegmentPolicy") => "SegmentPolicy",
            Some("Workload") => "Workload",
            Some("Node") => "Node",
            Some("PolicyTest") => "PolicyTest",
            _ => "",
        },
        ("SegmentPolicy", "ingress" | "egress") => "rule",
        ("rule" | "flows", "from" | "to") => "peer",
        ("rule" | "Workload", "ports") => "ports",
        ("Node", "default") => "default",
        ("Node", "failsafe") => "failsafe",
        ("PolicyTest", "flows") => "flows",
        _ => "",
    }
}

/// Orders the keys of a document of ours; of others, only the outermost.
pub(super) fn apply(document: &mut Document) {
    let Some(Value {
        shape: Shape::Map(entries),
        ..
    }) = &mut document.root
    else {
        return;
    };
    // Comments above the first key are about the document, not about the key.
    if let Some(first) = entries.first_mut() {
        let mut head = std::mem::take(&mut first.before);
        document.head.append(&mut head);
    }
    if document.has_aliases {
        return;
    }
    let word = |name: &str| {
        let entry = entries.iter().find(|entry| entry.key == name)?;
        match &entry.value.shape {
            Shape::Raw(text, _) => Some(text.clone()),
            _ => None,
        }
    };
    let is_ours = word("apiVersion").is_some_and(|version| version.starts_with("enforcer.dev/"));
    let kind = word("kind").filter(|_| is_ours);
    sort(entries, "document", kind.as_deref());
}

fn sort(entries: &mut [Entry], what: &str, kind: Option<&str>) {
    if let Some((_, keys)) = ORDER.iter().find(|(of, _)| *of == what) {
        let place = |entry: &Entry| keys.iter().position(|key| *key == entry.key);
        entries.sort_by_key(|entry| place(entry).unwrap_or(keys.len()));
    }
    for entry in entries {
        let inner = below(what, &entry.key, kind);
        within(&mut entry.value, inner, kind);
    }
}

fn within(value: &mut Value, what: &str, kind: Option<&str>) {
    match &mut value.shape {
        Shape::Map(entries) => sort(entries, what, kind),
        Shape::List(items) => {
            let values = items.iter_mut().map(|Item { value, .. }| value);
            values.for_each(|value| within(value, what, kind));
        }
        Shape::Empty | Shape::Raw(..) | Shape::Block(..) => {}
    }
}
