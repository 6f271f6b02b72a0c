//! Work through a veth, with no firewall, with ours at either kind of endpoint, with the least that
//! any filter at a cgroup does, and with nftables as one would use it: connection tracking and one
//! concatenated set.
//!
//! Each variant has a pair of namespaces of its own, all at once, so that turns can alternate.
//! One thread drives both ends; what counts is its CPU time.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use enforcer::{
    compile::Numbers,
    datapath::{Datapath, DatapathSettings, XdpMode},
};

use super::{
    Options, bpf,
    figure::{Comparison, Target, WireFigure},
    hooks::Membership,
    median,
    policy::{self, CLOSED, LINK, OPEN, SERVER4, UNIT},
    progress, reference,
};
use crate::lab::{
    Lab, Namespace,
    namespace::{End, cable},
};

/// CPU time that one measurement of one variant gets in one turn, in nanoseconds.
const SLICE: u64 = 150_000_000;
/// Packets that are sent before they are received.
const BURST: usize = 16;
/// The UDP port where nobody empties the queue: what is sent there costs the sending only.
const SINK: u16 = OPEN;

/// Measures all variants at every number of rules.
pub fn measure(options: &Options) -> Result<Vec<WireFigure>> {
    let mut figures = Vec::new();
    for rules in &options.rules {
        progress(&format!("through a veth with {rules} rules"));
        figures.extend(at(*rules, options.turns)?);
    }
    Ok(figures)
}

/// What filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Firewall {
    None,
    Interface,
    Cgroup,
    /// A program at the cgroup that denies one port and knows nothing else.
    LeastAtCgroup,
    Nftables,
}

const VARIANTS: [(Firewall, &str); 5] = [
    (Firewall::None, "none"),
    (Firewall::Interface, "link"),
    (Firewall::Cgroup, "unit"),
    (Firewall::LeastAtCgroup, "least"),
    (Firewall::Nftables, "nft"),
];

/// A variant, set up, with its sockets.
struct Pair {
    sockets: Sockets,
    // Held for what they keep in force.
    _datapath: Option<Datapath>,
    _links: Vec<OwnedFd>,
    _namespaces: [Namespace; 2],
}

/// Both ends of everything.
struct Sockets {
    listener: TcpListener,
    stream: [TcpStream; 2],
    sender: UdpSocket,
    receiver: UdpSocket,
    refused: UdpSocket,
    host: Namespace,
}

/// What is done, and how much of it took how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Connections,
    Bulk,
    Allowed,
    Denied,
}

fn at(rules: usize, turns: usize) -> Result<Vec<WireFigure>> {
    let lab = Lab::new()?;
    let tree = lab.folder().join("policies");
    policy::write(&tree, rules, 0)?;
    fs::create_dir_all(lab.pins())?;
    bpf::pin_to(0)?;
    let pairs = VARIANTS
        .iter()
        .map(|(firewall, name)| {
            pair(&lab, *firewall, name, rules).with_context(|| format!("setting up: {name}"))
        })
        .collect::<Result<Vec<_>>>()?;

    let mut figures = Vec::new();
    for work in [Work::Connections, Work::Bulk, Work::Allowed, Work::Denied] {
        let mut columns = [const { Vec::new() }; 5];
        // The first turn warms up and is not counted.
        for turn in 0..=turns {
            let mut bare = 0.0;
            for ((pair, (firewall, name)), column) in pairs.iter().zip(VARIANTS).zip(&mut columns) {
                let cost = pair
                    .sockets
                    .cost(work)
                    .with_context(|| format!("{work:?}, {name}"))?;
                if firewall == Firewall::None {
                    bare = cost;
                }
                if turn > 0 {
                    column.push(match (firewall, work.comparison()) {
                        (Firewall::None, _) => cost,
                        (_, Comparison::Ratio) => bare / cost,
                        (_, Comparison::Added) => cost - bare,
                    });
                }
            }
        }
        let [bare, interface, cgroup, least_at_cgroup, nftables] = columns.map(median);
        figures.push(WireFigure {
            work: work.name().to_owned(),
            rules,
            unit: work.unit().to_owned(),
            bare: match work.comparison() {
                Comparison::Ratio => 1e9 / bare,
                Comparison::Added => bare,
            },
            compared: work.comparison(),
            interface,
            cgroup,
            least_at_cgroup,
            nftables,
            target: Some(work.target(rules)),
        });
    }
    drop(pairs);
    for name in ["link", "unit"] {
        Datapath::detach(&lab.pins().join(name))?;
    }
    Ok(figures)
}

