//! What the policies of `policy.networking.k8s.io` have in common: whom they are about, their
//! peers, and rules that are asked in the order of writing.

use std::sync::Arc;

use enforcer_common::Direction;

use super::{
    object::{Located, Metadata, objects},
    selector::LabelSelector,
};
use crate::policy::{
    diagnostic::{Code, Position, listed},
    model::{
        Accountability, Peer, Policy, PolicyKind, PortMatch, Rule, RuleAction, Subject, Tier,
        Validity, WorkloadSelector,
    },
    reader::{Reader, quoted},
    segment_policy::PolicyDocument,
};

/// Longest name of a rule, in characters.
const NAME_CHARS: usize = 100;
/// The last priority; the first is 0.
const LAST_PRIORITY: i32 = 1000;

objects! {
    /// Whom a policy is about. Exactly one of the two.
    ClusterSubject strict "`subject`" {
        /// All pods of these namespaces.
        namespaces: LabelSelector = "namespaces",
        /// Some pods of some namespaces.
        pods: NamespacedPods = "pods",
    }

    /// Some pods of some namespaces.
    NamespacedPods strict "`pods`" {
        /// Which namespaces.
        namespace_selector: LabelSelector = "namespaceSelector",
        /// Which pods.
        pod_selector: LabelSelector = "podSelector",
    }

    /// Somebody. Exactly one of them; the last three below `egress` only.
    ClusterPeer strict "a peer" {
        /// All pods of these namespaces.
        namespaces: LabelSelector = "namespaces",
        /// Some pods of some namespaces.
        pods: NamespacedPods = "pods",
        /// Nodes, by their labels.
        nodes: LabelSelector = "nodes",
        /// Networks.
        networks: Located<Vec<Located<String>>> = "networks",
        /// Names that would have to be looked up.
        domain_names: Located<super::Ignored> = "domainNames",
    }
}

/// Fields of a peer that rules of ingress do not have.
const EGRESS_ONLY: [&str; 3] = ["nodes", "networks", "domainNames"];

/// What is the same in the rules of all kinds; `P` are its ports.
pub(super) struct WrittenRule<'o, P> {
    pub at: Position,
    pub name: Option<&'o Located<String>>,
    pub action: Option<&'o Located<String>>,
    pub from: Option<&'o Located<Vec<ClusterPeer>>>,
    pub to: Option<&'o Located<Vec<ClusterPeer>>>,
    pub ports: Option<&'o Located<Vec<P>>>,
}

/// How a kind differs from the others.
pub(super) struct Dialect<R: ?Sized, P> {
    pub kind: PolicyKind,
    pub actions: &'static [(&'static str, RuleAction)],
    /// How the kind calls its ports.
    pub ports: &'static str,
    /// `namespaceSelector` may be missing.
    pub any_namespace: bool,
    pub rule: for<'o> fn(&'o R) -> WrittenRule<'o, P>,
    pub port: fn(&mut Reader<'_>, &P) -> Option<PortMatch>,
}

/// A whole policy of these kinds.
pub(super) struct WrittenPolicy<'o, R> {
    pub at: Position,
    pub metadata: Option<&'o Metadata>,
    pub spec_at: Position,
    pub subject: Option<&'o ClusterSubject>,
    pub ingress: Option<&'o [R]>,
    pub egress: Option<&'o [R]>,
}

