//! What is told of a flow between hosts, where one end judges for the other
//! ([`crate::compile`], `across`).

use std::{collections::BTreeSet, sync::Arc};

use enforcer_common::{Action, Decision, Direction};

use super::{Explainer, Story, explanation::FlowQuery};
use crate::compile::image::{Assurance, Identity, IdentitySubject, RuleDirection};

/// What is to be told.
pub(super) struct Told<'t> {
    /// `None`: the host.
    pub endpoint: Option<&'t IdentitySubject>,
    pub direction: Direction,
    pub peer: &'t Identity,
    pub decision: Decision,
}

impl<'a> Explainer<'a> {
    /// The story that ends as the image decided; a sentence where it is not simply that of
    /// endpoint and peer; and as whom the peer is told about, where that is one of several.
    pub(super) fn story(
        &self,
        told: &Told<'_>,
        query: &FlowQuery,
    ) -> (Story<'a>, Option<String>, Option<Identity>) {
        let Told {
            endpoint,
            direction,
            peer,
            decision,
        } = *told;
        let rule = self.image.rules.get(&decision.rule);
        let of_ingress = rule.is_some_and(|rule| rule.direction == Some(RuleDirection::Ingress));
        if direction == Direction::Egress && of_ingress {
            let other_end = match &peer.subject {
                subject @ IdentitySubject::Workload { .. } => Some(subject),
                _ => None,
            };
            let stories = self.seen_elsewhere(endpoint).into_iter().map(|seen| {
                let story = Story::new(self, other_end, Direction::Ingress, &seen, query);
                (story, seen)
            });
            let note = format!(
                "this is the ingress of the other end, which cannot tell who of this host sends: \
                 {} is held against it here, with assurance orchestrator at most",
                query.endpoint
            );
            if let Some((story, _)) = self.that_ends_so(decision, stories) {
                return (story, Some(note), None);
            }
        }
        let own = Story::new(self, endpoint, direction, peer, query);
        let IdentitySubject::RemoteHost { sharing, .. } = &peer.subject else {
            return (own, None, None);
        };
        if direction == Direction::Egress || sharing.is_empty() {
            return (own, None, None);
        }
        let members = sharing.iter().map(|subject| Identity {
            subject: subject.clone(),
            prefixes: peer.prefixes.clone(),
            assurance: Assurance::Orchestrator,
        });
        let all = std::iter::once(peer.clone()).chain(members).map(|seen| {
            let story = Story::new(self, endpoint, direction, &seen, query);
            (story, seen)
        });
        let Some((story, seen)) = self.that_ends_so(decision, all) else {
            return (own, None, None);
        };
        let who = match &seen.subject {
            IdentitySubject::Workload {
                namespace, labels, ..
            } => {
                let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
                let labels: Vec<_> = labels.collect();
                format!("a workload in {namespace} with {}", labels.join(","))
            }
            _ => "the host itself".to_owned(),
        };
        let note = format!(
            "the peer is a host and {} identities that share its addresses: what one of them may \
             do is let in, since that host enforces who of them sends; this is told of {who}",
            sharing.len()
        );
        (story, Some(note), Some(seen))
    }

    /// As whom somebody of this host may be seen elsewhere.
    fn seen_elsewhere(&self, endpoint: Option<&IdentitySubject>) -> Vec<Identity> {
        let host = || IdentitySubject::remote_host(self.policy.node.labels.clone());
        let subject = endpoint.map_or_else(host, |subject| subject.clone().without_ports());
        let numbers = self.image.host_addresses.values();
        let known = numbers.filter_map(|number| self.image.identities.get(number));
        let mut prefixes: BTreeSet<_> = known.map(|known| known.prefixes.clone()).collect();
        prefixes.insert(BTreeSet::new());
        let seen = prefixes.into_iter().map(|prefixes| Identity {
            subject: subject.clone(),
            prefixes,
            assurance: Assurance::Orchestrator,
        });
        seen.collect()
    }

    /// The first that ends where the image does.
    fn that_ends_so(
        &self,
        decision: Decision,
        mut stories: impl Iterator<Item = (Story<'a>, Identity)>,
    ) -> Option<(Story<'a>, Identity)> {
        let rule = self.image.rules.get(&decision.rule).map(Arc::as_ref);
        stories.find(|(story, _)| {
            let enforced = decision.action() == Action::Deny;
            let end = story.end(enforced);
            let same_action = story.action() == decision.action();
            same_action
                && rule.is_none_or(|rule| rule.rule == end.rule && rule.origin == end.origin)
        })
    }
}
