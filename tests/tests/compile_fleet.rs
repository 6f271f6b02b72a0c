//! In a fleet, what is judged at one end of a flow for the other end is made anew for the pairs
//! that a change is about, and for no others, however many hosts there are.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use enforcer::{
    compile::{
        Compiler, Image, Inputs, Limits, NOBODY, Numbers, Subjects, Work, compile,
        elsewhere::{Announced, Elsewhere, NodePeers, Reached, Service, ServiceAddress},
        image::{IdentitySubject, WorkloadName},
    },
    policy::model::{
        Assurance, Labels, Mode, Moment, Origin, Peer, Place, RemoteHost, ResolvedPolicy, Rule,
        Workload, WorkloadSelector,
    },
};
use enforcer_common::{Action, Direction, Judge, identity};
use tests::bench::scale::{Size, tree};

/// Workloads of this host, and of each other one, all in cgroups.
const PER_HOST: usize = 10;
/// What the first rule of every policy opens.
const PORT: u16 = 1000;

/// One host of a fleet, and what it knows of the others.
struct Host {
    tree: ResolvedPolicy,
    elsewhere: Elsewhere,
    compiler: Compiler,
    numbers: Numbers,
    image: Image,
}

impl Host {
    fn new(others: usize) -> Self {
        let all = PER_HOST * (others + 1);
        let mut tree = tree(&Size {
            workloads: all,
            identities: all,
            policies: all,
            rules: 4,
        });
        let mut by_number: Vec<_> = std::mem::take(Arc::make_mut(&mut tree.workloads));
        by_number.sort_by_key(|workload| number(&workload.name));
        let elsewhere = by_number.split_off(PER_HOST);
        for workload in &mut by_number {
            Arc::make_mut(workload).addresses.clear();
        }
        by_number.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        tree.workloads = Arc::new(by_number);
        let nodes = elsewhere.chunks(PER_HOST).enumerate();
        let nodes = nodes.map(|(index, workloads)| {
            let workloads = workloads.iter().map(|workload| {
                Arc::new(Workload {
                    addresses: Vec::new(),
                    place: None,
                    assurance: Assurance::Orchestrator,
                    ..(**workload).clone()
                })
            });
            Arc::new(node(index, workloads.collect()))
        });
        let own = tree.workloads.iter().map(|workload| {
            let ports = BTreeSet::from([(6, PORT)]);
            (name(workload), Reached::ByPort(ports))
        });
        Self {
            elsewhere: Elsewhere {
                nodes: nodes.collect(),
                own: Some(Arc::new(Announced(own.collect()))),
            },
            tree,
            compiler: Compiler::default(),
            numbers: Numbers::default(),
            image: Image::default(),
        }
    }

    /// Compiles, and holds the image against that of a compiler that remembers nothing.
    fn compile(&mut self) -> Work {
        let inputs = Inputs {
            policy: &self.tree,
            mode: Mode::Enforce,
            now: Moment(0),
            host_addresses: &[[10, 200, 0, 1].into()],
            elsewhere: &self.elsewhere,
            attested: NOBODY,
            subjects: Subjects::Placed,
            limits: &Limits::NONE,
            in_force: None,
        };
        let afresh = compile(&inputs, &mut self.numbers.clone()).expect("there is room");
        let image = self.compiler.compile(&inputs, &mut self.numbers);
        self.image = image.expect("there is room");
        assert!(self.image == afresh);
        self.compiler.work()
    }

    /// The first rule of the policy that selects one application.
    fn rule(&mut self, app: usize) -> &mut Rule {
        let policies = &mut self.tree.policies;
        let policy = policies.iter_mut().find(|p| number(&p.name) == app);
        let rules = Arc::make_mut(policy.expect("one for each")).rules[1].as_mut();
        &mut rules.expect("ingress")[0]
    }

    /// What becomes of a flow to `PORT` between a workload here and another host.
    fn action(&self, direction: Direction, here: usize, peer: u32) -> Action {
        let mut workloads = self.tree.workloads.iter();
        let workload = workloads.find(|workload| number(&workload.name) == here);
        let name = name(workload.expect("it is here"));
        // Who can prove who it is, has proven it.
        let proven = self.image.attested.get(&name);
        let number = *proven.unwrap_or(&self.image.workloads[&name]);
        let judge = Judge {
            set: self.image.sets[&number].numbers[direction as usize],
            peer,
            protocol: 6,
            port: PORT,
        };
        judge.decide(&self.image).action()
    }

    fn behind(&self, node: usize, port: u16) -> u32 {
        self.image.identity_behind(ServiceAddress {
            address: address(node),
            protocol: 6,
            port,
        })
    }
}

fn number(name: &str) -> usize {
    let (_, number) = name.split_once('-').expect("as in w-7");
    number.parse().expect("a number")
}

fn name(workload: &Workload) -> WorkloadName {
    WorkloadName {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
    }
}

fn address(node: usize) -> IpAddr {
    let [.., high, low] = u32::try_from(node).expect("few").to_be_bytes();
    [10, 201, high, low].into()
}

/// Another host. Each of its workloads is behind a port of its own, the first behind `PORT`.
fn node(index: usize, workloads: Vec<Arc<Workload>>) -> NodePeers {
    let address = address(index);
    let services = (PORT..).zip(&workloads).map(|(port, workload)| Service {
        at: ServiceAddress {
            address,
            protocol: 6,
            port,
        },
        workload: Arc::clone(workload),
    });
    let sharing = workloads.iter();
    let sharing = sharing.map(|workload| IdentitySubject::of(workload).without_ports());
    NodePeers {
        name: format!("node-{index}"),
        host: Arc::new(RemoteHost {
            name: format!("node-{index}"),
            origin: Origin {
                file: "node".into(),
                line: 1,
                column: 1,
            },
            labels: Labels::new(),
            addresses: vec![address.into()],
        }),
        services: services.collect(),
        sharing: Arc::new(sharing.collect()),
        workloads,
    }
}

