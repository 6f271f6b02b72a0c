//! Who may reach whom, as a picture: from policy, and over it from flows that were seen.

mod edges;
mod html;
mod layout;
mod svg;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use serde::Serialize;

use self::edges::{AllowedServices, SeenServices, besides, edges, is_something, stretches, words};
pub use self::{html::html, svg::svg};
use super::{
    flows::{Flows, Tally, place::place},
    parties::{self, GroupKind},
    reach::{BothRulings, Reach},
    services::{Service, Services},
    simulate::{Names, by_hosts, has_service},
    tree::Tree,
};
use crate::{
    compile::{CompileError, explain::Answer, image::RuleDirection},
    policy::model::{Mode, Moment, ResolvedPolicy},
};

/// Version of [`Graph`], in its field `version`.
pub const GRAPH_VERSION: u32 = 1;

/// Who may reach whom. A public, versioned schema (docs/tools.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// [`GRAPH_VERSION`].
    pub version: u32,
    /// Whether flows are laid over policy.
    pub has_flows: bool,
    /// Groups that policy does not tell apart.
    pub nodes: Vec<Node>,
    /// What one may do at another, or tried to.
    pub edges: Vec<Edge>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: GroupKind,
    /// Everybody in it.
    pub members: Vec<String>,
    /// No policy and no default restricts what is opened to it, though it has an endpoint.
    pub open_ingress: bool,
    /// The same for what it opens.
    pub open_egress: bool,
    /// What rules allow everybody to use at it. There are no edges for that.
    pub from_everybody: Vec<String>,
    /// The same, of every protocol and port.
    #[serde(skip)]
    pub everybody_may: Services<bool>,
}

/// What is between two groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EdgeState {
    /// A rule allows it. (Only where no flows are looked at.)
    Allowed,
    /// A rule allows it, and it was seen.
    Used,
    /// A rule allows it, and it was never seen.
    Unused,
    /// No rule names it, nothing restricts it, and it was seen.
    Open,
    /// It was seen, and the policy denies it (or would, where it is in audit mode).
    Denied,
}

impl EdgeState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Allowed,
        Self::Used,
        Self::Unused,
        Self::Open,
        Self::Denied,
    ];

    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Used => "used",
            Self::Unused => "unused",
            Self::Open => "open",
            Self::Denied => "denied",
        }
    }

    /// For a legend.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Allowed => "allowed by a rule",
            Self::Used => "allowed and used",
            Self::Unused => "allowed, never used",
            Self::Open => "used, restricted by nothing",
            Self::Denied => "denied and tried",
        }
    }
}

/// An arrow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// Index into the nodes: who opens.
    pub from: usize,
    /// Who is addressed.
    pub to: usize,
    /// What it is.
    pub state: EdgeState,
    /// Services.
    pub services: Vec<String>,
    /// The same as values.
    #[serde(skip)]
    pub stretches: Vec<Service>,
    /// Protocols that a stretch of every other protocol does not mean.
    #[serde(skip)]
    pub besides: Vec<u8>,
    /// How often it was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<Tally>,
}

/// What of a picture is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What rules allow.
    pub policy: bool,
    /// What flows were.
    pub flows: bool,
}

