//! A node of a cluster: three namespaces of three pods, somebody outside, and the node itself.
//!
//! ```text
//!  node     uplink up0 10.79.0.1 fd79::1, on every pod's link 10.78.0.1 fd78::1
//!  x/a ...  pod-xa     10.78.1.11 fd78:1::11    (x is 1, y 2, z 3; a is 11, b 12, c 13)
//!  outside             10.79.0.2 fd79::2
//! ```
//!
//! Pods are connected as plugins that route do it: each has a veth pair, and the node a route to
//! each of its addresses.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    thread,
};

use anyhow::{Context, Result};

use super::{
    Daemon, Expect, FlowProtocol, Lab, Namespace, Place, Process, cgroup,
    namespace::{End, cable},
    shop::{Host, Party, UPLINK},
    traffic,
};

/// Ports on which everybody listens, by TCP and by UDP.
pub const PORTS: [u16; 2] = [80, 81];

/// Everybody, in the order of truth tables.
pub const NAMES: [&str; 11] = [
    "x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b", "z/c", "outside", "node",
];

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];

/// A node and its pods.
#[derive(Debug)]
pub struct Cluster {
    /// The node.
    pub node: Host,
    /// In the order of [`NAMES`].
    pub parties: Vec<Party>,
}

/// Addresses of a pod, counted from 0.
fn pod_addresses(namespace: usize, pod: usize) -> Result<(Ipv4Addr, Ipv6Addr)> {
    let (net, host) = (u8::try_from(namespace + 1)?, u8::try_from(pod + 11)?);
    Ok((
        Ipv4Addr::new(10, 78, net, host),
        // The decimal digits, read as hexadecimal.
        Ipv6Addr::new(0xfd78, net.into(), 0, 0, 0, 0, 0, u16::from(host) + 6),
    ))
}

impl Cluster {
    /// Builds the node and its pods, without daemon and servers.
    pub fn build(lab: &Lab) -> Result<Self> {
        let namespace = lab.namespace("node")?;
        namespace.forward()?;
        let cgroup_root = lab.cgroup("node")?;
        cgroup::make(&cgroup_root.join("system"))?;
        let addresses = (
            Ipv4Addr::new(10, 79, 0, 1),
            Ipv6Addr::new(0xfd79, 0, 0, 0, 0, 0, 0, 1),
        );
        let node = Host {
            name: "node",
            namespace,
            cgroup_root,
            addresses,
        };
        let mut parties = Vec::new();
        for (n, namespace) in NAMESPACES.into_iter().enumerate() {
            for (p, pod) in PODS.into_iter().enumerate() {
                let name = format!("{namespace}{pod}");
                parties.push(connect(lab, &node, &name, pod_addresses(n, p)?)?);
            }
        }
        let outside = lab.namespace("outside")?;
        let beyond = (
            Ipv4Addr::new(10, 79, 0, 2),
            Ipv6Addr::new(0xfd79, 0, 0, 0, 0, 0, 0, 2),
        );
        let end = |namespace, link, (v4, v6)| End {
            namespace,
            link,
            v4,
            v6,
        };
        cable(
            &end(&node.namespace, UPLINK, addresses),
            &end(&outside, "eth0", beyond),
        )?;
        node.namespace.ip(&[
            format!("route add default via {}", beyond.0),
            format!("route add default via {}", beyond.1),
        ])?;
        outside.ip(&[
            format!("route add default via {}", addresses.0),
            format!("route add default via {}", addresses.1),
        ])?;
        parties.push(Party {
            place: Place::new("outside", &outside, lab.cgroup("/outside")?)?,
            addresses: beyond,
        });
        parties.push(node.party()?);
        Ok(Self { node, parties })
    }

    /// Starts servers of everybody.
    pub fn serve(&self) -> Result<Vec<Process>> {
        let parties = self.parties.iter();
        parties.map(|p| p.place.serve(&PORTS, &PORTS)).collect()
    }

    /// Starts the node's daemon in mode enforce.
    pub fn start_daemon(&self, lab: &Lab, policies: &Path) -> Result<Daemon> {
        self.node.start_daemon(lab, policies)
    }

    /// Tries every party to every other, by both protocols, on both ports, over both families of
    /// addresses, all at once. Says which flows are not as `expected` has them.
    pub fn wrong(&self, expected: &TruthTables) -> Result<Vec<String>> {
        thread::scope(|scope| {
            let mut running = Vec::new();
            for (from, party) in self.parties.iter().enumerate() {
                let flows = expected.flows_from(from);
                running.push(scope.spawn(move || self.wrong_from(from, party, &flows)));
            }
            let mut wrong = Vec::new();
            for handle in running {
                let found = handle
                    .join()
                    .map_err(|_| anyhow::anyhow!("a try panicked"))?;
                wrong.extend(found?);
            }
            Ok(wrong)
        })
    }

    fn wrong_from(&self, from: usize, party: &Party, flows: &[Tried]) -> Result<Vec<String>> {
        let specs: Vec<_> = flows
            .iter()
            .map(|flow| {
                let to = self.parties[flow.to].ip(flow.v6);
                traffic::flow(flow.protocol, to, flow.port, flow.expect)
            })
            .collect();
        let results = party.place.try_flows(&specs)?;
        let pairs = flows.iter().zip(results);
        Ok(pairs
            .filter(|(flow, result)| !flow.expect.accepts(result.outcome))
            .map(|(flow, result)| {
                let family = if flow.v6 { "v6" } else { "v4" };
                let mut line = format!(
                    "{} -> {} {:?} {} {family}:",
                    NAMES[from], NAMES[flow.to], flow.protocol, flow.port
                );
                let (expect, outcome) = (flow.expect, result.outcome);
                let _ = write!(line, " expected {expect:?}, got {outcome:?}");
                line
            })
            .collect())
    }
}

