//! What comes out: figures with their floors, peers and targets, as JSON and as tables.

use std::fmt;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

/// Everything that one run measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Kernel release.
    pub kernel: String,
    /// Processor.
    pub processor: String,
    /// Load average of the last minute when the run began: how much else was going on.
    pub load: String,
    /// Test runs.
    pub hooks: Vec<HookFigure>,
    /// Through a veth.
    pub wire: Vec<WireFigure>,
    /// Changes of policy, and memory.
    pub change: Vec<PlainFigure>,
    /// A large estate, and a tenth of it.
    pub scale: Vec<ScaleFigure>,
    /// A fleet.
    pub fleet: Vec<PlainFigure>,
    /// Proofs of identity.
    pub attest: Vec<AttestFigure>,
}

/// Nanoseconds per packet at one hook.
#[derive(Clone, Debug, Serialize)]
pub struct HookFigure {
    /// Entry point.
    pub hook: String,
    /// What the packet is.
    pub case: String,
    /// Version of IP.
    pub ip: String,
    /// Rules, each with an identity of its own.
    pub rules: usize,
    /// An empty program of the same kind.
    pub empty_ns: f64,
    /// Ours above empty.
    pub added_ns: f64,
    /// The reference program (parse, one conntrack hit or insert) above empty.
    pub reference_added_ns: Option<f64>,
    /// Ours by the reference, both above empty.
    pub ratio: Option<f64>,
    /// What `added_ns` may be at most.
    pub target_ns: Option<f64>,
}

/// Work through a veth.
#[derive(Clone, Debug, Serialize)]
pub struct WireFigure {
    /// What is done.
    pub work: String,
    /// Rules.
    pub rules: usize,
    /// Unit of `bare`.
    pub unit: String,
    /// Without any firewall.
    pub bare: f64,
    /// Whether the figures of the variants are ratios to `bare`, or nanoseconds added to it.
    pub compared: Comparison,
    /// Ours, endpoint at the interface.
    pub interface: f64,
    /// Ours, endpoint at the cgroup.
    pub cgroup: f64,
    /// The least that a filter at a cgroup does: programs that know one denied port.
    pub least_at_cgroup: f64,
    /// nftables: connection tracking and one concatenated set.
    pub nftables: f64,
    /// What ours is to reach.
    pub target: Option<Target>,
}

/// How variants are compared with no firewall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Comparison {
    /// Work per CPU second by that of no firewall; more is better.
    Ratio,
    /// Nanoseconds more than without a firewall; less is better.
    Added,
}

/// A figure that stands for itself, with a peer where there is one.
#[derive(Clone, Debug, Serialize)]
pub struct PlainFigure {
    /// What.
    pub what: String,
    /// Rules.
    pub rules: usize,
    /// Unit of the figures.
    pub unit: String,
    /// Ours.
    pub ours: f64,
    /// nftables doing the same, where it can.
    pub nftables: Option<f64>,
    /// At most.
    pub target: Option<f64>,
}

/// A figure of attestation.
#[derive(Clone, Debug, Serialize)]
pub struct AttestFigure {
    /// What.
    pub what: String,
    /// Unit of the figures.
    pub unit: String,
    /// The daemon: a proof is verified and bound.
    pub ours: f64,
    /// Only a handshake with both certificates, by the same library.
    pub floor: Option<f64>,
    /// Such a handshake by OpenSSL.
    pub peer: Option<f64>,
}

/// A figure of a large estate, beside the same of a tenth of it.
#[derive(Clone, Debug, Serialize)]
pub struct ScaleFigure {
    /// What.
    pub what: String,
    /// Unit of the figures.
    pub unit: String,
    /// At a tenth of the size.
    pub tenth: f64,
    /// At full size.
    pub full: f64,
    /// `full` by `tenth`.
    pub growth: f64,
    /// What `full` is to reach.
    pub target: Option<Target>,
    /// What `growth` is to reach.
    pub growth_target: Option<Target>,
}

/// What a figure is to reach.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Not less.
    AtLeast(f64),
    /// Not more.
    AtMost(f64),
}

