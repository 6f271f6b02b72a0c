//! `enforcer run`.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use super::{
    Exit, OutputFormat, duration,
    fleet_args::FleetArgs,
    git_args::{GitArgs, PolicyOrigin},
    log::{self, LogArgs},
};
use crate::{
    api::{DEFAULT_SOCKET, access::Access},
    daemon,
    datapath::{Capacities, DatapathSettings, XdpMode},
    git::{self, checkout::Checkout},
    identity::{
        attest::AttestSettings,
        ca::{self, LONGEST_LEAF, SHORTEST_LEAF},
        files::{IdentitySource, SvidFiles},
        workload_api::{
            WorkloadApiSettings,
            client::{ENDPOINT_VARIABLE, ProviderAddress},
        },
    },
    inventory, metrics,
    policy::model::Mode,
    settings::{FlowLog, Settings, SocketSettings, UplinkChoice},
    sink::file::Rotation,
};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Policy tree: a directory of YAML files (or one file), which is watched; or a git
    /// repository, as git+https://HOST/REPOSITORY#BRANCH:PATH (git+ssh://, git+file://). Without
    /// BRANCH it is the remote's own, without PATH the whole repository; a tag is written
    /// refs/tags/NAME, a commit with all its digits.
    #[arg(long, value_name = "TREE", default_value = "/etc/enforcer/policies")]
    pub policies: PolicyOrigin,
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
    #[arg(long, value_name = "ADDRESS", default_value_t = AddressOrOff(Some(metrics::serve::DEFAULT_ADDRESS)))]
    pub metrics: AddressOrOff,
    /// Where workloads attest by mTLS, as in 127.0.0.1:9465, or `off`.
    #[arg(long, value_name = "ADDRESS", default_value_t = AddressOrOff(None))]
    pub attest: AddressOrOff,
    /// Longest time that a proof holds without being renewed.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration::parse)]
    pub attest_lease: Duration,
    /// Where the X.509-SVID of this daemon comes from, and the bundles of trust domains without a
    /// document: `files`, or a server of the SPIFFE Workload API, as in
    /// unix:///run/spire/agent.sock.
    #[arg(long, value_name = "SOURCE", default_value = "files", env = ENDPOINT_VARIABLE, hide_env_values = true)]
    pub identity_from: ProviderOrFiles,
    /// X.509-SVID of this daemon in PEM, its intermediate certificates behind it. Watched.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/enforcer/identity/svid.pem"
    )]
    pub svid: PathBuf,
    /// Its key in PEM. Watched.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/enforcer/identity/svid.key"
    )]
    pub svid_key: PathBuf,
    /// Socket at which workloads of this host get their X.509-SVIDs by the SPIFFE Workload API, as
    /// in /run/enforcer/workload.sock, or `off`. The kernel says who asks; the authority of --ca
    /// issues.
    #[arg(long, value_name = "PATH", default_value = "off")]
    pub workload_api: PathOrOff,
    /// Folder of the authority that `enforcer ca init` made. Watched.
    #[arg(long, value_name = "DIR", default_value = ca::DEFAULT_FOLDER)]
    pub ca: PathBuf,
    /// File whose first line decrypts its key.
    #[arg(long, value_name = "FILE")]
    pub ca_passphrase_file: Option<PathBuf>,
    /// How long what it issues to workloads is valid; a new one follows after half of it. At most
    /// 168h.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration::parse)]
    pub svid_lifetime: Duration,
    /// Name of this node in records and metrics. Without it: the host name.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Where flow records go as JSON lines: `stdout`, a file (rotated), or `off`.
    #[arg(long, value_name = "FILE", default_value = "off")]
    pub flow_log: String,
    /// Bytes after which the file of --flow-log is rotated; K, M and G stand for powers of 1024.
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size)]
    pub flow_log_size: u64,
    /// Rotated files that are kept besides the current one; 0: none.
    #[arg(long, value_name = "N", default_value_t = Rotation::default().kept)]
    pub flow_log_keep: u32,
    /// When XDP is attached to uplinks to drop blocked sources.
    #[arg(long, value_enum, value_name = "WHEN", default_value = "on-demand")]
    pub xdp: XdpArg,
    /// Report allowed flows, too.
    #[arg(long)]
    pub report_allowed: bool,
    /// First reports of flows a second and CPU; more are only counted.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub report_limit: u32,
    /// Denied packets that are answered a second, on each CPU, where the Node document says
    /// `denied: reject`; others are dropped in silence and counted
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub reject_limit: u32,
    #[command(flatten)]
    git: GitArgs,
    #[command(flatten)]
    fleet: FleetArgs,
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
    /// Ports of addresses that workloads of other hosts share.
    #[arg(long, value_name = "N")]
    pub max_services: Option<u32>,
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

/// A server of the Workload API, or `files`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderOrFiles(pub Option<ProviderAddress>);

