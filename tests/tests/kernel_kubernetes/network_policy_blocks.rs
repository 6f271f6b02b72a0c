//! NetworkPolicy: blocks of addresses. Tables are read as [`tests::lab::truth::TruthTables`] says.

use crate::Case;

pub const CASES: &[Case] = &[
    Case {
        name: "egress to a block with exceptions",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.78.0.0/16, except: [10.78.2.0/24]}}]}]}
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
            "v4",
            "
                #.. XXX ... X.
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
        name: "an exception of one block that another block has is allowed",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.78.2.0/24, except: [10.78.2.12/32]}}, {ipBlock: {cidr: 10.78.2.12/32}}]}]}
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
            "v4",
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
        name: "an exception of one policy that another policy allows",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: one, namespace: x}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.78.0.0/16, except: [10.78.2.0/24]}}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: two, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}]}]}
",
        table: "
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
        but: &[(
            "v4",
            "
                #.. ... ... ..
                .#. ... ... ..
                ..# ... ... ..
                .XX #.. ... ..
                .XX .#. ... ..
                .XX ..# ... ..
                ... ... #.. ..
                ... ... .#. ..
                ... ... ..# ..
                XXX ... ... #.
                ... ... ... .#
            ",
        )],
    },
    Case {
        name: "a block of IPv6 with exceptions",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{ipBlock: {cidr: 'fd78::/16', except: ['fd78:2::/32', 'fd78:3::13/128']}}]}]}
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
            "v6",
            "
                #.. ... ... ..
                .#. ... ... ..
                ..# ... ... ..
                X.. #.. ... ..
                X.. .#. ... ..
                X.. ..# ... ..
                ... ... #.. ..
                ... ... .#. ..
                X.. ... ..# ..
                X.. ... ... #.
                ... ... ... .#
            ",
        )],
    },
    Case {
        name: "everybody but the pods",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.78.0.0/16]}}]}]}
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
            "v4",
            "
                #XX ... ... ..
                X#X ... ... ..
                XX# ... ... ..
                XXX #.. ... ..
                XXX .#. ... ..
                XXX ..# ... ..
                XXX ... #.. ..
                XXX ... .#. ..
                XXX ... ..# ..
                ... ... ... #.
                ... ... ... .#
            ",
        )],
    },
    Case {
        name: "everybody but one address, of both families",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.78.3.11/32]}}, {ipBlock: {cidr: '::/0', except: ['fd78:3::11/128']}}]}]}
",
        table: "
            #.. ... X.. ..
            .#. ... X.. ..
            ..# ... X.. ..
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
        name: "bits beyond the length of a block do not count",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{ipBlock: {cidr: 10.78.2.77/24}}]}]}
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
            "v4",
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
        name: "a block with ports beside pods without",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{ipBlock: {cidr: 10.79.0.0/24}}], ports: [{port: 80}, {port: 80, protocol: SCTP}]}, {from: [{podSelector: {matchLabels: {pod: b}}}]}]}
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
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
                "tcp 80 v4",
                "
                #.. ... ... ..
                .#. ... ... ..
                X.# ... ... ..
                X.. #.. ... ..
                X.. .#. ... ..
                X.. ..# ... ..
                X.. ... #.. ..
                X.. ... .#. ..
                X.. ... ..# ..
                ... ... ... #.
                ... ... ... .#
            ",
            ),
            (
                "sctp 80 v4",
                "
                #.. ... ... ..
                .#. ... ... ..
                X.# ... ... ..
                X.. #.. ... ..
                X.. .#. ... ..
                X.. ..# ... ..
                X.. ... #.. ..
                X.. ... .#. ..
                X.. ... ..# ..
                ... ... ... #.
                ... ... ... .#
            ",
            ),
        ],
    },
    Case {
        name: "the node may whatever a block leaves out",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.79.0.0/24]}}]}], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.79.0.0/24]}}]}]}
",
        table: "
            #XX XXX XXX X.
            X#X XXX XXX X.
            XX# XXX XXX X.
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
            "v4",
            "
                #.. ... ... X.
                .#. ... ... X.
                ..# ... ... X.
                ... #.. ... ..
                ... .#. ... ..
                ... ..# ... ..
                ... ... #.. ..
                ... ... .#. ..
                ... ... ..# ..
                XXX ... ... #.
                ... ... ... .#
            ",
        )],
    },
];
