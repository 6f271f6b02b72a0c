//! The order of keys in objects of Kubernetes: that of the API's reference, and what people read
//! first before what a cluster adds.

/// As [`super::order`] has it for our own kinds.
pub(super) const ORDER: &[(&str, &[&str])] = &[
    (
        "document",
        &["apiVersion", "kind", "metadata", "spec", "items", "status"],
    ),
    ("metadata", &["name", "namespace", "labels", "annotations"]),
    (
        "NetworkPolicy",
        &["podSelector", "policyTypes", "ingress", "egress"],
    ),
    (
        "ClusterNetworkPolicy",
        &["tier", "priority", "subject", "ingress", "egress"],
    ),
    (
        "AdminNetworkPolicy",
        &["priority", "subject", "ingress", "egress"],
    ),
    (
        "BaselineAdminNetworkPolicy",
        &["subject", "ingress", "egress"],
    ),
    (
        "Pod",
        &[
            "serviceAccountName",
            "nodeName",
            "hostNetwork",
            "initContainers",
            "containers",
        ],
    ),
    ("container", &["name", "image", "restartPolicy", "ports"]),
    ("containerPort", &["name", "containerPort", "protocol"]),
    (
        "PodStatus",
        &["phase", "hostIP", "hostIPs", "podIP", "podIPs"],
    ),
    ("NodeSpec", &["podCIDR", "podCIDRs", "providerID"]),
    ("NodeStatus", &["addresses"]),
    ("address", &["type", "address"]),
    (
        "rule",
        &["name", "action", "from", "to", "ports", "protocols"],
    ),
    (
        "peer",
        &[
            "namespaces",
            "pods",
            "namespaceSelector",
            "podSelector",
            "nodes",
            "networks",
            "domainNames",
            "ipBlock",
        ],
    ),
    ("subject", &["namespaces", "pods"]),
    ("pods", &["namespaceSelector", "podSelector"]),
    ("ipBlock", &["cidr", "except"]),
    (
        "port",
        &[
            "protocol",
            "port",
            "endPort",
            "portNumber",
            "portRange",
            "namedPort",
        ],
    ),
    ("range", &["protocol", "port", "start", "end"]),
    ("protocols", &["tcp", "udp", "sctp", "destinationNamedPort"]),
    ("destinationPort", &["number", "range"]),
    ("selector", &["matchLabels", "matchExpressions"]),
    ("expression", &["key", "operator", "values"]),
];

/// What a mapping is: below which key it stands, in what.
pub(super) fn below(outer: &str, key: &str, kind: Option<&str>) -> &'static str {
    match (outer, key) {
        ("document", "metadata") => "metadata",
        ("document", "spec") => match kind {
            Some("NetworkPolicy") => "NetworkPolicy",
            Some("ClusterNetworkPolicy") => "ClusterNetworkPolicy",
            Some("AdminNetworkPolicy") => "AdminNetworkPolicy",
            Some("BaselineAdminNetworkPolicy") => "BaselineAdminNetworkPolicy",
            Some("Pod") => "Pod",
            Some("Node") => "NodeSpec",
            _ => "",
        },
        ("document", "status") => match kind {
            Some("Pod") => "PodStatus",
            Some("Node") => "NodeStatus",
            _ => "",
        },
        (
            "NetworkPolicy"
            | "ClusterNetworkPolicy"
            | "AdminNetworkPolicy"
            | "BaselineAdminNetworkPolicy",
            "ingress" | "egress",
        ) => "rule",
        ("NetworkPolicy" | "peer" | "pods", "podSelector")
        | ("peer" | "pods", "namespaceSelector")
        | ("peer" | "subject", "namespaces")
        | ("peer", "nodes") => "selector",
        (
            "ClusterNetworkPolicy" | "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy",
            "subject",
        ) => "subject",
        ("peer" | "subject", "pods") => "pods",
        ("peer", "ipBlock") => "ipBlock",
        ("rule", "from" | "to") => "peer",
        ("rule", "ports") => "port",
        ("rule", "protocols") => "protocols",
        ("port", "portNumber" | "portRange") | ("destinationPort", "range") => "range",
        ("protocols", "tcp" | "udp" | "sctp") => "protocol",
        ("protocol", "destinationPort") => "destinationPort",
        ("selector", "matchExpressions") => "expression",
        ("Pod", "containers" | "initContainers") => "container",
        ("container", "ports") => "containerPort",
        ("NodeStatus", "addresses") => "address",
        _ => "",
    }
}