impl Work {
    const fn name(self) -> &'static str {
        match self {
            Self::Connections => "TCP connections",
            Self::Bulk => "bulk TCP",
            Self::Allowed => "UDP allowed",
            Self::Denied => "UDP denied",
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Connections => "a CPU second",
            Self::Bulk => "MB a CPU second",
            Self::Allowed | Self::Denied => "ns a packet",
        }
    }

    const fn comparison(self) -> Comparison {
        match self {
            Self::Connections | Self::Bulk => Comparison::Ratio,
            Self::Allowed | Self::Denied => Comparison::Added,
        }
    }

    const fn target(self, rules: usize) -> Target {
        let large = rules > 1_000;
        match self {
            Self::Connections => Target::AtLeast(0.94),
            Self::Bulk => Target::AtLeast(0.95),
            Self::Allowed => Target::AtMost(if large { 500.0 } else { 200.0 }),
            Self::Denied => Target::AtMost(if large { 400.0 } else { 120.0 }),
        }
    }
}

fn pair(lab: &Lab, firewall: Firewall, name: &str, rules: usize) -> Result<Pair> {
    let host = lab.namespace(&format!("{name}-h"))?;
    let work = lab.namespace(&format!("{name}-w"))?;
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
    let unit = lab.cgroup(&format!("{name}{UNIT}"))?;
    let mut links = Vec::new();
    let datapath = match firewall {
        Firewall::None => None,
        Firewall::LeastAtCgroup => {
            let program = reference::denying(CLOSED)?;
            for outward in [false, true] {
                links.push(program.attach(&unit, outward)?);
            }
            None
        }
        Firewall::Nftables => {
            load_nftables(&work, &ruleset(rules, 0))?;
            None
        }
        Firewall::Interface | Firewall::Cgroup => {
            let image = policy::compile(&lab.folder().join("policies"), &mut Numbers::default())?;
            let at_link = firewall == Firewall::Interface;
            let desired = if at_link {
                policy::desired(image, Some(host.ifindex(LINK)?), None)?
            } else {
                policy::desired(image, None, Some(fs::metadata(&unit)?.ino()))?
            };
            let settings = DatapathSettings {
                pin_dir: lab.pins().join(name),
                cgroup_root: (!at_link).then(|| lab.cgroups().join(name)),
                capacities: policy::capacities(rules),
                xdp: XdpMode::Off,
                numbering: 1,
            };
            Some(host.enter(|| {
                let (mut datapath, _) = Datapath::open(&settings)?;
                // In the first minute of the first endpoints, datagrams may belong to what was
                // open before, and each is looked at closely. Ours comes later, as most do.
                let earlier = policy::earlier(&desired);
                datapath.apply(&earlier)?;
                datapath.apply(&desired)?;
                anyhow::Ok(datapath)
            })??)
        }
    };
    let at_cgroup = matches!(firewall, Firewall::Cgroup | Firewall::LeastAtCgroup);
    let sockets = Sockets::open(&host, &work, at_cgroup.then_some(&unit))?;
    Ok(Pair {
        sockets,
        _datapath: datapath,
        _links: links,
        _namespaces: [host, work],
    })
}

/// The ruleset that best practice says: established flows first, then one look-up in a set of
/// source, protocol and port.
pub fn ruleset(rules: usize, first: usize) -> String {
    let elements: Vec<String> = (0..rules)
        .flat_map(|index| {
            let source = policy::source4(if index == 0 { 0 } else { first + index });
            [
                format!("{source} . tcp . {OPEN}"),
                format!("{source} . udp . {OPEN}"),
            ]
        })
        .collect();
    format!(
        "table inet bench
delete table inet bench
table inet bench {{
  set allowed {{
    type ipv4_addr . inet_proto . inet_service
    elements = {{ {} }}
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    ct state vmap {{ established : accept, related : accept, invalid : drop }}
    iif lo accept
    meta l4proto ipv6-icmp accept
    ip saddr . meta l4proto . th dport @allowed accept
  }}
}}
",
        elements.join(", ")
    )
}