impl Target {
    /// Whether it is reached.
    pub fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(least) => figure >= least,
            Self::AtMost(most) => figure <= most,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

impl Report {
    pub(super) fn of_this_machine() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: read("/proc/cpuinfo")
                .lines()
                .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
                .map_or_else(String::new, |(_, name)| name.to_owned()),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
            hooks: Vec::new(),
            wire: Vec::new(),
            change: Vec::new(),
            scale: Vec::new(),
            fleet: Vec::new(),
            attest: Vec::new(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Linux {}, {}, load {}",
            self.kernel, self.processor, self.load
        )?;
        if !self.hooks.is_empty() {
            writeln!(
                f,
                "\nNanoseconds per packet by test run; “added” is above an empty program\n"
            )?;
            let mut table = table(&[
                "hook",
                "packet",
                "IP",
                "rules",
                "empty",
                "added",
                "reference added",
                "ratio",
                "target",
                "met",
            ]);
            for figure in &self.hooks {
                let target = figure.target_ns.map(Target::AtMost);
                table.add_row(vec![
                    Cell::new(&figure.hook),
                    Cell::new(&figure.case),
                    Cell::new(&figure.ip),
                    number(Some(figure.rules as f64), 0),
                    number(Some(figure.empty_ns), 1),
                    number(Some(figure.added_ns), 1),
                    number(figure.reference_added_ns, 1),
                    number(figure.ratio, 2),
                    Cell::new(target.map_or_else(String::new, |target| target.to_string())),
                    met(target, &[figure.added_ns]),
                ]);
            }
            writeln!(f, "{table}")?;
        }
        if !self.wire.is_empty() {
            writeln!(
                f,
                "\nThrough a veth, per CPU second; variants as a ratio to no firewall (×), or as \
                 nanoseconds added (+)\n"
            )?;
            let mut table = table(&[
                "work",
                "rules",
                "no firewall",
                "unit",
                "interface",
                "cgroup",
                "least at a cgroup",
                "nftables",
                "",
                "target",
                "met",
            ]);
            for figure in &self.wire {
                let (sign, digits) = match figure.compared {
                    Comparison::Ratio => ("×", 3),
                    Comparison::Added => ("+", 0),
                };
                table.add_row(vec![
                    Cell::new(&figure.work),
                    number(Some(figure.rules as f64), 0),
                    number(Some(figure.bare), 0),
                    Cell::new(&figure.unit),
                    number(Some(figure.interface), digits),
                    number(Some(figure.cgroup), digits),
                    number(Some(figure.least_at_cgroup), digits),
                    number(Some(figure.nftables), digits),
                    Cell::new(sign),
                    Cell::new(
                        figure
                            .target
                            .map_or_else(String::new, |target| target.to_string()),
                    ),
                    met(figure.target, &[figure.interface, figure.cgroup]),
                ]);
            }
            writeln!(f, "{table}")?;
        }
        if !self.change.is_empty() {
            writeln!(f, "\nChanges and memory\n")?;
            let mut table = table(&["what", "rules", "ours", "nftables", "unit", "target", "met"]);
            for figure in &self.change {
                let target = figure.target.map(Target::AtMost);
                table.add_row(vec![
                    Cell::new(&figure.what),
                    number(Some(figure.rules as f64), 0),
                    number(Some(figure.ours), 1),
                    number(figure.nftables, 1),
                    Cell::new(&figure.unit),
                    Cell::new(target.map_or_else(String::new, |target| target.to_string())),
                    met(target, &[figure.ours]),
                ]);
            }
            writeln!(f, "{table}")?;
        }
        if !self.scale.is_empty() {
            writeln!(
                f,
                "\n10,000 policies, 10,000 identities, 100,000 workloads, beside a tenth of each\n"
            )?;
            let mut table = table(&[
                "what", "a tenth", "full", "unit", "target", "met", "growth", "target", "met",
            ]);
            for figure in &self.scale {
                let shown =
                    |target: Option<Target>| target.map_or_else(String::new, |t| t.to_string());
                table.add_row(vec![
                    Cell::new(&figure.what),
                    number(Some(figure.tenth), 2),
                    number(Some(figure.full), 2),
                    Cell::new(&figure.unit),
                    Cell::new(shown(figure.target)),
                    met(figure.target, &[figure.full]),
                    number(Some(figure.growth), 2),
                    Cell::new(shown(figure.growth_target)),
                    met(figure.growth_target, &[figure.growth]),
                ]);
            }
            writeln!(f, "{table}")?;
        }
        if !self.fleet.is_empty() {
            writeln!(
                f,
                "\nA fleet of 1,000 nodes with 100 workloads each, through etcd\n"
            )?;
            let mut table = table(&["what", "ours", "unit"]);
            for figure in &self.fleet {
                table.add_row(vec![
                    Cell::new(&figure.what),
                    number(Some(figure.ours), 1),
                    Cell::new(&figure.unit),
                ]);
            }
            writeln!(f, "{table}")?;
        }
        if !self.attest.is_empty() {
            writeln!(
                f,
                "\nProofs of identity by mTLS, one after the other; floor: a bare handshake with the \
                 same certificates (rustls); peer: `openssl s_server`, without X25519MLKEM768 \
                 before OpenSSL 3.5\n"
            )?;
            let mut table = table(&["what", "ours", "floor", "OpenSSL", "unit"]);
            for figure in &self.attest {
                table.add_row(vec![
                    Cell::new(&figure.what),
                    number(Some(figure.ours), 2),
                    number(figure.floor, 2),
                    number(figure.peer, 2),
                    Cell::new(&figure.unit),
                ]);
            }
            writeln!(f, "{table}")?;
        }
        Ok(())
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::ASCII_MARKDOWN)
        .set_header(header);
    table
}

fn number(value: Option<f64>, digits: usize) -> Cell {
    // "not a number" is what a part that was not measured leaves.
    let text = value
        .filter(|value| !value.is_nan())
        .map_or_else(String::new, |value| format!("{value:.digits$}"));
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn met(target: Option<Target>, figures: &[f64]) -> Cell {
    Cell::new(match target {
        None => "",
        Some(target) if figures.iter().all(|figure| target.is_met(*figure)) => "yes",
        Some(_) => "NO",
    })
}
