//! `enforcer run`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use super::{
    Exit, OutputFormat,
    log::{self, LogArgs},
};
use crate::{
    api::{DEFAULT_SOCKET, access::Access},
    daemon,
    datapath::{Capacities, DatapathSettings, XdpMode},
    inventory,
    policy::model::Mode,
    settings::{FlowLog, Settings, SocketSettings, UplinkChoice},
};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Policy tree: a directory of YAML files (or one file). It is watched.
    #[arg(long, value_name = "DIR", default_value = "/etc/enforcer/policies")]
    pub policies: PathBuf,
    /// Mode of the node where no Node document and no `apply --mode` says otherwise. Without
    /// it: audit.
    #[arg(long, value_enum, value_name = "MODE")]
    pub mode: Option<ModeArg>,
    /// Root of the cgroup v2 tree whose processes are judged: a path, `auto` (where it is
    /// mounted), or `none`.
    #[arg(long, value_name = "PATH", default_value = "auto")]
    pub cgroup_root: PathOrWord,
    /// Interfaces at which the host itself is judged: names, `auto` (those of the default
    /// routes), or `none`.
    #[arg(long, value_name = "IF", num_args = 1.., value_delimiter = ',', default_value = "auto")]
    pub uplink: Vec<String>,
    /// What must survive a restart.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/enforcer")]
    pub state_dir: PathBuf,
    /// Where programs, links and maps are pinned (in a bpffs).
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PINS)]
    pub pin_dir: PathBuf,
    /// Control socket.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, env = "ENFORCER_SOCKET", hide_env_values = true)]
    pub socket: PathBuf,
    /// Group (name or number) whose members may use the control socket. Without it: root only.
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// What the members of that group may do.
    #[arg(long, value_enum, value_name = "ACCESS", default_value = "read")]
    pub socket_access: Access,
    /// Where Prometheus metrics are served, or `off`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    pub metrics: AddressOrOff,
    /// Name of this node in records and metrics. Without it: the host name.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Where flow records go as JSON lines: `stdout`, a file (rotated), or `off`.
    #[arg(long, value_name = "FILE", default_value = "off")]
    pub flow_log: String,
    /// When XDP is attached to uplinks to drop blocked sources.
    #[arg(long, value_enum, value_name = "WHEN", default_value = "on-demand")]
    pub xdp: XdpArg,
    /// Report allowed flows, too.
    #[arg(long)]
    pub report_allowed: bool,
    /// First reports of flows a second and CPU; more are only counted.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub report_limit: u32,
    #[command(flatten)]
    capacities: CapacityArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// Where pins are unless a flag says otherwise.
pub const DEFAULT_PINS: &str = "/sys/fs/bpf/enforcer";

/// Sizes of the kernel maps. Memory is described in docs/operations.md.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Sizes of the kernel maps")]
pub struct CapacityArgs {
    /// Flows, each of IPv4 and IPv6.
    #[arg(long, value_name = "N")]
    pub max_flows: Option<u32>,
    /// Pairs of policy set and peer identity.
    #[arg(long, value_name = "N")]
    pub max_policies: Option<u32>,
    /// Entries of port tables.
    #[arg(long, value_name = "N")]
    pub max_ports: Option<u32>,
    /// Single addresses with an identity, each of IPv4 and IPv6.
    #[arg(long, value_name = "N")]
    pub max_addresses: Option<u32>,
    /// Prefixes with an identity, each of IPv4 and IPv6.
    #[arg(long, value_name = "N")]
    pub max_prefixes: Option<u32>,
    /// Rules.
    #[arg(long, value_name = "N")]
    pub max_rules: Option<u32>,
    /// Denied flows that are counted apart.
    #[arg(long, value_name = "N")]
    pub max_denied: Option<u32>,
    /// Fragmented datagrams under way.
    #[arg(long, value_name = "N")]
    pub max_fragments: Option<u32>,
    /// Endpoints of each kind.
    #[arg(long, value_name = "N")]
    pub max_endpoints: Option<u32>,
    /// Bytes of the ring buffer of events (a power of two, at least a page).
    #[arg(long, value_name = "BYTES")]
    pub events_bytes: Option<u32>,
}

/// A mode on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// Report what would be denied; cut nothing.
    Audit,
    /// Deny.
    Enforce,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Audit => Self::Audit,
            ModeArg::Enforce => Self::Enforce,
        }
    }
}