/// A pod behind a veth pair, with a route to each of its addresses.
fn connect(lab: &Lab, node: &Host, name: &str, addresses: (Ipv4Addr, Ipv6Addr)) -> Result<Party> {
    let inside: Namespace = lab.namespace(name)?;
    let link = format!("pod-{name}");
    let (v4, v6) = addresses;
    node.namespace.ip(&[
        format!(
            "link add {link} type veth peer name eth0 netns {}",
            inside.name()
        ),
        format!("addr add 10.78.0.1/32 dev {link}"),
        format!("addr add fd78::1/128 dev {link} nodad"),
        format!("link set {link} up"),
    ])?;
    inside.ip(&[
        format!("addr add {v4}/32 dev eth0"),
        format!("addr add {v6}/128 dev eth0 nodad"),
        "link set eth0 up".to_owned(),
        "route add 10.78.0.1 dev eth0".to_owned(),
        "route add default via 10.78.0.1".to_owned(),
        "route add fd78::1 dev eth0".to_owned(),
        "route add default via fd78::1".to_owned(),
    ])?;
    node.namespace.ip(&[
        format!("route add {v4}/32 dev {link}"),
        format!("route add {v6}/128 dev {link}"),
    ])?;
    let cgroup = node.cgroup_root.join("pods").join(name);
    Ok(Party {
        place: Place::new(name, &inside, cgroup)?,
        addresses,
    })
}

/// A `Pod` as a cluster would write it down.
pub fn pod(namespace: &str, name: &str, labels: &str, ports: &str) -> Result<String> {
    let at = |list: [&str; 3], wanted: &str| list.iter().position(|one| *one == wanted);
    let place = at(NAMESPACES, namespace).zip(at(PODS, name));
    let (n, p) = place.with_context(|| format!("no pod {namespace}/{name}"))?;
    let (v4, v6): (IpAddr, IpAddr) = {
        let (v4, v6) = pod_addresses(n, p)?;
        (v4.into(), v6.into())
    };
    Ok(format!(
        "apiVersion: v1\nkind: Pod\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}\n\
         spec: {{containers: [{{name: serve, image: serve, ports: {ports}}}]}}\n\
         status: {{phase: Running, podIP: {v4}, podIPs: [{{ip: {v4}}}, {{ip: '{v6}'}}]}}\n---\n"
    ))
}

/// What is expected of every flow: one row for each source, one column for each destination, in
/// the order of [`NAMES`]: `.` open, `X` denied, `#` not tried. Blanks are for the eye.
#[derive(Clone, Debug, Default)]
pub struct TruthTables(Vec<(String, Vec<Vec<char>>)>);

/// A flow, and what is expected of it.
#[derive(Clone, Copy, Debug)]
struct Tried {
    to: usize,
    protocol: FlowProtocol,
    port: u16,
    v6: bool,
    expect: Expect,
}

impl TruthTables {
    /// What holds for all flows where nothing else is said.
    pub fn all(table: &str) -> Self {
        Self(vec![(String::new(), cells(table))])
    }

    /// What holds for some flows: words of `tcp`, `udp`, `80`, `81`, `v4` and `v6`.
    #[must_use]
    pub fn but(mut self, which: &str, table: &str) -> Self {
        self.0.push((which.to_owned(), cells(table)));
        self
    }

    fn flows_from(&self, from: usize) -> Vec<Tried> {
        let mut flows = Vec::new();
        for to in 0..NAMES.len() {
            for (protocol, word) in [(FlowProtocol::Tcp, "tcp"), (FlowProtocol::Udp, "udp")] {
                for port in PORTS {
                    for v6 in [false, true] {
                        let port_word = port.to_string();
                        let family = if v6 { "v6" } else { "v4" };
                        let is_about = |which: &str| {
                            which
                                .split_whitespace()
                                .all(|w| w == word || w == port_word || w == family)
                        };
                        let tables = self.0.iter().rev();
                        let found = tables.clone().find(|(which, _)| is_about(which));
                        let cell = found.map(|(_, cells)| cells[from][to]);
                        let expect = match cell {
                            Some('.') => Expect::Open,
                            Some('X') => Expect::Denied,
                            _ => continue,
                        };
                        flows.push(Tried {
                            to,
                            protocol,
                            port,
                            v6,
                            expect,
                        });
                    }
                }
            }
        }
        flows
    }
}

fn cells(table: &str) -> Vec<Vec<char>> {
    let rows = table.lines().map(str::trim).filter(|row| !row.is_empty());
    let rows: Vec<Vec<char>> = rows
        .map(|row| row.chars().filter(|c| !c.is_whitespace()).collect())
        .collect();
    let whole = rows.len() == NAMES.len() && rows.iter().all(|row| row.len() == NAMES.len());
    assert!(whole, "a truth table has 11 rows of 11:\n{table}");
    let diagonal = (0..NAMES.len()).all(|i| rows[i][i] == '#');
    assert!(diagonal, "nobody is tried to itself:\n{table}");
    rows
}
