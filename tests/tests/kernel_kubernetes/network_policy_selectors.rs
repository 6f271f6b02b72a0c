//! NetworkPolicy: expressions, peers together and apart, several policies. Tables are read as [`tests::lab::truth::TruthTables`] says.

use crate::Case;

pub const CASES: &[Case] = &[
    Case {
        name: "In with several values, of namespaces",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [x, z]}]}}]}]}
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
            ..# ... ... ..
            X.. #.. ... ..
            X.. .#. ... ..
            X.. ..# ... ..
            ... ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "NotIn is true without the label, of namespaces",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [red]}]}}]}]}
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
            X.. ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "Exists without the label, of namespaces",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: Exists}]}}]}]}
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
        name: "DoesNotExist, of namespaces and of pods",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchExpressions: [{key: nothing, operator: DoesNotExist}, {key: pod, operator: In, values: [b]}]}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: DoesNotExist}]}, podSelector: {matchExpressions: [{key: pod, operator: Exists}]}}]}]}
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
            .X. ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "DoesNotExist with the label, of pods",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: DoesNotExist}]}}]}]}
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
        name: "NotIn, of pods of the own namespace",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [b, c]}]}, ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [b]}]}}]}]}
",
        table: "
            #.. ... ... ..
            X#. ... ... ..
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
        name: "labels and expressions of one selector must both match",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}, matchExpressions: [{key: ns, operator: NotIn, values: [y]}]}}, {podSelector: {matchLabels: {pod: c}, matchExpressions: [{key: pod, operator: Exists}]}}]}]}
",
        table: "
            #.. ... ... ..
            X#. ... ... ..
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
        name: "several peers: any of them",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}, {podSelector: {matchLabels: {pod: c}}}, {namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: a}}}, {ipBlock: {cidr: 10.79.0.2/32}}]}]}
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
            ..# ... ... ..
            ... #.. ... ..
            X.. .#. ... ..
            X.. ..# ... ..
            X.. ... #.. ..
            X.. ... .#. ..
            X.. ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
        but: &[(
            "v4",
            "
                #.. ... ... ..
                .#. ... ... ..
                ..# ... ... ..
                ... #.. ... ..
                X.. .#. ... ..
                X.. ..# ... ..
                X.. ... #.. ..
                X.. ... .#. ..
                X.. ... ..# ..
                ... ... ... #.
                ... ... ... .#
            ",
        )],
    },
    Case {
        name: "an empty pod selector beside a namespace selector: all pods of it",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {}}]}]}
",
        table: "
            #.. ... ... ..
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
        name: "an empty namespace selector beside a pod selector: such pods of every namespace",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}]}]}
",
        table: "
            #XX ... ... ..
            .#. ... ... ..
            XX# ... ... ..
            XXX #.. ... ..
            ... .#. ... ..
            XXX ..# ... ..
            XXX ... #.. ..
            ... ... .#. ..
            XXX ... ..# ..
            XXX ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "the name of a namespace as a label, in an expression",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [x, z]}]}}]}]}
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
        name: "egress to every pod and nobody else",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}]}]}
",
        table: "
            #.. ... ... X.
            .#. ... ... X.
            ..# ... ... X.
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
        name: "egress to some pods of the own namespace",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {pod: a}}}]}]}
",
        table: "
            #XX XXX XXX X.
            .#X XXX XXX X.
            .X# XXX XXX X.
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
        name: "egress to namespaces by an expression, to pods by a label",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [y, z]}]}, podSelector: {matchLabels: {pod: c}}}]}]}
",
        table: "
            #XX XX. XX. X.
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
        name: "each rule has its own peers and ports",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}], ports: [{port: 80}]}, {from: [{namespaceSelector: {matchLabels: {ns: z}}}], ports: [{port: 81}]}]}
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
        but: &[
            (
                "tcp 80",
                "
                #.. ... ... ..
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
            ),
            (
                "tcp 81",
                "
                #.. ... ... ..
                X#. ... ... ..
                X.# ... ... ..
                X.. #.. ... ..
                X.. .#. ... ..
                X.. ..# ... ..
                ... ... #.. ..
                ... ... .#. ..
                ... ... ..# ..
                X.. ... ... #.
                ... ... ... .#
            ",
            ),
        ],
    },
    Case {
        name: "stacked policies about the same pods: what any of them allows",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: one, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}], ports: [{port: 80}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: two, namespace: x}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: b}}}], ports: [{port: 81}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: three, namespace: x}
spec: {podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}, ingress: [{from: [{podSelector: {}}], ports: [{protocol: UDP}]}]}
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
        but: &[
            (
                "tcp 80",
                "
                #XX ... ... ..
                X#X ... ... ..
                XX# ... ... ..
                .XX #.. ... ..
                .XX .#. ... ..
                .XX ..# ... ..
                XXX ... #.. ..
                XXX ... .#. ..
                XXX ... ..# ..
                XXX ... ... #.
                ... ... ... .#
            ",
            ),
            (
                "tcp 81",
                "
                #XX ... ... ..
                X#X ... ... ..
                XX# ... ... ..
                XXX #.. ... ..
                ... .#. ... ..
                XXX ..# ... ..
                XXX ... #.. ..
                XXX ... .#. ..
                XXX ... ..# ..
                XXX ... ... #.
                ... ... ... .#
            ",
            ),
            (
                "udp",
                "
                #.X ... ... ..
                .#X ... ... ..
                ..# ... ... ..
                XXX #.. ... ..
                XXX .#. ... ..
                XXX ..# ... ..
                XXX ... #.. ..
                XXX ... .#. ..
                XXX ... ..# ..
                XXX ... ... #.
                ... ... ... .#
            ",
            ),
        ],
    },
    Case {
        name: "policies of two directions about the same pods do not mix",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: z}}}]}]}
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
        name: "policies of all namespaces at once",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: z}}}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: y}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: x}}}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: z}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}]}]}
",
        table: "
            #XX ... XXX ..
            X#X ... XXX ..
            XX# ... XXX ..
            XXX #XX ... ..
            XXX X#X ... ..
            XXX XX# ... ..
            ... XXX #XX ..
            ... XXX X#X ..
            ... XXX XX# ..
            XXX XXX XXX #.
            ... ... ... .#
        ",
        but: &[],
    },
];
