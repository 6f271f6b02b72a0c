//! Packets straight into the loaded kernel programs (`BPF_PROG_TEST_RUN`), on a datapath of
//! their own in a network namespace of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    maps::{HashMap, Map, MapData},
    programs::{SchedClassifier, TestRun, TestRunOptions, Xdp},
};
use bytemuck::Zeroable;
use enforcer::{
    compile::{self, Image, Inputs, Limits, Numbers, Subjects},
    datapath::{
        Capacities, Datapath, DatapathSettings, XdpMode,
        clock::WallClock,
        desired::{Desired, DesiredEndpoint, EndpointPlace, NodeConfig, Uplink},
    },
    policy::{
        load_text,
        model::{Mode, Moment},
    },
};
use enforcer_common::{
    Direction,
    abi::map,
    config::{FailsafePort, MOMENTS},
    conntrack::FlowEntry,
    denied_entry::{DeniedEntry, DeniedKey},
    endpoint_entry::{EndpointEntry, endpoint_flag},
    flow_key::{Addr4, Addr6, FlowKey},
    policy_key::ALLOW_ALL,
};

use crate::lab::{Lab, Namespace};

/// Links that can be endpoints of workloads.
pub const LINKS: usize = 6;

/// `TC_ACT_UNSPEC`: on to the next program.
const TC_PASS: u32 = u32::MAX;
/// `TC_ACT_SHOT`.
const TC_DROP: u32 = 2;
/// `XDP_DROP`.
const XDP_DROP: u32 = 1;
/// `XDP_PASS`.
const XDP_PASS: u32 = 2;

/// Has the kernel wait in a hurry for programs that run, on the whole machine
/// (`rcupdate.rcu_expedited` in kernel-parameters.txt): a change of policy, which waits several
/// times, then takes a fraction of the time. Nothing else about it is different.
#[derive(Debug)]
struct Hurry;

impl Hurry {
    const SWITCH: &str = "/sys/kernel/rcu_expedited";

    /// Where there is no such switch, everything takes its time.
    fn begin() -> Self {
        let _ = fs::write(Self::SWITCH, "1");
        Self
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        let _ = fs::write(Self::SWITCH, "0");
    }
}

/// A namespace with links whose other ends nobody holds.
#[derive(Debug)]
pub struct Bed {
    // Dropped last: its pins go with it.
    namespace: Namespace,
    /// Interface indices of the links for workloads.
    pub links: Vec<u32>,
    /// Interface index of the uplink.
    pub uplink: u32,
    pins: PathBuf,
    _lab: Lab,
    _hurry: Hurry,
}

/// The image of a tree, in mode enforce.
pub fn image_of(tree: &str, numbers: &mut Numbers) -> Result<Image> {
    let policy = load_text("bed.yaml", tree).map_err(|errors| anyhow!("{errors}"))?;
    let inputs = Inputs {
        policy: &policy,
        mode: Mode::Enforce,
        now: Moment::now(),
        host_addresses: &[],
        elsewhere: &compile::elsewhere::NOBODY,
        attested: compile::NOBODY,
        subjects: Subjects::All,
        limits: &Limits {
            moments: MOMENTS,
            ..Limits::NONE
        },
        in_force: None,
    };
    Ok(compile::compile(&inputs, numbers)?)
}

/// A workload of an image by name, at one of a bed's links. It may send from any address.
pub fn endpoint(image: &Image, links: &[u32], link: usize, name: &str) -> Result<DesiredEndpoint> {
    let known = image.workloads.iter().find(|(known, _)| known.name == name);
    Ok(DesiredEndpoint {
        id: 2 + u32::try_from(link)?,
        identity: *known.context("no such workload")?.1,
        place: EndpointPlace::Interface {
            ifindex: links[link],
            name: format!("w{link}"),
        },
        audit: false,
        strict_source: false,
        addresses: Vec::new(),
    })
}

