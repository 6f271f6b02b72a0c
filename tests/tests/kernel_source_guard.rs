//! A workload behind an interface sends with its own addresses only, and nobody outside sends with
//! them.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use tests::lab::{Expect, FlowProtocol, Place, Scene, frame::Hop, shop::UPLINK};

const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  egress: [{}]
";

#[test]
fn spoofed_sources_do_not_leave() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    let hop = shop.api_hop()?;
    let mark = b"-the mark of this test-";
    let sources = |v6: bool| -> [IpAddr; 4] {
        [
            shop.api.ip(v6),
            shop.db.ip(v6),
            shop.web.ip(v6),
            if v6 {
                [0xfd99, 0, 0, 0, 0, 0, 0, 1].into()
            } else {
                [192, 0, 2, 1].into()
            },
        ]
    };
    for enforced in [false, true] {
        let back = enforced.then(|| scene.enforce(&shop.back)).transpose()?;
        for v6 in [false, true] {
            let to = shop.intruder.ip(v6);
            let frames: Vec<Vec<u8>> = sources(v6)
                .into_iter()
                .map(|from| hop.udp((from, 4000), (to, 7777), mark))
                .collect();
            let mut sniffer = shop.intruder.place.sniff("eth0", mark)?;
            shop.api.place.send_frames("eth0", &frames)?;
            for _ in 0..if enforced { 1 } else { 4 } {
                sniffer.frame(Duration::from_secs(3))?;
            }
            if let Some(back) = &back {
                for from in &sources(v6)[1..] {
                    let reason = scene.denied_reason(back, *from, to, 7777)?;
                    assert_eq!(reason, "source-guard", "{from}");
                }
            }
            assert!(sniffer.stop()?.is_empty(), "v6: {v6}, enforced: {enforced}");
        }
    }
    Ok(())
}

const INTO: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  ingress: [{from: [{labels: {app: api}}], ports: [7777/udp, 9999/udp, 5432/tcp]}]
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: store, namespace: shop, labels: {app: store}}
spec: {cgroup: /shop/store}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: store, namespace: shop}
spec:
  selector: {matchLabels: {app: store}}
  ingress: [{from: [{labels: {app: api}}], ports: [7000/udp]}]
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: host}
spec:
  selector: {host: true}
  ingress: [{from: [{cidr: 10.77.12.2/32}, {cidr: 'fd77:12::2/128'}], ports: [7001/udp]}]
";

#[test]
fn nobody_outside_sends_with_the_address_of_a_workload_inside() -> Result<()> {
    let scene = Scene::new(INTO)?;
    let shop = &scene.shop;
    let back = &shop.back;
    // The host itself would let it in.
    back.namespace.sysctl(&[
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/up0/rp_filter", "0"),
    ])?;
    let router = Place::new("router", &shop.router, scene.lab.cgroup("router")?)?;
    let hop = Hop::between((&shop.router, "to-back"), (&back.namespace, UPLINK))?;
    let store = back.place("/shop/store")?;
    let _store = store.serve(&[], &[7000])?;
    let _host = back.place("system")?.serve(&[], &[7001])?;
    let mark = b"-from outside-";
    for enforced in [false, true] {
        let daemon = enforced.then(|| scene.enforce(back)).transpose()?;
        for v6 in [false, true] {
            let (api, db) = (shop.api.ip(v6), shop.db.ip(v6));
            let host = back.party()?.ip(v6);
            let forged = |to: IpAddr, port: u16| hop.udp((api, 4000), (to, port), mark);
            let mut sniffer = shop.db.place.sniff("eth0", mark)?;
            let frames = [forged(db, 7777), forged(host, 7000), forged(host, 7001)];
            router.send_frames("to-back", &frames)?;
            if let Some(daemon) = &daemon {
                for (to, port) in [(db, 7777), (host, 7000), (host, 7001)] {
                    let reason = scene.denied_reason(daemon, api, to, port)?;
                    assert_eq!(reason, "source-guard", "{to} {port}");
                }
            } else {
                sniffer.frame(Duration::from_secs(3))?;
            }
            assert!(sniffer.stop()?.is_empty(), "v6: {v6}, enforced: {enforced}");
            // The workload itself gets through, also with the very addresses and ports that were
            // forged before.
            for (to, port) in [(host, 7000), (host, 7001), (db, 9999)] {
                let place = &shop.api.place;
                place.expect(FlowProtocol::Udp, to, port, Expect::Open)?;
            }
            let own = Hop::between((&shop.api_inside, "eth0"), (&back.namespace, "veth-api"))?;
            let mut sniffer = shop.db.place.sniff("eth0", mark)?;
            let frame = own.udp((api, 4000), (db, 7777), mark);
            shop.api.place.send_frames("eth0", &[frame])?;
            sniffer.frame(Duration::from_secs(3))?;
        }
    }
    Ok(())
}
