//! From files to resolved policy.
//!
//! `source` finds and reads the files, `document` parses their YAML into trees of positioned
//! nodes, `statement` has each of them read as its kind (`segment_policy`, `workload`, `node`,
//! `described`, `policy_test`), and `resolve` looks at all of them together. Every stage goes on
//! after an error, so that one report has everything
//! that is wrong with a tree.

mod answerable;
mod commit;
mod described;
mod diagnostic;
mod document;
mod groups;
mod kept;
pub mod kubernetes;
mod loader;
pub mod model;
mod name;
mod node;
mod peer;
mod place;
pub mod policy_test;
mod port;
mod reader;
mod resolve;
mod segment_policy;
mod selector;
mod source;
mod statement;
mod study;
mod trust_domain;
mod workload;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use diagnostic::{Code, PolicyDiagnostic, PolicyErrors, Position};
pub(crate) use diagnostic::{Frame, closest, cut, listed, printable};
pub(crate) use document::{Node as DocumentNode, Value as DocumentValue, stray_return};
use kept::Kept;
pub use loader::Loader;
use model::ResolvedPolicy;
pub(crate) use name::{is_dns_label, is_dns_subdomain, is_port_name};
use resolve::LastTree;
use source::Names;
pub use source::SourceFile;
pub use statement::API_VERSION;
pub use study::{Annotation, Annotations, Study};

/// The git commit that is checked out where `path` is, if it is in a git work tree.
pub fn commit_of(path: &Path) -> Option<String> {
    commit::of(path)
}

/// Reads the policy of a tree, or of one file. Files are called by their path below `path`.
///
/// # Errors
/// Everything that is wrong with it, at once. A tree without any document is an error too: a
/// directory that was emptied by accident must not end enforcement.
pub fn load(path: &Path) -> Result<ResolvedPolicy, PolicyErrors> {
    let paths = [path.to_owned()];
    loader::read(
        &paths,
        Names::BelowRoot,
        (&mut Kept::default(), &mut LastTree::default()),
        loader::afresh,
    )
    .map(|tree| tree.policy)
}

/// Reads several trees and files as one policy. Files are called by the path as given.
///
/// # Errors
/// As [`load`].
pub fn load_paths(paths: &[PathBuf]) -> Result<ResolvedPolicy, PolicyErrors> {
    loader::read(
        paths,
        Names::AsGiven,
        (&mut Kept::default(), &mut LastTree::default()),
        loader::afresh,
    )
    .map(|tree| tree.policy)
}

/// Reads several trees and files as one policy, with what only those need who work on it. Files
/// are called by the path as given.
///
/// # Errors
/// As [`load`].
pub fn study(paths: &[PathBuf]) -> Result<Study, PolicyErrors> {
    loader::read(
        paths,
        Names::AsGiven,
        (&mut Kept::default(), &mut LastTree::default()),
        loader::afresh,
    )
    .map(Study::from)
}

/// The files of several trees, each called by its path as given.
///
/// # Errors
/// What cannot be read.
pub fn files(paths: &[PathBuf]) -> Result<Vec<Arc<SourceFile>>, PolicyErrors> {
    let mut errors = diagnostic::Collector::default();
    let tree = source::read(paths, Names::AsGiven, &mut Kept::default(), &mut errors);
    errors.finish().map_or(Ok(tree.files), Err)
}

/// The documents of a file, of whatever kind.
///
/// # Errors
/// What is no YAML.
pub(crate) fn documents(file: &SourceFile) -> Result<Vec<DocumentNode>, PolicyErrors> {
    let mut errors = diagnostic::Collector::default();
    let mut documents = Vec::new();
    document::parse(file, &mut errors, |node, _| documents.push(node));
    errors.finish().map_or(Ok(documents), Err)
}

/// Whether two texts have the same documents, but for the order of keys. `false` where one of
/// them has errors.
pub fn same_documents(one: &str, other: &str) -> bool {
    let read = |text: &str| {
        let mut errors = diagnostic::Collector::default();
        let mut documents = Vec::new();
        document::parse(&SourceFile::new("", text), &mut errors, |node, _| {
            documents.push(node.spelling());
        });
        errors.is_empty().then_some(documents)
    };
    read(one).is_some_and(|one| Some(one) == read(other))
}

