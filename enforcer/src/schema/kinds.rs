//! One schema for each kind.

#![expect(
    clippy::needless_pass_by_value,
    reason = "parts of a schema are put into it"
)]

use serde_json::{Value, json};

use super::parts::{list, object, one_of, reference};
use crate::policy::API_VERSION;

/// By name.
pub(super) fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("SegmentPolicy", segment_policy()),
        ("Workload", workload()),
        ("Node", node()),
        ("PolicyTest", policy_test()),
        ("Group", group()),
        ("Namespace", namespace()),
        ("Host", host()),
        ("TrustDomain", trust_domain()),
    ]
}

fn kind(name: &str, description: &str, spec: Value) -> Value {
    let metadata = if ["Node", "Host", "TrustDomain"].contains(&name) {
        "nodeMetadata"
    } else {
        "metadata"
    };
    let mut kind = object(
        description,
        json!({
            "apiVersion": { "const": API_VERSION },
            "kind": { "const": name },
            "metadata": reference(metadata),
            "spec": spec,
        }),
        &["apiVersion", "kind", "metadata", "spec"],
    );
    kind["title"] = name.into();
    kind
}

fn group() -> Value {
    let peers = list("Any of them is meant.", reference("peer"));
    let spec = object("Who is in it.", json!({ "peers": peers }), &["peers"]);
    kind("Group", "Peers under a name, for rules to refer to.", spec)
}

fn host() -> Value {
    let addresses = list("Its addresses.", reference("network"));
    let spec = object(
        "How it is known.",
        json!({ "addresses": addresses }),
        &["addresses"],
    );
    kind("Host", "Another host and its addresses.", spec)
}

fn trust_domain() -> Value {
    let path = |description: &str| json!({ "type": "string", "pattern": "^/", "description": description });
    let mut spec = object(
        "On which ground its SVIDs are believed.",
        json!({
            "bundle": { "type": "string", "pattern": "-----BEGIN CERTIFICATE-----", "description": "Its roots, in PEM." },
            "bundleFile": path("File of its roots in PEM; it is watched."),
            "revoked": list(
                "Serial numbers, in hexadecimal, of certificates that are not believed any more.",
                json!({ "type": ["string", "integer"] }),
            ),
            "revokedFile": path("A CRL, or serial numbers, one a line; it is watched."),
        }),
        &[],
    );
    let one_of = ["bundle", "bundleFile", "revoked", "revokedFile"];
    spec["anyOf"] = one_of.map(|field| json!({ "required": [field] })).into();
    spec["not"] = json!({ "required": ["bundle", "bundleFile"] });
    kind(
        "TrustDomain",
        "A SPIFFE trust domain whose X.509-SVIDs are believed.",
        spec,
    )
}

/// Ours, or that of Kubernetes, of which only name and labels count.
fn namespace() -> Value {
    let ours = object(
        "The labels of a namespace.",
        json!({
            "apiVersion": { "const": API_VERSION },
            "kind": { "const": "Namespace" },
            "metadata": reference("nodeMetadata"),
            "spec": { "type": "object", "maxProperties": 0 },
        }),
        &["apiVersion", "kind", "metadata"],
    );
    let kubernetes = json!({ "properties": { "apiVersion": { "const": "v1" } } });
    json!({ "title": "Namespace", "anyOf": [ours, kubernetes] })
}

fn segment_policy() -> Value {
    let mut spec = object(
        "What the policy is about, and its rules.",
        json!({
            "tier": one_of(
                "Tiers are asked from the first to the last; default `application`, the only one that isolates.",
                &["quarantine", "admin", "application", "baseline"],
            ),
            "mode": one_of("With `audit`, denials are only reported. Default: the node's.", &["audit", "enforce"]),
            "validFrom": reference("moment"),
            "validUntil": reference("moment"),
            "owner": reference("line"),
            "ticket": reference("line"),
            "controls": reference("controls"),
            "selector": reference("selector"),
            "ingress": list("Rules for flows to the workloads. The key alone isolates in tier `application`.", reference("ingressRule")),
            "egress": list("Rules for flows from the workloads. The key alone isolates in tier `application`.", reference("egressRule")),
        }),
        &["selector"],
    );
    spec["anyOf"] = json!([{ "required": ["ingress"] }, { "required": ["egress"] }]);
    let mut policy = kind("SegmentPolicy", "Who may talk to whom.", spec);
    // A policy of one namespace cannot select others.
    policy["not"] = json!({
        "required": ["metadata", "spec"],
        "properties": {
            "metadata": { "required": ["namespace"] },
            "spec": {
                "required": ["selector"],
                "properties": { "selector": { "required": ["namespaceSelector"] } },
            },
        },
    });
    policy
}

