//! VLAN tags hide nothing: frames with none, one and two are judged alike, here between two
//! workloads on a bridge.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use tests::lab::{
    Daemon, DaemonOptions, Lab, Place, Tree,
    frame::Hop,
    namespace::{End, cable},
};

const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: b, namespace: lan, labels: {app: b}}
spec: {interface: veth-b, addresses: [10.88.0.2, 'fd88::2']}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: b, namespace: lan}
spec:
  selector: {matchLabels: {app: b}}
  ingress:
    - ports: [9999/udp]
";

/// Tags, outermost first: 802.1ad and 802.1Q, VLAN 7 and 8.
const TAGS: [&[u8]; 3] = [
    &[],
    &[0x81, 0x00, 0x00, 0x07],
    &[0x88, 0xa8, 0x00, 0x07, 0x81, 0x00, 0x00, 0x08],
];

fn tagged(frame: &[u8], tags: &[u8]) -> Vec<u8> {
    [&frame[..12], tags, &frame[12..]].concat()
}

#[test]
fn tagged_frames_are_judged_by_what_they_carry() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.namespace("bridge")?;
    let (a, b) = (lab.namespace("a")?, lab.namespace("b")?);
    for (inside, link, net) in [(&a, "veth-a", 1), (&b, "veth-b", 2)] {
        cable(
            &End {
                namespace: &host,
                link,
                // Of no use on a port of a bridge.
                v4: [10, 99, net, 1].into(),
                v6: [0xfd99, net.into(), 0, 0, 0, 0, 0, 1].into(),
            },
            &End {
                namespace: inside,
                link: "eth0",
                v4: [10, 88, 0, net].into(),
                v6: [0xfd88, 0, 0, 0, 0, 0, 0, net.into()].into(),
            },
        )?;
    }
    host.ip(&[
        "link add br0 type bridge",
        "link set br0 up",
        "link set veth-a master br0",
        "link set veth-b master br0",
    ])?;
    let sender = Place::new("a", &a, lab.cgroup("/a")?)?;
    let receiver = Place::new("b", &b, lab.cgroup("/host/containers/b")?)?;
    let hop = Hop::between((&a, "eth0"), (&b, "eth0"))?;
    let ways: [(IpAddr, IpAddr); 2] = [
        ("10.88.0.1".parse()?, "10.88.0.2".parse()?),
        ("fd88::1".parse()?, "fd88::2".parse()?),
    ];
    let mark = b"-the mark of this test-";
    let tree = Tree::empty(&lab, "policies")?;
    tree.write("b.yaml", POLICY)?;

    for enforced in [false, true] {
        let daemon = enforced
            .then(|| {
                let cgroup_root = lab.cgroup("/host")?;
                Daemon::start(
                    &lab,
                    DaemonOptions {
                        name: "bridge".to_owned(),
                        place: Place::new("enforcer", &host, cgroup_root.join("enforcer"))?,
                        cgroup_root,
                        uplinks: vec!["none".to_owned()],
                        policies: tree.path().to_owned(),
                        mode: Some("enforce"),
                        extra: Vec::new(),
                    },
                )
            })
            .transpose()?;
        for (from, to) in ways {
            for tags in TAGS {
                for (port, allowed) in [(9999, true), (9998, false)] {
                    let frame = tagged(&hop.udp((from, 40_000), (to, port), mark), tags);
                    let mut sniffer = receiver.sniff("eth0", mark)?;
                    sender.send_frames("eth0", &[frame])?;
                    let what = format!("{to} port {port}, tags {tags:?}, enforced {enforced}");
                    if allowed || !enforced {
                        if let Err(error) = sniffer.frame(Duration::from_secs(5)) {
                            panic!("{what}: {error}");
                        }
                    } else if let Some(daemon) = &daemon {
                        let expected = 1 + TAGS.iter().position(|t| *t == tags).unwrap_or(0) as u64;
                        daemon.wait_for_count(Duration::from_secs(10), expected, |record| {
                            record.destination().address == Some(to)
                                && record.destination().port == Some(port)
                        })?;
                    }
                    assert!(sniffer.stop()?.is_empty(), "{what}");
                }
            }
        }
    }
    Ok(())
}
