//! What the kinds share.

#![expect(
    clippy::needless_pass_by_value,
    reason = "parts of a schema are put into it"
)]

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
        (
            "moment",
            json!({
                "type": "string",
                "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:]+([Zz]|[+-][0-9:]+)$",
                "description": "A moment, as in 2027-01-31T18:00:00+01:00.",
            }),
        ),
        (
            "line",
            json!({ "type": ["string", "number"], "description": "One line of text." }),
        ),
        (
            "controls",
            list(
                "Names of compliance controls.",
                json!({ "type": ["string", "number"] }),
            ),
        ),
        ("expressions", expressions()),
        (
            "labelSelector",
            object(
                "Demands on labels.",
                json!({ "matchLabels": reference("labels"), "matchExpressions": reference("expressions") }),
                &[],
            ),
        ),
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
                json!({
                    "matchLabels": reference("labels"),
                    "matchExpressions": reference("expressions"),
                    "namespaceSelector": reference("labelSelector"),
                    "spiffeId": reference("line"),
                    "serviceAccount": reference("line"),
                    "unit": reference("line"),
                }),
                &[],
            ),
            object("The workloads of a group.", json!({ "group": reference("line") }), &["group"]),
            object(
                "The host endpoint.",
                json!({ "host": { "enum": [true, "true"], "description": "The host endpoint." } }),
                &["host"],
            ),
        ],
    })
}

fn expressions() -> Value {
    let expression = object(
        "A demand on one label.",
        json!({
            "key": reference("line"),
            "operator": one_of("As in Kubernetes.", &["In", "NotIn", "Exists", "DoesNotExist"]),
            "values": { "type": "array", "items": { "type": ["string", "number", "boolean"] } },
        }),
        &["key", "operator"],
    );
    list("All must be true.", expression)
}

fn rule(peers: &str, description: &str) -> Value {
    let mut properties = json!({
        "name": {
            "type": ["string", "number"],
            "pattern": "^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$",
            "not": { "enum": ["isolation", "default"] },
            "description": "How reports call it.",
        },
        "action": one_of("Default `allow`. In a tier, deny beats pass, and pass beats allow.", &["allow", "deny", "pass"]),
        "log": { "enum": [true, false, "true", "false"], "description": "Report flows that it allows." },
        "validFrom": reference("moment"),
        "validUntil": reference("moment"),
        "owner": reference("line"),
        "ticket": reference("line"),
        "controls": reference("controls"),
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
    let assurance = one_of(
        "The least proof of who it is.",
        &["address", "orchestrator", "kernel", "attested"],
    );
    let entity = one_of(
        "world: nobody known; host: this host; remoteHost: other hosts; any: everybody.",
        &["world", "host", "remoteHost", "any"],
    );
    let mut workloads = object(
        "Workloads of which all this is true.",
        json!({
            "labels": reference("labels"),
            "matchExpressions": reference("expressions"),
            "spiffeId": reference("line"),
            "serviceAccount": reference("line"),
            "unit": reference("line"),
            "namespace": reference("anyNamespace"),
            "namespaceSelector": reference("labelSelector"),
            "assurance": assurance,
        }),
        &[],
    );
    let facts = [
        "labels",
        "matchExpressions",
        "spiffeId",
        "serviceAccount",
        "unit",
    ];
    workloads["anyOf"] = facts
        .map(|field| json!({ "required": [field] }))
        .to_vec()
        .into();
    json!({
        "description": "Workloads by labels and other facts, or one of `cidr`, `entity` and `group`.",
        "anyOf": [
            workloads,
            object(
                "Whoever is known by an address in the network.",
                json!({
                    "cidr": reference("network"),
                    "except": list("Networks inside it that do not count.", reference("network")),
                }),
                &["cidr"],
            ),
            object("Somebody by kind.", json!({ "entity": entity, "assurance": assurance }), &["entity"]),
            object(
                "Anybody of a group.",
                json!({ "group": reference("line"), "assurance": assurance }),
                &["group"],
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
            { "type": "string", "pattern": "^(([A-Za-z0-9-]+|[0-9]+\\.[0-9]+)/)?[A-Za-z][A-Za-z0-9]*$", "examples": ["443/tcp", "8000-8999/udp", "icmp", "3.4/icmp", "any"] },
            object(
                "Protocol and ports.",
                json!({
                    "protocol": reference("protocol"),
                    "port": { "description": "A port, a range as in \"8000-8999\", or a name.", "anyOf": [
                        reference("port"),
                        { "type": "string", "pattern": "^[A-Za-z0-9-]+$" },
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
