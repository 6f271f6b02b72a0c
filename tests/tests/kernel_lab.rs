//! The lab itself: everybody reaches everybody before anything is enforced, and nothing is left
//! behind. What later tests call denied was open here.

use std::{fs, path::Path, time::Duration};

use anyhow::Result;
use tests::lab::{
    Expect, Lab, Outcome,
    shop::{Shop, TCP_PORTS, UDP_PORT},
    traffic::{FlowProtocol, FlowSpec, flow},
};

#[test]
fn without_enforcement_everybody_reaches_everybody() -> Result<()> {
    let lab = Lab::new()?;
    let shop = Shop::build(&lab)?;
    let _servers = shop.serve()?;
    for from in shop.parties() {
        let mut flows: Vec<FlowSpec> = Vec::new();
        for to in &shop.parties()[..4] {
            for v6 in [false, true] {
                let ip = to.ip(v6);
                for port in TCP_PORTS {
                    flows.push(flow(FlowProtocol::Tcp, ip, port, Expect::Open));
                }
                flows.push(flow(FlowProtocol::Udp, ip, UDP_PORT, Expect::Open));
                flows.push(flow(FlowProtocol::Icmp, ip, 0, Expect::Open));
            }
        }
        for (spec, result) in flows.iter().zip(from.place.try_flows(&flows)?) {
            assert_eq!(
                result.outcome,
                Outcome::Open,
                "{} {spec:?} {result:?}",
                from.name()
            );
        }
        // The probe tells a closed port from silence.
        let closed = flow(FlowProtocol::Tcp, shop.api.ip(false), 1, Expect::Denied);
        let nobody = flow(
            FlowProtocol::Tcp,
            "10.77.22.9".parse()?,
            9000,
            Expect::Denied,
        );
        let results = from.place.try_flows(&[closed, nobody])?;
        assert_eq!(results[0].outcome, Outcome::Refused);
        assert!(
            matches!(results[1].outcome, Outcome::Timeout | Outcome::Unreachable),
            "{results:?}"
        );
    }
    Ok(())
}

#[test]
fn a_held_connection_notices_its_end() -> Result<()> {
    let lab = Lab::new()?;
    let shop = Shop::build(&lab)?;
    let server = shop.api.place.serve(&[9000], &[])?;
    let mut idle = shop.web.place.hold(shop.api.v4(9000), 2, None)?;
    let beating = shop
        .web
        .place
        .hold(shop.api.v6(9000), 2, Some(Duration::from_millis(10)))?;
    idle.ensure_alive()?;
    let summary = beating.stop()?;
    assert_eq!((summary.alive, summary.deaths.len()), (2, 0));
    assert!(summary.beats >= 2);
    drop(server);
    assert_eq!(idle.wait_for_death(Duration::from_secs(5))?.error, "closed");
    Ok(())
}

#[test]
fn a_lab_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new()?;
    let shop = Shop::build(&lab)?;
    let server = shop.web.place.serve(&[8080], &[])?;
    let places = [
        lab.folder(),
        lab.cgroups().to_owned(),
        Path::new("/run/netns").join(shop.router.name()),
    ];
    let process = Path::new("/proc").join(server.pid().to_string());
    for path in places.iter().chain([&process]) {
        assert!(path.exists(), "{}", path.display());
    }
    server.leave_running();
    drop(lab);
    for path in &places {
        assert!(!path.exists(), "{}", path.display());
    }
    // What is left of the process is for this test to reap: nobody waited for it.
    let state = fs::read_to_string(process.join("stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
    Ok(())
}