/// When XDP is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum XdpArg {
    /// Never.
    Off,
    /// While there is a blocked source: attaching resets the link with some drivers.
    OnDemand,
    /// As long as the uplink is there.
    Always,
}

/// A path, `auto` or `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathOrWord {
    /// Find it.
    Auto,
    /// Do without.
    None,
    /// This one.
    Path(PathBuf),
}

impl std::str::FromStr for PathOrWord {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "none" => Self::None,
            path => Self::Path(path.into()),
        })
    }
}

/// An address, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressOrOff(pub Option<SocketAddr>);

impl std::str::FromStr for AddressOrOff {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|a| Self(Some(a))).map_err(|_| {
            format!("`{text}` is no address: write for example 127.0.0.1:9464, or off")
        })
    }
}

/// Runs the daemon until it is asked to stop.
pub fn run(args: &RunArgs, _format: OutputFormat) -> anyhow::Result<Exit> {
    log::start(&args.log)?;
    let settings = args.settings()?;
    // Two threads: the work is in the kernel, and what blocks has threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(daemon::run(settings));
    // What still blocks is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(2));
    ended?;
    Ok(Exit::Done)
}

impl RunArgs {
    fn settings(&self) -> anyhow::Result<Settings> {
        let cgroup_root = match &self.cgroup_root {
            PathOrWord::Auto => {
                Some(inventory::cgroups::default_root().context("use --cgroup-root PATH or none")?)
            }
            PathOrWord::None => None,
            PathOrWord::Path(path) => Some(path.clone()),
        };
        let uplinks = match self.uplink.as_slice() {
            [word] if word == "auto" => UplinkChoice::Auto,
            [word] if word == "none" => UplinkChoice::Names(Vec::new()),
            names => {
                if let Some(word) = names
                    .iter()
                    .find(|n| ["auto", "none"].contains(&n.as_str()))
                {
                    bail!("--uplink {word} cannot be combined with names");
                }
                UplinkChoice::Names(names.to_vec())
            }
        };
        Ok(Settings {
            policies: std::path::absolute(&self.policies)?,
            mode: self.mode.map(Mode::from),
            uplinks,
            state_dir: self.state_dir.clone(),
            datapath: DatapathSettings {
                pin_dir: self.pin_dir.clone(),
                cgroup_root,
                capacities: self.capacities.capacities(),
                xdp: match self.xdp {
                    XdpArg::Off => XdpMode::Off,
                    XdpArg::OnDemand => XdpMode::OnDemand,
                    XdpArg::Always => XdpMode::Always,
                },
                // Known once the state directory is open.
                numbering: 0,
            },
            socket: SocketSettings {
                path: self.socket.clone(),
                group: match &self.socket_group {
                    Some(group) => Some((group_number(group)?, self.socket_access)),
                    None => None,
                },
            },
            metrics: self.metrics.0,
            node: match &self.node {
                Some(node) => node.clone(),
                None => std::fs::read_to_string("/proc/sys/kernel/hostname")
                    .context("cannot read the host name: use --node NAME")?
                    .trim()
                    .to_owned(),
            },
            flow_log: match self.flow_log.as_str() {
                "off" => FlowLog::Off,
                "stdout" => FlowLog::Stdout,
                path => FlowLog::File(path.into()),
            },
            report_allowed: self.report_allowed,
            report_limit: self.report_limit,
        })
    }
}

impl CapacityArgs {
    fn capacities(&self) -> Capacities {
        let default = Capacities::default();
        Capacities {
            flows: self.max_flows.unwrap_or(default.flows),
            policies: self.max_policies.unwrap_or(default.policies),
            ports: self.max_ports.unwrap_or(default.ports),
            addresses: self.max_addresses.unwrap_or(default.addresses),
            prefixes: self.max_prefixes.unwrap_or(default.prefixes),
            rules: self.max_rules.unwrap_or(default.rules),
            denied: self.max_denied.unwrap_or(default.denied),
            fragments: self.max_fragments.unwrap_or(default.fragments),
            endpoints: self.max_endpoints.unwrap_or(default.endpoints),
            events_bytes: self.events_bytes.unwrap_or(default.events_bytes),
        }
    }
}

/// A group by number, or by its name in the system's list.
fn group_number(group: &str) -> anyhow::Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let found = nix::unistd::Group::from_name(group)
        .with_context(|| format!("cannot look up the group {group}"))?;
    match found {
        Some(found) => Ok(found.gid.as_raw()),
        None => bail!("there is no group {group}: name another one with --socket-group"),
    }
}
