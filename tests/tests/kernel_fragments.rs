//! Fragments are judged by the first one's ports.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use etherparse::{IpFragOffset, IpNumber, Ipv4Header};
use tests::lab::{
    Expect, FlowProtocol, Outcome, Scene,
    frame::{Hop, udp_datagram},
    traffic::{FlowSpec, flow},
};

const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress:
    - from: [{labels: {app: web}}, {entity: world}]
      ports: [{protocol: UDP, port: 9999}, {protocol: UDP, port: 7}]
  egress: []
";

fn large(to: IpAddr, port: u16, expect: Expect) -> FlowSpec {
    FlowSpec {
        size: 8000,
        ..flow(FlowProtocol::Udp, to, port, expect)
    }
}

#[test]
fn large_datagrams_pass_where_small_ones_do() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    let _other = shop.api.place.serve(&[], &[9998])?;
    for v6 in [false, true] {
        for port in [9999, 9998] {
            let open = large(shop.api.ip(v6), port, Expect::Open);
            assert_eq!(shop.web.place.try_flow(open)?.outcome, Outcome::Open);
        }
    }
    let _daemons = [scene.enforce(&shop.back)?, scene.enforce(&shop.front)?];
    for v6 in [false, true] {
        let open = large(shop.api.ip(v6), 9999, Expect::Open);
        let result = shop.web.place.try_flow(open)?;
        assert_eq!(result.outcome, Outcome::Open, "v6: {v6}, {result:?}");
        let denied = large(shop.api.ip(v6), 9998, Expect::Denied);
        let result = shop.web.place.try_flow(denied)?;
        assert!(Expect::Denied.accepts(result.outcome), "{result:?}");
    }
    Ok(())
}

/// A fragment of an IPv4 datagram. `offset` in units of 8 bytes.
fn v4_fragment(
    hop: &Hop,
    (from, to): (IpAddr, IpAddr),
    protocol: IpNumber,
    identification: u16,
    (offset, more): (u16, bool),
    payload: &[u8],
) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else {
        panic!("IPv4 only");
    };
    let length = u16::try_from(payload.len()).expect("a small payload");
    let mut header =
        Ipv4Header::new(length, 64, protocol, from.octets(), to.octets()).expect("a small payload");
    header.identification = identification;
    header.dont_fragment = false;
    header.more_fragments = more;
    header.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits");
    hop.v4(&header, payload)
}

/// A fragment of an IPv6 datagram (RFC 8200, 4.5). `offset` in units of 8 bytes.
fn v6_fragment(
    hop: &Hop,
    (from, to): (IpAddr, IpAddr),
    protocol: IpNumber,
    identification: u16,
    (offset, more): (u16, bool),
    payload: &[u8],
) -> Vec<u8> {
    let place = offset << 3 | u16::from(more);
    let header = [
        &[protocol.0, 0][..],
        &place.to_be_bytes(),
        &[0, 0],
        &identification.to_be_bytes(),
        payload,
    ]
    .concat();
    hop.ip(from, to, IpNumber::IPV6_FRAGMENTATION_HEADER, &header)
}

#[test]
fn a_later_fragment_without_a_first_and_a_tiny_first_are_denied() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    let hop = shop.intruder_hop()?;
    let mark = b"-the mark of this test--";
    let fragments = |v6: bool| {
        let fragment = if v6 { v6_fragment } else { v4_fragment };
        let way = (shop.intruder.ip(v6), shop.api.ip(v6));
        let datagram = udp_datagram((way.0, 4000), (way.1, 7), &[&mark[..], mark].concat());
        vec![
            // The second half of a datagram whose first half never comes.
            fragment(&hop, way, IpNumber::UDP, 1, (4, false), mark),
            // A first fragment of TCP that ends within the header: RFC 1858, 3.
            fragment(&hop, way, IpNumber::TCP, 2, (0, true), &mark[..8]),
            // A whole datagram in two fragments, allowed; nobody listens, so nothing comes
            // back that could contain the mark.
            fragment(&hop, way, IpNumber::UDP, 3, (0, true), &datagram[..32]),
            fragment(&hop, way, IpNumber::UDP, 3, (4, false), &datagram[32..]),
        ]
    };
    for enforced in [false, true] {
        let back = enforced.then(|| scene.enforce(&shop.back)).transpose()?;
        for v6 in [false, true] {
            let mut sniffer = shop.api.place.sniff("eth0", &mark[..8])?;
            shop.intruder.place.send_frames("eth0", &fragments(v6))?;
            let wanted = if enforced { 2 } else { 4 };
            for number in 0..wanted {
                if let Err(error) = sniffer.frame(Duration::from_secs(3)) {
                    panic!("v6: {v6}, enforced: {enforced}, fragment {number}: {error}");
                }
            }
            if let Some(back) = &back {
                for reason in ["fragment-unknown", "fragment-tiny"] {
                    let so_far = 1 + u64::from(v6);
                    back.wait_for_count(Duration::from_secs(5), so_far, |record| {
                        record.reason == reason
                    })?;
                }
            }
            assert!(sniffer.stop()?.is_empty(), "v6: {v6}, enforced: {enforced}");
        }
    }
    Ok(())
}
