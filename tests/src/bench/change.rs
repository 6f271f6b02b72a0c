//! From a written file to enforcement, replacing everything at once, and memory.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use enforcer::{
    compile::Numbers,
    datapath::{Datapath, DatapathSettings, XdpMode},
};
use nix::sys::resource::{UsageWho, getrusage};

use super::{
    Options, bpf,
    figure::PlainFigure,
    median,
    policy::{self, LINK, SERVER4},
    progress,
    wire::{load_nftables, ruleset},
};
use crate::lab::{
    Daemon, DaemonOptions, Lab, Namespace, Place,
    namespace::{End, cable},
};

/// The first of the ports that are opened one after the other.
const FIRST_PORT: u16 = 7_000;
/// The size at which memory is promised: identities of peers, and policies that name them.
const IDENTITIES: usize = 10_000;
const POLICIES: usize = 1_000;
/// How long the largest policy may take to come into force at the start.
const START: Duration = Duration::from_mins(3);

/// Measures at every number of rules, and at 10,000 where that is not among them.
pub fn measure(options: &Options) -> Result<Vec<PlainFigure>> {
    let mut sizes = options.rules.clone();
    if sizes.iter().any(|rules| *rules > 10_000) {
        sizes.push(10_000);
        sizes.sort_unstable();
        sizes.dedup();
    }
    let mut figures = Vec::new();
    for rules in sizes {
        progress(&format!("changes with {rules} rules"));
        figures.extend(with_daemon(rules, options.turns)?);
        figures.extend(replace(rules)?);
    }
    figures.push(at_rest()?);
    Ok(figures)
}

/// A host and a workload behind a link.
pub(super) fn cabled(lab: &Lab) -> Result<(Namespace, Namespace)> {
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
            v6: policy::SERVER6,
        },
    )?;
    Ok((host, work))
}

/// A daemon that has put a tree of `rules` rules in force.
pub(super) fn ready(lab: &Lab, host: &Namespace, tree: &Path, rules: usize) -> Result<Daemon> {
    let room = policy::capacities(rules);
    let mut extra = vec!["--metrics".to_owned(), "off".to_owned()];
    for (name, value) in [
        ("policies", room.policies),
        ("ports", room.ports),
        ("addresses", room.addresses),
        ("prefixes", room.prefixes),
        ("rules", room.rules),
    ] {
        extra.extend([format!("--max-{name}"), value.to_string()]);
    }
    let place = Place::new("bench", host, lab.cgroup("daemon")?)?;
    let mut daemon = Daemon::prepare(
        lab,
        DaemonOptions {
            name: "bench".to_owned(),
            place,
            cgroup_root: lab.cgroups().to_owned(),
            uplinks: vec!["none".to_owned()],
            policies: tree.to_owned(),
            mode: Some("enforce"),
            extra,
        },
    )?;
    let started = Instant::now();
    daemon.launch()?;
    while let Err(error) = daemon.wait_ready() {
        ensure!(
            started.elapsed() < START,
            "the daemon is not ready: {error:#}"
        );
        ensure!(daemon.pid().is_ok(), "{error:#}");
    }
    Ok(daemon)
}

/// What the kernel says of a daemon's memory, in MiB.
fn memory(daemon: &Daemon, name: &str) -> Result<f64> {
    Ok(kilobytes(daemon.pid()?, name)? / 1024.0)
}

/// Memory at [`IDENTITIES`] and [`POLICIES`], at rest.
fn at_rest() -> Result<PlainFigure> {
    progress(&format!("memory with {IDENTITIES} identities"));
    let lab = Lab::new()?;
    let (host, _work) = cabled(&lab)?;
    let tree = lab.folder().join("policies");
    let rules = IDENTITIES / 2;
    policy::write_in(&tree, rules, 0, rules / POLICIES)?;
    let mut daemon = ready(&lab, &host, &tree, rules)?;
    thread::sleep(Duration::from_secs(2));
    let mut resident = figure(
        "daemon memory (RSS), 10,000 identities in 1,000 policies",
        rules,
        "MiB",
        memory(&daemon, "VmRSS:")?,
    );
    resident.target = Some(64.0);
    daemon.stop()?;
    daemon.detach()?;
    Ok(resident)
}

