//! NetworkPolicy: whom it selects, and in which directions it isolates. Tables are read as [`tests::lab::truth::TruthTables`] says.

use crate::Case;

pub const CASES: &[Case] = &[
    Case {
        name: "a missing selector is every pod of the namespace too",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {}
",
        table: "
            #XX ... ... ..
            X#X ... ... ..
            XX# ... ... ..
            XXX #.. ... ..
            XXX .#. ... ..
            XXX ..# ... ..
            XXX ... #.. ..
            XXX ... .#. ..
            XXX ... ..# ..
            XXX ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "policyTypes Ingress: rules of egress mean nothing",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: [Ingress], egress: [{to: [{podSelector: {}}]}]}
",
        table: "
            #XX ... ... ..
            X#X ... ... ..
            XX# ... ... ..
            XXX #.. ... ..
            XXX .#. ... ..
            XXX ..# ... ..
            XXX ... #.. ..
            XXX ... .#. ..
            XXX ... ..# ..
            XXX ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "empty policyTypes and rules of egress: both directions",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [], egress: [{}]}
",
        table: "
            #.. ... ... ..
            X#. ... ... ..
            X.# ... ... ..
            X.. #.. ... ..
            X.. .#. ... ..
            X.. ..# ... ..
            X.. ... #.. ..
            X.. ... .#. ..
            X.. ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "empty policyTypes and no rules of egress: ingress alone",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [], egress: [], ingress: [{from: [{podSelector: {}}]}]}
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
            ..# ... ... ..
            X.. #.. ... ..
            X.. .#. ... ..
            X.. ..# ... ..
            X.. ... #.. ..
            X.. ... .#. ..
            X.. ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "egress without rules is no reason to isolate it",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, egress: []}
",
        table: "
            #XX ... ... ..
            X#X ... ... ..
            XX# ... ... ..
            XXX #.. ... ..
            XXX .#. ... ..
            XXX ..# ... ..
            XXX ... #.. ..
            XXX ... .#. ..
            XXX ... ..# ..
            XXX ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "no value is a missing field",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: null, ingress: null, egress: null}
",
        table: "
            #XX ... ... ..
            X#X ... ... ..
            XX# ... ... ..
            XXX #.. ... ..
            XXX .#. ... ..
            XXX ..# ... ..
            XXX ... #.. ..
            XXX ... .#. ..
            XXX ... ..# ..
            XXX ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "policyTypes Ingress, Egress: empty rules open both",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: [Egress, Ingress], ingress: [{}], egress: [{}]}
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
            ..# ... ... ..
            ... #.. ... ..
            ... .#. ... ..
            ... ..# ... ..
            ... ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "an egress rule that allows everything beside a policy that denies it",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: x}
spec: {podSelector: {}, policyTypes: [Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow, namespace: x}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{}]}
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
            ..# ... ... ..
            ... #.. ... ..
            ... .#. ... ..
            ... ..# ... ..
            ... ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "ingress and egress of one policy, each with its own peers",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}]}], egress: [{to: [{namespaceSelector: {matchLabels: {ns: z}}}]}]}
",
        table: "
            #XX XXX ... X.
            X#. ... ... ..
            X.# ... ... ..
            ... #.. ... ..
            ... .#. ... ..
            ... ..# ... ..
            X.. ... #.. ..
            X.. ... .#. ..
            X.. ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "ingress closed and egress open: the directions are apart",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], egress: [{}]}
",
        table: "
            #.. ... ... ..
            X#. ... ... ..
            X.# ... ... ..
            X.. #.. ... ..
            X.. .#. ... ..
            X.. ..# ... ..
            X.. ... #.. ..
            X.. ... .#. ..
            X.. ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "ingress open and egress closed: the directions are apart",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], ingress: [{}]}
",
        table: "
            #XX XXX XXX X.
            .#. ... ... ..
            ..# ... ... ..
            ... #.. ... ..
            ... .#. ... ..
            ... ..# ... ..
            ... ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "both ends must allow",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: y}}}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: y}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchLabels: {pod: b}}}]}]}
",
        table: "
            #XX XXX XXX X.
            .#. ... ... ..
            ..# XXX ... ..
            ... #XX ... ..
            ... X#X ... ..
            ... XX# ... ..
            ... XXX #.. ..
            ... XXX .#. ..
            ... XXX ..# ..
            ... XXX ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "an egress port to everybody: an empty list of peers",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [], ports: [{port: 81, protocol: UDP}]}]}
",
        table: "
            #XX XXX XXX X.
            X#X XXX XXX X.
            XX# XXX XXX X.
            ... #.. ... ..
            ... .#. ... ..
            ... ..# ... ..
            ... ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[(
            "udp 81",
            "
                #.. ... ... ..
                .#. ... ... ..
                ..# ... ... ..
                ... #.. ... ..
                ... .#. ... ..
                ... ..# ... ..
                ... ... #.. ..
                ... ... .#. ..
                ... ... ..# ..
                ... ... ... #.
                ... ... ... .#
            ",
        )],
    },
    Case {
        name: "an empty list of peers and one of ports: everything",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, ingress: [{from: [], ports: []}]}
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
            ..# ... ... ..
            ... #.. ... ..
            ... .#. ... ..
            ... ..# ... ..
            ... ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "peers with an empty list of ports: every port and protocol",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}], ports: []}]}
",
        table: "
            #XX ... ... ..
            X#X ... ... ..
            XX# ... ... ..
            ... #.. ... ..
            ... .#. ... ..
            ... ..# ... ..
            XXX ... #.. ..
            XXX ... .#. ..
            XXX ... ..# ..
            XXX ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "a namespace that keeps to itself",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {}}]}], egress: [{to: [{podSelector: {}}]}]}
",
        table: "
            #.. XXX XXX X.
            .#. XXX XXX X.
            ..# XXX XXX X.
            XXX #.. ... ..
            XXX .#. ... ..
            XXX ..# ... ..
            XXX ... #.. ..
            XXX ... .#. ..
            XXX ... ..# ..
            XXX ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "a policy that selects no pod",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: d}}, policyTypes: [Ingress, Egress]}
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
            ..# ... ... ..
            ... #.. ... ..
            ... .#. ... ..
            ... ..# ... ..
            ... ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "all labels of a selector must match",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a, also: this}}}
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
            ..# ... ... ..
            ... #.. ... ..
            ... .#. ... ..
            ... ..# ... ..
            ... ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "a policy without a namespace is of the one called default",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
            ..# ... ... ..
            ... #.. ... ..
            ... .#. ... ..
            ... ..# ... ..
            ... ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "pods of the same labels in another namespace are not selected",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: y}
spec: {podSelector: {matchLabels: {pod: a}}}
",
        table: "
            #.. X.. ... ..
            .#. X.. ... ..
            ..# X.. ... ..
            ... #.. ... ..
            ... X#. ... ..
            ... X.# ... ..
            ... X.. #.. ..
            ... X.. .#. ..
            ... X.. ..# ..
            ... X.. ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "a pod of the node's network is the node: it is not selected",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: host}}, policyTypes: [Ingress, Egress]}
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
            ..# ... ... ..
            ... #.. ... ..
            ... .#. ... ..
            ... ..# ... ..
            ... ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "a pod of the node's network is the node: no selector finds it, and the node may always",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: host}}}]}]}
",
        table: "
            #.. ... ... ..
            X#. ... ... ..
            X.# ... ... ..
            X.. #.. ... ..
            X.. .#. ... ..
            X.. ..# ... ..
            X.. ... #.. ..
            X.. ... .#. ..
            X.. ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
];
