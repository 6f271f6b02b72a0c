//! Malformed packets end at the workload's own endpoint, each with its own reason.

use std::time::Duration;

use anyhow::Result;
use etherparse::{EtherType, IpNumber, Ipv4Header};
use tests::lab::{Expect, Scene, frame::Hop, shop::Shop};

/// Everything is allowed: what is dropped is dropped for its form.
const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress: [{}]
  egress: [{}]
";

const MARK: &[u8] = b"-the mark of this test-";

/// The reason for its end, and a frame.
type Bad = (&'static str, Vec<u8>);

/// What is sent, and the reason for its end. The first list passes a router of IP; the second
/// does not even do that.
fn frames(shop: &Shop, hop: &Hop) -> (Vec<Bad>, Vec<Bad>) {
    let (from, to) = (shop.api.addresses.0, shop.intruder.addresses.0);
    let ip = |v6: bool| (shop.api.ip(v6), shop.intruder.ip(v6));
    let (from4, to4) = ip(false);
    let (from6, to6) = ip(true);
    let header = |protocol, length: usize| {
        Ipv4Header::new(
            u16::try_from(length).expect("small"),
            64,
            protocol,
            from.octets(),
            to.octets(),
        )
        .expect("small")
    };
    // A TCP header whose data offset says 4 bytes.
    let mut short_offset = [0_u8; 20];
    short_offset[12] = 0x10;
    let through = vec![
        ("truncated", hop.ip(from4, to4, IpNumber::TCP, &MARK[..12])),
        ("truncated", hop.ip(from6, to6, IpNumber::TCP, &MARK[..12])),
        ("truncated", hop.ip(from4, to4, IpNumber::UDP, &MARK[..6])),
        ("truncated", hop.ip(from6, to6, IpNumber::UDP, &MARK[..6])),
        (
            "bad-header",
            hop.ip(
                from4,
                to4,
                IpNumber::TCP,
                &[&short_offset[..], MARK].concat(),
            ),
        ),
        (
            "bad-header",
            hop.ip(
                from6,
                to6,
                IpNumber::TCP,
                &[&short_offset[..], MARK].concat(),
            ),
        ),
        // More destination options than anybody needs, one in the other (RFC 8200, 4).
        (
            "extension-headers",
            hop.ip(from6, to6, IpNumber::IPV6_DESTINATION_OPTIONS, &{
                let mut chain = Vec::new();
                for _ in 0..40 {
                    chain.extend([60, 0, 1, 4, 0, 0, 0, 0]);
                }
                chain.extend([59, 0, 1, 4, 0, 0, 0, 0]);
                chain.extend(MARK);
                chain
            }),
        ),
    ];
    let mut ihl = hop.v4(&header(IpNumber::UDP, MARK.len()), MARK);
    ihl[14] = 0x42;
    let mut version = hop.v4(&header(IpNumber::UDP, MARK.len()), MARK);
    version[14] = 0x65;
    let mut beyond = hop.v4(&header(IpNumber::UDP, MARK.len()), MARK);
    beyond[16] = 0x40;
    let stopped = vec![
        ("bad-header", ihl),
        ("bad-header", version),
        ("truncated", hop.frame(EtherType::IPV4, &MARK[..10])),
        ("truncated", hop.frame(EtherType::IPV6, &MARK[..20])),
        ("truncated", beyond),
    ];
    (through, stopped)
}

#[test]
fn each_kind_is_dropped_for_its_reason() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    let hop = shop.api_hop()?;
    let (through, stopped) = frames(shop, &hop);
    let sent =
        |list: &[Bad]| -> Vec<Vec<u8>> { list.iter().map(|(_, frame)| frame.clone()).collect() };

    let mut sniffer = shop.intruder.place.sniff("eth0", &MARK[..6])?;
    shop.api.place.send_frames("eth0", &sent(&through))?;
    let mut arrived = 0;
    while sniffer.frame(Duration::from_millis(700)).is_ok() {
        arrived += 1;
    }
    drop(sniffer);
    // Without a mark in them: the two with nothing but a header are seen by their mark as well.
    assert_eq!(
        arrived,
        through.len(),
        "the way for these frames is not open"
    );

    let back = scene.enforce(&shop.back)?;
    let sniffer = shop.intruder.place.sniff("eth0", &MARK[..6])?;
    let all = [through, stopped].concat();
    shop.api.place.send_frames("eth0", &sent(&all))?;
    for reason in ["truncated", "bad-header", "extension-headers"] {
        let wanted = all.iter().filter(|(r, _)| *r == reason).count() as u64;
        back.wait_for_count(Duration::from_secs(15), wanted, |record| {
            record.reason == reason
        })?;
    }
    assert!(sniffer.stop()?.is_empty());
    scene.expect_tcp(&shop.api, &shop.web, 8080, Expect::Open)
}
