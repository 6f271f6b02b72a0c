//! What compilation costs in an estate of the size that the design promises, and how that grows
//! from a tenth of it. In this process, without a kernel.

use std::sync::Arc;

use anyhow::{Context, Result};
use enforcer::{
    compile::{Compiler, Image, Inputs, Limits, Numbers, Subjects, Work},
    policy::model::{
        Accountability, Assurance, Labels, Mode, Moment, Origin, Peer, Place, Policy, PolicyKind,
        PortMatch, PortRange, ResolvedPolicy, Rule, RuleAction, Subject, Tier, Validity, Workload,
        WorkloadSelector,
    },
};

use super::{
    Options, bpf, estate,
    figure::{ScaleFigure, Target},
    median, progress,
};

/// A hash element of the kernel: its header (`struct htab_elem` of Linux 6.18), then key and
/// value, each rounded up to 8.
const ELEMENT: usize = 48;
const POLICY_ENTRY: usize = ELEMENT + 8 + 24;
const PORT_ENTRY: usize = ELEMENT + 8 + 8;

/// How large an estate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Workloads, each with an address.
    pub workloads: usize,
    /// Different labels: identities.
    pub identities: usize,
    /// Policies: each isolates the workloads of one identity and lets some others in.
    pub policies: usize,
    /// Rules of each policy.
    pub rules: usize,
}

/// What the design promises.
const FULL: Size = Size {
    workloads: 100_000,
    identities: 10_000,
    policies: 10_000,
    rules: 4,
};

impl Size {
    const fn tenth(self) -> Self {
        Self {
            workloads: self.workloads / 10,
            identities: self.identities / 10,
            policies: self.policies / 10,
            rules: self.rules,
        }
    }
}

/// How many identities are of one team. An estate that grows has more teams, not larger ones:
/// what a change touches is the same at every size.
const TEAM: usize = 100;

impl Size {
    /// How many teams there are.
    pub fn teams(&self) -> usize {
        self.identities.div_ceil(TEAM)
    }
}

/// A tree of this size. The first rule of each policy is about a team of a hundred identities,
/// the others about one each.
pub fn tree(size: &Size) -> ResolvedPolicy {
    let mut workloads: Vec<_> = (0..size.workloads).map(|i| workload(size, i)).collect();
    workloads.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut policies: Vec<_> = (0..size.policies).map(|p| policy(size, p)).collect();
    policies.sort_by(|a, b| a.rank().cmp(&b.rank()));
    ResolvedPolicy {
        workloads: Arc::new(workloads.into_iter().map(Arc::new).collect()),
        policies: policies.into_iter().map(Arc::new).collect(),
        ..ResolvedPolicy::default()
    }
}

fn origin(line: usize) -> Origin {
    Origin {
        file: Arc::from("scale.yaml"),
        line: u32::try_from(line).expect("few lines"),
        column: 1,
    }
}

fn labels(size: &Size, app: usize) -> Labels {
    Labels::from([
        ("app".to_owned(), format!("app-{app}")),
        ("team".to_owned(), format!("team-{}", app % size.teams())),
        ("env".to_owned(), "production".to_owned()),
    ])
}

fn workload(size: &Size, number: usize) -> Workload {
    let app = number % size.identities;
    let [_, a, b, c] = u32::try_from(number).expect("few").to_be_bytes();
    Workload {
        namespace: format!("ns-{}", app % 10),
        name: format!("w-{number}"),
        origin: origin(number),
        labels: labels(size, app),
        spiffe_id: None,
        service_account: None,
        ports: [].into(),
        assurance: Assurance::Address,
        addresses: vec![std::net::IpAddr::from([10, a, b, c]).into()],
        place: Some(Place::Cgroup(format!("/w-{number}"))),
        unit_elsewhere: None,
    }
}

fn select(key: &str, value: String) -> WorkloadSelector {
    WorkloadSelector::labelled(None, Labels::from([(key.to_owned(), value)]))
}

fn policy(size: &Size, number: usize) -> Policy {
    let rule = |r: usize| {
        let port = 1000 + u16::try_from(r).expect("few rules");
        Rule {
            name: format!("ingress[{r}]"),
            origin: origin(number),
            action: RuleAction::Allow,
            log: false,
            validity: Validity::ALWAYS,
            accountability: Accountability::default(),
            peers: vec![Peer::Workloads(if r == 0 {
                select("team", format!("team-{}", number % size.teams()))
            } else {
                select("app", format!("app-{}", (number * 7 + r) % size.identities))
            })],
            ports: vec![PortMatch::Range(PortRange {
                protocol: Some(6),
                first: port,
                last: port,
            })],
        }
    };
    Policy {
        kind: PolicyKind::SegmentPolicy,
        namespace: None,
        name: format!("p-{number}"),
        origin: origin(number),
        tier: Tier::Application,
        priority: None,
        mode: None,
        validity: Validity::ALWAYS,
        accountability: Accountability::default(),
        subject: Subject::Workloads(vec![select(
            "app",
            format!("app-{}", number % size.identities),
        )]),
        rules: [None, Some((0..size.rules).map(rule).collect())],
    }
}

