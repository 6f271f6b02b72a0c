//! Cilium: rules of a direction have no order, deny is stronger than allow, and a policy that
//! says something in a direction isolates there, unless it says that it does not.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use enforcer_common::Direction;
use ipnet::IpNet;
use proptest::{collection::vec, option, prelude::*, sample::select};
use tests::generate;

use super::{CLUSTER, Flow, NAMESPACES, Other, Pod, compare, imported};

#[derive(Clone, Debug)]
struct Demand {
    key: &'static str,
    operator: &'static str,
    values: Vec<&'static str>,
}

/// Labels as a pod of Cilium has them.
fn facts(pod: &Pod) -> BTreeMap<&'static str, &'static str> {
    let mut facts = pod.labels.clone();
    facts.insert("io.kubernetes.pod.namespace", pod.namespace);
    facts.insert("io.cilium.k8s.policy.serviceaccount", pod.account);
    facts
}

fn selects(demands: &[Demand], pod: &Pod) -> bool {
    let facts = facts(pod);
    demands.iter().all(|demand| {
        let value = facts.get(demand.key);
        match demand.operator {
            "In" => value.is_some_and(|value| demand.values.contains(value)),
            "NotIn" => value.is_none_or(|value| !demand.values.contains(value)),
            "Exists" => value.is_some(),
            _ => value.is_none(),
        }
    })
}

