//! Frames of every kind straight into the kernel programs: made by hand, cut at every byte, and
//! mutated at random.
//!
//! `ENFORCER_FRAMES` sets the number of random frames. Without it a slow machine tries fewer.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, Result};
use enforcer::{
    compile::Numbers,
    datapath::{clock::WallClock, desired::DesiredEndpoint},
};
use enforcer_common::{
    Action,
    Direction::{self, Egress, Ingress},
    Protocol, Reason,
    flow_key::icmp_port,
};
use tests::{
    frames::{corpus, frame, infrastructure, least, payloads, sides, tagged},
    mutate::Mutator,
    packet::{icmp, ip, udp},
    test_run::{Bed, Budget, Hook, Loaded, endpoint, image_of},
};

/// The link of the workload that may do nothing.
const CLOSED: usize = 0;
/// The link of the workload that may do anything.
const OPEN: usize = 1;
/// The link of the workload that declares a network, of which policy names one address.
const OWNER: usize = 2;

const POLICY: &str = "
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: closed, namespace: bed, labels: {app: closed}}
spec: {interface: w0}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: open, namespace: bed, labels: {app: open}}
spec: {interface: w1}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: owner, namespace: bed, labels: {app: owner}}
spec: {interface: w2, addresses: [10.7.0.0/24]}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: one, namespace: bed}
spec:
  selector: {matchLabels: {app: owner}}
  ingress:
  - {name: one, from: [{cidr: 10.7.0.5/32}]}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: nothing, namespace: bed}
spec:
  selector: {matchLabels: {app: closed}}
  egress: []
  ingress: []
---
apiVersion: enforcer.dev/v1alpha1
kind: Node
metadata: {name: bed}
spec: {mode: enforce}
";

fn put(loaded: &mut Loaded<'_>, links: &[u32]) -> Result<()> {
    let image = image_of(POLICY, &mut Numbers::default())?;
    // Addresses are used by both of the others, which declare none.
    let endpoint = |link: usize, name: &str| endpoint(&image, links, link, name);
    let owner = DesiredEndpoint {
        strict_source: true,
        addresses: vec!["10.7.0.0/24".parse()?],
        ..endpoint(OWNER, "owner")?
    };
    let endpoints = vec![endpoint(CLOSED, "closed")?, endpoint(OPEN, "open")?, owner];
    loaded.apply(image, endpoints, Vec::new(), WallClock::default())?;
    loaded.set_adopting(false)
}

/// Packets denied so far, by reason.
fn denied(loaded: &Loaded<'_>) -> Result<BTreeMap<Reason, u64>> {
    let mut counts = BTreeMap::new();
    for (reason, action, _, counter) in loaded.datapath.verdict_counters()? {
        if action == Action::Deny {
            *counts.entry(reason).or_default() += counter.packets;
        }
    }
    Ok(counts)
}

/// What became of a frame: `None` if it passed, else the reason that was counted. Fails if it
/// was not counted exactly once.
fn fate(
    loaded: &mut Loaded<'_>,
    way: Direction,
    link: usize,
    frame: &[u8],
) -> Result<Option<Reason>> {
    let before = denied(loaded)?;
    let passes = loaded.passes(Hook::Workload(way), link, frame)?;
    let mut counted: Vec<Reason> = Vec::new();
    for (reason, count) in denied(loaded)? {
        let times = count - before.get(&reason).copied().unwrap_or(0);
        counted.extend((0..times).map(|_| reason));
    }
    match (passes, counted.as_slice()) {
        (true, []) => Ok(None),
        (false, [reason]) => Ok(Some(*reason)),
        _ => anyhow::bail!("passes: {passes}, counted: {counted:?}: {frame:02x?}"),
    }
}

/// All in one, because loading the programs takes longer than everything else.
#[test]
fn every_frame_meets_its_fate() -> Result<()> {
    let bed = Bed::new()?;
    let links = bed.links.clone();
    bed.enter(|loaded| {
        put(loaded, &links)?;
        a_frame_cut_anywhere_is_truncated(loaded)?;
        frames_made_by_hand(loaded)?;
        only_infrastructure_passes_isolation(loaded)?;
        errors_belong_to_the_flow_that_they_quote(loaded)?;
        sources_are_the_workloads_own(loaded)?;
        random_frames(loaded)
    })?
}