impl std::str::FromStr for ProviderOrFiles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(match text {
            "files" => None,
            address => Some(address.parse()?),
        }))
    }
}

/// A path, or `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathOrOff(pub Option<PathBuf>);

impl std::str::FromStr for PathOrOff {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self((text != "off").then(|| text.into())))
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
            let example = metrics::serve::DEFAULT_ADDRESS;
            format!("`{text}` is no address: write for example {example}, or off")
        })
    }
}

impl fmt::Display for AddressOrOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// A number of bytes, with K, M or G for powers of 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("`{text}` is no size: write for example 64M"))
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
        let (policies, git) = match &self.policies {
            PolicyOrigin::Path(path) => {
                self.git.refuse_without_git()?;
                (std::path::absolute(path)?, None)
            }
            PolicyOrigin::Git(remote) => {
                let root = git::follow::directory(&std::path::absolute(&self.state_dir)?);
                let settings = self.git.settings(remote)?;
                (Checkout::new(&root).link(), Some(settings))
            }
        };
        Ok(Settings {
            policies,
            git,
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
            attest: self.attest.0.map(|listen| AttestSettings {
                listen,
                lease: self.attest_lease,
            }),
            identity: match &self.identity_from.0 {
                Some(provider) => IdentitySource::Provider(provider.clone()),
                None => IdentitySource::Files(SvidFiles {
                    certificate: self.svid.clone(),
                    key: self.svid_key.clone(),
                }),
            },
            workload_api: self.workload_api()?,
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
                path => FlowLog::File {
                    path: path.into(),
                    rotation: Rotation {
                        size: self.flow_log_size,
                        kept: self.flow_log_keep,
                    },
                },
            },
            report_allowed: self.report_allowed,
            report_limit: self.report_limit,
            reject_limit: self.reject_limit,
            fleet: self.fleet.settings()?,
        })
    }
}

impl RunArgs {
    fn workload_api(&self) -> anyhow::Result<Option<WorkloadApiSettings>> {
        let Some(socket) = &self.workload_api.0 else {
            return Ok(None);
        };
        if !(SHORTEST_LEAF..=LONGEST_LEAF).contains(&self.svid_lifetime) {
            let (least, most) = (SHORTEST_LEAF.as_secs(), LONGEST_LEAF.as_secs() / 3_600);
            bail!("--svid-lifetime: write a time from {least}s to {most}h");
        }
        Ok(Some(WorkloadApiSettings {
            socket: std::path::absolute(socket)?,
            authority: self.ca.clone(),
            passphrase_file: self.ca_passphrase_file.clone(),
            lifetime: self.svid_lifetime,
        }))
    }
}

impl CapacityArgs {
    /// The sizes as given, or the defaults.
    pub fn capacities(&self) -> Capacities {
        let default = Capacities::default();
        Capacities {
            flows: self.max_flows.unwrap_or(default.flows),
            policies: self.max_policies.unwrap_or(default.policies),
            ports: self.max_ports.unwrap_or(default.ports),
            addresses: self.max_addresses.unwrap_or(default.addresses),
            services: self.max_services.unwrap_or(default.services),
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(flags: &[&str]) -> Result<RunArgs, clap::Error> {
        Line::try_parse_from([&["run"], flags].concat()).map(|line| line.run)
    }

    #[test]
    fn metrics_are_on_loopback_at_the_documented_port_unless_told_otherwise() {
        let address = parse(&[]).unwrap().metrics.0.unwrap();
        assert!(address.ip().is_loopback());
        let documented = include_str!("../../../docs/operations.md");
        assert!(documented.contains(&format!("| `{address}/metrics` |")));
        assert_eq!(parse(&["--metrics", "off"]).unwrap().metrics.0, None);
        assert!(parse(&["--metrics", "nine"]).is_err());
    }

    #[test]
    fn the_flow_log_is_rotated_as_documented_unless_told_otherwise() {
        let rotation = |flags: &[&str]| {
            let flags = [&["--flow-log", "/x", "--cgroup-root", "none"], flags].concat();
            let settings = parse(&flags)?.settings().expect("good");
            let FlowLog::File { rotation, .. } = settings.flow_log else {
                panic!("no file");
            };
            Ok::<_, clap::Error>((rotation.size, rotation.kept))
        };
        assert_eq!(rotation(&[]).unwrap(), (64 << 20, 5));
        let default = Rotation::default();
        assert_eq!((default.size, default.kept), (64 << 20, 5));
        let other = ["--flow-log-size", "2g", "--flow-log-keep", "0"];
        assert_eq!(rotation(&other).unwrap(), (2 << 30, 0));
        assert_eq!(rotation(&["--flow-log-size", "4096"]).unwrap().0, 4096);
        for wrong in ["", "M", "0", "-1", "1T", "64MB", "99999999999999G"] {
            assert!(rotation(&["--flow-log-size", wrong]).is_err(), "{wrong}");
        }
    }
}
