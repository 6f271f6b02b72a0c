//! A machine with a real systemd, the enforcer as it is installed there, and a client on a cable.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::symlink,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::unistd::Pid;

use super::{
    Expect, FlowProtocol, Lab, Namespace, Place,
    namespace::{End, cable},
    patient,
    systemd::Systemd,
};

/// The unit that the project deploys.
pub const UNIT: &str = "enforcer.service";

/// The unit `web` serves 8080 and 8081, and may be reached at the first one.
pub const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Node
metadata: {name: machine}
spec: {mode: enforce}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: units, labels: {app: web}}
spec: {unit: web.service}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: web, namespace: units}
spec:
  selector: {matchLabels: {app: web}}
  ingress:
    - ports: [8080/tcp]
";

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    /// Its PID 1.
    pub systemd: Systemd,
    /// Somebody at the other end of the cable.
    pub client: Place,
    /// Its addresses.
    pub host: [IpAddr; 2],
    /// Its network.
    pub namespace: Namespace,
    /// Last: it removes what the others use.
    pub lab: Lab,
}

impl Machine {
    /// Boots it, with a cable to a client at 10.66.0.1 and fd66::1.
    pub fn boot() -> Result<Self> {
        let lab = Lab::new()?;
        let (namespace, outside) = (lab.namespace("machine")?, lab.namespace("outside")?);
        let host = ([10, 66, 0, 2].into(), "fd66::2".parse()?);
        cable(
            &End {
                namespace: &outside,
                link: "eth0",
                v4: [10, 66, 0, 1].into(),
                v6: "fd66::1".parse()?,
            },
            &End {
                namespace: &namespace,
                link: "eth0",
                v4: host.0,
                v6: host.1,
            },
        )?;
        Ok(Self {
            systemd: Systemd::boot(&lab, &namespace, "machine")?,
            client: Place::new("client", &outside, lab.cgroup("/client")?)?,
            host: [host.0.into(), IpAddr::V6(host.1)],
            namespace,
            lab,
        })
    }

    /// A machine with the unit `web` of [`POLICY`].
    pub fn boot_with_web() -> Result<Self> {
        let machine = Self::boot()?;
        machine.systemd.write_unit(
            "web.service",
            "[Service]\nExecStart=/run/lab/probe --name web serve --tcp 8080,8081\n",
        )?;
        machine.start_server("web.service", 8081)?;
        Ok(machine)
    }

    /// Puts the program where packages do, and the unit as it is deployed. Nothing is started.
    pub fn install(&self) -> Result<()> {
        symlink(
            "/run/lab/enforcer",
            self.systemd.path("/usr/bin").join("enforcer"),
        )?;
        self.systemd.write_unit(UNIT, &deployed_unit()?)
    }

    /// Starts a unit and waits until its server listens, as seen without the network.
    pub fn start_server(&self, unit: &str, port: u16) -> Result<()> {
        self.systemd.ensure(&["restart", unit])?;
        self.wait_listening(port)
    }

    /// Waits until somebody listens on a TCP port.
    pub fn wait_listening(&self, port: u16) -> Result<()> {
        let wanted = format!(":{port} ");
        self.wait(&format!("a server at port {port}"), || {
            let listening = self.systemd.run("ss", &["-Hltn"])?.stdout;
            Ok(String::from_utf8_lossy(&listening).contains(&wanted))
        })
    }

    /// What the client meets at a TCP port, at both addresses.
    pub fn expect(&self, port: u16, expect: Expect) -> Result<()> {
        for address in self.host {
            self.client
                .expect(FlowProtocol::Tcp, address, port, expect)?;
        }
        Ok(())
    }

    /// Waits until something holds.
    pub fn wait(&self, what: &str, done: impl Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + patient(Duration::from_secs(30));
        while !done()? {
            anyhow::ensure!(
                Instant::now() < deadline,
                "{what} does not come:\n{}",
                self.systemd.journal()
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The only process of the enforcer's unit, as the outermost namespace numbers it.
    pub fn daemon(&self) -> Result<Pid> {
        let cgroup = self.systemd.property(UNIT, "ControlGroup")?;
        let members = self
            .systemd
            .cgroup_root()
            .join(cgroup.trim_start_matches('/'))
            .join("cgroup.procs");
        let members = fs::read_to_string(&members)
            .with_context(|| format!("reading {}", members.display()))?;
        let mut members = members.lines();
        let pid = members.next().context("the service has no process")?;
        anyhow::ensure!(members.next().is_none(), "more than one process");
        Ok(Pid::from_raw(pid.parse()?))
    }
}

/// The text of `deploy/enforcer.service`.
pub fn deployed_unit() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/enforcer.service");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}