fn a_frame_cut_anywhere_is_truncated(loaded: &mut Loaded<'_>) -> Result<()> {
    for v6 in [false, true] {
        for way in [Egress, Ingress] {
            for (protocol, payload) in payloads(v6) {
                let whole = frame(v6, way, protocol, &payload);
                assert_eq!(fate(loaded, way, OPEN, &whole)?, None, "{whole:02x?}");
                for length in least(&whole)..whole.len() {
                    let cut = &whole[..length];
                    let fate = fate(loaded, way, OPEN, cut)?;
                    assert_eq!(fate, Some(Reason::Truncated), "{cut:02x?}");
                }
                let tagged = tagged(&[0x8100], &whole);
                for length in least(&tagged)..tagged.len() {
                    let cut = &tagged[..length];
                    let fate = fate(loaded, way, OPEN, cut)?;
                    assert_eq!(fate, Some(Reason::Truncated), "{cut:02x?}");
                }
                // The same with a length field that says so.
                for length in 0..payload.len() {
                    let cut = frame(v6, way, protocol, &payload[..length]);
                    let fate = fate(loaded, way, OPEN, &cut)?;
                    let echo6 = protocol == Protocol::ICMPV6 && length >= 6;
                    let wanted = (!echo6).then_some(Reason::Truncated);
                    assert_eq!(fate, wanted, "{protocol} of {length}");
                }
            }
        }
    }
    Ok(())
}

fn frames_made_by_hand(loaded: &mut Loaded<'_>) -> Result<()> {
    for (what, frame, wanted) in corpus() {
        assert_eq!(fate(loaded, Egress, OPEN, &frame)?, wanted, "{what}");
    }
    Ok(())
}

fn only_infrastructure_passes_isolation(loaded: &mut Loaded<'_>) -> Result<()> {
    for (what, way, frame, passes) in infrastructure()? {
        let fate = fate(loaded, way, CLOSED, &frame)?;
        assert_eq!(fate.is_none(), passes, "{what}: {fate:?}");
    }
    Ok(())
}

/// ICMP errors about a flow that is open get through to and from the workload; others do not.
fn errors_belong_to_the_flow_that_they_quote(loaded: &mut Loaded<'_>) -> Result<()> {
    for v6 in [false, true] {
        let (local, remote) = sides(v6);
        let router: IpAddr = if v6 {
            "fd00::77".parse()?
        } else {
            "10.0.0.77".parse()?
        };
        let (protocol, too_big) = if v6 {
            (58, icmp_port(2, 0))
        } else {
            (1, icmp_port(3, 4))
        };
        let call = udp(40_000, 53, b"question");
        let sent = ip(local, remote, 17, 64, &call);
        let quoted = &sent[14..];
        let error = |from, to, quoted: &[u8]| ip(from, to, protocol, 64, &icmp(too_big, 0, quoted));
        // The isolated one sends nothing: nothing is known of what is quoted.
        for length in 0..=quoted.len() {
            let frame = error(router, local, &quoted[..length]);
            let fate = fate(loaded, Ingress, CLOSED, &frame)?;
            assert_eq!(fate, Some(Reason::Isolation), "{length}");
        }
        assert_eq!(fate(loaded, Egress, OPEN, &sent)?, None);
        assert_eq!(
            fate(loaded, Ingress, OPEN, &error(router, local, quoted))?,
            None
        );
        let answer = ip(remote, local, 17, 64, &udp(53, 40_000, b"answer"));
        assert_eq!(fate(loaded, Ingress, OPEN, &answer)?, None);
        assert_eq!(
            fate(loaded, Egress, OPEN, &error(local, remote, &answer[14..]))?,
            None
        );
    }
    Ok(())
}

