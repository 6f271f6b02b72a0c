//! Kind `NetworkPolicy` of `networking.k8s.io/v1`.

use std::sync::Arc;

use enforcer_common::Direction;

use super::{
    object::{Located, Metadata, NumberOrName, objects},
    selector::LabelSelector,
};
use crate::policy::{
    diagnostic::{Code, Position, listed},
    model::{
        Accountability, LOCAL_NODE, NamedPortMatch, Peer, Policy, PolicyKind, PortMatch, PortRange,
        Rule, RuleAction, Subject, Tier, Validity, WorkloadSelector,
    },
    reader::Reader,
    segment_policy::PolicyDocument,
};

const TYPES: [(&str, Direction); 2] = [
    ("Ingress", Direction::Ingress),
    ("Egress", Direction::Egress),
];

objects! {
    /// The object.
    NetworkPolicy strict "a NetworkPolicy" {
        /// For those who pass objects around.
        api_version: String = "apiVersion",
        /// As `api_version`.
        kind: String = "kind",
        /// Name and namespace.
        metadata: Metadata = "metadata",
        /// What it says.
        spec: NetworkPolicySpec = "spec",
        /// Of older clusters.
        status: super::Ignored = "status",
    }

    /// What a NetworkPolicy says.
    NetworkPolicySpec strict "`spec` of a NetworkPolicy" {
        /// Which pods of its namespace it isolates; all of them if it is empty or missing.
        pod_selector: LabelSelector = "podSelector",
        /// Directions in which it isolates. Empty or missing: `Ingress`, and `Egress` if there
        /// are rules for it.
        policy_types: Vec<Located<String>> = "policyTypes",
        /// What may come in.
        ingress: Vec<NetworkPolicyRule> = "ingress",
        /// What may go out.
        egress: Vec<NetworkPolicyRule> = "egress",
    }

    /// A rule: who, and on which ports. Below `ingress` it has `from`, below `egress` `to`.
    NetworkPolicyRule strict "a rule" {
        /// Ports; every one if it is empty or missing.
        ports: Vec<NetworkPolicyPort> = "ports",
        /// Sources; everybody if it is empty or missing.
        from: Located<Vec<NetworkPolicyPeer>> = "from",
        /// Destinations; everybody if it is empty or missing.
        to: Located<Vec<NetworkPolicyPeer>> = "to",
    }

    /// Ports of one protocol.
    NetworkPolicyPort strict "a port" {
        /// `TCP`, `UDP` or `SCTP`; `TCP` if it is missing.
        protocol: Located<String> = "protocol",
        /// By number or name; every one if it is missing.
        port: Located<NumberOrName> = "port",
        /// The last of a range that begins with `port`.
        end_port: Located<i32> = "endPort",
    }

    /// Somebody: pods, or networks.
    NetworkPolicyPeer strict "a peer" {
        /// Which pods; all of them if it is missing.
        pod_selector: LabelSelector = "podSelector",
        /// Of which namespaces; of the policy's own if it is missing.
        namespace_selector: LabelSelector = "namespaceSelector",
        /// Networks. Stands alone.
        ip_block: IpBlock = "ipBlock",
    }

    /// A network without some parts of it.
    IpBlock strict "an `ipBlock`" {
        /// The network.
        cidr: Located<String> = "cidr",
        /// Networks inside.
        except: Vec<Located<String>> = "except",
    }
}