#[derive(Clone, Debug)]
enum Peers {
    Unsaid,
    Nobody,
    Endpoints(Vec<Vec<Demand>>),
    Entities(Vec<&'static str>),
    Networks(Vec<(&'static str, Vec<&'static str>)>),
}

#[derive(Clone, Debug)]
struct Port {
    protocol: &'static str,
    first: u16,
    last: Option<u16>,
}

#[derive(Clone, Debug)]
struct Rule {
    peers: Peers,
    ports: Vec<Port>,
    echo: bool,
}

#[derive(Clone, Debug, Default)]
struct Side {
    allows: Vec<Rule>,
    denies: Vec<Rule>,
    default_deny: Option<bool>,
}

#[derive(Clone, Debug)]
struct Policy {
    /// `None`: of the whole cluster.
    namespace: Option<&'static str>,
    selector: Vec<Demand>,
    /// Egress, ingress.
    sides: [Side; 2],
}

impl Rule {
    fn matches(&self, flow: &Flow<'_>, own: Option<&str>) -> bool {
        let ports = if self.echo {
            (flow.protocol, flow.port >> 8) == (1, 8)
        } else {
            self.ports.is_empty() || self.ports.iter().any(|port| port.matches(flow))
        };
        ports
            && match &self.peers {
                Peers::Unsaid => self.echo || !self.ports.is_empty(),
                Peers::Nobody => false,
                Peers::Endpoints(list) => list.iter().any(|demands| {
                    let Other::Pod(pod) = flow.other else {
                        return false;
                    };
                    let names = |demand: &Demand| demand.key == "io.kubernetes.pod.namespace";
                    let is_near =
                        own.is_none_or(|own| demands.iter().any(names) || pod.namespace == own);
                    is_near && selects(demands, pod)
                }),
                Peers::Entities(list) => list.iter().any(|entity| {
                    matches!(
                        (*entity, flow.other),
                        ("all", _)
                            | ("world", Other::World(_))
                            | ("host", Other::Host)
                            | ("cluster", Other::Pod(_) | Other::Host)
                    )
                }),
                Peers::Networks(list) => {
                    // Pods and hosts are known by more than their addresses.
                    let Other::World(address) = flow.other else {
                        return false;
                    };
                    list.iter().any(|(network, except)| {
                        contains(network, address)
                            && !except.iter().any(|inside| contains(inside, address))
                    })
                }
            }
    }
}

fn contains(network: &str, address: IpAddr) -> bool {
    let network: IpNet = network.parse().expect("a network");
    network.contains(&address)
}

impl Port {
    fn matches(&self, flow: &Flow<'_>) -> bool {
        let protocols: &[u8] = match self.protocol {
            "TCP" => &[6],
            "UDP" => &[17],
            _ => &[6, 17, 132],
        };
        let last = self.last.unwrap_or(self.first);
        protocols.contains(&flow.protocol) && (self.first..=last).contains(&flow.port)
    }
}

/// Whether Cilium lets a flow pass.
fn allows(policies: &[Policy], flow: &Flow<'_>) -> bool {
    let place = match flow.direction {
        Direction::Egress => 0,
        Direction::Ingress => 1,
    };
    let about: Vec<_> = policies
        .iter()
        .filter(|policy| {
            policy.namespace.is_none_or(|own| own == flow.pod.namespace)
                && selects(&policy.selector, flow.pod)
        })
        .collect();
    let matches = |policy: &Policy, rules: &[Rule]| {
        rules
            .iter()
            .any(|rule| rule.matches(flow, policy.namespace))
    };
    if about
        .iter()
        .any(|policy| matches(policy, &policy.sides[place].denies))
    {
        return false;
    }
    let is_local = matches!(flow.other, Other::Host) && flow.direction == Direction::Ingress;
    if is_local
        || about
            .iter()
            .any(|policy| matches(policy, &policy.sides[place].allows))
    {
        return true;
    }
    !about.iter().any(|policy| {
        let side = &policy.sides[place];
        let says = !side.allows.is_empty() || !side.denies.is_empty();
        side.default_deny.unwrap_or(says)
    })
}

fn demand(with_namespace: bool) -> BoxedStrategy<Demand> {
    let label = prop_oneof![
        (Just("app"), vec(select(vec!["x", "y"]), 1..3)),
        (Just("tier"), vec(select(vec!["1", "2"]), 1..2)),
    ];
    let by_label = (label, select(vec!["In", "NotIn", "Exists", "DoesNotExist"]));
    let by_label = by_label.prop_map(|((key, values), operator)| Demand {
        key,
        operator,
        values: match operator {
            "In" | "NotIn" => values,
            _ => Vec::new(),
        },
    });
    let by_account = select(vec!["runner", "default"]).prop_map(|account| Demand {
        key: "io.cilium.k8s.policy.serviceaccount",
        operator: "In",
        values: vec![account],
    });
    if !with_namespace {
        return prop_oneof![5 => by_label, 1 => by_account].boxed();
    }
    let by_namespace = (
        vec(select(NAMESPACES.to_vec()), 1..2),
        select(vec!["In", "NotIn"]),
    );
    let by_namespace = by_namespace.prop_map(|(values, operator)| Demand {
        key: "io.kubernetes.pod.namespace",
        operator,
        values,
    });
    prop_oneof![5 => by_label, 1 => by_account, 2 => by_namespace].boxed()
}

/// One demand on each key at most: two on the account have no equivalent.
fn demands(with_namespace: bool) -> impl Strategy<Value = Vec<Demand>> {
    vec(demand(with_namespace), 0..3).prop_map(|mut demands| {
        let mut seen = Vec::new();
        demands.retain(|demand| {
            let is_new = !seen.contains(&demand.key);
            seen.push(demand.key);
            is_new
        });
        demands
    })
}

fn rule(denies: bool) -> impl Strategy<Value = Rule> {
    let network = prop_oneof![
        Just(("0.0.0.0/0", vec![])),
        Just(("10.0.0.0/8", vec!["10.9.0.0/24"])),
        Just(("10.0.0.0/8", vec![])),
        Just(("192.0.2.0/26", vec![])),
        Just(("10.244.0.0/24", vec![])),
        Just(("::/0", vec![])),
    ];
    let peers = prop_oneof![
        2 => Just(Peers::Unsaid),
        1 => Just(Peers::Nobody),
        6 => vec(demands(true), 1..3).prop_map(Peers::Endpoints),
        3 => vec(select(vec!["all", "world", "host", "cluster", "none"]), 1..3)
            .prop_map(Peers::Entities),
        3 => vec(network, 1..3).prop_map(Peers::Networks),
    ];
    let port = (
        select(vec!["TCP", "UDP", "ANY"]),
        1_u16..12,
        option::of(0_u16..6),
    );
    let port = port.prop_map(|(protocol, first, more)| Port {
        protocol,
        first,
        last: more.map(|more| first + more),
    });
    (peers, vec(port, 0..3), prop::bool::weighted(0.1)).prop_map(move |(peers, ports, echo)| {
        let ports = if echo { Vec::new() } else { ports };
        // A denial that says neither who nor what has no meaning that is documented.
        let is_bare = denies && matches!(peers, Peers::Unsaid) && ports.is_empty();
        Rule {
            peers: if is_bare { Peers::Nobody } else { peers },
            ports,
            echo,
        }
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let side = || {
        (
            vec(rule(false), 0..3),
            vec(rule(true), 0..2),
            option::weighted(0.2, any::<bool>()),
        )
            .prop_map(|(allows, denies, default_deny)| Side {
                allows,
                denies,
                default_deny,
            })
    };
    let place = option::weighted(0.7, select(NAMESPACES.to_vec()));
    (place, demands(false), demands(true), side(), side()).prop_map(
        |(namespace, near, wide, egress, ingress)| Policy {
            namespace,
            selector: if namespace.is_some() { near } else { wide },
            sides: [egress, ingress],
        },
    )
}

fn written(policies: &[Policy]) -> String {
    let mut text = String::new();
    for (number, policy) in policies.iter().enumerate() {
        let (kind, namespace) = match policy.namespace {
            Some(own) => ("CiliumNetworkPolicy", format!(", namespace: {own}")),
            None => ("CiliumClusterwideNetworkPolicy", String::new()),
        };
        let mut spec = vec![format!("endpointSelector: {}", selector(&policy.selector))];
        let mut default_deny = Vec::new();
        for ((key, prefix), side) in [("egress", "to"), ("ingress", "from")]
            .iter()
            .zip(&policy.sides)
        {
            if !side.allows.is_empty() {
                spec.push(format!("{key}: [{}]", rules(&side.allows, prefix)));
            }
            if !side.denies.is_empty() {
                spec.push(format!("{key}Deny: [{}]", rules(&side.denies, prefix)));
            }
            default_deny.extend(side.default_deny.map(|chosen| format!("{key}: {chosen}")));
        }
        if !default_deny.is_empty() {
            spec.push(format!(
                "enableDefaultDeny: {{{}}}",
                default_deny.join(", ")
            ));
        }
        writeln!(
            text,
            "---\napiVersion: cilium.io/v2\nkind: {kind}\n\
             metadata: {{name: p{number}{namespace}}}\nspec: {{{}}}",
            spec.join(", ")
        )
        .expect("a string");
    }
    text
}

fn selector(demands: &[Demand]) -> String {
    let demands = demands.iter().map(|demand| {
        let values: Vec<_> = demand.values.iter().map(|v| format!("'{v}'")).collect();
        let values = if values.is_empty() {
            String::new()
        } else {
            format!(", values: [{}]", values.join(", "))
        };
        format!(
            "{{key: 'k8s:{}', operator: {}{values}}}",
            demand.key, demand.operator
        )
    });
    let demands: Vec<_> = demands.collect();
    if demands.is_empty() {
        "{}".to_owned()
    } else {
        format!("{{matchExpressions: [{}]}}", demands.join(", "))
    }
}

fn rules(rules: &[Rule], prefix: &str) -> String {
    let rules = rules.iter().map(|rule| {
        let mut fields = Vec::new();
        match &rule.peers {
            Peers::Unsaid => {}
            Peers::Nobody => fields.push(format!("{prefix}Endpoints: []")),
            Peers::Endpoints(list) => {
                let list: Vec<_> = list.iter().map(|demands| selector(demands)).collect();
                fields.push(format!("{prefix}Endpoints: [{}]", list.join(", ")));
            }
            Peers::Entities(list) => {
                fields.push(format!("{prefix}Entities: [{}]", list.join(", ")));
            }
            Peers::Networks(list) => {
                let list = list.iter().map(|(network, except)| {
                    format!("{{cidr: '{network}', except: [{}]}}", except.join(", "))
                });
                let list: Vec<_> = list.collect();
                fields.push(format!("{prefix}CIDRSet: [{}]", list.join(", ")));
            }
        }
        if rule.echo {
            fields.push("icmps: [{fields: [{type: EchoRequest}]}]".to_owned());
        } else if !rule.ports.is_empty() {
            let ports = rule.ports.iter().map(|port| {
                let end = port
                    .last
                    .map_or(String::new(), |last| format!(", endPort: {last}"));
                format!(
                    "{{port: '{}', protocol: {}{end}}}",
                    port.first, port.protocol
                )
            });
            let ports: Vec<_> = ports.collect();
            fields.push(format!("toPorts: [{{ports: [{}]}}]", ports.join(", ")));
        }
        format!("{{{}}}", fields.join(", "))
    });
    let rules: Vec<_> = rules.collect();
    rules.join(", ")
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(200),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn imported_policies_mean_what_cilium_says(policies in vec(policy(), 1..4)) {
        let import = imported(&written(&policies));
        prop_assert!(import.left_out.is_empty(), "{:?}\n{}", import.left_out, written(&policies));
        assert_eq!(CLUSTER.len(), 2);
        compare(&import, true, |flow| allows(&policies, flow))?;
    }
}
