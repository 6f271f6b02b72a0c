//! `unit:` workloads against a real systemd with real services.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Result;
use tests::lab::{
    Daemon, DaemonOptions, Expect, FlowProtocol, Lab, Place, Tree,
    namespace::{End, cable},
    systemd::Systemd,
};

struct Machine {
    systemd: Systemd,
    client: Place,
    host: [IpAddr; 2],
    outside: SocketAddr,
    tree: Tree,
    options: DaemonOptions,
    lab: Lab,
}

const OUTSIDE_PORT: u16 = 7000;

impl Machine {
    fn boot(policies: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let (inside, outside) = (lab.namespace("machine")?, lab.namespace("outside")?);
        let addresses = ([10, 66, 0, 2].into(), "fd66::2".parse()?);
        cable(
            &End {
                namespace: &outside,
                link: "eth0",
                v4: [10, 66, 0, 1].into(),
                v6: "fd66::1".parse()?,
            },
            &End {
                namespace: &inside,
                link: "eth0",
                v4: addresses.0,
                v6: addresses.1,
            },
        )?;
        let systemd = Systemd::boot(&lab, &inside, "machine")?;
        let tree = Tree::empty(&lab, "policies")?;
        tree.write("policies.yaml", policies)?;
        let options = DaemonOptions {
            name: "machine".to_owned(),
            place: Place::new("enforcer", &inside, systemd.cgroup_root().join("enforcer"))?,
            cgroup_root: systemd.cgroup_root().to_owned(),
            uplinks: vec!["eth0".to_owned()],
            policies: tree.path().to_owned(),
            mode: Some("enforce"),
            extra: Vec::new(),
        };
        Ok(Self {
            client: Place::new("client", &outside, lab.cgroup("/client")?)?,
            host: [addresses.0.into(), IpAddr::V6(addresses.1)],
            outside: "10.66.0.1:7000".parse()?,
            systemd,
            tree,
            options,
            lab,
        })
    }

    fn daemon(&self) -> Result<Daemon> {
        Daemon::start(&self.lab, self.options.clone())
    }

    fn expect(&self, port: u16, expect: Expect) -> Result<()> {
        for address in self.host {
            self.client
                .expect(FlowProtocol::Tcp, address, port, expect)?;
        }
        Ok(())
    }

    /// Starts a unit and waits until its server listens, as seen without the network.
    fn start(&self, unit: &str, port: u16) -> Result<()> {
        self.systemd.ensure(&["restart", unit])?;
        self.wait_listening(port)
    }

    fn wait_listening(&self, port: u16) -> Result<()> {
        let wanted = format!(":{port} ");
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let listening = self.systemd.run("ss", &["-Hltn"])?.stdout;
            if String::from_utf8_lossy(&listening).contains(&wanted) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "nobody listens on {port}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
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
    let machine = Machine::boot("")?;
    machine
        .systemd
        .write_unit("web.service", &service("web", [8080, 8081], ""))?;
    machine.start("web.service", 8081)?;
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
    let machine = Machine::boot(&policies)?;
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
        machine.start(unit, ports[1])?;
        machine.expect(ports[0], Expect::Open)?;
        machine.expect(ports[1], Expect::Open)?;
    }
    let _outside = machine.client.serve(&[OUTSIDE_PORT], &[])?;

    let daemon = machine.daemon()?;
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
        let (to, port) = (machine.outside.ip(), machine.outside.port());
        place.expect(FlowProtocol::Tcp, to, port, Expect::Denied)?;
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
        machine.start(unit, ports[1])?;
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
    machine.start("worker@2.service", 8381)?;
    enforced("worker@2.service", [8380, 8381])?;

    // And one whose unit goes: what is nobody's is open again.
    systemd.ensure(&["stop", "web.service"])?;
    systemd.write_unit("other.service", &service("unit", [8080, 8081], ""))?;
    machine.start("other.service", 8081)?;
    machine.expect(8081, Expect::Open)?;
    assert!(machine.tree.path().exists());
    Ok(())
}