/// Who declares addresses uses those; whoever declares none uses nobody else's.
fn sources_are_the_workloads_own(loaded: &mut Loaded<'_>) -> Result<()> {
    let guarded = Some(Reason::SourceGuard);
    let to = IpAddr::from([10, 0, 0, 99]);
    let named = IpAddr::from([10, 7, 0, 5]);
    for (link, from, wanted) in [
        (OWNER, IpAddr::from([10, 7, 0, 1]), None),
        (OWNER, named, None),
        (OWNER, IpAddr::from([10, 8, 0, 1]), guarded),
        (OPEN, IpAddr::from([10, 8, 0, 1]), None),
        (OPEN, IpAddr::from([10, 7, 0, 1]), guarded),
        (OPEN, named, guarded),
    ] {
        let frame = ip(from, to, 17, 64, &udp(40_100, 53, b""));
        assert_eq!(fate(loaded, Egress, link, &frame)?, wanted, "{link} {from}");
    }
    // To quote an open flow is no leave to speak for others.
    let own = IpAddr::from([10, 8, 0, 1]);
    let quoted = ip(to, own, 17, 64, &udp(53, 40_100, b"answer"));
    for (from, wanted) in [(own, None), (named, guarded)] {
        let error = icmp(icmp_port(3, 4), 0, &quoted[14..]);
        let frame = ip(from, to, 1, 64, &error);
        assert_eq!(fate(loaded, Egress, OPEN, &frame)?, wanted, "{from}");
    }
    Ok(())
}

/// Whether a frame may pass the isolated workload, judged by as little of it as can be.
fn may_pass(way: Direction, frame: &[u8]) -> bool {
    let mut at = 12;
    let kind = |at: usize| {
        frame
            .get(at..at + 2)
            .map(|b| u16::from_be_bytes([b[0], b[1]]))
    };
    for _ in 0..2 {
        if matches!(kind(at), Some(0x8100 | 0x88a8)) {
            at += 4;
        }
    }
    let packet = &frame[(at + 2).min(frame.len())..];
    match kind(at) {
        Some(0x0800) => {
            let header = usize::from(packet[0] & 0xf) * 4;
            packet[9] == 17 && is_dhcp(way, &packet[header..], 68, 67)
        }
        Some(0x86dd) => {
            let hops = packet[7];
            // Somewhere behind the header there is such a message.
            let has =
                |wanted: &dyn Fn(&[u8]) -> bool| (40..packet.len()).any(|n| wanted(&packet[n..]));
            has(&|rest| is_dhcp(way, rest, 546, 547))
                || hops == 255 && has(&|rest| (133..=137).contains(&rest[0]))
                || hops == 1 && has(&|rest| [130, 131, 132, 143].contains(&rest[0]))
        }
        _ => true,
    }
}

fn is_dhcp(way: Direction, rest: &[u8], client: u16, server: u16) -> bool {
    let (from, to) = match way {
        Egress => (client, server),
        Ingress => (server, client),
    };
    rest.starts_with(&[from.to_be_bytes(), to.to_be_bytes()].concat())
}

/// Whatever comes: no program fails, what passes the isolated workload is infrastructure, and
/// the counters know of every frame that was dropped.
fn random_frames(loaded: &mut Loaded<'_>) -> Result<()> {
    let exactly: Option<u64> = match std::env::var("ENFORCER_FRAMES") {
        Ok(text) => Some(text.parse()?),
        Err(_) => None,
    };
    let mut seeds: Vec<Vec<u8>> = corpus().into_iter().map(|(_, frame, _)| frame).collect();
    seeds.extend(infrastructure()?.into_iter().map(|(_, _, frame, _)| frame));
    for v6 in [false, true] {
        for (protocol, payload) in payloads(v6) {
            seeds.push(frame(v6, Egress, protocol, &payload));
        }
    }
    let mut mutator = Mutator::new();
    let sum = |loaded: &Loaded<'_>| -> Result<u64> { Ok(denied(loaded)?.values().sum()) };
    let before = sum(loaded)?;
    let (mut tried, mut dropped, mut through) = (0_u64, 0, 0);
    let budget = Budget::new(exactly.is_some());
    while tried < exactly.unwrap_or(60_000) && (tried < 2_000 || !budget.is_spent()) {
        tried += 1;
        let seed = mutator.below(seeds.len());
        let frame = mutator.mutate(&seeds[seed]);
        let hook = Hook::ALL[mutator.below(Hook::ALL.len())];
        let link = mutator.below(2);
        let passes = loaded
            .passes(hook, link, &frame)
            .with_context(|| format!("{hook:?} {frame:02x?}"))?;
        dropped += u64::from(!passes);
        if let (Hook::Workload(way), CLOSED, true) = (hook, link, passes) {
            through += 1;
            assert!(may_pass(way, &frame), "{way:?} {frame:02x?}");
        }
    }
    assert_eq!(sum(loaded)? - before, dropped);
    assert!(dropped > tried / 10 && through > tried / 1000);
    Ok(())
}