/// Replaces the ruleset of a namespace, atomically.
pub fn load_nftables(namespace: &Namespace, ruleset: &str) -> Result<()> {
    let mut nft = Command::new("ip")
        .args(["netns", "exec", namespace.name(), "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("running nft (package nftables)")?;
    nft.stdin
        .take()
        .context("no stdin")?
        .write_all(ruleset.as_bytes())?;
    ensure!(nft.wait()?.success(), "nft refused the ruleset");
    Ok(())
}

impl Sockets {
    fn open(host: &Namespace, work: &Namespace, cgroup: Option<&PathBuf>) -> Result<Self> {
        let server = |port: u16| SocketAddr::from((SERVER4, port));
        let inside = cgroup.map(|cgroup| Membership::enter(cgroup)).transpose()?;
        let (listener, receiver) = work.enter(|| {
            anyhow::Ok((
                TcpListener::bind(server(OPEN))?,
                UdpSocket::bind(server(SINK))?,
            ))
        })??;
        // Where denied packets go, so that without a firewall they find a socket, too.
        let closed = work.enter(|| UdpSocket::bind(server(CLOSED)))??;
        drop(inside);
        receiver.set_nonblocking(true)?;
        // Filled once and never emptied: without a firewall, packets are dropped at the queue.
        let refused = host.enter(|| {
            let socket = UdpSocket::bind((policy::CLIENT4, 0))?;
            socket.connect(server(CLOSED))?;
            std::io::Result::Ok(socket)
        })??;
        std::mem::forget(closed);
        let (sender, near) = host.enter(|| {
            let sender = UdpSocket::bind((policy::CLIENT4, 0))?;
            sender.connect(server(SINK))?;
            std::io::Result::Ok((sender, TcpStream::connect(server(OPEN))?))
        })??;
        let (far, _) = listener.accept()?;
        for stream in [&near, &far] {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
        }
        Ok(Self {
            listener,
            stream: [near, far],
            sender,
            receiver,
            refused,
            host: host.clone(),
        })
    }

    /// CPU nanoseconds for one unit of work: a connection, a megabyte, a packet.
    fn cost(&self, work: Work) -> Result<f64> {
        self.host.enter(|| {
            bpf::pin_to(0)?;
            let start = bpf::thread_time();
            let mut done = 0.0;
            while bpf::thread_time() - start < SLICE {
                done += match work {
                    Work::Connections => self.connect(20)?,
                    Work::Bulk => self.stream(8 << 20)?,
                    Work::Allowed => self.pass(64)?,
                    Work::Denied => self.lose(1_000),
                };
            }
            Ok((bpf::thread_time() - start) as f64 / done)
        })?
    }

    fn connect(&self, count: u32) -> Result<f64> {
        for _ in 0..count {
            let near = TcpStream::connect((SERVER4, OPEN))?;
            let (far, _) = self.listener.accept()?;
            // The server closes first and keeps what waits, so that the client's ports last.
            drop(far);
            drop(near);
        }
        Ok(count.into())
    }

    fn stream(&self, bytes: usize) -> Result<f64> {
        let [near, far] = &self.stream;
        let chunk = vec![7_u8; 128 << 10];
        let mut room = vec![0_u8; 256 << 10];
        let mut received = 0;
        while received < bytes {
            match (&*near).write(&chunk) {
                // What is still under way is received in the next round.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            match (&*far).read(&mut room) {
                Ok(0) => anyhow::bail!("the connection is over"),
                Ok(count) => received += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(received as f64 / 1e6)
    }

    fn pass(&self, bursts: usize) -> Result<f64> {
        let mut room = [0; 128];
        let mut passed = 0_usize;
        for _ in 0..bursts {
            for _ in 0..BURST {
                self.sender.send(&[7; 64])?;
            }
            while self.receiver.recv(&mut room).is_ok() {
                passed += 1;
            }
        }
        ensure!(
            passed * 10 >= bursts * BURST * 9,
            "only {passed} packets arrived"
        );
        Ok(passed as f64)
    }

    fn lose(&self, count: u32) -> f64 {
        for _ in 0..count {
            // A refusal may be told to the sender or not; the packet is gone either way.
            let _ = self.refused.send(&[7; 64]);
        }
        count.into()
    }
}