impl Reader<'_> {
    /// What a NetworkPolicy means.
    pub(super) fn network_policy(&mut self, object: &NetworkPolicy) -> Option<PolicyDocument> {
        let named = self.name_and_labels(object.metadata.as_ref(), object.at, true);
        let help = "write `spec:` with `podSelector`, and `ingress`, `egress` or both";
        let message = "a NetworkPolicy needs `spec`";
        let spec = self.must(object.spec.as_ref(), object.at, message, help)?;
        let namespace = named.as_ref().and_then(|named| named.namespace.clone());
        let labels = self.selector(spec.pod_selector.as_ref());
        let types = self.policy_types(spec);
        let ingress = self.allows(spec, Direction::Ingress, namespace.as_deref());
        let egress = self.allows(spec, Direction::Egress, namespace.as_deref());
        let (named, types) = (named?, types?);
        let selector = WorkloadSelector {
            namespace,
            labels: labels?,
            ..WorkloadSelector::default()
        };
        // Rules of a direction that `policyTypes` leaves out mean nothing.
        let said = |direction, rules| types.contains(&direction).then_some(rules);
        let policy = Policy {
            kind: PolicyKind::NetworkPolicy,
            namespace: named.namespace,
            name: named.name,
            origin: self.origin(object.at),
            tier: Tier::Application,
            priority: None,
            mode: None,
            validity: Validity::ALWAYS,
            accountability: Accountability::default(),
            subject: Subject::Workloads(vec![selector]),
            rules: [
                said(Direction::Egress, egress?),
                said(Direction::Ingress, ingress?),
            ],
        };
        Some(PolicyDocument {
            policy: Arc::new(policy),
            name_at: named.name_at,
            references: Vec::new(),
            subject_group: None,
        })
    }

    fn policy_types(&mut self, spec: &NetworkPolicySpec) -> Option<Vec<Direction>> {
        let written = spec.policy_types.as_deref().unwrap_or_default();
        if written.is_empty() {
            let mut types = vec![Direction::Ingress];
            if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
                types.push(Direction::Egress);
            }
            return Some(types);
        }
        let types: Vec<_> = written
            .iter()
            .filter_map(|word| self.word(word, "an item of `policyTypes`", &TYPES))
            .collect();
        (types.len() == written.len()).then_some(types)
    }

    /// The rules of a direction, and the one that Kubernetes adds.
    fn allows(
        &mut self,
        spec: &NetworkPolicySpec,
        direction: Direction,
        namespace: Option<&str>,
    ) -> Option<Vec<Rule>> {
        let (below, written) = match direction {
            Direction::Ingress => ("ingress", &spec.ingress),
            Direction::Egress => ("egress", &spec.egress),
        };
        let written = written.as_deref().unwrap_or_default();
        let mut rules = Vec::with_capacity(written.len() + 1);
        for (index, rule) in written.iter().enumerate() {
            let (peers, wrong, word, instead) = match direction {
                Direction::Ingress => (&rule.from, &rule.to, "to", "from"),
                Direction::Egress => (&rule.to, &rule.from, "from", "to"),
            };
            if let Some(wrong) = wrong {
                let message = format!("`{word}` below `{below}`");
                let help = format!("write `{instead}`: peers of {below} rules are named there");
                self.error(Code::WrongDirection, wrong.at, message, help);
            }
            let peers = peers.as_ref().map_or(&[][..], |peers| &peers.value);
            let peers = self.all_of(peers, Peer::Any, |reader, peer| {
                reader.pods_or_block(peer, namespace)
            });
            let ports = rule.ports.as_deref().unwrap_or_default();
            let ports = self.all_of(ports, PortMatch::ANY, Self::network_policy_port);
            if let (Some(peers), Some(ports), None) = (peers, ports, wrong) {
                let name = format!("{below}[{index}]");
                rules.push(self.allow(name, rule.at, peers, ports));
            }
        }
        if rules.len() < written.len() {
            return None;
        }
        let node = vec![Peer::Host];
        rules.push(self.allow(LOCAL_NODE.to_owned(), spec.at, node, vec![PortMatch::ANY]));
        Some(rules)
    }

    fn allow(&self, name: String, at: Position, peers: Vec<Peer>, ports: Vec<PortMatch>) -> Rule {
        Rule {
            name,
            origin: self.origin(at),
            action: RuleAction::Allow,
            log: false,
            validity: Validity::ALWAYS,
            accountability: Accountability::default(),
            peers,
            ports,
        }
    }

    /// What the items of a list mean; `everything` if there is none.
    pub(super) fn all_of<T, M>(
        &mut self,
        written: &[T],
        everything: M,
        mut mean: impl FnMut(&mut Self, &T) -> Option<M>,
    ) -> Option<Vec<M>> {
        if written.is_empty() {
            return Some(vec![everything]);
        }
        let meant: Vec<_> = written.iter().filter_map(|item| mean(self, item)).collect();
        (meant.len() == written.len()).then_some(meant)
    }

    fn pods_or_block(&mut self, peer: &NetworkPolicyPeer, own: Option<&str>) -> Option<Peer> {
        let pods = self.selector(peer.pod_selector.as_ref());
        let namespaces = self.selector(peer.namespace_selector.as_ref());
        let block = peer.ip_block.as_ref().map(|block| self.ip_block(block));
        match (&peer.pod_selector, &peer.namespace_selector, block) {
            (None, None, Some(block)) => block,
            (_, _, Some(_)) => {
                let message = "`ipBlock` beside a selector in one peer";
                let help = "begin a new item with `-` for each; any of them matches";
                self.error(Code::BadPeer, peer.at, message, help);
                None
            }
            (None, None, None) => {
                let forms = listed(["podSelector", "namespaceSelector", "ipBlock"]);
                let message = "a peer that does not say who";
                let help = format!("write {forms}; for everybody leave the list out");
                self.error(Code::BadPeer, peer.at, message, help);
                None
            }
            (_, by_labels, None) => Some(Peer::Workloads(WorkloadSelector {
                namespace: match by_labels {
                    Some(_) => None,
                    None => own.map(str::to_owned),
                },
                namespace_labels: namespaces?,
                labels: pods?,
                ..WorkloadSelector::default()
            })),
        }
    }

    fn ip_block(&mut self, block: &IpBlock) -> Option<Peer> {
        let message = "an `ipBlock` needs `cidr`";
        let help = "write `cidr: 10.0.0.0/8`";
        let cidr = self.must(block.cidr.as_ref(), block.at, message, help);
        let prefix = cidr.and_then(|cidr| self.block(cidr));
        let written = block.except.as_deref().unwrap_or_default();
        let mut except = Vec::with_capacity(written.len());
        for part in written {
            let Some(inner) = self.block(part) else {
                continue;
            };
            if let Some(outer) = prefix
                && (!outer.contains(&inner) || outer == inner)
            {
                let message = format!("`{inner}` is not a part of `{outer}`");
                let help = "an exception takes part of `cidr` away; remove it or correct one";
                self.error(Code::ExceptOutside, part.at, message, help);
                continue;
            }
            except.push(inner);
        }
        let prefix = prefix?;
        (except.len() == written.len()).then_some(Peer::Cidr { prefix, except })
    }

    fn network_policy_port(&mut self, port: &NetworkPolicyPort) -> Option<PortMatch> {
        let protocol = self.transport(port.protocol.as_ref());
        let (first, last) = match (&port.port, &port.end_port) {
            (None, None) => (PortRange::ANY.first, PortRange::ANY.last),
            (None, Some(end)) => {
                let message = "`endPort` without `port`";
                let help = "write the first port of the range as `port`";
                self.error(Code::BadPort, end.at, message, help);
                return None;
            }
            (Some(written), end) => match (&written.value, end) {
                (NumberOrName::Number(number), None) => {
                    let number = self.number(*number, written.at)?;
                    (number, number)
                }
                (NumberOrName::Number(number), Some(end)) => {
                    let first = Located {
                        value: *number,
                        at: written.at,
                    };
                    self.first_and_last(&first, end)?
                }
                (NumberOrName::Name(_), Some(end)) => {
                    let message = "`endPort` with the name of a port";
                    let help = "a range is of numbers: write the first one as `port`";
                    self.error(Code::BadPort, end.at, message, help);
                    return None;
                }
                (NumberOrName::Name(name), None) => {
                    let name = self.service_name(name, written.at);
                    return Some(PortMatch::Named(NamedPortMatch {
                        protocol: Some(protocol?),
                        name: name?,
                    }));
                }
            },
        };
        Some(PortMatch::Range(PortRange {
            protocol: Some(protocol?),
            first,
            last,
        }))
    }
}
