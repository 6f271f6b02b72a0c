//! Nanoseconds per packet of every hook, by `BPF_PROG_TEST_RUN`.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use enforcer::{
    compile::Numbers,
    datapath::{Datapath, DatapathSettings, XdpMode, desired::Uplink},
};
use ipnet::IpNet;

use super::{
    Options,
    bpf::{self, Kind, Program},
    figure::HookFigure,
    median,
    packet::{Packet, TCP, Version},
    policy::{self, LINK, OPEN, SERVER4, SERVER6, STRANGER4, STRANGER6, UNIT},
    progress,
    reference::{self, Reference},
};
use crate::lab::{
    Lab, cgroup,
    namespace::{End, cable},
};

/// Repetitions of one packet in a row.
const REPEAT: u32 = 100_000;
/// The uplink of the host; a link of its own, since an endpoint is either a workload's or the
/// host's.
const UPLINK: &str = "uplink0";
/// Flows that are new, each once.
const NEW: u16 = 4_000;

/// Measures every hook at every number of rules.
pub fn measure(options: &Options) -> Result<Vec<HookFigure>> {
    let mut figures = Vec::new();
    for rules in &options.rules {
        progress(&format!("hooks with {rules} rules"));
        figures.extend(at(*rules, options.turns)?);
    }
    Ok(figures)
}

/// What all measurements at one number of rules share.
struct Bench {
    rules: usize,
    turns: usize,
    ifindex: u32,
    links: PathBuf,
}

fn at(rules: usize, turns: usize) -> Result<Vec<HookFigure>> {
    let lab = Lab::new()?;
    let host = lab.namespace("host")?;
    let work = lab.namespace("work")?;
    cable(
        &End {
            namespace: &host,
            link: LINK,
            v4: policy::CLIENT4,
            v6: policy::CLIENT6,
        },
        &End {
            namespace: &work,
            link: "eth0",
            v4: SERVER4,
            v6: SERVER6,
        },
    )?;
    host.ip(&[
        format!("link add {UPLINK} type veth peer name {UPLINK}x"),
        format!("link set {UPLINK} up"),
    ])?;
    let unit = lab.cgroup(UNIT)?;
    let tree = lab.folder().join("policies");
    policy::write(&tree, rules, 0)?;
    let image = policy::compile(&tree, &mut Numbers::default())?;
    let ifindex = host.ifindex(LINK)?;
    let mut desired = policy::desired(image, Some(ifindex), Some(fs::metadata(&unit)?.ino()))?;
    // Blocked sources are what makes the hook at the uplink do something.
    Arc::make_mut(&mut desired.image).blocked = blocked(rules);
    desired.uplinks = vec![Uplink {
        ifindex: host.ifindex(UPLINK)?,
        name: UPLINK.to_owned(),
        ports: Vec::new(),
    }];
    let settings = DatapathSettings {
        pin_dir: lab.pins().join("bench"),
        cgroup_root: Some(lab.cgroups().to_owned()),
        capacities: policy::capacities(rules),
        xdp: XdpMode::OnDemand,
        numbering: 1,
    };
    fs::create_dir_all(lab.pins())?;
    let bench = Bench {
        rules,
        turns,
        ifindex,
        links: settings.pin_dir.join("links"),
    };
    let figures = host.enter(|| {
        bpf::pin_to(0)?;
        let (mut datapath, _) = Datapath::open(&settings)?;
        datapath.apply(&desired)?;
        let mut figures = Vec::new();
        for version in [Version::V4, Version::V6] {
            let _inside = Membership::enter(&unit)?;
            figures.extend(bench.stateful(Kind::Tc, "workload", version)?);
            figures.extend(bench.stateful(Kind::CgroupSkb, "cgroup", version)?);
            figures.extend(bench.blocking(version)?);
        }
        anyhow::Ok(figures)
    })?;
    Datapath::detach(&settings.pin_dir)?;
    figures
}

/// `count` blocked prefixes of each version of IP, none of which holds an address of ours.
fn blocked(count: usize) -> std::collections::BTreeMap<IpNet, (u32, bool)> {
    let v4 = (1..=count).map(|index| {
        let bits = policy::source4(index).to_bits() - policy::source4(1).to_bits();
        let network = std::net::Ipv4Addr::from_bits((172 << 24) + (bits << 4));
        IpNet::new(network.into(), 28).expect("28 bits are fewer than 32")
    });
    let v6 = (1..=count).map(|index| {
        let network = std::net::Ipv6Addr::from_bits((0xfd97 << 112) + ((index as u128) << 64));
        IpNet::new(network.into(), 64).expect("64 bits are fewer than 128")
    });
    v4.chain(v6).map(|prefix| (prefix, (1, false))).collect()
}