/// Reads the policy of files that are already in memory, each with its name and text: those of
/// a git revision, for example.
///
/// # Errors
/// As [`load`]. `root` says in errors what the files are of.
pub fn load_files(
    root: &str,
    files: Vec<(String, String)>,
    commit: Option<&str>,
) -> Result<ResolvedPolicy, PolicyErrors> {
    let mut policy = in_memory(root, files)?.policy;
    policy.commit = commit.map(Into::into);
    Ok(policy)
}

/// Reads files that are already in memory, as [`load_files`], with what only those need who work
/// on them.
///
/// # Errors
/// As [`load`].
pub fn study_files(root: &str, files: Vec<(String, String)>) -> Result<Study, PolicyErrors> {
    in_memory(root, files).map(Study::from)
}

fn in_memory(root: &str, files: Vec<(String, String)>) -> Result<loader::Tree, PolicyErrors> {
    let mut errors = diagnostic::Collector::default();
    let tree = source::Tree::of_files(files);
    let read = tree.files.iter();
    let read = read.map(|file| loader::afresh(file, &mut errors));
    let statements: Vec<_> = read.collect();
    let policy = resolve::resolve(
        &statements,
        tree.digest,
        root,
        &mut LastTree::default(),
        &mut errors,
    );
    errors.finish().map_or(
        Ok(loader::Tree {
            policy,
            files: tree.files,
            statements,
        }),
        Err,
    )
}