impl Reader<'_> {
    /// What a policy means, once its tier and priority are known.
    pub(super) fn cluster_policy<R, P>(
        &mut self,
        written: &WrittenPolicy<'_, R>,
        rank: Option<(Tier, u32)>,
        dialect: &Dialect<R, P>,
    ) -> Option<PolicyDocument> {
        let named = self.name_and_labels(written.metadata, written.at, false);
        let help = "write `subject: {namespaces: {}}` for every pod, or select some";
        let subject = self.must(
            written.subject,
            written.spec_at,
            "`spec` needs `subject`",
            help,
        );
        let subject = subject.and_then(|subject| {
            let both = (subject.namespaces.as_ref(), subject.pods.as_ref());
            match both {
                (Some(namespaces), None) => self.all_pods_of(namespaces),
                (None, Some(pods)) => self.some_pods(pods, dialect.any_namespace),
                _ => {
                    let message = "`subject` has one of `namespaces` and `pods`";
                    self.error(Code::BadSelector, subject.at, message, help);
                    None
                }
            }
        });
        let egress = self.cluster_rules(written.egress, Direction::Egress, dialect);
        let ingress = self.cluster_rules(written.ingress, Direction::Ingress, dialect);
        let (named, (tier, priority)) = (named?, rank?);
        let policy = Policy {
            kind: dialect.kind,
            namespace: None,
            name: named.name,
            origin: self.origin(written.at),
            tier,
            priority: Some(priority),
            mode: None,
            validity: Validity::ALWAYS,
            accountability: Accountability::default(),
            subject: Subject::Workloads(vec![subject?]),
            rules: [egress?, ingress?],
        };
        Some(PolicyDocument {
            policy: Arc::new(policy),
            name_at: named.name_at,
            references: Vec::new(),
            subject_group: None,
        })
    }

    /// A priority.
    pub(super) fn priority(
        &mut self,
        written: Option<&Located<i32>>,
        spec_at: Position,
    ) -> Option<u32> {
        let help = "write a number from 0 (asked first) to 1000 (asked last)";
        let written = self.must(written, spec_at, "`spec` needs `priority`", help)?;
        if let Ok(priority) = u32::try_from(written.value)
            && written.value <= LAST_PRIORITY
        {
            return Some(priority);
        }
        let message = format!("{} is not a priority", written.value);
        self.error(Code::UnknownValue, written.at, message, help);
        None
    }

    /// The rules of a direction. The outer `None`: an error was reported. A policy without rules
    /// says nothing of it.
    #[expect(
        clippy::option_option,
        reason = "absence is said by one, errors by the other"
    )]
    fn cluster_rules<R, P>(
        &mut self,
        written: Option<&[R]>,
        direction: Direction,
        dialect: &Dialect<R, P>,
    ) -> Option<Option<Vec<Rule>>> {
        let written = written.unwrap_or_default();
        let mut rules = Vec::with_capacity(written.len());
        for (index, rule) in written.iter().enumerate() {
            rules.extend(self.cluster_rule(&(dialect.rule)(rule), index, direction, dialect));
        }
        let whole = rules.len() == written.len();
        whole.then(|| (!rules.is_empty()).then_some(rules))
    }

    fn cluster_rule<R, P>(
        &mut self,
        rule: &WrittenRule<'_, P>,
        index: usize,
        direction: Direction,
        dialect: &Dialect<R, P>,
    ) -> Option<Rule> {
        let (below, word, peers, wrong_word, wrong) = match direction {
            Direction::Ingress => ("ingress", "from", rule.from, "to", rule.to),
            Direction::Egress => ("egress", "to", rule.to, "from", rule.from),
        };
        let name = match rule.name {
            Some(name) => self.cluster_rule_name(name, below, index),
            None => Some(format!("{below}[{index}]")),
        };
        let words = dialect.actions.iter().map(|(word, _)| *word);
        let help = format!("write `action:` and one of {}", listed(words));
        let action = self.must(rule.action, rule.at, "a rule needs `action`", &help);
        let action = action.and_then(|action| self.word(action, "`action`", dialect.actions));
        if let Some(wrong) = wrong {
            let message = format!("`{wrong_word}` below `{below}`");
            let help = format!("write `{word}`: peers of {below} rules are named there");
            self.error(Code::WrongDirection, wrong.at, message, help);
        }
        let message = format!("a rule needs `{word}` with a peer");
        let help = "write `- namespaces: {}` for every pod";
        let some = peers.filter(|peers| !peers.value.is_empty());
        let at = peers.map_or(rule.at, |peers| peers.at);
        let peers = match wrong {
            None => self.must(some, at, &message, help)?,
            Some(_) => return None,
        };
        let mut meant = Vec::with_capacity(peers.value.len());
        let mut good = true;
        for peer in &peers.value {
            match self.cluster_peer(peer, direction, dialect.any_namespace) {
                Some(them) => meant.extend(them),
                None => good = false,
            }
        }
        let ports = match rule.ports {
            None => Some(vec![PortMatch::ANY]),
            Some(written) if written.value.is_empty() => {
                let message = format!("`{}` is empty", dialect.ports);
                let help = "leave it out for every protocol and port";
                self.error(Code::NoEffect, written.at, message, help);
                None
            }
            Some(written) => self.all_of(&written.value, PortMatch::ANY, dialect.port),
        };
        let has_names = |peer: &Peer| matches!(peer, Peer::Workloads(_));
        let ports = ports?;
        if let Some(written) = rule.ports
            && ports.iter().any(|p| matches!(p, PortMatch::Named(_)))
            && !meant.iter().all(has_names)
        {
            let message = "the name of a port in a rule about nodes or networks";
            let help = "only pods name their ports: write the number, or a rule of its own for \
                        the pods";
            self.error(Code::BadPort, written.at, message, help);
            return None;
        }
        let (name, action) = (name?, action?);
        good.then(|| Rule {
            name,
            origin: self.origin(rule.at),
            action,
            log: false,
            validity: Validity::ALWAYS,
            accountability: Accountability::default(),
            peers: meant,
            ports,
        })
    }

    fn cluster_rule_name(
        &mut self,
        name: &Located<String>,
        below: &str,
        index: usize,
    ) -> Option<String> {
        let text = &name.value;
        if text.chars().count() > NAME_CHARS || text.chars().any(char::is_control) {
            let message = format!("{} cannot be the name of a rule", quoted(text));
            let help = "write at most 100 characters, all of them printable";
            self.error(Code::BadName, name.at, message, help);
            return None;
        }
        // Reports call by these names what no rule decides.
        let taken = matches!(text.as_str(), "" | "isolation" | "default");
        Some(if taken {
            format!("{below}[{index}]")
        } else {
            text.clone()
        })
    }

    fn all_pods_of(&mut self, namespaces: &LabelSelector) -> Option<WorkloadSelector> {
        Some(WorkloadSelector {
            namespace_labels: self.selector(Some(namespaces))?,
            ..WorkloadSelector::default()
        })
    }

    fn some_pods(
        &mut self,
        pods: &NamespacedPods,
        any_namespace: bool,
    ) -> Option<WorkloadSelector> {
        let mut good = true;
        for (selector, name, needed) in [
            (
                &pods.namespace_selector,
                "namespaceSelector",
                !any_namespace,
            ),
            (&pods.pod_selector, "podSelector", true),
        ] {
            if needed && selector.is_none() {
                let message = format!("`pods` needs `{name}`");
                let help = format!("write `{name}: {{}}` for all");
                self.must(selector.as_ref(), pods.at, &message, &help);
                good = false;
            }
        }
        let namespaces = self.selector(pods.namespace_selector.as_ref());
        let selector = WorkloadSelector {
            labels: self.selector(pods.pod_selector.as_ref())?,
            namespace_labels: namespaces?,
            ..WorkloadSelector::default()
        };
        good.then_some(selector)
    }

    /// Who is meant by a peer; several networks are several.
    fn cluster_peer(
        &mut self,
        peer: &ClusterPeer,
        direction: Direction,
        any_namespace: bool,
    ) -> Option<Vec<Peer>> {
        let forms = [
            ("namespaces", peer.namespaces.is_some()),
            ("pods", peer.pods.is_some()),
            ("nodes", peer.nodes.is_some()),
            ("networks", peer.networks.is_some()),
            ("domainNames", peer.domain_names.is_some()),
        ];
        let said: Vec<_> = forms.into_iter().filter(|(_, said)| *said).collect();
        let help = match direction {
            Direction::Egress => {
                "write exactly one of `namespaces`, `pods`, `nodes` and `networks`; begin a new \
                 item with `-` for each"
            }
            Direction::Ingress => {
                "write exactly one of `namespaces` and `pods`; begin a new item with `-` for each"
            }
        };
        let [(form, _)] = said[..] else {
            let message = match said.first() {
                None => "a peer that does not say who",
                Some(_) => "a peer that says more than one thing",
            };
            self.error(Code::BadPeer, peer.at, message, help);
            return None;
        };
        if direction == Direction::Ingress && EGRESS_ONLY.contains(&form) {
            let message = format!("`{form}` below `ingress`");
            let help = "this API knows pods only as sources; write a SegmentPolicy with \
                        `tier: admin` for others";
            self.error(Code::WrongDirection, peer.at, message, help);
            return None;
        }
        if let Some(names) = &peer.domain_names {
            let message = "`domainNames` is not in this version of the language";
            let help = "names are not looked up: write the addresses under `networks`";
            self.error(Code::NotYet, names.at, message, help);
            return None;
        }
        if let Some(namespaces) = &peer.namespaces {
            return Some(vec![Peer::Workloads(self.all_pods_of(namespaces)?)]);
        }
        if let Some(pods) = &peer.pods {
            return Some(vec![Peer::Workloads(self.some_pods(pods, any_namespace)?)]);
        }
        if let Some(nodes) = &peer.nodes {
            return Some(vec![Peer::Hosts(self.selector(Some(nodes))?)]);
        }
        let networks = peer.networks.as_ref()?;
        if networks.value.is_empty() {
            let help = "write at least one network, or remove the peer";
            self.error(Code::NoEffect, networks.at, "`networks` is empty", help);
            return None;
        }
        let blocks = networks.value.iter().filter_map(|network| {
            let prefix = self.block(network)?;
            let except = Vec::new();
            Some(Peer::Cidr { prefix, except })
        });
        let blocks: Vec<_> = blocks.collect();
        (blocks.len() == networks.value.len()).then_some(blocks)
    }
}