impl Bench {
    fn program(&self, kind: Kind, name: &str) -> Result<Program> {
        let link = fs::read_dir(&self.links)?
            .filter_map(Result::ok)
            .find(|entry| {
                entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with(&format!("{name}-"))
            })
            .with_context(|| format!("{name} is not attached through a link"))?;
        Program::behind_link(kind, &link.path())
    }

    /// The hooks that know flows: established ones, new ones, denied ones.
    fn stateful(&self, kind: Kind, prefix: &str, version: Version) -> Result<Vec<HookFigure>> {
        let inward = self.program(kind, &format!("{prefix}_ingress"))?;
        let outward = self.program(kind, &format!("{prefix}_egress"))?;
        let empty = reference::empty(kind)?;
        let least = Reference::load(kind, version)?;
        // What the programs return: on to the next one at TC, 1 at a cgroup.
        let (passes, drops) = if kind == Kind::Tc {
            (u32::MAX, 2)
        } else {
            (1, 0)
        };
        let v6 = version == Version::V6;
        let call = packet(policy::source(0, v6), 40_000, v6);
        let mut figures = Vec::new();

        ensure!(
            self.once(&inward, &call)? == passes,
            "the client is not let in"
        );
        ensure!(
            self.once(&outward, &call.answer())? == passes,
            "the answer is not let out"
        );
        least.enter(&call)?;
        for (name, program, packet) in [
            ("ingress", &inward, call.later()),
            ("egress", &outward, call.answer()),
        ] {
            ensure!(
                self.once(program, &packet)? == passes,
                "an established flow is cut"
            );
            // The reference knows packets to the workload only.
            let least = (name == "ingress").then_some(&least.program);
            figures.push(self.hot(
                &format!("{prefix}_{name}"),
                "established",
                version,
                program,
                &empty,
                least,
                &packet,
            )?);
        }

        // A test run of a cgroup's hook makes a socket, whose storage is then made and whose cgroup
        // is looked for: over one packet a run, most of what is measured.
        let (fresh_name, again_name) = if kind == Kind::CgroupSkb {
            (
                "new, allowed, each on a new socket",
                "established, each on a new socket",
            )
        } else {
            ("new, allowed, peers in turn", "established, flows in turn")
        };
        let peers = self.rules.min(usize::from(NEW));
        let fresh: Vec<Packet> = (0..NEW)
            .map(|n| packet(policy::source(usize::from(n) % peers, v6), 10_000 + n, v6))
            .collect();
        let hook = format!("{prefix}_ingress");
        figures.push(self.each(
            &hook,
            fresh_name,
            version,
            &inward,
            &empty,
            Some(&least.program),
            &fresh,
            passes,
        )?);
        let again: Vec<Packet> = fresh.iter().map(Packet::later).collect();
        figures.push(self.each(
            &hook,
            again_name,
            version,
            &inward,
            &empty,
            Some(&least.program),
            &again,
            passes,
        )?);

        let stranger = if v6 {
            IpAddr::from(STRANGER6)
        } else {
            STRANGER4.into()
        };
        let refused = packet(stranger, 40_000, v6);
        ensure!(
            self.once(&inward, &refused)? == drops,
            "a stranger is let in"
        );
        figures.push(self.hot(
            &hook,
            "denied, reported before",
            version,
            &inward,
            &empty,
            None,
            &refused,
        )?);
        Ok(figures)
    }

    /// The hook that only asks whether a source is blocked.
    fn blocking(&self, version: Version) -> Result<Vec<HookFigure>> {
        let program = self.program(Kind::Xdp, "uplink_block")?;
        let empty = reference::empty(Kind::Xdp)?;
        let v6 = version == Version::V6;
        let (bad, good) = if v6 {
            (
                IpAddr::from(std::net::Ipv6Addr::new(0xfd97, 0, 0, 1, 0, 0, 0, 5)),
                policy::source(0, true),
            )
        } else {
            (
                IpAddr::from(std::net::Ipv4Addr::new(172, 0, 0, 5)),
                policy::source(0, false),
            )
        };
        let mut figures = Vec::new();
        for (case, from, expected) in [("not blocked", good, 2), ("blocked", bad, 1)] {
            let packet = packet(from, 40_000, v6);
            ensure!(
                self.once(&program, &packet)? == expected,
                "{case}: not what was expected"
            );
            figures.push(self.hot(
                "uplink_block",
                case,
                version,
                &program,
                &empty,
                None,
                &packet,
            )?);
        }
        Ok(figures)
    }

