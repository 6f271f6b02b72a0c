//! `unit:` workloads against a real systemd with real services.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::Result;
use tests::lab::{Daemon, DaemonOptions, Expect, FlowProtocol, Place, Tree, machine::Machine};

/// Where the client at the other end of the cable serves.
const OUTSIDE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 66, 0, 1), 7000);

/// A daemon on the machine, outside of its units.
fn start_daemon(machine: &Machine, policies: &str) -> Result<Daemon> {
    let tree = Tree::empty(&machine.lab, "policies")?;
    tree.write("policies.yaml", policies)?;
    let cgroup_root = machine.systemd.cgroup_root();
    let options = DaemonOptions {
        name: "machine".to_owned(),
        place: Place::new("enforcer", &machine.namespace, cgroup_root.join("enforcer"))?,
        cgroup_root: cgroup_root.to_owned(),
        uplinks: vec!["eth0".to_owned()],
        policies: tree.path().to_owned(),
        mode: Some("enforce"),
        extra: Vec::new(),
    };
    Daemon::start(&machine.lab, options)
}

/// A service that serves two ports.
fn service(name: &str, ports: [u16; 2], further: &str) -> String {
    format!(
        "[Service]\n\
         ExecStart=/run/lab/probe --name {name} serve --tcp {},{}\n\
         Restart=always\nRestartSec=50ms\n{further}\n",
        ports[0], ports[1]
    )
}

/// A workload by unit, open at one port and isolated both ways.
fn policy(name: &str, unit: &str, open: u16) -> String {
    format!(
        "\
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {{name: {name}, namespace: units, labels: {{app: {name}}}}}
spec: {{unit: '{unit}'}}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {{name: {name}, namespace: units}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  ingress:
    - ports: [{open}/tcp]
  egress: []
"
    )
}

#[test]
fn without_enforcement_services_are_reached() -> Result<()> {
    let machine = Machine::boot()?;
    machine
        .systemd
        .write_unit("web.service", &service("web", [8080, 8081], ""))?;
    machine.start_server("web.service", 8081)?;
    machine.expect(8080, Expect::Open)?;
    let place = machine.systemd.unit_place("web.service")?;
    assert!(place.cgroup().ends_with("system.slice/web.service"));
    Ok(())
}

#[test]
fn services_are_found_and_stay_enforced_through_restart_and_crash() -> Result<()> {
    let policies = [
        policy("web", "web.service", 8080),
        policy("dynamic", "dynamic.service", 8180),
        policy("sliced", "sliced.service", 8280),
        policy("worker", "worker@*.service", 8380),
    ]
    .concat();
    let machine = Machine::boot()?;
    let systemd = &machine.systemd;
    let units = [
        ("web.service", "web.service", [8080, 8081], ""),
        (
            "dynamic.service",
            "dynamic.service",
            [8180, 8181],
            "DynamicUser=yes\nProtectSystem=strict",
        ),
        (
            "sliced.service",
            "sliced.service",
            [8280, 8281],
            "Slice=shop-front.slice",
        ),
        ("worker@.service", "worker@1.service", [8380, 8381], ""),
        // Nobody's workload.
        ("other.service", "other.service", [8480, 8481], ""),
    ];
    for (file, unit, ports, further) in units {
        systemd.write_unit(file, &service("unit", ports, further))?;
        machine.start_server(unit, ports[1])?;
        machine.expect(ports[0], Expect::Open)?;
        machine.expect(ports[1], Expect::Open)?;
    }
    let _outside = machine.client.serve(&[OUTSIDE.1], &[])?;

    let daemon = start_daemon(&machine, &policies)?;
    let enforced = |unit: &str, ports: [u16; 2]| -> Result<()> {
        machine.expect(ports[0], Expect::Open)?;
        // A new cgroup is enrolled some milliseconds after it appears; this node lets unknown
        // workloads talk until then.
        let deadline = Instant::now() + Duration::from_secs(2);
        while let Err(error) = machine.expect(ports[1], Expect::Denied) {
            if Instant::now() > deadline {
                return Err(error);
            }
        }
        machine.expect(ports[1], Expect::Denied)?;
        let place = systemd.unit_place(unit)?;
        let (to, port) = OUTSIDE;
        place.expect(FlowProtocol::Tcp, to.into(), port, Expect::Denied)?;
        let record = daemon.wait_for_record(Duration::from_secs(5), |record| {
            record.unit.as_deref() == Some(unit) && record.process.is_some()
        })?;
        assert_eq!(record.destination().port, Some(port), "{record:?}");
        Ok(())
    };
    for (_, unit, ports, _) in &units[..4] {
        enforced(unit, *ports)?;
    }
    machine.expect(8480, Expect::Open)?;
    machine.expect(8481, Expect::Open)?;

    for (_, unit, ports, _) in &units[..4] {
        machine.start_server(unit, ports[1])?;
        enforced(unit, *ports)?;
        let before = systemd.property(unit, "MainPID")?;
        systemd.ensure(&["kill", "--signal=KILL", unit])?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while [before.as_str(), "0"].contains(&systemd.property(unit, "MainPID")?.as_str()) {
            assert!(Instant::now() < deadline, "{unit} does not come back");
            std::thread::sleep(Duration::from_millis(20));
        }
        machine.wait_listening(ports[1])?;
        enforced(unit, *ports)?;
    }

    // A unit that starts for the first time while the daemon runs.
    systemd.ensure(&["stop", "worker@1.service"])?;
    machine.start_server("worker@2.service", 8381)?;
    enforced("worker@2.service", [8380, 8381])?;

    // And one whose unit goes: what is nobody's is open again.
    systemd.ensure(&["stop", "web.service"])?;
    systemd.write_unit("other.service", &service("unit", [8080, 8081], ""))?;
    machine.start_server("other.service", 8081)?;
    machine.expect(8081, Expect::Open)?;
    Ok(())
}
