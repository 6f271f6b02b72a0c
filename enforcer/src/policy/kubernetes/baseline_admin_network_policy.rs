//! Kind `BaselineAdminNetworkPolicy` of `policy.networking.k8s.io/v1alpha1`, the older form of a
//! ClusterNetworkPolicy in tier `Baseline`. A cluster has one, called `default`.

use super::{
    admin_network_policy::{AdminNetworkPolicyRule, DIALECT},
    cluster_rule::{ClusterSubject, Dialect, WrittenPolicy},
    object::{Metadata, objects},
};
use crate::policy::{
    diagnostic::Code,
    model::{PolicyKind, RuleAction, Tier},
    reader::{Reader, quoted},
    segment_policy::PolicyDocument,
};

const ACTIONS: [(&str, RuleAction); 2] = [("Allow", RuleAction::Allow), ("Deny", RuleAction::Deny)];

/// The only name that there is.
const NAME: &str = "default";

/// It has no priority of its own: beside ClusterNetworkPolicies of tier `Baseline`, which
/// replace it, it is asked after all of them.
const PRIORITY: u32 = 1001;

objects! {
    /// The object.
    BaselineAdminNetworkPolicy strict "a BaselineAdminNetworkPolicy" {
        /// For those who pass objects around.
        api_version: String = "apiVersion",
        /// As `api_version`.
        kind: String = "kind",
        /// Its name: `default`.
        metadata: Metadata = "metadata",
        /// What it says.
        spec: BaselineAdminNetworkPolicySpec = "spec",
        /// What a cluster makes of it.
        status: super::Ignored = "status",
    }

    /// What a BaselineAdminNetworkPolicy says.
    BaselineAdminNetworkPolicySpec strict "`spec` of a BaselineAdminNetworkPolicy" {
        /// Whom it is about.
        subject: ClusterSubject = "subject",
        /// For what comes in.
        ingress: Vec<AdminNetworkPolicyRule> = "ingress",
        /// For what goes out.
        egress: Vec<AdminNetworkPolicyRule> = "egress",
    }
}

impl Reader<'_> {
    /// What a BaselineAdminNetworkPolicy means.
    pub(super) fn baseline_admin_network_policy(
        &mut self,
        object: &BaselineAdminNetworkPolicy,
    ) -> Option<PolicyDocument> {
        let message = "a BaselineAdminNetworkPolicy needs `spec`";
        let help = "write `spec:` with `subject` and rules";
        let spec = self.must(object.spec.as_ref(), object.at, message, help)?;
        let written = WrittenPolicy {
            at: object.at,
            metadata: object.metadata.as_ref(),
            spec_at: spec.at,
            subject: spec.subject.as_ref(),
            ingress: spec.ingress.as_deref(),
            egress: spec.egress.as_deref(),
        };
        let dialect = Dialect {
            kind: PolicyKind::BaselineAdminNetworkPolicy,
            actions: &ACTIONS,
            ..DIALECT
        };
        let policy = self.cluster_policy(&written, Some((Tier::Baseline, PRIORITY)), &dialect)?;
        if policy.policy.name == NAME {
            return Some(policy);
        }
        let message = format!("{} cannot be its name", quoted(&policy.policy.name));
        let help = "a cluster has one BaselineAdminNetworkPolicy: write `name: default`";
        self.error(Code::BadName, policy.name_at, message, help);
        None
    }
}
