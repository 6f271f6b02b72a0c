//! A workload behind an interface sends with its own addresses only.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use tests::lab::Scene;

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
