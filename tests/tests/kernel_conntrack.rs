//! Replies, resets and ICMP errors belong to the flow that was allowed; nothing else does.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};
use enforcer_common::{Protocol, conntrack::State};
use etherparse::IpNumber;
use tests::lab::{
    Expect, FlowProtocol, Outcome, Scene,
    frame::{TcpFlags, tcp_segment, udp_datagram},
    shop::{Party, UPLINK},
    traffic::{FlowSpec, flow},
};

/// Only `web` may open flows to `api`, and `api` may open none at all.
const WEB_TO_API: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress:
    - from: [{labels: {app: web}}]
      ports: [{protocol: TCP, port: 9000}, {protocol: TCP, port: 7}, {protocol: UDP, port: 9999}, {protocol: UDP, port: 7}]
  egress: []
";

#[test]
fn replies_need_no_rule_and_the_way_back_is_no_way_in() -> Result<()> {
    let scene = Scene::new(WEB_TO_API)?;
    let (web, api) = (&scene.shop.web, &scene.shop.api);
    scene.expect_tcp(api, web, 8080, Expect::Open)?;
    let _back = scene.enforce(&scene.shop.back)?;
    scene.expect_tcp(web, api, 9000, Expect::Open)?;
    scene.expect(web, api, FlowProtocol::Udp, 9999, Expect::Open)?;
    scene.expect_tcp(api, web, 8080, Expect::Denied)?;
    scene.expect(api, web, FlowProtocol::Udp, 9999, Expect::Denied)?;
    scene.expect_tcp(web, api, 2222, Expect::Denied)?;
    Ok(())
}

#[test]
fn a_closed_port_is_told_by_reset_and_by_port_unreachable() -> Result<()> {
    let scene = Scene::new(WEB_TO_API)?;
    let (web, api) = (&scene.shop.web, &scene.shop.api);
    let _back = scene.enforce(&scene.shop.back)?;
    for v6 in [false, true] {
        // Port 7 is allowed, and nobody listens there.
        let tcp = flow(FlowProtocol::Tcp, api.ip(v6), 7, Expect::Open);
        let udp = FlowSpec {
            connected: true,
            attempts: 4,
            ..flow(FlowProtocol::Udp, api.ip(v6), 7, Expect::Open)
        };
        for result in web.place.try_flows(&[tcp, udp])? {
            assert_eq!(result.outcome, Outcome::Refused, "v6: {v6}, {result:?}");
        }
    }
    Ok(())
}

#[test]
fn packet_too_big_reaches_the_sender() -> Result<()> {
    let scene = Scene::new(WEB_TO_API)?;
    let (web, api) = (&scene.shop.web, &scene.shop.api);
    // Between `back` and `front` nothing larger than 1300 bytes passes, and neither end knows.
    scene.shop.router.ip(&["link set to-front mtu 1300"])?;
    let _back = scene.enforce(&scene.shop.back)?;
    let _front = scene.enforce(&scene.shop.front)?;
    for v6 in [false, true] {
        // The answer of `api` is what is too big: the error goes to a workload that may not be
        // talked to by routers.
        let large = FlowSpec {
            size: 100_000,
            timeout: 5000,
            ..flow(FlowProtocol::Tcp, api.ip(v6), 9000, Expect::Open)
        };
        let result = web.place.try_flow(large)?;
        assert_eq!(result.outcome, Outcome::Open, "v6: {v6}, {result:?}");
    }
    Ok(())
}

/// An ICMP "fragmentation needed" or ICMPv6 "packet too big" that quotes a TCP packet.
fn too_big(v6: bool, quoted: &[u8]) -> Vec<u8> {
    // RFC 792 with RFC 1191; RFC 4443, 3.2.
    let mut message: Vec<u8> = if v6 {
        vec![2, 0, 0, 0, 0, 0, 0x05, 0x14]
    } else {
        vec![3, 4, 0, 0, 0, 0, 0x05, 0x14]
    };
    message.extend(quoted);
    if !v6 {
        let checksum = etherparse::checksum::Sum16BitWords::new()
            .add_slice(&message)
            .ones_complement()
            .to_be_bytes();
        message[2..4].copy_from_slice(&checksum);
    }
    message
}

#[test]
fn an_error_about_no_flow_and_a_packet_of_no_connection_are_denied() -> Result<()> {
    let scene = Scene::new(WEB_TO_API)?;
    let shop = &scene.shop;
    let (api, intruder) = (&shop.api, &shop.intruder);
    let hop = shop.intruder_hop()?;
    let mark = b"-the mark of this test-";
    let frames = |v6: bool| {
        let (from, to) = (intruder.ip(v6), api.ip(v6));
        let (own, opened) = ((to, 9000), (from, 50_123));
        // What `api` would have sent, had there been a connection.
        let sent = hop.ip(
            to,
            from,
            IpNumber::TCP,
            &tcp_segment(own, opened, TcpFlags::default(), mark),
        );
        let error = if v6 {
            IpNumber::IPV6_ICMP
        } else {
            IpNumber::ICMP
        };
        let ack = TcpFlags {
            ack: true,
            sequence: 7,
            acknowledgement: 7,
            ..TcpFlags::default()
        };
        vec![
            hop.ip(from, to, error, &too_big(v6, &sent[14..])),
            hop.tcp((from, 50_123), (to, 9000), ack, mark),
            hop.ip(
                from,
                to,
                IpNumber::UDP,
                &udp_datagram((from, 50_124), (to, 2222), mark),
            ),
        ]
    };
    for (enforced, expected) in [(false, 3), (true, 0)] {
        let back = enforced.then(|| scene.enforce(&shop.back)).transpose()?;
        for v6 in [false, true] {
            let sniffer = api.place.sniff("eth0", mark)?;
            intruder.place.send_frames("eth0", &frames(v6))?;
            if let Some(back) = &back {
                let from: IpAddr = intruder.ip(v6);
                scene.denied_reason(back, from, api.ip(v6), 9000)?;
                scene.denied_reason(back, from, api.ip(v6), 2222)?;
            } else {
                std::thread::sleep(Duration::from_millis(300));
            }
            let seen = sniffer.stop()?;
            assert_eq!(seen.len(), expected, "v6: {v6}, enforced: {enforced}");
        }
    }
    Ok(())
}

