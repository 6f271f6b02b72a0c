//! Runs the tests of a tree (kind `PolicyTest`): each flow is put to [`Explainer`], so what is
//! tested is the image that the kernel would get, by the verdict function that the kernel runs.
//!
//! The node is taken to enforce: `mode` of the Node and of the command line do not count, the
//! `mode` of a policy does. A policy in audit mode makes the verdict `audit`.

mod coverage;
mod junit;

use std::collections::{BTreeMap, btree_map::Entry};

use serde::Serialize;

pub use self::{
    coverage::{Coverage, UnreachedRule},
    junit::write_junit,
};
use crate::{
    api::question::Service,
    compile::{
        CompileError, Image, Inputs, Limits, Numbers, Subjects, compile,
        explain::{Answer, Explainer, Explanation, Party},
        image::{RuleDirection, RuleInfo, WorkloadName},
    },
    policy::{
        Study,
        model::{Mode, Moment, Origin, ResolvedPolicy, Workload},
        policy_test::{Expectation, PolicyName, PolicyTest, TestFlow, TestParty},
    },
};

/// What came of all tests of a tree.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TestReport {
    /// In the order of files and lines.
    pub tests: Vec<TestOutcome>,
    /// Which rules decided some flow of a test.
    pub coverage: Coverage,
}

impl TestReport {
    /// How many flows, as written, are as expected, and how many are not.
    pub fn counts(&self) -> (usize, usize) {
        let flows = || self.tests.iter().flat_map(|test| &test.flows);
        let failed = flows().filter(|flow| !flow.failures.is_empty()).count();
        (flows().count() - failed, failed)
    }

    /// Whether everything is as expected.
    pub fn passed(&self) -> bool {
        self.counts().1 == 0
    }
}

/// What came of a document of kind `PolicyTest`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TestOutcome {
    /// `namespace/name`, or `name`.
    pub name: String,
    /// The document.
    pub origin: Origin,
    /// In the order of writing.
    pub flows: Vec<FlowOutcome>,
}

/// What came of an item of `flows`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlowOutcome {
    /// Name.
    pub name: String,
    /// Where it is written.
    pub origin: Origin,
    /// How many flows it stands for.
    pub judged: usize,
    /// Those that are not as expected. Empty: passed.
    pub failures: Vec<Failure>,
}

/// A flow that is not as expected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failure {
    /// As `enforcer explain` takes it; empty where no flow could be asked about.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub flow: String,
    /// What was expected, and what is.
    pub message: String,
    /// What decided at each side.
    pub decided: Vec<Decider>,
}

/// What decided at one side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decider {
    /// Whose endpoint judged.
    pub endpoint: String,
    /// Seen from it.
    pub direction: RuleDirection,
    /// The verdict there.
    pub verdict: Answer,
    /// [`enforcer_common::Reason::name`].
    pub reason: String,
    /// The rule that decided, with file and line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleInfo>,
}

/// Runs every test of a tree: at the moment that it names, or `now`.
///
/// # Errors
/// If the policy cannot be compiled.
pub fn run(study: &Study, now: Moment) -> Result<TestReport, CompileError> {
    let policy = &study.policy;
    let mut images: BTreeMap<Moment, Image> = BTreeMap::new();
    for test in &study.tests {
        if let Entry::Vacant(place) = images.entry(test.at.unwrap_or(now)) {
            let inputs = Inputs {
                policy,
                mode: Mode::Enforce,
                now: *place.key(),
                host_addresses: &[],
                elsewhere: &crate::compile::elsewhere::NOBODY,
                attested: crate::compile::NOBODY,
                subjects: Subjects::All,
                limits: &Limits::NONE,
                in_force: None,
            };
            place.insert(compile(&inputs, &mut Numbers::default())?);
        }
    }
    let mut coverage = Coverage::of(policy);
    let mut tests = Vec::with_capacity(study.tests.len());
    for test in &study.tests {
        let now = test.at.unwrap_or(now);
        let explainer = Explainer {
            policy,
            mode: Mode::Enforce,
            now,
            image: &images[&now],
        };
        let mut flows = Vec::with_capacity(test.flows.len());
        for flow in &test.flows {
            flows.push(outcome(&explainer, test, flow, &mut coverage));
        }
        tests.push(TestOutcome {
            name: full_name(test.namespace.as_deref(), &test.name),
            origin: test.origin.clone(),
            flows,
        });
    }
    coverage.count();
    Ok(TestReport { tests, coverage })
}

