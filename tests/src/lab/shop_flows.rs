//! What the policies of policies/examples/shop mean, flow by flow, said a second time and in
//! another way than YAML, so that demo and tests can hold the two against each other.

use std::time::{Duration, Instant};

use anyhow::Result;
use enforcer::observe::record::{FlowRecord, Verdict};
use serde::Serialize;

use super::{
    Daemon, Expect, Outcome,
    shop::{Party, Shop, TCP_PORTS, UDP_PORT},
    traffic::{FlowProtocol, FlowResult, flow},
};

/// A party of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// Cgroup workload on `front`.
    Web,
    /// Behind a veth on `back`.
    Api,
    /// Behind a veth on `back`.
    Db,
    /// Cgroup workload on `ops`.
    Scraper,
    /// Unknown to policy.
    Intruder,
}

impl Who {
    /// All.
    pub const ALL: [Self; 5] = [
        Self::Web,
        Self::Api,
        Self::Db,
        Self::Scraper,
        Self::Intruder,
    ];

    /// Where it is.
    pub const fn of(self, shop: &Shop) -> &Party {
        match self {
            Self::Web => &shop.web,
            Self::Api => &shop.api,
            Self::Db => &shop.db,
            Self::Scraper => &shop.scraper,
            Self::Intruder => &shop.intruder,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Api => "api",
            Self::Db => "db",
            Self::Scraper => "scraper",
            Self::Intruder => "intruder",
        }
    }
}

/// A flow between two parties, on IPv4 and on IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShopFlow {
    /// Who opens it.
    pub from: Who,
    /// Who is addressed.
    pub to: Who,
    /// Protocol.
    pub protocol: FlowProtocol,
    /// Port; 0 for ICMP.
    pub port: u16,
}

impl std::fmt::Display for ShopFlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (from, to) = (self.from.name(), self.to.name());
        match self.protocol {
            FlowProtocol::Icmp => write!(f, "{from} -> {to} icmp echo"),
            FlowProtocol::Tcp => write!(f, "{from} -> {to} tcp/{}", self.port),
            FlowProtocol::Udp => write!(f, "{from} -> {to} udp/{}", self.port),
            FlowProtocol::Sctp => write!(f, "{from} -> {to} sctp/{}", self.port),
        }
    }
}

impl ShopFlow {
    /// A flow.
    pub const fn new(from: Who, to: Who, protocol: FlowProtocol, port: u16) -> Self {
        Self {
            from,
            to,
            protocol,
            port,
        }
    }

    /// What the shop's policies say about it.
    pub const fn expected(self) -> Expect {
        use Who::{Api, Db, Intruder, Scraper, Web};
        let open = match (self.protocol, self.from, self.to, self.port) {
            // Echo requests to `web` and `scraper` are answered by their hosts, whose own
            // endpoint is not restricted.
            (FlowProtocol::Icmp, Intruder, to, _) => matches!(to, Web | Scraper),
            (FlowProtocol::Icmp, _, to, _) => !matches!(to, Intruder),
            (FlowProtocol::Tcp, Intruder, Web, 8080)
            | (FlowProtocol::Tcp, Web, Api, 9000)
            | (FlowProtocol::Tcp, Api, Db, 5432)
            | (FlowProtocol::Udp, Api, Db, 9999)
            | (FlowProtocol::Tcp, Scraper, Web | Api | Db, 9100) => true,
            _ => false,
        };
        if open { Expect::Open } else { Expect::Denied }
    }

    /// Every pair of parties on every port of the shop.
    pub fn all() -> Vec<Self> {
        let mut flows = Vec::new();
        for from in Who::ALL {
            for to in Who::ALL {
                if from == to {
                    continue;
                }
                for port in TCP_PORTS {
                    flows.push(Self::new(from, to, FlowProtocol::Tcp, port));
                }
                flows.push(Self::new(from, to, FlowProtocol::Udp, UDP_PORT));
                flows.push(Self::new(from, to, FlowProtocol::Icmp, 0));
            }
        }
        flows
    }
}

/// What became of a flow on IPv4 and on IPv6.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The flow.
    pub flow: ShopFlow,
    /// IPv4, IPv6.
    pub results: [FlowResult; 2],
}

impl Observed {
    /// Whether both are as expected.
    pub fn is(&self, expect: Expect) -> bool {
        self.results.iter().all(|r| expect.accepts(r.outcome))
    }

