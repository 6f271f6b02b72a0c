//! `NetworkPolicy`, `GlobalNetworkPolicy`, `NetworkSet` and `GlobalNetworkSet` of
//! `projectcalico.org/v3` and `crd.projectcalico.org/v1`.

mod order;
mod peer;
mod port;
pub(super) mod selector;
mod workloads;

use enforcer_common::Direction;

use self::{
    selector::{Selector, SelectorError},
    workloads::{Demands, NAME},
};
use super::{
    Importer,
    draft::{self, DIRECTIONS, Draft, DraftGroup},
    field::Field,
    report::{Effect, Reporter},
};
use crate::policy::model::{
    Group, Labels, Operator, Origin, Peer, Rule, RuleAction, WorkloadSelector,
};

/// What was read of Calico.
#[derive(Default)]
pub(super) struct Calico {
    pub(super) sets: Vec<NetworkSet>,
    policies: Vec<CalicoPolicy>,
    /// Namespaces in which the files have NetworkPolicies of Kubernetes.
    pub(super) kubernetes: std::collections::BTreeSet<String>,
}

/// Networks with labels.
pub(super) struct NetworkSet {
    labels: Labels,
    pub(super) draft: DraftGroup,
}

/// A policy, before its place among the others is known.
struct CalicoPolicy {
    namespace: Option<String>,
    name: String,
    order: f64,
    workloads: Vec<WorkloadSelector>,
    /// By direction (egress, ingress). `None`: it says nothing there.
    rules: [Option<Vec<Rule>>; 2],
    origin: Origin,
    object: String,
    from: String,
    comments: Vec<String>,
}

/// Reads one policy of Calico.
struct Reader<'r, 'a> {
    report: Reporter<'a>,
    namespace: Option<&'r str>,
    sets: &'r [NetworkSet],
}

const SPEC: &[&str] = &[
    "tier",
    "order",
    "selector",
    "namespaceSelector",
    "serviceAccountSelector",
    "types",
    "ingress",
    "egress",
    "preDNAT",
    "doNotTrack",
    "applyOnForward",
    "performanceHints",
];

impl Importer<'_> {
    /// Reads a set of networks.
    pub(super) fn network_set(&mut self, object: &Field<'_>, namespace: Option<&str>, name: &str) {
        let from = format!("{} ({}:{})", self.object, self.file.name, object.at.line);
        let labels = object.find("metadata").and_then(|m| m.find("labels"));
        let labels = labels.iter().flat_map(Field::entries);
        let labels =
            labels.filter_map(|(key, value)| Some((key.to_owned(), value.text()?.to_owned())));
        let labels = labels.collect();
        let mut report = self.reporter(Effect::Either);
        let Some(spec) = object.find("spec") else {
            return;
        };
        if !report.knows(&spec, &["nets"]) {
            return;
        }
        let mut peers = Vec::new();
        for item in report.list(&spec, "nets").unwrap_or_default() {
            let Some(text) = report.text(&item) else {
                continue;
            };
            match super::prefix(text) {
                Some(prefix) => peers.push(Peer::Cidr {
                    prefix,
                    except: Vec::new(),
                }),
                None => report.omit(&item, "is not a network", "write it as in `10.0.0.0/8`"),
            }
        }
        let group = Group {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            peers,
        };
        let draft = DraftGroup { group, from };
        self.calico.sets.push(NetworkSet { labels, draft });
    }

    /// Reads a policy. It is written when all are known.
    pub(super) fn calico_policy(
        &mut self,
        object: &Field<'_>,
        namespace: Option<&str>,
        name: &str,
    ) {
        let from = format!("{} ({}:{})", self.object, self.file.name, object.at.line);
        let before = self.import.left_out.len();
        let origin = self.origin(object);
        let mut reader = Reader {
            report: Reporter {
                file: &self.file,
                object: self.object.clone(),
                effect: Effect::Either,
                left_out: &mut self.import.left_out,
            },
            namespace,
            sets: &self.calico.sets,
        };
        let Some(spec) = object.find("spec") else {
            let help = "write what it selects and what it allows";
            reader.report.omit(object, "has no `spec`", help);
            return;
        };
        let Some((order, workloads, rules)) = reader.spec(&spec) else {
            return;
        };
        let mut comments = super::comments(&from, None);
        if order.is_finite() {
            comments.push(format!("Its order was {order}."));
        }
        super::note_left_out(&self.import.left_out[before..], &mut comments);
        if workloads.is_empty() {
            return;
        }
        self.calico.policies.push(CalicoPolicy {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            order,
            workloads,
            rules,
            origin,
            object: self.object.clone(),
            from,
            comments,
        });
    }

    /// Gives every policy its place, now that all are known.
    pub(super) fn finish_calico(&mut self) {
        let policies = std::mem::take(&mut self.calico.policies);
        let placed = order::place(&policies, &self.calico.kubernetes);
        self.import.left_out.extend(placed.left_out);
        for (policy, [first, then]) in policies.into_iter().zip(placed.rules) {
            let mut comments = policy.comments;
            let notes = placed.notes.iter();
            let own = notes.filter(|(object, _)| *object == policy.object);
            comments.extend(own.map(|(_, note)| note.clone()));
            let Some(subject) = draft::subject(policy.workloads) else {
                continue;
            };
            let parts = [
                ("-first", crate::policy::model::Tier::Admin, first),
                ("", crate::policy::model::Tier::Application, then),
            ];
            for (suffix, tier, rules) in parts {
                if rules == [None, None] {
                    continue;
                }
                let name = format!("{}{suffix}", policy.name);
                let namespace = policy.namespace.as_deref();
                let origin = policy.origin.clone();
                let mut made = draft::policy(namespace, name, tier, subject.clone(), origin);
                made.rules = rules;
                self.drafts.push(Draft {
                    policy: made,
                    from: policy.from.clone(),
                    comments: comments.clone(),
                });
            }
        }
    }
}

