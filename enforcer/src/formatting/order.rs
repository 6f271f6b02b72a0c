//! The order of keys: that of the reference, docs/policy.md.

use super::{
    kubernetes,
    tree::{Document, Entry, Item, Shape, Value},
};
use crate::policy;

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
            "denied",
            "flowTableFull",
            "unknownWorkload",
            "blockedSources",
        ],
    ),
    (
        "TrustDomain",
        &["bundle", "bundleFile", "revoked", "revokedFile"],
    ),
    ("PolicyTest", &["at", "flows"]),
    (
        "selector",
        &[
            "matchLabels",
            "matchExpressions",
            "spiffeId",
            "serviceAccount",
            "unit",
            "namespaceSelector",
            "group",
            "host",
        ],
    ),
    ("expression", &["key", "operator", "values"]),
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
            Some("TrustDomain") => "TrustDomain",
            Some("PolicyTest") => "PolicyTest",
            Some("Group") => "Group",
            _ => "",
        },
        ("SegmentPolicy", "ingress" | "egress") => "rule",
        ("rule" | "flows", "from" | "to") | ("Group", "peers") => "peer",
        ("SegmentPolicy", "selector") | ("peer" | "selector", "namespaceSelector") => "selector",
        ("peer" | "selector", "matchExpressions") => "expression",
        ("rule" | "Workload", "ports") => "ports",
        ("Node", "default") => "default",
        ("Node", "failsafe") => "failsafe",
        ("PolicyTest", "flows") => "flows",
        _ => "",
    }
}

/// What is known of a family of kinds.
#[derive(Clone, Copy)]
struct Family {
    order: &'static [(&'static str, &'static [&'static str])],
    below: fn(&str, &str, Option<&str>) -> &'static str,
}

const OURS: Family = Family {
    order: ORDER,
    below,
};

const KUBERNETES: Family = Family {
    order: kubernetes::ORDER,
    below: kubernetes::below,
};

/// Orders the keys of a document of ours or of Kubernetes; of others, only the outermost.
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
    if !document.has_aliases {
        object(entries);
    }
}

fn object(entries: &mut [Entry]) {
    let word = |name: &str| {
        let entry = entries.iter().find(|entry| entry.key == name)?;
        match &entry.value.shape {
            Shape::Raw(text, _) => Some(text.trim_matches(['"', '\'']).to_owned()),
            _ => None,
        }
    };
    let version = word("apiVersion").unwrap_or_default();
    let is_kubernetes = policy::kubernetes::api_versions().any(|known| known == version);
    let family = if is_kubernetes { KUBERNETES } else { OURS };
    let is_known = is_kubernetes || version.starts_with("enforcer.dev/");
    let kind = word("kind").filter(|_| is_known);
    sort(entries, "document", kind.as_deref(), family);
    if !is_kubernetes || kind.as_deref() != Some("List") {
        return;
    }
    let items = entries.iter_mut().filter(|entry| entry.key == "items");
    for entry in items {
        let Shape::List(items) = &mut entry.value.shape else {
            continue;
        };
        for item in items {
            if let Shape::Map(entries) = &mut item.value.shape {
                object(entries);
            }
        }
    }
}

fn sort(entries: &mut [Entry], what: &str, kind: Option<&str>, family: Family) {
    if let Some((_, keys)) = family.order.iter().find(|(of, _)| *of == what) {
        let place = |entry: &Entry| keys.iter().position(|key| *key == entry.key);
        entries.sort_by_key(|entry| place(entry).unwrap_or(keys.len()));
    }
    for entry in entries {
        let inner = (family.below)(what, &entry.key, kind);
        within(&mut entry.value, inner, kind, family);
    }
}

fn within(value: &mut Value, what: &str, kind: Option<&str>, family: Family) {
    match &mut value.shape {
        Shape::Map(entries) => sort(entries, what, kind, family),
        Shape::List(items) => {
            let values = items.iter_mut().map(|Item { value, .. }| value);
            values.for_each(|value| within(value, what, kind, family));
        }
        Shape::Empty | Shape::Raw(..) | Shape::Block(..) => {}
    }
}
