//! `CiliumNetworkPolicy` and `CiliumClusterwideNetworkPolicy` of `cilium.io/v2`.
//!
//! Whatever such a policy denies is denied, whatever others allow; so its denials are rules of
//! tier `admin`, where no allow of tier `application` reaches them. What it allows, and the
//! isolation that comes with it, is a policy of tier `application`. What it allows without
//! isolating (`enableDefaultDeny: false`) is a rule of tier `admin` too: beside the denials,
//! which are stronger there.

mod peer;
mod port;
pub(super) mod selector;

use enforcer_common::Direction;
use ipnet::IpNet;

use super::{
    Importer, Settings,
    draft::{self, DIRECTIONS, Draft, DraftGroup},
    field::Field,
    report::{Effect, Reporter},
};
use crate::policy::model::{Group, Origin, Peer, Rule, RuleAction, Subject, Tier};

/// Which of the two kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope<'n> {
    /// A namespace.
    Namespace(&'n str),
    /// The whole cluster.
    Cluster,
}

/// Reads one policy of Cilium.
pub(super) struct Reader<'r, 'a> {
    pub(super) report: Reporter<'a>,
    pub(super) settings: &'r Settings,
    pub(super) scope: Scope<'r>,
    /// Names of the `CiliumCIDRGroup`s that were read.
    pub(super) groups: &'r [DraftGroup],
}

/// Rules of one direction.
#[derive(Default)]
struct Said {
    isolates: bool,
    allows: Vec<Rule>,
    denies: Vec<Rule>,
}

const SPEC: &[&str] = &[
    "endpointSelector",
    "nodeSelector",
    "ingress",
    "ingressDeny",
    "egress",
    "egressDeny",
    "enableDefaultDeny",
    "labels",
    "description",
];

impl Importer<'_> {
    /// Imports a policy.
    pub(super) fn cilium(&mut self, object: &Field<'_>, namespace: Option<&str>, name: &str) {
        let scope = namespace.map_or(Scope::Cluster, Scope::Namespace);
        let specs = object.find("specs").and_then(|specs| specs.items());
        let several = specs.unwrap_or_default().into_iter().enumerate();
        let several = several.map(|(place, spec)| (format!("{name}-{place}"), spec));
        let one = object.find("spec").map(|spec| (name.to_owned(), spec));
        let from = format!("{} ({}:{})", self.object, self.file.name, object.at.line);
        for (name, spec) in one.into_iter().chain(several) {
            let before = self.import.left_out.len();
            let mut reader = Reader {
                report: Reporter {
                    file: &self.file,
                    object: self.object.clone(),
                    effect: Effect::Either,
                    left_out: &mut self.import.left_out,
                },
                settings: self.settings,
                scope,
                groups: &self.cidr_groups,
            };
            let Some((subject, said)) = reader.spec(&spec) else {
                continue;
            };
            let mut comments = super::comments(&from, spec.text_of("description"));
            super::note_left_out(&self.import.left_out[before..], &mut comments);
            let origin = self.origin(&spec);
            self.drafts(namespace, &name, &subject, said, &origin, &from, &comments);
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what all drafts of a policy share"
    )]
    fn drafts(
        &mut self,
        namespace: Option<&str>,
        name: &str,
        subject: &Subject,
        said: [Said; 2],
        origin: &Origin,
        from: &str,
        comments: &[String],
    ) {
        let mut parts = [
            (String::new(), Tier::Application, [None, None]),
            ("-open".to_owned(), Tier::Admin, [None, None]),
            ("-deny".to_owned(), Tier::Admin, [None, None]),
        ];
        for ((direction, _), said) in DIRECTIONS.into_iter().zip(said) {
            let place = direction as usize;
            if said.isolates {
                let mut rules = said.allows;
                // Cilium always lets the host reach its pods, for health checks.
                if direction == Direction::Ingress && *subject != Subject::Host {
                    rules.insert(0, draft::local_node(origin.clone()));
                }
                parts[0].2[place] = Some(rules);
            } else if !said.allows.is_empty() {
                parts[1].2[place] = Some(said.allows);
            }
            if !said.denies.is_empty() {
                parts[2].2[place] = Some(said.denies);
            }
        }
        for (suffix, tier, rules) in parts {
            if rules == [None, None] {
                continue;
            }
            let name = format!("{name}{suffix}");
            let mut policy = draft::policy(namespace, name, tier, subject.clone(), origin.clone());
            policy.rules = rules;
            self.drafts.push(Draft {
                policy,
                from: from.to_owned(),
                comments: comments.to_vec(),
            });
        }
    }

    /// Imports a `CiliumCIDRGroup`: a group of networks.
    pub(super) fn cidr_group(&mut self, object: &Field<'_>, name: &str) {
        let from = format!("{} ({}:{})", self.object, self.file.name, object.at.line);
        let mut reader = Reader {
            report: Reporter {
                file: &self.file,
                object: self.object.clone(),
                effect: Effect::Either,
                left_out: &mut self.import.left_out,
            },
            settings: self.settings,
            scope: Scope::Cluster,
            groups: &[],
        };
        let Some(spec) = object.find("spec") else {
            return;
        };
        if !reader.report.knows(&spec, &["externalCIDRs"]) {
            return;
        }
        let Some(items) = reader.report.list(&spec, "externalCIDRs") else {
            return;
        };
        reader.warn_of_networks(&spec);
        let peers: Vec<_> = items
            .iter()
            .filter_map(|item| reader.network(item, Vec::new()))
            .flatten()
            .collect();
        self.cidr_groups.push(DraftGroup {
            group: Group {
                namespace: None,
                name: name.to_owned(),
                peers,
            },
            from,
        });
    }
}

