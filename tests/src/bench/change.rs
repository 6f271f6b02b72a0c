//! From a written file to enforcement, replacing everything at once, and memory.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
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
    Daemon, DaemonOptions, Lab, Place,
    namespace::{End, cable},
};

/// The first of the ports that are opened one after the other.
const FIRST_PORT: u16 = 7_000;
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
    Ok(figures)
}

/// A real daemon, a real file, and a packet that gets through as soon as the file says so.
fn with_daemon(rules: usize, turns: usize) -> Result<Vec<PlainFigure>> {
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
            v6: policy::SERVER6,
        },
    )?;
    let tree = lab.folder().join("policies");
    policy::write(&tree, rules, 0)?;
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
    let place = Place::new("bench", &host, lab.cgroup("daemon")?)?;
    let mut daemon = Daemon::prepare(
        &lab,
        DaemonOptions {
            name: "bench".to_owned(),
            place,
            cgroup_root: lab.cgroups().to_owned(),
            uplinks: vec!["none".to_owned()],
            policies: tree.clone(),
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

    let pid = daemon.pid()?;
    let mut resident = figure(
        "daemon memory (RSS)",
        rules,
        "MiB",
        kilobytes(pid, "VmRSS:")? / 1024.0,
    );
    resident.target = (rules == 10_000).then_some(64.0);
    figures.push(resident);
    figures.push(figure(
        "daemon memory at its most",
        rules,
        "MiB",
        kilobytes(pid, "VmHWM:")? / 1024.0,
    ));
    let maps = bpf::map_memory(pid)? as f64 / f64::from(1 << 20);
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
        let start = bpf::thread_time();
        datapath.apply(&states[1])?;
        anyhow::Ok((bpf::thread_time() - start) as f64 / 1e6)
    })??;
    Datapath::detach(&settings.pin_dir)?;

    load_nftables(&work, &ruleset(rules, 0))?;
    let after = ruleset(rules, rules);
    let before = children_time()?;
    load_nftables(&work, &after)?;
    let nftables = children_time()?.saturating_sub(before).as_secs_f64() * 1e3;
    Ok(vec![
        figure("read and compile everything", rules, "ms CPU", compiled),
        PlainFigure {
            nftables: Some(nftables),
            target: (rules == 100_000).then_some(60.0),
            ..figure("every rule replaced at once", rules, "ms CPU", ours)
        },
    ])
}

/// CPU time of the programs that this process has waited for.
fn children_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = |time: nix::sys::time::TimeVal| {
        u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0)
    };
    Ok(Duration::from_micros(
        micros(usage.user_time()) + micros(usage.system_time()),
    ))
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