/// Only `web` may open connections, and to a port as high as those that clients have: where no
/// entry tells who opened one, its ports say that `api` did.
const WEB_TO_HIGH: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress:
    - from: [{labels: {app: web}}]
      ports: [{protocol: TCP, port: 40000}]
  egress: []
";

/// How far a connection has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    /// Not at all.
    Open,
    /// The opener has said that it will send no more.
    HalfClosed,
    /// Both have.
    Closed,
    /// By a reset.
    Reset,
}

const ENDINGS: [Ending; 4] = [
    Ending::Open,
    Ending::HalfClosed,
    Ending::Closed,
    Ending::Reset,
];

/// A connection that has come so far. Returns the sockets that are still there, and the port of
/// the opener.
fn connection(
    opener: &Party,
    listener: &TcpListener,
    ending: Ending,
) -> Result<(Vec<TcpStream>, u16)> {
    let at = listener.local_addr()?;
    let mut one = opener.place.enter(|| TcpStream::connect(at))??;
    let port = one.local_addr()?.port();
    let (mut peer, _) = listener.accept()?;
    for socket in [&one, &peer] {
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    }
    // Both ways, so that it is established at each end.
    one.write_all(b"?")?;
    peer.read_exact(&mut [0])?;
    peer.write_all(b"?")?;
    one.read_exact(&mut [0])?;
    match ending {
        Ending::Open => {}
        Ending::HalfClosed => {
            one.shutdown(Shutdown::Write)?;
            assert_eq!(peer.read(&mut [0])?, 0);
        }
        Ending::Closed => {
            one.shutdown(Shutdown::Write)?;
            assert_eq!(peer.read(&mut [0])?, 0);
            peer.shutdown(Shutdown::Write)?;
            assert_eq!(one.read(&mut [0])?, 0);
            return Ok((Vec::new(), port));
        }
        Ending::Reset => {
            // What was sent and is never read makes a reset of the end.
            peer.write_all(b"!")?;
            one.peek(&mut [0])?;
            drop(one);
            let error = peer.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(error, Err(std::io::ErrorKind::ConnectionReset));
            return Ok((Vec::new(), port));
        }
    }
    Ok((vec![one, peer], port))
}

#[test]
fn a_connection_that_has_ended_is_forgotten_soon_and_one_that_has_not_is_kept() -> Result<()> {
    let scene = Scene::new(WEB_TO_HIGH)?;
    let (web, api) = (&scene.shop.web, &scene.shop.api);
    // Below those that ports alone tell for a client's.
    let range = [("ipv4/ip_local_port_range", "20000 21000")];
    scene.shop.front.namespace.sysctl(&range)?;
    let back = scene.enforce(&scene.shop.back)?;
    let mut connections = Vec::new();
    let mut listeners = Vec::new();
    for v6 in [false, true] {
        let at = (api.ip(v6), 40_000);
        listeners.push(api.place.enter(|| TcpListener::bind(at))??);
        for ending in ENDINGS {
            let (sockets, port) = connection(web, &listeners[usize::from(v6)], ending)
                .with_context(|| format!("v6: {v6}, {ending:?}"))?;
            connections.push((v6, ending, port, sockets));
        }
    }
    let hop = scene.shop.api_hop()?;
    // Who has closed its socket answers by a reset: until it is over, nobody says anything.
    let closed = State::Closed.timeout(Protocol::TCP);
    std::thread::sleep(Duration::from_secs(u64::from(closed) + 2));
    // `api` sends something more on each, as if it had not heard of the end.
    let mark = b"-the mark of this test-";
    let ack = TcpFlags {
        ack: true,
        sequence: 7,
        acknowledgement: 7,
        ..TcpFlags::default()
    };
    let frames: Vec<_> = (0_u8..)
        .zip(&connections)
        .map(|(number, (v6, _, port, _))| {
            let (from, to) = ((api.ip(*v6), 40_000), (web.ip(*v6), *port));
            hop.tcp(from, to, ack, &[&mark[..], &[number]].concat())
        })
        .collect();
    let sniffer = web.place.sniff(UPLINK, mark)?;
    api.place.send_frames("eth0", &frames)?;
    for (v6, ending, port, _) in &connections {
        if matches!(ending, Ending::Closed | Ending::Reset) {
            let reason = scene.denied_reason(&back, api.ip(*v6), web.ip(*v6), *port)?;
            assert_eq!(reason, "isolation", "v6: {v6}, {ending:?}");
        }
    }
    let seen = sniffer.stop()?;
    let numbers = seen.iter().filter_map(|frame| {
        let at = frame.windows(mark.len()).position(|text| text == mark)?;
        frame.get(at + mark.len())
    });
    let arrived: BTreeSet<_> = numbers
        .map(|number| {
            let (v6, ending, ..) = &connections[usize::from(*number)];
            (*v6, *ending)
        })
        .collect();
    let living = [Ending::Open, Ending::HalfClosed];
    let both = living.iter().flat_map(|e| [(false, *e), (true, *e)]);
    assert_eq!(arrived, both.collect());
    Ok(())
}
