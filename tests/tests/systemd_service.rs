//! The service as it is installed: `deploy/enforcer.service`, as it stands, under a real systemd.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use tests::lab::{
    Expect,
    machine::{Machine, POLICY, UNIT, deployed_unit},
};

/// A machine with a service `web`, the program where it is installed, the unit and a policy.
fn boot() -> Result<Machine> {
    let machine = Machine::boot_with_web()?;
    let policies = machine.systemd.path("/etc").join("enforcer/policies");
    fs::create_dir_all(&policies)?;
    fs::write(policies.join("web.yaml"), POLICY)?;
    machine.install()?;
    Ok(machine)
}

/// The bits of the capabilities that the unit grants, as /proc/PID/status shows them.
fn granted() -> Result<u64> {
    let unit = deployed_unit()?;
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .context("the unit bounds no capabilities")?;
    line.split_whitespace()
        .map(|name| match name {
            // From linux/capability.h.
            "CAP_CHOWN" => Ok(1 << 0),
            "CAP_DAC_READ_SEARCH" => Ok(1 << 2),
            "CAP_NET_BROADCAST" => Ok(1 << 11),
            "CAP_NET_ADMIN" => Ok(1 << 12),
            "CAP_NET_RAW" => Ok(1 << 13),
            "CAP_SYS_PTRACE" => Ok(1 << 19),
            "CAP_SYS_ADMIN" => Ok(1 << 21),
            "CAP_PERFMON" => Ok(1 << 38),
            "CAP_BPF" => Ok(1 << 39),
            other => anyhow::bail!("{other} is new: enter its number here"),
        })
        .sum()
}

#[test]
fn the_service_starts_enforces_reloads_and_stops_with_the_capabilities_of_its_unit() -> Result<()> {
    let machine = boot()?;
    let systemd = &machine.systemd;
    machine.expect(8080, Expect::Open)?;
    machine.expect(8081, Expect::Open)?;

    // `start` returns with READY: what is denied is denied at once.
    systemd.ensure(&["start", UNIT])?;
    machine.expect(8080, Expect::Open)?;
    machine.expect(8081, Expect::Denied)?;
    assert_eq!(systemd.property(UNIT, "SubState")?, "running");
    assert_eq!(systemd.property(UNIT, "NotifyAccess")?, "main");
    let text = systemd.property(UNIT, "StatusText")?;
    assert!(text.contains("generation"), "{text}");

    let pid = machine.daemon()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).unwrap_or_default().to_owned()
    };
    let granted = format!("{:016x}", granted()?);
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(field(set), granted, "{set}");
    }
    assert_eq!(
        (field("NoNewPrivs:"), field("Seccomp:")),
        ("1".into(), "2".into())
    );
    let health = systemd.run("enforcer", &["status", "--check"])?;
    assert!(health.status.success(), "{health:?}");

    // Another policy, taken at the latest when `reload` asks for it.
    let policy = systemd.path("/etc/enforcer/policies/web.yaml");
    fs::write(policy, POLICY.replace("8080/tcp", "8081/tcp"))?;
    systemd.ensure(&["reload", UNIT])?;
    machine.wait("the other policy", || {
        let wait = ["wait", "--generation", "3", "--timeout", "1s"];
        Ok(systemd.run("enforcer", &wait)?.status.success())
    })?;
    machine.expect(8081, Expect::Open)?;
    machine.expect(8080, Expect::Denied)?;
    machine.wait("the reload", || {
        Ok(systemd.journal().contains("asked to reload"))
    })?;
    assert_eq!(machine.daemon()?, pid, "a reload is no restart");

    systemd.ensure(&["stop", UNIT])?;
    assert_eq!(systemd.property(UNIT, "Result")?, "success");
    assert_eq!(systemd.property(UNIT, "ExecMainStatus")?, "0");
    machine.expect(8081, Expect::Open)?;
    machine.expect(8080, Expect::Denied)?;
    let detached = systemd.run("enforcer", &["detach", "--yes"])?;
    assert!(detached.status.success(), "{detached:?}");
    machine.expect(8080, Expect::Open)?;
    Ok(())
}

#[test]
fn a_daemon_that_hangs_is_ended_by_the_watchdog_and_restarted_under_enforcement() -> Result<()> {
    let machine = boot()?;
    let systemd = &machine.systemd;
    let shorter = deployed_unit()?.replace("WatchdogSec=60s", "WatchdogSec=3s");
    assert_ne!(shorter, deployed_unit()?, "the unit has no watchdog");
    systemd.write_unit(UNIT, &shorter)?;
    systemd.ensure(&["start", UNIT])?;
    machine.expect(8081, Expect::Denied)?;

    // Signs of life come in time.
    let pid = machine.daemon()?;
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(machine.daemon()?, pid);
    assert_eq!(systemd.property(UNIT, "NRestarts")?, "0");

    // Nobody else ends it.
    kill(pid, Signal::SIGSTOP)?;
    machine.expect(8081, Expect::Denied)?;
    machine.wait("the restart", || {
        Ok(systemd.property(UNIT, "NRestarts")? == "1"
            && systemd.property(UNIT, "SubState")? == "running")
    })?;
    assert_ne!(machine.daemon()?, pid);
    machine.expect(8080, Expect::Open)?;
    machine.expect(8081, Expect::Denied)?;
    Ok(())
}
