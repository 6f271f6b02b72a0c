//! Policies of any size, all with the same meaning for the flows that are measured: one client
//! may, everybody else may not.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result};
use enforcer::{
    compile::{self, Image, Inputs, Limits, Numbers, Subjects},
    datapath::{
        Capacities,
        clock::WallClock,
        desired::{Desired, DesiredEndpoint, EndpointPlace, NodeConfig},
    },
    policy::{self, model::Mode},
};

/// The client that may, on the host's side of the link.
pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The same, IPv6.
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
/// The workload behind the link.
pub const SERVER4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// The same, IPv6.
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 2);
/// Nobody that policy knows.
pub const STRANGER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
/// The same, IPv6.
pub const STRANGER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
/// The port that is open to the client, TCP and UDP.
pub const OPEN: u16 = 5201;
/// A port that is open to nobody.
pub const CLOSED: u16 = 5299;

/// The link on the host's side, where the workload `link` is.
pub const LINK: &str = "bench0";
/// The cgroup where the workload `unit` is, below the lab's.
pub const UNIT: &str = "/unit";
/// Rules in a policy, which is a file: as people would write them.
const RULES_IN_A_POLICY: usize = 100;

/// The `index`th source that may: the client first, then others.
pub fn source4(index: usize) -> Ipv4Addr {
    if index == 0 {
        return CLIENT4;
    }
    // 100.64.0.0/10 has room for four million.
    Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() + u32::try_from(index).unwrap_or(0))
}

/// The `index`th source, IPv6.
pub fn source6(index: usize) -> Ipv6Addr {
    if index == 0 {
        return CLIENT6;
    }
    let base = Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 0).to_bits();
    Ipv6Addr::from_bits(base + index as u128)
}

/// Sources by version of IP.
pub fn source(index: usize, v6: bool) -> IpAddr {
    if v6 {
        source6(index).into()
    } else {
        source4(index).into()
    }
}

/// Writes a tree of `rules` rules into a folder, from the `first`th source on.
pub fn write(folder: &Path, rules: usize, first: usize) -> Result<()> {
    write_in(folder, rules, first, RULES_IN_A_POLICY)
}

/// [`write()`], with another number of rules in each policy. Every rule names two identities.
pub fn write_in(folder: &Path, rules: usize, first: usize, in_a_policy: usize) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("workloads.yaml"), workloads())?;
    for (number, start) in (0..rules).step_by(in_a_policy).enumerate() {
        let mut text = format!(
            "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\n\
             metadata: {{name: sources-{number}, namespace: bench}}\n\
             spec:\n  selector: {{matchLabels: {{app: server}}}}\n  ingress:\n"
        );
        for index in start..(start + in_a_policy).min(rules) {
            // The client stays, whatever the others are.
            let index = if index == 0 { 0 } else { first + index };
            writeln!(
                text,
                "  - name: source-{index}\n    from: [{{cidr: {}/32}}, {{cidr: '{}/128'}}]\n    \
                 ports: [{OPEN}/tcp, {OPEN}/udp]",
                source4(index),
                source6(index),
            )?;
        }
        fs::write(folder.join(format!("sources-{number}.yaml")), text)?;
    }
    Ok(())
}

/// One more file, which opens a port to the client.
pub fn opening(port: u16) -> String {
    format!(
        "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\n\
         metadata: {{name: opening, namespace: bench}}\n\
         spec:\n  selector: {{matchLabels: {{app: server}}}}\n  ingress:\n  \
         - name: opening\n    from: [{{cidr: {CLIENT4}/32}}]\n    ports: [{port}/udp]\n"
    )
}

fn workloads() -> String {
    format!(
        "apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {{name: link, namespace: bench, labels: {{app: server, at: link}}}}
spec: {{interface: {LINK}, addresses: [{SERVER4}, '{SERVER6}']}}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {{name: unit, namespace: bench, labels: {{app: server, at: unit}}}}
spec: {{cgroup: {UNIT}}}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {{name: out, namespace: bench}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  egress:
  - name: client
    to: [{{cidr: 10.99.0.0/24}}, {{cidr: 'fd99::/64'}}]
    ports: [{OPEN}/tcp, {OPEN}/udp]
---
apiVersion: enforcer.dev/v1alpha1
kind: Node
metadata: {{name: bench}}
spec: {{mode: enforce}}
"
    )
}

/// Compiles a tree for this node.
pub fn compile(folder: &Path, numbers: &mut Numbers) -> Result<Image> {
    let policy = policy::load(folder).map_err(|errors| anyhow::anyhow!("{errors}"))?;
    let inputs = Inputs {
        policy: &policy,
        mode: Mode::Enforce,
        now: enforcer::policy::model::Moment::default(),
        host_addresses: &[],
        elsewhere: &enforcer::compile::elsewhere::NOBODY,
        attested: enforcer::compile::NOBODY,
        subjects: Subjects::Placed,
        limits: &Limits::NONE,
        in_force: None,
    };
    compile::compile(&inputs, numbers).context("compiling the benchmark's policy")
}

/// Room for `rules` rules, and as many beside them while they are replaced.
pub fn capacities(rules: usize) -> Capacities {
    let room = u32::try_from(rules * 5).unwrap_or(u32::MAX);
    let defaults = Capacities::default();
    Capacities {
        policies: room.max(defaults.policies),
        ports: room.max(defaults.ports),
        addresses: room.max(defaults.addresses),
        prefixes: room.max(defaults.prefixes),
        rules: room.max(defaults.rules),
        ..defaults
    }
}

/// An image with endpoints: the link, a cgroup, or none.
pub fn desired(image: Image, link: Option<u32>, cgroup: Option<u64>) -> Result<Desired> {
    let identity = |name: &str| {
        image
            .workloads
            .iter()
            .find(|(workload, _)| workload.name == name)
            .map(|(_, number)| *number)
            .with_context(|| format!("no workload {name}"))
    };
    let mut endpoints = Vec::new();
    let mut endpoint = |id, identity, place| {
        endpoints.push(DesiredEndpoint {
            id,
            identity,
            place,
            audit: false,
            strict_source: true,
            addresses: vec![IpAddr::from(SERVER4).into(), IpAddr::from(SERVER6).into()],
        });
    };
    if let Some(ifindex) = link {
        let place = EndpointPlace::Interface {
            ifindex,
            name: LINK.to_owned(),
        };
        endpoint(2, identity("link")?, place);
    }
    if let Some(id) = cgroup {
        let place = EndpointPlace::Cgroup {
            id,
            path: UNIT.to_owned(),
        };
        endpoint(3, identity("unit")?, place);
    }
    Ok(Desired {
        image: Arc::new(image),
        endpoints,
        uplinks: Vec::new(),
        node: NodeConfig {
            audit: false,
            report_allowed: false,
            full_denies: false,
            unknown_denies: false,
            failsafe: Vec::new(),
            reject: false,
            report_limit: 1_000,
            reject_limit: 1_000,
            local_addresses: Vec::new(),
        },
        clock: WallClock::default(),
    })
}

/// The same before the endpoint came: with one that takes part in nothing.
pub fn earlier(desired: &Desired) -> Desired {
    let mut earlier = desired.clone();
    for endpoint in &mut earlier.endpoints {
        endpoint.id += 100;
        // No cgroup has this number.
        endpoint.place = EndpointPlace::NoWorkload { id: u64::MAX };
    }
    earlier
}
