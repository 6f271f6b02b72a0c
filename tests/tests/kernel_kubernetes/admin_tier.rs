//! Tier Admin. Tables are read as [`tests::lab::truth::TruthTables`] says.

use crate::Case;

pub const CASES: &[Case] = &[
    Case {
        name: "Admin: Deny is stronger than a NetworkPolicy that allows",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow, namespace: x}
spec: {podSelector: {}, ingress: [{}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: a}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}]}]
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
        but: &[],
    },
    Case {
        name: "Admin: Accept is stronger than a NetworkPolicy that denies",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: x}
spec: {podSelector: {}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: a}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: b}}}}]}]
",
        table: "
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
        but: &[],
    },
    Case {
        name: "Admin: Pass hands on to NetworkPolicy",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: z}}}]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: a}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Pass, from: [{namespaces: {matchLabels: {ns: z}}}]}, {action: Deny, from: [{namespaces: {}}]}]
",
        table: "
            #XX ... ... ..
            X#X ... ... ..
            XX# ... ... ..
            XXX #.. ... ..
            XXX .#. ... ..
            XXX ..# ... ..
            ... ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "Admin: the smaller priority is asked first",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: later}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: sooner}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: b}}}}]}]
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
            ..# ... ... ..
            XXX #.. ... ..
            ... .#. ... ..
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
        name: "Admin: the first rule that matches decides",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: a}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: a}}}}]}, {action: Accept, from: [{namespaces: {matchLabels: {ns: y}}}]}, {action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: b}}}}]}]
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
            ..# ... ... ..
            XXX #.. ... ..
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
        name: "Admin: Pass skips the rest of the tier, of all its policies",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: later}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: sooner}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Pass, from: [{namespaces: {matchLabels: {ns: z}}}]}]
",
        table: "
            #XX ... ... ..
            X#X ... ... ..
            XX# ... ... ..
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
        name: "Admin: a subject of some pods",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: a}
spec:
  tier: Admin
  priority: 5
  subject: {pods: {namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [x, y]}]}, podSelector: {matchLabels: {pod: c}}}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
",
        table: "
            #.X ..X ... ..
            .#X ..X ... ..
            ..# ..X ... ..
            ..X #.X ... ..
            ..X .#X ... ..
            ..X ..# ... ..
            ..X ..X #.. ..
            ..X ..X .#. ..
            ..X ..X ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "Admin: an empty subject is every pod",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: a}
spec:
  tier: Admin
  priority: 0
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {ns: z}}, podSelector: {matchLabels: {pod: c}}}}]}]
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
            XXX XXX XX# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "Admin: protocols and ports, in numbers, ranges and names",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: a}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}], protocols: [{tcp: {destinationPort: {range: {start: 1, end: 80}}}}]}, {action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}], protocols: [{udp: {destinationPort: {number: 81}}}]}, {action: Deny, from: [{namespaces: {matchLabels: {ns: z}}}], protocols: [{destinationNamedPort: web}]}]
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
                #.. ... ... ..
                .#. ... ... ..
                ..# ... ... ..
                XXX #.. ... ..
                XXX .#. ... ..
                XXX ..# ... ..
                X.. ... #.. ..
                X.. ... .#. ..
                X.. ... ..# ..
                ... ... ... #.
                ... ... ... .#
            ",
            ),
            (
                "udp 81",
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
                .X. ... #.. ..
                .X. ... .#. ..
                .X. ... ..# ..
                ... ... ... #.
                ... ... ... .#
            ",
            ),
        ],
    },
    Case {
        name: "Admin: egress to pods, with a named port of theirs",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: a}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  egress: [{action: Deny, to: [{namespaces: {matchLabels: {ns: y}}}], protocols: [{destinationNamedPort: web}]}, {action: Deny, to: [{pods: {namespaceSelector: {matchLabels: {ns: z}}, podSelector: {matchLabels: {pod: a}}}}]}]
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
        but: &[
            (
                "tcp 80",
                "
                #.. X.. X.. ..
                .#. X.. X.. ..
                ..# X.. X.. ..
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
                #.. .X. X.. ..
                .#. .X. X.. ..
                ..# .X. X.. ..
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
        name: "Admin: egress to networks, whoever has the address",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: a}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  egress: [{action: Accept, to: [{networks: [10.78.2.12/32]}]}, {action: Deny, to: [{networks: [10.78.2.0/24, 'fd79::2/128']}]}]
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
                "v4",
                "
                #.. X.X ... ..
                .#. X.X ... ..
                ..# X.X ... ..
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
                "v6",
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
                ... ... ... #.
                ... ... ... .#
            ",
            ),
        ],
    },
    Case {
        name: "Admin: egress to nodes by their labels, before what NetworkPolicy always allows",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: a}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  egress: [{action: Accept, to: [{nodes: {matchLabels: {role: other}}}]}, {action: Deny, to: [{nodes: {matchLabels: {role: worker}}}]}]
",
        table: "
            #.. ... ... .X
            .#. ... ... .X
            ..# ... ... .X
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
];