fn workload() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let mut spec = object(
        "Where it runs and how others know it.",
        json!({
            "spiffeId": { "type": "string", "pattern": "^spiffe://", "description": "Its SPIFFE ID, as in spiffe://example.org/ns/shop/sa/web." },
            "serviceAccount": text("Name of its service account."),
            "ports": list("Names of its ports.", object(
                "A port and its name.",
                json!({ "name": text("As rules call it."), "port": reference("port"), "protocol": reference("protocol") }),
                &["name", "port"],
            )),
            "addresses": list("Addresses and networks by which others know it.", reference("network")),
            "cgroup": { "type": "string", "pattern": "^/", "description": "Path below the cgroup root, or a glob." },
            "unit": text("Name of a systemd unit, or a glob, as in web@*.service."),
            "interface": text("The host's side of its link, as in veth-api."),
        }),
        &[],
    );
    spec["anyOf"] = ["cgroup", "unit", "interface", "addresses"]
        .map(|field| json!({ "required": [field] }))
        .to_vec()
        .into();
    spec["not"] = json!({ "anyOf": [
        { "required": ["cgroup", "unit"] },
        { "required": ["cgroup", "interface"] },
        { "required": ["unit", "interface"] },
    ]});
    kind(
        "Workload",
        "What runs where, and which labels it has.",
        spec,
    )
}

fn node() -> Value {
    let fallback = |description: &str| one_of(description, &["allow", "deny"]);
    let failsafe = object(
        "A port of the host endpoint that no policy closes.",
        json!({
            "direction": one_of("ingress: a service of this host; egress: one that it needs.", &["ingress", "egress"]),
            "protocol": reference("protocol"),
            "port": reference("port"),
        }),
        &["direction", "protocol", "port"],
    );
    let blocked = object(
        "A network.",
        json!({ "cidr": reference("network") }),
        &["cidr"],
    );
    let spec = object(
        "How the host itself behaves.",
        json!({
            "mode": one_of("Whether denials are carried out; default `audit`.", &["audit", "enforce"]),
            "default": object(
                "For flows that no tier decides; default `allow`.",
                json!({ "ingress": fallback("Flows to workloads and the host."), "egress": fallback("Flows from them.") }),
                &[],
            ),
            "failsafe": { "type": "array", "maxItems": 16, "items": failsafe, "description": "Replaces the built-in list; `[]` turns failsafe ports off." },
            "flowTableFull": fallback("When the flow table is full: judge packet by packet, or refuse new flows."),
            "unknownWorkload": fallback("For a process in a cgroup that a glob covers but that is not classified yet."),
            "denied": one_of("What becomes of denied packets: dropped in silence (the default), or with a reset or an ICMP error to their sender.", &["drop", "reject"]),
            "blockedSources": list("Networks dropped at the uplinks before anything else.", json!({ "anyOf": [reference("network"), blocked] })),
        }),
        &[],
    );
    kind(
        "Node",
        "How the host itself behaves; at most one in a tree.",
        spec,
    )
}

fn policy_test() -> Value {
    let text =
        |description: &str| json!({ "type": "string", "minLength": 1, "description": description });
    let party = json!({ "anyOf": [
        text("NAMESPACE/NAME of a workload, NAME in the test's namespace, host, world, or an address."),
        object(
            "All workloads with these labels.",
            json!({ "labels": reference("labels"), "namespace": reference("anyNamespace") }),
            &["labels"],
        ),
    ]});
    let parties = |description: &str| {
        json!({
            "description": description,
            "anyOf": [party, { "type": "array", "minItems": 1, "items": party }],
        })
    };
    let flow = object(
        "Flows that are to have one verdict.",
        json!({
            "name": { "type": "string", "minLength": 1, "maxLength": 200, "description": "What is tested, in one line." },
            "from": parties("Who opens the flow."),
            "to": parties("Who is addressed."),
            "ports": {
                "type": "array",
                "minItems": 1,
                "items": { "type": "string", "pattern": "^([0-9]+(\\.[0-9]+)?/)?[A-Za-z0-9]+$" },
                "description": "As in 443/tcp, 3.4/icmp, icmp or gre.",
            },
            "expect": one_of("The verdict on a node that enforces.", &["allow", "deny", "audit"]),
            "policy": text("The policy that decides, as NAME or NAMESPACE/NAME."),
            "rule": text("The rule that decides; isolation, or default for the node's."),
        }),
        &["from", "to", "ports", "expect"],
    );
    let spec = object(
        "What is asked.",
        json!({
            "at": { "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]", "description": "When it is asked, as in 2027-01-31T18:00:00Z; default: now." },
            "flows": { "type": "array", "minItems": 1, "items": flow, "description": "Flows and their verdicts." },
        }),
        &["flows"],
    );
    kind(
        "PolicyTest",
        "What is expected of the policies beside it; `enforcer test` asks.",
        spec,
    )
}