/// Makes the graph of a policy, with flows over it if there are any.
pub fn graph(
    policy: &ResolvedPolicy,
    mode: Mode,
    now: Moment,
    flows: Option<&Flows>,
    wanted: Wanted,
) -> Result<Graph, CompileError> {
    let tree = Tree::new(policy.clone(), mode, now, &[])?;
    let trees = [&tree];
    let groups = parties::groups(&trees);
    let mut nodes: Vec<Node> = Vec::new();
    let mut by_name: HashMap<String, usize> = HashMap::new();
    // The faces of a workload (its socket, its addresses) are one node.
    let node_of: Vec<usize> = groups
        .iter()
        .map(|group| {
            *by_name.entry(group.plain_name.clone()).or_insert_with(|| {
                nodes.push(Node {
                    name: group.plain_name.clone(),
                    kind: group.kind,
                    members: group.members.clone(),
                    open_egress: group.has_endpoint() && !group.is_restricted(0, 0),
                    open_ingress: group.has_endpoint() && !group.is_restricted(0, 1),
                    from_everybody: Vec::new(),
                    everybody_may: Services::all(false),
                });
                nodes.len() - 1
            })
        })
        .collect();
    let mut allowed = AllowedServices::new();
    if wanted.policy {
        let mut reach = Reach::new(&trees);
        for (from, source) in groups.iter().enumerate() {
            for (to, target) in groups.iter().enumerate() {
                if !source.can_open_to(target) || node_of[from] == node_of[to] {
                    continue;
                }
                let pair = reach.pair(0, source, target);
                let services = reach.rulings(pair);
                let by_rule = services.map(is_by_rule);
                let pair = (node_of[from], node_of[to]);
                let between = allowed.entry(pair).or_insert_with(|| Services::all(false));
                *between = between.join(&by_rule, |one, other| *one || *other);
            }
        }
        allowed.retain(|_, services| is_something(services));
        take_out_everybody(&mut nodes, &mut allowed);
    }
    let mut seen = SeenServices::new();
    if let (Some(flows), true) = (flows, wanted.flows) {
        let names = Names::new(&tree);
        look_at(
            policy,
            mode,
            now,
            flows,
            |from, to, service, ruling, tally| {
                let (from, to) = (names.peer(from), names.peer(to));
                let (Some(from), Some(to)) = (by_name.get(&from), by_name.get(&to)) else {
                    return;
                };
                let of = seen.entry((*from, *to)).or_default();
                let entry = of
                    .entry(service)
                    .or_insert_with(|| (Answer::Allow, false, Tally::default()));
                // Both sides may have told of the same flow: the worse counts, and the more often.
                entry.0 = super::reach::worse(entry.0, ruling.verdict);
                entry.1 |= ruling.is_by_rule();
                if entry.2.records < tally.records {
                    entry.2 = tally.clone();
                }
            },
        )?;
    }
    let has_flows = flows.is_some() && wanted.flows;
    let mut edges = edges(&allowed, &seen, has_flows);
    let used: BTreeSet<usize> = edges.iter().flat_map(|e| [e.from, e.to]).collect();
    // Networks and hosts that have nothing to do with anybody are left out.
    let kept: Vec<usize> = (0..nodes.len())
        .filter(|i| used.contains(i) || nodes[*i].kind == GroupKind::Workload)
        .collect();
    for edge in &mut edges {
        edge.from = kept.binary_search(&edge.from).unwrap_or(0);
        edge.to = kept.binary_search(&edge.to).unwrap_or(0);
    }
    Ok(Graph {
        version: GRAPH_VERSION,
        has_flows,
        nodes: kept.into_iter().map(|i| nodes[i].clone()).collect(),
        edges,
    })
}

/// Whether a flow passes, and a rule says so at one side at least.
fn is_by_rule(both: &BothRulings) -> bool {
    both.verdict() == Answer::Allow && (both.egress.is_by_rule() || both.ingress.is_by_rule())
}

/// Services that everybody may use at a node are told at the node: arrows from everywhere say
/// no more, and hide the others.
fn take_out_everybody(nodes: &mut [Node], allowed: &mut AllowedServices) {
    /// With fewer others, arrows are as clear.
    const FEWEST: usize = 4;
    for to in 0..nodes.len() {
        let others: Vec<usize> = (0..nodes.len()).filter(|from| *from != to).collect();
        if others.len() < FEWEST {
            continue;
        }
        let mut common = Services::all(true);
        for from in &others {
            common = match allowed.get(&(*from, to)) {
                Some(services) => common.join(services, |one, other| *one && *other),
                None => Services::all(false),
            };
        }
        if !is_something(&common) {
            continue;
        }
        nodes[to].from_everybody = words(&stretches(&common), &besides(&common));
        for from in others {
            if let Some(services) = allowed.get_mut(&(from, to)) {
                *services = services.join(&common, |one, common| *one && !*common);
            }
        }
        nodes[to].everybody_may = common;
    }
    allowed.retain(|_, services| is_something(services));
}

/// Calls `tell` with both sides of every flow that can be placed.
fn look_at(
    policy: &ResolvedPolicy,
    mode: Mode,
    now: Moment,
    flows: &Flows,
    mut tell: impl FnMut(&Peer, &Peer, Service, super::tree::Ruling, &Tally),
) -> Result<(), CompileError> {
    for (hosts, seen) in by_hosts(flows) {
        let hosts: Vec<IpAddr> = hosts.into_iter().collect();
        let tree = Tree::new(policy.clone(), mode, now, &hosts)?;
        for seen in seen {
            let Ok(placed) = place(&tree, seen) else {
                continue;
            };
            let service = Service {
                protocol: Some(seen.protocol),
                first: if has_service(seen.protocol) {
                    seen.port
                } else {
                    0
                },
                last: if has_service(seen.protocol) {
                    seen.port
                } else {
                    u16::MAX
                },
            };
            let endpoint = match &placed.endpoint {
                None => Peer::Host,
                Some(name) => Peer::Workload(name.clone(), None),
            };
            let ruling = placed.ruling(&tree, seen);
            let (tally, _) = &flows.seen[seen];
            match seen.direction {
                RuleDirection::Egress => tell(&endpoint, &placed.party, service, ruling, tally),
                RuleDirection::Ingress => tell(&placed.party, &endpoint, service, ruling, tally),
            }
        }
    }
    Ok(())
}

