//! Tier Baseline, and the older kinds. Tables are read as [`tests::lab::truth::TruthTables`] says.

use crate::Case;

pub const CASES: &[Case] = &[
    Case {
        name: "Baseline: holds for pods that no NetworkPolicy isolates",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: b}
spec:
  tier: Baseline
  priority: 5
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
            X.. ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "Baseline: priorities, order and Pass",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: later}
spec:
  tier: Baseline
  priority: 10
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: sooner}
spec:
  tier: Baseline
  priority: 1
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: a}}}}]}, {action: Pass, from: [{pods: {namespaceSelector: {matchLabels: {ns: z}}, podSelector: {matchLabels: {pod: a}}}}]}, {action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {ns: z}}, podSelector: {matchLabels: {pod: a}}}}]}]
",
        table: "
            #XX ... ... ..
            X#X ... ... ..
            XX# ... ... ..
            ... #.. ... ..
            XXX .#. ... ..
            XXX ..# ... ..
            ... ... #.. ..
            XXX ... .#. ..
            XXX ... ..# ..
            ... ... ... #.
            ... ... ... .#
        ",
        but: &[],
    },
    Case {
        name: "Baseline: Admin passes to it where no NetworkPolicy isolates",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: top}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Pass, from: [{namespaces: {matchLabels: {ns: y}}}]}, {action: Accept, from: [{namespaces: {}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: bottom}
spec:
  tier: Baseline
  priority: 1
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
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
        name: "AdminNetworkPolicy: Allow, Deny and Pass, and ports",
        policy: r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: x}
spec: {podSelector: {}}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: p}
spec:
  priority: 50
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Allow, from: [{namespaces: {matchLabels: {ns: y}}}], ports: [{portNumber: {port: 80}}, {portRange: {protocol: UDP, start: 81, end: 90}}]}, {action: Pass, from: [{pods: {namespaceSelector: {matchLabels: {ns: z}}, podSelector: {matchLabels: {pod: a}}}}]}, {action: Allow, from: [{namespaces: {matchLabels: {ns: z}}}]}]
",
        table: "
            #XX ... ... ..
            X#X ... ... ..
            XX# ... ... ..
            XXX #.. ... ..
            XXX .#. ... ..
            XXX ..# ... ..
            XXX ... #.. ..
            ... ... .#. ..
            ... ... ..# ..
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
                ... #.. ... ..
                ... .#. ... ..
                ... ..# ... ..
                XXX ... #.. ..
                ... ... .#. ..
                ... ... ..# ..
                XXX ... ... #.
                ... ... ... .#
            ",
            ),
            (
                "udp 81",
                "
                #XX ... ... ..
                X#X ... ... ..
                XX# ... ... ..
                ... #.. ... ..
                ... .#. ... ..
                ... ..# ... ..
                XXX ... #.. ..
                ... ... .#. ..
                ... ... ..# ..
                XXX ... ... #.
                ... ... ... .#
            ",
            ),
        ],
    },
    Case {
        name: "AdminNetworkPolicy: egress to networks before NetworkPolicy, and the older baseline after it",
        policy: r"
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: p}
spec:
  priority: 50
  subject: {namespaces: {matchLabels: {ns: x}}}
  egress: [{action: Deny, to: [{networks: [10.79.0.0/24]}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {matchLabels: {ns: x}}}
  egress: [{action: Allow, to: [{namespaces: {matchLabels: {ns: y}}}]}, {action: Deny, to: [{namespaces: {}}]}]
",
        table: "
            #XX ... XXX ..
            X#X ... XXX ..
            XX# ... XXX ..
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
                #XX ... XXX XX
                X#X ... XXX XX
                XX# ... XXX XX
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
];
