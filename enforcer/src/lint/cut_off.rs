//! Policies that cut workloads off from what they need to live: their health checks, and DNS.

use std::collections::{BTreeMap, HashMap};

use enforcer_common::{Action, Direction, Judge, Protocol, identity};

use super::{
    Finding, Lint,
    ground::{Ground, decider, name_of},
    silence,
};
use crate::{
    api::question::{Service, parse_party},
    compile::{explain::Party, image::RuleInfo},
    policy::model::{LOCAL_NODE, Origin, PolicyKind, Workload},
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
    for workload in ground.policy.workloads.iter() {
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
    let mut judged: HashMap<u32, Option<&RuleInfo>> = HashMap::new();
    let mut by_policy: BTreeMap<Origin, (String, Vec<&Workload>)> = BTreeMap::new();
    for workload in ground.policy.workloads.iter() {
        let number = ground.image.workloads.get(&name_of(workload));
        let Some(sets) = number.and_then(|number| ground.image.sets.get(number)) else {
            continue;
        };
        let set = sets.numbers[Direction::Egress as usize];
        let isolation = judged.entry(set).or_insert_with(|| cut_off_by(ground, set));
        // One that asks no DNS may say so itself, whoever else the policy isolates.
        let is_silent = silence::is_silent(ground.study, &workload.origin, Lint::CutOff);
        if let (Some(isolation), false) = (isolation, is_silent)
            && let Some(origin) = &isolation.origin
        {
            let name = full_name(isolation.namespace.as_deref(), &isolation.policy);
            let entry = by_policy.entry(origin.clone());
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

/// The isolation by which a policy set keeps its workloads from everybody's port 53, if they may
/// open other flows. What may open no flow at all, or only ping, needs no names.
fn cut_off_by<'g>(ground: &'g Ground<'_>, set: u32) -> Option<&'g RuleInfo> {
    // A set says something of these, and the same of all others.
    let entries = ground.image.policies.part(set)?;
    let decision = |peer: u32, protocol: u8| {
        let judge = Judge {
            set,
            peer,
            protocol,
            port: DNS,
        };
        judge.decide(&ground.image)
    };
    // That a pod may always talk to its own node gives it no names.
    let is_added = |rule: u32| {
        let rule = ground.image.rules.get(&rule);
        rule.is_some_and(|r| r.kind == PolicyKind::NetworkPolicy && r.rule == LOCAL_NODE)
    };
    let reaches = |peer: u32| {
        let both = [Protocol::UDP, Protocol::TCP].into_iter();
        let mut both = both.map(|protocol| decision(peer, protocol));
        both.any(|said| said.action() != Action::Deny && !is_added(said.rule))
    };
    if entries.iter().any(|(peer, _)| reaches(*peer)) {
        return None;
    }
    let talks = entries.iter().any(|(_, entry)| {
        let table = (entry.lengths != 0).then(|| ground.image.ports.part(entry.table));
        let mut ports = table.flatten().into_iter().flat_map(|ports| ports.iter());
        ports.any(|(key, decision)| {
            let is_icmp = matches!(key.protocol, Protocol::ICMP | Protocol::ICMPV6);
            !is_icmp && decision.action() == Action::Allow
        })
    });
    let decides = decision(identity::WORLD, Protocol::UDP).rule;
    let rule = ground.image.rules.get(&decides).filter(|_| talks)?;
    (rule.rule == "isolation").then_some(&**rule)
}
