//! Kind `AdminNetworkPolicy` of `policy.networking.k8s.io/v1alpha1`, the older form of a
//! ClusterNetworkPolicy in tier `Admin`.

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

const ACTIONS: [(&str, RuleAction); 3] = [
    ("Allow", RuleAction::Allow),
    ("Deny", RuleAction::Deny),
    ("Pass", RuleAction::Pass),
];

objects! {
    /// The object.
    AdminNetworkPolicy strict "an AdminNetworkPolicy" {
        /// For those who pass objects around.
        api_version: String = "apiVersion",
        /// As `api_version`.
        kind: String = "kind",
        /// Its name.
        metadata: Metadata = "metadata",
        /// What it says.
        spec: AdminNetworkPolicySpec = "spec",
        /// What a cluster makes of it.
        status: super::Ignored = "status",
    }

    /// What an AdminNetworkPolicy says.
    AdminNetworkPolicySpec strict "`spec` of an AdminNetworkPolicy" {
        /// From 0 to 1000, smaller numbers first.
        priority: Located<i32> = "priority",
        /// Whom it is about.
        subject: ClusterSubject = "subject",
        /// For what comes in.
        ingress: Vec<AdminNetworkPolicyRule> = "ingress",
        /// For what goes out.
        egress: Vec<AdminNetworkPolicyRule> = "egress",
    }

    /// A rule. Below `ingress` it has `from`, below `egress` `to`.
    AdminNetworkPolicyRule strict "a rule" {
        /// For reports.
        name: Located<String> = "name",
        /// `Allow`, `Deny` or, unless the kind is BaselineAdminNetworkPolicy, `Pass`.
        action: Located<String> = "action",
        /// Sources.
        from: Located<Vec<ClusterPeer>> = "from",
        /// Destinations.
        to: Located<Vec<ClusterPeer>> = "to",
        /// Ports; everything if it is missing.
        ports: Located<Vec<AdminNetworkPolicyPort>> = "ports",
    }

    /// A port, a range, or a port by name. Exactly one of them.
    AdminNetworkPolicyPort strict "a port" {
        /// One.
        port_number: AdminPort = "portNumber",
        /// By name, of whichever protocol it is.
        named_port: Located<String> = "namedPort",
        /// Several.
        port_range: AdminPortRange = "portRange",
    }

    /// A port.
    AdminPort strict "`portNumber`" {
        /// `TCP`, `UDP` or `SCTP`; `TCP` if it is missing.
        protocol: Located<String> = "protocol",
        /// Which one.
        port: Located<i32> = "port",
    }

    /// A range of ports.
    AdminPortRange strict "`portRange`" {
        /// `TCP`, `UDP` or `SCTP`; `TCP` if it is missing.
        protocol: Located<String> = "protocol",
        /// First.
        start: Located<i32> = "start",
        /// Last.
        end: Located<i32> = "end",
    }
}

/// Of this kind, and but for its actions of BaselineAdminNetworkPolicy.
pub(super) const DIALECT: Dialect<AdminNetworkPolicyRule, AdminNetworkPolicyPort> = Dialect {
    kind: PolicyKind::AdminNetworkPolicy,
    actions: &ACTIONS,
    ports: "ports",
    any_namespace: false,
    rule: |rule| WrittenRule {
        at: rule.at,
        name: rule.name.as_ref(),
        action: rule.action.as_ref(),
        from: rule.from.as_ref(),
        to: rule.to.as_ref(),
        ports: rule.ports.as_ref(),
    },
    port: |reader, port| reader.admin_port(port),
};

impl Reader<'_> {
    /// What an AdminNetworkPolicy means.
    pub(super) fn admin_network_policy(
        &mut self,
        object: &AdminNetworkPolicy,
    ) -> Option<PolicyDocument> {
        let message = "an AdminNetworkPolicy needs `spec`";
        let help = "write `spec:` with `priority`, `subject` and rules";
        let spec = self.must(object.spec.as_ref(), object.at, message, help)?;
        let priority = self.priority(spec.priority.as_ref(), spec.at);
        let written = WrittenPolicy {
            at: object.at,
            metadata: object.metadata.as_ref(),
            spec_at: spec.at,
            subject: spec.subject.as_ref(),
            ingress: spec.ingress.as_deref(),
            egress: spec.egress.as_deref(),
        };
        let rank = priority.map(|priority| (Tier::Admin, priority));
        self.cluster_policy(&written, rank, &DIALECT)
    }

    fn admin_port(&mut self, written: &AdminNetworkPolicyPort) -> Option<PortMatch> {
        let help = "write `portNumber: {protocol: TCP, port: 443}`, `portRange: {start: 1, end: \
                    1023}` or `namedPort: https`";
        let forms = (
            &written.port_number,
            &written.port_range,
            &written.named_port,
        );
        let (protocol, first, last) = match forms {
            (Some(one), None, None) => {
                let protocol = self.transport(one.protocol.as_ref());
                let message = "`portNumber` needs `port`";
                let port = self.must(one.port.as_ref(), one.at, message, help)?;
                let port = self.number(port.value, port.at)?;
                (protocol, port, port)
            }
            (None, Some(range), None) => {
                let protocol = self.transport(range.protocol.as_ref());
                let message = "`portRange` needs `start` and `end`";
                let both = range.start.as_ref().zip(range.end.as_ref());
                let both = self.must(both.as_ref(), range.at, message, help).copied()?;
                let (first, last) = self.first_and_last(both.0, both.1)?;
                (protocol, first, last)
            }
            (None, None, Some(name)) => {
                return Some(PortMatch::Named(NamedPortMatch {
                    protocol: None,
                    name: self.service_name(&name.value, name.at)?,
                }));
            }
            _ => {
                let message = "a port has exactly one of `portNumber`, `portRange` and `namedPort`";
                self.error(Code::BadPort, written.at, message, help);
                return None;
            }
        };
        Some(PortMatch::Range(PortRange {
            protocol: Some(protocol?),
            first,
            last,
        }))
    }
}
