//! Policy trees, values in them, and their canonical form.

use std::{net::IpAddr, sync::Arc};

use enforcer::{
    compile::{Image, Numbers, image::WorkloadName},
    formatting, lint,
    policy::{
        self, PolicyErrors, Study,
        model::{Mode, Origin, ResolvedPolicy},
    },
    policy_test,
};
use enforcer_common::{
    Action,
    Direction::{Egress, Ingress},
    Judge, identity,
};

use super::scene::{NOW, compile};
use crate::model::{ModelAction, RawEndpoint, RawFlow, RawPeer, World};

/// Any text: read or refused as it should be; and what is read compiles, is judged as the
/// reference model says, and the tools have something to say about it.
pub fn tree(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let files = vec![("a.yaml".to_owned(), text.clone().into_owned())];
    match policy::study_files("fuzz", files) {
        Err(errors) => is_told_well(&errors, &text),
        Ok(study) => is_sound(&study),
    }
}

/// Errors point to where something is, say what to do, and nothing in them drives a terminal.
fn is_told_well(errors: &PolicyErrors, text: &str) {
    assert!(errors.count() > 0);
    let lines = text.split('\n').count();
    for error in errors.errors() {
        assert!(error.line > 0 && error.line as usize <= lines, "{error:?}");
        assert!(error.column > 0, "{error:?}");
        assert!(
            !error.message.is_empty() && !error.help.is_empty(),
            "{error:?}"
        );
        let said = format!("{}{}{}", error.message, error.help, error.snippet);
        assert!(!said.chars().any(char::is_control), "{error:?}");
    }
    errors.render(true);
    serde_json::to_value(errors).expect("errors have a JSON form");
}

fn is_sound(study: &Study) {
    let policy = &study.policy;
    for rule in policy.policies.iter().flat_map(|p| &p.rules).flatten() {
        for rule in rule {
            assert!(rule.origin.line > 0, "{rule:?}");
            assert!(!rule.peers.is_empty() && !rule.ports.is_empty(), "{rule:?}");
        }
    }
    let image = compile(policy, &mut Numbers::default()).expect("a small tree fits");
    is_judged_as_written(policy, &image);
    policy_test::run(study, NOW).expect("a small tree fits");
    let findings = lint::run(study, None, NOW).expect("a small tree fits");
    lint::render(&findings, false);
}

/// A few flows of everybody's.
fn is_judged_as_written(policy: &ResolvedPolicy, image: &Image) {
    let world = World {
        policy,
        mode: Mode::Enforce,
        now: NOW,
        host_addresses: &[],
    };
    let workloads = policy.workloads.len().min(3);
    let endpoints =
        std::iter::once(RawEndpoint::Host).chain((0..workloads).map(RawEndpoint::Workload));
    let named = policy
        .workloads
        .iter()
        .flat_map(|workload| &workload.addresses);
    let mut peers: Vec<RawPeer> = named
        .take(3)
        .map(|net| RawPeer::Address(net.addr()))
        .collect();
    peers.extend([
        RawPeer::Host,
        RawPeer::Address(IpAddr::from([10, 0, 0, 1])),
        RawPeer::Address(IpAddr::from([203, 0, 113, 9])),
    ]);
    for endpoint in endpoints {
        let own = match endpoint {
            RawEndpoint::Host => identity::HOST,
            RawEndpoint::Workload(index) => {
                let workload = &policy.workloads[index];
                image.workloads[&WorkloadName {
                    namespace: workload.namespace.clone(),
                    name: workload.name.clone(),
                }]
            }
        };
        for (peer, direction, (protocol, port)) in peers.iter().flat_map(|peer| {
            let ways = [Egress, Ingress].into_iter();
            ways.flat_map(move |way| {
                let services = [(6, 80), (6, 443), (17, 53), (1, 8 << 8), (132, 0)];
                services.map(move |service| (*peer, way, service))
            })
        }) {
            let flow = RawFlow {
                endpoint,
                direction,
                peer,
                protocol,
                port,
            };
            let judge = Judge {
                set: image.sets[&own].numbers[direction as usize],
                peer: match peer {
                    RawPeer::Address(address) => image.identity_of(address),
                    _ => identity::HOST,
                },
                protocol,
                port,
            };
            let expected = world.judge(&flow);
            let action = match judge.decide(image).action() {
                Action::Allow => ModelAction::Allow,
                Action::Deny => ModelAction::Deny,
                Action::Audit => ModelAction::Audit,
            };
            assert_eq!(action, expected.action, "{flow:?}: {expected:?}");
        }
    }
}

/// Each line is a value in a policy: ports, networks, selectors, patterns, moments.
pub fn scalars(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines();
    let mut value = || serde_json::to_string(lines.next().unwrap_or("x")).expect("a string");
    let yaml = format!(
        "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\nmetadata: {{name: {}, namespace: {}}}\n\
         spec:\n  selector: {{matchLabels: {{{}: {}}}, matchExpressions: [{{key: {}, operator: {}, \
         values: [{}]}}], unit: {}}}\n  ingress:\n  - ports: [{}, {}]\n    from: [{{cidr: {}, except: \
         [{}]}}]\n  - ports: [{{protocol: {}, port: {}, endPort: {}}}]\n    from: [{{spiffeId: {}}}]\n  - \
         ports: [{{protocol: ICMP, type: {}, code: {}}}]\n    validUntil: {}\n    from: [{{entity: {}}}]\n",
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
        value(),
    );
    tree(yaml.as_bytes());
}

/// The canonical form is its own canonical form, and means what the text means.
pub fn canonical_form(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(formatted) = formatting::format(&text) else {
        return;
    };
    let again = formatting::format(&formatted);
    assert_eq!(again.as_ref(), Ok(&formatted), "from {text:?}");
    let meaning = |text: &str| {
        let mut meaning = policy::load_text("a.yaml", text).map_err(|errors| errors.count());
        if let Ok(policy) = &mut meaning {
            forget_places(policy);
        }
        meaning
    };
    assert_eq!(meaning(&text), meaning(&formatted), "{formatted}");
}

/// Lines move, and with them what is called after them.
fn forget_places(policy: &mut ResolvedPolicy) {
    let nowhere = Origin {
        file: Arc::from(""),
        line: 0,
        column: 0,
    };
    policy.digest.clear();
    if let Some(origin) = &mut policy.node.origin {
        *origin = nowhere.clone();
    }
    for blocked in &mut policy.node.blocked {
        blocked.origin = nowhere.clone();
    }
    for host in &mut policy.hosts {
        Arc::make_mut(host).origin = nowhere.clone();
    }
    for workload in Arc::make_mut(&mut policy.workloads) {
        Arc::make_mut(workload).origin = nowhere.clone();
    }
    for policy in &mut policy.policies {
        let policy = Arc::make_mut(policy);
        policy.origin = nowhere.clone();
        for rule in policy.rules.iter_mut().flatten().flatten() {
            rule.origin = nowhere.clone();
        }
    }
}