impl Bed {
    /// Makes namespace and links.
    pub fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let namespace = lab.namespace("bed")?;
        let mut commands = vec!["link add uplink type veth peer name uplinkx".to_owned()];
        commands.extend((0..LINKS).map(|n| format!("link add w{n} type veth peer name w{n}x")));
        commands.push("link set uplink up".to_owned());
        commands.extend((0..LINKS).map(|n| format!("link set w{n} up")));
        namespace.ip(&commands)?;
        let links = (0..LINKS)
            .map(|n| namespace.ifindex(&format!("w{n}")))
            .collect::<Result<_>>()?;
        fs::create_dir_all(lab.pins())?;
        Ok(Self {
            links,
            uplink: namespace.ifindex("uplink")?,
            pins: lab.pins().join("bed"),
            namespace,
            _lab: lab,
            _hurry: Hurry::begin(),
        })
    }

    /// Runs `work` in the namespace with the programs loaded; the hooks are gone afterwards.
    pub fn enter<T: Send>(&self, work: impl FnOnce(&mut Loaded<'_>) -> T + Send) -> Result<T> {
        let result = self.namespace.enter(|| {
            let settings = DatapathSettings {
                pin_dir: self.pins.clone(),
                cgroup_root: None,
                capacities: Capacities {
                    denied: 131_072,
                    ..Capacities::default()
                },
                xdp: XdpMode::Off,
                numbering: 1,
            };
            let (datapath, _) = Datapath::open(&settings)?;
            let mut loaded = Loaded {
                bed: self,
                datapath,
            };
            anyhow::Ok(work(&mut loaded))
        })?;
        Datapath::detach(&self.pins)?;
        result
    }

    fn map(&self, name: &str) -> Result<MapData> {
        let folder = fs::read_dir(&self.pins)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| is_maps(path))
            .context("no maps are pinned")?;
        Ok(MapData::from_pin(folder.join(name))?)
    }
}

fn is_maps(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("maps-"))
}

/// A program that takes packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// At a workload's link, by the way of the packet.
    Workload(Direction),
    /// At the uplink, by the way of the packet.
    Uplink(Direction),
    /// XDP at the uplink.
    Block,
}

impl Hook {
    /// Every program.
    pub const ALL: [Self; 5] = [
        Self::Workload(Direction::Egress),
        Self::Workload(Direction::Ingress),
        Self::Uplink(Direction::Egress),
        Self::Uplink(Direction::Ingress),
        Self::Block,
    ];

    const fn program(self) -> &'static str {
        match self {
            Self::Workload(Direction::Egress) => "workload_egress",
            Self::Workload(Direction::Ingress) => "workload_ingress",
            Self::Uplink(Direction::Egress) => "uplink_egress",
            Self::Uplink(Direction::Ingress) => "uplink_ingress",
            Self::Block => "uplink_block",
        }
    }
}

/// The loaded programs.
#[derive(Debug)]
pub struct Loaded<'a> {
    bed: &'a Bed,
    /// The datapath that loaded them.
    pub datapath: Datapath,
}