/// A real daemon, a real file, and a packet that gets through as soon as the file says so.
fn with_daemon(rules: usize, turns: usize) -> Result<Vec<PlainFigure>> {
    let lab = Lab::new()?;
    let (host, work) = cabled(&lab)?;
    let tree = lab.folder().join("policies");
    policy::write(&tree, rules, 0)?;
    let started = Instant::now();
    let mut daemon = ready(&lab, &host, &tree, rules)?;
    let mut figures = vec![figure(
        "daemon started to enforced",
        rules,
        "ms",
        started.elapsed().as_secs_f64() * 1e3,
    )];

    let mut taken = Vec::new();
    for turn in 0..turns.max(3) {
        let port = FIRST_PORT + u16::try_from(turn)?;
        let address = SocketAddr::from((SERVER4, port));
        let receiver = work.enter(|| UdpSocket::bind(address))??;
        receiver.set_nonblocking(true)?;
        let sender = host.enter(|| UdpSocket::bind((policy::CLIENT4, 0)))??;
        let arrived = || {
            // Refused packets may come back to the sender as errors.
            let _ = sender.send_to(b"now?", address);
            receiver.recv(&mut [0; 8]).is_ok()
        };
        ensure!(!arrived(), "port {port} is open before the policy says so");
        let beside = tree.join(".opening.new");
        fs::write(&beside, policy::opening(port))?;
        let start = Instant::now();
        fs::rename(&beside, tree.join("opening.yaml"))?;
        while !arrived() {
            ensure!(start.elapsed() < START, "port {port} does not open");
            thread::sleep(Duration::from_micros(200));
        }
        taken.push(start.elapsed().as_secs_f64() * 1e3);
        // The daemon has come to rest before the next change.
        thread::sleep(Duration::from_millis(300));
    }
    let mut change = figure(
        "one rule changed: file to enforced",
        rules,
        "ms",
        median(taken),
    );
    change.target = Some(50.0);
    figures.push(change);

    for (what, name) in [
        ("daemon memory (RSS)", "VmRSS:"),
        ("daemon memory at its most", "VmHWM:"),
    ] {
        figures.push(figure(what, rules, "MiB", memory(&daemon, name)?));
    }
    let maps = bpf::map_memory(daemon.pid()?)? as f64 / f64::from(1 << 20);
    figures.push(figure("map memory", rules, "MiB", maps));
    daemon.stop()?;
    daemon.detach()?;
    Ok(figures)
}

/// A line of a process's status, in KiB.
pub(super) fn kilobytes(pid: u32, name: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.trim().strip_suffix(" kB")?;
        value.parse().ok()
    });
    value.with_context(|| format!("no {name} of the daemon"))
}

/// Every rule replaced by another, in one step.
fn replace(rules: usize) -> Result<Vec<PlainFigure>> {
    let lab = Lab::new()?;
    let (host, work) = cabled(&lab)?;
    fs::create_dir_all(lab.pins())?;
    let ifindex = host.ifindex(LINK)?;
    let mut numbers = Numbers::default();
    let mut states = Vec::new();
    let mut compiled = 0.0;
    for (name, first) in [("before", 0), ("after", rules)] {
        let tree = lab.folder().join(name);
        policy::write(&tree, rules, first)?;
        let start = bpf::thread_time();
        let image = policy::compile(&tree, &mut numbers)?;
        compiled = (bpf::thread_time() - start) as f64 / 1e6;
        states.push(policy::desired(image, Some(ifindex), None)?);
    }
    let settings = DatapathSettings {
        pin_dir: lab.pins().join("bench"),
        cgroup_root: None,
        capacities: policy::capacities(rules),
        xdp: XdpMode::Off,
        numbering: 1,
    };
    let ours = host.enter(|| {
        let (mut datapath, _) = Datapath::open(&settings)?;
        datapath.apply(&states[0])?;
        let (start, in_kernel) = (bpf::thread_time(), kernel_time()?);
        datapath.apply(&states[1])?;
        let in_kernel = kernel_time()?.saturating_sub(in_kernel);
        let all = (bpf::thread_time() - start) as f64 / 1e6;
        let elements: u64 = datapath.pressure().iter().map(|map| map.entries).sum();
        anyhow::Ok((all, in_kernel.as_secs_f64() * 1e3, elements))
    })??;
    let (ours, in_kernel, elements) = ours;
    Datapath::detach(&settings.pin_dir)?;

    let before = kernel_time()?;
    bpf::fill_and_empty(usize::try_from(elements)?)?;
    let floor = kernel_time()?.saturating_sub(before).as_secs_f64() * 1e3;

    load_nftables(&work, &ruleset(rules, 0))?;
    let after = ruleset(rules, rules);
    let before = children_time()?;
    load_nftables(&work, &after)?;
    let nftables = children_time()?.saturating_sub(before).as_secs_f64() * 1e3;
    Ok(vec![
        figure("read and compile everything", rules, "ms CPU", compiled),
        PlainFigure {
            nftables: Some(nftables),
            ..figure("every rule replaced at once", rules, "ms CPU", ours)
        },
        PlainFigure {
            target: (rules == 100_000).then_some(60.0),
            ..figure("of that in the kernel", rules, "ms CPU", in_kernel)
        },
        figure(
            "as many elements of a plain hash table written and removed",
            rules,
            "ms CPU",
            floor,
        ),
    ])
}

/// CPU time of the programs that this process has waited for.
fn children_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

/// CPU time of this thread in the kernel.
fn kernel_time() -> Result<Duration> {
    Ok(duration(getrusage(UsageWho::RUSAGE_THREAD)?.system_time()))
}

fn duration(time: nix::sys::time::TimeVal) -> Duration {
    Duration::from_micros(u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0))
}

fn figure(what: &str, rules: usize, unit: &str, ours: f64) -> PlainFigure {
    PlainFigure {
        what: what.to_owned(),
        rules,
        unit: unit.to_owned(),
        ours,
        nftables: None,
        target: None,
    }
}
