//! Tier Admin: actions, protocols, subjects and peers. Tables are read as [`tests::lab::truth::TruthTables`] says.

use crate::Case;

pub const CASES: &[Case] = &[
    Case {
        name: "Admin: Deny by SCTP alone",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}], protocols: [{sctp: {destinationPort: {number: 80}}}]}]
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
        but: &[(
            "sctp 80",
            "
                #.. ... ... ..
                .#. ... ... ..
                ..# ... ... ..
                XXX #.. ... ..
                XXX .#. ... ..
                XXX ..# ... ..
                ... ... #.. ..
                ... ... .#. ..
                ... ... ..# ..
                ... ... ... #.
                ... ... ... .#
            ",
        )],
    },
    Case {
        name: "Admin: Accept by SCTP alone, over what a NetworkPolicy denies",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: x}
spec: {podSelector: {}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Accept, from: [{namespaces: {matchLabels: {ns: y}}}], protocols: [{sctp: {destinationPort: {range: {start: 80, end: 81}}}}]}]
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
            "sctp",
            "
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
        )],
    },
    Case {
        name: "Admin: all ports of a protocol",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  egress: [{action: Deny, to: [{namespaces: {matchLabels: {ns: y}}}], protocols: [{udp: {destinationPort: {range: {start: 1, end: 65535}}}}]}]
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
        but: &[(
            "udp",
            "
                #.. XXX ... ..
                .#. XXX ... ..
                ..# XXX ... ..
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
        name: "Admin: several protocols of one rule",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  egress: [{action: Deny, to: [{namespaces: {matchLabels: {ns: z}}}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {number: 81}}}, {sctp: {destinationPort: {range: {start: 1, end: 65535}}}}]}]
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
        but: &[
            (
                "tcp 80",
                "
                #.. ... XXX ..
                .#. ... XXX ..
                ..# ... XXX ..
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
                "udp 81",
                "
                #.. ... XXX ..
                .#. ... XXX ..
                ..# ... XXX ..
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
                "sctp",
                "
                #.. ... XXX ..
                .#. ... XXX ..
                ..# ... XXX ..
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
        name: "Admin: Accept of a port before Deny of everything",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Accept, from: [{namespaces: {matchLabels: {ns: y}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}, {action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}]}]
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
            ..# ... ... ..
            XXX #.. ... ..
            XXX .#. ... ..
            XXX ..# ... ..
            ... ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[(
            "tcp 80",
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
        name: "Admin: Deny of a port before Accept of everything, over a NetworkPolicy that denies",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: x}
spec: {podSelector: {}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}], protocols: [{udp: {destinationPort: {number: 80}}}]}, {action: Accept, from: [{namespaces: {matchLabels: {ns: y}}}]}]
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
        but: &[(
            "udp 80",
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
                XXX ... ... #.
                ... ... ... .#
            ",
        )],
    },
    Case {
        name: "Admin: both directions of one policy",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}]}]
  egress: [{action: Deny, to: [{namespaces: {matchLabels: {ns: z}}}]}]
",
        table: "
            #.. ... XXX ..
            .#. ... XXX ..
            ..# ... XXX ..
            XXX #.. ... ..
            XXX .#. ... ..
            XXX ..# ... ..
            ... ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "Admin: rules without from here are none",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: []
  egress: []
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
        name: "Admin: a policy without rules changes nothing",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: []
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
        name: "Admin: egress Pass hands on to NetworkPolicy, for some of the destinations",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: y}}}]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  egress: [{action: Pass, to: [{pods: {namespaceSelector: {matchLabels: {ns: z}}, podSelector: {matchLabels: {pod: a}}}}]}, {action: Pass, to: [{namespaces: {matchLabels: {ns: y}}}]}, {action: Accept, to: [{namespaces: {}}]}]
",
        table: "
            #.. ... X.. X.
            .#. ... X.. X.
            ..# ... X.. X.
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
        name: "Admin: egress Accept does not open the other end",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: [Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: y}
spec: {podSelector: {matchLabels: {pod: a}}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  egress: [{action: Accept, to: [{namespaces: {matchLabels: {ns: y}}}]}]
",
        table: "
            #XX X.. XXX X.
            X#X X.. XXX X.
            XX# X.. XXX X.
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
        name: "Admin: Accept at both ends over NetworkPolicies of both",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: [Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: y}
spec: {podSelector: {}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: out}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  egress: [{action: Accept, to: [{namespaces: {matchLabels: {ns: y}}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: in}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: y}}}
  ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchLabels: {pod: a}}}}]}]
",
        table: "
            #XX ... XXX X.
            X#X XXX XXX X.
            XX# XXX XXX X.
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
        name: "Admin: several peers of one rule",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}, {pods: {namespaceSelector: {matchLabels: {ns: z}}, podSelector: {matchLabels: {pod: a}}}}, {pods: {namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchLabels: {pod: b}}}}]}]
",
        table: "
            #.. ... ... ..
            X#X ... ... ..
            ..# ... ... ..
            XXX #.. ... ..
            XXX .#. ... ..
            XXX ..# ... ..
            XXX ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "Admin: a subject that nobody is",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {pods: {namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchLabels: {pod: d}}}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
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
        name: "Admin: a subject of pods of every namespace",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: a}}}}
  egress: [{action: Deny, to: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}}]}]
",
        table: "
            #X. .X. .X. ..
            .#. ... ... ..
            ..# ... ... ..
            .X. #X. .X. ..
            ... .#. ... ..
            ... ..# ... ..
            .X. .X. #X. ..
            ... ... .#. ..
            ... ... ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "Admin: expressions of subject and peers",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}}
  ingress: [{action: Deny, from: [{namespaces: {matchExpressions: [{key: ns, operator: In, values: [x, z]}, {key: kubernetes.io/metadata.name, operator: NotIn, values: [z]}]}}]}]
",
        table: "
            #.. XXX XXX ..
            .#. XXX XXX ..
            ..# XXX XXX ..
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
        name: "Admin: a named port of SCTP, whichever protocol it is",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: x}}}], protocols: [{destinationNamedPort: stream}, {destinationNamedPort: query}]}]
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
        but: &[
            (
                "sctp 80",
                "
                #.X ..X ..X ..
                .#X ..X ..X ..
                ..# ..X ..X ..
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
                "udp 81",
                "
                #.. X.. X.. ..
                X#. X.. X.. ..
                X.# X.. X.. ..
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
                #X. .X. .X. ..
                .#. .X. .X. ..
                .X# .X. .X. ..
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
        name: "Admin: a subject of pods and another policy of their namespace",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: some}
spec:
  tier: Admin
  priority: 5
  subject: {pods: {namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchLabels: {pod: a}}}}
  ingress: [{action: Accept, from: [{namespaces: {matchLabels: {ns: y}}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: all}
spec:
  tier: Admin
  priority: 6
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
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
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
];