use super::flows::place::PlacedPeer as Peer;

/// A text inside XML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Not allowed in XML, not even escaped.
            c if c.is_control() && c != '\n' && c != '\t' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::load_text;

    fn tree() -> ResolvedPolicy {
        let mut text = String::from(
            "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\n\
             metadata: {name: db, namespace: shop}\nspec:\n  selector: {matchLabels: {app: db}}\n  \
             ingress:\n  - from: [{labels: {app: api}}]\n    ports: [5432/tcp]\n  \
             - ports: [{protocol: ICMP, type: 8}]\n",
        );
        for (number, name) in (1..).zip(["web", "api", "db", "cron"]) {
            let workload = format!(
                "---\napiVersion: enforcer.dev/v1alpha1\nkind: Workload\n\
                 metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
                 spec: {{interface: {name}, addresses: [10.0.0.{number}]}}\n"
            );
            text.push_str(&workload);
        }
        load_text("a.yaml", &text).unwrap_or_else(|e| panic!("{}", e.render(false)))
    }

    fn told(graph: &Graph) -> Vec<String> {
        let name = |i: usize| &*graph.nodes[i].name;
        let edges = graph.edges.iter().map(|e| {
            format!(
                "{} {} -> {}: {}",
                e.state.name(),
                name(e.from),
                name(e.to),
                e.services.join(" ")
            )
        });
        edges.collect()
    }

    const BOTH: Wanted = Wanted {
        policy: true,
        flows: true,
    };

    #[test]
    fn what_everybody_may_do_is_told_at_the_node() {
        let graph = graph(&tree(), Mode::Enforce, Moment::default(), None, BOTH).unwrap();
        assert_eq!(told(&graph), ["allowed shop/api -> shop/db: 5432/tcp"]);
        let db = graph.nodes.iter().find(|n| n.name == "shop/db").unwrap();
        assert_eq!(db.from_everybody, ["8/icmp"]);
        assert!(!db.open_ingress && db.open_egress);
    }

    #[test]
    fn flows_show_what_is_used_what_is_not_and_what_is_tried() {
        use crate::{
            compile::image::WorkloadName,
            observe::record::Verdict,
            tools::flows::{Seen, Who},
        };
        let mut flows = Flows::default();
        for (to, from, port) in [("db", 1, 5432), ("web", 2, 80)] {
            let seen = Seen {
                node: String::new(),
                endpoint: Who::Proven(WorkloadName {
                    namespace: "shop".into(),
                    name: to.into(),
                }),
                direction: RuleDirection::Ingress,
                peer: Who::Address(format!("10.0.0.{from}").parse().unwrap()),
                protocol: 6,
                port,
                verdict: Verdict::Allow,
            };
            flows.see(
                seen,
                &Tally {
                    records: 4,
                    ..Tally::default()
                },
                None,
            );
        }
        let both = graph(
            &tree(),
            Mode::Enforce,
            Moment::default(),
            Some(&flows),
            BOTH,
        )
        .unwrap();
        assert_eq!(
            told(&both),
            [
                "open shop/api -> shop/cron and 1 more: 80/tcp",
                "unused shop/api -> shop/db: 5432/tcp",
                "denied shop/cron and 1 more -> shop/db: 5432/tcp",
            ]
        );
        assert_eq!(both.edges[2].seen.as_ref().unwrap().records, 4);
        let only = Wanted {
            policy: false,
            flows: true,
        };
        assert_eq!(
            told(
                &graph(
                    &tree(),
                    Mode::Enforce,
                    Moment::default(),
                    Some(&flows),
                    only
                )
                .unwrap()
            )
            .len(),
            2
        );
    }

    #[test]
    fn nothing_in_a_picture_is_markup_from_a_name() {
        let mut graph = graph(&tree(), Mode::Enforce, Moment::default(), None, BOTH).unwrap();
        graph.nodes[0].name = "<script>&\"'\u{7}".to_owned();
        for text in [svg(&graph), html(&graph)] {
            assert!(!text.contains("<script>&"));
            assert!(!text.contains('\u{7}'));
        }
        assert!(!html(&graph).contains("http://") || !html(&graph).contains("src="));
    }
}
