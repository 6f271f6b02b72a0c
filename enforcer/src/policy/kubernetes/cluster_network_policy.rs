//! Kind `ClusterNetworkPolicy` of `policy.networking.k8s.io/v1alpha2`.

use super::{
    cluster_rule::{ClusterPeer, ClusterSubject, Dialect, WrittenPolicy, WrittenRule},
    object::{Located, Metadata, objects},
};
use crate::policy::{
    diagnostic::Code,
    model::{NamedPortMatch, PolicyKind, PortMatch, PortRange, RuleAction, Tier},
    reader::Reader,
    segment_policy::PolicyDocument,
};
use enforcer_common::Protocol;

const TIERS: [(&str, Tier); 2] = [("Admin", Tier::Admin), ("Baseline", Tier::Baseline)];

const ACTIONS: [(&str, RuleAction); 3] = [
    ("Accept", RuleAction::Allow),
    ("Deny", RuleAction::Deny),
    ("Pass", RuleAction::Pass),
];

objects! {
    /// The object.
    ClusterNetworkPolicy strict "a ClusterNetworkPolicy" {
        /// For those who pass objects around.
        api_version: String = "apiVersion",
        /// As `api_version`.
        kind: String = "kind",
        /// Its name.
        metadata: Metadata = "metadata",
        /// What it says.
        spec: ClusterNetworkPolicySpec = "spec",
        /// What a cluster makes of it.
        status: super::Ignored = "status",
    }

    /// What a ClusterNetworkPolicy says.
    ClusterNetworkPolicySpec strict "`spec` of a ClusterNetworkPolicy" {
        /// `Admin` or `Baseline`.
        tier: Located<String> = "tier",
        /// From 0 to 1000, smaller numbers first.
        priority: Located<i32> = "priority",
        /// Whom it is about.
        subject: ClusterSubject = "subject",
        /// For what comes in.
        ingress: Vec<ClusterNetworkPolicyRule> = "ingress",
        /// For what goes out.
        egress: Vec<ClusterNetworkPolicyRule> = "egress",
    }

    /// A rule. Below `ingress` it has `from`, below `egress` `to`.
    ClusterNetworkPolicyRule strict "a rule" {
        /// For reports.
        name: Located<String> = "name",
        /// `Accept`, `Deny` or `Pass`.
        action: Located<String> = "action",
        /// Sources.
        from: Located<Vec<ClusterPeer>> = "from",
        /// Destinations.
        to: Located<Vec<ClusterPeer>> = "to",
        /// Protocols and ports; everything if it is missing.
        protocols: Located<Vec<ClusterNetworkPolicyProtocol>> = "protocols",
    }

    /// Ports of one protocol, or a port by name. Exactly one of them.
    ClusterNetworkPolicyProtocol strict "an item of `protocols`" {
        /// Of TCP.
        tcp: DestinationPort = "tcp",
        /// Of UDP.
        udp: DestinationPort = "udp",
        /// Of SCTP.
        sctp: DestinationPort = "sctp",
        /// By name, of whichever protocol it is.
        destination_named_port: Located<String> = "destinationNamedPort",
    }

    /// Ports that flows go to.
    DestinationPort strict "a protocol" {
        /// Which ones.
        destination_port: ClusterPort = "destinationPort",
    }

    /// A port or a range. Exactly one of the two.
    ClusterPort strict "`destinationPort`" {
        /// One.
        number: Located<i32> = "number",
        /// Several.
        range: ClusterPortRange = "range",
    }

    /// A range of ports.
    ClusterPortRange strict "`range`" {
        /// First.
        start: Located<i32> = "start",
        /// Last.
        end: Located<i32> = "end",
    }
}

const DIALECT: Dialect<ClusterNetworkPolicyRule, ClusterNetworkPolicyProtocol> = Dialect {
    kind: PolicyKind::ClusterNetworkPolicy,
    actions: &ACTIONS,
    ports: "protocols",
    any_namespace: true,
    rule: |rule| WrittenRule {
        at: rule.at,
        name: rule.name.as_ref(),
        action: rule.action.as_ref(),
        from: rule.from.as_ref(),
        to: rule.to.as_ref(),
        ports: rule.protocols.as_ref(),
    },
    port: |reader, protocol| reader.cluster_protocol(protocol),
};

impl Reader<'_> {
    /// What a ClusterNetworkPolicy means.
    pub(super) fn cluster_network_policy(
        &mut self,
        object: &ClusterNetworkPolicy,
    ) -> Option<PolicyDocument> {
        let message = "a ClusterNetworkPolicy needs `spec`";
        let help = "write `spec:` with `tier`, `priority`, `subject` and rules";
        let spec = self.must(object.spec.as_ref(), object.at, message, help)?;
        let help = "write `tier: Admin` or `tier: Baseline`";
        let tier = self.must(spec.tier.as_ref(), spec.at, "`spec` needs `tier`", help);
        let tier = tier.and_then(|tier| self.word(tier, "`tier`", &TIERS));
        let priority = self.priority(spec.priority.as_ref(), spec.at);
        let written = WrittenPolicy {
            at: object.at,
            metadata: object.metadata.as_ref(),
            spec_at: spec.at,
            subject: spec.subject.as_ref(),
            ingress: spec.ingress.as_deref(),
            egress: spec.egress.as_deref(),
        };
        self.cluster_policy(&written, tier.zip(priority), &DIALECT)
    }

    fn cluster_protocol(&mut self, written: &ClusterNetworkPolicyProtocol) -> Option<PortMatch> {
        let help = "write one of `tcp`, `udp`, `sctp` and `destinationNamedPort` in each item, as \
                    in `tcp: {destinationPort: {number: 443}}`";
        let by_protocol = [
            (Protocol::TCP, &written.tcp),
            (Protocol::UDP, &written.udp),
            (Protocol::SCTP, &written.sctp),
        ];
        let mut said = by_protocol
            .into_iter()
            .filter_map(|(protocol, ports)| Some((protocol, ports.as_ref()?)));
        match (said.next(), said.next(), &written.destination_named_port) {
            (Some((protocol, ports)), None, None) => self.destination(protocol, ports),
            (None, None, Some(name)) => Some(PortMatch::Named(NamedPortMatch {
                protocol: None,
                name: self.service_name(&name.value, name.at)?,
            })),
            _ => {
                let message = "an item of `protocols` says exactly one thing";
                self.error(Code::BadPort, written.at, message, help);
                None
            }
        }
    }

    fn destination(&mut self, protocol: u8, written: &DestinationPort) -> Option<PortMatch> {
        let help = "write `destinationPort: {number: 443}` or `destinationPort: {range: {start: \
                    1, end: 65535}}`";
        let message = "a protocol needs `destinationPort`";
        let port = self.must(written.destination_port.as_ref(), written.at, message, help)?;
        let (first, last) = match (&port.number, &port.range) {
            (Some(number), None) => {
                let number = self.number(number.value, number.at)?;
                (number, number)
            }
            (None, Some(range)) => {
                let message = "`range` needs `start` and `end`";
                let both = range.start.as_ref().zip(range.end.as_ref());
                let both = self.must(both.as_ref(), range.at, message, help).copied()?;
                self.first_and_last(both.0, both.1)?
            }
            _ => {
                let message = "`destinationPort` has exactly one of `number` and `range`";
                self.error(Code::BadPort, port.at, message, help);
                return None;
            }
        };
        Some(PortMatch::Range(PortRange {
            protocol: Some(protocol),
            first,
            last,
        }))
    }
}
