//! Policies that cut workloads off from what they need to live: their health checks, and DNS.

use std::collections::{BTreeMap, HashSet};

use enforcer_common::{Action, Direction, Judge, Protocol};

use super::{
    Finding, Lint,
    ground::{Ground, decider, name_of},
    silence,
};
use crate::{
    api::question::{Service, parse_party},
    compile::explain::Party,
    policy::model::{Origin, RuleAction, Workload},
    policy_test::full_name,
};

/// The annotation of a workload that names its health checks: `8080/tcp`, or
/// `8080/tcp from shop/prober`, several with commas between them. Without `from`, the host asks.
const HEALTH_CHECK: &str = "enforcer.dev/health-check";

const DNS: u16 = 53;

/// At most this many workloads of one finding are named.
const NAMED: usize = 3;

pub(super) fn find(ground: &Ground<'_>) -> Vec<Finding> {
    let mut findings = health_checks(ground);
    findings.extend(dns(ground));
    findings
}

fn health_checks(ground: &Ground<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for workload in &ground.policy.workloads {
        let annotations = ground.study.annotations.of(&workload.origin).iter();
        let checks = annotations.filter(|annotation| annotation.key == HEALTH_CHECK);
        for check in checks.flat_map(|annotation| annotation.value.split(',')) {
            match health_check(check) {
                Ok((prober, service)) => {
                    findings.extend(unhealthy(ground, workload, &prober, service));
                }
                Err(why) => findings.push(Finding::new(
                    Lint::CutOff,
                    &workload.origin,
                    &workload.origin,
                    format!("the annotation {HEALTH_CHECK} cannot be read: {why}"),
                    "write for example `8080/tcp`, or `8080/tcp from shop/prober`",
                )),
            }
        }
    }
    findings
}

/// `SERVICE` or `SERVICE from PARTY`.
fn health_check(text: &str) -> Result<(Party, Service), String> {
    let (service, prober) = match text.split_once(" from ") {
        Some((service, prober)) => (service, parse_party(prober.trim())),
        None => (text, Ok(Party::Host)),
    };
    let service = service
        .trim()
        .parse()
        .map_err(|e: crate::api::question::QuestionError| e.to_string())?;
    Ok((prober.map_err(|error| error.to_string())?, service))
}

fn unhealthy(
    ground: &Ground<'_>,
    workload: &Workload,
    prober: &Party,
    service: Service,
) -> Option<Finding> {
    let endpoint = Party::Workload(name_of(workload));
    let asked = (service.protocol, service.port);
    let said = ground.ask(&endpoint, Direction::Ingress, prober, asked)?;
    if said.verdict != crate::compile::explain::Answer::Deny {
        return None;
    }
    let decides = decider(&said)?;
    let mut finding = Finding::new(
        Lint::CutOff,
        decides.origin(),
        &decides.policy.origin,
        format!(
            "{} denies {endpoint} its health check: {service} from {prober}",
            decides.name()
        ),
        "allow it, as in `ingress: [{from: [{entity: host}], ports: [8080/tcp]}]`",
    );
    finding.documents.push(workload.origin.clone());
    Some(finding)
}

/// One finding for each policy that isolates workloads which may open flows, but to nobody on
/// port 53.
fn dns(ground: &Ground<'_>) -> Vec<Finding> {
    let explainer = ground.explainer();
    let mut judged: HashSet<u32> = HashSet::new();
    let mut cut: HashSet<u32> = HashSet::new();
    let mut by_policy: BTreeMap<Origin, (String, Vec<&Workload>)> = BTreeMap::new();
    for workload in &ground.policy.workloads {
        let number = ground.image.workloads.get(&name_of(workload));
        let Some(sets) = number.and_then(|number| ground.image.sets.get(number)) else {
            continue;
        };
        let set = sets.numbers[Direction::Egress as usize];
        if judged.insert(set) && !reaches_dns(ground, set) {
            cut.insert(set);
        }
        // One that asks no DNS may say so itself, whoever else the policy isolates.
        let is_silent = silence::is_silent(ground.study, &workload.origin, Lint::CutOff);
        if is_silent || !cut.contains(&set) {
            continue;
        }
        let endpoint = Party::Workload(name_of(workload));
        let asked = (Protocol::UDP, DNS);
        let Some(said) = ground.ask(&endpoint, Direction::Egress, &Party::World, asked) else {
            continue;
        };
        let Some(decides) = decider(&said).filter(|decides| decides.rule.is_none()) else {
            continue;
        };
        // What may open no flow at all, or only ping, needs no names.
        let talks = ground.policy.policies.iter().any(|policy| {
            let mut rules = policy.rules[Direction::Egress as usize].iter().flatten();
            rules.any(|rule| rule.action == RuleAction::Allow && ground.is_more_than_icmp(rule))
                && explainer.is_about(policy, Some(workload))
        });
        if talks {
            let name = full_name(decides.policy.namespace.as_deref(), &decides.policy.name);
            let entry = by_policy.entry(decides.policy.origin.clone());
            entry.or_insert((name, Vec::new())).1.push(workload);
        }
    }
    let finding = |(origin, (policy, workloads)): (Origin, (String, Vec<&Workload>))| {
        let first = workloads.iter().take(NAMED);
        let mut names: Vec<_> = first.map(|w| name_of(w).to_string()).collect();
        if workloads.len() > NAMED {
            names.push(format!("{} more", workloads.len() - NAMED));
        }
        Finding::new(
            Lint::CutOff,
            &origin,
            &origin,
            format!(
                "policy {policy} isolates workloads that cannot ask DNS: {}",
                names.join(", ")
            ),
            "allow port 53, as in `egress: [{to: [{cidr: 10.0.0.53}], ports: [53/udp, 53/tcp]}]`",
        )
    };
    by_policy.into_iter().map(finding).collect()
}

/// Whether a policy set lets port 53 of anybody through.
fn reaches_dns(ground: &Ground<'_>, set: u32) -> bool {
    ground.image.identities.keys().any(|peer| {
        [Protocol::UDP, Protocol::TCP].into_iter().any(|protocol| {
            let judge = Judge {
                set,
                peer: *peer,
                protocol,
                port: DNS,
            };
            judge.decide(&ground.image).action() != Action::Deny
        })
    })
}