    /// Whether all went as the shop's policies say.
    pub fn as_expected(&self) -> bool {
        self.is(self.flow.expected())
    }

    /// Outcome on IPv4 and on IPv6.
    pub fn outcomes(&self) -> [Outcome; 2] {
        [self.results[0].outcome, self.results[1].outcome]
    }
}

/// Tries the flows, those of one party at once, on IPv4 and IPv6.
pub fn try_flows(
    shop: &Shop,
    flows: &[ShopFlow],
    expect: impl Fn(ShopFlow) -> Expect,
) -> Result<Vec<Observed>> {
    let mut observed = Vec::with_capacity(flows.len());
    for from in Who::ALL {
        let own: Vec<ShopFlow> = flows.iter().copied().filter(|f| f.from == from).collect();
        let specs: Vec<_> = own
            .iter()
            .flat_map(|f| {
                [false, true].map(|v6| flow(f.protocol, f.to.of(shop).ip(v6), f.port, expect(*f)))
            })
            .collect();
        if specs.is_empty() {
            continue;
        }
        let results = from.of(shop).place.try_flows(&specs)?;
        for (flow, results) in own.into_iter().zip(results.chunks(2)) {
            observed.push(Observed {
                flow,
                results: [results[0].clone(), results[1].clone()],
            });
        }
    }
    // In the order asked for.
    observed.sort_by_key(|o| flows.iter().position(|f| *f == o.flow));
    Ok(observed)
}

/// A denial as a daemon recorded it.
#[derive(Clone, Debug)]
pub struct Denial {
    /// Node of the daemon.
    pub node: String,
    /// Its record.
    pub record: FlowRecord,
}

/// Whether a record is about the flow.
pub fn is_about(record: &FlowRecord, shop: &Shop, flow: ShopFlow, v6: bool) -> bool {
    let (from, to) = (flow.from.of(shop).ip(v6), flow.to.of(shop).ip(v6));
    let (source, destination) = (record.source(), record.destination());
    // When a program calls connect(2), its own address is not chosen yet.
    let is_source = match source.address {
        Some(address) => address == from,
        None => source.name.as_deref() == Some(flow.from.name()),
    };
    is_source
        && destination.address == Some(to)
        && record.protocol == flow.protocol.record_name(v6)
        && (flow.protocol == FlowProtocol::Icmp || destination.port == Some(flow.port))
}

/// The denials that the daemons recorded for these flows, each on IPv4 and on IPv6, in the same
/// order. Waits up to `within` for all of them. A packet that is lost on its way to an enforcer,
/// as a busy machine loses them, looks like a denied one to its sender; so flows without a
/// record are tried again, twice. What is missing then is `None`.
pub fn denials(
    shop: &Shop,
    daemons: &[Daemon],
    flows: &[ShopFlow],
    within: Duration,
) -> Result<Vec<[Option<Denial>; 2]>> {
    let mut found = recorded(shop, daemons, flows, within)?;
    for _ in 0..2 {
        let missing: Vec<ShopFlow> = flows
            .iter()
            .zip(&found)
            .filter(|(_, denials)| denials.iter().any(Option::is_none))
            .map(|(flow, _)| *flow)
            .collect();
        if missing.is_empty() {
            break;
        }
        try_flows(shop, &missing, |_| Expect::Denied)?;
        found = recorded(shop, daemons, flows, within)?;
    }
    Ok(found)
}

fn recorded(
    shop: &Shop,
    daemons: &[Daemon],
    flows: &[ShopFlow],
    within: Duration,
) -> Result<Vec<[Option<Denial>; 2]>> {
    let deadline = Instant::now() + within;
    loop {
        let mut all: Vec<FlowRecord> = Vec::new();
        for daemon in daemons {
            all.extend(daemon.records()?);
        }
        all.retain(|record| record.verdict == Verdict::Deny);
        let found: Vec<[Option<Denial>; 2]> = flows
            .iter()
            .map(|flow| {
                [false, true].map(|v6| {
                    all.iter()
                        .find(|record| is_about(record, shop, *flow, v6))
                        .map(|record| Denial {
                            node: record.node.clone(),
                            record: record.clone(),
                        })
                })
            })
            .collect();
        let complete = found.iter().flatten().all(Option::is_some);
        if complete || Instant::now() > deadline {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