impl Reader<'_, '_> {
    #[expect(
        clippy::type_complexity,
        reason = "read apart at once by its only caller"
    )]
    fn spec(
        &mut self,
        spec: &Field<'_>,
    ) -> Option<(f64, Vec<WorkloadSelector>, [Option<Vec<Rule>>; 2])> {
        if !self.report.knows(spec, SPEC) {
            return None;
        }
        if let Some(field) = spec.find("tier")
            && field.text() != Some("default")
        {
            let message = "is in a tier of its own, which ends with a denial of all that it does \
                           not pass on";
            let help = "write a SegmentPolicy of `tier: admin` or `tier: baseline`";
            self.report.omit(&field, message, help);
            return None;
        }
        for key in ["preDNAT", "doNotTrack", "applyOnForward"] {
            if let Some(field) = spec.find(key)
                && field.text() != Some("false")
            {
                let message = "is about packets before connections and addresses are looked at, \
                               at the interfaces of hosts";
                let help = "write a SegmentPolicy with `selector: {host: true}`, or \
                            `blockedSources` of the Node";
                self.report.omit(&field, message, help);
                return None;
            }
        }
        let order = match spec.find("order") {
            None => f64::INFINITY,
            Some(field) => match field.text().and_then(|text| text.parse::<f64>().ok()) {
                Some(order) if order.is_finite() => order,
                _ => {
                    self.report
                        .omit(&field, "is not a number", "write a number");
                    return None;
                }
            },
        };
        let workloads = self.subject(spec)?;
        let ingress = self.report.list(spec, "ingress")?;
        let egress = self.report.list(spec, "egress")?;
        let types = self.types(spec, &ingress, &egress)?;
        let mut rules = [None, None];
        for ((direction, key), items) in DIRECTIONS.into_iter().zip([ingress, egress]) {
            if !types.contains(&direction) {
                continue;
            }
            let items = items.iter().enumerate();
            let read = items
                .filter_map(|(place, item)| self.rule(item, direction, format!("{key}.{place}")));
            rules[direction as usize] = Some(read.collect());
        }
        Some((order, workloads, rules))
    }

    fn types(
        &mut self,
        spec: &Field<'_>,
        ingress: &[Field<'_>],
        egress: &[Field<'_>],
    ) -> Option<Vec<Direction>> {
        let items = self.report.list(spec, "types")?;
        let mut types = Vec::new();
        for item in &items {
            types.push(match item.text() {
                Some("Ingress") => Direction::Ingress,
                Some("Egress") => Direction::Egress,
                _ => {
                    let help = "write `Ingress` or `Egress`";
                    self.report.omit(item, "is not a type that is known", help);
                    return None;
                }
            });
        }
        if items.is_empty() {
            if !ingress.is_empty() || egress.is_empty() {
                types.push(Direction::Ingress);
            }
            if !egress.is_empty() {
                types.push(Direction::Egress);
            }
        }
        Some(types)
    }

    /// Whom a policy is about.
    fn subject(&mut self, spec: &Field<'_>) -> Option<Vec<WorkloadSelector>> {
        let selector = self
            .selector(spec, "selector")?
            .unwrap_or_else(Selector::all);
        let namespaces = self.selector(spec, "namespaceSelector")?;
        let accounts = self.accounts(spec, "serviceAccountSelector")?;
        if selector.is_global || namespaces.as_ref().is_some_and(|n| n.is_global) {
            let help = "write a SegmentPolicy with `selector: {host: true}` for hosts";
            self.report
                .omit(spec, "is about what is in no namespace", help);
            return None;
        }
        let namespaces = match (self.namespace, namespaces) {
            (Some(own), _) => Demands::own(own),
            (None, Some(selector)) => Demands::Labels(selector),
            (None, None) => Demands::Labels(Selector::all()),
        };
        self.workloads(spec, &selector, &namespaces, accounts.as_deref())
    }

    /// A selector expression; the inner `None` if there is none.
    #[expect(
        clippy::option_option,
        reason = "absence is said by one, what was left out by the other"
    )]
    fn selector(&mut self, of: &Field<'_>, name: &str) -> Option<Option<Selector>> {
        let Some(field) = of.find(name) else {
            return Some(None);
        };
        let text = self.report.text(&field)?;
        match Selector::parse(text) {
            Ok(selector) => Some(Some(selector)),
            Err(error) => {
                let help = match &error {
                    SelectorError::Syntax { .. } => "correct it: Calico refuses it, too",
                    SelectorError::PartOfValue(_) => "list the whole values: `app in {'a', 'b'}`",
                    SelectorError::TooLarge | SelectorError::GlobalAmongOthers => {
                        "write a policy or rule for each alternative"
                    }
                };
                self.report.omit(&field, error.to_string(), help);
                None
            }
        }
    }

    /// Names of service accounts that a selector means; the inner `None` if there is none.
    #[expect(
        clippy::option_option,
        reason = "absence is said by one, what was left out by the other"
    )]
    fn accounts(&mut self, of: &Field<'_>, name: &str) -> Option<Option<Vec<String>>> {
        let Some(selector) = self.selector(of, name)? else {
            return Some(None);
        };
        let mut names = Vec::new();
        for alternative in &selector.any {
            match selector::demands(alternative).as_slice() {
                [demand] if demand.key == NAME && demand.operator == Operator::In => {
                    names.extend(demand.values.iter().cloned());
                }
                [] => return Some(None),
                _ => {
                    let field = of.find(name)?;
                    let message = "selects service accounts by their labels";
                    let help = "write a `serviceAccount:` for each, by its name";
                    self.report.omit(&field, message, help);
                    return None;
                }
            }
        }
        Some(Some(names))
    }

    fn rule(&mut self, item: &Field<'_>, direction: Direction, name: String) -> Option<Rule> {
        let action = match item.text_of("action") {
            Some("Allow") => RuleAction::Allow,
            Some("Deny") => RuleAction::Deny,
            Some("Pass") => RuleAction::Pass,
            Some("Log") => {
                let help = "write `log: true` at the rule that allows; denials are reported always";
                let message = "only writes to the log, and goes on to the next rule";
                self.report.omit_with(item, Effect::Same, message, help);
                return None;
            }
            _ => {
                self.report.effect = Effect::Either;
                let help = "write `Allow`, `Deny` or `Pass`";
                self.report.omit(item, "has no action that is known", help);
                return None;
            }
        };
        self.report.effect = match action {
            RuleAction::Allow => Effect::Narrower,
            RuleAction::Deny => Effect::Wider,
            RuleAction::Pass => Effect::Either,
        };
        let known = [
            "action",
            "metadata",
            "protocol",
            "notProtocol",
            "icmp",
            "notICMP",
            "ipVersion",
            "source",
            "destination",
            "http",
        ];
        if !self.report.knows(item, &known) {
            return None;
        }
        for (key, message, help) in [
            (
                "http",
                "allows some requests only (layer 7)",
                "allow the ports alone, if every request may pass, and check requests in a proxy",
            ),
            (
                "notProtocol",
                "is about every protocol but one",
                "list the protocols that are meant",
            ),
            (
                "notICMP",
                "is about every ICMP type but one",
                "list the types that are meant",
            ),
        ] {
            if let Some(field) = item.find(key) {
                self.report.omit(&field, message, help);
                return None;
            }
        }
        let (peer, local) = match direction {
            Direction::Ingress => ("source", "destination"),
            Direction::Egress => ("destination", "source"),
        };
        if !self.local_is_plain(item, local, direction) {
            return None;
        }
        let ports = self.ports(item, direction)?;
        let mut peers = self.peers(item, peer)?;
        if peers.is_empty() {
            return None;
        }
        self.ip_version(item, &ports, &mut peers)?;
        let origin = Origin {
            file: self.report.file.name.clone(),
            line: item.at.line,
            column: item.at.column,
        };
        Some(draft::rule(name, origin, action, peers, ports))
    }

    /// Whether a rule demands nothing of the policy's own side but ports, which below `ingress`
    /// are those of the flow.
    fn local_is_plain(&mut self, item: &Field<'_>, side: &str, direction: Direction) -> bool {
        let Some(field) = item.find(side) else {
            return true;
        };
        if !self.report.knows(&field, peer::ENTITY) {
            return false;
        }
        for (name, found) in field.entries() {
            let is_port = matches!(name, "ports" | "notPorts");
            if is_port && direction == Direction::Ingress {
                continue;
            }
            let (message, help) = if is_port {
                (
                    "demands a port of the side that opens the flow",
                    "leave it out if any port may be used there",
                )
            } else {
                (
                    "demands something of the policy's own side",
                    "write it into the selector of a policy of its own",
                )
            };
            self.report.omit(&found, message, help);
            return false;
        }
        true
    }
}