/// Reads the policy of one file that is already in memory, called `name` in errors.
///
/// # Errors
/// As [`load`].
pub fn load_text(name: &str, text: &str) -> Result<ResolvedPolicy, PolicyErrors> {
    let mut errors = diagnostic::Collector::default();
    let tree = source::Tree::of_text(SourceFile::new(name, text));
    let files = tree.files.iter();
    let files = files.map(|file| loader::afresh(file, &mut errors));
    let files: Vec<_> = files.collect();
    let policy = resolve::resolve(
        &files,
        tree.digest,
        name,
        &mut LastTree::default(),
        &mut errors,
    );
    errors.finish().map_or(Ok(policy), Err)
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use enforcer_common::{Direction, Protocol, flow_key::icmp_port};

    use super::{
        model::{
            Assurance, Expression, Failsafe, Fallback, Group, LabelSelector, Labels, Mode,
            NamedPortMatch, Operator, Peer, Place, PortMatch, PortRange, RuleAction, SpiffePattern,
            Subject, Tier, UnitPattern, WorkloadSelector,
        },
        *,
    };

    const EGRESS: usize = Direction::Egress as usize;
    const INGRESS: usize = Direction::Ingress as usize;

    fn repository(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
    }

    fn resolved(text: &str) -> ResolvedPolicy {
        match load_text("a.yaml", text) {
            Ok(policy) => policy,
            Err(errors) => panic!("{}", errors.render(false)),
        }
    }

    /// A policy of namespace `shop` with this `spec`, in flow style.
    fn policy(spec: &str) -> Arc<model::Policy> {
        let text = format!(
            "apiVersion: {API_VERSION}\nkind: SegmentPolicy\n\
             metadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
        );
        resolved(&text).policies.remove(0)
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        pairs.collect()
    }

    fn selector(namespace: Option<&str>, pairs: &[(&str, &str)]) -> WorkloadSelector {
        WorkloadSelector::labelled(namespace.map(str::to_owned), labels(pairs))
    }

    #[test]
    fn the_library_of_policies_is_good() {
        for tree in [
            "policies/examples/shop",
            "policies/baseline",
            "policies/kubernetes",
        ] {
            if let Err(errors) = load(&repository(tree)) {
                panic!("{}", errors.render(false));
            }
        }
    }

    #[test]
    fn what_a_policy_does_not_say_has_its_default() {
        let policy = policy("{selector: {}, ingress: [{}]}");
        assert_eq!(policy.tier, Tier::Application);
        assert_eq!(policy.mode, None);
        assert_eq!(
            policy.subject,
            Subject::Workloads(vec![selector(Some("shop"), &[])])
        );
        assert_eq!(policy.rules[EGRESS], None);
        let rules = policy.rules[INGRESS].as_ref().unwrap();
        assert_eq!(rules[0].name, "ingress[0]");
        assert_eq!(rules[0].action, RuleAction::Allow);
        assert_eq!(rules[0].peers, [Peer::Any]);
        assert_eq!(rules[0].ports, [PortMatch::ANY]);
        assert_eq!((rules[0].origin.line, rules[0].origin.column), (4, 32));
    }

    #[test]
    fn a_direction_that_is_written_isolates_even_when_it_is_empty() {
        let policy =
            policy("{selector: {host: true}, egress: [], tier: application, mode: enforce}");
        assert_eq!(policy.subject, Subject::Host);
        assert_eq!(policy.mode, Some(Mode::Enforce));
        assert_eq!(policy.rules, [Some(vec![]), None]);
    }

    #[test]
    fn peers_have_the_namespace_of_their_policy_unless_they_name_one() {
        let own = policy(
            "{selector: {}, egress: [{action: deny, to: [{labels: {a: b}}, \
             {labels: {}, namespace: '*'}, {labels: {}, namespace: x}, {entity: world}, \
             {entity: host}, {entity: any}, {cidr: 10.0.0.1}, \
             {cidr: 'fd00::/8', except: ['fd00:1::/32']}]}]}",
        );
        let rule = &own.rules[EGRESS].as_ref().unwrap()[0];
        assert_eq!(rule.action, RuleAction::Deny);
        let expected = [
            Peer::Workloads(selector(Some("shop"), &[("a", "b")])),
            Peer::Workloads(selector(None, &[])),
            Peer::Workloads(selector(Some("x"), &[])),
            Peer::World,
            Peer::Host,
            Peer::Any,
            Peer::Cidr {
                prefix: "10.0.0.1/32".parse().unwrap(),
                except: vec![],
            },
            Peer::Cidr {
                prefix: "fd00::/8".parse().unwrap(),
                except: vec!["fd00:1::/32".parse().unwrap()],
            },
        ];
        assert_eq!(rule.peers, expected);

        let text = format!(
            "apiVersion: {API_VERSION}\nkind: SegmentPolicy\nmetadata: {{name: p}}\n\
             spec: {{selector: {{}}, ingress: [{{from: [{{labels: {{}}}}]}}]}}\n"
        );
        let all = resolved(&text).policies.remove(0);
        assert_eq!(all.subject, Subject::Workloads(vec![selector(None, &[])]));
        let rule = &all.rules[INGRESS].as_ref().unwrap()[0];
        assert_eq!(rule.peers, [Peer::Workloads(selector(None, &[]))]);
    }

    #[test]
    fn ports_become_protocol_and_range() {
        let cases = [
            ("{port: 80}", Some(Protocol::TCP), 80, 80),
            (
                "{protocol: udp, port: 8000-8999}",
                Some(Protocol::UDP),
                8000,
                8999,
            ),
            (
                "{protocol: 6, port: 1, endPort: 65535}",
                Some(Protocol::TCP),
                1,
                65535,
            ),
            ("{protocol: SCTP}", Some(Protocol::SCTP), 0, 65535),
            ("53/UDPLite", Some(Protocol::UDPLITE), 53, 53),
            ("gre", Some(47), 0, 65535),
            ("{protocol: 0}", Some(0), 0, 65535),
            ("any", None, 0, 65535),
            ("{protocol: Any}", None, 0, 65535),
            ("icmp", Some(Protocol::ICMP), 0, 65535),
            (
                "8/icmp",
                Some(Protocol::ICMP),
                icmp_port(8, 0),
                icmp_port(8, 255),
            ),
            (
                "2.0/ICMPv6",
                Some(Protocol::ICMPV6),
                icmp_port(2, 0),
                icmp_port(2, 0),
            ),
            (
                "{protocol: ICMP, type: 8}",
                Some(Protocol::ICMP),
                icmp_port(8, 0),
                icmp_port(8, 255),
            ),
            (
                "{protocol: 58, type: 2, code: 0}",
                Some(Protocol::ICMPV6),
                icmp_port(2, 0),
                icmp_port(2, 0),
            ),
        ];
        for (written, protocol, first, last) in cases {
            let policy = policy(&format!(
                "{{selector: {{}}, ingress: [{{ports: [{written}]}}]}}"
            ));
            let expected = PortMatch::Range(PortRange {
                protocol,
                first,
                last,
            });
            let rule = &policy.rules[INGRESS].as_ref().unwrap()[0];
            assert_eq!(rule.ports, [expected], "{written}");
        }
    }

    #[test]
    fn the_whole_language_is_read() {
        let text = r#"
apiVersion: v1
kind: Namespace
metadata: {name: pay, labels: {team: money}, uid: "7", creationTimestamp: null-ish}
spec: {finalizers: [kubernetes]}
status: {phase: Active}
---
apiVersion: enforcer.dev/v1alpha1
kind: Host
metadata: {name: h2, labels: {zone: b}}
spec: {addresses: [192.0.2.2]}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: w, labels: {app: w}}
spec:
  addresses: [10.0.0.1]
  serviceAccount: runner
  ports: [{name: http, port: 8080}, {name: http, port: 53, protocol: UDP}]
---
apiVersion: enforcer.dev/v1alpha1
kind: Group
metadata: {name: inner, namespace: shop}
spec: {peers: [{labels: {app: a}}]}
---
apiVersion: enforcer.dev/v1alpha1
kind: Group
metadata: {name: outer}
spec: {peers: [{entity: remoteHost}, {labels: {}, namespaceSelector: {matchLabels: {team: money}}}]}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: p, namespace: shop}
spec:
  owner: ann
  ticket: T-1
  controls: [c2, c1]
  validFrom: 2027-01-01T00:00:00Z
  selector: {group: inner}
  ingress:
    - action: pass
      from: [{group: outer, assurance: kernel}, {group: inner}]
      ports: [http/udp, {port: http}, {protocol: any, port: http}]
    - log: true
      owner: bob
      controls: [c3]
      validUntil: 2027-02-01T01:00:00+01:00
      from:
        - spiffeId: spiffe://example.org/ns/*/sa/web
        - unit: web@*.service
          matchExpressions: [{key: app, operator: NotIn, values: [b, a]}]
        - serviceAccount: runner
