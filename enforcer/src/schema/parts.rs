//! What the kinds share.

use serde_json::{Map, Value, json};

/// A mapping with these fields and no others.
pub(super) fn object(description: &str, properties: Value, required: &[&str]) -> Value {
    json!({
        "type": "object",
        "description": description,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// A list, possibly empty.
pub(super) fn list(description: &str, items: Value) -> Value {
    json!({ "type": "array", "description": description, "items": items })
}

/// One of a few words.
pub(super) fn one_of(description: &str, words: &[&str]) -> Value {
    json!({ "enum": words, "description": description })
}

/// A definition by name.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/definitions/{name}") })
}

/// A list that says something.
fn some(description: &str, items: Value) -> Value {
    json!({ "type": "array", "minItems": 1, "description": description, "items": items })
}

/// By name.
pub(super) fn all() -> Map<String, Value> {
    let label_key =
        "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$";
    // Values keep their spelling, so numbers and truth values are text too.
    let scalar = json!({ "type": ["string", "number", "boolean"] });
    let parts = [
        (
            "labels",
            json!({
                "type": "object",
                "description": "Labels by key.",
                "propertyNames": { "pattern": label_key },
                "additionalProperties": scalar,
            }),
        ),
        (
            "annotations",
            json!({
                "type": "object",
                "description": "Any text by key. `lint.enforcer.dev/CODE` silences a lint and gives the reason.",
                "propertyNames": { "pattern": label_key },
                "additionalProperties": scalar,
            }),
        ),
        (
            "name",
            json!({
                "type": ["string", "number"],
                "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
                "maxLength": 253,
                "description": "Unique among documents of its kind in its namespace.",
            }),
        ),
        (
            "namespace",
            json!({
                "type": ["string", "number"],
                "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
                "maxLength": 63,
                "description": "A namespace.",
            }),
        ),
        (
            "anyNamespace",
            json!({
                "description": "A namespace, or \"*\" for every one.",
                "anyOf": [{ "const": "*" }, reference("namespace")],
            }),
        ),
        ("metadata", metadata(true)),
        ("nodeMetadata", metadata(false)),
        ("selector", selector()),
        (
            "ingressRule",
            rule("from", "Who opens the flow; default: anybody."),
        ),
        (
            "egressRule",
            rule("to", "Who is addressed; default: anybody."),
        ),
        ("peer", peer()),
        (
            "network",
            json!({
                "type": "string",
                "pattern": "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$",
                "description": "An address or a network, as in 10.0.0.0/8 or fd00::1.",
            }),
        ),
        (
            "protocol",
            json!({
                "description": "A protocol by name or number; default TCP.",
                "anyOf": [
                    { "type": "integer", "minimum": 0, "maximum": 255 },
                    { "type": "string", "pattern": "^([0-9]+|[A-Za-z][A-Za-z0-9]*)$", "examples": [
                        "TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "UDPLite", "GRE", "ESP", "any",
                    ]},
                ],
            }),
        ),
        (
            "port",
            json!({
                "description": "1 to 65535.",
                "anyOf": [
                    { "type": "integer", "minimum": 1, "maximum": 65535 },
                    { "type": "string", "pattern": "^[0-9]{1,5}$" },
                ],
            }),
        ),
        ("ports", ports()),
    ];
    parts
        .into_iter()
        .map(|(name, part)| (name.to_owned(), part))
        .collect()
}

fn metadata(namespaced: bool) -> Value {
    let mut properties = json!({
        "name": reference("name"),
        "labels": reference("labels"),
        "annotations": reference("annotations"),
    });
    if namespaced {
        properties["namespace"] = reference("namespace");
    }
    object("What it is called.", properties, &["name"])
}

fn selector() -> Value {
    json!({
        "description": "Which workloads the policy is about; `{}` for every one.",
        "anyOf": [
            object(
                "Workloads by labels.",
                json!({ "matchLabels": reference("labels") }),
                &[],
            ),
            object(
                "The host endpoint.",
                json!({ "host": { "enum": [true, "true"], "description": "The host endpoint." } }),
                &["host"],
            ),
        ],
    })
}

fn rule(peers: &str, description: &str) -> Value {
    let mut properties = json!({
        "name": {
            "type": ["string", "number"],
            "pattern": "^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$",
            "not": { "enum": ["isolation", "default"] },
            "description": "How reports call it.",
        },
        "action": one_of("Default `allow`. In a tier, deny beats allow.", &["allow", "deny"]),
        "ports": some("Default: every protocol and port.", reference("ports")),
    });
    properties[peers] = some(description, reference("peer"));
    object(
        "A rule matches when any of its peers and any of its ports do.",
        properties,
        &[],
    )
}

fn peer() -> Value {
    json!({
        "description": "Exactly one of `labels`, `cidr` and `entity`.",
        "anyOf": [
            object(
                "Workloads that have all these labels.",
                json!({ "labels": reference("labels"), "namespace": reference("anyNamespace") }),
                &["labels"],
            ),
            object(
                "Whoever is known by an address in the network.",
                json!({
                    "cidr": reference("network"),
                    "except": list("Networks inside it that do not count.", reference("network")),
                }),
                &["cidr"],
            ),
            object(
                "Somebody by kind.",
                json!({ "entity": one_of("world: nobody known; host: this host; any: everybody.", &["world", "host", "any"]) }),
                &["entity"],
            ),
        ],
    })
}

fn ports() -> Value {
    let byte = json!({ "anyOf": [
        { "type": "integer", "minimum": 0, "maximum": 255 },
        { "type": "string", "pattern": "^[0-9]{1,3}$" },
    ]});
    json!({
        "description": "Protocol and ports, as in 443/tcp.",
        "anyOf": [
            { "type": "string", "pattern": "^([0-9]{1,5}(-[0-9]{1,5})?/)?[A-Za-z][A-Za-z0-9]*$", "examples": ["443/tcp", "8000-8999/udp", "icmp", "any"] },
            object(
                "Protocol and ports.",
                json!({
                    "protocol": reference("protocol"),
                    "port": { "description": "A port, or a range as in \"8000-8999\".", "anyOf": [
                        reference("port"),
                        { "type": "string", "pattern": "^[0-9]{1,5}-[0-9]{1,5}$" },
                    ]},
                    "endPort": reference("port"),
                    "type": byte,
                    "code": byte,
                }),
                &[],
            ),
        ],
    })
}
