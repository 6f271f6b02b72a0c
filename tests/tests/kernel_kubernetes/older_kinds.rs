//! AdminNetworkPolicy and BaselineAdminNetworkPolicy. Tables are read as [`tests::lab::truth::TruthTables`] says.

use crate::Case;

pub const CASES: &[Case] = &[
    Case {
        name: "AdminNetworkPolicy: a named port, and a subject of pods",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: p}
spec:
  priority: 5
  subject: {pods: {namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}], ports: [{namedPort: web}]}]
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
                X.. #.. ... ..
                X.. .#. ... ..
                X.. ..# ... ..
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
                .X. #.. ... ..
                .X. .#. ... ..
                .X. ..# ... ..
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
        name: "AdminNetworkPolicy: nodes",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: p}
spec:
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  egress: [{action: Deny, to: [{nodes: {matchExpressions: [{key: role, operator: Exists}]}}], ports: [{portNumber: {protocol: UDP, port: 81}}]}]
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
            "udp 81",
            "
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
        )],
    },
    Case {
        name: "AdminNetworkPolicy: SCTP by number and by range",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: p}
spec:
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  egress: [{action: Deny, to: [{namespaces: {matchLabels: {ns: y}}}], ports: [{portNumber: {protocol: SCTP, port: 80}}]}, {action: Deny, to: [{namespaces: {matchLabels: {ns: z}}}], ports: [{portRange: {protocol: SCTP, start: 81, end: 90}}]}]
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
            ),
            (
                "sctp 81",
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
        name: "AdminNetworkPolicy: its priorities and those of ClusterNetworkPolicy are one order",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: older}
spec:
  priority: 10
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Allow, from: [{namespaces: {matchLabels: {ns: y}}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: newer}
spec:
  tier: Admin
  priority: 20
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: newest}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: c}}}}]}]
",
        table: "
            #.. ... ... ..
            .#. ... ... ..
            ..# ... ... ..
            ... #.. ... ..
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
        name: "AdminNetworkPolicy: Pass on to NetworkPolicy, and the rest denied",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: p}
spec:
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Pass, from: [{namespaces: {matchLabels: {ns: y}}}]}, {action: Deny, from: [{namespaces: {}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: b}}}]}]}
",
        table: "
            #XX ... ... ..
            X#X ... ... ..
            XX# ... ... ..
            X.. #.. ... ..
            ... .#. ... ..
            X.. ..# ... ..
            XXX ... #.. ..
            XXX ... .#. ..
            XXX ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "AdminNetworkPolicy: both directions, before what a NetworkPolicy allows",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: p}
spec:
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}]}]
  egress: [{action: Deny, to: [{namespaces: {matchLabels: {ns: z}}}], ports: [{portNumber: {port: 80}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}
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
        )],
    },
    Case {
        name: "BaselineAdminNetworkPolicy: SCTP and UDP of some ports",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Allow, from: [{namespaces: {matchLabels: {ns: y}}}], ports: [{portNumber: {protocol: SCTP, port: 80}}, {portRange: {protocol: UDP, start: 80, end: 81}}]}, {action: Deny, from: [{namespaces: {}}]}]
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
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[
            (
                "sctp 80",
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
                ... ... ... #.
                ... ... ... .#
            ",
            ),
            (
                "udp",
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
                ... ... ... #.
                ... ... ... .#
            ",
            ),
        ],
    },
    Case {
        name: "BaselineAdminNetworkPolicy: networks with ports, and nodes",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {matchLabels: {ns: x}}}
  egress: [{action: Deny, to: [{networks: [10.79.0.0/24]}], ports: [{portNumber: {port: 80}}]}, {action: Deny, to: [{nodes: {}}], ports: [{portNumber: {protocol: UDP, port: 80}}]}]
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
                "tcp 80 v4",
                "
                #.. ... ... XX
                .#. ... ... XX
                ..# ... ... XX
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
            ),
        ],
    },
    Case {
        name: "BaselineAdminNetworkPolicy: NetworkPolicy is stronger, in its direction",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}]}]
  egress: [{action: Deny, to: [{namespaces: {matchLabels: {ns: y}}}]}]
",
        table: "
            #.. XXX ... ..
            X#. XXX ... ..
            X.# XXX ... ..
            .XX #.. ... ..
            .XX .#. ... ..
            .XX ..# ... ..
            X.. ... #.. ..
            X.. ... .#. ..
            X.. ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "AdminNetworkPolicy, NetworkPolicy and BaselineAdminNetworkPolicy at once",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: p}
spec:
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Allow, from: [{pods: {namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: a}}}}]}, {action: Pass, from: [{pods: {namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: b}}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: z}}}]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
",
        table: "
            #XX ... ... ..
            X#X ... ... ..
            XX# ... ... ..
            ... #.. ... ..
            XXX .#. ... ..
            XXX ..# ... ..
            .XX ... #.. ..
            .XX ... .#. ..
            .XX ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
];