"#;
        let tree = resolved(text);
        let shop = |app: &str| selector(Some("shop"), &[("app", app)]);
        let policy = &tree.policies[0];
        assert_eq!(policy.subject, Subject::Workloads(vec![shop("a")]));
        let rules = policy.rules[INGRESS].as_ref().unwrap();
        assert_eq!(rules[0].action, RuleAction::Pass);
        let by_team = WorkloadSelector {
            namespace_labels: LabelSelector::of(labels(&[("team", "money")])),
            ..WorkloadSelector::default()
        };
        let group = |namespace: Option<&str>, name: &str, peers| {
            Peer::Group(Arc::new(Group {
                namespace: namespace.map(str::to_owned),
                name: name.to_owned(),
                peers,
            }))
        };
        let outer = vec![Peer::RemoteHost, Peer::Workloads(by_team)];
        let expected = [
            Peer::Assured {
                at_least: Assurance::Kernel,
                peer: Box::new(group(None, "outer", outer)),
            },
            group(Some("shop"), "inner", vec![Peer::Workloads(shop("a"))]),
        ];
        assert_eq!(rules[0].peers, expected);
        let http = |protocol| {
            PortMatch::Named(NamedPortMatch {
                protocol,
                name: "http".to_owned(),
            })
        };
        let expected = [
            http(Some(Protocol::UDP)),
            http(Some(Protocol::TCP)),
            http(None),
        ];
        assert_eq!(rules[0].ports, expected);

        let second = &rules[1];
        assert!(second.log);
        let expression = Expression {
            key: "app".to_owned(),
            operator: Operator::NotIn,
            values: ["a".to_owned(), "b".to_owned()].into(),
        };
        let expected = [
            WorkloadSelector {
                spiffe_id: Some(SpiffePattern::new("spiffe://example.org/ns/*/sa/web")),
                ..WorkloadSelector::default()
            },
            WorkloadSelector {
                namespace: Some("shop".to_owned()),
                unit: Some(UnitPattern::new("web@*.service")),
                labels: LabelSelector {
                    expressions: vec![expression],
                    ..LabelSelector::default()
                },
                ..WorkloadSelector::default()
            },
            WorkloadSelector {
                namespace: Some("shop".to_owned()),
                service_account: Some("runner".to_owned()),
                ..WorkloadSelector::default()
            },
        ];
        assert_eq!(second.peers, expected.map(Peer::Workloads));
        let both = policy.accountability.with(&second.accountability);
        assert_eq!(both.owner.as_deref(), Some("bob"));
        assert_eq!(both.ticket.as_deref(), Some("T-1"));
        assert_eq!(both.controls.len(), 3);
        let boundaries: Vec<_> = tree.boundaries().iter().map(ToString::to_string).collect();
        assert_eq!(boundaries, ["2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"]);

        assert_eq!(tree.workloads[0].service_account.as_deref(), Some("runner"));
        assert_eq!(tree.workloads[0].ports.len(), 2);
        assert_eq!(tree.hosts[0].labels, labels(&[("zone", "b")]));
        let by_team = LabelSelector::of(labels(&[("team", "money")]));
        assert!(tree.namespaces.matches(&by_team, "pay"));
    }

    #[test]
    fn workloads_and_policies_are_in_order_and_know_their_place() {
        let policy = load(&repository("policies/examples/shop")).unwrap();
        let names: Vec<_> = policy.workloads.iter().map(|w| w.name.as_str()).collect();
        assert_eq!(names, ["api", "db", "scraper", "web"]);
        let web = &policy.workloads[3];
        assert_eq!(web.namespace, "shop");
        assert_eq!(web.labels, labels(&[("app", "web"), ("zone", "front")]));
        assert_eq!(web.place, Some(Place::Cgroup("/shop/web".to_owned())));
        assert_eq!(web.origin.file.as_ref(), "workloads.yaml");
        assert_eq!(web.origin.line, 3);
        let addresses: Vec<_> = web.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.77.1.2/32", "fd77:1::2/128"]);
        let names: Vec<_> = policy.policies.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["api", "db", "ping", "scraper", "web"]);
        assert_eq!(policy.node.name, "shop-host");
        assert_eq!(policy.node.mode, None);
    }

    #[test]
    fn tiers_come_first_in_the_order_of_policies() {
        let document = |tier: &str, name: &str| {
            format!(
                "apiVersion: {API_VERSION}\nkind: SegmentPolicy\nmetadata: {{name: {name}}}\n\
                 spec: {{tier: {tier}, selector: {{}}, ingress: [{{action: deny}}]}}\n---\n"
            )
        };
        let text = document("baseline", "a")
            + &document("application", "b")
            + &document("quarantine", "d")
            + &document("admin", "c");
        let policies = resolved(&text).policies;
        let names: Vec<_> = policies.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["d", "c", "b", "a"]);
    }

    #[test]
    fn a_node_says_everything() {
        let text = format!(
            "apiVersion: {API_VERSION}\nkind: Node\nmetadata: {{name: n, labels: {{a: b}}}}\n\
             spec:\n  mode: enforce\n  default: {{ingress: deny}}\n  flowTableFull: deny\n  \
             unknownWorkload: deny\n  failsafe: [{{direction: egress, protocol: UDP, port: 53}}]\n  \
             blockedSources: [192.0.2.0/24, cidr: 192.0.2.7]\n"
        );
        let node = resolved(&text).node;
        assert_eq!(node.mode, Some(Mode::Enforce));
        assert_eq!(node.labels, labels(&[("a", "b")]));
        assert_eq!(node.default[EGRESS], Fallback::Allow);
        assert_eq!(node.default[INGRESS], Fallback::Deny);
        assert_eq!(node.flow_table_full, Fallback::Deny);
        assert_eq!(node.unknown_workload, Fallback::Deny);
        let dns = Failsafe::new(Direction::Egress, Protocol::UDP, 53);
        assert_eq!(node.failsafe_in_force(), [dns]);
        let blocked: Vec<_> = node.blocked.iter().map(|b| b.prefix.to_string()).collect();
        assert_eq!(blocked, ["192.0.2.0/24", "192.0.2.7/32"]);

        let defaults = model::NodeSettings::default();
        assert_eq!(defaults.failsafe_in_force(), model::BUILT_IN_FAILSAFE);
        let off = format!(
            "apiVersion: {API_VERSION}\nkind: Node\nmetadata: {{name: n}}\nspec: {{failsafe: []}}\n"
        );
        assert_eq!(resolved(&off).node.failsafe_in_force(), []);
    }

    #[test]
    fn files_are_called_below_their_root_or_as_given() {
        let tree = repository("policies/examples/shop");
        let below = load(&tree).unwrap();
        assert_eq!(below.policies[0].origin.file.as_ref(), "api.yaml");
        let given = load_paths(&[tree.join("api.yaml"), tree.join("workloads.yaml")]).unwrap();
        let expected = tree.join("api.yaml");
        assert_eq!(
            given.policies[0].origin.file.as_ref(),
            expected.to_str().unwrap()
        );
    }

    #[test]
    fn a_tree_knows_its_commit() {
        const ID: &str = "0123456789abcdef0123456789abcdef01234567";
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(".git")).unwrap();
        fs::write(root.path().join(".git/HEAD"), ID).unwrap();
        let from = repository("policies/examples/shop/web.yaml");
        fs::copy(from, root.path().join("web.yaml")).unwrap();
        let policy = load(root.path()).unwrap();
        assert_eq!(policy.commit.as_deref(), Some(ID));
        let rule = &policy.policies[0].rules[INGRESS].as_ref().unwrap()[0];
        assert_eq!(rule.origin.to_string(), "web.yaml:12");
    }
}