/// Compiles again and again, as a daemon does.
#[derive(Debug, Default)]
pub struct Estate {
    compiler: Compiler,
    numbers: Numbers,
    image: Option<Image>,
}

impl Estate {
    /// Compiles for every workload; milliseconds of this thread's CPU time.
    pub fn compile(&mut self, policy: &ResolvedPolicy) -> Result<f64> {
        let inputs = Inputs {
            policy,
            mode: Mode::Enforce,
            now: Moment::default(),
            host_addresses: &[],
            elsewhere: &enforcer::compile::elsewhere::NOBODY,
            attested: enforcer::compile::NOBODY,
            subjects: Subjects::Placed,
            limits: &Limits::NONE,
            in_force: self.image.as_ref(),
        };
        let start = bpf::thread_time();
        let image = self.compiler.compile(&inputs, &mut self.numbers)?;
        let took = (bpf::thread_time() - start) as f64 / 1e6;
        self.image = Some(image);
        Ok(took)
    }

    /// What the last compilation had to do.
    pub fn work(&self) -> Work {
        self.compiler.work()
    }

    /// What was compiled last.
    pub fn image(&self) -> Option<&Image> {
        self.image.as_ref()
    }
}

/// What was measured at one size.
struct Measured {
    full: f64,
    identity: f64,
    policy: f64,
    saved: f64,
    tree_bytes: f64,
    compiled_bytes: f64,
    map_bytes_per_rule: f64,
}

/// Measures the whole and a tenth.
pub fn measure(options: &Options) -> Result<Vec<ScaleFigure>> {
    progress("an estate of a tenth of the size");
    let tenth = at(&FULL.tenth(), options.turns)?;
    progress("an estate of full size");
    let full = at(&FULL, options.turns)?;
    // Ten times as much may cost a little more than ten times as much: caches are not ten times
    // as large. What does not depend on the size may double.
    let (linear, constant) = (Some(15.0), Some(2.0));
    let figure = |what: &str,
                  unit: &str,
                  of: fn(&Measured) -> f64,
                  most: Option<f64>,
                  growth: Option<f64>| {
        ScaleFigure {
            what: what.to_owned(),
            unit: unit.to_owned(),
            tenth: of(&tenth),
            full: of(&full),
            growth: of(&full) / of(&tenth),
            target: most.map(Target::AtMost),
            growth_target: growth.map(Target::AtMost),
        }
    };
    Ok(vec![
        figure("full compile", "ms CPU", |m| m.full, Some(2000.0), linear),
        figure(
            "one identity added",
            "ms CPU",
            |m| m.identity,
            Some(5.0),
            constant,
        ),
        figure("one policy changed", "ms CPU", |m| m.policy, None, constant),
        figure(
            "one policy saved: all that a daemon does",
            "ms CPU",
            |m| m.saved,
            None,
            linear,
        ),
        figure("memory of the tree", "MiB", |m| m.tree_bytes, None, linear),
        figure(
            "memory of what is compiled",
            "MiB",
            |m| m.compiled_bytes,
            None,
            linear,
        ),
        figure(
            "map memory for each rule",
            "bytes",
            |m| m.map_bytes_per_rule,
            None,
            constant,
        ),
    ])
}

fn at(size: &Size, turns: usize) -> Result<Measured> {
    let mebibytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let before = allocated();
    let mut policy = tree(size);
    let with_tree = allocated();
    let mut full = Vec::new();
    for _ in 0..3 {
        full.push(Estate::default().compile(&policy)?);
    }
    let mut estate = Estate::default();
    let start = allocated();
    full.push(estate.compile(&policy)?);
    let compiled = allocated();
    let image = estate.image().context("compiled")?;
    let maps = image.policies.len() * POLICY_ENTRY + image.ports.len() * PORT_ENTRY;
    let rules = size.policies * size.rules;
    let (mut identity, mut changed) = (Vec::new(), Vec::new());
    for turn in 0..turns.max(3) {
        // Labels that nobody had, and that policies speak of.
        let index = turn * 31 % policy.workloads.len();
        let workloads = Arc::make_mut(&mut policy.workloads);
        let workload = Arc::make_mut(&mut workloads[index]);
        workload
            .labels
            .insert("canary".to_owned(), format!("c-{turn}"));
        identity.push(estate.compile(&policy)?);
        let index = turn * 17 % policy.policies.len();
        let rules = Arc::make_mut(&mut policy.policies[index]).rules[1].as_mut();
        rules.context("ingress")?[0].ports = vec![PortMatch::Range(PortRange {
            protocol: Some(17),
            first: 53,
            last: 60 + u16::try_from(turn)?,
        })];
        changed.push(estate.compile(&policy)?);
    }
    Ok(Measured {
        full: median(full),
        identity: median(identity),
        policy: median(changed),
        saved: estate::one_policy_saved(size, turns)?,
        tree_bytes: mebibytes(with_tree.saturating_sub(before)),
        compiled_bytes: mebibytes(compiled.saturating_sub(start)),
        map_bytes_per_rule: maps as f64 / rules as f64,
    })
}

/// Bytes that this process has allocated and not freed.
fn allocated() -> usize {
    // SAFETY: takes nothing and gives numbers back (mallinfo(3)).
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}
