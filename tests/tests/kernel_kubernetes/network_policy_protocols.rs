//! NetworkPolicy: protocols, ranges and names of ports. Tables are read as [`tests::lab::truth::TruthTables`] says.

use crate::Case;

pub const CASES: &[Case] = &[
    Case {
        name: "UDP of a port is not TCP of it",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 80, protocol: UDP}]}]}
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
        but: &[(
            "udp 80",
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
        name: "SCTP of a port is not TCP of it",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {}}], ports: [{port: 81, protocol: SCTP}]}]}
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
        but: &[(
            "sctp 81",
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
                X.. ... ... #.
                ... ... ... .#
            ",
        )],
    },
    Case {
        name: "egress by SCTP, a range of ports",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: y}}}], ports: [{protocol: SCTP, port: 81, endPort: 90}]}]}
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
        but: &[(
            "sctp 81",
            "
                #XX ... XXX X.
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
        name: "TCP and SCTP of one port, in one rule",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: z}}}], ports: [{port: 80}, {port: 80, protocol: SCTP}]}]}
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
            (
                "sctp 80",
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
        name: "all protocols without a port",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: z}}}], ports: [{protocol: TCP}, {protocol: UDP}, {protocol: SCTP}]}]}
",
        table: "
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
        but: &[],
    },
    Case {
        name: "a range of one port",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 81, endPort: 81}]}]}
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
        but: &[(
            "tcp 81",
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
        name: "a range of all ports",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{protocol: UDP, port: 1, endPort: 65535}]}]}
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
        but: &[(
            "udp",
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
        name: "a range that has neither port",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 82, endPort: 65535}, {port: 1, endPort: 79}]}]}
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
        name: "egress to a range of ports of some pods",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: c}}}], ports: [{port: 80, endPort: 81}]}]}
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
            "tcp",
            "
                #X. XX. XX. X.
                X#. XX. XX. X.
                XX# XX. XX. X.
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
        name: "ranges that overlap",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}], ports: [{port: 1, endPort: 80}, {port: 80, endPort: 200}]}, {from: [{namespaceSelector: {matchLabels: {ns: z}}}], ports: [{port: 80}, {port: 80, endPort: 81}]}]}
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
        but: &[(
            "tcp",
            "
                #.. ... ... ..
                X#. ... ... ..
                X.# ... ... ..
                ... #.. ... ..
                ... .#. ... ..
                ... ..# ... ..
                ... ... #.. ..
                ... ... .#. ..
                ... ... ..# ..
                X.. ... ... #.
                ... ... ... .#
            ",
        )],
    },
    Case {
        name: "a named port of UDP is what each pod calls so",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {}}], ports: [{port: query, protocol: UDP}]}]}
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
                "udp 81",
                "
                #XX ... ... ..
                .#X ... ... ..
                .X# ... ... ..
                .XX #.. ... ..
                .XX .#. ... ..
                .XX ..# ... ..
                .XX ... #.. ..
                .XX ... .#. ..
                .XX ... ..# ..
                XXX ... ... #.
                ... ... ... .#
            ",
            ),
            (
                "udp 80",
                "
                #.X ... ... ..
                X#X ... ... ..
                X.# ... ... ..
                X.X #.. ... ..
                X.X .#. ... ..
                X.X ..# ... ..
                X.X ... #.. ..
                X.X ... .#. ..
                X.X ... ..# ..
                XXX ... ... #.
                ... ... ... .#
            ",
            ),
        ],
    },
    Case {
        name: "a named port of SCTP",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {}}], ports: [{port: stream, protocol: SCTP}]}]}
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
        but: &[(
            "sctp 80",
            "
                #X. ... ... ..
                X#. ... ... ..
                XX# ... ... ..
                XX. #.. ... ..
                XX. .#. ... ..
                XX. ..# ... ..
                XX. ... #.. ..
                XX. ... .#. ..
                XX. ... ..# ..
                XXX ... ... #.
                ... ... ... .#
            ",
        )],
    },
    Case {
        name: "a named port that no pod has",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, ingress: [{ports: [{port: nowhere}]}]}
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
        name: "a named port from one namespace",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}], ports: [{port: web}]}]}
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
        but: &[(
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
        )],
    },
    Case {
        name: "a named port of egress to everybody: who is no pod has none",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]}
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
        but: &[
            (
                "tcp 80",
                "
                #XX .XX .XX X.
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
            ),
            (
                "tcp 81",
                "
                #.X X.X X.X X.
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
            ),
        ],
    },
    Case {
        name: "a named port and a number in one rule",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, ingress: [{ports: [{port: web}, {port: 81}]}]}
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
                .#X ... ... ..
                .X# ... ... ..
                .XX #.. ... ..
                .XX .#. ... ..
                .XX ..# ... ..
                .XX ... #.. ..
                .XX ... .#. ..
                .XX ... ..# ..
                .XX ... ... #.
                ... ... ... .#
            ",
            ),
            (
                "tcp 81",
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
            ),
        ],
    },
    Case {
        name: "named ports in both directions",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: web}]}], egress: [{to: [{namespaceSelector: {matchLabels: {ns: z}}}], ports: [{port: query, protocol: UDP}]}]}
",
        table: "
            #XX XXX XXX X.
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
            ),
            (
                "udp 80",
                "
                #XX XXX X.X X.
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
            ),
            (
                "udp 81",
                "
                #XX XXX .XX X.
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
            ),
        ],
    },
];