impl Loaded<'_> {
    /// Puts an image in force, with the endpoints and failsafe ports given, and the uplink.
    /// `clock` tells when the image's moments are.
    pub fn apply(
        &mut self,
        image: Image,
        endpoints: Vec<DesiredEndpoint>,
        failsafe: Vec<FailsafePort>,
        clock: WallClock,
    ) -> Result<()> {
        let local_addresses = image.host_addresses.keys().copied().collect();
        self.datapath.apply(&Desired {
            image: Arc::new(image),
            endpoints,
            uplinks: vec![Uplink {
                ifindex: self.bed.uplink,
                name: "uplink".to_owned(),
                ports: Vec::new(),
            }],
            node: NodeConfig {
                audit: false,
                report_allowed: false,
                full_denies: false,
                unknown_denies: false,
                failsafe,
                reject: false,
                report_limit: u32::MAX,
                reject_limit: u32::MAX,
                local_addresses,
            },
            clock,
        })?;
        Ok(())
    }

    /// Lets an endpoint do anything until the next moment (or `later` too), without the knowledge
    /// of the daemon or of what the programs have found out.
    pub fn unrestrict(&self, link: usize, later: bool) -> Result<()> {
        self.change_endpoint(self.bed.links[link], |entry| {
            entry.sets = [ALLOW_ALL; 2];
            if later {
                entry.later = Zeroable::zeroed();
            }
        })
    }

    /// Says of every endpoint whether it was enrolled just now, or long ago.
    pub fn set_adopting(&self, adopting: bool) -> Result<()> {
        for ifindex in self.bed.links.iter().chain([&self.bed.uplink]) {
            self.change_endpoint(*ifindex, |entry| {
                entry.adopt_until = if adopting { u32::MAX } else { 0 };
                entry.flags |= endpoint_flag::ADOPTS_DATAGRAMS;
            })?;
        }
        Ok(())
    }

    /// Changes what is behind an interface, if there is anything.
    fn change_endpoint(&self, ifindex: u32, change: impl Fn(&mut EndpointEntry)) -> Result<()> {
        let map = Map::HashMap(self.bed.map(map::INTERFACES)?);
        let mut entries: HashMap<_, u32, [u8; size_of::<EndpointEntry>()]> = map.try_into()?;
        if let Ok(bytes) = entries.get(&ifindex, 0) {
            let mut entry: EndpointEntry = bytemuck::cast(bytes);
            change(&mut entry);
            entries.insert(ifindex, bytemuck::cast::<_, [u8; _]>(entry), 0)?;
        }
        Ok(())
    }

    /// Forgets every flow.
    pub fn forget_flows(&self) -> Result<()> {
        const ENTRY: usize = size_of::<FlowEntry>();
        self.empty::<{ size_of::<FlowKey<Addr4>>() }, ENTRY>(map::FLOWS4)?;
        self.empty::<{ size_of::<FlowKey<Addr6>>() }, ENTRY>(map::FLOWS6)
    }

    /// Forgets what was denied: otherwise ten seconds of it are read each time.
    pub fn forget_denied(&self) -> Result<()> {
        self.empty::<{ size_of::<DeniedKey>() }, { size_of::<DeniedEntry>() }>(map::DENIED)
    }

    fn empty<const KEY: usize, const VALUE: usize>(&self, name: &str) -> Result<()> {
        let map = Map::HashMap(self.bed.map(name)?);
        let mut entries: HashMap<_, [u8; KEY], [u8; VALUE]> = map.try_into()?;
        let keys = entries.keys().collect::<Result<Vec<_>, _>>()?;
        for key in keys {
            entries.remove(&key)?;
        }
        Ok(())
    }

    /// Whether a frame passes a program. `link`: the workload's link, where it is at one.
    pub fn passes(&mut self, hook: Hook, link: usize, frame: &[u8]) -> Result<bool> {
        let ifindex = match hook {
            Hook::Workload(_) => self.bed.links[link],
            Hook::Uplink(_) | Hook::Block => self.bed.uplink,
        };
        let program = self
            .datapath
            .object()
            .program(hook.program())
            .context("no such program")?;
        // `struct __sk_buff` in words; the eleventh is the device.
        let mut words = [0_u32; 48];
        words[10] = ifindex;
        let context: &[u8] = bytemuck::cast_slice(&words);
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        let returned = if hook == Hook::Block {
            let program: &Xdp = program.try_into()?;
            program.test_run(options)?.return_value
        } else {
            options.ctx_in = Some(context);
            let program: &SchedClassifier = program.try_into()?;
            program.test_run(options)?.return_value
        };
        match (hook == Hook::Block, returned) {
            (false, TC_PASS) | (true, XDP_PASS) => Ok(true),
            (false, TC_DROP) | (true, XDP_DROP) => Ok(false),
            _ => bail!("{hook:?} returned {returned:#x}"),
        }
    }
}

/// Whether the processor is emulated (`cargo xtask test --kernel`).
pub fn is_emulated() -> bool {
    std::env::var_os("ENFORCER_EMULATED").is_some()
}

/// Half a minute: what a test that tries random things may take where nobody asked for more.
/// Emulated machines try far fewer in that time.
#[derive(Debug)]
pub struct Budget(Option<std::time::Instant>);

impl Budget {
    /// Begins now. `unlimited`: somebody asked for a number of tries.
    pub fn new(unlimited: bool) -> Self {
        Self((!unlimited).then(std::time::Instant::now))
    }

    /// Whether it is used up.
    pub fn is_spent(&self) -> bool {
        self.0.is_some_and(|start| start.elapsed().as_secs() >= 30)
    }
}