    fn once(&self, program: &Program, packet: &Packet) -> Result<u32> {
        Ok(program.run(&packet.frame(), self.ifindex, 1)?.value)
    }

    /// One packet over and over: everything is in the cache.
    #[expect(clippy::too_many_arguments, reason = "the columns of one row")]
    fn hot(
        &self,
        hook: &str,
        case: &str,
        version: Version,
        ours: &Program,
        empty: &Program,
        least: Option<&Program>,
        packet: &Packet,
    ) -> Result<HookFigure> {
        let frame = packet.frame();
        let time = |program: &Program| -> Result<f64> {
            Ok(program
                .run(&frame, self.ifindex, REPEAT)?
                .nanoseconds
                .into())
        };
        let mut turns = Turns::default();
        for _ in 0..self.turns {
            let floor = time(empty)?;
            turns.empty.push(floor);
            turns.added.push(time(ours)? - floor);
            if let Some(least) = least {
                turns.least.push(time(least)? - floor);
            }
        }
        Ok(self.figure(hook, case, version, turns))
    }

    /// Many packets, each once: peers, flows and policies come from all over memory. The clock's
    /// own cost is in every run, and leaves with the empty program's.
    #[expect(clippy::too_many_arguments, reason = "the columns of one row")]
    fn each(
        &self,
        hook: &str,
        case: &str,
        version: Version,
        ours: &Program,
        empty: &Program,
        least: Option<&Program>,
        packets: &[Packet],
        expected: u32,
    ) -> Result<HookFigure> {
        let mut turns = Turns::default();
        for packet in packets {
            let frame = packet.frame();
            let time = |program: &Program| program.run(&frame, self.ifindex, 1);
            let floor = f64::from(time(empty)?.nanoseconds);
            turns.empty.push(floor);
            let ran = time(ours)?;
            ensure!(ran.value == expected, "{case}: not what was expected");
            turns.added.push(f64::from(ran.nanoseconds) - floor);
            if let Some(least) = least {
                turns
                    .least
                    .push(f64::from(time(least)?.nanoseconds) - floor);
            }
        }
        Ok(self.figure(hook, case, version, turns))
    }

    fn figure(&self, hook: &str, case: &str, version: Version, turns: Turns) -> HookFigure {
        let added = median(turns.added);
        let least = (!turns.least.is_empty()).then(|| median(turns.least));
        let target = match (case, version) {
            ("established", Version::V4) => Some(35.0),
            ("established", Version::V6) => Some(45.0),
            ("denied, reported before", _) => Some(60.0),
            _ => None,
        };
        HookFigure {
            hook: hook.to_owned(),
            case: case.to_owned(),
            ip: version.name().to_owned(),
            rules: self.rules,
            empty_ns: median(turns.empty),
            added_ns: added,
            reference_added_ns: least,
            ratio: least.map(|least| added / least),
            target_ns: target,
        }
    }
}

/// Measurements of one case, turn by turn.
#[derive(Default)]
struct Turns {
    empty: Vec<f64>,
    added: Vec<f64>,
    least: Vec<f64>,
}

fn packet(from: IpAddr, port: u16, v6: bool) -> Packet {
    Packet {
        source: from,
        destination: if v6 { SERVER6.into() } else { SERVER4.into() },
        source_port: port,
        destination_port: OPEN,
        protocol: TCP,
        opens: true,
    }
}

/// While this lives, the process is in another cgroup: test runs and new sockets belong to it.
pub struct Membership {
    back: PathBuf,
}

impl Membership {
    /// Moves this process.
    pub fn enter(cgroup: &Path) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let path = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .context("this process is in no cgroup of version 2")?;
        let back = cgroup::root()?.join(path).join("cgroup.procs");
        fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())?;
        Ok(Self { back })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.back, std::process::id().to_string()) {
            eprintln!("cannot go back to {}: {error}", self.back.display());
        }
    }
}