fn app(app: usize) -> Vec<Peer> {
    let label = ("app".to_owned(), format!("app-{app}"));
    let selector = WorkloadSelector::labelled(None, Labels::from([label]));
    vec![Peer::Workloads(selector)]
}

/// What each of some changes costs, one after the other.
fn costs(others: usize) -> Vec<(&'static str, Work)> {
    let mut host = Host::new(others);
    let mut costs = vec![("everything", host.compile())];
    costs.push(("nothing", host.compile()));

    host.rule(PER_HOST).peers = app(3);
    costs.push(("a rule of somebody elsewhere", host.compile()));

    host.rule(4).peers = app(PER_HOST + 1);
    costs.push(("a rule of somebody here", host.compile()));

    let one = Arc::make_mut(&mut host.elsewhere.nodes[1]);
    one.services.truncate(PER_HOST - 1);
    costs.push(("a port is closed elsewhere", host.compile()));

    let one = &host.elsewhere.nodes[1];
    let mut workloads = one.workloads.clone();
    let labels = &mut Arc::make_mut(&mut workloads[0]).labels;
    labels.insert("more".to_owned(), "yes".to_owned());
    let host_as_before = Arc::clone(&one.host);
    host.elsewhere.nodes[1] = Arc::new(NodePeers {
        host: host_as_before,
        ..node(1, workloads)
    });
    costs.push(("somebody elsewhere gets labels", host.compile()));

    let gone = host.elsewhere.nodes.remove(1);
    costs.push(("a node goes", host.compile()));
    host.elsewhere.nodes.insert(1, gone);
    costs.push(("a node comes", host.compile()));
    costs
}

#[test]
fn a_change_is_about_its_pairs_however_large_the_fleet_is() {
    for others in [20, 100] {
        let costs = costs(others);
        let between = |what: &str| {
            let found = costs.iter().find(|(name, _)| *name == what);
            found.expect("it was done").1.between
        };
        // Everybody here with whoever is at a port elsewhere and names somebody of here.
        let everything = between("everything");
        assert!(everything > others * PER_HOST * PER_HOST, "{everything}");
        assert_eq!(between("nothing"), 0);
        assert_eq!(between("a rule of somebody elsewhere"), PER_HOST + 1);
        // Whoever may be behind any of the shared addresses.
        assert_eq!(between("a rule of somebody here"), others);
        assert_eq!(between("a port is closed elsewhere"), 0);
        // That somebody with everybody here; and whoever names it here, as above.
        let labels = between("somebody elsewhere gets labels");
        assert!(labels < everything / 20, "{labels} of {everything}");
        assert_eq!(between("a node goes"), 0);
        let comes = between("a node comes");
        assert!(comes <= PER_HOST * (PER_HOST + 1), "{comes}");
    }
}

/// No identity of the image is one that the rule matches: who shares an address and is behind no
/// port of it, has none.
#[test]
fn a_rule_may_be_about_nobody_but_those_behind_an_address() {
    let mut host = Host::new(2);
    for node in &mut host.elsewhere.nodes {
        Arc::make_mut(node).services.clear();
    }
    let mut said = Vec::new();
    for sender in [PER_HOST + 1, PER_HOST + 1, 999, 2 * PER_HOST + 1] {
        host.rule(4).peers = app(sender);
        host.compile();
        let nodes = [0, 1].map(|node| host.behind(node, PORT));
        said.push(nodes.map(|node| host.action(Direction::Ingress, 4, node)));
    }
    let (allow, deny) = (Action::Allow, Action::Deny);
    assert_eq!(
        said,
        [[allow, deny], [allow, deny], [deny, deny], [deny, allow]]
    );
}

/// A workload elsewhere lets in who has proven who it is, which its own host alone knows. Where
/// a workload of the same identity is on that host too, it may be reached there.
#[test]
fn who_is_here_too_is_judged_as_it_is_known_here() {
    let mut host = Host::new(1);
    let there = PER_HOST;
    host.rule(there).peers = vec![Peer::Assured {
        at_least: Assurance::Attested,
        peer: Box::new(app(3).remove(0)),
    }];
    let workloads = Arc::make_mut(&mut host.tree.workloads);
    let sender = workloads.iter_mut().find(|w| number(&w.name) == 3);
    let sender = Arc::make_mut(sender.expect("it is here"));
    sender.spiffe_id = Some("spiffe://example.org/w-3".to_owned());
    host.compile();
    let peer = host.behind(0, PORT);
    assert_ne!(peer, identity::WORLD);
    assert_eq!(host.action(Direction::Egress, 3, peer), Action::Deny);

    let workloads = Arc::make_mut(&mut host.tree.workloads);
    let another = workloads.iter().find(|w| number(&w.name) == 0);
    let mut another = another.expect("it is here").clone();
    let theirs = &host.elsewhere.nodes[0].workloads[0];
    let same = Arc::make_mut(&mut another);
    same.labels.clone_from(&theirs.labels);
    same.namespace.clone_from(&theirs.namespace);
    same.name = "w-77".to_owned();
    same.place = Some(Place::Cgroup("/w-77".to_owned()));
    workloads.push(another);
    workloads.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    for there in [Action::Allow, Action::Deny] {
        host.compile();
        assert_eq!(host.behind(0, PORT), peer);
        assert_eq!(host.action(Direction::Egress, 3, peer), there);
        Arc::make_mut(&mut host.tree.workloads).retain(|w| w.name != "w-77");
    }
}