impl Reader<'_, '_> {
    /// Whom a policy is about, and what it says in both directions, ingress first.
    fn spec(&mut self, spec: &Field<'_>) -> Option<(Subject, [Said; 2])> {
        self.report.effect = Effect::Either;
        if !self.report.knows(spec, SPEC) {
            return None;
        }
        let subject = self.subject(spec)?;
        let default_deny = spec.find("enableDefaultDeny");
        if let Some(field) = &default_deny
            && !self.report.knows(field, &["ingress", "egress"])
        {
            return None;
        }
        let mut said = [Said::default(), Said::default()];
        for ((direction, key), said) in DIRECTIONS.into_iter().zip(&mut said) {
            let allows = self.report.list(spec, key)?;
            let denies = self.report.list(spec, &format!("{key}Deny"))?;
            // A direction of which nothing is said does not isolate: not even `ingress: []`.
            let by_default = !(allows.is_empty() && denies.is_empty());
            let chosen = default_deny.as_ref().and_then(|field| field.find(key));
            said.isolates = match chosen.as_ref().map(Field::text) {
                None => by_default,
                Some(Some("true")) => true,
                Some(Some("false")) => false,
                Some(_) => {
                    let field = chosen.as_ref().unwrap_or(spec);
                    let help = "write `true` or `false`";
                    self.report.omit(field, "is neither true nor false", help);
                    return None;
                }
            };
            let mut read = |items: &[Field<'_>], action, key: &str| {
                let rules = items.iter().enumerate();
                let rules = rules.filter_map(|(place, item)| {
                    self.rule(item, direction, action, format!("{key}.{place}"))
                });
                rules.collect::<Vec<_>>()
            };
            said.allows = read(&allows, RuleAction::Allow, key);
            said.denies = read(&denies, RuleAction::Deny, &format!("{key}Deny"));
        }
        Some((subject, said))
    }

    /// A rule; `None` if it matches nothing, or was left out.
    fn rule(
        &mut self,
        item: &Field<'_>,
        direction: Direction,
        action: RuleAction,
        name: String,
    ) -> Option<Rule> {
        self.report.effect = match action {
            RuleAction::Deny => Effect::Wider,
            RuleAction::Allow | RuleAction::Pass => Effect::Narrower,
        };
        let known = match direction {
            Direction::Ingress => peer::FROM,
            Direction::Egress => peer::TO,
        };
        let others = ["toPorts", "icmps", "authentication"];
        let known: Vec<_> = known.iter().copied().chain(others).collect();
        if !self.report.knows(item, &known) {
            return None;
        }
        if let Some(field) = item.find("authentication")
            && field.text_of("mode") != Some("disabled")
        {
            let help = "write `assurance: attested` at the peers, where they are attested";
            let message = "demands that both sides are authenticated";
            self.report.omit(&field, message, help);
            return None;
        }
        let ports = self.ports(item)?;
        let peers = self.peers(item, direction, ports.is_some(), action)?;
        let origin = Origin {
            file: self.report.file.name.clone(),
            line: item.at.line,
            column: item.at.column,
        };
        let ports = ports.unwrap_or_else(|| vec![crate::policy::model::PortMatch::ANY]);
        Some(draft::rule(name, origin, action, peers, ports))
    }

    /// Networks of the cluster are what no network of Cilium's matches: said once for each list
    /// while it is not known which they are.
    pub(super) fn warn_of_networks(&mut self, list: &Field<'_>) {
        if !self.settings.cluster_networks.is_empty() {
            return;
        }
        let effect = match self.report.effect {
            Effect::Narrower => Effect::Wider,
            Effect::Wider => Effect::Narrower,
            other => other,
        };
        self.report.differs(
            list,
            effect,
            "a network never matches pods and nodes in Cilium; here it also matches workloads \
             with such an address",
            "say where pods and nodes have their addresses: `--cluster-network 10.244.0.0/16`; \
             then they are left out of every network",
        );
    }

    /// A network without what is in the cluster; nothing if all of it is. `None`: reported.
    pub(super) fn network(
        &mut self,
        field: &Field<'_>,
        mut except: Vec<IpNet>,
    ) -> Option<Vec<Peer>> {
        let prefix = self.prefix(field)?;
        for inside in &self.settings.cluster_networks {
            if inside.contains(&prefix) {
                return Some(Vec::new());
            }
            if prefix.contains(inside) {
                except.push(*inside);
            }
        }
        except.sort();
        except.dedup();
        let all = except.clone();
        except.retain(|one| !all.iter().any(|other| other != one && other.contains(one)));
        if except.contains(&prefix) {
            return Some(Vec::new());
        }
        Some(vec![Peer::Cidr { prefix, except }])
    }

    /// A network as written; bits beyond its length do not count.
    pub(super) fn prefix(&mut self, field: &Field<'_>) -> Option<IpNet> {
        let text = self.report.text(field)?;
        let prefix = super::prefix(text);
        if prefix.is_none() {
            self.report
                .omit(field, "is not a network", "write it as in `10.0.0.0/8`");
        }
        prefix
    }
}