/// `namespace/name`, or `name`.
pub fn full_name(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

fn outcome(
    explainer: &Explainer<'_>,
    test: &PolicyTest,
    flow: &TestFlow,
    coverage: &mut Coverage,
) -> FlowOutcome {
    let mut judged = 0;
    let mut failures = Vec::new();
    let mut side = |parties: &[TestParty]| {
        let mut found = Vec::new();
        for party in parties {
            match resolved(explainer.policy, party) {
                Ok(mut parties) => found.append(&mut parties),
                Err(message) => failures.push(Failure {
                    flow: String::new(),
                    message,
                    decided: Vec::new(),
                }),
            }
        }
        found
    };
    let (from, to) = (side(&flow.from), side(&flow.to));
    for from in &from {
        for to in to.iter().filter(|to| *to != from) {
            for port in &flow.ports {
                judged += 1;
                let asked = match explainer.flow(from, to, port.protocol, port.port) {
                    Ok(sides) => {
                        for side in &sides {
                            coverage.add(side);
                        }
                        disappointment(test, flow, &sides).map(|message| (message, sides))
                    }
                    Err(error) => Some((error.to_string(), Vec::new())),
                };
                if let Some((message, sides)) = asked {
                    let service = Service {
                        protocol: port.protocol,
                        port: port.port,
                    };
                    failures.push(Failure {
                        flow: shown(from, to, service),
                        message,
                        decided: sides.into_iter().map(Decider::from).collect(),
                    });
                }
            }
        }
    }
    // Where every party was found, but nobody talks to anybody else.
    if judged == 0 && failures.is_empty() {
        failures.push(Failure {
            flow: String::new(),
            message: "nothing was tested: `from` and `to` are one and the same".to_owned(),
            decided: Vec::new(),
        });
    }
    FlowOutcome {
        name: flow.name.clone(),
        origin: flow.origin.clone(),
        judged,
        failures,
    }
}

/// As `enforcer explain` takes it.
fn shown(from: &Party, to: &Party, service: Service) -> String {
    crate::api::question::FlowQuestion {
        from: from.clone(),
        to: to.clone(),
        service,
    }
    .to_string()
}

/// Who is meant; or why nobody is.
fn resolved(policy: &ResolvedPolicy, party: &TestParty) -> Result<Vec<Party>, String> {
    match party {
        TestParty::Host => Ok(vec![Party::Host]),
        TestParty::World => Ok(vec![Party::World]),
        TestParty::Address(address) => Ok(vec![Party::Address(*address)]),
        TestParty::Workload { namespace, name } => Ok(vec![Party::Workload(WorkloadName {
            namespace: namespace.clone(),
            name: name.clone(),
        })]),
        TestParty::Labelled { namespace, labels } => {
            let wanted = |workload: &Workload| {
                let mut labels = labels.iter();
                namespace.as_ref().is_none_or(|n| *n == workload.namespace)
                    && labels.all(|(key, value)| workload.labels.get(key) == Some(value))
            };
            let found: Vec<_> = policy.workloads.iter().filter(|w| wanted(w)).collect();
            if found.is_empty() {
                let labels: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
                return Err(format!(
                    "there is no workload with the labels {} in {}",
                    labels.join(","),
                    match namespace {
                        Some(namespace) => format!("namespace {namespace}"),
                        None => "any namespace".to_owned(),
                    }
                ));
            }
            let name = |workload: &Workload| WorkloadName {
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
            };
            Ok(found
                .into_iter()
                .map(|w| Party::Workload(name(w)))
                .collect())
        }
    }
}

/// The verdict on a flow: the strictest of its sides.
pub fn verdict(sides: &[Explanation]) -> Answer {
    let strictness = |answer: &Answer| match answer {
        Answer::Allow => 0,
        Answer::Audit => 1,
        Answer::Deny => 2,
    };
    let verdicts = sides.iter().map(|side| side.verdict);
    verdicts.max_by_key(strictness).unwrap_or(Answer::Allow)
}

/// How a flow differs from what was expected, if it does.
fn disappointment(test: &PolicyTest, flow: &TestFlow, sides: &[Explanation]) -> Option<String> {
    let expected = match flow.expect {
        Expectation::Allow => Answer::Allow,
        Expectation::Deny => Answer::Deny,
        Expectation::Audit => Answer::Audit,
    };
    let found = verdict(sides);
    if found != expected {
        return Some(format!("expected {}, is {}", word(expected), word(found)));
    }
    if flow.policy.is_none() && flow.rule.is_none() {
        return None;
    }
    // A flow may be denied at both sides; any of the sides that make the verdict will do.
    let mut deciding = sides.iter().filter(|side| side.verdict == found);
    let meant = |side: &Explanation| {
        let Some(rule) = &side.rule else {
            // What the node lets through by default is no rule of any document.
            return flow.policy.is_none() && flow.rule.as_deref() == Some("default");
        };
        let policy = flow.policy.as_ref();
        policy.is_none_or(|name| is_policy(name, test, rule))
            && flow.rule.as_ref().is_none_or(|name| *name == rule.rule)
    };
    if deciding.any(meant) {
        return None;
    }
    let wanted = match (&flow.policy, &flow.rule) {
        (Some(policy), Some(rule)) => format!("rule {rule} of policy {policy}"),
        (Some(policy), None) => format!("policy {policy}"),
        (None, rule) => format!("rule {}", rule.as_deref().unwrap_or_default()),
    };
    Some(format!(
        "is {} as expected, but not by {wanted}",
        word(found)
    ))
}

fn is_policy(name: &PolicyName, test: &PolicyTest, rule: &RuleInfo) -> bool {
    let namespace = rule.namespace.as_ref();
    name.name == rule.policy
        && match &name.namespace {
            Some(wanted) => namespace == Some(wanted),
            None => namespace.is_none() || namespace == test.namespace.as_ref(),
        }
}

/// A verdict, for messages.
pub const fn word(answer: Answer) -> &'static str {
    match answer {
        Answer::Allow => "allow",
        Answer::Deny => "deny",
        Answer::Audit => "audit",
    }
}

impl From<Explanation> for Decider {
    fn from(side: Explanation) -> Self {
        Self {
            endpoint: side.endpoint,
            direction: side.direction,
            verdict: side.verdict,
            reason: side.reason,
            rule: side.rule,
        }
    }
}

impl std::fmt::Display for Decider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let direction = match self.direction {
            RuleDirection::Egress => "egress",
            RuleDirection::Ingress => "ingress",
        };
        let verdict = word(self.verdict);
        write!(
            f,
            "{direction} of {}: {verdict} ({})",
            self.endpoint, self.reason
        )?;
        if let Some(rule) = &self.rule {
            let policy = full_name(rule.namespace.as_deref(), &rule.policy);
            write!(f, " by {policy} {}", rule.rule)?;
            if let Some(origin) = &rule.origin {
                write!(f, " at {origin}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
